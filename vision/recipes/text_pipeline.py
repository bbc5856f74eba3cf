"""The recipe of text-to-image models in latents: the parts, loss, optimizer, evaluation, and sampling from sentences.

A network that edits or inpaints is sampled from with images; what it would be trained on, pairs before and after an
instruction, is no data of this project, so that a run of one cannot be trained or evaluated.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vision.data.captions.data import CaptionedConfig, CaptionedData, captioned_data
from vision.data.text.training import END
from vision.diffusion.conditions import Conditioning
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.generation import GenerationConfig, generation_metrics
from vision.evaluation.held_out import held_out_loss
from vision.evaluation.samples import sample_grid_evaluator
from vision.evaluation.text_generator import TextGenerator, text_sampling
from vision.models.clip.text import TextConfig
from vision.models.unet_condition.unet import SHARDING_RULES, ConditionUNet, ConditionUNetConfig, condition_shapes
from vision.ops.pixels import to_float, to_uint8
from vision.pretrained.pipeline import UNET, PublishedPipeline, write_pipeline
from vision.pretrained.unet2d_condition import unet2d_condition_source
from vision.ranges import NonNegativeFloat, PositiveInt
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.first_stage import NAME as FIRST_STAGE
from vision.recipes.first_stage import SHAPES
from vision.recipes.generative import averaged_variables
from vision.recipes.latents import STATE, FirstStageConfig, LatentSpace, latent_space
from vision.recipes.pipeline_parts import NAME, OPTION, PipelineConfig, PipelineParts, pipeline_parts
from vision.recipes.run_config import RunConfig
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import ALL_SIGMAS, SamplingConfig, check, describe
from vision.tasks.text_sampling import dropped_texts, text_sampler
from vision.train.experiment import EvaluatorFactory, Experiment
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.step import accumulate, gradient
from vision.types import LossFn, TrainState

_CONTEXT = Conditioning({"context": 0.0})
_TEXT = TextConfig(vocabulary=4_096, length=32, end=END, width=768, depth=6, heads=12)
_MODEL, _DIFFUSION = ConditionUNetConfig(), DiffusionConfig(schedule="scaled_linear")


@dataclass(frozen=True, kw_only=True)
class TextPipelineConfig(RunConfig):
    """Images from captions."""

    pipeline: PipelineConfig = PipelineConfig()
    model: ConditionUNetConfig = _MODEL
    """The network; with a pipeline all but dropout, remat and dtype are its own."""
    text: TextConfig = _TEXT
    """The text encoder of a run without a pipeline."""
    first_stage: FirstStageConfig = FirstStageConfig(path=SHAPES)
    """The autoencoder of a run without a pipeline."""
    data: CaptionedConfig = CaptionedConfig(name="folder", resolution=512)
    diffusion: DiffusionConfig = _DIFFUSION
    """The loss; with a pipeline the process is its own. ``condition_dropout`` is the share of captions left out."""
    sampling: SamplingConfig = SamplingConfig(
        method="dpm_solver", grid="trailing", steps=25, guidance=7.5, threshold="none"
    )
    negative_prompt: str = ""
    """What samples move away from under guidance."""
    image_guidance: NonNegativeFloat = 1.5
    """Guidance scale of the image that is edited (Brooks et al. 2023); unused by others."""
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-5, weight_decay=1e-2, warmup=2_000, schedule="constant", clip=1.0
    )
    samples: PositiveInt = 16
    """Images in the grid of each evaluation, of the first held-out captions."""
    metrics: GenerationConfig = GenerationConfig(features="none")
    """Distances to real images; they cost ``metrics.samples`` samples at each evaluation."""
    held_out: PositiveInt = 512
    """Largest number of held-out images that the error is computed on."""


EVALUATION_ONLY = ("sampling.", "negative_prompt", "image_guidance", "samples", "metrics.", "held_out")


def parts_of(config: TextPipelineConfig) -> PipelineParts:
    """The parts of a recipe; raises ``UserError`` as :func:`text_pipeline`."""
    return pipeline_parts(
        pipeline=config.pipeline,
        model=config.model,
        text=config.text,
        first_stage=config.first_stage,
        diffusion=config.diffusion,
        data=config.data,
        defaults=(_MODEL, _TEXT, _DIFFUSION),
    )


def data_of(config: TextPipelineConfig, parts: PipelineParts) -> CaptionedData:
    """Captioned images; of networks that edit or inpaint such whose batches are refused."""
    data = captioned_data(config.data, tokenizer=parts.tokenizer, length=parts.text.config.length)
    return data if parts.task == "text" else _refused(data, parts)


def space_of(parts: PipelineParts, data: CaptionedData) -> LatentSpace:
    """The latents of images; raises ``UserError`` where the network cannot have them."""
    space, network = latent_space(data, parts.first_stage, option="first_stage", flip=False), parts.model
    if any(side % network.factor for side in space.shape[:2]) or space.shape[2] != network.channels:
        raise UserError(
            f"latents of {'x'.join(map(str, space.shape))} do not fit a network of {network.channels} channels "
            f"whose sides are multiples of {network.factor}: choose another --data.resolution or --model.channels"
        )
    return space


def text_pipeline(config: TextPipelineConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other, or a pipeline that cannot be read.
    """
    parts = parts_of(config)
    _check(config, parts)
    data = data_of(config, parts)
    space, model = space_of(parts, data), ConditionUNet(parts.model)
    generator = _generator(config, parts, space, model, data)
    optimizer = make_optimizer(config.optimizer, steps=config.steps, batch_size=config.batch_size)
    frozen = {FIRST_STAGE: space.stage.frozen, **parts.frozen}
    pipeline, start, folder = parts.pipeline, config.init_from, None
    if pipeline is not None:
        frozen = {name: dataclasses.replace(part, option=OPTION) for name, part in frozen.items()}
        folder = unet2d_condition_source(pipeline.network, side=pipeline.side)
        start = pipeline.part(UNET) if start is None else start
    experiment = assemble(
        dataclasses.replace(config, init_from=start),
        variables=functools.partial(_variables, parts, space, model),
        step=gradient(accumulate(_loss(parts, space, model), config.microbatches), optimizer),
        optimizer=optimizer,
        data=data,
        evaluation=_evaluation(config, parts, space, model, data, generator),
        tokenizer=parts.kept,
        weights=WeightsSource(folder=folder, excluded=(STATE,)),
        statistics=space.statistics,
        frozen=frozen,
        rules=SHARDING_RULES,
        evaluation_only=EVALUATION_ONLY,
    )
    return dataclasses.replace(
        experiment,
        sampling=text_sampling(generator, resolution=config.data.resolution, batch=config.evaluation_batch),
        write_pipeline=None if pipeline is None else functools.partial(_written, pipeline),
    )


