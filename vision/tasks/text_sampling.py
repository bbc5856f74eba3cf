"""Diffusion conditioned on encoded sentences: the loss, and sampling with a negative prompt.

The network has the call of a `vision.models.unet_condition.unet.ConditionUNet`. Its condition "context" has no constant
that means "none": that is the context of the empty sentence, or of one whose content is to be avoided.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.diffusion.guidance import denoiser, guided, guided_by_text_and_image
from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Denoiser, integrate
from vision.tasks.diffusion import DiffusionConfig, Variables
from vision.tasks.sampling import ALL_SIGMAS, SamplingConfig, make_plan, make_threshold, predictor, start_noise
from vision.types import Condition


def dropped_texts(
    tokens: Int[Array, "b n"], null: Int[Array, " n"], *, probability: float, key: Key[Array, ""]
) -> Int[Array, "b n"]:
    """Tokens of texts, a share of which is replaced by those of the empty one (Ho & Salimans 2022, algorithm 1)."""
    without = jax.random.bernoulli(key, probability, (tokens.shape[0],))
    return jnp.where(without[:, None], null, tokens)


def text_denoiser(
    model: nn.Module,
    variables: Variables,
    config: DiffusionConfig,
    process: Process,
    sampling: SamplingConfig,
    *,
    condition: Condition,
    null: Condition,
    image_guidance: float | None = None,
) -> Denoiser:
    """The guided estimate of what is generated.

    Args:
      model: the network.
      variables: {"params": ...}.
      config: what it predicts.
      process: of its times.
      sampling: the guidance scale; intervals, rescaling and a learned variance as in ``vision.tasks.sampling``.
      condition: arrays [b ...] by name, "context" among them.
      null: the same names and shapes, of the empty or the negative sentence.
      image_guidance: the scale of the condition "image" of networks that edit; None for others.
    """
    learned = sampling.method == "ancestral" and sampling.variance == "learned"
    predict = predictor(model, variables, variance=learned)
    of: dict[str, Any] = {"data_deviation": config.data_deviation, "variance": learned}
    denoise = denoiser(predict, process, config.prediction, **of)
    if image_guidance is not None:
        scales = {"scale": sampling.guidance, "image_scale": image_guidance}
        return guided_by_text_and_image(denoise, condition=condition, null=null, **scales)
    return guided(
        denoise,
        condition=condition,
        null=null,
        scale=sampling.guidance,
        process=process,
        interval=sampling.guidance_range if sampling.guidance_range != ALL_SIGMAS else (0.0, float("inf")),
        rescale=sampling.guidance_rescale,
    )


def text_sampler(
    model: nn.Module,
    config: DiffusionConfig,
    process: Process,
    sampling: SamplingConfig,
    *,
    shape: tuple[int, int, int],
    image_guidance: float | None = None,
) -> Callable[[Variables, Condition, Condition, Int[Array, " b"], Key[Array, ""]], Float[Array, "b h w c"]]:
    """(variables, condition, null, index, key) -> samples of ``shape`` (h, w, c); arguments of :func:`text_denoiser`.

    Sample i depends on (key, index[i], condition i, null i) alone, up to rounding.
    """
    plan = make_plan(process, sampling)

    def sample(variables, condition, null, index, key):
        start_key, walk_key = jax.random.split(key)
        start = start_noise(plan, shape, index=index, key=start_key)
        of = {"condition": condition, "null": null, "image_guidance": image_guidance}
        denoise = text_denoiser(model, variables, config, process, sampling, **of)
        return integrate(plan, denoise, start, key=walk_key, index=index, threshold=make_threshold(sampling))

    return sample
