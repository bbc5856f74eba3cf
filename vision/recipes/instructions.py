"""The recipe of editing by instructions: diffusion given an image and a sentence (Brooks et al. 2023).

The network sees the image to edit, concatenated to the noisy one, and the sentence as tokens that it attends to. Each
is dropped in training, and both together, so that sampling can be guided by either with a scale of its own (their
equation 3): ``sampling.guidance`` is that of the image, ``sampling.text_guidance`` that of the sentence. The triples
are rendered, so that what should change and what should stay is known exactly.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vision.data.editing.data import EditsConfig, EditsData, edits_data
from vision.diffusion.conditions import Conditioning, Probabilities
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.editing import edit_grid, edit_measures
from vision.evaluation.generator import Generator
from vision.models.unet import UNetConfig
from vision.ops.pixels import to_float
from vision.ranges import Fraction, PositiveInt
from vision.recipes.diffusion_networks import diffusion_network, with_variance
from vision.recipes.edit_requests import OwnEdits, Prepared, encoded
from vision.recipes.edit_settings import check_edit_settings
from vision.recipes.generative import EVALUATION_ONLY, GenerativeRunConfig, Objective, Samples, generative
from vision.recipes.text_networks import text_network_by_name
from vision.tasks.diffusion import DiffusionConfig, HeldOutError, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import SamplingConfig, check, describe, sampler
from vision.train.experiment import EvaluatorFactory, Experiment
from vision.types import Batch, EditRequest, LossFn, Sampler

CONDITIONING = Conditioning({"image": 0.0, "tokens": 0})
"""The image to edit, and the sentence."""


@dataclass(frozen=True, kw_only=True)
class InstructionRunConfig(GenerativeRunConfig):
    """Diffusion given an image and an instruction."""

    model: UNetConfig = text_network_by_name(UNetConfig())
    data: EditsConfig = EditsConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    """Its ``condition_dropout`` is unused: image and sentence have their own."""
    image_dropout: Fraction = 0.05
    """Share of samples trained without their image alone."""
    text_dropout: Fraction = 0.05
    """Share of samples trained without their sentence alone."""
    dropout: Fraction = 0.05
    """Share of samples trained without both (Brooks et al. 2023, section 3.2.1: 5 % each)."""
    sampling: SamplingConfig = SamplingConfig(guidance=1.5, text_guidance=7.5)
    """``guidance`` is the scale of the image, ``text_guidance`` that of the sentence."""
    edited: PositiveInt = 500
    """Test triples of each evaluation, at least 1, whose edits are measured."""
    flip: bool = False


def instructions(config: InstructionRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    data, dropout = edits_data(config.data, sentences="instruction"), dropout_of(config)
    check_edit_settings(config)
    if config.sampling.guide is not None:
        raise UserError("sampling.guide is for runs of classes or without conditions: leave it out")
    tokenizer = data.tokenizer
    model = replace(config.model, condition_channels=3, vocabulary=tokenizer.vocabulary, tokens=tokenizer.length)
    config = replace(config, model=model)
    shape = data.sample["image"].shape
    network = diffusion_network(with_variance(model) if config.diffusion.variance == "learned" else model, shape)
    process = make_process(config.diffusion)
    of: dict[str, Any] = {"conditioning": CONDITIONING}
    check(config.diffusion, config.sampling, batch_size=config.batch_size // config.microbatches, dropout=dropout, **of)
    objective = Objective(
        loss=loss_given_before(diffusion_loss(network.module, config.diffusion, process, dropout=dropout, **of)),
        held_out=error_given_before(held_out_error(network.module, config.diffusion, process, **of)),
        error=f"mean squared error of the {config.diffusion.prediction} target",
        sample=sampler_given_before(
            sampler(network.module, config.diffusion, process, config.sampling, image_shape=shape, **of)
        ),
        sampling=describe(config.sampling),
        given=functools.partial(given_conditions, data),
    )
    return generative(
        config,
        replace(network, folder=None),
        Samples(images=data, space=None, shape=shape),
        objective,
        evaluation_only=(*EVALUATION_ONLY, "edited"),
        of_samples=functools.partial(of_samples, config, data),
        editing=lambda generator: OwnEdits(
            generator=generator, side=shape[0], conditions=functools.partial(requested, data)
        ),
    )


def requested(data: EditsData, request: EditRequest, ready: Prepared) -> Mapping[str, np.ndarray]:
    """The conditions of a request. Raises ``UserError`` for one without an instruction, or with something else."""
    text = f"put it on {request.background}" if request.background else request.instruction
    if not text or request.prompt or request.remove:
        raise UserError(
            'this run follows instructions: say what to do with --instruction "make the star blue", and leave --prompt '
            "and --remove out"
        )
    image = np.broadcast_to(ready.image, (request.count, *ready.image.shape))
    return {"image": image, "tokens": encoded(data.tokenizer, text, request.count)}


def dropout_of(config: InstructionRunConfig) -> Probabilities:
    """Of the image, of the sentence, and of both."""
    return {("image",): config.image_dropout, ("tokens",): config.text_dropout, ("image", "tokens"): config.dropout}


def with_before(batch: Batch) -> Batch:
    """A batch with the image to edit, float32 in [-1, 1], in the field of the condition "image"."""
    return {**batch, "condition_image": to_float(batch["before"])}


def loss_given_before(loss: LossFn) -> LossFn:
    """``loss`` of batches with "before" uint8."""

    def given(params, model_state, batch, *, key, step):
        return loss(params, model_state, with_before(batch), key=key, step=step)

    return given


def error_given_before(error: HeldOutError) -> HeldOutError:
    """The same for a held-out error."""
    return lambda variables, batch, *, key: error({"params": variables["params"]}, with_before(batch), key=key)


def sampler_given_before(sample: Sampler) -> Sampler:
    """``sample`` whose condition "image" is uint8."""

    def given(variables, condition, index, key, /):
        return sample(variables, {**condition, "image": to_float(condition["image"])}, index, key)

    return given


def given_conditions(data: EditsData, count: int) -> Mapping[str, np.ndarray]:
    """The images to edit and the sentences of the first test triples, repeated where there are fewer."""
    source = data.source("test")
    rows = source.rows(np.arange(count) % len(source))  # pyright: ignore[reportAttributeAccessIssue]
    return {"image": rows["before"], "tokens": rows["tokens"]}


def of_samples(config: InstructionRunConfig, data: EditsData, generator: Generator) -> EvaluatorFactory:
    """A sheet of edits, and their measures."""
    return combine(
        edit_grid(generator, data, count=config.samples),
        edit_measures(generator, data, count=config.edited, batch=config.metrics.batch),
    )
