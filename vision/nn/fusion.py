"""Batch normalisation folded into the preceding convolution, for inference: one multiplication less per pixel.

At inference, normalisation is affine in its input: gamma (x - mu) / sqrt(var + eps) + beta. The factor is merged into
the kernel, which leaves a bias (Jacob et al. 2018, "Quantization and Training of Neural Networks", section 3.2).
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.dense import add_bias


class Bias(nn.Module):
    """Adds a bias, the remainder of a normalisation after folding."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """``features`` plus the parameter "bias" [c]."""
        bias = self.param("bias", nn.initializers.zeros, (features.shape[-1],))
        return add_bias(features.astype(self.dtype), bias)


def folded_norm(*, train: bool, dtype: Any = jnp.float32, name: str | None = None, **how: Any) -> nn.Module:
    """The ``norm`` argument of a network with folded normalisations (see ``nn/batch_norm.py``).

    Raises ``UserError`` in training, since there are no statistics of batches.
    """
    del how
    if train:
        raise UserError("a network whose normalisations are folded is for inference only: train the original network")
    return Bias(dtype=dtype, name=name)


def fold(variables: Mapping[str, Any], *, epsilon: Callable[[str], float]) -> dict[str, Any]:
    """Variables of the same network with ``norm=folded_norm``: {"params": ...}, without statistics.

    Args:
      variables: "params" and "batch_stats". A normalisation is a module with statistics; the convolution before it is
        its sibling whose name has "conv" instead of "norm".
      epsilon: path of a normalisation ("backbone/stem_norm") -> what it adds to the variance.

    Raises:
      UserError: a normalisation has no such convolution.
    """

    def folded(params: Mapping[str, Any], stats: Mapping[str, Any], path: str) -> dict[str, Any]:
        made = {name: value for name, value in params.items() if name not in stats}
        for name, own in stats.items():
            if "mean" not in own:
                made[name] = folded(params[name], own, f"{path}{name}/")
                continue
            conv = name.replace("norm", "conv")
            if conv == name or "kernel" not in made.get(conv, {}):
                raise UserError(f"the normalisation {path}{name} has no sibling convolution {conv} to be folded into")
            norm = params.get(name, {})
            factor = norm.get("scale", 1.0) / jnp.sqrt(own["var"] + epsilon(path + name))
            before = made[conv].get("bias", 0.0)
            made[conv] = {"kernel": made[conv]["kernel"] * factor}
            made[name] = {"bias": norm.get("bias", 0.0) + (before - own["mean"]) * factor}
        return made

    return {"params": folded(variables["params"], variables.get("batch_stats", {}), "")}
