"""The recipe of unCLIP's prior (Ramesh et al. 2022, section 2.2): CLIP, embeddings, network, process, evaluation."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vision.data.captions.data import CaptionedConfig, CaptionedData, captioned_data
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.held_out import held_out_loss
from vision.evaluation.prior import PriorEvaluationConfig, PriorSampling, prior_metrics
from vision.models.prior import (
    PRIORS,
    SCALE,
    SHARDING_RULES,
    PriorConfig,
    PriorSize,
    PriorTransformer,
    initial_variables,
)
from vision.pretrained.diffusers_folder import FolderSource
from vision.pretrained.prior import prior_source
from vision.pretrained.scheduler_config import FILE, PublishedProcess, unclip_scheduler
from vision.ranges import PositiveInt
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.clip_encoder import NAME, SHAPES, ClipEncoder, clip_encoder
from vision.recipes.diffusion import with_process
from vision.recipes.embeddings import embedded, scale_of
from vision.recipes.run_config import RunConfig
from vision.tasks.diffusion import DiffusionConfig, make_process
from vision.tasks.prior import PriorTask, TextCondition, check_prior
from vision.tasks.sampling import SamplingConfig, describe
from vision.train.experiment import Experiment
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient

QUICK_SIZE = PriorSize(width=128, depth=4, heads=4)
"""What ``--quick`` trains."""


@dataclass(frozen=True)
class ClipSourceConfig:
    """The CLIP whose embeddings are predicted."""

    weights: Path = SHAPES
    """The folder of a run of ``experiments.clip_shapes``, or of a published CLIPModel with its tokenizer."""
    embeddings: Path | None = None
    """A folder for embeddings of whole data sets, computed once for all runs; unset, each start computes them."""
    batch: PositiveInt = 256
    """Images at a time, at least 1, when a data set is embedded."""


def size_by_name(default: PriorSize) -> Any:
    """The field ``model`` of the recipe: ``--model NAME``, then ``--model.FIELD``; a small one with ``--quick``."""
    like = lambda size: replace(size, remat=default.remat, dtype=default.dtype)
    choices = {name: like(size) for name, size in PRIORS.items()}
    return field(default=default, metadata={"choices": choices, "quick_choices": dict.fromkeys(PRIORS, QUICK_SIZE)})


@dataclass(frozen=True, kw_only=True)
class PriorRunConfig(RunConfig):
    """A prior for any captioned images."""

    model: PriorSize = size_by_name(PriorSize())
    data: CaptionedConfig = CaptionedConfig()
    clip: ClipSourceConfig = ClipSourceConfig()
    text: TextCondition = "both"
    """What the prior is conditioned on: its embedding, the hidden states of its tokens, or both."""
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="x0", data_deviation=1.0)
    sampling: SamplingConfig = SamplingConfig(method="ancestral", steps=64, guidance=2.0, limit=5.0)
    candidates: PositiveInt = 2
    """Samples of a text, at least 1, of which the one nearest to the embedding of the text is taken."""
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=1.1e-4, b2=0.96, weight_decay=0.06)
    evaluation: PriorEvaluationConfig = PriorEvaluationConfig()
    held_out: PositiveInt = 2_000
    """Largest number of test images, at least 1, that the held-out error is computed on."""


def clip_of(config: PriorRunConfig) -> ClipEncoder:
    """The CLIP of a run; that of the shapes world cannot be read for other images."""
    clip = clip_encoder(config.clip.weights, option="clip.weights")
    if config.clip.weights != SHAPES or config.data.name == "shapes":
        return clip
    return replace(clip, frozen=replace(clip.frozen, load=_no_clip))


def _no_clip() -> NoReturn:
    raise UserError(
        "it is of the shapes world, and the prior of other images needs a CLIP that knows them: train one with "
        "python -m experiments.clip_shapes, or fetch a published CLIPModel, and name its folder with --clip.weights"
    )


def prior_network(size: PriorSize, clip: ClipEncoder, *, text: TextCondition) -> PriorConfig:
    """The network of a size for a CLIP."""
    own = {each.name: getattr(size, each.name) for each in dataclasses.fields(PriorSize)}
    return PriorConfig(
        **own,
        embedding=clip.embedding,
        text_embedding=clip.embedding if text != "states" else 0,
        text_width=clip.config.text.width if text != "embedding" else 0,
        text_length=clip.tokenizer.length if text != "embedding" else 1,
    )


def prior_task(
    network: PriorConfig, diffusion: DiffusionConfig, clip: ClipEncoder, *, text: TextCondition
) -> PriorTask:
    """The task of a network and its CLIP."""
    return PriorTask(
        network=PriorTransformer(network),
        diffusion=diffusion,
        process=make_process(diffusion),
        text=text,
        channels=network.embedding,
        encode_text=clip.encode_text,
        similarity=clip.similarity,
        empty=clip.tokenizer.encode([""])[0],
        end=clip.tokenizer.end,
    )


def check_config(config: PriorRunConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    check_prior(config.diffusion, config.sampling, batch_size=config.batch_size // config.microbatches)
    if config.model.width % config.model.heads or config.model.width % 2:
        raise UserError(
            f"model.width {config.model.width} must be an even multiple of model.heads, {config.model.heads}"
        )


def prior(config: PriorRunConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other, or where there is no CLIP.
    """
    check_config(config)
    clip = clip_of(config)
    network = prior_network(config.model, clip, text=config.text)
    task = prior_task(network, config.diffusion, clip, text=config.text)
    images = captioned_data(config.data, tokenizer=lambda: clip.tokenizer, length=clip.tokenizer.length)
    data = embedded(images, clip, root=config.clip.embeddings, batch=config.clip.batch)
    optimizer = make_optimizer(config.optimizer, steps=config.steps, batch_size=config.batch_size)

    def statistics() -> Mapping[str, np.ndarray]:
        mean, deviation = scale_of(data)
        return {f"{SCALE}/mean": mean, f"{SCALE}/deviation": deviation}

    return assemble(
        config,
        variables=functools.partial(initial_variables, network),
        step=gradient(accumulate(task.loss(), config.microbatches), optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=evaluation_of(config, task, clip, data, images),
        weights=WeightsSource(folder=published(config, network)),
        # a prior that is there already belongs to the scale that it was trained with
        statistics=statistics if config.init_from is None else None,
        frozen={NAME: clip.frozen},
        caches=("clip.embeddings",),
        rules=SHARDING_RULES,
        evaluation_only=("sampling.", "candidates", "evaluation.", "held_out", "clip.batch"),
    )


def evaluation_of(
    config: PriorRunConfig, task: PriorTask, clip: ClipEncoder, data: CaptionedData, images: CaptionedData
) -> Any:
    """The held-out error, and samples for held-out texts."""
    values = lambda state: {**averages(state), "frozen": state.model_state["frozen"]}
    described = f"{describe(config.sampling)}, the best of {config.candidates}, EMA {config.ema}"
    return combine(
        held_out_loss(
            task.held_out(),
            data,
            {"mse": (values, f"EMA {config.ema}")},
            batch_size=config.evaluation_batch,
            limit=config.held_out,
            description=f"mean squared error of the {config.diffusion.prediction} target, of embeddings of variance 1,",
        ),
        prior_metrics(
            PriorSampling(
                sample=task.sampler(config.sampling, candidates=config.candidates),
                text=lambda values, tokens: clip.encode_text(values["frozen"][NAME], tokens)["embedding"],
                tokenizer=lambda: clip.tokenizer,
                description=described,
            ),
            data,
            images,
            values,
            config.evaluation,
            batch_size=config.evaluation_batch,
        ),
    )


def published(config: PriorRunConfig, network: PriorConfig) -> FolderSource:
    """Folders of diffusers' PriorTransformer, with its scheduler."""
    limit = config.sampling.limit if config.sampling.threshold == "static" else None
    source = with_process(prior_source(network, limit=limit), config.diffusion)
    stated = asdict(config.diffusion)
    process = PublishedProcess(**{each.name: stated[each.name] for each in dataclasses.fields(PublishedProcess)})
    scheduler = unclip_scheduler(process, limit=limit)
    return replace(source, extra_files={} if scheduler is None else {FILE: scheduler})
