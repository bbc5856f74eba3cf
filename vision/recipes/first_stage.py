"""The first stage of latent models: an autoencoder with fixed weights, between images and a grid of latents.

It is a run of this project (``experiments.autoencoder_cifar``, with Gaussian or quantised latents) or a published
AutoencoderKL. Its configuration says which network it is; its variables are a frozen part of the run that uses it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vision import pretrained
from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.models.autoencoder import Autoencoder, AutoencoderConfig
from vision.models.autoencoder_kl import AutoencoderKl
from vision.nn.latent import standard_normal
from vision.platform import shapes_of
from vision.pretrained.autoencoder_kl import autoencoder_shapes, describe_autoencoder_kl, read_autoencoder_kl
from vision.pretrained.diffusers_folder import read_config
from vision.recipes.stored_config import stored_part, stored_values
from vision.train.content_hash import content_hash
from vision.train.experiment import FrozenPart
from vision.train.state import with_values

SHAPES = Path(pretrained.__file__).parent / "shapes_first_stage"
"""The folder of a first stage for images of the shapes world, with latents of a quarter of their sides."""
NAME = "first_stage"
"""Of the frozen part."""
_SUITABLE = "a run of experiments.autoencoder_cifar, or the folder of a published AutoencoderKL"


@dataclass(frozen=True, kw_only=True)
class FirstStage:
    """An autoencoder as pure functions of its variables; images are float32 [b h w c] in [-1, 1]."""

    frozen: FrozenPart
    """Its variables."""
    content: Callable[[], str]
    """Reads the hash of its variables."""
    network: str
    """Its kind and configuration in words, for what is known by its content."""
    gaussian: bool
    """Whether moments are means and deviations; otherwise they are the vectors of a codebook."""
    image_channels: int
    channels: int
    """Of latents."""
    factor: int
    """Pixels along the side of an image per latent."""
    scale: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]] | None
    """Mean and deviation of latents by channel, as published; None where they must be measured."""
    encode: Callable[[Any, Array], Array]
    """(variables, images) -> moments float32 [b H W m]: means and deviations of latents, one after the other along the
    channels, or the quantised vectors. Without randomness."""
    decode: Callable[[Any, Array], Array]
    """(variables, latents [b H W d]) -> images."""

    def sample(self, moments: Float[Array, "b H W m"], *, key: Key[Array, ""]) -> Float[Array, "b H W d"]:
        """Latents of images with these moments."""
        if not self.gaussian:
            return moments
        mean, deviation = jnp.split(moments, 2, axis=-1)
        return mean + deviation * standard_normal(mean.shape, key=key)

    def latent_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of the latent of an image [h w c]; raises ``UserError`` for images that it cannot encode."""
        height, width, channels = image
        if channels != self.image_channels:
            raise UserError(
                f"the images have {channels} channels and the first stage in {self.frozen.path} is of images with "
                f"{self.image_channels}: choose another one"
            )
        if height % self.factor or width % self.factor:
            raise UserError(
                f"images of {height}x{width} pixels cannot be divided into the {self.factor}x{self.factor} pixels of a "
                f"latent of the first stage in {self.frozen.path}: choose a multiple of {self.factor}"
            )
        return height // self.factor, width // self.factor, self.channels

    def moments_shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of the moments of an image [h w c]; raises as :meth:`latent_shape`."""
        height, width, channels = self.latent_shape(image)
        return height, width, channels * (2 if self.gaussian else 1)

    @property
    def description(self) -> str:
        """For protocols."""
        kind = "Gaussian" if self.gaussian else "quantised"
        return f"{kind} latents with {self.channels} channels, one for {self.factor}x{self.factor} pixels"


def first_stage(path: Path, *, option: str) -> FirstStage:
    """The first stage in a folder; reads its configuration, and its variables when they are asked for.

    Args:
      path: the folder of a run, or of a published network.
      option: the configuration field that holds the path: "first_stage.path".

    Raises:
      UserError: there is no such folder, or what is in it has no grid of latents.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}, where {option} says that the first stage is: name {_SUITABLE}")
    content = read_config(folder)
    if "experiment" in content:
        return _of_run(folder, content, option)
    return _of_published(folder, option)


def _of_run(folder: Path, content: Mapping[str, Any], option: str) -> FirstStage:
    config = _autoencoder_config(folder, content)
    model, gaussian = Autoencoder(config), config.bottleneck == "kl"
    image = jax.ShapeDtypeStruct((1, config.factor, config.factor, config.channels), jnp.float32)
    shapes = shapes_of(
        lambda x: model.init({"params": jax.random.key(0)}, x, key=jax.random.key(0), train=False), image
    )

    def encode(variables: Any, image: Array) -> Array:
        found: Any = model.apply(variables, image, method="moments")
        return _with_deviation(*jnp.split(found, 2, axis=-1)) if gaussian else found

    return _made(
        FrozenPart(
            option=option,
            path=folder,
            shapes=shapes,
            load=lambda: with_values(shapes, stored_values(folder, shapes)),
        ),
        network=f"Autoencoder, {config}",
        gaussian=gaussian,
        image_channels=config.channels,
        channels=config.latent,
        factor=config.factor,
        scale=None,
        encode=encode,
        decode=lambda variables, latent: model.apply(variables, latent, method="decode_vectors"),
    )


def _of_published(folder: Path, option: str) -> FirstStage:
    published = describe_autoencoder_kl(folder)
    config, model = published.config, AutoencoderKl(published.config)

    def encode(variables: Any, image: Array) -> Array:
        mean, log_variance = model.apply(variables, image, method="encode")
        return _with_deviation(mean, log_variance)

    return _made(
        FrozenPart(
            option=option,
            path=folder,
            shapes=autoencoder_shapes(config),
            load=lambda: read_autoencoder_kl(folder).variables,
        ),
        network=f"AutoencoderKl, {config}",
        gaussian=True,
        image_channels=config.channels,
        channels=config.latent,
        factor=config.factor,
        scale=(published.mean, published.deviation),
        encode=encode,
        decode=lambda variables, latent: model.apply(variables, latent, method="decode"),
    )


def _made(frozen: FrozenPart, **of: Any) -> FirstStage:
    """With the hash of its variables, which are read for it only where nobody has read them before."""
    found: list[str] = []

    def load() -> Any:
        variables = frozen.load()
        found[:] = [content_hash(variables)]
        return variables

    def content() -> str:
        if not found:
            load()
        return found[0]

    return FirstStage(frozen=dataclasses.replace(frozen, load=load), content=content, **of)


def _with_deviation(mean: Any, log_variance: Any) -> Array:
    return jnp.concatenate([mean, jnp.exp(0.5 * log_variance)], axis=-1)


def _autoencoder_config(folder: Path, content: Mapping[str, Any]) -> AutoencoderConfig:
    """The network of a run, by the values in its config.json."""
    run = content.get("config")
    said = run.get("model") if isinstance(run, dict) else None
    fields = {field.name for field in dataclasses.fields(AutoencoderConfig)}
    name = on_one_line(str(content["experiment"]), 60)
    if not isinstance(said, dict) or said.get("bottleneck") not in ("vq", "kl") or said.keys() - fields:
        raise UserError(f"{folder} is a run of {name}, whose network has no grid of latents: name {_SUITABLE}")
    if content.get("replicas"):
        raise UserError(f"{folder} holds several runs of {name} as one: name a single run")
    return stored_part(AutoencoderConfig, said, name="model", origin=folder / "config.json")
