"""The network in whose features style and content are compared: a VGG from a file, or one of random weights.

Gatys et al. 2016 (section 2) scale the weights of their network so that its activations have a mean of 1, which leaves
what it computes the same but for scale. Here each convolution is scaled as a whole, on textures made by rules, so that
weights of losses hold for any file, and for random weights.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from vision.data.textures import PALETTES, texture
from vision.evaluation.style import PerceptualDistance
from vision.home import expanded
from vision.models.vgg import VGG16, Vgg, VggConfig
from vision.ops.pixels import scaled
from vision.pretrained.lpips import read_lpips_weights
from vision.recipes.restoration_evaluation import vgg_shapes, vgg_variables
from vision.train.experiment import FrozenPart

VGG16_FEATURES = replace(VGG16, classes=0)
RANDOM_VGG = VggConfig(depths=(2, 2, 2, 2), widths=(24, 32, 48, 64), classes=0)
"""For quick runs, which have no file of weights."""
RULES = Path(__file__)
"""The place of what is computed and not read from a file: of random weights."""
SIDE = 96
"""Of the textures on which activations are scaled."""


@dataclass(frozen=True)
class StyleNetwork:
    """A VGG and the activations that are wanted of it."""

    config: VggConfig
    layers: tuple[str, ...]
    path: Path | None
    """A file of torchvision's weights; None for random ones."""

    @property
    def words(self) -> str:
        """What it is, for protocols."""
        depth = sum(self.config.depths)
        return f"a VGG of {depth} convolutions with " + ("random weights" if self.path is None else self.path.name)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The activations for which variables are read: all stages where numbers need them."""
        depths = self.config.depths
        return (*self.layers, f"relu{len(depths)}_{depths[-1]}")

    def shapes(self) -> Any:
        """Shapes of its variables."""
        return vgg_shapes(self.config, self.loaded)

    def activations(self, variables: Any, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b _ _ _"]]:
        """Activations of images in [0, 1] by name."""
        return vgg_activations(self.config, variables, images, self.layers)

    def load(self) -> Any:
        """Its variables, scaled. Raises ``UserError`` where the file cannot be read or does not fit."""
        if self.path is None:
            image = jnp.zeros((1, 64, 64, 3))
            variables = Vgg(self.config).init(jax.random.key(0), image, self.loaded, method="activations")
        else:
            variables = vgg_variables(expanded(self.path), self.config, self.loaded)
        return scaled_to_one(self.config, variables)

    def frozen(self, option: str) -> FrozenPart:
        """The network as a part of a run; ``option`` names the field that holds the path."""
        path = RULES if self.path is None else expanded(self.path)
        return FrozenPart(option=option, path=path, shapes=self.shapes(), load=self.load)


def vgg_activations(
    config: VggConfig, variables: Any, images: Float[Array, "b h w 3"], layers: tuple[str, ...]
) -> dict[str, Float[Array, "b _ _ _"]]:
    """Activations of images in [0, 1]."""
    found: Any = Vgg(config).apply(variables, scaled(2.0 * images - 1.0, "imagenet"), layers, method="activations")
    return found


@functools.cache
def calibration_images() -> Float[np.ndarray, "n s s 3"]:
    """Textures in [0, 1]."""
    return np.stack([texture(name, SIDE) for name in PALETTES]).astype(np.float32) / 255.0


def scaled_to_one(config: VggConfig, variables: Any) -> Mapping[str, Any]:
    """The variables with each convolution scaled so that its activations after the ReLU have a mean of 1."""
    flat: dict[str, Array] = {
        name: jnp.asarray(leaf, jnp.float32) for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()
    }
    kernels = [name for name in flat if name.endswith("/kernel")]
    places = sorted(tuple(map(int, name.replace("/", "_").split("_")[2:5:2])) for name in kernels)
    names = tuple(f"relu{stage}_{number}" for stage, number in places)
    of = jax.jit(lambda tree, images: vgg_activations(config, tree, images, names))
    found = of(traverse_util.unflatten_dict(flat, sep="/"), jnp.asarray(calibration_images()))
    before = 1.0
    for (stage, number), name in zip(places, names, strict=True):
        # ReLUs and pools pass a positive factor on
        mean = float(jnp.mean(found[name]))
        own = f"params/stage_{stage}/conv_{number}"
        flat[f"{own}/kernel"] = flat[f"{own}/kernel"] * (before / mean)
        flat[f"{own}/bias"] = flat[f"{own}/bias"] / mean
        before = mean
    return traverse_util.unflatten_dict(flat, sep="/")


def perceptual_distance(network: StyleNetwork, weights: Path | None) -> PerceptualDistance:
    """LPIPS in the last activations of each stage of the network.

    With a file of the published weights of its channels it is LPIPS where the network is VGG16; with none, all channels
    weigh 1, and the number has another name. Scaling a convolution changes nothing, since features are normalised.

    Raises ``UserError`` where the file cannot be read or is of another network.
    """
    config = network.config
    levels = tuple(f"relu{stage}_{depth}" for stage, depth in enumerate(config.depths, start=1))

    def features(variables: Any, images: Array) -> list[Array]:
        found: Any = Vgg(config).apply(variables, images, levels, method="activations")
        return [found[name] for name in levels]

    if weights is not None:
        read = read_lpips_weights(expanded(weights), config)
        words = f"LPIPS with the channel weights of {weights} in {network.words}"
        return PerceptualDistance(features=features, weights=read, name="lpips", words=words)
    ones = tuple(np.ones(width, np.float32) for width in config.widths)
    words = f"LPIPS with weights of 1 for all channels of {', '.join(levels)} of {network.words}"
    return PerceptualDistance(features=features, weights=ones, name="lpips_unit_weights", words=words)
