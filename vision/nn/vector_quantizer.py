"""Vector quantisation: each vector becomes the nearest of a codebook (van den Oord et al. 2017, "VQ-VAE").

The codebook follows the vectors by exponential averages (appendix A.1 there) in place of a gradient, and codes that are
no longer used start again from vectors of the batch (Dhariwal et al. 2020, "Jukebox", section 3.2).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Quantised(NamedTuple):
    """Quantised vectors and statistics."""

    vectors: Array
    """The nearest codes, float32 [b h w d]; the gradient is that of the identity (straight-through)."""
    indices: Array
    """Their indices, int32 [b h w]."""
    commitment: Array
    """Mean squared distance of the vectors from their codes, whose gradient pulls the vectors: float32 []."""
    perplexity: Array
    """exp of the entropy of the codes in this batch: the effective number of codes in use, float32 []."""
    usage: Array
    """Share of the codebook that is in use: chosen at least ``dead_below`` times per batch on average; float32 []."""


def nearest(vectors: Float[Array, "n d"], codes: Float[Array, "k d"]) -> Int[Array, " n"]:
    """The index of the nearest code by Euclidean distance; the first of equals."""
    # |v - c|^2 = |v|^2 - 2 v c + |c|^2, and the first term is the same for all codes; in full precision, since a
    # product in bfloat16 would select a different code as the nearest
    products = jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(jnp.square(codes), axis=1) - 2.0 * products, axis=1).astype(jnp.int32)


def perplexity(shares: Float[Array, " k"]) -> Float[Array, ""]:
    """exp(-sum p log p) of shares with the sum 1: from 1 (all in one code) to k."""
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


class VectorQuantizer(nn.Module):
    """A codebook of ``codes`` vectors of ``dimensions``; its state is the collection "codebook"."""

    codes: int
    dimensions: int
    decay: float = 0.99
    """Decay of the exponential averages."""
    dead_below: float = 0.1
    """Codes whose average count per batch is lower are restarted at a vector of this batch; at most 1, and 0 for never.
    In the first batch nearly all are, since counts start at 0."""

    def setup(self):
        """Averages of counts and sums; a code is their quotient."""
        start = lambda: nn.initializers.normal(1.0)(self.make_rng("params"), (self.codes, self.dimensions))
        self.codebook = self.variable("codebook", "codes", start)
        # without restarts, initial codes count as if they had been used once per batch
        counted = 0.0 if self.dead_below > 0.0 else 1.0
        self.counts = self.variable("codebook", "counts", lambda: jnp.full(self.codes, counted))
        self.sums = self.variable("codebook", "sums", lambda: counted * self.codebook.value)

    def __call__(
        self, vectors: Float[Array, "b h w d"], *, key: Key[Array, ""] | None = None, train: bool
    ) -> Quantised:
        """Quantise; with ``train``, update the codebook with the vectors of the global batch.

        Args:
          vectors: of the encoder.
          key: for the choice of vectors for dead codes; required with ``train``.
          train: whether the collection "codebook" changes, which must then be mutable.
        """
        flat = vectors.reshape(-1, self.dimensions)
        indices = nearest(flat, self.codebook.value)
        chosen = self.codebook.value[indices].reshape(vectors.shape)
        one_hot = jax.nn.one_hot(indices, self.codes)
        batch_counts = one_hot.sum(0)
        alive = self.counts.value >= max(self.dead_below, 1e-6)
        if train and not self.is_initializing():
            assert key is not None, "dead codes need a key to start again"
            alive = self._follow(jax.lax.stop_gradient(flat), one_hot, batch_counts, key)
        commitment = jnp.mean(jnp.square(vectors - jax.lax.stop_gradient(chosen)))
        return Quantised(
            # van den Oord et al. 2017, section 3.2: the gradient of the code is passed to the vector
            vectors=vectors + jax.lax.stop_gradient(chosen - vectors),
            indices=indices.reshape(vectors.shape[:-1]),
            commitment=commitment,
            perplexity=perplexity(batch_counts / flat.shape[0]),
            usage=jnp.mean(alive.astype(jnp.float32)),
        )

    def _follow(self, flat: Array, one_hot: Array, batch_counts: Array, key: Array) -> Array:
        """Updates the codebook; returns which codes were alive before restarting the others."""
        # van den Oord et al. 2017, appendix A.1, eq. 6 to 8
        counts = self.decay * self.counts.value + (1.0 - self.decay) * batch_counts
        sums = self.decay * self.sums.value + (1.0 - self.decay) * jnp.matmul(
            one_hot.T, flat, precision=jax.lax.Precision.HIGHEST
        )
        dead = counts < self.dead_below
        some = flat[jax.random.randint(key, (self.codes,), 0, flat.shape[0])]
        # a restarted code counts as if it had always been used once per batch
        self.counts.value = jnp.where(dead, 1.0, counts)
        self.sums.value = jnp.where(dead[:, None], some, sums)
        self.codebook.value = self.sums.value / jnp.maximum(self.counts.value, 1e-30)[:, None]
        return ~dead & (counts >= 1e-6)

    def lookup(self, indices: Int[Array, "b h w"]) -> Float[Array, "b h w d"]:
        """The codes at ``indices``."""
        return self.codebook.value[indices]
