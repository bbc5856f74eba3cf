"""Autoencoders that compress images for latent models, after van den Oord et al. 2017 (VQ-VAE) and Rombach et al. 2022.

A codebook that follows by averages (arXiv:1711.00937), or Gaussian codes with a small penalty (arXiv:2112.10752): with
the defaults 32x32 pixels become 8x8 codes out of 512, 72 bytes in place of 3,072. What is minimised is the error of
pixels; a perceptual loss in the features of a network of yours and a discriminator of patches are options.

    python -m experiments.autoencoder_cifar --quick                           the shapes world: 25.4 dB, 1 minute of CPU time
    python -m experiments.autoencoder_cifar --data.dir ~/tensorflow_datasets        CIFAR-10
    python -m experiments.autoencoder_cifar --model.bottleneck kl --model.latent 4
    python -m experiments.autoencoder_cifar --loss.adversarial 0.1 --loss.perceptual 1 --perceptual.weights runs/resnet
"""

import functools
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.diffusion_cifar import QUICK as DIFFUSION_QUICK
from vision.data.augment.image import flipped
from vision.data.dataset import DataConfig, Split, check_channels, load_dataset, named_split
from vision.data.pipeline import batches, evaluation_batches
from vision.data.source import ArraySource
from vision.errors import UserError, at_least_one
from vision.evaluation.autoencoder import evaluator
from vision.evaluation.vae import ReconstructionSet
from vision.launch.about import About
from vision.launch.run import main
from vision.models.autoencoder import SHARDING_RULES, Autoencoder, AutoencoderConfig
from vision.models.gan.dcgan import PatchDiscriminator
from vision.models.resnet import CIFAR_RESNET18, ResNet, ResNetConfig
from vision.ops.pixels import to_float, to_uint8
from vision.parallel.mesh import MeshConfig
from vision.pretrained.initial import read_initial_values
from vision.tasks.autoencoder import CompressionConfig, compression_loss, patch_discriminator_loss
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment, Intervals
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import create_state, with_values
from vision.train.step import alternate, averaged, gradient, preprocessed, repeated, warmed_up
from vision.types import TrainState

ABOUT = About(
    task="autoencoders",
    paper="van den Oord et al. 2017, arXiv:1711.00937; Rombach et al. 2022, arXiv:2112.10752",
    quick="1 minute",
)


