"""The recipe of any network that is trained on pairs: images to images (colourisation, depth), images to numbers.

    return supervised(
        config, model, data=data, loss=loss, optimizer=optimizer, metrics=metrics, images=images, rules=rules
    )

The network is called as ``model.apply(variables, batch["image"], train=...)`` unless ``apply`` says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from vision.data.dataset import DataConfig
from vision.data.image_data import Data
from vision.data.image_file import MAX_PIXELS
from vision.evaluation.supervised import Images, Metric, restore_files, supervised_metrics
from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise
from vision.parallel.sharding import ShardingRules
from vision.recipes.assemble import assemble
from vision.recipes.preprocessing import Preprocess, scaled
from vision.recipes.quick_data import GENERATION
from vision.recipes.run_config import RunConfig
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals, PredictFiles
from vision.train.optimizer import AdamConfig
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import Batch, LossFn


@dataclass(frozen=True, kw_only=True)
class SupervisedRunConfig(RunConfig):
    """A recipe on the images of a data set; experiments add ``model``."""

    data: DataConfig = DataConfig()
    optimizer: AdamConfig = AdamConfig(lr=5e-4, warmup=20_000, schedule="cosine")
    intervals: Intervals = Intervals(log=20_000, evaluate=250_000, save=250_000)
    images: int = 2_500_000
    ema: float = 0.999
    flip: bool = True
    """Flip half of the training images left to right."""


QUICK_SUPERVISED: dict[str, Any] = {
    "data": replace(GENERATION, shapes_count=10_000),
    "optimizer": AdamConfig(lr=2e-3, warmup=2_000, schedule="cosine"),
    "intervals": Intervals(log=2_000, evaluate=10_000, save=10_000),
    "images": 20_000,
    "batch_size": 32,
    "ema": 0.99,
}
"""``--quick`` on the shapes world: two minutes for a small network."""


def absolute_error(output: Float[Array, "b h w c"], batch: Batch) -> Float[Array, " b"]:
    """The mean absolute difference between the output and the image, of values in [-1, 1]."""
    return jnp.abs(output - batch["image"]).mean((1, 2, 3))


def _psnr(output: Float[Array, "b h w c"], batch: Batch) -> Float[Array, " b"]:
    return peak_signal_to_noise(jnp.clip(output, -1.0, 1.0), batch["image"])


PSNR = Metric(_psnr, "peak signal-to-noise ratio of an image in dB, output clipped and not rounded")
"""Between the output and the image."""


@runtime_checkable
class Network(Protocol):
    """A network on a batch, called inside ``nn.Module.apply`` and ``init``."""

    def __call__(self, model: Any, batch: Batch, *, train: bool) -> Array:
        """The output [b ...] for "image" float32 [b h w c] in [-1, 1] and whatever else the batch has."""
        ...


def on_image(model: Any, batch: Batch, *, train: bool) -> Array:
    """The network on the images alone."""
    return model(batch["image"], train=train)


def supervised(
    config: RunConfig,
    model: nn.Module,
    *,
    data: Data,
    loss: Callable[[Array, Batch], Float[Array, " b"]],
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    images: Images | None = None,
    network: Network = on_image,
    preprocess: Preprocess | None = None,
    rules: ShardingRules = (),
    max_pixels: int = MAX_PIXELS,
) -> Experiment:
    """The experiment.

    Args:
      config: budget, batch size, averages.
      model: the network; may carry batch statistics and use dropout.
      data: training and test images.
      loss: (output, batch) -> the loss of each image.
      optimizer: of the parameters.
      metrics: numbers of the test split, by name.
      images: (output, batch) -> images uint8 by name, to show; also what is written for files.
      network: how the model is called on a batch.
      preprocess: what happens to a batch inside the training step; by default images are scaled to [-1, 1].
      rules: sharding rules.
      max_pixels: of files to predict, limit of an image's width times height.
    """

    def apply(variables: Any, batch: Batch) -> Array:
        output: Any = model.apply(variables, batch, method=lambda module, batch: network(module, batch, train=False))
        return output

    def init(key: Key[Array, ""]) -> Mapping[str, Any]:
        batch = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in data.batch(1).items()}
        batch["image"] = batch["image"].astype(jnp.float32)
        return model.init(key, batch, method=lambda module, batch: network(module, batch, train=False))

    train_loss = preprocessed(supervised_loss(model, network, loss), preprocess or scaled(flip=False))

    def prediction(compiler: Compiler, class_names: Sequence[str]) -> PredictFiles:
        del class_names
        assert images is not None
        height, _, channels = data.sample["image"].shape
        restore = restore_files(compiler, apply, images, resolution=height, channels=channels, max_pixels=max_pixels)
        return lambda state, files, folder: restore(averages(state), files, folder)

    return assemble(
        config,
        variables=init,
        step=gradient(accumulate(train_loss, config.microbatches), optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=supervised_metrics(
            apply, data, averages, metrics, images, batch_size=config.evaluation_batch, description=f"EMA {config.ema}"
        ),
        prediction=prediction if images is not None else None,
        rules=rules,
        evaluation_only=("data.max_pixels",),
    )


def supervised_loss(model: nn.Module, network: Network, loss: Callable[[Array, Batch], Float[Array, " b"]]) -> LossFn:
    """The mean of ``loss`` over a batch; batch statistics are updated in the model state."""

    def value(
        params: Any, model_state: Any, batch: Batch, *, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], tuple[Any, dict[str, Array]]]:
        del step
        output, new = model.apply(
            {"params": params, **model_state},
            batch,
            method=lambda module, batch: network(module, batch, train=True),
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return jnp.mean(loss(output, batch)), ({**model_state, **new}, {})

    return value
