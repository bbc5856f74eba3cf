"""Evaluation of autoencoders that compress images: the error of reconstructions, and the use of the codebook."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vision.data.image_data import Data
from vision.data.source import in_memory
from vision.evaluation.vae import SHOWN, ReconstructionSet, interleaved
from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise
from vision.metrics.reconstruction.structural_similarity import structural_similarity
from vision.ops.pixels import to_float
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


def evaluator(
    compiler: Compiler, reconstruct: Callable[[Any, Array], tuple[Array, Array]], *, codebook: int
) -> Callable[[Any, ReconstructionSet], Evaluation]:
    """(variables, test set) -> errors of reconstructions, the use of the codebook, and images.

    Args:
      compiler: of the mesh.
      reconstruct: (variables, images uint8 [b h w c]) -> latents without noise, and the images decoded
        from them, uint8.
      codebook: entries of the codebook, whose int32 indices the latents are; 0 where there is none.
    """

    def sums(variables: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        indices, made = reconstruct(variables, batch["image"])
        keep = batch["mask"].astype(jnp.float32)
        one, other = to_float(made), to_float(batch["image"])
        each = {
            "psnr": peak_signal_to_noise(one, other),
            "ssim": structural_similarity(one, other),
            "l1": 0.5 * jnp.mean(jnp.abs(one - other), axis=(1, 2, 3)),
        }
        found = {name: jnp.sum(jnp.where(batch["mask"], value, 0.0)) for name, value in each.items()}
        if codebook:
            used = jax.nn.one_hot(indices, codebook) * keep[:, None, None, None]
            found["codes"] = used.sum((0, 1, 2))
        return {**found, "count": jnp.sum(keep)}

    compiled, compiled_reconstruct = compiler.function(sums), compiler.function(reconstruct)

    def evaluate(variables: Any, test: ReconstructionSet) -> Evaluation:
        total: dict[str, Any] = {}
        for batch in test.batches():
            fields = compiler.shard({name: batch[name] for name in ("image", "mask")})
            for name, value in jax.device_get(compiled(variables, fields)).items():
                total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
        count = float(total["count"])
        how = f"reconstructed and rounded to 8 bits, mean over {int(count):,} images of {test.description}"
        scalars = {name: float(total[name] / count) for name in ("psnr", "ssim", "l1")}
        protocol = {
            "psnr": f"peak signal-to-noise ratio of an image in dB, {how}",
            "ssim": f"structural similarity, Gaussian 11x11 of deviation 1.5, valid region, mean over channels, {how}",
            "l1": f"mean absolute error of pixels in [0, 1], {how}",
        }
        if codebook:
            from scipy.special import xlogy  # takes a quarter of a second to import, which no start should wait for

            shares = total["codes"] / total["codes"].sum()
            scalars["perplexity"] = float(np.exp(-np.sum(xlogy(shares, shares))))
            scalars["used"] = float(np.mean(shares > 0))
            protocol["perplexity"] = f"exp of the entropy of the codes of {int(count):,} images of {test.description}"
            protocol["used"] = f"share of the {codebook} codes that these images use"
        shown = test.first["image"][:SHOWN]
        _, made = jax.device_get(compiled_reconstruct(variables, compiler.shard_padded(shown)))
        return Evaluation(scalars, {"reconstructions": interleaved(shown, made[: len(shown)])}, protocol)

    return evaluate


def reconstruction_metrics(
    reconstruct: Callable[[Any, Array], tuple[Array, Array]],
    data: Data,
    variables: Callable[[TrainState], Any],
    *,
    codebook: int,
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """Errors of reconstructions of the test split, see :func:`evaluator`.

    Args:
      reconstruct: see :func:`evaluator`.
      data: whose test split.
      variables: state -> variables of ``reconstruct``.
      codebook: see :func:`evaluator`.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols: "EMA 0.999".
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, reconstruct, codebook=codebook)
        first = in_memory(data.source("test")).only(("image",)).first(SHOWN)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = ReconstructionSet(lambda: data.test_batches(size), first, (), words)
        return lambda state: evaluate(variables(state), test)

    return factory
