"""The recipe of diffusion models: a network, a process, a loss, an optimizer, data, evaluation."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vision.diffusion.conditions import Conditioning, label_conditioning
from vision.diffusion.guidance import denoiser
from vision.diffusion.likelihood import LEVELS
from vision.diffusion.process import Process
from vision.errors import UserError
from vision.evaluation.diffusion_likelihood import LikelihoodConfig, likelihood_evaluator
from vision.evaluation.generator import Generator
from vision.pretrained.adapted import Adapted
from vision.pretrained.diffusers_folder import FolderSource
from vision.pretrained.scheduler_config import (
    FILE,
    PublishedProcess,
    differing_fields,
    find_scheduler_config,
    read_scheduler_config,
    scheduler_config,
)
from vision.recipes.diffusion_networks import DiffusionNetwork, diffusion_network, with_variance
from vision.recipes.edit_requests import GeneralEdits, label_conditions
from vision.recipes.generative import (
    EVALUATION_ONLY,
    QUICK_GENERATION,
    GenerativeRunConfig,
    Objective,
    Samples,
    averaged_variables,
    generative,
    generator_of,
    samples_evaluation,
    samples_of,
)
from vision.recipes.guide import NAME as GUIDE
from vision.recipes.guide import guide
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import SamplingConfig, check, describe, guided_denoiser, predictor, sampler
from vision.train.experiment import EvaluatorFactory, Experiment
from vision.written_option import written_option


@dataclass(frozen=True, kw_only=True)
class DiffusionRunConfig(GenerativeRunConfig):
    """A diffusion recipe."""

    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    """Bits per dimension: ``python -m vision evaluate RUN --likelihood.images 512``."""


QUICK_DIFFUSION: dict[str, Any] = {
    **QUICK_GENERATION,
    # predicting the image lets a network this narrow ignore the noise that 4x4 patches would make it copy
    "diffusion": DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
    "sampling": SamplingConfig(steps=20, guidance=2.0),
}
"""What ``--quick`` of the diffusion experiments share: data, process, sampling, budget."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionParts:
    """What a diffusion recipe is composed of, checked."""

    samples: Samples
    network: DiffusionNetwork
    process: Process
    conditioning: Conditioning

    def objective(self, config: DiffusionRunConfig) -> Objective:
        """The loss, the held-out error, and the sampler of ``config.sampling``."""
        module, process = self.network.module, self.process
        of: dict[str, Any] = {"conditioning": self.conditioning}
        shape, levels = self.samples.shape, None if self.samples.space else LEVELS
        certainty = {"log_variance": self.network.log_variance}
        found = None
        if config.sampling.guide is not None:
            found = guide(
                config.sampling.guide,
                model=config.model,
                diffusion=config.diffusion,
                shape=shape,
                first_stage=None if self.samples.space is None else self.samples.space.stage.content,
            )
        of_sampler = {**of, "image_shape": shape, "guide": None if found is None else found.denoiser}
        return Objective(
            loss=diffusion_loss(module, config.diffusion, process, levels=levels, **certainty, **of),
            held_out=held_out_error(module, config.diffusion, process, **of),
            error=f"mean squared error of the {config.diffusion.prediction} target",
            sample=sampler(module, config.diffusion, process, config.sampling, **of_sampler),
            sampling=describe(config.sampling),
            frozen={} if found is None else {GUIDE: found.frozen},
        )


def diffusion_parts(config: DiffusionRunConfig) -> DiffusionParts:
    """The parts of a recipe.

    Raises ``UserError`` for settings that contradict each other.
    """
    samples = samples_of(config)
    learned = config.diffusion.variance == "learned"
    network = diffusion_network(with_variance(config.model) if learned else config.model, samples.shape)
    if network.folder is not None:
        network = replace(network, folder=with_process(network.folder, config.diffusion))
    conditioning = label_conditioning(config.model.classes)
    batch_size = config.batch_size // config.microbatches
    check(config.diffusion, config.sampling, conditioning=conditioning, batch_size=batch_size)
    if samples.space and config.sampling.threshold != "none":
        raise UserError("latents are not confined to [-1, 1] as images are: set --sampling.threshold none")
    if config.model.durations:
        raise UserError("model.durations is for networks of average velocities (mean_flow): leave it False")
    if samples.space and config.likelihood.images:
        raise UserError("likelihood is of models of pixels, and this one is of latents: leave likelihood.images 0")
    process = make_process(config.diffusion)
    return DiffusionParts(samples=samples, network=network, process=process, conditioning=conditioning)


