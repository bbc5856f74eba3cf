"""A trained upsampler as a part of other systems: large images for small ones, with a text or without.

    part = stored_upsampler(Path("runs/upsampler_shapes/default"), option="upsampler", clip=clip)
    large = part.sample({**part.frozen.load(), NAME: clip_variables}, {"image": small}, index, key)  # uint8

It is the folder of a run of ``experiments.upsampler_shapes``. One that is conditioned on texts shares the CLIP of the
system that it is a part of.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped

from vision.data.captions.data import CaptionedConfig
from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.models.unet import UNetConfig
from vision.nn.conditioning import condition_shapes
from vision.ops.pixels import to_uint8
from vision.platform import shapes_of
from vision.pretrained.diffusers_folder import read_config
from vision.pretrained.initial import read_initial_values
from vision.recipes.clip_encoder import NAME as CLIP
from vision.recipes.clip_encoder import ClipEncoder
from vision.recipes.stored_config import stored_part
from vision.recipes.text_conditions import ClipPartConfig
from vision.recipes.upsampler import UpsamplerRunConfig, upsampler_parts
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.tasks.upsampling import UpsamplingConfig
from vision.train.experiment import FrozenPart
from vision.train.state import with_values
from vision.types import Condition, Sampler

_SUITABLE = "a run of experiments.upsampler_shapes"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredUpsampler:
    """An upsampler, as a function of its variables."""

    frozen: FrozenPart
    """Its variables {"params"}, which only sampling uses."""
    sample: Sampler
    """({"params", "clip" where it has a text}, {"image": small images, uint8 [n h w 3], "tokens" where it has a text},
    index, key) -> uint8 [n, factor h, factor w, 3]."""
    small: int
    """Side of the images that it enlarges."""
    large: int
    """Side of what it generates."""
    has_text: bool
    """Whether it is conditioned on a text."""


def stored_upsampler(path: Path, *, option: str, clip: ClipEncoder) -> StoredUpsampler:
    """The upsampler in a folder; reads its configuration, and its averages when they are asked for.

    Args:
      path: the folder of a run.
      option: the configuration field that holds the path, "upsampler".
      clip: of the system; for an upsampler with texts it must be the one that it was trained with.

    Raises:
      UserError: there is no such folder, or what is in it is no upsampler. When the averages are read, also where the
        CLIP is another one.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}, where {option} says that the upsampler is: name {_SUITABLE}")
    config = _stored_config(folder, read_config(folder), clip)
    parts = upsampler_parts(config)
    side, factor = config.data.resolution, config.upsampling.factor
    image = jax.ShapeDtypeStruct((1, side, side, config.model.channels), jnp.float32)
    condition = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in condition_shapes(parts.config.model, image.shape).items()
    }
    init = lambda image, condition: parts.network.module.init(
        jax.random.key(0), image, jnp.ones((1,)), condition, train=False
    )
    shapes = {"params": shapes_of(init, image, condition)["params"]}

    def load() -> Any:
        if parts.text is not None and _clip_of(folder) not in (None, clip.content()):
            raise UserError(f"it was trained with another CLIP than the one in {clip.frozen.path}: name one with that")
        return with_values(shapes, read_initial_values(folder, shapes, ignored=(r"^(?!params/)",)))

    own = parts.objective().sample

    def sample(variables: Any, condition: Condition, index: Array, key: Key[Array, ""], /) -> Shaped[Array, "n h w c"]:
        return to_uint8(own(variables, condition, index, key))

    return StoredUpsampler(
        frozen=FrozenPart(option=option, path=path, shapes=shapes, load=load, optional=True),
        sample=sample,
        small=side // factor,
        large=side,
        has_text=parts.text is not None,
    )


def _stored_config(folder: Path, content: Mapping[str, Any], clip: ClipEncoder) -> UpsamplerRunConfig:
    run = content.get("config")
    said = run if isinstance(run, Mapping) else {}
    wanted = ("model", "data", "upsampling", "diffusion", "sampling", "clip")
    if "experiment" not in content or not all(isinstance(said.get(name), Mapping) for name in wanted):
        name = on_one_line(str(content.get("experiment", "something else")), 60)
        raise UserError(f"{folder} is of {name}, which is no upsampler: name {_SUITABLE}")
    if content.get("replicas"):
        raise UserError(f"{folder} holds several runs as one: name a single run")
    kinds = {"model": UNetConfig, "upsampling": UpsamplingConfig, "diffusion": DiffusionConfig}
    part = lambda name, kind: stored_part(
        kind, {field: value for field, value in said[name].items() if field != "type"}, name=name, origin=origin
    )
    origin = folder / "config.json"
    resolution = said["data"].get("resolution")
    if type(resolution) is not int or not 1 <= resolution <= 2**14:
        raise UserError(f"{origin} has no data.resolution: restore the file")
    return UpsamplerRunConfig(
        **{name: part(name, kind) for name, kind in kinds.items()},
        sampling=part("sampling", SamplingConfig),
        # of its data only the size matters here
        data=CaptionedConfig(resolution=resolution),
        clip=ClipPartConfig(clip.frozen.path if said["clip"].get("weights") is not None else None),
    )


def _clip_of(folder: Path) -> str | None:
    """The hash of the CLIP of a run, from its frozen.json; None where that does not say."""
    try:
        return json.loads((folder / "frozen.json").read_text())[CLIP]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
