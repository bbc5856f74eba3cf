"""The recipe of Huang & Belongie 2017: a decoder for any painting, on the features of a VGG that stays as it is."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from annotated_types import MinLen
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.evaluation.style import StyleTask, fitted, resized, style_metrics
from vision.evaluation.style_files import Painter, paint_photographs
from vision.models.style.adain import (
    SHARDING_RULES,
    AdainDecoder,
    AdainDecoderConfig,
    ChannelStatistics,
    blended,
    channel_statistics,
)
from vision.ranges import Fraction, NonNegativeFloat
from vision.recipes.assemble import assemble
from vision.recipes.restoration import adam
from vision.recipes.style_data import PaintingsConfig, painting, paintings, reduced, with_paintings
from vision.recipes.style_features import StyleNetwork
from vision.recipes.style_training import (
    EVALUATION_ONLY,
    StyleTrainingConfig,
    checked_data,
    network_measures,
    test_contents,
)
from vision.tasks.style import StyleLossConfig
from vision.tasks.style_networks import AdainLossConfig, any_style_loss
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, PredictFiles
from vision.train.optimizer import AdamConfig
from vision.train.state import averages
from vision.train.step import accumulate, gradient, preprocessed


@dataclass(frozen=True, kw_only=True)
class AdainRunConfig(StyleTrainingConfig):
    """A recipe; the defaults are the paper's, with VGG16 in place of VGG19."""

    paintings: PaintingsConfig = PaintingsConfig()
    layers: Annotated[tuple[str, ...], MinLen(1)] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    """Whose means and deviations are compared; the encoder ends with the last."""
    loss: AdainLossConfig = AdainLossConfig()
    style: tuple[Path, ...] = ()
    """To predict: paintings, files; several are mixed."""
    style_weights: tuple[NonNegativeFloat, ...] = ()
    """To predict: weights of the paintings, not negative; empty for equal ones."""
    masks: tuple[Path, ...] = ()
    """To predict: for each painting a grey image, white where it applies, stretched over each photograph."""
    alpha: Fraction = 1.0
    """To predict: 1 for the style alone, 0 for the photograph as the decoder knows it."""
    optimizer: AdamConfig = AdamConfig(lr=1e-4)
    images: int = 1_280_000


