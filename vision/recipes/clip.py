"""The recipe of CLIP (Radford et al. 2021, arXiv:2103.00020): towers, tokenizer, pairs, loss, optimizer, evaluation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.data.augment.image import AugmentConfig, augment
from vision.data.captions.data import CaptionedConfig, captioned_data, open_captioned, training_texts
from vision.data.folder import square
from vision.data.text.clip import read_clip_tokenizer
from vision.data.text.tokenizer import Tokenizer
from vision.data.text.training import END, trained_tokenizer
from vision.errors import UserError
from vision.evaluation.classification import predict_files
from vision.evaluation.combine import combine
from vision.evaluation.image_text import (
    Embedder,
    ImageTextEncoder,
    RetrievalConfig,
    ZeroShotConfig,
    classifier_of_texts,
    image_text_metrics,
    zero_shot_metrics,
)
from vision.inference import Inference, Preprocessing
from vision.models.clip.clip import (
    SHARDING_RULES,
    VIT_B32,
    AnyClipConfig,
    Clip,
    limited_scale,
    normalised,
)
from vision.models.clip.text import TextConfig
from vision.ops.pixels import to_float
from vision.pretrained.clip import IGNORED, REPLACED, clip_rules, clip_source, clip_weights, is_of_transformers
from vision.pretrained.rules import to_published
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.clip_encoder import clip_by_name, prepared
from vision.recipes.run_config import RunConfig
from vision.tasks.contrastive import contrastive_loss
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, PredictFiles
from vision.train.kept import KeptText
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import gradient, preprocessed, projected
from vision.types import Batch, TrainState


@dataclass(frozen=True)
class TokenizerConfig:
    """How texts become tokens. What a run has begun with is kept in its folder."""

    kind: Literal["clip", "bytes", "words"] = "clip"
    """CLIP's published tokenizer; or one that is trained on the captions, of pairs of bytes or of words."""
    path: Path | None = None
    """CLIP's: the folder with tokenizer.json, or with vocab.json and merges.txt."""


@dataclass(frozen=True, kw_only=True)
class ClipRunConfig(RunConfig):
    """CLIP on any captioned images."""

    model: AnyClipConfig = clip_by_name(VIT_B32)
    data: CaptionedConfig = CaptionedConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    clip_statistics: bool = True
    """Normalise images by the mean and deviation of CLIP's, as published weights need it, instead of to [-1, 1]."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.9, 1.0))
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=5e-4, b2=0.98, weight_decay=0.2, warmup=65_536_000)
    retrieval: RetrievalConfig = RetrievalConfig()
    zero_shot: ZeroShotConfig = ZeroShotConfig()


def tokenizer_of(config: ClipRunConfig) -> Tokenizer:
    """Reads or trains the tokenizer of a new run.

    Raises ``UserError`` where its files or the captions cannot be read, or it does not fit the text tower.
    """
    text, chosen = config.model.text, config.tokenizer
    if chosen.kind == "clip":
        if chosen.path is None:
            raise UserError(
                "CLIP's tokenizer is read from its files: name their folder with --tokenizer.path, or train one with "
                f"--tokenizer.kind bytes --model.text.end {END}"
            )
        return read_clip_tokenizer(chosen.path, length=text.length)
    texts = training_texts(open_captioned(config.data, "train"))
    return trained_tokenizer(texts, kind=chosen.kind, vocabulary=text.vocabulary, length=text.length)


def fitting(tokenizer: Tokenizer, text: TextConfig) -> Tokenizer:
    """``tokenizer``; raises ``UserError`` unless it is one of the text tower."""
    for name, found, wanted in (("length", tokenizer.length, text.length), ("end", tokenizer.end, text.end)):
        if found != wanted:
            raise UserError(f"the tokenizer has the {name} {found}: set --model.text.{name} {found}")
    if tokenizer.vocabulary > text.vocabulary:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary:,} tokens and the text tower {text.vocabulary:,}: set "
            f"--model.text.vocabulary {tokenizer.vocabulary}"
        )
    return tokenizer


def check(config: ClipRunConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    if config.microbatches > 1:
        raise UserError(
            "the loss of a CLIP is of all pairs of a batch and no mean over parts of it: leave microbatches 1, and "
            "save memory with --model.remat or more devices"
        )
    trained = config.tokenizer.kind != "clip"
    if trained and config.tokenizer.path is not None:
        raise UserError("tokenizer.path is of CLIP's tokenizer: leave it out, or set --tokenizer.kind clip")
    if trained and config.model.text.end != END:
        raise UserError(f"a trained tokenizer ends texts with the token {END}: set --model.text.end {END}")


def clip(config: ClipRunConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other.
    """
    check(config)
    model = Clip(config.model)
    kept = KeptText(lambda: tokenizer_of(config).definition)
    read = functools.cache(lambda definition: fitting(Tokenizer(definition), config.model.text))
    tokenizer = lambda: read(kept.content())
    shape = config.model.text.length
    data = captioned_data(config.data, tokenizer=tokenizer, length=shape, channels=config.model.channels)
    rules, folder = clip_rules(config.model), clip_source(config.model, resolution=config.data.resolution)

    def prepare(batch: Batch, *, key: jax.Array) -> Batch:
        image = augment(to_float(batch["image"]), config.augment, key=key)
        return {**batch, "image": prepared(image, clip_statistics=config.clip_statistics)}

    loss = preprocessed(contrastive_loss(model), prepare)
    optimizer = make_optimizer(config.optimizer, steps=config.steps, batch_size=config.batch_size)
    encoder = image_text_encoder(config, tokenizer)
    evaluated = {"batch_size": config.evaluation_batch, "description": f"EMA {config.ema}"}
    return assemble(
        config,
        variables=lambda key: model.init(
            key, jnp.zeros((1, *data.sample["image"].shape)), jnp.zeros((1, shape), jnp.int32), train=False
        ),
        step=projected(gradient(loss, optimizer), limited_scale),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=combine(
            image_text_metrics(encoder, data, averages, config.retrieval, **evaluated),
            zero_shot_metrics(encoder, averages, config.zero_shot, resolution=config.data.resolution, **evaluated),
        ),
        prediction=functools.partial(prediction, config, encoder),
        inference=functools.partial(inference, config, encoder),
        tokenizer=kept,
        weights=WeightsSource(
            published=rules,
            ignored=IGNORED,
            replaced=REPLACED,
            adapt=clip_weights,
            written=lambda state: to_published(averages(state), rules=rules),
            folder=folder if is_of_transformers(config.model) else None,
        ),
        rules=SHARDING_RULES,
        evaluation_only=("retrieval.", "zero_shot.", "data.test_", "data.max_pixels"),
    )