@dataclass(frozen=True)
class PerceptualConfig:
    """The network in whose features images are compared, a ResNet."""

    model: ResNetConfig = CIFAR_RESNET18
    """Its shape; the default is that of ``experiments.resnet_cifar``."""
    weights: Path | None = None
    """The work directory of a run of it, or a file of our variables."""
    mean: float = 0.0
    """Subtracted from images in [-1, 1]."""
    deviation: float = 1.0
    """What they are then divided by."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The recipe."""

    model: AutoencoderConfig = AutoencoderConfig()
    data: DataConfig = DataConfig()
    loss: CompressionConfig = CompressionConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    patch_width: int = 64
    """Channels of the first layer of the discriminator of patches, where ``loss.adversarial`` is not 0."""
    patch_layers: int = 1
    """Its layers with a stride of 2: with one a logit sees 16x16 pixels, with two 34x34."""
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-3, b2=0.99, weight_decay=0.0, warmup=20_000, clip=1.0
    )
    discriminator_optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=2e-4, b2=0.99, weight_decay=0.0, schedule="constant", clip=1.0
    )
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals(log=20_000, evaluate=250_000, save=100_000)
    images: int = 5_000_000
    """Budget of training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    dispatch: int = 1
    """Training steps in one dispatch to the device."""
    ema: float = 0.999
    """Decay of the averaged parameters that are evaluated, with the codebook of the newest ones."""
    flip: bool = True
    """Mirror half of the training images."""
    evaluation_batch: int = 250
    """Test images at a time."""
    seed: int = 0
    """Seed of initialisation, order and noise."""


QUICK = Config(
    model=AutoencoderConfig(codes=256, latent=32, patch=4, widths=(64,), blocks=1, attention=False),
    data=DIFFUSION_QUICK.data,
    intervals=Intervals(log=5_000, evaluate=20_000, save=20_000),
    flip=False,
    images=40_000,
    batch_size=64,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "kl": {"model.bottleneck": "kl", "model.latent": 4},
    "l2": {"loss.pixels": "l2"},
    "small_codebook": {"model.codes": 64},
    "large_codebook": {"model.codes": 4096},
    "never_revived": {"model.dead_below": 0.0},
    "adversarial": {"loss.adversarial": 0.1},
    "no_attention": {"model.attention": False},
}


def build(config: Config) -> Experiment:
    """Model, loss, optimizer, data, evaluation, in that order."""
    at_least_one(config, "images", "batch_size", "dispatch", "evaluation_batch")
    side, channels = config.data.resolution, config.model.channels
    if side % config.model.factor:
        raise UserError(f"images of {side} pixels cannot be cut into codes of {config.model.factor} pixels each way")
    compares, plays = config.loss.perceptual > 0.0, config.loss.adversarial > 0.0
    if compares != (config.perceptual.weights is not None):
        raise UserError(
            "loss.perceptual wants a network to compare images in: set both it and perceptual.weights, or neither"
        )
    if plays and not 0 < config.patch_layers <= (most := int(math.log2(side / 3))):
        raise UserError(f"patch_layers is 1 to {most} for images of {side} pixels, not {config.patch_layers}")
    model, judge = Autoencoder(config.model), ResNet(config.perceptual.model)
    discriminator = PatchDiscriminator(config.patch_width, config.patch_layers, norm="none")

    def features(variables: Any, image: jax.Array) -> list[jax.Array]:
        seen = (image - config.perceptual.mean) / config.perceptual.deviation
        levels: Any = judge.apply(variables, seen, train=False, method="features")
        return [value for name, value in levels.items() if name != "pooled"]

    def critic(params: Any, image: jax.Array) -> Any:
        return discriminator.apply({"params": params}, image, train=True)

    def prepare(batch: Mapping[str, jax.Array], *, key: jax.Array) -> Mapping[str, jax.Array]:
        batch = {**batch, "image": to_float(batch["image"])}
        return flipped(batch, key=key) if config.flip else batch

    parts: dict[str, Any] = {"features": features if compares else None, "critic": critic if plays else None}
    parts["batch_size"] = config.batch_size
    loss = preprocessed(compression_loss(model, config.loss, bottleneck=config.model.bottleneck, **parts), prepare)

    total = -(-config.images // (config.batch_size * config.dispatch)) * config.dispatch
    rest: dict[str, Any] = {"steps": total, "batch_size": config.batch_size, "layer_of": lambda path: 0, "layers": 1}
    optimizers = {"autoencoder": make_optimizer(config.optimizer, **rest)}
    step = gradient(loss, optimizers["autoencoder"], part="autoencoder")
    if plays:
        optimizers["discriminator"] = make_optimizer(config.discriminator_optimizer, **rest)
        against = patch_discriminator_loss(model, config.loss, critic, batch_size=config.batch_size)
        opponent = gradient(preprocessed(against, prepare), optimizers["discriminator"], part="discriminator")
        step = alternate(opponent, step)
    averages, averaging = {"long": warmed_up(config.ema)}, lambda state: state.params["autoencoder"]
    step = averaged(step, averages, of=averaging)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step

    def random_variables(key: jax.Array) -> dict[str, Any]:
        """{"params": by player, "codebook": ..., "perceptual": ...}, as the state has them."""
        image = jnp.zeros((1, side, side, channels))
        made = dict(model.init({"params": key}, image, key=key, train=False))
        params = {"autoencoder": made.pop("params")}
        if plays:
            params["discriminator"] = discriminator.init(jax.random.fold_in(key, 1), image, train=False)["params"]
        if compares:
            made["perceptual"] = judge.init(jax.random.fold_in(key, 2), image, train=False)
        return {"params": params, **made}

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        params_key, run_key = jax.random.split(key)
        made = with_values(random_variables(params_key), given or {})
        params = made.pop("params")
        return create_state(
            params=params, optimizer=optimizers, key=run_key, model_state=made, ema=averages, averaging=averaging
        )

    def given() -> Mapping[str, np.ndarray]:
        assert config.perceptual.weights is not None
        shapes = jax.eval_shape(random_variables, jax.random.key(0))["perceptual"]
        found = read_initial_values(config.perceptual.weights, shapes)
        return {f"perceptual/{name}": array for name, array in found.items()}

    @functools.cache
    def data(split: Split) -> ArraySource:
        loaded = load_dataset(config.data, split, fields=("image",))
        check_channels(loaded, channels)
        return loaded

    def train_batches(
        *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, np.ndarray]]:
        data("test")  # a test split that is not there is better known now than at the first evaluation
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        return batches(data("train"), batch_size=config.batch_size, seed=seed, start_step=start_step, **share)

    def rebuilt(variables: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes: Any = model.apply(variables, to_float(image), method=Autoencoder.encode)
        made: Any = model.apply(variables, codes, method=Autoencoder.decode)
        return codes, to_uint8(made)

    def evaluation(compiler: Compiler):
        test, size = data("test"), compiler.rounded_up(config.evaluation_batch)
        share: dict[str, Any] = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        judged = lambda: evaluation_batches(test, batch_size=size, **share)
        where = f"{named_split(config.data, 'test')}, {side}x{side}, EMA {config.ema}"
        set_of_images = ReconstructionSet(judged, {"image": test.arrays["image"][:100]}, (), where)
        evaluate = evaluator(compiler, rebuilt, codes=config.model.codes if config.model.bottleneck == "vq" else 0)

        def of_state(state: TrainState) -> Evaluation:
            codebook = {name: tree for name, tree in state.model_state.items() if name == "codebook"}
            return evaluate({"params": state.ema["long"], **codebook}, set_of_images)

        return of_state

    return Experiment(
        init=init,
        step=step,
        batches=train_batches,
        batch={"image": jax.ShapeDtypeStruct((config.batch_size, side, side, channels), jnp.uint8)},
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        initial_values=given if compares else None,
        rules=SHARDING_RULES,
        evaluation_only=("evaluation_batch",),
        mesh=config.mesh,
        intervals=config.intervals,
        dispatch=config.dispatch,
    )


if __name__ == "__main__":
    sys.exit(main("autoencoder_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
