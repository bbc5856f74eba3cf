"""What happens to images inside the training step before the loss sees them."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Key

from vision.data.augment.image import flipped
from vision.ops.pixels import to_float
from vision.types import Batch


@runtime_checkable
class Preprocess(Protocol):
    """A batch as the input pipeline gives it -> as the loss wants it, on the device."""

    def __call__(self, batch: Batch, *, key: Key[Array, ""]) -> Batch:
        """``key`` is for random augmentation."""
        ...


def scaled(*, flip: bool) -> Preprocess:
    """Scales "image" from uint8 to float32 in [-1, 1]; with ``flip``, flips half of the images left to right."""

    def preprocess(batch: Batch, *, key: Key[Array, ""]) -> Batch:
        batch = {**batch, "image": to_float(batch["image"])}
        return flipped(batch, key=key) if flip else batch

    return preprocess
