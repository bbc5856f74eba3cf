"""How autoencoders that compress images are judged and shown: what is lost, and how many codes are in use."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.special import xlogy

from vision.evaluation.vae import SHOWN, ReconstructionSet, beside
from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise
from vision.metrics.reconstruction.structural_similarity import structural_similarity
from vision.ops.pixels import to_float
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation


def evaluator(
    compiler: Compiler, rebuilt: Callable[[Any, Array], tuple[Array, Array]], *, codes: int
) -> Callable[[Any, ReconstructionSet], Evaluation]:
    """(variables, test set) -> errors of rebuilt images, the use of codes, and pictures.

    Args:
      compiler: of the mesh.
      rebuilt: (variables, images uint8 [b h w c]) -> codes without noise, and the images of these, uint8.
      codes: entries of the codebook, which the codes are int32 indices of; 0 where there is none.
    """

    def sums(variables: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        indices, made = rebuilt(variables, batch["image"])
        keep = batch["mask"].astype(jnp.float32)
        one, other = to_float(made), to_float(batch["image"])
        each = {
            "psnr": peak_signal_to_noise(one, other),
            "ssim": structural_similarity(one, other),
            "l1": 0.5 * jnp.mean(jnp.abs(one - other), axis=(1, 2, 3)),
        }
        found = {name: jnp.sum(jnp.where(batch["mask"], value, 0.0)) for name, value in each.items()}
        if codes:
            used = jax.nn.one_hot(indices, codes) * keep[:, None, None, None]
            found["codes"] = used.sum((0, 1, 2))
        return {**found, "count": jnp.sum(keep)}

    compiled, compiled_rebuilt = compiler.function(sums), compiler.function(rebuilt)

    def evaluate(variables: Any, test: ReconstructionSet) -> Evaluation:
        total: dict[str, Any] = {}
        for batch in test.batches():
            fields = compiler.shard({name: batch[name] for name in ("image", "mask")})
            for name, value in jax.device_get(compiled(variables, fields)).items():
                total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
        count = float(total["count"])
        how = f"rebuilt and rounded to 8 bits, mean over {int(count):,} images of {test.description}"
        scalars = {name: float(total[name] / count) for name in ("psnr", "ssim", "l1")}
        protocol = {
            "psnr": f"peak signal-to-noise ratio of an image in dB, {how}",
            "ssim": f"structural similarity, Gaussian 11x11 of deviation 1.5, valid region, mean over channels, {how}",
            "l1": f"mean absolute error of pixels in [0, 1], {how}",
        }
        if codes:
            shares = total["codes"] / total["codes"].sum()
            scalars["perplexity"] = float(np.exp(-np.sum(xlogy(shares, shares))))
            scalars["used"] = float(np.mean(shares > 0))
            protocol["perplexity"] = f"exp of the entropy of the codes of {int(count):,} images of {test.description}"
            protocol["used"] = f"share of the {codes} codes that these images use"
        shown = test.first["image"][:SHOWN]
        _, made = jax.device_get(compiled_rebuilt(variables, compiler.shard_padded(shown)))
        return Evaluation(scalars, {"reconstructions": beside(shown, made[: len(shown)])}, protocol)

    return evaluate
