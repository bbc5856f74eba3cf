"""Losses of image-text pairs: every image against every text of the global batch.

The program is written for the global batch: embeddings [b e] are divided over devices by samples, XLA gathers those of
texts, and each device computes the rows of its own images. So one device equals eight, and nothing here knows a mesh.
Neither loss is a mean over samples: a batch cannot be cut into microbatches.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from vision.models.clip.clip import Clip, ClipOutput
from vision.parallel.gathering import over_samples
from vision.types import Batch, LossFn


def similarities(pairs: ClipOutput) -> Float[Array, "b b"]:
    """Scaled cosines with their bias: row i has those of image i to all texts, whose own is text i."""
    # embeddings are float32, and products of a lower precision would move the diagonal as much as the temperature does
    cosines = jnp.matmul(pairs.image, pairs.text.T, precision=jax.lax.Precision.HIGHEST)
    return over_samples(pairs.scale * cosines + pairs.bias)


def softmax_loss(logits: Float[Array, "b b"]) -> Float[Array, ""]:
    """The mean of two cross-entropies: of each image's own text among all, and of each text's own image.

    Radford et al. 2021, figure 3.
    """
    own = jnp.diagonal(logits)
    of_images, of_texts = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.mean(0.5 * (of_images + of_texts) - own)


def sigmoid_loss(logits: Float[Array, "b b"]) -> Float[Array, ""]:
    """Whether each image and each text belong together, each pair for itself: summed over texts, averaged over images.

    Zhai et al. 2023, algorithm 1.
    """
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, jnp.eye(len(logits))), axis=1))


def contrastive_loss(model: Clip) -> LossFn:
    """The loss that the model's logits are of, on batches with "image" float32 [b h w c] and "tokens" int32 [b n].

    Logs the scale and the share of images whose own text is the most similar one in the batch.
    """

    def loss(
        params: Any, model_state: Any, batch: Batch, *, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Any, Mapping[str, Array]]]:
        del key, step
        made: Any = model.apply(
            {"params": params, **model_state}, batch["image"], batch["tokens"], train=True, mutable=["batch_stats"]
        )
        pairs, new = made
        logits = similarities(pairs)
        value = softmax_loss(logits) if model.config.logits == "softmax" else sigmoid_loss(logits)
        # compared and not by argmax, so that equal similarities count as wrong whatever their order
        rivals = jnp.where(jnp.eye(len(logits), dtype=bool), -jnp.inf, logits).max(1)
        scalars = {"scale": pairs.scale, "batch_recall": jnp.mean(jnp.diagonal(logits) > rivals)}
        return value, ({**model_state, **new}, scalars)

    return loss
