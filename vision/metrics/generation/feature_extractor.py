"""Interfaces of pretrained networks for evaluating generators: features, class probabilities, and a name."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float


@runtime_checkable
class FeatureExtractor(Protocol):
    """A pretrained network such as Inception or this project's classifiers: pure functions of images.

    A feature extractor is a pytree of arrays. Pass it to a compiled function as an argument, since weights that a
    function closes over are compiled into the program.
    """

    @property
    def name(self) -> str:
        """Short name of the features, since distances in different features are different metrics."""
        ...

    def features_and_probabilities(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """(features, class probabilities) of float32 images in [-1, 1]."""
        ...

    def protocol(self) -> str:
        """A description of numbers in these features, for the protocol."""
        ...


@runtime_checkable
class ClassNamingExtractor(FeatureExtractor, Protocol):
    """A feature extractor whose classes have names, to compare generated images with the requested classes."""

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the probabilities."""
        ...
