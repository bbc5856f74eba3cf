"""The recipe of upsamplers: diffusion of large images given small ones, with a text or without (Ramesh et al. 2022)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from vision.data.captions.data import CaptionedConfig, CaptionedData, captioned_data
from vision.data.image_data import Data, image_data
from vision.diffusion.conditions import Conditioning, Probabilities
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.generation import metrics_of_generators
from vision.evaluation.generator import Generator, generate
from vision.evaluation.upsampling import enlarged_images, small_images
from vision.models.unet import UNetConfig
from vision.ops.pixels import to_float
from vision.recipes.clip_encoder import NAME, clip_encoder
from vision.recipes.diffusion_networks import DiffusionNetwork, diffusion_network, with_variance
from vision.recipes.generative import EVALUATION_ONLY, GenerativeRunConfig, Objective, Samples, generative
from vision.recipes.text_conditions import REFERENCE, ClipConditions, ClipPartConfig, attends
from vision.recipes.text_networks import upsampler_by_name
from vision.recipes.text_requests import fitted, report_unknown
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import SamplingConfig, check, describe, sampler
from vision.tasks.upsampling import (
    UpsamplingConfig,
    check_upsampling,
    conditions_of,
    upsampling_conditioning,
    upsampling_loss,
    with_conditions,
)
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Sample
from vision.types import Batch, Condition, SampleRequest, TrainState
from vision.types import Samples as Answer


@dataclass(frozen=True, kw_only=True)
class UpsamplerRunConfig(GenerativeRunConfig):
    """Diffusion of large images given small ones."""

    model: UNetConfig = upsampler_by_name(UNetConfig())
    data: CaptionedConfig = CaptionedConfig()
    """The large images. Without a CLIP they need no captions, and ``data.name`` is that of any images."""
    upsampling: UpsamplingConfig = UpsamplingConfig()
    clip: ClipPartConfig = ClipPartConfig()
    """The text as a further condition, where ``clip.weights`` is set."""
    diffusion: DiffusionConfig = DiffusionConfig()
    """Its ``condition_dropout`` is that of the text."""
    sampling: SamplingConfig = SamplingConfig()
    flip: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class UpsamplerParts:
    """What the recipe is composed of, checked."""

    config: UpsamplerRunConfig
    """With the network that has the conditions."""
    data: Data
    network: DiffusionNetwork
    text: ClipConditions | None
    conditioning: Conditioning
    dropout: Probabilities

    def objective(self) -> Objective:
        """The loss, the held-out error and the sampler."""
        config, module, text = self.config, self.network.module, self.text
        process = make_process(config.diffusion)
        of: dict[str, Any] = {"conditioning": self.conditioning}
        own_loss = upsampling_loss(
            diffusion_loss(module, config.diffusion, process, dropout=self.dropout, **of), config.upsampling
        )
        own_error = held_out_error(module, config.diffusion, process, **of)
        shape = self.data.sample["image"].shape
        own_sample = sampler(module, config.diffusion, process, config.sampling, image_shape=shape, **of)
        texts = lambda clip, tokens: text.of_tokens(clip, tokens) if text is not None else {}

        def loss(params: Any, model_state: Any, batch: Batch, *, key: Any, step: Any) -> Any:
            found = texts(model_state["frozen"][NAME], batch["tokens"]) if text is not None else {}
            return own_loss(params, model_state, {**batch, **found}, key=key, step=step)

        def error(variables: Any, batch: Batch, *, key: Any) -> Any:
            found = texts(variables["frozen"][NAME], batch["tokens"]) if text is not None else {}
            small_key, error_key = jax.random.split(key)
            batch = with_conditions({**batch, **found}, config.upsampling, key=small_key)
            return own_error({"params": variables["params"]}, batch, key=error_key)

        def sample(variables: Any, condition: Condition, index: Array, key: Array, /) -> Array:
            small_key, sample_key = jax.random.split(key)
            small = to_float(condition[REFERENCE])
            made = conditions_of(small, config.upsampling, index=index, key=small_key)
            found = texts(variables[NAME], condition["tokens"]) if text is not None else {}
            return own_sample({"params": variables["params"]}, {**made, **found}, index, sample_key)

        return Objective(
            loss=loss,
            held_out=error,
            error=f"mean squared error of the {config.diffusion.prediction} target",
            sample=sample,
            sampling=describe(config.sampling),
            frozen={} if text is None else {NAME: text.clip.frozen},
            given=functools.partial(given_conditions, self),
        )


def given_conditions(parts: UpsamplerParts, count: int) -> Mapping[str, np.ndarray]:
    """Small versions of the first test images, repeated where there are fewer, with their captions."""
    large, small = small_images(parts.data, count, factor=parts.config.upsampling.factor)
    found = {REFERENCE: small}
    if parts.text is not None and isinstance(parts.data, CaptionedData):
        texts = [of[0] for of in parts.data.captioned("test").first(len(large))]
        tokens = parts.text.clip.tokenizer.encode(texts)
        found["tokens"] = tokens
    return {name: value[np.arange(count) % len(value)] for name, value in found.items()}


def upsampler_parts(config: UpsamplerRunConfig) -> UpsamplerParts:
    """The parts of the recipe. Raises ``UserError`` for settings that contradict each other."""
    for name in ("classes", "embedding", "vocabulary", "tokens", "condition_channels", "levels"):
        if getattr(config.model, name):
            raise UserError(f"model.{name} follows from the recipe of upsamplers: leave it out")
    if config.first_stage.path is not None:
        raise UserError("upsamplers generate pixels: leave first_stage.path out")
    if config.sampling.guide is not None:
        raise UserError("sampling.guide is for runs of classes or without conditions: leave it out")
    size, text = config.data.resolution, None
    check_upsampling(config.upsampling, size=size)
    channels = config.model.channels
    if config.clip.weights is None:
        data = image_data(config.data, classes=0, channels=channels)
    else:
        clip = clip_encoder(config.clip.weights, option="clip.weights")
        text = ClipConditions(clip=clip, kind="text", attended=attends(config.model))
        of: dict[str, Any] = {"length": clip.tokenizer.length, "channels": channels}
        data = captioned_data(config.data, tokenizer=lambda: clip.tokenizer, **of)
    model = config.model if text is None else text.network(config.model)
    model = replace(model, condition_channels=channels, levels=True)
    config = replace(config, model=model)
    learned = config.diffusion.variance == "learned"
    shape = data.sample["image"].shape
    crop = config.upsampling.crop
    network = diffusion_network(with_variance(model) if learned else model, shape)
    diffusion_network(model, (crop, crop, channels)) if crop else None  # crops must be divisible too
    conditioning = upsampling_conditioning(None if text is None else text.conditioning())
    dropout = {} if text is None else text.dropout(condition=config.diffusion.condition_dropout, text=0.0)
    given: dict[str, Any] = {"conditioning": conditioning, "dropout": dropout}
    check(config.diffusion, config.sampling, batch_size=config.batch_size // config.microbatches, **given)
    return UpsamplerParts(config=config, data=data, network=replace(network, folder=None), text=text, **given)


def upsampler(config: UpsamplerRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    parts = upsampler_parts(config)
    config = parts.config
    own = ("upsampling.sampled_level", "data.test_", "data.max_pixels")
    return generative(
        config,
        parts.network,
        Samples(images=parts.data, space=None, shape=parts.data.sample["image"].shape),
        parts.objective(),
        evaluation_only=(*EVALUATION_ONLY, *own),
        of_samples=lambda generator: combine(
            enlarged_images(generator, parts.data, count=config.samples, factor=config.upsampling.factor),
            metrics_of_generators(config.metrics, data=parts.data, images=config.data, labelled=False)(generator),
        ),
        sampling=functools.partial(requests, parts),
    )


def requests(parts: UpsamplerParts, generator: Generator) -> Any:
    """The function that generates samples on request: given images are downsampled, and enlarged by the network."""

    def factory(compiler: Compiler) -> Sample:
        def sample(state: TrainState, request: SampleRequest) -> Answer:
            request.check(conditions=("images", *(("prompts",) if parts.text is not None else ())))
            count = request.count
            condition, columns = dict(generator.condition(count)), None
            if request.images:
                side = parts.config.data.resolution // parts.config.upsampling.factor
                given = np.stack([fitted(image, side) for image in request.images])
                condition[REFERENCE] = given[np.arange(count) % len(given)]
                columns = len(given) if 1 < len(given) <= min(12, count) else None
            if parts.text is not None and (request.images or request.prompts):
                texts = [request.prompts[index % len(request.prompts)] for index in range(count) if request.prompts]
                report_unknown(parts.text.clip.tokenizer, request.prompts)
                encode = parts.text.clip.tokenizer.encode
                condition["tokens"] = encode(texts) if texts else parts.text.no_text(count)
            variables = generator.variables(state)
            images = generate(compiler, generator, variables, condition, count=count, seed=request.seed)
            return Answer(images=images, columns=columns)

        return sample

    return factory