def style_adain(config: AdainRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    data = with_paintings(checked_data(config), config.paintings, patch=config.data.patch)
    network = StyleNetwork(config.network, config.layers, config.features)
    stage = encoder_stage(config.layers[-1])
    decoder = AdainDecoder(AdainDecoderConfig(encoder=config.network, stage=stage))
    loss = any_style_loss(decoder, network.activations, config.layers, config.loss)
    optimizer = adam(config.optimizer, config)
    features = jnp.zeros((1, 4, 4, config.network.widths[stage - 1]))
    measured = StyleLossConfig(content_layers=config.layers[-1:], style_layers=config.layers)
    measures = network_measures(config, network, measured)
    return assemble(
        config,
        variables=lambda key: decoder.init({"params": key}, features, train=False),
        step=gradient(accumulate(preprocessed(loss, reduced(config.reduce)), config.microbatches), optimizer),
        optimizer=optimizer,
        averaging=lambda state: {"params": state.params},
        data=data,
        evaluation=lambda compiler: style_metrics(
            measures,
            StyleTask(
                contents=test_contents(config, data),
                styles=lambda: _pictures(config),
                paint=evaluated(config, network, decoder, compiler),
                features=lambda state: state.model_state["frozen"]["features"],
                description=data.description("test"),
                size=config.evaluation_size,
            ),
        )(compiler),
        prediction=functools.partial(prediction, config, network, decoder),
        frozen={"features": network.frozen("features")},
        rules=SHARDING_RULES,
        evaluation_only=(*EVALUATION_ONLY, "style", "style_weights", "masks", "alpha", "paintings.test_dir"),
    )


def encoder_stage(layer: str) -> int:
    """The stage at whose first activations "reluN_1" the encoder ends; raises ``UserError`` for another layer."""
    stage = layer.removeprefix("relu").removesuffix("_1")
    if not (layer.startswith("relu") and layer.endswith("_1") and stage.isdecimal() and int(stage) >= 2):
        raise UserError(f"the encoder ends with the first activations of a stage, such as relu4_1, not {layer}")
    return int(stage)


def _pictures(config: AdainRunConfig) -> Sequence[np.ndarray]:
    """The test paintings, at most six."""
    source = paintings(config.paintings, "test")
    return [np.asarray(source[index]["image"]) for index in range(min(len(source), 6))]


def painter(config: AdainRunConfig, network: StyleNetwork, decoder: AdainDecoder, compiler: Compiler) -> Painter:
    """Encoder, AdaIN and decoder on images of any size; variables are (those of the network, of the decoder).

    Targets are (statistics of each painting, weights [s]).
    """
    last = config.layers[-1]
    factor = 2 ** (encoder_stage(last) - 1)

    def thumbnail(variables: Any, image: Array, targets: Any) -> ChannelStatistics:
        del targets
        return channel_statistics(network.activations(variables[0], image.astype(jnp.float32) / 255.0)[last])

    def tile(variables: Any, tiles: Array, targets: Any, own: ChannelStatistics) -> Array:
        styles, weights = targets
        found = network.activations(variables[0], tiles[..., :3].astype(jnp.float32) / 255.0)[last]
        shares = jnp.broadcast_to(weights, (*found.shape[:3], len(styles)))
        if tiles.shape[-1] > 3:
            batch, height, width, count = tiles[..., 3:].shape
            cells = tiles[..., 3:].astype(jnp.float32) / 255.0
            cells = cells.reshape(batch, height // factor, factor, width // factor, factor, count).mean((2, 4))
            # where no mask applies, all paintings do
            shares = shares * cells + 1e-6
        mixed = blended(found, styles, shares, alpha=config.alpha, own=own)
        made: Any = decoder.apply(variables[1], mixed, train=False)
        return jnp.round(jnp.clip(made, 0.0, 1.0) * 255.0).astype(jnp.uint8)

    return Painter(compiler, thumbnail, tile, config.tiling)


def evaluated(config: AdainRunConfig, network: StyleNetwork, decoder: AdainDecoder, compiler: Compiler) -> Any:
    """(state, photograph, painting) -> the painted photograph."""
    paint = painter(config, network, decoder, compiler)
    encode = statistics_of(network, config.layers[-1], compiler)

    def made(state: Any, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        features = state.model_state["frozen"]["features"]
        targets = ([encode(features, style)], compiler.replicate(np.ones(1, np.float32)))
        return paint((features, averages(state)), content, targets)

    return made


def statistics_of(network: StyleNetwork, layer: str, compiler: Compiler) -> Any:
    """(variables of the network, painting) -> its statistics."""

    def statistics(variables: Any, image: Array) -> ChannelStatistics:
        return channel_statistics(network.activations(variables, image.astype(jnp.float32) / 255.0)[layer])

    compiled = compiler.function(statistics)
    return lambda variables, picture: compiled(variables, compiler.replicate(picture[None]))


def prediction(
    config: AdainRunConfig,
    network: StyleNetwork,
    decoder: AdainDecoder,
    compiler: Compiler,
    class_names: Sequence[str],
) -> PredictFiles:
    """Files in the style of ``config.style``."""
    del class_names
    if not config.style:
        raise UserError("name a painting with --style, such as --style painting.jpg after the files")
    for name in ("style_weights", "masks"):
        given = len(getattr(config, name))
        if given not in (0, len(config.style)):
            raise UserError(f"{len(config.style)} paintings need as many {name}, not {given}")
    if config.style_weights and not sum(config.style_weights):
        raise UserError("style_weights are all 0: give at least one painting a weight")
    styles = [fitted(painting(path), config.tiling.tile) for path in config.style]
    masks = [painting(path) for path in config.masks]
    encode = statistics_of(network, config.layers[-1], compiler)
    weights: Float[np.ndarray, " s"] = np.asarray(config.style_weights or (1.0,) * len(styles), np.float32)

    def targets(variables: Any) -> Any:
        return [encode(variables[0], style) for style in styles], compiler.replicate(weights)

    def masks_of(size: tuple[int, int]) -> np.ndarray | None:
        # grey: one channel is enough
        return np.concatenate([resized(mask, size)[..., :1] for mask in masks], axis=-1) if masks else None

    predict = paint_photographs(
        painter(config, network, decoder, compiler),
        paintings=styles,
        targets=targets,
        masks=masks_of,
        max_pixels=config.data.max_pixels,
    )
    variables = lambda state: (state.model_state["frozen"]["features"], averages(state))
    return lambda state, files, folder: predict(variables(state), files, folder)