def _check(config: TextPipelineConfig, parts: PipelineParts) -> None:
    """Raise ``UserError`` for settings of loss and sampling that contradict each other or the parts."""
    sampling, model = config.sampling, parts.model
    check(parts.diffusion, sampling, conditioning=_CONTEXT, batch_size=config.batch_size // config.microbatches)
    if sampling.threshold != "none":
        raise UserError("latents are not confined to [-1, 1] as images are: set --sampling.threshold none")
    if sampling.guide is not None:
        raise UserError("sampling.guide is for networks without texts: leave it out")
    if parts.task == "edit" and (sampling.guidance_range != ALL_SIGMAS or sampling.guidance_rescale):
        raise UserError(
            "guidance by an instruction and an image has two scales and no interval: leave sampling.guidance_range and "
            "sampling.guidance_rescale out"
        )
    outputs = 2 * model.channels if parts.diffusion.variance == "learned" else None
    if model.out_channels != outputs:
        wanted = f"--model.out-channels {outputs}" if outputs and parts.pipeline is None else "diffusion.variance fixed"
        raise UserError(f"the outputs of the network are not those of diffusion.variance: set {wanted}")


def _written(pipeline: PublishedPipeline, state: TrainState, folder: Path) -> None:
    write_pipeline(folder, pipeline, {"params": state.ema["ema"]})


def _variables(parts: PipelineParts, space: LatentSpace, model: ConditionUNet, key: Key[Array, ""]) -> dict[str, Any]:
    """Initial ones."""
    network_key, text_key = jax.random.split(key)
    image = jnp.zeros((1, *space.shape))
    condition = {name: jnp.zeros(shape) for name, shape in condition_shapes(parts.model, image.shape, {}).items()}
    params = model.init(network_key, image, jnp.ones((1,)), condition, train=False)["params"]
    return {"params": {**params, **parts.text_params(text_key)}, **space.variables()}


def _loss(parts: PipelineParts, space: LatentSpace, model: ConditionUNet) -> LossFn:
    """Of batches with images, or latents, and tokens."""
    of = dataclasses.replace(parts.diffusion, condition_dropout=0.0)  # captions are left out before they are encoded
    loss = diffusion_loss(model, of, make_process(of), conditioning=_CONTEXT, levels=None)

    def of_captions(params, model_state, batch, *, key, step):
        text_key, loss_key = jax.random.split(key)
        null = jnp.asarray(parts.tokenizer().encode([""])[0])
        tokens = dropped_texts(batch["tokens"], null, probability=parts.diffusion.condition_dropout, key=text_key)
        context = parts.context({"params": params, **model_state}, tokens)
        return loss(params, model_state, {**batch, "context": context}, key=loss_key, step=step)

    return space.loss(of_captions)


def _evaluation(
    config: TextPipelineConfig,
    parts: PipelineParts,
    space: LatentSpace,
    model: ConditionUNet,
    data: CaptionedData,
    generator: TextGenerator,
) -> EvaluatorFactory:
    """The error on held-out images, samples of their captions, and distances to real images."""
    if parts.task != "text":
        return functools.partial(_refuse, parts)
    error = held_out_error(model, parts.diffusion, make_process(parts.diffusion), conditioning=_CONTEXT)

    def held_out(values: Any, batch: Any, *, key: jax.Array) -> Any:
        batch = space.encoded(values, batch, key=key)
        return error(values, {**batch, "context": parts.context(values, batch["tokens"])}, key=key)

    averaged = functools.partial(averaged_variables, with_state=True)
    return combine(
        held_out_loss(
            held_out,
            data,
            {"mse": (averaged, f"EMA {config.ema}")},
            batch_size=config.evaluation_batch,
            limit=config.held_out,
            description=f"mean squared error of the {parts.diffusion.prediction} target",
        ),
        sample_grid_evaluator(generator, config.data, count=config.samples),
        generation_metrics(generator, config.metrics, data=data, images=config.data),
    )


def _generator(
    config: TextPipelineConfig, parts: PipelineParts, space: LatentSpace, model: ConditionUNet, data: CaptionedData
) -> TextGenerator:
    sampled = text_sampler(
        model,
        parts.diffusion,
        make_process(parts.diffusion),
        config.sampling,
        shape=space.shape,
        image_guidance=config.image_guidance if parts.task == "edit" else None,
    )

    def sample(values: Any, condition: Any, index: jax.Array, key: jax.Array, /) -> jax.Array:
        texts, nulls = conditions(values, condition, parts, space)
        params = {name: tree for name, tree in values["params"].items() if name != NAME}
        latent = sampled({"params": params}, texts, nulls, index, key)
        return to_uint8(space.decode(values, latent))

    def texts(count: int) -> list[str]:
        captioned = data.captioned("test")
        rows = np.arange(min(count, len(captioned)))
        return [of[0] for of in captioned.texts(rows)]

    return TextGenerator(
        sample=sample,
        variables=functools.partial(averaged_variables, with_state=True),
        description=f"{describe(config.sampling)}, EMA {config.ema}",
        tokenizer=parts.tokenizer,
        texts=texts,
        negative=config.negative_prompt,
        task=parts.task,
    )


def conditions(
    values: Any, given: Mapping[str, Array], parts: PipelineParts, space: LatentSpace
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Conditions of the network, and those that stand for "none".

    Args:
      values: with "params", "frozen" and "latents".
      given: "tokens" and "null" int32 [b n]; of networks that edit or inpaint "image" uint8 [b h w 3]; of those that
        inpaint "mask" uint8 [b h w 1], above 127 where the image may change.
      parts: of the recipe.
      space: of its latents.
    """
    texts = {"context": parts.context(values, given["tokens"])}
    nulls = {"context": parts.context(values, given["null"])}
    if parts.task == "text":
        return texts, nulls
    image = to_float(given["image"])
    if parts.task == "edit":
        # Brooks et al. 2023, as released: the mean, in the unit of the first stage
        latent = _mean(space, values, image)
        return {**texts, "image": latent}, {**nulls, "image": jnp.zeros_like(latent)}
    mask = (given["mask"] > 127).astype(jnp.float32)
    scale = values[STATE]
    known = (_mean(space, values, image * (1.0 - mask)) - scale["mean"]) / scale["deviation"]
    factor = space.stage.factor
    whole = jnp.concatenate([mask[:, ::factor, ::factor], known], axis=-1)
    return {**texts, "image": whole}, {**nulls, "image": whole}


def _mean(space: LatentSpace, values: Any, image: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
    return space.stage.encode(values["frozen"][FIRST_STAGE], image)[..., : space.shape[-1]]


def _refused(data: CaptionedData, parts: PipelineParts) -> CaptionedData:
    """Data on which nothing is trained."""
    refuse = functools.partial(_refuse, parts)
    return dataclasses.replace(data, train_batches=refuse, source=refuse, test_batches=refuse)


def _refuse(parts: PipelineParts, *_: Any, **__: Any) -> Any:
    kind = {"edit": "edits images by instructions", "inpaint": "inpaints images"}[parts.task]
    raise UserError(
        f"the network of this pipeline {kind}, and captioned data has no images before and after: sample from it with "
        "--prompt and --image"
    )
