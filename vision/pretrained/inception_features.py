"""Images to the features and probabilities of the published Inception network, by a named protocol.

    extractor = load_inception_features("pt_inception-2015-12-05-6726825d.pth", resize="clean")
    run = jax.jit(lambda extractor, images: extractor.features_and_probabilities(images))
    features, probabilities = run(extractor, images)

The extractor is a pytree of arrays: pass it to a compiled function as an argument, since weights that a function closes
over are compiled into the program.
"""

import os
from typing import Any, Literal

import jax
from flax import struct
from jaxtyping import Array, Float, UInt8

from vision.errors import UserError
from vision.models.inception import SIDE, Inception, InceptionOutput
from vision.ops.pixels import to_uint8
from vision.ops.resize_protocols import resize_clean, resize_legacy_tensorflow
from vision.pretrained.inception import SHA256, load_inception

Resize = Literal["legacy_tensorflow", "clean"]

_IN_WORDS = {
    "legacy_tensorflow": "TensorFlow 1's linear resize (corners on corners, no antialiasing)",
    "clean": "Pillow's antialiased bicubic resize in float32, clipped to 0..255",
}


class InceptionFeatures(struct.PyTreeNode):
    """The Inception network with its preprocessing: pure functions of images, with fixed weights."""

    variables: Any
    """{"params": ..., "batch_stats": ...} of `Inception`."""
    resize: Resize = struct.field(pytree_node=False)
    """The method of resizing images to 299x299 pixels; see ``vision/ops/resize_protocols.py``."""
    weights: str = struct.field(pytree_node=False)
    """A description of the weights, for the protocol."""

    @property
    def name(self) -> str:
        """Short name of the features and the resize, since distances in different features are different metrics."""
        return f"inception_2015_{self.resize}"

    def __call__(self, images: UInt8[Array, "b h w c"]) -> InceptionOutput:
        """The output of the network for images of levels 0..255 and any resolution.

        Raises ``UserError`` where they do not have three channels.
        """
        if images.shape[-1] != 3:
            raise UserError(
                f"Inception-v3 takes RGB images, but these have {images.shape[-1]} channels: "
                "repeat grey three times, or choose another classifier"
            )
        by = {"legacy_tensorflow": resize_legacy_tensorflow, "clean": resize_clean}[self.resize]
        resized = by(images, (SIDE, SIDE))
        return Inception().apply(self.variables, (resized - 128.0) / 128.0)  # pyright: ignore[reportReturnType]

    def features_and_probabilities(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b 2048"], Float[Array, "b 1008"]]:
        """(pooled features, class probabilities) of float images in [-1, 1], which are first rounded to 256 levels.

        Probabilities are those of the logits without bias, as in the Inception Score since Salimans et al. 2016. Raises
        ``UserError`` where images do not have three channels.
        """
        said = self(to_uint8(images))
        return said.pool, jax.nn.softmax(said.unbiased_logits, axis=-1)

    def protocol(self) -> str:
        """A description of numbers in these features, for the protocol."""
        return (
            f"pooled features [2048] and logits without bias [1008] of Inception-v3 as of 2015-12-05 ({self.weights}); "
            f"images rounded to 256 levels, {_IN_WORDS[self.resize]} to {SIDE}x{SIDE}, (v - 128) / 128"
        )


def load_inception_features(
    path: str | os.PathLike[str], *, resize: Resize, converted: str | os.PathLike[str] | None = None
) -> InceptionFeatures:
    """The feature extractor with the published weights; ``path`` and ``converted`` as for `load_inception`.

    Raises:
      UserError: the resize is unknown, and as for `load_inception`.
    """
    if resize not in _IN_WORDS:
        raise UserError(f'there is no resize "{resize}", only {" and ".join(_IN_WORDS)}')
    variables = load_inception(path, converted=converted)
    return InceptionFeatures(variables, resize=resize, weights=f"SHA-256 {SHA256}...")
