"""How strongly a discriminator's images are augmented, from how much it overfits (Karras et al. 2020).

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section 3: the mean sign of the logits
of real training images, r_t = E[sign(l(x))], is near 0 while the discriminator cannot tell, and near 1 when it knows
its training images by heart. Where it is above a target the probability of augmentations rises by a fixed amount, where
it is below it falls.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError


@dataclass(frozen=True)
class AdaptiveConfig:
    """How the probability follows the logits. The defaults are Karras et al.'s."""

    target: float = 0.6
    """The mean sign of the real logits that is aimed at."""
    images: int = 500_000
    """Images in which the probability can rise from 0 to 1."""
    interval: int = 4
    """Steps of the discriminator between two moves."""

    def __post_init__(self):
        if not -1.0 < self.target < 1.0 or self.images < 1 or self.interval < 1:
            raise UserError(
                "the target of adaptive augmentation is a mean sign within (-1, 1), images and interval at least 1, "
                f"not {self.target}, {self.images} and {self.interval}"
            )


def augmentation_state(probability: float) -> dict[str, Array]:
    """What ``model_state["augmentation"]`` begins as: the probability, and the signs since its last move."""
    return {"probability": jnp.float32(probability), "signs": jnp.zeros(()), "steps": jnp.zeros((), jnp.int32)}


def adapted(state: Any, real_logits: Float[Array, "b *shape"], config: AdaptiveConfig) -> dict[str, Array]:
    """The state after a step of the discriminator on a batch of b real images."""
    batch = real_logits.shape[0]
    signs, steps = state["signs"] + jnp.sign(real_logits).mean(), state["steps"] + 1
    move = jnp.sign(signs / steps - config.target) * (config.interval * batch / config.images)
    due = steps >= config.interval
    probability = jnp.where(due, jnp.clip(state["probability"] + move, 0.0, 1.0), state["probability"])
    return {"probability": probability, "signs": jnp.where(due, 0.0, signs), "steps": jnp.where(due, 0, steps)}
