"""What a diffusion model is conditioned on, by name, and the value of each condition that means "none"."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from vision.errors import UserError
from vision.types import Batch, Condition

TEXT = ("text", "text_embedding")
"""The conditions that are one encoded text: its tokens, and an embedding of the whole."""

TEXTS = (*TEXT, "tokens")
"""All conditions that say something in words."""

Probabilities = Mapping[tuple[str, ...], float]
"""Of groups of conditions, each of which is dropped as one and independently of the others."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The names of a model's conditions, each with its null: the value that stands for "not known".

    Nulls are broadcast to one sample's shape: the number of classes for labels, 0 (the padding token) for tokens, 0.0
    for embeddings, images and masks, arrays for what the empty text stands for. False where there are no conditions
    that a sample can be without.
    """

    nulls: Mapping[str, float | int | np.ndarray | Array]
    always: frozenset[str] = frozenset()
    """Conditions that every sample has, such as the image that is to be enlarged: their null is what they are."""

    def __bool__(self) -> bool:
        return not self.always.issuperset(self.nulls)

    def of(self, batch: Batch) -> Condition:
        """The conditions among the fields of a batch, each in the field ``batch_field`` of its name.

        Raises ``UserError`` where one is missing.
        """
        for name in self.nulls:
            if batch_field(name) not in batch:
                raise UserError(
                    f"the model is conditioned on {name!r}, but the batch has no field {batch_field(name)!r}: its "
                    f"fields are {', '.join(sorted(batch))}"
                )
        return {name: batch[batch_field(name)] for name in self.nulls}

    def null(self, condition: Condition, names: Collection[str] | None = None) -> Condition:
        """Nulls in place of the values of ``names``, or of all, with the shapes and dtypes of ``condition``.

        Raises ``ValueError`` unless ``condition`` has exactly the names of this conditioning.
        """
        if set(condition) != set(self.nulls):
            raise ValueError(
                f"the conditions are {_listed(self.nulls)}, and not {_listed(condition)}: "
                f"{_listed(set(condition) ^ set(self.nulls))} in only one of the two"
            )
        chosen = set(condition if names is None else names) - self.always
        return {
            name: jnp.broadcast_to(jnp.asarray(self.nulls[name], value.dtype), value.shape) if name in chosen else value
            for name, value in condition.items()
        }

    def dropped(self, condition: Condition, *, probability: float, key: Key[Array, ""]) -> Condition:
        """``condition`` [b ...] with all values of a sample replaced by their nulls with this probability.

        Training on the result teaches one network the conditional and the unconditional distribution, as
        classifier-free guidance needs (Ho & Salimans 2022, algorithm 1).
        """
        if not condition:
            return self.null(condition)
        count = next(iter(condition.values())).shape[0]
        return self.replaced(condition, jax.random.bernoulli(key, probability, (count,)))

    def dropped_apart(self, condition: Condition, *, probabilities: Probabilities, key: Key[Array, ""]) -> Condition:
        """``condition`` [b ...] with the values of each group replaced by their nulls with its own probability.

        Groups are dropped independently, so that one network learns every combination of them (Ramesh et al. 2022,
        section 2.1, with 10 % for the image embedding and 50 % for the text). Names in no group are never dropped.
        """
        count = next(iter(condition.values())).shape[0]
        keys = jax.random.split(key, max(len(probabilities), 1))
        for (names, probability), own in zip(probabilities.items(), keys, strict=False):
            without = jax.random.bernoulli(own, probability, (count,))
            condition = self.replaced(condition, without, names=names)
        return condition

    def replaced(
        self, condition: Condition, without: Bool[Array, " b"], *, names: Collection[str] | None = None
    ) -> Condition:
        """``condition`` [b ...] with the values of ``names``, or all, of the samples ``without`` replaced by nulls."""
        nulls = self.null(condition, names)
        return {
            name: jnp.where(without.reshape(-1, *(1,) * (value.ndim - 1)), nulls[name], value)
            for name, value in condition.items()
        }


def batch_field(name: str) -> str:
    """The field of a batch that holds a condition: "condition_image" and "condition_mask", else the condition's name.

    The fields "image" and "mask" of a batch are the images to generate, and which samples are not padding.
    """
    return f"condition_{name}" if name in ("image", "mask") else name


def label_conditioning(classes: int) -> Conditioning:
    """Conditioning on "label" int32 [b] in [0, classes), with ``classes`` for no label; none for 0 classes."""
    return Conditioning({"label": classes} if classes else {})


def _listed(names) -> str:
    return ", ".join(sorted(names)) or "none"
