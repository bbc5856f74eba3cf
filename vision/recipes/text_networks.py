"""The networks of text-to-image models by name: the decoder, the upsamplers, and small relatives for ``--quick``."""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from vision.models.unet import UNCLIP_64, UNCLIP_256, UNCLIP_1024, UNetConfig

TEXT_UNET = UNetConfig(
    multipliers=(1, 2, 3, 4),
    attention=(32, 16, 8),
    dropout=0.0,
    head_channels=64,
    conditioning="scale_shift",
    resampling="residual",
)
"""A decoder of 64x64 pixels for one accelerator."""
UPSAMPLING_UNET = replace(TEXT_UNET, multipliers=(1, 2, 4), attention=(), mid_attention="none")
"""An upsampler without attention, for images of any size."""
TEXT_NETWORKS: Mapping[str, UNetConfig] = {"unet": TEXT_UNET, "unclip_64": UNCLIP_64}
"""Networks by name, for the command line (``--model NAME``)."""
UPSAMPLERS: Mapping[str, UNetConfig] = {
    "unet": UPSAMPLING_UNET,
    "unclip_256": UNCLIP_256,
    "unclip_1024": UNCLIP_1024,
}
"""Those of upsamplers, from 64 to 256 and from 256 to 1024 pixels in the paper."""

SMALL_TEXT_UNET = UNetConfig(
    width=64,
    multipliers=(1, 2),
    blocks=2,
    attention=(8,),
    heads=4,
    dropout=0.0,
    conditioning="scale_shift",
    patch=4,
)
"""What ``--quick`` trains at 32x32 pixels."""
SMALL_UPSAMPLER = replace(SMALL_TEXT_UNET, blocks=1, attention=(), mid_attention="none")
"""The same for upsamplers."""


def text_network_by_name(default: UNetConfig) -> Any:
    """The field ``model`` of a text-to-image recipe: ``--model NAME``, then ``--model.FIELD``."""
    return _by_name(default, TEXT_NETWORKS, SMALL_TEXT_UNET)


def upsampler_by_name(default: UNetConfig) -> Any:
    """The field ``model`` of an upsampler's recipe."""
    return _by_name(default, UPSAMPLERS, SMALL_UPSAMPLER)


def _by_name(default: UNetConfig, networks: Mapping[str, UNetConfig], small: UNetConfig) -> Any:
    own = {"channels": default.channels, "dtype": default.dtype, "remat": default.remat}
    table = {name: replace(config, **own) for name, config in networks.items()}
    # latents, of other channels than 3, are cut into smaller patches
    quick = replace(small, **own, patch=small.patch if default.channels == 3 else 2)
    return field(default=default, metadata={"choices": table, "quick_choices": dict.fromkeys(networks, quick)})
