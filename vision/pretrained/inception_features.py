"""Images to the features and probabilities of the published Inception network, by a named protocol.

    judge = load_inception_features("pt_inception-2015-12-05-6726825d.pth", resize="clean")
    run = jax.jit(lambda judge, images: judge.features_and_probabilities(images))
    features, probabilities = run(judge, images)

The judge is a tree of arrays: hand it to a compiled function as an argument, since weights that a function closes over
are compiled into the program.
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
    """The Inception network and what comes before it: pure functions of images, with fixed weights."""

    variables: Any
    """{"params": ..., "batch_stats": ...} of `Inception`."""
    resize: Resize = struct.field(pytree_node=False)
    """How images come to 299x299 pixels; see ``vision/ops/resize_protocols.py``."""
    weights: str = struct.field(pytree_node=False)
    """What the variables are, in words, for the protocol."""

    @property
    def name(self) -> str:
        """Names the features and the resize: a distance in others is another distance."""
        return f"inception_2015_{self.resize}"

    def __call__(self, images: UInt8[Array, "b h w c"]) -> InceptionOutput:
        """What the network says of images of levels 0..255 and any resolution.

        Raises ``UserError`` where they do not have three channels.
        """
        if images.shape[-1] != 3:
            raise UserError(
                f"Inception-v3 judges images of red, green and blue, but these have {images.shape[-1]} channels: "
                "repeat grey three times and say so, or choose another classifier"
            )
        by = {"legacy_tensorflow": resize_legacy_tensorflow, "clean": resize_clean}[self.resize]
        resized = by(images, (SIDE, SIDE))
        return Inception().apply(self.variables, (resized - 128.0) / 128.0)  # pyright: ignore[reportReturnType]

    def features_and_probabilities(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b 2048"], Float[Array, "b 1008"]]:
        """(pooled features, class probabilities) of float images in [-1, 1], which are first rounded to 256 levels.

        Probabilities are of the logits without bias, as the Inception Score has them since Salimans et al. 2016.
        Raises ``UserError`` where images do not have three channels.
        """
        said = self(to_uint8(images))
        return said.pool, jax.nn.softmax(said.unbiased_logits, axis=-1)

    def protocol(self) -> str:
        """What a number in these features means, in words, for the record."""
        return (
            f"pooled features [2048] and logits without bias [1008] of Inception-v3 as of 2015-12-05 ({self.weights}); "
            f"images rounded to 256 levels, {_IN_WORDS[self.resize]} to {SIDE}x{SIDE}, (v - 128) / 128"
        )


def load_inception_features(
    path: str | os.PathLike[str], *, resize: Resize, converted: str | os.PathLike[str] | None = None
) -> InceptionFeatures:
    """The judge with the published weights; ``path`` and ``converted`` as for `load_inception`.

    Raises:
      UserError: the resize is none of these, and where `load_inception` does.
    """
    if resize not in _IN_WORDS:
        raise UserError(f'Inception knows no resize "{resize}", only {" and ".join(_IN_WORDS)}')
    variables = load_inception(path, converted=converted)
    return InceptionFeatures(variables, resize=resize, weights=f"SHA-256 {SHA256}...")
