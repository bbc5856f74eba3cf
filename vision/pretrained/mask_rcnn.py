"""The names of published region-based detectors: torchvision's Faster and Mask R-CNN on a pyramid of a ResNet.

    model = MaskRcnn(MaskRcnnConfig(classes=90, norm_epsilon=0.0))
    tensors = read_state_dict("maskrcnn_resnet50_fpn_coco.pth")
    variables, left = from_published(tensors, target, rules=mask_rcnn_rules(model.config), ignored=IGNORED)

and back: ``to_published(variables, rules=mask_rcnn_rules(config))`` has the names of torchvision from version 0.13 on,
which its ``load_state_dict(..., strict=True)`` takes; the published files have older ones, which are read too. For
other classes, ``replaced=HEADS`` and a ``target`` of arrays. The networks expect images normalised by the mean and
deviation of ImageNet (``MaskRcnnConfig.pixels``), with the mean in the padding.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.models.instances.mask_rcnn import STRIDES, MaskRcnnConfig
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.backbone import backbone_rules
from vision.pretrained.resnet import resnet_rules
from vision.pretrained.rules import CONV, Layout, Rule, WeightRules, dense_rules
from vision.pretrained.state_dict import StateDict

IGNORED = (r"num_batches_tracked$",)
"""Entries of published state dicts without counterpart: the number of batches that PyTorch has seen."""
HEADS = (r"^params/box_head/(classes|offsets)/", r"^params/mask_head/logits/")
"""The paths to replace for other classes."""

COCO_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""COCO's numbers of its 80 categories; published detectors have an output for each number up to 90."""
_OF_CLASSES = re.compile(r"roi_heads\.(box_predictor\.(cls_score|bbox_pred)|mask_predictor\.mask_fcn_logits)\.")

_DOUBLED = Layout(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
"""Kernels of transposed convolutions of 2x2: [in, out, h, w] published, [h, w, in, out] here."""


def mask_rcnn_rules(config: MaskRcnnConfig) -> tuple[Rule, ...]:
    """The names of a whole detector; where a layer has an old and a new one, the new one comes first."""
    pyramid = [
        rule
        for level in range(len(STRIDES))
        for theirs, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output"))
        for name in (f"{level}.0", f"{level}")
        for rule in dense_rules(f"backbone.fpn.{theirs}.{name}", f"pyramid/{ours}_{level}", CONV)
    ]
    masks = [
        rule
        for k in range(config.mask_depth)
        for name in (f"{k}.0", f"mask_fcn{k + 1}")
        for rule in dense_rules(f"roi_heads.mask_head.{name}", f"mask_head/conv_{k}", CONV)
    ]
    return (
        *(_within(rule) for rule in mask_rcnn_backbone_rules(config)),
        *pyramid,
        *dense_rules("rpn.head.conv.0.0", "proposals/conv", CONV),
        *dense_rules("rpn.head.conv", "proposals/conv", CONV),
        *dense_rules("rpn.head.cls_logits", "proposals/objectness", CONV),
        *dense_rules("rpn.head.bbox_pred", "proposals/offsets", CONV),
        *dense_rules("roi_heads.box_head.fc6", "box_head/dense_0", _flattened(config.channels)),
        *dense_rules("roi_heads.box_head.fc7", "box_head/dense_1"),
        *dense_rules("roi_heads.box_predictor.cls_score", "box_head/classes"),
        *dense_rules("roi_heads.box_predictor.bbox_pred", "box_head/offsets"),
        *masks,
        *dense_rules("roi_heads.mask_predictor.conv5_mask", "mask_head/double", _DOUBLED),
        *dense_rules("roi_heads.mask_predictor.mask_fcn_logits", "mask_head/logits", CONV),
    )


def mask_rcnn_backbone_rules(config: MaskRcnnConfig) -> WeightRules:
    """The names of a classifier's weights for the backbone alone, whose normalisations may be fixed.

    With ``backbone_weights(resnet_rules(config.backbone), config.pixels)`` (``pretrained/backbone.py``) a new detector
    starts from a classifier.
    """
    rules = backbone_rules(resnet_rules(config.backbone))
    if config.norm == "batch":
        return rules
    fixed = lambda path: re.sub(r"^params/(.*norm\w*/(scale|bias))$", r"batch_stats/\1", path)
    return tuple(Rule(rule.published, fixed(rule.ours), rule.layout) for rule in rules)


def mask_rcnn_weights(config: MaskRcnnConfig) -> Adapt:
    """For files with published names.

    A network of COCO's 80 classes takes their outputs from the 91 of a published file. The result raises ``UserError``
    where ``config`` gives the network other pixels than these weights expect.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        del variables
        if any(name.startswith("roi_heads.") for name in tensors) and config.pixels != "imagenet":
            raise UserError(
                "published weights of Mask R-CNN expect images normalised by the mean and deviation of ImageNet, and "
                f"model.pixels is {config.pixels}: set --model.pixels imagenet"
            )
        classes = len(tensors.get("roi_heads.box_predictor.cls_score.bias", ()))
        if classes == COCO_IDS[-1] + 1 and config.classes == len(COCO_IDS):
            rows = np.array([0, *COCO_IDS])
            taken = {name: _rows(x, rows, classes) if _OF_CLASSES.match(name) else x for name, x in tensors.items()}
            return Adapted(taken, notes=("of their 91 outputs those of COCO's 80 categories are taken",))
        return Adapted(tensors)

    return adapt


def _rows(x: np.ndarray, rows: np.ndarray, classes: int) -> np.ndarray:
    """The outputs of some classes, of an array that begins with equally many for each."""
    return x.reshape(classes, -1, *x.shape[1:])[rows].reshape(-1, *x.shape[1:])


def _within(rule: Rule) -> Rule:
    """A rule of a classifier, whose layers the detector has below ``backbone.body``."""
    return Rule(f"backbone.body.{rule.published}", rule.ours, rule.layout)


def _flattened(channels: int) -> Layout:
    """Kernels of a linear layer after features: [out, channels h w] published, [h w channels, out] here."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), channels, -1).transpose(2, 1, 0).reshape(-1, len(x))

    def to_published(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, channels, x.shape[-1]).transpose(2, 1, 0).reshape(x.shape[-1], -1)

    return Layout(to_ours, to_published)
