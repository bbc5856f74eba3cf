"""The recipe of generating images for texts: diffusion conditioned on what a frozen CLIP says of texts and images.

Two generators differ in their conditions alone. With "text" it is a diffusion model of captions without more: the
tokens of the text tower are attended to, and its embedding is added to the time (Nichol et al. 2021, "GLIDE"; Rombach
et al. 2022). With "embedding" or "both" it is unCLIP's decoder (Ramesh et al. 2022, section 2.1): it turns the
embedding of an image into images like it, and a prior turns texts into such embeddings.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, UInt8

from vision.data.captions.data import CaptionedConfig, CaptionedData, captioned_data
from vision.data.source import read
from vision.diffusion.conditions import Conditioning, Probabilities
from vision.errors import UserError
from vision.evaluation.caption_facts import caption_facts, captions_given
from vision.evaluation.caption_grid import caption_grid
from vision.evaluation.combine import combine
from vision.evaluation.generation import metrics_of_generators
from vision.evaluation.generator import Generator
from vision.models.unet import UNetConfig
from vision.ranges import Fraction, PositiveInt
from vision.recipes.cascade import UPSAMPLERS, Cascade, cascade
from vision.recipes.clip_encoder import NAME, clip_encoder
from vision.recipes.diffusion_networks import DiffusionNetwork, diffusion_network, with_variance
from vision.recipes.edit_requests import GeneralEdits
from vision.recipes.generative import (
    EVALUATION_ONLY,
    QUICK_GENERATION,
    GenerativeRunConfig,
    Objective,
    Samples,
    generative,
)
from vision.recipes.latents import latent_space
from vision.recipes.quick_data import PAIRS, tiny_captions
from vision.recipes.text_conditions import (
    DESCRIBED,
    EMBEDDING,
    REFERENCE,
    ClipConditions,
    ClipPartConfig,
    Conditions,
    attends,
    of_other_images,
)
from vision.recipes.text_networks import SMALL_TEXT_UNET, text_network_by_name
from vision.recipes.text_requests import EmbeddingsOfTexts, Substitute, TextRequests, fields, report_unknown
from vision.tasks.diffusion import DiffusionConfig, HeldOutError, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import SamplingConfig, check, describe, guided_denoiser, sampler
from vision.train.experiment import EvaluatorFactory, Experiment, Intervals
from vision.types import Batch, Condition, LossFn, Sampler


@dataclass(frozen=True, kw_only=True)
class TextToImageRunConfig(GenerativeRunConfig):
    """Diffusion of captioned images."""

    model: UNetConfig = text_network_by_name(UNetConfig())
    data: CaptionedConfig = CaptionedConfig()
    clip: ClipPartConfig = ClipPartConfig()
    conditions: Conditions = "text"
    """What the network is given of a caption and of the image itself."""
    embedding_tokens: PositiveInt = 4
    """Tokens, at least 1, that the embedding of an image is projected to. Unused with the text alone."""
    diffusion: DiffusionConfig = DiffusionConfig()
    """Its ``condition_dropout`` is that of the embedding, or of the text where that is the only condition."""
    text_dropout: Fraction = 0.5
    """Share of samples trained without their text, independently of the embedding. Unused without both."""
    sampling: SamplingConfig = SamplingConfig()
    substitute: Substitute = "text"
    """What stands for the embedding of an image where only a text is given and there is no prior."""
    prior: Path | None = None
    """Sampling and evaluation: the run of a prior, which turns texts into embeddings of images."""
    upsampler: Path | None = None
    """Sampling and evaluation: the run of an upsampler for images of this size."""
    second_upsampler: Path | None = None
    """The same for images of the size that the first one makes."""
    asked: PositiveInt = 512
    """Shapes world: captions of each evaluation, at least 1, whose facts are looked for in the samples."""
    flip: bool = False

    def notices(self) -> tuple[str, ...]:
        """Also a CLIP that was trained on other images."""
        return (*super().notices(), *of_other_images(self.clip, self.data.name))


QUICK_TEXT_TO_IMAGE: dict[str, Any] = {
    **QUICK_GENERATION,
    "model": SMALL_TEXT_UNET,
    "data": PAIRS,
    "diffusion": DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
    "sampling": SamplingConfig(steps=20, guidance=2.0),
    "intervals": Intervals(log=3_200, evaluate=60_000, save=20_000),
    "images": 120_000,
    "samples": 64,
    "asked": 256,
}
"""What ``--quick`` has, with and without embeddings of images: the shapes world at 32x32 pixels."""
TINY_TEXT_TO_IMAGE: dict[str, Any] = {
    "model": replace(SMALL_TEXT_UNET, width=16, multipliers=(1,), blocks=1, attention=(), heads=2),
    "data": tiny_captions(PAIRS),
    "diffusion": replace(QUICK_TEXT_TO_IMAGE["diffusion"], steps=20),
    "sampling": replace(QUICK_TEXT_TO_IMAGE["sampling"], steps=2),
    "samples": 4,
    "asked": 4,
    "held_out": 8,
}
"""Changes to it for tests."""


CASCADE = ("prior", *UPSAMPLERS)
"""Fields that name the runs before and behind the decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextToImageParts:
    """What the recipe is composed of, checked."""

    config: TextToImageRunConfig
    """With the network that has the conditions."""
    data: CaptionedData
    samples: Samples
    network: DiffusionNetwork
    conditions: ClipConditions
    conditioning: Conditioning
    dropout: Probabilities
    cascade: Cascade

    def objective(self) -> Objective:
        """The loss, the held-out error and the sampler; all of them find the CLIP among frozen networks."""
        config, module = self.config, self.network.module
        process = make_process(config.diffusion)
        of: dict[str, Any] = {"conditioning": self.conditioning}
        levels: dict[str, Any] = {"levels": None} if self.samples.space else {}
        loss = diffusion_loss(module, config.diffusion, process, dropout=self.dropout, **of, **levels)
        sample = sampler(module, config.diffusion, process, config.sampling, image_shape=self.samples.shape, **of)
        return Objective(
            loss=conditioned_loss(loss, self.conditions),
            held_out=conditioned_error(held_out_error(module, config.diffusion, process, **of), self.conditions),
            error=f"mean squared error of the {config.diffusion.prediction} target",
            sample=conditioned_sampler(sample, self.conditions),
            sampling=describe(config.sampling),
            frozen={NAME: self.conditions.clip.frozen},
            given=captions_given(self.data, functools.partial(given_conditions, self.conditions)),
        )


