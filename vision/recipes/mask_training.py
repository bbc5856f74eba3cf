"""What instance and panoptic segmentation have in common in training: refused settings, augmentation, optimizer."""

from collections.abc import Callable

import optax
from jaxtyping import Array, Key

from vision.data.augment.boxes import BoxAugmentConfig, box_augment
from vision.errors import UserError
from vision.ops.pixels import to_float
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.types import Batch


def check_settings(resolution: int, augment: BoxAugmentConfig, *, stride: int, network: str) -> None:
    """Raise ``UserError`` for settings that no network with masks can train with.

    Args:
      resolution: of the images, in pixels.
      augment: of the training images.
      stride: the coarsest one of the network, in pixels.
      network: in words, for the message: "an instance segmenter".
    """
    if resolution % stride:
        raise UserError(f"{network} takes image sizes that are multiples of {stride}, not {resolution}")
    if augment.mixup:
        raise UserError("mixup has no masks: leave augment.mixup 0, and try augment.copy_paste")


def augmentation(config: BoxAugmentConfig) -> Callable[..., Batch]:
    """(batch with "image" uint8, key) -> the batch that a loss takes, augmented on the device."""

    def prepare(batch: Batch, *, key: Key[Array, ""]) -> Batch:
        return box_augment({**batch, "image": to_float(batch["image"])}, config, key=key)

    return prepare


def backbone_and_rest(config: OptimizerConfig, *, steps: int, batch_size: int) -> optax.GradientTransformation:
    """An optimizer whose ``layer_decay`` is the factor on the learning rate of the backbone."""
    layer_of = lambda path: 0 if path.startswith("backbone/") else 1
    return make_optimizer(config, steps=steps, batch_size=batch_size, layer_of=layer_of, layers=2)
