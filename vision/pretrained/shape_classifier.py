"""The judge of shape and colour: a fixed classifier that says what is to be seen on an image of the shapes world.

A generator asked for a "red circle" is right if the judge, which has never seen the generator, sees a circle and
sees red among all shapes and all colours. The judge plays the part that a pretrained classifier has in the
classification accuracy score (Ravuri & Vinyals 2019) and that Inception has in FID: the same weights for everyone,
so that numbers may be compared. Its version belongs to every number (`ShapeClassifier.protocol`).

The weights are in ``shape_classifier.npz`` beside this file; ``experiments/shape_classifier.py`` makes them.
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

RESOLUTION = 32
"""Side of the images that the network sees, in pixels."""

WEIGHTS = Path(__file__).with_name("shape_classifier.npz")
"""The weights that belong to this package."""

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
    """Five convolutions from 32x32 pixels to 4x4 places, pooled to their mean and largest response."""

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
        """(means and largest responses of the last convolution, logits of shapes and then of colours)."""
        hidden = images
        for index, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            side = 5 if index == 0 else 3
            hidden = nn.Conv(width, (side, side), strides=stride, kernel_init=nn.initializers.he_normal())(hidden)
            hidden = nn.relu(hidden)
        pooled = jnp.concatenate([hidden.mean((1, 2)), hidden.max((1, 2))], axis=-1)
        return pooled, nn.Dense(self.shapes + self.colours)(pooled)


def fit(images: Float[Array, "b h w c"]) -> Float[Array, "b 32 32 c"]:
    """Images at the judge's resolution, by antialiased linear interpolation where they have another."""
    return jax.image.resize(
        images, (images.shape[0], RESOLUTION, RESOLUTION, images.shape[-1]), "linear", antialias=True
    )


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["version", "shapes", "colours"])
@dataclass(frozen=True, eq=False)
class ShapeClassifier:
    """The judge: pure functions of images, with fixed weights. See `load_shape_classifier`."""

    version: str
    """Names the weights; it changes whenever they do."""
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
        """Names the features: "shapes_v1"."""
        return f"shapes_v{self.version}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities, as the shapes world names its classes."""
        return tuple(f"{colour} {shape}" for shape in self.shapes for colour in self.colours)

    def features_and_probabilities(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """(pooled responses of the last convolution / 16, probabilities of every shape in every colour).

        Divided, the features of images have a mean square of about 1, and distances sizes that can be read.

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
        """How many images show what was requested, as sums that add up over batches (`merge`).

        Args:
          images: float32 in [-1, 1], of any resolution.
          labels: the classes asked for, as `classes` numbers them.
          classes: the `ShapesConfig` of the labels. Whatever part of the shapes and colours it has in use, the judge
            chooses among all that it knows.
          mask: False leaves an image out, as padding; by default all count.

        Returns:
          int32 sums: "class_correct" (both are right), "shape_correct", "colour_correct" and "count".

        Raises:
          UserError: for a shape or a colour that the judge does not know.
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
        """What a number of this judge means, in words, for the record.

        Args:
          classes: of the labels, for the accuracies; without it, what its features and probabilities are.
        """
        if classes is None:
            return (
                f"{2 * ShapeClassifierNetwork.widths[-1]} pooled features / 16 and {len(self.class_names)} class "
                "probabilities "
                f"of shape judge {self.version} at {RESOLUTION}x{RESOLUTION} (antialiased linear); not Inception's"
            )
        return (
            f"shape judge {self.version}: top-1 among {len(self.shapes)} shapes x {len(self.colours)} colours "
            f"at {RESOLUTION}x{RESOLUTION} (antialiased linear resize), both right; labels of "
            f"{len(classes.shapes)} shapes x {len(classes.colours)} colours"
        )


def _places(names: tuple[str, ...], known: tuple[str, ...], kind: str) -> list[int]:
    for name in names:
        if name not in known:
            raise UserError(
                f"the shape judge knows no {kind} {name!r}, only {', '.join(known)}: leave it out, or train the "
                "judge anew with experiments/shape_classifier.py"
            )
    return [known.index(name) for name in names]


def merge(one: Sums, other: Sums) -> Sums:
    """The merged sums of two disjoint sets of images."""
    return {name: one[name] + other[name] for name in one}


def compute(sums: Sums) -> dict[str, float]:
    """Fractions in [0, 1]: "class_accuracy", "shape_accuracy" and "colour_accuracy".

    Raises ``UserError`` where nothing was counted.
    """
    count = int(sums["count"])
    if count == 0:
        raise UserError("the shape judge was shown no images, so there is no accuracy: evaluate at least one image")
    return {f"{name}_accuracy": int(sums[f"{name}_correct"]) / count for name in ("class", "shape", "colour")}


def save_shape_classifier(path: Path, judge: ShapeClassifier) -> None:
    """Write the judge to an .npz file, weights as float16."""
    flat: Mapping[Any, Any] = flatten_dict(judge.params)
    arrays: dict[str, Any] = {"/".join(name): np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    arrays |= {"version": judge.version, "shapes": judge.shapes, "colours": judge.colours}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_shape_classifier(path: Path = WEIGHTS) -> ShapeClassifier:
    """The judge from its file, by default the one that belongs to this package.

    Raises ``UserError`` for a file that is missing or is not a judge's.
    """
    if not path.is_file():
        raise UserError(f"the shape judge has no weights at {path}: make them with experiments/shape_classifier.py")
    with np.load(path) as file:
        arrays = dict(file)
    try:
        version, shapes, colours = (arrays.pop(name).tolist() for name in ("version", "shapes", "colours"))
    except KeyError as missing:
        raise UserError(f"{path} has no {missing}, so it is not a shape judge: choose another file") from missing
    weights = {tuple(name.split("/")): jnp.asarray(leaf, jnp.float32) for name, leaf in arrays.items()}
    return ShapeClassifier(version, tuple(shapes), tuple(colours), unflatten_dict(weights))
