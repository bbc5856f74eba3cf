"""The recipe of autoencoders for latent models: reconstruction, perceptual and adversarial losses."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision.data.dataset import DataConfig
from vision.data.image_data import image_data
from vision.errors import UserError
from vision.evaluation.autoencoder import reconstruction_metrics
from vision.home import expanded
from vision.models.autoencoder import SHARDING_RULES, Autoencoder, AutoencoderConfig
from vision.models.gan.dcgan import PatchDiscriminator
from vision.models.resnet import CIFAR_RESNET18, ResNet, ResNetConfig
from vision.ops.pixels import to_float, to_uint8
from vision.platform import shapes_of
from vision.pretrained.initial import read_initial_values
from vision.ranges import Channels, Depth, FiniteFloat, PositiveFloat
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.preprocessing import scaled
from vision.recipes.run_config import RunConfig
from vision.tasks.autoencoder import AutoencoderLossConfig, autoencoder_loss, patch_discriminator_loss
from vision.train.experiment import Experiment, FrozenPart
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import with_values
from vision.train.step import accumulate, alternate, gradient, preprocessed
from vision.types import LossFn, TrainState


@dataclass(frozen=True)
class PerceptualConfig:
    """The network in whose features images are compared, a ResNet."""

    model: ResNetConfig = CIFAR_RESNET18
    """Its shape; the default is that of ``experiments.resnet_cifar``."""
    weights: Path | None = None
    """The folder of a run of it, or a file of variables. The run remembers its content; the path may change."""
    mean: FiniteFloat = 0.0
    """Subtracted from images in [-1, 1]."""
    deviation: PositiveFloat = 1.0
    """What they are then divided by, positive."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderRunConfig(RunConfig):
    """The recipe."""

    model: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig()
    loss: AutoencoderLossConfig = AutoencoderLossConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    patch_width: Channels = 64
    """Channels, at least 1, of the first layer of the patch discriminator, used where ``loss.adversarial`` is not 0."""
    patch_layers: Depth = 1
    """Its layers with a stride of 2: with one a logit sees 16x16 pixels, with two 34x34."""
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-3, b2=0.99, weight_decay=0.0, warmup=20_000, clip=1.0
    )
    discriminator_optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=2e-4, b2=0.99, weight_decay=0.0, schedule="constant", clip=1.0
    )
    images: int = 5_000_000
    ema: float = 0.999
    flip: bool = True
    """Flip half of the training images left to right."""


def autoencoder(config: AutoencoderRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    check(config)
    data = image_data(config.data, classes=0, channels=config.model.channels)
    model, network = Autoencoder(config.model), ResNet(config.perceptual.model)
    discriminator = PatchDiscriminator(config.patch_width, config.patch_layers, norm="none")
    frozen = perceptual_part(config, network, data.sample["image"].shape) if config.loss.perceptual else {}

    def features(values: Any, image: jax.Array) -> list[jax.Array]:
        normalised = (image - config.perceptual.mean) / config.perceptual.deviation
        levels: Any = network.apply(values, normalised, train=False, method="features")
        return [value for name, value in levels.items() if name != "pooled"]

    def critic(params: Any, image: jax.Array) -> Any:
        return discriminator.apply({"params": params}, image, train=True)

    losses: dict[str, LossFn] = {
        "autoencoder": autoencoder_loss(
            model,
            config.loss,
            bottleneck=config.model.bottleneck,
            batch_size=config.batch_size,
            features=features if config.loss.perceptual else None,
            critic=critic if config.loss.adversarial else None,
        )
    }
    optimizers = {"autoencoder": optimizer_of(config.optimizer, config)}
    if config.loss.adversarial:
        losses["discriminator"] = patch_discriminator_loss(model, config.loss, critic, batch_size=config.batch_size)
        optimizers["discriminator"] = optimizer_of(config.discriminator_optimizer, config)
    prepare = lambda loss: accumulate(preprocessed(loss, scaled(flip=config.flip)), config.microbatches)
    steps = {part: gradient(prepare(loss), optimizers[part], part=part) for part, loss in losses.items()}
    step = alternate(steps["discriminator"], steps["autoencoder"]) if config.loss.adversarial else steps["autoencoder"]

    def reconstruct(values: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        latents: Any = model.apply(values, to_float(image), method=Autoencoder.encode)
        decoded: Any = model.apply(values, latents, method=Autoencoder.decode)
        return latents, to_uint8(decoded)

    codebook = config.model.codes if config.model.bottleneck == "vq" else 0
    return assemble(
        config,
        variables=lambda key: variables(config, model, discriminator, data.sample["image"].shape, key),
        step=step,
        optimizer=optimizers,
        averaging=lambda state: state.params["autoencoder"],
        data=data,
        evaluation=reconstruction_metrics(
            reconstruct,
            data,
            averaged_variables,
            codebook=codebook,
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}",
        ),
        weights=WeightsSource(average=None),
        frozen=frozen,
        rules=SHARDING_RULES,
    )


def averaged_variables(state: TrainState) -> dict[str, Any]:
    """The averaged parameters of the autoencoder, with the newest codebook."""
    codebook = {name: tree for name, tree in state.model_state.items() if name == "codebook"}
    return {"params": state.ema["ema"], **codebook}


def variables(
    config: AutoencoderRunConfig, model: nn.Module, discriminator: nn.Module, image: tuple[int, ...], key: jax.Array
) -> dict[str, Any]:
    """{"params": {"autoencoder": ..., "discriminator": ...}, "codebook": ...}."""
    zeros = jnp.zeros((1, *image))
    made = dict(model.init({"params": key}, zeros, key=key, train=False))
    params = {"autoencoder": made.pop("params")}
    if config.loss.adversarial:
        params["discriminator"] = discriminator.init(jax.random.fold_in(key, 1), zeros, train=False)["params"]
    return {"params": params, **made}


def perceptual_part(config: AutoencoderRunConfig, network: nn.Module, image: tuple[int, ...]) -> dict[str, FrozenPart]:
    """The perceptual network, whose weights are no part of the run."""
    assert config.perceptual.weights is not None
    path = expanded(config.perceptual.weights)
    zeros = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    shapes = shapes_of(lambda x: network.init(jax.random.key(0), x, train=False), zeros)
    load = lambda: with_values(shapes, read_initial_values(path, shapes))
    return {"perceptual": FrozenPart(option="perceptual.weights", path=path, shapes=shapes, load=load)}


def optimizer_of(config: OptimizerConfig, run: AutoencoderRunConfig) -> Any:
    """The optimizer of one player."""
    return make_optimizer(config, steps=run.steps, batch_size=run.batch_size)


def check(config: AutoencoderRunConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    size = config.data.resolution
    if size % config.model.factor:
        raise UserError(
            f"images of {size} pixels cannot be divided into latents of {config.model.factor} pixels each way"
        )
    if (config.loss.perceptual > 0.0) != (config.perceptual.weights is not None):
        raise UserError(
            "loss.perceptual needs a network to compare images in: set both it and perceptual.weights, or neither"
        )
    if config.loss.adversarial > 0.0 and not 0 < config.patch_layers <= (largest := int(math.log2(size / 3))):
        raise UserError(f"patch_layers is 1 to {largest} for images of {size} pixels, not {config.patch_layers}")
