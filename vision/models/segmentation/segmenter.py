"""Semantic segmentation: a backbone, a decoder, and logits of every pixel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.models.segmentation.deeplab import DeepLab, DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig, FcnHead
from vision.models.segmentation.feature_pyramid import PyramidConfig, PyramidDecoder
from vision.models.segmentation.levels import last_level, level, size_of
from vision.models.segmentation.unet_decoder import UNetDecoder, UNetDecoderConfig
from vision.nn.batch_norm import batch_norm
from vision.nn.conv_norm_act import Norm
from vision.nn.resample_bilinear import upsample_bilinear_to

DecoderConfig = FcnConfig | DeepLabConfig | UNetDecoderConfig | PyramidConfig
"""Configurations of decoders."""

# Shoeybi et al. 2019: of two layers, split the outputs of the first and the inputs of the second. The branches of
# DeepLab, which have most of its parameters, are split by their outputs, which are gathered where they are projected.
# The two layers of a feature pyramid are the last convolution of a level and the first of its branch; the laterals,
# whose results all levels share, and the rest of the branches, with fewer channels, are whole. Backbones have rules of
# their own.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"(decoder|auxiliary)/mix/conv/kernel$", P(None, None, None, "tensor")),
    (r"(decoder|auxiliary)/mix/norm/(scale|bias|mean|var)$", P("tensor")),
    (r"decoder/pyramid/branch_\d+/conv/kernel$", P(None, None, None, "tensor")),
    (r"decoder/pyramid/branch_\d+/norm/(scale|bias|mean|var)$", P("tensor")),
    (r"decoder/step_\d+/conv_1/conv/kernel$", P(None, None, None, "tensor")),
    (r"decoder/step_\d+/conv_1/norm/(scale|bias|mean|var)$", P("tensor")),
    (r"decoder/step_\d+/conv_2/conv/kernel$", P(None, None, "tensor", None)),
    (r"decoder/pyramid/output_\d+/kernel$", P(None, None, None, "tensor")),
    (r"decoder/pyramid/output_\d+/bias$", P("tensor")),
    (r"decoder/branch_\d+/conv_1/kernel$", P(None, None, "tensor", None)),
)


class Segmentation(NamedTuple):
    """Logits of every pixel, float32."""

    logits: Float[Array, "b h w k"]
    """By the decoder."""
    auxiliary: Float[Array, "b h w k"] | None
    """By the auxiliary head, which is for training; None without one."""


class Segmenter(nn.Module):
    """Classify every pixel.

    ``backbone`` is called with name and returns a module whose method ``levels`` gives the features "cN" of stride
    2**N, at most its property ``output_stride``. ``norm``, for the decoder and the auxiliary head, is called with
    train, dtype and name (see ``nn/batch_norm.py``); pyramids have group normalisation. The auxiliary head is that of
    an FCN on "c4".
    """

    backbone: Callable[..., nn.Module]
    decoder: DecoderConfig = DeepLabConfig()
    classes: int = 21
    auxiliary: bool = False
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Segmentation:
        """Logits of the size of the image, bilinearly upsampled.

        Args:
          image: as the backbone takes it, of any size.
          train: whether to use the statistics of the batch (``mutable=["batch_stats"]``), and whether dropout is active
            (which needs the "dropout" random stream where a rate is not 0).

        Raises:
          UserError: the backbone has no features that the decoder or the auxiliary head needs.
        """
        size = size_of(image)
        backbone: Any = self.backbone(name="backbone")
        levels = backbone.levels(image, train=train)
        how: dict[str, Any] = {"norm": self.norm, "dtype": jnp.dtype(self.dtype)}
        match self.decoder:
            case FcnConfig():
                decoder = FcnHead(self.classes, self.decoder, **how, name="decoder")
                logits = decoder(last_level(levels), train=train)
            case DeepLabConfig():
                decoder = DeepLab(self.classes, backbone.output_stride, self.decoder, **how, name="decoder")
                logits = decoder(levels, train=train)
            case UNetDecoderConfig():
                logits = UNetDecoder(self.classes, self.decoder, **how, name="decoder")(levels, train=train)
            case PyramidConfig():
                stride, dtype = backbone.output_stride, how["dtype"]
                logits = PyramidDecoder(self.classes, stride, self.decoder, dtype, name="decoder")(levels)
        auxiliary = None
        if self.auxiliary:
            head = FcnHead(self.classes, **how, name="auxiliary")
            auxiliary = head(level(levels, "c4", "an auxiliary head"), train=train)
            auxiliary = upsample_bilinear_to(auxiliary, size)
        return Segmentation(upsample_bilinear_to(logits, size), auxiliary)
