"""The names of published YOLOv5 detectors, from the sixth version on: numbers of layers, below ``model.``.

These weights expect images in [0, 1] (``YoloConfig.pixels``). Their anchors are a buffer next to the weights, in units
of the stride; here they belong to the configuration, and a head that comes from a file needs those of the file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.models.yolo import STRIDES, YoloConfig
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.rules import CONV, Rule, batch_norm_rules, conv_rules, dense_rules, to_published
from vision.pretrained.state_dict import StateDict

IGNORED = (r"num_batches_tracked$",)
"""Entries of published state dicts without counterpart: the number of batches that PyTorch has seen."""
HEAD = (r"^params/detect_\d/",)
"""The paths to replace for other classes."""
ANCHORS = "model.24.anchors"
"""Width and height of the anchors of each level in units of its stride, [3 a 2]."""

_FIRST = "model.0.conv.weight"
_CONVOLUTIONS = {
    0: "backbone/stem",
    1: "backbone/down_1",
    3: "backbone/down_2",
    5: "backbone/down_3",
    7: "backbone/down_4",
    10: "neck/lateral_5",
    14: "neck/lateral_4",
    18: "neck/down_4",
    21: "neck/down_5",
}
_BLOCKS = {
    2: "backbone/csp_1",
    4: "backbone/csp_2",
    6: "backbone/csp_3",
    8: "backbone/csp_4",
    13: "neck/fuse_up_4",
    17: "neck/fuse_up_3",
    20: "neck/fuse_down_4_and_4",
    23: "neck/fuse_down_5_and_5",
}
_PARTS = {
    "cv1": "through",
    "cv2": "past",
    "cv3": "mix",
    "m.{block}.cv1": "block_{block}/reduce",
    "m.{block}.cv2": "block_{block}/conv_3x3",
}


def yolo_rules() -> tuple[Rule, ...]:
    """The published names, the same for all sizes; of ``ANCHORS`` there is no variable."""
    names = {f"model.{layer}": ours for layer, ours in _CONVOLUTIONS.items()}
    for layer, ours in _BLOCKS.items():
        names |= {f"model.{layer}.{theirs}": f"{ours}/{part}" for theirs, part in _PARTS.items()}
    names |= {"model.9.cv1": "backbone/pool/reduce", "model.9.cv2": "backbone/pool/mix"}
    units = [
        rule
        for theirs, ours in names.items()
        for rule in (
            *conv_rules(f"{theirs}.conv", f"{ours}/conv"),
            *batch_norm_rules(f"{theirs}.bn", f"{ours}/norm"),
        )
    ]
    heads = [rule for level in range(3) for rule in dense_rules(f"model.24.m.{level}", f"detect_{level + 3}", CONV)]
    return (*units, *heads)


def yolo_weights(config: YoloConfig) -> Adapt:
    """For files with published names: compares what is no variable of the network.

    The result raises ``UserError`` where ``config`` gives the network other pixels than these weights expect, or where
    the head comes from the file and has other anchors.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        if _FIRST not in tensors:
            return Adapted(tensors)
        if config.pixels != "unit":
            raise UserError(
                f"published weights of YOLOv5 expect images in [0, 1], and model.pixels is {config.pixels}: set "
                "--model.pixels unit"
            )
        anchors = tensors.get(ANCHORS)
        rest = {name: array for name, array in tensors.items() if name != ANCHORS}
        if anchors is None or _same_anchors(anchors, config):
            return Adapted(rest)
        head = tensors.get("model.24.m.0.weight", np.zeros(1))
        if len(head) == variables["params"]["detect_3"]["kernel"].shape[-1]:
            raise UserError(f"the head of these weights is for other anchors than model.anchors: {_option(anchors)}")
        return Adapted(rest, notes=("of the file's other anchors none is used, since the head is new",))

    return adapt


def yolo_state_dict(variables: Any, config: YoloConfig) -> StateDict:
    """A detector under the published names, with its anchors.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays, of a `Yolo` of ``config``.
      config: its configuration.

    Raises:
      UserError: if the network takes other pixels than the published ones, or has a different backbone.
    """
    if config.pixels != "unit":
        raise UserError(
            f"under published names a detector takes images in [0, 1], and this one was trained with model.pixels "
            f"{config.pixels}: train with --model.pixels unit, or write another format"
        )
    strides = np.array(STRIDES, np.float32)[:, None, None]
    return {**to_published(variables, rules=yolo_rules()), ANCHORS: config.anchor_levels / strides}


def _same_anchors(anchors: np.ndarray, config: YoloConfig) -> bool:
    pixels = _pixels(anchors)
    # published files may hold them in half precision
    return pixels.shape == config.anchor_levels.shape and np.allclose(pixels, config.anchor_levels, rtol=2e-3)


def _pixels(anchors: np.ndarray) -> np.ndarray:
    """Anchors in pixels, of those in units of the stride."""
    if anchors.ndim != 3 or len(anchors) != len(STRIDES) or anchors.shape[-1] != 2:
        raise UserError(f"{ANCHORS} has the shape {anchors.shape}, where [{len(STRIDES)}, anchors, 2] is expected")
    return anchors.astype(np.float32) * np.array(STRIDES, np.float32)[:, None, None]


def _option(anchors: np.ndarray) -> str:
    return f"set --model.anchors {' '.join(f'{side:g}' for side in _pixels(anchors).reshape(-1))}"
