"""The recipe of progressive distillation: a diffusion model whose sampler is halved until a step or a few are left."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision.diffusion.conditions import label_conditioning
from vision.errors import UserError
from vision.home import expanded
from vision.pretrained.diffusers_folder import read_config
from vision.recipes.diffusion import DiffusionRunConfig
from vision.recipes.diffusion_networks import diffusion_network
from vision.recipes.generative import Objective, generative, samples_of
from vision.tasks.diffusion import DiffusionConfig, held_out_error, make_process
from vision.tasks.progressive_distillation import TEACHER, DistillationConfig, check, course, distillation_loss
from vision.tasks.sampling import check as check_sampling
from vision.tasks.sampling import describe, sampler
from vision.train.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class DistillationRunConfig(DiffusionRunConfig):
    """A recipe of progressive distillation; ``init_from`` is a run of the teacher, unless it is trained first."""

    distillation: DistillationConfig = DistillationConfig()


def progressive_distillation(config: DistillationRunConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other, or a teacher of another process.
    """
    if config.init_from is None and config.distillation.teacher_images == 0:
        raise UserError(
            "there is no teacher: name the run of a diffusion model with --init-from, or train one first with "
            "--distillation.teacher-images"
        )
    if config.init_from is not None:
        check_teacher(config.init_from, config.diffusion)
    samples = samples_of(config)
    network = diffusion_network(config.model, samples.shape)
    conditioning = label_conditioning(config.model.classes)
    batch_size = config.batch_size // config.microbatches
    check_sampling(config.diffusion, config.sampling, conditioning=conditioning, batch_size=batch_size)
    if config.sampling.guide is not None:
        raise UserError("a student is guided by what its teacher was: leave sampling.guide out")
    check(config.distillation, config.diffusion, conditioning=conditioning, images=config.images)
    if samples.space and (config.sampling.threshold != "none" or config.distillation.clip):
        raise UserError(
            "latents are not confined to [-1, 1] as images are: set --sampling.threshold none and "
            "--distillation.no-clip"
        )
    process = make_process(config.diffusion)
    of: dict[str, Any] = {"conditioning": conditioning}
    plan = course(config.distillation, steps=config.steps, batch_size=config.batch_size)
    return generative(
        config,
        replace(network, folder=None),
        samples,
        Objective(
            loss=distillation_loss(network.module, config.distillation, config.diffusion, process, plan, **of),
            held_out=held_out_error(network.module, config.diffusion, process, **of),
            error=f"mean squared error of the {config.diffusion.prediction} target",
            sample=sampler(network.module, config.diffusion, process, config.sampling, image_shape=samples.shape, **of),
            sampling=describe(config.sampling),
        ),
        copies=(TEACHER,),
    )


def check_teacher(path: Path, config: DiffusionConfig) -> None:
    """Raise ``UserError`` where the run at ``path`` is of another process or prediction."""
    folder = expanded(path)
    folder = folder.parent if folder.name == "checkpoints" else folder
    if not (folder / "config.json").is_file():
        return
    run = read_config(folder).get("config")
    said = run.get("diffusion") if isinstance(run, dict) else None
    if not isinstance(said, dict):
        raise UserError(f"{folder} is no run of a diffusion model: name one with --init-from")
    for name in ("schedule", "steps", "zero_terminal_snr", "prediction", "data_deviation"):
        own = getattr(config, name)
        if name in said and said[name] != own:
            raise UserError(
                f"the teacher in {folder} has diffusion.{name} {said[name]} and the student {own}: give them the same"
            )
