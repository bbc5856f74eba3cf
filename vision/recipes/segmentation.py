"""The recipe of semantic segmentation: a backbone, a decoder, a loss, masks on the device, evaluation by pixels."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.feature_pyramid import PyramidConfig
from vision.models.segmentation.segmenter import DecoderConfig
from vision.models.segmentation.unet_decoder import UNetDecoderConfig

DECODERS: Mapping[str, DecoderConfig] = {
    "deeplab_v3": DeepLabConfig(),
    "deeplab_v3_plus": DeepLabConfig(plus=True),
    "fcn": FcnConfig(),
    "unet": UNetDecoderConfig(),
    "pyramid": PyramidConfig(),
}
"""Decoders by name, for the command line (``--decoder NAME``)."""


def decoder_by_name(default: DecoderConfig) -> Any:
    """The field ``decoder`` of a recipe: ``--decoder NAME``, then ``--decoder.FIELD``."""
    return field(default=default, metadata={"choices": DECODERS, "quick_choices": DECODERS})
