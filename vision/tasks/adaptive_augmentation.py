"""How strongly a discriminator's images are augmented, from how much it overfits (Karras et al. 2020).

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section 3: the mean sign of the logits
of real training images, r_t = E[sign(l(x))], is near 0 while the discriminator cannot tell, and near 1 when it knows
its training images by heart. Where it is above a target the probability of augmentations rises by a fixed amount, where
it is below it falls.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float

from vision.ranges import PositiveInt, check_ranges


@dataclass(frozen=True)
class AdaptiveConfig:
    """How the probability follows the logits. The defaults are Karras et al.'s."""

    target: Annotated[float, Interval(gt=-1.0, lt=1.0)] = 0.6
    """The mean sign of the real logits that is aimed at."""
    images: PositiveInt = 500_000
    """Images in which the probability can rise from 0 to 1."""
    interval: PositiveInt = 4
    """Steps of the discriminator between two moves."""

    def __post_init__(self):
        check_ranges(self)


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
