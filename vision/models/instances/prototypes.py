"""Masks from prototypes on the YOLOv5 neck: masks that an image's objects are sums of, and each object's coefficients.

Bolya et al. 2019 ("YOLACT", sections 3.1 to 3.3): a small convolutional branch on the finest level gives prototypes of
the whole image; beside class and box, each anchor predicts one coefficient for each of them, and the mask of an object
is their weighted sum, cropped to its box (``tasks/mask_losses.py``). The published networks of this kind on YOLOv5 have
2.0, 7.6, 22.0, 47.9 and 88.8 million parameters in the sizes n, s, m, l and x for 80 classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.models import yolo
from vision.models.yolo import YoloConfig, anchor_outputs, channels, neck_levels
from vision.nn.conv_norm_act import Norm
from vision.nn.csp import yolo_conv, yolo_norm
from vision.nn.resample import upsample_nearest
from vision.ranges import Channels

STRIDE = 4
"""Pixels of the image along each side of a cell of the prototypes."""


@dataclass(frozen=True)
class PrototypeConfig:
    """The architecture. The defaults are the size s for the 80 classes of COCO."""

    yolo: YoloConfig = YoloConfig()
    """The detector whose backbone, neck and anchors these are."""
    prototypes: Channels = 32
    """Prototypes of an image, and so coefficients of each anchor."""
    width: Channels = 256
    """Channels of the branch that makes the prototypes, of the size l; others go with the detector's width, rounded up
    to a multiple of 8."""


SHARDING_RULES: tuple[tuple[str, P], ...] = yolo.SHARDING_RULES
"""Those of the detector: the branch for prototypes is small, and has only data and fsdp sharding."""


class PrototypePredictions(NamedTuple):
    """All that the network predicts; the lists have one array for each of the strides 8, 16 and 32."""

    raw: list[Float[Array, "b _ _ a _"]]
    """Boxes, objectness and classes, as :class:`vision.models.yolo.Yolo` gives them."""
    coefficients: list[Float[Array, "b _ _ a p"]]
    """Of each anchor, in [-1, 1]."""
    prototypes: Float[Array, "b h w p"]
    """At a quarter of the image's height and width, not negative."""


class PrototypeBranch(nn.Module):
    """Prototypes at twice the resolution of the finest level (Bolya et al. 2019, figure 3, made shorter).

    3x3, doubled, 3x3, 1x1, each with a normalisation. The published counts leave no doubt about the number and the
    width of the convolutions: another 3x3 would be 0.6 M parameters more in size l. They do not say whether the last
    one has a normalisation, as here, or a bias: that is 32 parameters.
    """

    prototypes: int
    width: int
    conv: Any

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W p"]:
        """[b 2h 2w prototypes], not negative."""
        hidden: Any = self.conv(self.width, size=3, name="before")(features, train=train)
        hidden = self.conv(self.width, size=3, name="after")(upsample_nearest(hidden), train=train)
        return self.conv(self.prototypes, act=nn.relu, name="project")(hidden, train=train)


class PrototypeYolo(nn.Module):
    """A YOLOv5 whose anchors have coefficients too, and a branch for prototypes.

    As in the paper, prototypes end in a ReLU (section 3.1) and coefficients in a tanh (section 3.2), so that a mask can
    subtract prototypes. Counts of parameters do not say which functions the published networks on YOLOv5 have there.

    ``norm`` and ``other_backbone`` are those of :class:`vision.models.yolo.Yolo`, as are the names of all parameters
    but those in "prototypes".
    """

    config: PrototypeConfig = PrototypeConfig()
    norm: Norm = yolo_norm
    other_backbone: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> PrototypePredictions:
        """All predictions, float32.

        Args:
          image: images in [-1, 1], whatever ``config.yolo.pixels`` is.
          train: whether to use the statistics of the batch (``mutable=["batch_stats"]``).

        Raises:
          UserError: sides that are not multiples of 32.
        """
        config, detector = self.config, self.config.yolo
        levels = neck_levels(image, detector, norm=self.norm, other_backbone=self.other_backbone, train=train)
        outputs = anchor_outputs(levels, detector, extra=config.prototypes)
        split = 5 + detector.classes
        conv = partial(yolo_conv, norm=self.norm, dtype=jnp.dtype(detector.dtype))
        branch: Any = PrototypeBranch(config.prototypes, channels(detector, config.width), conv, name="prototypes")
        return PrototypePredictions(
            raw=[each[..., :split] for each in outputs],
            coefficients=[jnp.tanh(each[..., split:]) for each in outputs],
            prototypes=branch(levels[0], train=train).astype(jnp.float32),
        )
