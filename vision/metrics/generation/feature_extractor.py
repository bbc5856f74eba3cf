"""What evaluations of generators ask of a network with fixed weights: features, class probabilities, and their name."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float


@runtime_checkable
class FeatureExtractor(Protocol):
    """Inception, a classifier of ours, the judge of shapes: pure functions of images.

    A judge is a tree of arrays. Hand it to a compiled function as an argument, since weights that a function closes
    over are compiled into the program.
    """

    @property
    def name(self) -> str:
        """Names the features in a few letters: a distance in others is another distance."""
        ...

    def features_and_probabilities(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """(features, class probabilities) of float32 images in [-1, 1]."""
        ...

    def protocol(self) -> str:
        """What a number in these features means, in words, for the record."""
        ...


@runtime_checkable
class ClassNamingExtractor(FeatureExtractor, Protocol):
    """A judge whose classes have names, so that it can say whether a generator draws what it is asked for."""

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the probabilities."""
        ...
