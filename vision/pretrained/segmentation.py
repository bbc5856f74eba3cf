"""The names of published segmentation networks: torchvision's FCN and DeepLabV3 on a ResNet.

A file holds the backbone below ``backbone.``, the decoder as ``classifier``, and mostly an auxiliary head. All expect
images normalised by the mean and deviation of ImageNet. A classifier's file fills the backbone of any network
(``vision/pretrained/backbone.py``):

    chosen = classifier_backbone(config.backbone, pixels="imagenet", dtype="float32")
    WeightsSource(
        published=(*segmentation_rules(chosen.published, decoder), *chosen.published),
        ignored=chosen.ignored,
        replaced=HEAD,
        adapt=segmentation_weights(chosen.adapt, pixels="imagenet"),
    )
"""

import re
from collections.abc import Mapping
from typing import Any

from vision.errors import UserError
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.segmenter import DecoderConfig
from vision.ops.pixels import PixelScale
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.backbone import OUTSIDE
from vision.pretrained.rules import CONV, Rule, WeightRules, batch_norm_rules, conv_rules, dense_rules
from vision.pretrained.state_dict import StateDict

HEAD = (r"^params/(decoder|auxiliary)/logits/",)
"""The paths to replace for other classes."""

_DECODER = re.compile(r"classifier\.|\w+/decoder/")
_AUXILIARY = re.compile(r"aux_classifier\.|\w+/auxiliary/")
_PUBLISHED = re.compile(r"backbone\.|classifier\.\d|aux_classifier\.")


def segmentation_rules(backbone: WeightRules, decoder: DecoderConfig) -> tuple[Rule, ...]:
    """The names of torchvision, with those of an auxiliary head, which are of no effect for a network without one.

    Args:
      backbone: how the classifier's published weights are named, for variables below ``backbone/`` (``Backbone``).
      decoder: of the network. There are no published weights of decoders but FCN and DeepLabV3 without separable
        convolutions; for others there are no rules.
    """
    match decoder:
        case FcnConfig():
            head = _fcn_rules("classifier", "decoder")
        case DeepLabConfig(plus=False, separable=False):
            head = _deeplab_rules(decoder)
        case _:
            return ()
    body = (Rule(f"backbone.{rule.published}", rule.ours, rule.layout) for rule in backbone)
    return (*body, *head, *_fcn_rules("aux_classifier", "auxiliary"))


def segmentation_weights(classifier: Adapt, *, pixels: PixelScale) -> Adapt:
    """For files of whole networks, and those of a classifier, which fill the backbone alone.

    Args:
      classifier: what is done with a classifier's arrays (``Backbone``).
      pixels: how the network takes images.

    An auxiliary head is left out where the network has none, and stays random where the file has none. The result
    raises ``UserError`` where ``pixels`` are not those of published weights.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        whole = any(re.match(r"backbone\.|\w+/(backbone|decoder)/", name) for name in tensors)
        if not whole:
            return classifier(tensors, variables)
        if pixels != "imagenet" and any(_PUBLISHED.match(name) for name in tensors):
            raise UserError(
                "published weights of segmentation networks expect images normalised by the mean and deviation of "
                f"ImageNet, and model.pixels is {pixels}: set --model.pixels imagenet"
            )
        if not any(_DECODER.match(name) for name in tensors):
            return Adapted(tensors, notes=("they are those of a backbone",), replaced=OUTSIDE)
        given = any(_AUXILIARY.match(name) for name in tensors)
        wanted = "auxiliary" in variables["params"]
        if given and not wanted:
            kept = {name: array for name, array in tensors.items() if not _AUXILIARY.match(name)}
            return Adapted(kept, notes=("their auxiliary head is left out",))
        return Adapted(tensors, replaced=(r"^\w+/auxiliary/",) if wanted and not given else ())

    return adapt


def _fcn_rules(published: str, ours: str) -> tuple[Rule, ...]:
    return (*_unit_rules(published, 0, f"{ours}/mix"), *_logits_rules(f"{published}.4", ours))


def _deeplab_rules(decoder: DeepLabConfig) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for branch in range(len(decoder.rates) + 1):
        rules += _unit_rules(f"classifier.0.convs.{branch}", 0, f"decoder/pyramid/branch_{branch}")
    # the mean is the first of that list
    rules += _unit_rules(f"classifier.0.convs.{len(decoder.rates) + 1}", 1, "decoder/pyramid/pool")
    rules += _unit_rules("classifier.0.project", 0, "decoder/pyramid/project")
    return (*rules, *_unit_rules("classifier", 1, "decoder/mix"), *_logits_rules("classifier.4", "decoder"))


def _unit_rules(published: str, number: int, ours: str) -> tuple[Rule, ...]:
    """A convolution and its normalisation, one after the other in a list."""
    return (
        *conv_rules(f"{published}.{number}", f"{ours}/conv"),
        *batch_norm_rules(f"{published}.{number + 1}", f"{ours}/norm"),
    )


def _logits_rules(published: str, decoder: str) -> tuple[Rule, ...]:
    return dense_rules(published, f"{decoder}/logits", CONV)
