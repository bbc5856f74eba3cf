"""The shape classifier: a fixed network that recognises shape and colour in images of the shapes world.

A generated image for the label "red circle" is right if the classifier predicts a circle among all shapes and red among
all colours. It has the role of the pretrained classifier in the classification accuracy score (Ravuri & Vinyals 2019)
and of Inception in FID: fixed weights make numbers comparable. Its version is part of every protocol
(`ShapeClassifier.protocol`).

The weights are in ``shape_classifier.npz`` next to this file, written by ``experiments/shape_classifier.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.nn.convolution import Conv
from vision.nn.dense import Dense

RESOLUTION = 32
"""Size of the network's input in pixels."""

WEIGHTS = Path(__file__).with_name("shape_classifier.npz")
"""The weights in this package."""

Sums = Mapping[str, Int[Array | np.ndarray, ""]]


@runtime_checkable
class Classes(Protocol):
    """The part of a `ShapesConfig` that numbers the classes: label = shape * len(colours) + colour."""

    @property
    def shapes(self) -> tuple[str, ...]:
        """Names of the shapes in use."""
        ...

    @property
    def colours(self) -> tuple[str, ...]:
        """Names of the colours in use."""
        ...


class ShapeClassifierNetwork(nn.Module):
    """Five convolutions from 32x32 pixels to a 4x4 map, pooled to mean and maximum."""

    shapes: int
    colours: int
    widths: tuple[int, ...] = (24, 32, 48, 48, 64)
    strides: tuple[int, ...] = (2, 1, 2, 1, 2)

    def __call__(self, images: Float[Array, "b 32 32 3"]) -> tuple[Float[Array, "b shapes"], Float[Array, "b colours"]]:
        """Logits of shapes and of colours for images in [-1, 1]."""
        _, logits = self.pooled_and_logits(images)
        return logits[:, : self.shapes], logits[:, self.shapes :]

    @nn.compact
    def pooled_and_logits(
        self, images: Float[Array, "b 32 32 3"]
    ) -> tuple[Float[Array, "b pooled"], Float[Array, "b logits"]]:
        """(mean and maximum of the last convolution's output, logits of shapes and then of colours)."""
        hidden = images
        for index, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            side = 5 if index == 0 else 3
            hidden = Conv(width, side, stride, "SAME", kernel_init=nn.initializers.he_normal())(hidden)
            hidden = nn.relu(hidden)
        pooled = jnp.concatenate([hidden.mean((1, 2)), hidden.max((1, 2))], axis=-1)
        return pooled, Dense(self.shapes + self.colours)(pooled)


