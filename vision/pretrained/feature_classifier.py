"""Classifiers of this project, whose features and probabilities evaluate generated images in place of Inception's.

Each is a small network with fixed weights in this package, whose name and version are part of every protocol
(`FeatureClassifier.protocol`). A distance in its features compares generators of the same kind of image with each other
and with the floor, the distance between training set and test set. It is not FID.

    extractor = load_feature_classifier("cifar10")
    run = jax.jit(lambda extractor, images: extractor.features_and_probabilities(images))
    features, probabilities = run(extractor, images)

``experiments/feature_classifier.py`` trains them, ``experiments/feature_classifier_weights.py`` writes the files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import MinLen
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.ranges import Channels, Classes, Depth

KNOWN = ("mnist", "cifar10")
"""The classifiers in this package."""


@dataclass(frozen=True)
class FeatureNetworkConfig:
    """The architecture of the network; with the defaults about 122,000 parameters."""

    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (40, 48, 64, 64, 64)
    """Channels of each convolution; the last are the features."""
    strides: Annotated[tuple[Depth, ...], MinLen(1)] = (2, 1, 2, 1, 1)
    """Stride of each convolution."""
    classes: Classes = 10
    """Number of logits."""
    channels: Channels = 3
    """Channels of the image."""


def feature_layer_of(config: FeatureNetworkConfig, path: str) -> int:
    """The layer of a parameter: one for each convolution, then the head."""
    match = re.search(r"(?:conv|norm)_(\d+)", path)
    return int(match.group(1)) if match else len(config.widths)


class FeatureNetwork(nn.Module):
    """Convolutions, each with batch normalisation and ReLU, global mean pooling, and a linear head.

    The first convolution is 5x5, the others 3x3. One that keeps the shape has a residual connection (He et al. 2016).
    """

    config: FeatureNetworkConfig = FeatureNetworkConfig()

    def setup(self):
        """The linear head."""
        self.head = Dense(self.config.classes)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b k"]:
        """Logits of images in [-1, 1]; ``train`` as for :meth:`features`."""
        return self.head(self.features(image, train=train))

    def both(self, image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """(features, logits) of images in [-1, 1], by the running statistics."""
        features = self.features(image, train=False)
        return features, self.head(features)

    @nn.compact
    def features(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """The global mean of the last convolution's output.

        Args:
          image: in [-1, 1].
          train: whether to use the statistics of the batch, with ``mutable=["batch_stats"]``.
        """
        hidden = image
        for index, (width, stride) in enumerate(zip(self.config.widths, self.config.strides, strict=True)):
            side = 5 if index == 0 else 3
            conv = Conv(width, side, stride, "SAME", use_bias=False, name=f"conv_{index}")
            norm = batch_norm(train=train, name=f"norm_{index}")
            out = nn.relu(norm(conv(hidden)))
            hidden = hidden + out if hidden.shape == out.shape else out
        return hidden.mean((1, 2))


class FeatureClassifier(struct.PyTreeNode):
    """A network with fixed weights: pure functions of images. See `load_feature_classifier`."""

    variables: Any
    """{"params": ..., "batch_stats": ...} of `FeatureNetwork`, float32."""
    data: str = struct.field(pytree_node=False)
    """The training data, such as "mnist"."""
    version: str = struct.field(pytree_node=False)
    """Version of the weights; it changes whenever they do."""
    config: FeatureNetworkConfig = struct.field(pytree_node=False)
    side: int = struct.field(pytree_node=False)
    """Height and width of the network's input, in pixels."""
    class_names: tuple[str, ...] = struct.field(pytree_node=False)
    """In the order of the probabilities."""
    training: str = struct.field(pytree_node=False)
    """A description of the training data and the accuracy, for the protocol."""

    @property
    def name(self) -> str:
        """The data and the version: "mnist_v1"."""
        return f"{self.data}_v{self.version}"

    def features_and_probabilities(
        self, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """(mean-pooled features, softmax of the logits) of images in [-1, 1].

        Images of another size are resized, antialiased and linear. Raises ``UserError`` for another number of channels.
        """
        if images.shape[-1] != self.config.channels:
            raise UserError(
                f"the classifier {self.name} takes images of {self.config.channels} channels, but these have "
                f"{images.shape[-1]}: choose another classifier"
            )
        shape = (images.shape[0], self.side, self.side, images.shape[-1])
        seen = images if images.shape == shape else jax.image.resize(images, shape, "linear", antialias=True)
        said: Any = FeatureNetwork(self.config).apply(self.variables, seen, method="both")
        features, logits = said
        return features, jax.nn.softmax(logits)

    def protocol(self) -> str:
        """A description of numbers in these features, for the protocol."""
        return (
            f"{self.config.widths[-1]} mean-pooled features and {self.config.classes} class probabilities of the "
            f"classifier {self.name} at {self.side}x{self.side} ({self.training}); not Inception's"
        )


def weights_file(data: str) -> Path:
    """The path of the weights of the classifier of ``data`` in this package."""
    return Path(__file__).with_name(f"feature_classifier_{data}.npz")


def save_feature_classifier(path: Path, classifier: FeatureClassifier) -> None:
    """Write the classifier to an .npz file, weights as float16."""
    flat: Mapping[Any, Any] = flatten_dict(classifier.variables)
    arrays: dict[str, Any] = {"/".join(name): np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{name} has numbers beyond the range of float16: train the classifier again")
    for name in _WORDS:
        arrays[f"about/{name}"] = getattr(classifier, name)
    for name in _NUMBERS:
        arrays[f"about/{name}"] = getattr(classifier.config, name)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_feature_classifier(source: str | Path) -> FeatureClassifier:
    """The classifier of a data set in `KNOWN`, or from a file.

    Raises ``UserError`` for data of which there is none, and a file that is missing or not a classifier's.
    """
    if isinstance(source, str) and source not in KNOWN:
        raise UserError(f"there is no classifier of {source} in this package, only of {' and '.join(KNOWN)}")
    path = weights_file(source) if isinstance(source, str) else source
    if not path.is_file():
        raise UserError(
            f"the feature classifier has no weights at {path}: make them with experiments/feature_classifier.py"
        )
    with np.load(path) as file:
        arrays = dict(file)
    try:
        words = {name: arrays.pop(f"about/{name}").tolist() for name in _WORDS}
        numbers = {name: arrays.pop(f"about/{name}").tolist() for name in _NUMBERS}
    except KeyError as missing:
        raise UserError(f"{path} has no {missing}, so it is not a feature classifier: choose another file") from missing
    words["class_names"] = tuple(words["class_names"])
    numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()}
    weights = {tuple(name.split("/")): jnp.asarray(leaf, jnp.float32) for name, leaf in arrays.items()}
    return FeatureClassifier(unflatten_dict(weights), config=FeatureNetworkConfig(**numbers), **words)


_WORDS = ("data", "version", "side", "class_names", "training")
_NUMBERS = ("widths", "strides", "classes", "channels")
