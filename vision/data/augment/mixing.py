"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of the images and soft targets of a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vision.data.augment.erase import rectangle

Mixed = tuple[Float[Array, "b h w c"], Float[Array, "b k"]]
"""Images and targets."""


def mixup(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b k"],
    *,
    alpha: float,
    per_sample: bool = True,
    key: Key[Array, ""],
) -> Mixed:
    """Each sample becomes lambda times itself plus (1 - lambda) times a partner (Zhang et al. 2018, equation 1).

    Args:
      images: values of any range.
      targets: probabilities of the classes, such as one-hot labels.
      alpha: lambda is sampled from Beta(alpha, alpha); positive.
      per_sample: whether each sample has its own lambda or the batch shares one, as in the paper's code.
      key: for lambda and for the partners: a permutation of the batch, so a sample may be its own partner.
    """
    share_key, partner_key = jax.random.split(key)
    return _mixup(images, targets, _share(images, alpha, per_sample, share_key), _partner(images, partner_key))


def cutmix(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b k"],
    *,
    alpha: float,
    per_sample: bool = True,
    key: Key[Array, ""],
) -> Mixed:
    """Replace a rectangle of each sample by its partner's, and the same share of the target.

    Yun et al. 2019, equations 1 and 2: the rectangle has the share 1 - lambda of the area, the image's aspect ratio,
    and a centre sampled uniformly; it is clipped to the image. The targets are weighted by the pixels counted after
    that.

    The arguments are those of :func:`mixup`, with one rectangle for each sample or one for the batch.
    """
    share_key, partner_key, place_key = jax.random.split(key, 3)
    share = _share(images, alpha, per_sample, share_key)
    return _cutmix(images, targets, share, _partner(images, partner_key), per_sample, place_key)


def mix(
    images: Float[Array, "b h w c"],
    targets: Float[Array, "b k"],
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    probability: float = 1.0,
    switch_probability: float = 0.5,
    per_sample: bool = True,
    key: Key[Array, ""],
) -> Mixed:
    """Mixup or CutMix, chosen at random for each sample or for the batch (Wightman et al. 2021, section 4).

    Args:
      images: values of any range.
      targets: probabilities of the classes.
      mixup_alpha: of mixup's Beta distribution; 0 leaves mixup out.
      cutmix_alpha: of CutMix's; 0 leaves CutMix out.
      probability: that a sample is mixed at all.
      switch_probability: of CutMix where both are on.
      per_sample: whether choices, lambda and rectangle are sampled for each sample or once for the batch, as in timm.
      key: partners are a permutation of the batch, the same for both.
    """
    mixup_key, cutmix_key, partner_key, place_key, coin_key, switch_key = jax.random.split(key, 6)
    partner = _partner(images, partner_key)
    count = images.shape[0] if per_sample else 1
    chosen = jax.random.bernoulli(coin_key, probability, (count,))
    cuts = jax.random.bernoulli(switch_key, switch_probability, (count,))
    out = images, targets
    if mixup_alpha:
        share = _share(images, mixup_alpha, per_sample, mixup_key)
        out = _where(chosen, _mixup(images, targets, share, partner), out)
    if cutmix_alpha:
        share = _share(images, cutmix_alpha, per_sample, cutmix_key)
        mixed = _cutmix(images, targets, share, partner, per_sample, place_key)
        out = _where(chosen & cuts if mixup_alpha else chosen, mixed, out)
    return out


def _share(images: Array, alpha: float, per_sample: bool, key: Array) -> Array:
    """Lambda, [b] or [1]."""
    return jax.random.beta(key, alpha, alpha, (images.shape[0] if per_sample else 1,))


def _partner(images: Array, key: Array) -> Array:
    return jax.random.permutation(key, images.shape[0])


def _mixup(images: Array, targets: Array, share: Array, partner: Array) -> Mixed:
    weight = share[:, None, None, None]
    mixed = weight * images + (1.0 - weight) * images[partner]
    return mixed, _weighted(targets, share, partner)


def _cutmix(images: Array, targets: Array, share: Array, partner: Array, per_sample: bool, key: Array) -> Mixed:
    _, height, width, _ = images.shape
    sides = jnp.array([height, width])
    middle = jax.random.randint(key, (images.shape[0] if per_sample else 1, 2), 0, sides)
    # Yun et al. 2019, equation 2: r_w = W sqrt(1 - lambda), r_h = H sqrt(1 - lambda)
    extent = jnp.round(sides * jnp.sqrt(1.0 - share)[:, None]).astype(jnp.int32)
    start = middle - extent // 2
    cut = rectangle(start, start + extent, height, width)
    kept = 1.0 - jnp.mean(cut, axis=(1, 2, 3))
    return jnp.where(cut, images[partner], images), _weighted(targets, kept, partner)


def _weighted(targets: Array, share: Array, partner: Array) -> Array:
    return share[:, None] * targets + (1.0 - share[:, None]) * targets[partner]


def _where(chosen: Array, mixed: Mixed, other: Mixed) -> Mixed:
    images = jnp.where(chosen[:, None, None, None], mixed[0], other[0])
    return images, jnp.where(chosen[:, None], mixed[1], other[1])
