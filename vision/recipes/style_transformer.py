"""The recipe of Johnson et al. 2016: a network for one painting, trained on photographs."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vision.errors import UserError
from vision.evaluation.style import StyleTask, fitted, style_metrics
from vision.evaluation.style_files import Painter, paint_photographs
from vision.home import expanded
from vision.inference import Inference
from vision.models.style.transformer import SHARDING_RULES, StyleTransformer, StyleTransformerConfig
from vision.ranges import Pixels
from vision.recipes.assemble import assemble
from vision.recipes.restoration import adam
from vision.recipes.style_data import painting, reduced
from vision.recipes.style_features import RULES, StyleNetwork
from vision.recipes.style_training import (
    EVALUATION_ONLY,
    StyleTrainingConfig,
    checked_data,
    network_measures,
    test_contents,
)
from vision.tasks.style import StyleLossConfig, gram_matrix
from vision.tasks.style_networks import one_style_loss
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, FrozenPart, PredictFiles
from vision.train.state import averages
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import TrainState


@dataclass(frozen=True, kw_only=True)
class StyleTransformerRunConfig(StyleTrainingConfig):
    """A recipe; the defaults are the paper's layers."""

    model: StyleTransformerConfig = StyleTransformerConfig()
    loss: StyleLossConfig = StyleLossConfig(
        content_layers=("relu3_3",), style_layers=("relu1_2", "relu2_2", "relu3_3", "relu4_3"), style=100.0
    )
    style: Path | None = None
    """The painting, a file; None for a texture made by rules. The run remembers its content; the path may change."""
    style_size: Pixels = 256
    """The longer side in pixels to which the painting is brought: smaller for finer strokes."""


def style_transformer(config: StyleTransformerRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    data, module = checked_data(config), StyleTransformer(config.model)
    if not config.loss.style_layers or not config.loss.content_layers:
        raise UserError("loss.style_layers and loss.content_layers need at least one layer each")
    if config.loss.layer_weights and len(config.loss.layer_weights) != len(config.loss.style_layers):
        raise UserError("loss.layer_weights and loss.style_layers must be equally many")
    network = StyleNetwork(config.network, config.loss.layers, config.features)
    loss = one_style_loss(module, network.activations, config.loss)
    optimizer = adam(config.optimizer, config)
    image = jnp.zeros((1, 32, 32, 3))
    measures = network_measures(config, network, config.loss)
    return assemble(
        config,
        variables=lambda key: module.init({"params": key}, image, train=False),
        step=gradient(accumulate(preprocessed(loss, reduced(config.reduce)), config.microbatches), optimizer),
        optimizer=optimizer,
        averaging=lambda state: {"params": state.params},
        data=data,
        evaluation=lambda compiler: style_metrics(
            measures,
            StyleTask(
                contents=test_contents(config, data),
                styles=lambda: [painting(config.style)],
                paint=_paint(painter(config, module, compiler)),
                features=lambda state: state.model_state["frozen"]["features"],
                description=data.description("test"),
                size=config.evaluation_size,
            ),
        )(compiler),
        prediction=functools.partial(prediction, config, module),
        inference=functools.partial(inference, config, module),
        frozen={"features": network.frozen("features"), "painting": painting_part(config, network)},
        rules=SHARDING_RULES,
        evaluation_only=EVALUATION_ONLY,
    )


def painting_part(config: StyleTransformerRunConfig, network: StyleNetwork) -> FrozenPart:
    """The Gram matrices of the painting, which are all that is learnt of it."""

    def load() -> dict[str, Array]:
        image = jnp.asarray(fitted(painting(config.style), config.style_size)[None], jnp.float32) / 255.0
        found = jax.jit(network.activations)(network.load(), image)
        return {name: gram_matrix(found[name]) for name in config.loss.style_layers}

    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    found = jax.eval_shape(network.activations, network.shapes(), image)
    shapes = {name: jax.eval_shape(gram_matrix, found[name]) for name in config.loss.style_layers}
    path = RULES if config.style is None else expanded(config.style)
    return FrozenPart(option="style", path=path, shapes=shapes, load=load)


def painter(config: StyleTransformerRunConfig, module: StyleTransformer, compiler: Compiler) -> Painter:
    """The network on images of any size, whose instance statistics are those of the whole image."""

    def thumbnail(variables: Any, image: Array, targets: Any) -> Any:
        del targets
        unit = image.astype(jnp.float32) / 255.0
        return module.apply(variables, unit, train=False, mutable=["statistics"])[1]["statistics"]

    def tile(variables: Any, tiles: Array, targets: Any, statistics: Any) -> Array:
        del targets
        made: Any = module.apply(
            {**variables, "statistics": statistics}, tiles[..., :3].astype(jnp.float32) / 255.0, train=False
        )
        return jnp.round(made * 255.0).astype(jnp.uint8)

    return Painter(compiler, thumbnail, tile, config.tiling)


def _paint(paint: Painter) -> Any:
    return lambda state, content, style: paint(averages(state), content, ())


def prediction(
    config: StyleTransformerRunConfig, module: StyleTransformer, compiler: Compiler, class_names: Sequence[str]
) -> PredictFiles:
    """Painted files."""
    del class_names
    predict = paint_photographs(
        painter(config, module, compiler),
        paintings=[painting(config.style)],
        targets=lambda variables: (),
        masks=lambda size: None,
        max_pixels=config.data.max_pixels,
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def inference(config: StyleTransformerRunConfig, module: StyleTransformer, state: TrainState) -> Inference:
    """What is exported: images of one size to painted images."""
    variables = averages(state)

    def function(images: Array) -> Mapping[str, Array]:
        made: Any = module.apply(variables, images.astype(jnp.float32) / 255.0, train=False)
        return {"image": jnp.round(made * 255.0).astype(np.uint8)}

    return Inference(function=function, image=(config.tiling.tile, config.tiling.tile, 3))