def fit(images: Float[Array, "b h w c"]) -> Float[Array, "b 32 32 c"]:
    """Images at the classifier's resolution, by antialiased linear interpolation if they have a different one."""
    return jax.image.resize(
        images, (images.shape[0], RESOLUTION, RESOLUTION, images.shape[-1]), "linear", antialias=True
    )


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["version", "shapes", "colours"])
@dataclass(frozen=True, eq=False)
class ShapeClassifier:
    """The classifier: pure functions of images, with fixed weights. See `load_shape_classifier`."""

    version: str
    """Version of the weights; it changes whenever they do."""
    shapes: tuple[str, ...]
    """Names in the order of the shape logits."""
    colours: tuple[str, ...]
    """Names in the order of the colour logits."""
    params: Any
    """Weights of `ShapeClassifierNetwork`, float32."""

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b shapes"], Float[Array, "b colours"]]:
        """(shape logits, colour logits), float32, of float32 images in [-1, 1] of any resolution."""
        network = ShapeClassifierNetwork(len(self.shapes), len(self.colours))
        return network.apply({"params": self.params}, fit(images))  # pyright: ignore[reportReturnType]

    @property
    def name(self) -> str:
        """Short name of the features: "shapes_v1"."""
        return f"shapes_v{self.version}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the probabilities, as in the shapes world."""
        return tuple(f"{colour} {shape}" for shape in self.shapes for colour in self.colours)

    def features_and_probabilities(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """(pooled responses of the last convolution / 16, probabilities of every shape in every colour).

        After the division, features have a mean square of about 1, and distances a readable magnitude.

        Args:
          images: float32 in [-1, 1], of any resolution.
        """
        network = ShapeClassifierNetwork(len(self.shapes), len(self.colours))
        said: Any = network.apply({"params": self.params}, fit(images), method="pooled_and_logits")
        pooled, logits = said
        shape, colour = (jax.nn.softmax(part) for part in jnp.split(logits, [len(self.shapes)], axis=-1))
        return pooled / 16, (shape[:, :, None] * colour[:, None, :]).reshape(len(images), -1)

    def accuracy(
        self,
        images: Float[Array, "b h w 3"],
        labels: Int[Array, " b"],
        classes: Classes,
        *,
        mask: Bool[Array, " b"] | None = None,
    ) -> dict[str, Int[Array, ""]]:
        """How many images show the requested classes, as sums that can be merged over batches (`merge`).

        Args:
          images: float32 in [-1, 1], of any resolution.
          labels: the requested classes, numbered as in `classes`.
          classes: the `ShapesConfig` of the labels. Even if it uses only some shapes and colours, the classifier
            chooses among all that it knows.
          mask: False excludes an image, as padding; by default all are used.

        Returns:
          int32 sums: "class_correct" (both are right), "shape_correct", "colour_correct" and "count".

        Raises:
          UserError: for a shape or a colour that the classifier does not know.
        """
        shape_of = jnp.asarray(_places(classes.shapes, self.shapes, "shape"))
        colour_of = jnp.asarray(_places(classes.colours, self.colours, "colour"))
        shape_logits, colour_logits = self(images)
        shape, colour = jnp.divmod(labels, len(classes.colours))
        shape_right = shape_logits.argmax(-1) == shape_of[shape]
        colour_right = colour_logits.argmax(-1) == colour_of[colour]
        counted = jnp.ones(labels.shape, bool) if mask is None else mask
        count = lambda right: jnp.sum(right & counted, dtype=jnp.int32)
        return {
            "class_correct": count(shape_right & colour_right),
            "shape_correct": count(shape_right),
            "colour_correct": count(colour_right),
            "count": count(counted),
        }

    def protocol(self, classes: Classes | None = None) -> str:
        """A description of numbers of this classifier, for the protocol.

        Args:
          classes: of the labels, for the accuracies; without it, the features and probabilities are described.
        """
        if classes is None:
            return (
                f"{2 * ShapeClassifierNetwork.widths[-1]} pooled features / 16 and {len(self.class_names)} class "
                "probabilities "
                f"of shape classifier {self.version} at {RESOLUTION}x{RESOLUTION} (antialiased linear); not Inception's"
            )
        return (
            f"shape classifier {self.version}: top-1 among {len(self.shapes)} shapes x {len(self.colours)} colours "
            f"at {RESOLUTION}x{RESOLUTION} (antialiased linear resize), both right; labels of "
            f"{len(classes.shapes)} shapes x {len(classes.colours)} colours"
        )


def _places(names: tuple[str, ...], known: tuple[str, ...], kind: str) -> list[int]:
    for name in names:
        if name not in known:
            raise UserError(
                f"the shape classifier knows no {kind} {name!r}, only {', '.join(known)}: leave it out, or train the "
                "classifier again with experiments/shape_classifier.py"
            )
    return [known.index(name) for name in names]


def merge(one: Sums, other: Sums) -> Sums:
    """The merged sums of two disjoint sets of images."""
    return {name: one[name] + other[name] for name in one}


def compute(sums: Sums) -> dict[str, float]:
    """Fractions in [0, 1]: "class_accuracy", "shape_accuracy" and "colour_accuracy".

    Raises ``UserError`` if there are no images.
    """
    count = int(sums["count"])
    if count == 0:
        raise UserError(
            "the shape classifier was shown no images, so there is no accuracy: evaluate at least one image"
        )
    return {f"{name}_accuracy": int(sums[f"{name}_correct"]) / count for name in ("class", "shape", "colour")}


def save_shape_classifier(path: Path, classifier: ShapeClassifier) -> None:
    """Write the classifier to an .npz file, weights as float16."""
    flat: Mapping[Any, Any] = flatten_dict(classifier.params)
    arrays: dict[str, Any] = {"/".join(name): np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    arrays |= {"version": classifier.version, "shapes": classifier.shapes, "colours": classifier.colours}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_shape_classifier(path: Path = WEIGHTS) -> ShapeClassifier:
    """The classifier from its file, by default the one in this package.

    Raises ``UserError`` for a file that is missing or not a shape classifier.
    """
    if not path.is_file():
        raise UserError(
            f"the shape classifier has no weights at {path}: make them with experiments/shape_classifier.py"
        )
    with np.load(path) as file:
        arrays = dict(file)
    try:
        version, shapes, colours = (arrays.pop(name).tolist() for name in ("version", "shapes", "colours"))
    except KeyError as missing:
        raise UserError(f"{path} has no {missing}, so it is not a shape classifier: choose another file") from missing
    weights = {tuple(name.split("/")): jnp.asarray(leaf, jnp.float32) for name, leaf in arrays.items()}
    return ShapeClassifier(version, tuple(shapes), tuple(colours), unflatten_dict(weights))