def image_text_encoder(config: ClipRunConfig, tokenizer: Any) -> ImageTextEncoder:
    """The run's network for evaluation: embeddings of length 1."""
    model = Clip(config.model)

    def image(values: Any, images: Array) -> Float[Array, "b e"]:
        pixels = prepared(to_float(images), clip_statistics=config.clip_statistics)
        made: Any = model.apply(values, pixels, train=False, method="encode_image")
        return normalised(made["embedding"])

    def text(values: Any, tokens: Array) -> Float[Array, "b e"]:
        made: Any = model.apply(values, tokens, train=False, method="encode_text")
        return normalised(made["embedding"])

    return ImageTextEncoder(image=image, text=text, tokenizer=tokenizer, name="this CLIP")


def prediction(
    config: ClipRunConfig, encoder: ImageTextEncoder, compiler: Compiler, class_names: Sequence[str]
) -> PredictFiles:
    """Files by the texts of ``zero_shot.classes`` that fit them best."""
    del class_names
    names = config.zero_shot.classes
    if not names:
        raise UserError('say what the images may show, as in --zero-shot.classes "a dog" "a cat"')
    embedder = Embedder(compiler, encoder, batch_size=len(names))
    scale = lambda values: jnp.exp(values["params"]["logit_scale"])
    predict = predict_files(
        compiler,
        classifier_of_texts(encoder, scale),
        fitted=functools.partial(square, resolution=config.data.resolution),
        class_names=names,
        channels=config.model.channels,
        max_pixels=config.data.max_pixels,
    )

    def of_state(state: TrainState, files: Sequence[Path], folder: Path) -> list[str]:
        values = averages(state)
        classes = compiler.replicate(embedder.classes(values, names, config.zero_shot.templates))
        return predict({"model": values, "classes": classes}, files, folder)

    return of_state


def inference(config: ClipRunConfig, encoder: ImageTextEncoder, state: TrainState) -> Inference:
    """What is exported: images to embeddings of length 1."""
    side = config.data.resolution
    return Inference(
        function=lambda images: {"embedding": encoder.image(averages(state), images)},
        image=(side, side, config.model.channels),
        preprocessing=Preprocessing(resize="shorter side", side=side, interpolation="lanczos", fit="crop the centre"),
    )
