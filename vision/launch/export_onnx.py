"""``python -m vision export RUN FILE.onnx``: a trained model for ONNX's runtimes, by the converter jax2onnx.

The converter is no dependency: ``pip install -e ".[onnx]"``. To use what it writes, without any of this code:

    import numpy as np, onnxruntime
    model = onnxruntime.InferenceSession("detector.onnx")
    images = np.zeros((1, 320, 320, 3), np.uint8)      # RGB, of the size that was printed when it was written
    boxes, scores, selected = model.run(None, {"images": images})
    for image, label, place in selected:
        print(image, label, scores[image, label, place], boxes[image, place])

The names of the classes and how images of any size become the input are in the model's metadata, as JSON:

    about = model.get_modelmeta().custom_metadata_map
    names, how = json.loads(about["class_names"]), json.loads(about["preprocessing"])

A model that suppresses boxes is written up to its candidates, with ONNX's own NonMaxSuppression behind them: the
runtimes have fast versions of that, and the converter has none for this project's.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from vision.atomic import write_atomically
from vision.errors import UserError
from vision.inference import Candidates, Inference
from vision.platform import composed


def write_onnx(path: Path, inference: Inference, class_names: Sequence[str] = ()) -> str:
    """Write the function of images uint8 [b, height, width, channels] and return a line about what was written.

    Args:
      path: the file; replaced where there is one.
      inference: what the experiment does with images. The outputs are named as its function names them; with
        ``candidates``, they are boxes float32 [b n 4], scores float32 [b k n], and selected int64 [m 3]: the numbers of
        the image, class and candidate of each detection, in each image and class the most confident first.
      class_names: element i is the name of class i; empty where there are no classes.

    Raises:
      UserError: jax2onnx is not installed, or boxes of different classes suppress each other, which ONNX lacks.
    """
    candidates = inference.candidates
    if candidates is not None and candidates.agnostic:
        raise UserError("ONNX suppresses boxes class by class: export without --detector.agnostic, or not to .onnx")
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f'{path} needs the converter jax2onnx ({error}): pip install -e ".[onnx]", or choose a name without .onnx'
        ) from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of every shape whose type it does not know
    function = inference.function if candidates is None else candidates.function
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *inference.image), jnp.uint8)
    named: Mapping[str, Any] = jax.eval_shape(function, images)
    names = sorted(named)
    with composed():
        model = to_onnx(
            lambda images: [function(images)[name] for name in names],
            [images],
            input_names=["images"],
            output_names=names,
            model_name=path.stem,
        )
    if candidates is not None:
        _suppress(onnx, model, candidates)
    about = inference.description(class_names)
    onnx.helper.set_model_props(model, {name: json.dumps(each, ensure_ascii=False) for name, each in about.items()})
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    outputs = [f"{name} {named[name].dtype.name} [{', '.join(map(str, named[name].shape))}]" for name in names]
    outputs += ["selected int64 [m, 3]"] if candidates is not None else []
    sizes = ", ".join(map(str, inference.image))
    return f"{path}: {len(data) / 1e6:.1f} MB, images uint8 [b, {sizes}] -> {', '.join(outputs)}"


def _suppress(onnx: Any, model: Any, candidates: Candidates) -> None:
    """Adds NonMaxSuppression (ONNX operator set 11) behind the outputs boxes and scores."""
    graph = model.graph
    constants = {"max": candidates.max_detections, "iou": candidates.iou, "confidence": candidates.confidence}
    for name, value in constants.items():
        kind = onnx.TensorProto.INT64 if name == "max" else onnx.TensorProto.FLOAT
        graph.initializer.append(onnx.helper.make_tensor(f"suppression_{name}", kind, [1], [value]))
    # It takes (y, x, y, x); with x and y exchanged in all boxes their overlaps are the same.
    inputs = ["boxes", "scores", *(f"suppression_{name}" for name in constants)]
    graph.node.append(onnx.helper.make_node("NonMaxSuppression", inputs, ["selected"], center_point_box=0))
    graph.output.append(onnx.helper.make_tensor_value_info("selected", onnx.TensorProto.INT64, ["m", 3]))