def conditioned_loss(loss: LossFn, conditions: ClipConditions) -> LossFn:
    """``loss`` of batches with "image" in [-1, 1] and "tokens", to which the conditions by the CLIP are added."""

    def with_conditions(params, model_state, batch, *, key, step):
        batch = conditions.of_batch(model_state["frozen"][NAME], batch)
        return loss(params, model_state, batch, key=key, step=step)

    return with_conditions


def conditioned_error(error: HeldOutError, conditions: ClipConditions) -> HeldOutError:
    """The same for a held-out error."""

    def with_conditions(variables: Any, batch: Batch, *, key: Any) -> Any:
        batch = conditions.of_batch(variables["frozen"][NAME], batch)
        return error({"params": variables["params"]}, batch, key=key)

    return with_conditions


def conditioned_sampler(sample: Sampler, conditions: ClipConditions) -> Sampler:
    """``sample`` whose conditions are those of ``ClipConditions.of_request``, and the CLIP among its variables."""

    def with_conditions(variables: Any, condition: Condition, index: Array, key: Array, /) -> Array:
        made = conditions.of_request(variables[NAME], condition)
        return sample({"params": variables["params"]}, made, index, key)

    return with_conditions


def given_conditions(conditions: ClipConditions, texts: Sequence[str], images: Any) -> Mapping[str, Any]:
    """What evaluation asks for: captions of test images, and the embeddings of the images themselves."""
    found: dict[str, Any] = {}
    if conditions.has_text:
        found["tokens"] = conditions.clip.tokenizer.encode(texts)
    if conditions.has_embedding:
        found[REFERENCE] = images()
    return found


