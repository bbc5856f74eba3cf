"""``python -m vision export RUN FILE``: a trained model as one file that needs only ``jax`` and ``flatbuffers``.

The file is a serialised `jax.export.Exported`: StableHLO with the variables inside, for CPUs, CUDA and TPUs, and any
number of images. To use it:

    import jax, numpy as np
    model = jax.export.deserialize(open("detector.stablehlo", "rb").read())
    images = np.zeros((1, 320, 320, 3), np.uint8)      # RGB, of the size that was printed when it was written
    found = jax.device_get(model.call(images))         # a dictionary of arrays, the images along the first axis

Next to it, detector.stablehlo.json has the names of the classes and how images of any size become the input:

    {"class_names": ["cat", "dog"], "image": {"dtype": "uint8", "height": 320, ...}, "preprocessing": {...}}
"""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from vision.atomic import write_atomically
from vision.inference import Inference

PLATFORMS = ("cpu", "cuda", "tpu")


def write_export(path: Path, inference: Inference, class_names: Sequence[str] = ()) -> str:
    """Write the function of images uint8 [b, height, width, channels] and return a line about what was written.

    Args:
      path: the file; replaced where there is one. The description goes into a file next to it, with ".json" appended.
      inference: what the experiment does with images; a pure function, whose variables are constants inside it.
      class_names: element i is the name of class i; empty where there are no classes.
    """
    (count,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((count, *inference.image), jnp.uint8)
    exported = jax.export.export(jax.jit(lambda images: dict(inference.function(images))), platforms=PLATFORMS)(shape)
    data = exported.serialize()
    path.parent.mkdir(parents=True, exist_ok=True)
    description = json.dumps(inference.description(class_names), ensure_ascii=False, indent=1)
    write_atomically(path.with_name(f"{path.name}.json"), f"{description}\n".encode())
    write_atomically(path, bytes(data))
    names = exported.out_tree.unflatten(exported.out_avals)
    outputs = ", ".join(f"{name} {aval.dtype.name} [{', '.join(map(str, aval.shape))}]" for name, aval in names.items())
    sizes = ", ".join(map(str, inference.image))
    return f"{path}: {len(data) / 1e6:.1f} MB, images uint8 [b, {sizes}] -> {outputs}"
