"""What a diffusion model is conditioned on, by name, and the value of each condition that means "none"."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from vision.errors import UserError
from vision.types import Batch, Condition


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The names of a model's conditions, each with its null: the value that stands for "not known".

    Nulls are broadcast to one sample's shape: the number of classes for labels, 0 (the padding token) for tokens, 0.0
    for embeddings, images and masks. False where there are no conditions.
    """

    nulls: Mapping[str, float | int | np.ndarray]

    def __bool__(self) -> bool:
        return bool(self.nulls)

    def of(self, batch: Batch) -> Condition:
        """The conditions among the fields of a batch; ``UserError`` where one is missing."""
        for name in self.nulls:
            if name not in batch:
                raise UserError(
                    f"the model is conditioned on {name!r}, which the batch does not have: its fields are "
                    f"{', '.join(sorted(batch))}"
                )
        return {name: batch[name] for name in self.nulls}

    def null(self, condition: Condition) -> Condition:
        """Nulls in place of all values, with the shapes and dtypes of ``condition``.

        Raises ``ValueError`` unless ``condition`` has exactly the names of this conditioning.
        """
        if set(condition) != set(self.nulls):
            raise ValueError(
                f"the conditions are {_listed(self.nulls)}, and not {_listed(condition)}: "
                f"{_listed(set(condition) ^ set(self.nulls))} in only one of the two"
            )
        return {
            name: jnp.broadcast_to(jnp.asarray(self.nulls[name], value.dtype), value.shape)
            for name, value in condition.items()
        }

    def dropped(self, condition: Condition, *, probability: float, key: Key[Array, ""]) -> Condition:
        """``condition`` [b ...] with all values of a sample replaced by their nulls with this probability.

        Training on the result teaches one network the conditional and the unconditional distribution, as
        classifier-free guidance needs (Ho & Salimans 2022, algorithm 1).
        """
        nulls = self.null(condition)
        if not condition:
            return {}
        count = next(iter(condition.values())).shape[0]
        without = jax.random.bernoulli(key, probability, (count,))
        return {
            name: jnp.where(without.reshape(count, *(1,) * (value.ndim - 1)), nulls[name], value)
            for name, value in condition.items()
        }


def label_conditioning(classes: int) -> Conditioning:
    """Conditioning on "label" int32 [b] in [0, classes), with ``classes`` for no label; none for 0 classes."""
    return Conditioning({"label": classes} if classes else {})


def _listed(names) -> str:
    return ", ".join(sorted(names)) or "none"
