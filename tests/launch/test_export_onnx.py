"""Files for ONNX's runtimes find what the model finds. The converter is no dependency: most of this needs it."""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.inference import Candidates, Inference
from vision.launch.export_onnx import write_onnx
from vision.models.resnet import ResNet, ResNetConfig
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.feature_pyramid import PyramidConfig
from vision.models.segmentation.segmenter import Segmenter
from vision.models.segmentation.unet_decoder import UNetDecoderConfig
from vision.models.yolo import Yolo, YoloConfig
from vision.nn.csp import NORM_EPSILON
from vision.nn.fusion import fold, folded_norm
from vision.ops.pixels import to_float
from vision.tasks.detection import DetectorConfig, candidates, detector
from vision.tasks.segmenter import SegmenterConfig, segmenter

MODEL = YoloConfig(classes=3, depth=0.33, width=0.125)
HOW = DetectorConfig(confidence=0.0005, iou=0.45, max_detections=100, candidates=2000)
LINE = Inference(function=lambda images: {"mean": to_float(images).mean((1, 2, 3))}, image=(4, 4, 3))


def test_a_missing_converter_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"needs the converter jax2onnx .*: pip install -e \"\.\[onnx\]\""):
        write_onnx(tmp_path / "model.onnx", LINE)
    assert not list(tmp_path.iterdir())


def test_suppression_across_classes_is_refused(tmp_path):
    among = Candidates(function=LINE.function, confidence=0.1, iou=0.5, max_detections=10, agnostic=True)
    with pytest.raises(UserError, match="ONNX suppresses boxes class by class"):
        write_onnx(tmp_path / "model.onnx", Inference(function=LINE.function, image=(4, 4, 3), candidates=among))


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("jax2onnx", reason='the converter is not installed: pip install -e ".[onnx]"')
    return pytest.importorskip("onnxruntime")


@pytest.mark.filterwarnings("ignore")
def test_any_function_of_images(runtime, tmp_path: Path):
    said = write_onnx(tmp_path / "sub" / "mean.onnx", LINE, ["cat", "ångström"])
    assert "images uint8 [b, 4, 4, 3] -> mean float32 [b]" in said
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    session = runtime.InferenceSession(tmp_path / "sub" / "mean.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["cat", "ångström"]
    assert json.loads(about["image"])["width"] == 4
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, LINE.function(jnp.asarray(images))["mean"], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_detector_finds_the_same_by_onnx(runtime, tmp_path: Path):
    """With the suppression of ONNX in place of ours, for any number of images."""
    made = Yolo(MODEL).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    # an untrained head gives all candidates nearly one score
    scale = {"kernel": 2e5, "bias": 0.5}
    made = jax.tree_util.tree_map_with_path(
        lambda path, x: x * scale[path[2].key] if "detect" in path[1].key else x, made
    )
    values = fold(made, epsilon=lambda path: NORM_EPSILON)
    network = Yolo(MODEL, norm=folded_norm)

    def unsuppressed(images):
        boxes, scores = candidates(network, MODEL, HOW)(values, to_float(images))
        return {"boxes": boxes, "scores": scores.swapaxes(1, 2)}

    among = Candidates(
        function=unsuppressed, confidence=HOW.confidence, iou=HOW.iou, max_detections=HOW.max_detections, agnostic=False
    )
    ours = jax.jit(lambda images: detector(network, MODEL, HOW)(values, to_float(images)))
    write_onnx(tmp_path / "d.onnx", Inference(function=lambda images: {}, image=(64, 64, 3), candidates=among))
    session = runtime.InferenceSession(tmp_path / "d.onnx")
    for count in (1, 3):
        images = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3)).astype(np.uint8)
        boxes, scores, selected = session.run(None, {"images": images})
        want = jax.device_get(ours(images))
        assert want.valid.sum() > 10 * count
        for index in range(count):
            mine = selected[selected[:, 0] == index]
            order = np.argsort(-scores[index, mine[:, 1], mine[:, 2]], kind="stable")[: HOW.max_detections]
            label, place = mine[order, 1], mine[order, 2]
            valid = want.valid[index]
            np.testing.assert_allclose(scores[index, label, place], want.scores[index][valid], rtol=1e-4)
            np.testing.assert_allclose(boxes[index, place], want.boxes[index][valid], atol=1e-3)
            np.testing.assert_array_equal(label, want.labels[index][valid])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "decoder",
    [
        DeepLabConfig(plus=True, width=8, fine_width=4, rates=(2, 4)),
        FcnConfig(),
        UNetDecoderConfig(width=8),
        PyramidConfig(width=8, branch_width=8),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_segmenter_finds_the_same_by_onnx(runtime, tmp_path: Path, decoder):
    """Every decoder, on sides that are no multiples of the strides, for any number of images."""
    backbone = partial(ResNet, ResNetConfig(depths=(1, 1, 1, 1), block="basic", width=8, output_stride=16, classes=0))
    model = Segmenter(backbone, decoder, classes=3, auxiliary=True)
    values = model.init(jax.random.key(0), jnp.zeros((1, 50, 37, 3)), train=False)
    segment = segmenter(model, SegmenterConfig())
    how = Inference(function=lambda images: {"probabilities": segment(values, to_float(images))}, image=(50, 37, 3))
    assert "probabilities float32 [b, 50, 37, 3]" in write_onnx(tmp_path / "s.onnx", how)
    session = runtime.InferenceSession(tmp_path / "s.onnx")
    for count in (1, 3):
        images = np.random.default_rng(count).integers(0, 256, (count, 50, 37, 3)).astype(np.uint8)
        (found,) = session.run(None, {"images": images})
        np.testing.assert_allclose(found, how.function(jnp.asarray(images))["probabilities"], atol=1e-4)
