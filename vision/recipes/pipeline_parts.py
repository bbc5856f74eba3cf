"""What a text-to-image recipe is composed of: of a published pipeline, or of options and trained from the start.

Of a pipeline, the first stage and the text encoder are frozen networks and the process is its scheduler's. From the
start, the text encoder is trained with the network, as Rombach et al. 2022, section 4.3.1, did; its parameters are in
``params["text_encoder"]``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.data.captions.data import CaptionedConfig, open_captioned, training_texts
from vision.data.text.clip import read_clip_tokenizer
from vision.data.text.tokenizer import Tokenizer
from vision.data.text.training import END, trained_tokenizer
from vision.errors import UserError
from vision.models.clip.text import TextConfig, TextTransformer
from vision.models.unet_condition.unet import ConditionUNetConfig
from vision.pretrained.clip_text import read_clip_text
from vision.pretrained.pipeline import AUTOENCODER, TEXT, TOKENIZER, PublishedPipeline, Task, describe_pipeline
from vision.recipes.first_stage import SHAPES
from vision.recipes.latents import FirstStageConfig
from vision.tasks.diffusion import DiffusionConfig
from vision.train.experiment import FrozenPart
from vision.train.kept import KeptText

NAME = "text_encoder"
"""Of the frozen part, and of the trained text encoder among the parameters."""
OPTION = "pipeline.path"
_OF_TRAINING = ("dropout", "remat", "dtype")
"""Fields of a network that a run may choose for itself."""
_OF_PROCESS = ("schedule", "steps", "zero_terminal_snr", "prediction")


@dataclass(frozen=True)
class PipelineConfig:
    """Which published pipeline."""

    path: Path | None = None
    """The folder of a pipeline of diffusers, with model_index.json: its network is the start of the run, and its other
    parts are used as they are. Unset, everything but the first stage is trained from the start."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelineParts:
    """The parts, of one kind whatever they are from."""

    pipeline: PublishedPipeline | None
    model: ConditionUNetConfig
    first_stage: FirstStageConfig
    diffusion: DiffusionConfig
    task: Task
    text: TextTransformer
    kept: KeptText
    """The tokenizer's definition."""
    frozen: Mapping[str, FrozenPart] = field(default_factory=dict)
    """The text encoder of a pipeline; {} where it is trained."""

    def tokenizer(self) -> Tokenizer:
        """Reads or trains it, where the run has kept none."""
        return _tokenizer(self.kept.content())

    def text_params(self, key: Key[Array, ""]) -> dict[str, Any]:
        """The initial parameters of a text encoder that is trained; {} of a frozen one."""
        if self.frozen:
            return {}
        tokens = jnp.zeros((1, self.text.config.length), jnp.int32)
        return {NAME: self.text.init(key, tokens, train=False)["params"]}

    def context(self, values: Mapping[str, Any], tokens: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """The context of texts; ``values`` have "params" and, of a pipeline, "frozen"."""
        variables = values["frozen"][NAME] if self.frozen else {"params": values["params"][NAME]}
        made: Any = self.text.apply(variables, tokens, train=False)
        return made["tokens"]


def pipeline_parts(
    *,
    pipeline: PipelineConfig,
    model: ConditionUNetConfig,
    text: TextConfig,
    first_stage: FirstStageConfig,
    diffusion: DiffusionConfig,
    data: CaptionedConfig,
    defaults: tuple[ConditionUNetConfig, TextConfig, DiffusionConfig],
) -> PipelineParts:
    """The parts of a recipe.

    Args:
      pipeline: where a published one is.
      model: the network without one; with one, what training needs of it.
      text: the text encoder without one.
      first_stage: without one.
      diffusion: the process and the loss.
      data: the captions that a tokenizer is trained on.
      defaults: the experiment's network, text encoder and process, by which it is seen what was chosen.

    Raises ``UserError`` for a pipeline that cannot be read, or options that are of the pipeline and differ from it.
    """
    if first_stage.latents is not None:
        raise UserError("latents of captioned images are encoded in every step: leave first_stage.latents out")
    if pipeline.path is None:
        return _from_the_start(model, text, first_stage, diffusion, data)
    found = describe_pipeline(pipeline.path)
    stated = {name: getattr(found.process, name) for name in _OF_PROCESS}
    _own_alone("model", model, defaults[0], dataclasses.asdict(found.network), ignored=_OF_TRAINING)
    _own_alone("diffusion", diffusion, defaults[2], stated)
    if text != defaults[1] or first_stage != FirstStageConfig(path=SHAPES):
        raise UserError("text encoder and first stage are the pipeline's own: leave --text and --first-stage out")
    folder = found.part(TEXT)
    frozen = FrozenPart(
        option=OPTION, path=folder, shapes=found.text.shapes, load=lambda: read_clip_text(folder).variables
    )
    length = found.text.config.length

    def definition() -> str:
        tokenizer = read_clip_tokenizer(found.part(TOKENIZER), length=length)
        _fitting(tokenizer, found.text.config, str(found.folder))
        return tokenizer.definition

    return PipelineParts(
        pipeline=found,
        model=dataclasses.replace(found.network, **{name: getattr(model, name) for name in _OF_TRAINING}),
        first_stage=dataclasses.replace(first_stage, path=found.part(AUTOENCODER), scale="published"),
        diffusion=dataclasses.replace(diffusion, **stated),
        task=found.task,
        text=found.text.module,
        kept=KeptText(definition),
        frozen={NAME: frozen},
    )


@functools.lru_cache(maxsize=4)
def _tokenizer(definition: str) -> Tokenizer:
    return Tokenizer(definition)


def _from_the_start(
    model: ConditionUNetConfig,
    text: TextConfig,
    first_stage: FirstStageConfig,
    diffusion: DiffusionConfig,
    data: CaptionedConfig,
) -> PipelineParts:
    if model.condition_channels or model.embedding != "none":
        raise UserError("images are generated from captions alone: leave model.condition_channels and embedding out")
    if text.end != END:
        raise UserError(f"a trained tokenizer ends texts with the token {END}: set --text.end {END}")
    if model.context != text.width:
        raise UserError(f"texts have {text.width} channels: set --model.context {text.width}")
    if first_stage.path is None:
        raise UserError("name a first stage with --first-stage.path, or a pipeline with --pipeline.path")
    sizes: dict[str, int] = {"vocabulary": text.vocabulary, "length": text.length}
    trained: Callable[[], str] = lambda: (
        trained_tokenizer(training_texts(open_captioned(data, "train")), kind="bytes", **sizes).definition
    )
    return PipelineParts(
        pipeline=None,
        model=model,
        first_stage=first_stage,
        diffusion=diffusion,
        task="text",
        text=TextTransformer(text, 0, "gelu"),
        kept=KeptText(trained),
    )


def _own_alone(
    name: str, chosen: Any, default: Any, stated: Mapping[str, Any], *, ignored: tuple[str, ...] = ()
) -> None:
    """Raise ``UserError`` where an option was chosen that is the pipeline's own, and is another there."""
    for each, value in stated.items():
        found = getattr(chosen, each)
        if each not in ignored and found not in (getattr(default, each), value):
            raise UserError(f"{name}.{each} is the pipeline's own, {value}: leave it out, and --quick too")


def _fitting(tokenizer: Tokenizer, text: TextConfig, folder: str) -> None:
    if tokenizer.vocabulary > text.vocabulary or tokenizer.end >= text.vocabulary:
        raise UserError(
            f"the tokenizer of {folder} has {tokenizer.vocabulary:,} tokens and its text encoder is for "
            f"{text.vocabulary:,}: fetch both again"
        )