def text_to_image_parts(config: TextToImageRunConfig) -> TextToImageParts:
    """The parts of the recipe.

    Raises ``UserError`` for settings that contradict each other, or where there is no CLIP.
    """
    if config.clip.weights is None:
        raise UserError(
            "the conditions are what a CLIP says of texts and images: train one with experiments.clip_shapes and name "
            "its run with --clip.weights, or the folder of a published one"
        )
    if config.sampling.guide is not None:
        raise UserError("sampling.guide is for runs of classes or without conditions: leave it out")
    clip = clip_encoder(config.clip.weights, option="clip.weights")
    conditions = ClipConditions(
        clip=clip,
        kind=config.conditions,
        embedding_tokens=config.embedding_tokens,
        attended=attends(config.model),
    )
    latent = config.first_stage.path is not None
    if latent and conditions.has_embedding:
        raise UserError("a decoder of embeddings generates pixels: leave first_stage.path out, or set conditions text")
    if latent and config.first_stage.latents is not None:
        raise UserError("captioned images are encoded in each step: leave first_stage.latents out")
    if latent and config.sampling.threshold != "none":
        raise UserError("latents are not confined to [-1, 1] as images are: set --sampling.threshold none")
    channels = 3 if latent else config.model.channels
    tokenizer = lambda: clip.tokenizer
    data = captioned_data(config.data, tokenizer=tokenizer, length=clip.tokenizer.length, channels=channels)
    space = latent_space(data, config.first_stage, option="first_stage", flip=config.flip) if latent else None
    shape = data.sample["image"].shape if space is None else space.shape
    config = replace(config, model=conditions.network(config.model))
    learned = config.diffusion.variance == "learned"
    network = diffusion_network(with_variance(config.model) if learned else config.model, shape)
    conditioning = conditions.conditioning()
    dropout = conditions.dropout(condition=config.diffusion.condition_dropout, text=config.text_dropout)
    of: dict[str, Any] = {"conditioning": conditioning, "dropout": dropout}
    check(config.diffusion, config.sampling, batch_size=config.batch_size // config.microbatches, **of)
    return TextToImageParts(
        config=config,
        data=data,
        samples=Samples(images=data, space=space, shape=shape),
        # the network of a folder of diffusers has none of these conditions
        network=replace(network, folder=None),
        conditions=conditions,
        cascade=cascade(
            {name: getattr(config, name) for name in CASCADE}, conditions, side=data.sample["image"].shape[0]
        ),
        **of,
    )


def text_to_image(config: TextToImageRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    parts = text_to_image_parts(config)
    own = ("substitute", "asked", "data.test_", "data.max_pixels", *CASCADE)
    experiment = generative(
        parts.config,
        parts.network,
        parts.samples,
        parts.objective(),
        evaluation_only=(*EVALUATION_ONLY, *own),
        of_samples=functools.partial(of_samples, parts, parts.cascade.prior),
        sampling=functools.partial(requests, parts, parts.cascade.prior),
        editing=functools.partial(editing, parts) if parts.conditions.kind == "text" else None,
    )
    frozen = {**experiment.frozen, **parts.cascade.frozen}
    return replace(experiment, frozen=frozen, requests=fields(parts.conditions))


def editing(parts: TextToImageParts, generator: Generator) -> GeneralEdits:
    """The function that edits images on request, by what the result shows in words."""
    config, conditions = parts.config, parts.conditions
    of: tuple[Any, Any, Any] = (parts.network.module, config.diffusion, make_process(config.diffusion))

    def given(text: str, count: int) -> dict[str, np.ndarray]:
        report_unknown(conditions.clip.tokenizer, [text] if text else [])
        return {"tokens": conditions.clip.tokenizer.encode([text] * count) if text else conditions.no_text(count)}

    def denoiser_by(sampling: SamplingConfig) -> Any:
        denoiser_of = guided_denoiser(*of, replace(sampling, method="ddim"), conditioning=parts.conditioning)

        def denoiser(variables: Any, condition: Condition) -> Any:
            made = conditions.of_request(variables["frozen"][NAME], condition)
            return denoiser_of({"params": variables["params"]}, made)

        return denoiser

    return GeneralEdits(
        generator=generator,
        side=config.data.resolution,
        process=of[2],
        sampling=config.sampling,
        denoiser=denoiser_by(config.sampling),
        described=denoiser_by(replace(config.sampling, guidance=1.0, text_guidance=None)),
        conditions=given,
        space=parts.samples.space,
    )


def given_texts(
    conditions: ClipConditions,
    prior: EmbeddingsOfTexts | None,
    substitute: Substitute,
    texts: Sequence[str],
    images: Any,
) -> Mapping[str, Any]:
    """What evaluation asks a decoder for where only captions are given."""
    del images
    tokens = conditions.clip.tokenizer.encode(texts)
    found: dict[str, Any] = {"tokens": tokens} if conditions.has_text else {}
    if prior is not None:
        return {**found, EMBEDDING: np.asarray(prior(texts, seed=0), np.float32)}
    if substitute == "zeros":
        return {**found, EMBEDDING: np.zeros((len(texts), conditions.clip.embedding), np.float32)}
    return {**found, DESCRIBED: tokens}


def of_samples(parts: TextToImageParts, prior: EmbeddingsOfTexts | None, generator: Generator) -> EvaluatorFactory:
    """Samples under their captions, whether these are right, and distances to real images.

    Of a decoder, samples are decoded from the embeddings of the images of the captions; whether captions are right is
    found for samples of the captions alone too.
    """
    config = parts.config
    of: dict[str, Any] = {"count": config.asked, "batch": config.metrics.batch}
    by_texts: tuple[EvaluatorFactory, ...] = ()
    if not parts.conditions.has_embedding:
        by_texts = enlarged_facts(parts, generator)
    if parts.conditions.has_embedding:
        made = functools.partial(given_texts, parts.conditions, prior, config.substitute)
        origin = "the prior" if prior is not None else f"{config.substitute} in place of a prior"
        alone = replace(
            generator,
            given=captions_given(parts.data, made),
            description=f"{generator.description}, from captions by {origin}",
        )
        by_texts = (caption_facts(alone, parts.data, name="text_facts", **of), *enlarged_facts(parts, alone))
        if prior is not None:
            by_texts = (caption_grid(alone, parts.data, count=config.samples, name="text_samples"), *by_texts)
    return combine(
        caption_grid(generator, parts.data, count=config.samples),
        caption_facts(generator, parts.data, **of),
        *by_texts,
        metrics_of_generators(config.metrics, data=parts.data, images=config.data, labelled=False)(generator),
    )


def enlarged_facts(parts: TextToImageParts, generator: Generator) -> tuple[EvaluatorFactory, ...]:
    """Whether captions are still right in samples that the upsamplers have enlarged; nothing without one."""
    if not parts.cascade.upsamplers:
        return ()
    config, enlarged = parts.config, parts.cascade.enlarged(generator, parts.conditions)
    large = replace(config.data, resolution=list(parts.cascade.upsamplers.values())[-1].large)
    tokenizer = parts.conditions.clip.tokenizer
    # the same scenes: of the real images only the size is another
    data = captioned_data(large, tokenizer=lambda: tokenizer, length=tokenizer.length)
    of: dict[str, Any] = {"count": config.asked, "batch": config.metrics.batch}
    return (caption_facts(enlarged, data, name="large_facts", **of),)


def requests(parts: TextToImageParts, prior: EmbeddingsOfTexts | None, generator: Generator) -> TextRequests:
    """The function that generates samples on request."""

    def captions(count: int) -> list[str]:
        known = parts.data.captioned("test").first(count)
        return [known[index % len(known)][0] for index in range(count)]

    def pictures(count: int) -> UInt8[np.ndarray, "n h w 3"]:
        source = parts.data.source("test")
        return np.stack([read(source, index)["image"] for index in range(min(count, len(source)))])

    return TextRequests(
        generator=generator,
        pictures=pictures,
        conditions=parts.conditions,
        side=parts.config.data.resolution,
        captions=captions,
        prior=prior,
        substitute=parts.config.substitute,
        enlargers=parts.cascade.enlargers(parts.conditions),
    )
