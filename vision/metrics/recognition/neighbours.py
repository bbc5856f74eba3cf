"""k nearest neighbours on frozen features: separability of the classes without any training.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4: an image gets
the class for which its k most similar training images vote, each with the weight exp(s / T), where s is the cosine
similarity. ``vote`` is the algorithm, pure and compiled with static shapes; ``predictions`` and ``accuracy`` run it
over whole sets on the host.

Training features are taken in blocks, and the k best so far are kept, so that memory is queries x block and not queries
x training images. Matrix products are in full float32: the shorter products that accelerators use by default change
the order of neighbours.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.ranges import PositiveFloat, PositiveInt, check_ranges


@dataclass(frozen=True)
class NeighboursConfig:
    """How neighbours vote. The defaults are those of Wu et al. 2018. Raises `UserError` for invalid values."""

    neighbours: PositiveInt = 200
    """How many neighbours vote, k."""
    temperature: PositiveFloat | None = 0.07
    """T in the weights exp(s / T); None gives every neighbour one vote."""
    block: PositiveInt = 16_384
    """Training images compared at a time; affects only memory."""
    batch_size: PositiveInt = 256
    """Queries compared at a time; affects only memory."""

    def __post_init__(self):
        check_ranges(self)


def normalised(features: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """Features of length one, in float32; a zero vector stays zero."""
    features = features.astype(jnp.float32)
    # The largest entry first, so that no square under- or overflows
    largest = jnp.max(jnp.abs(features), axis=-1, keepdims=True)
    features = features / jnp.where(largest > 0, largest, 1.0)
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.where(length > 0, length, 1.0)


def vote(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    queries: Float[Array, "b d"],
    *,
    classes: int,
    config: NeighboursConfig,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, "b {classes}"]:
    """The share of the vote that each class gets from the neighbours of each query; rows sum to 1.

    Of training images equally similar the first are nearer. The most voted class is ``argmax``; of classes with equal
    votes it is then the one of the smaller number.

    Args:
      features: of the training images, of any length (`normalised` is applied).
      labels: of the training images, in [0, classes).
      queries: features of the images to classify.
      classes: number of classes.
      config: if there are fewer training images than ``neighbours``, all vote.
      mask: False excludes a training image, as padding; by default all are used. At least one must remain.
    """
    n = features.shape[0]
    block = min(config.block, n)
    k = min(config.neighbours, n)
    missing = -n % block
    counted = jnp.ones(n, bool) if mask is None else mask
    blocked = lambda rows: jnp.pad(rows, ((0, missing), *((0, 0),) * (rows.ndim - 1))).reshape(
        -1, block, *rows.shape[1:]
    )
    queries = normalised(queries)

    def nearer(best: tuple[Array, Array], part: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        features, labels, counted = part
        similarity = jnp.matmul(queries, normalised(features).T, precision=jax.lax.Precision.HIGHEST)
        similarity = jnp.where(counted, similarity, -jnp.inf)
        # The best so far come first, and top_k prefers the first of equals
        values = jnp.concatenate([best[0], similarity], axis=1)
        names = jnp.concatenate([best[1], jnp.broadcast_to(labels, similarity.shape)], axis=1)
        values, places = jax.lax.top_k(values, k)
        return (values, jnp.take_along_axis(names, places, axis=1)), None

    nothing = (jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), labels.dtype))
    (similarity, names), _ = jax.lax.scan(nearer, nothing, (blocked(features), blocked(labels), blocked(counted)))
    if config.temperature is None:
        weights = jnp.isfinite(similarity).astype(jnp.float32)
    else:
        # Wu et al. 2018, section 3.4: w_c = sum of exp(s_i / T); relative to the nearest, so that nothing overflows
        weights = jnp.exp((similarity - similarity[:, :1]) / config.temperature)
    rows = jnp.arange(len(queries))[:, None]
    votes = jnp.zeros((len(queries), classes)).at[rows, names].add(weights)
    return votes / jnp.sum(votes, axis=-1, keepdims=True)


def predictions(
    features: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    queries: Float[Array | np.ndarray, "q d"],
    *,
    classes: int,
    config: NeighboursConfig | None = None,
) -> Int[np.ndarray, " q"]:
    """The class of each query by `vote`, in batches of one shape, so that one program is compiled.

    Args:
      features: of the training images.
      labels: of the training images, in [0, classes).
      queries: features of the images to classify.
      classes: number of classes.
      config: by default Wu et al. 2018.

    Raises:
      UserError: there are fewer training images than neighbours, a label is not a class, or a feature is not finite.
    """
    config = config or NeighboursConfig()
    features, queries, labels = np.asarray(features), np.asarray(queries), np.asarray(labels)
    if len(features) < config.neighbours:
        raise UserError(
            f"{config.neighbours} neighbours were requested, but there are only {len(features)} training images: "
            "set neighbours to less"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels of the training images lie outside [0, {classes}): give the number of all classes")
    for name, array in (("training", features), ("query", queries)):
        if bad := int(np.sum(~np.isfinite(array).all(-1))):
            raise UserError(
                f"{bad:,} {name} images have features that are not finite: look for an overflow in the model"
            )
    chosen = jax.jit(lambda *of: jnp.argmax(vote(*of, classes=classes, config=config), axis=-1))
    known = jax.device_put((features, labels))
    batch = min(config.batch_size, max(len(queries), 1))
    found = []
    for start in range(0, len(queries), batch):
        part = queries[start : start + batch]
        padded = np.pad(part, ((0, batch - len(part)), (0, 0)))
        found.append(np.asarray(chosen(*known, padded), np.int32)[: len(part)])
    return np.concatenate([np.zeros(0, np.int32), *found])


def accuracy(
    features: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    queries: Float[Array | np.ndarray, "q d"],
    query_labels: Int[Array | np.ndarray, " q"],
    *,
    classes: int,
    config: NeighboursConfig | None = None,
) -> float:
    """The fraction of queries whose class `predictions` gets right, in [0, 1].

    Raises ``UserError`` as for `predictions`, and if there are no queries.
    """
    if len(query_labels) == 0:
        raise UserError("there are no images to classify by their neighbours, so there is no accuracy")
    predicted = predictions(features, labels, queries, classes=classes, config=config)
    return float(np.mean(predicted == np.asarray(query_labels)))


def protocol(config: NeighboursConfig, training_images: int) -> str:
    """A description of the accuracy, for the protocol."""
    weight = "equal votes" if config.temperature is None else f"weights exp(cosine / {config.temperature:g})"
    return f"{config.neighbours} nearest of {training_images:,} training images by cosine, {weight} (Wu et al. 2018)"
