"""The guide of autoguidance (Karras et al. 2024b): a run of a smaller or less trained network of the same task.

Samples move away from what the guide estimates. It is a frozen part that only sampling uses: a run may be sampled from
with any guide or without.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vision.diffusion.guidance import ConditionalDenoiser, denoiser
from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.models.dit import DiTConfig
from vision.models.edm2 import EDM2Config
from vision.models.unet import UNetConfig
from vision.nn.conditioning import condition_shapes
from vision.platform import shapes_of
from vision.pretrained.diffusers_folder import read_config
from vision.pretrained.initial import read_initial_values
from vision.recipes.diffusion_networks import NetworkConfig, diffusion_network, with_variance
from vision.recipes.stored_config import stored_part
from vision.tasks.diffusion import DiffusionConfig, Variables, make_process
from vision.tasks.sampling import predictor
from vision.train.experiment import FrozenPart
from vision.train.state import with_values

NAME = "guide"
"""Of the frozen part, and of its variables among those of a sampler."""
OPTION = "sampling.guide"
_SUITABLE = f"name a single run of a diffusion model with --{OPTION}"
_KINDS = {kind.__name__: kind for kind in (UNetConfig, DiTConfig, EDM2Config)}
_PROCESS = ("schedule", "steps", "zero_terminal_snr")
"""What guide and guided network share; each may predict something else."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Guide:
    """A worse network, as a function of its variables."""

    frozen: FrozenPart
    denoiser: Callable[[Variables], ConditionalDenoiser]
    """Variables -> estimate of x_0."""


def guide(
    path: Path,
    *,
    model: NetworkConfig,
    diffusion: DiffusionConfig,
    shape: tuple[int, int, int],
    first_stage: Callable[[], str] | None,
) -> Guide:
    """The guide in the folder of a run; reads its config.json, and its averages when they are asked for.

    Args:
      path: the folder.
      model: the network that it guides.
      diffusion: the process of that network.
      shape: of the samples: height, width, channels.
      first_stage: reads the hash of the network whose latents they are; None for pixels.

    Raises:
      UserError: there is no such run, or it is of other samples, conditions or times; when the averages are read, also
        where its latents are those of another first stage.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {path}, where {OPTION} says that the guide is: name a run of a diffusion model"
        )
    content = read_config(folder)
    network, config = _stored(folder, content)
    for name in _PROCESS:
        ours, theirs = getattr(diffusion, name), getattr(config, name)
        if ours != theirs and not (name == "steps" and diffusion.schedule in ("flow", "edm", "vp", "ve")):
            raise UserError(
                f"the guide in {folder} has diffusion.{name} {theirs} and this run {ours}: {_SUITABLE} of that process"
            )
    if (network.channels, network.classes) != (model.channels, model.classes):
        raise UserError(
            f"the guide in {folder} is of {network.channels} channels and {network.classes} classes, and this run of "
            f"{model.channels} and {model.classes}: name a run of the same data"
        )
    if condition_shapes(network, (1, *shape)) != condition_shapes(model, (1, *shape)):
        raise UserError(f"the guide in {folder} has other conditions than this run: name a run of the same ones")
    latent = first_stage is not None
    if latent != _of_latents(content):
        kinds = ("pixels", "latents")
        raise UserError(
            f"the guide in {folder} is of {kinds[not latent]} and this run of {kinds[latent]}: {_SUITABLE} of those"
        )
    learned = config.variance == "learned"
    module = diffusion_network(with_variance(network) if learned else network, shape).module
    process = make_process(config)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    condition = {
        name: jax.ShapeDtypeStruct(of, jnp.int32 if name in ("label", "tokens") else jnp.float32)
        for name, of in condition_shapes(network, image.shape).items()
    }
    init = lambda image, condition: module.init(jax.random.key(0), image, jnp.ones((1,)), condition, train=False)
    shapes = {"params": shapes_of(init, image, condition)["params"]}

    def load() -> Any:
        if first_stage is not None and _first_stage_of(folder) not in (None, first_stage()):
            raise UserError(f"it is of the latents of another first stage: {_SUITABLE} of the same")
        return with_values(shapes, read_initial_values(folder, shapes, ignored=(r"^(?!params/)",)))

    return Guide(
        frozen=FrozenPart(option=OPTION, path=path, shapes=shapes, load=load, optional=True),
        denoiser=lambda variables: denoiser(
            predictor(module, variables), process, config.prediction, data_deviation=config.data_deviation
        ),
    )


def _stored(folder: Path, content: Mapping[str, Any]) -> tuple[NetworkConfig, DiffusionConfig]:
    """The network and the process of a run."""
    run = content.get("config")
    said = {name: run.get(name) if isinstance(run, dict) else None for name in ("model", "diffusion")}
    model, diffusion = said["model"], said["diffusion"]
    kind = _KINDS.get(str(model.get("type"))) if isinstance(model, dict) else None
    if kind is None or not isinstance(model, dict) or not isinstance(diffusion, dict) or "experiment" not in content:
        name = on_one_line(str(content.get("experiment", "something else")), 60)
        raise UserError(f"{folder} is of {name}, which is no guide: {_SUITABLE}")
    if content.get("replicas"):
        raise UserError(f"{folder} holds several runs as one, which is no guide: {_SUITABLE}")
    origin = folder / "config.json"
    network = stored_part(
        kind, {name: value for name, value in model.items() if name != "type"}, name="model", origin=origin
    )
    return network, stored_part(DiffusionConfig, diffusion, name="diffusion", origin=origin)


def _of_latents(content: Mapping[str, Any]) -> bool:
    stage = content["config"].get("first_stage")
    return isinstance(stage, dict) and stage.get("path") is not None


def _first_stage_of(folder: Path) -> str | None:
    """The hash of the first stage of a run, from its frozen.json; None where that does not say."""
    try:
        return json.loads((folder / "frozen.json").read_text())["first_stage"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