def diffusion(config: DiffusionRunConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other.
    """
    parts = diffusion_parts(config)
    denoise = lambda values, variance=False: denoiser(
        predictor(parts.network.module, {"params": values["params"]}, variance=variance),
        parts.process,
        config.diffusion.prediction,
        data_deviation=config.diffusion.data_deviation,
        variance=variance,
    )
    likelihood = likelihood_evaluator(
        denoise,
        parts.process,
        parts.samples.images,
        config.likelihood,
        conditioning=parts.conditioning,
        variables=averaged_variables,
        description=f"EMA {config.ema}",
        learned=functools.partial(denoise, variance=True) if config.diffusion.variance == "learned" else None,
    )
    return generative(
        config,
        parts.network,
        parts.samples,
        parts.objective(config),
        evaluators=(likelihood,),
        evaluation_only=(*EVALUATION_ONLY, "likelihood."),
        editing=functools.partial(editing, config, parts),
    )


def editing(config: DiffusionRunConfig, parts: DiffusionParts, generator: Generator) -> GeneralEdits:
    """The function that edits images on request, by the class that the result shows."""
    of: tuple[Any, Any, Any] = (parts.network.module, config.diffusion, parts.process)

    def denoiser_by(sampling: SamplingConfig) -> Any:
        denoiser_of = guided_denoiser(*of, replace(sampling, method="ddim"), conditioning=parts.conditioning)
        return lambda variables, condition: denoiser_of({"params": variables["params"]}, condition)

    return GeneralEdits(
        generator=generator,
        side=config.data.resolution,
        process=parts.process,
        sampling=config.sampling,
        denoiser=denoiser_by(config.sampling),
        described=denoiser_by(replace(config.sampling, guidance=1.0)),
        conditions=label_conditions(parts.samples.images.class_names, config.model.classes),
        space=parts.samples.space,
    )


def evaluation_of_samplers(config: DiffusionRunConfig) -> Callable[[SamplingConfig], EvaluatorFactory]:
    """(sampling) -> the numbers of its samples, for states of runs of ``config``; one set of features of real images.

    Raises (both functions): ``UserError`` for settings that contradict each other.
    """
    parts = diffusion_parts(config)
    numbers = samples_evaluation(config, parts.samples)

    def of(sampling: SamplingConfig) -> EvaluatorFactory:
        check(config.diffusion, sampling, conditioning=parts.conditioning)
        changed = replace(config, sampling=sampling)
        return numbers(generator_of(changed, parts.samples, parts.objective(changed)))

    return of


def with_process(source: FolderSource, config: DiffusionConfig) -> FolderSource:
    """Published folders whose scheduler_config.json, where there is one, describes the process of ``config``.

    Another process is refused when a folder is read, with the options to add; what is written has the file too.
    """
    own = PublishedProcess(
        schedule=config.schedule,
        steps=config.steps,
        zero_terminal_snr=config.zero_terminal_snr,
        prediction=config.prediction,
        data_deviation=config.data_deviation,
    )

    def read(folder: Path) -> Adapted:
        file = find_scheduler_config(folder)
        if file is not None:
            differing = differing_fields(read_scheduler_config(file), asdict(own))
            if differing:
                words = " ".join(
                    word for name, value in differing.items() for word in written_option(f"diffusion.{name}", value)
                )
                raise UserError(f"{file} describes another process than this run has: add {words}")
        return source.read(folder)

    written = scheduler_config(own)
    return replace(source, read=read, extra_files={} if written is None else {FILE: written})
