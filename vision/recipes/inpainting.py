"""The recipe of inpainting: diffusion given the masked image and its mask, and words where the data has them.

Of edits of the shapes world the network learns two things at once: to continue an image into random masks, and to show
in an edited region what is said of it, "a small blue star" or "nothing" (Wang et al. 2023, "Imagen Editor", mask whole
objects for the same reason: with random masks alone, words are ignored).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vision.data.editing.data import EditsConfig, EditsData, edits_data
from vision.data.image_data import Data, image_data
from vision.data.shapes.instructions import NOTHING
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.editing import edit_grid, edit_measures
from vision.evaluation.generator import Generator
from vision.evaluation.inpainting import as_levels, inpainting_measures, masks_of
from vision.models.unet import UNetConfig
from vision.ops.edit_masks import MASK_KINDS
from vision.ranges import PositiveInt
from vision.recipes.diffusion_networks import diffusion_network, with_variance
from vision.recipes.edit_requests import OwnEdits, Prepared, encoded, said
from vision.recipes.edit_settings import check_edit_settings
from vision.recipes.generative import EVALUATION_ONLY, GenerativeRunConfig, Objective, Samples, generative
from vision.recipes.text_networks import text_network_by_name
from vision.tasks.diffusion import DiffusionConfig, HeldOutError, diffusion_loss, held_out_error, make_process
from vision.tasks.inpainting import (
    TOKENS,
    InpaintingConfig,
    check_inpainting,
    inpainting_conditioning,
    inpainting_loss,
    inpainting_sampler,
    with_masks,
)
from vision.tasks.sampling import SamplingConfig, check, describe, sampler
from vision.train.experiment import EvaluatorFactory, Experiment
from vision.types import EditRequest


@dataclass(frozen=True, kw_only=True)
class InpaintingRunConfig(GenerativeRunConfig):
    """Diffusion given a masked image."""

    model: UNetConfig = text_network_by_name(UNetConfig())
    inpainting: InpaintingConfig = InpaintingConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    """Its ``condition_dropout`` is that of the words."""
    sampling: SamplingConfig = SamplingConfig()
    """``guidance`` is the scale of the words; unused without."""
    edited: PositiveInt = 500
    """Edits of the shapes world, at least 1, whose results are measured at each evaluation. Unused for photographs."""
    inpainted: PositiveInt = 200
    """Test images of each evaluation, at least 1, that are inpainted under each kind of mask."""


def inpainting(config: InpaintingRunConfig) -> Experiment:
    """The experiment, of edits where ``config.data`` is of them, else of any images.

    Raises ``UserError`` for settings that contradict each other.
    """
    check_edit_settings(config)
    check_inpainting(config.inpainting)
    if config.sampling.guide is not None:
        raise UserError("sampling.guide is for runs of classes or without conditions: leave it out")
    data: Data
    if isinstance(config.data, EditsConfig):
        data = edits_data(config.data, sentences="content")
        tokenizer = data.tokenizer
        words: dict[str, Any] = {"vocabulary": tokenizer.vocabulary, "tokens": tokenizer.length}
    else:
        data, words = image_data(config.data, classes=0, channels=config.model.channels), {}
    model = replace(config.model, condition_channels=config.model.channels + 1, **words)
    config = replace(config, model=model)
    shape = data.sample["image"].shape
    network = diffusion_network(with_variance(model) if config.diffusion.variance == "learned" else model, shape)
    conditioning, process = inpainting_conditioning(words=bool(words)), make_process(config.diffusion)
    of: dict[str, Any] = {"conditioning": conditioning}
    check(config.diffusion, config.sampling, batch_size=config.batch_size // config.microbatches, **of)
    objective = Objective(
        loss=inpainting_loss(diffusion_loss(network.module, config.diffusion, process, **of), config.inpainting),
        held_out=error_given_mask(held_out_error(network.module, config.diffusion, process, **of), config.inpainting),
        error=f"mean squared error of the {config.diffusion.prediction} target",
        sample=inpainting_sampler(
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
        evaluation_only=(*EVALUATION_ONLY, "edited", "inpainted"),
        of_samples=functools.partial(of_samples, config, data),
        editing=lambda generator: OwnEdits(
            generator=generator, side=shape[0], conditions=functools.partial(requested, data)
        ),
    )


def requested(data: Data, request: EditRequest, ready: Prepared) -> Mapping[str, np.ndarray]:
    """The conditions of a request. Raises ``UserError`` without a mask, or with words for a network without."""
    if request.instruction:
        raise UserError("this run follows no instructions: say what the inside of the mask shows with --prompt")
    text = said(request)
    if ready.weight is None:
        raise UserError("this run paints inside a mask: give --mask or --box")
    rows = lambda array: np.broadcast_to(array, (request.count, *array.shape))
    found = {"image": rows(ready.image), "mask": rows(as_levels((ready.weight > 0)[None, ..., 0])[0])}
    if not isinstance(data, EditsData):
        if text:
            raise UserError("this run inpaints without words: leave --prompt and --background out")
        return found
    text = NOTHING if request.remove else text
    return {**found, TOKENS: encoded(data.tokenizer, text, request.count)}


def error_given_mask(error: HeldOutError, config: InpaintingConfig) -> HeldOutError:
    """A held-out error of batches to which masks are added."""

    def given(variables, batch, *, key):
        # the field "mask" of an evaluation's batch says which samples are padding, and is left as it is
        return error({"params": variables["params"]}, with_masks(batch, config, key=key), key=key)

    return given


def given_conditions(data: Data, count: int) -> Mapping[str, np.ndarray]:
    """Of edits, the image before, the edited region and what it shows; else test images under masks of all kinds."""
    source = data.source("test")
    chosen = np.arange(count) % len(source)
    if isinstance(data, EditsData):
        rows = source.rows(chosen)  # pyright: ignore[reportAttributeAccessIssue]
        return {"image": rows["before"], "mask": rows["region"], TOKENS: rows[TOKENS]}
    images = np.stack([source[index]["image"] for index in chosen.tolist()])
    each = -(-count // len(MASK_KINDS))
    masks = np.stack([masks_of(kind, each, images.shape[1:3]) for kind in MASK_KINDS], axis=1)
    return {"image": images, "mask": as_levels(masks.reshape(-1, *images.shape[1:3])[:count])}


def of_samples(config: InpaintingRunConfig, data: Data, generator: Generator) -> EvaluatorFactory:
    """Inpainting under each kind of mask; of edits also a sheet of them and their measures."""
    batch = config.metrics.batch
    of: dict[str, Any] = {"count": config.inpainted, "shown": config.samples, "batch": batch}
    if not isinstance(data, EditsData):
        return inpainting_measures(generator, data, **of)
    return combine(
        inpainting_measures(generator, data, no_words=data.tokenizer.length, **of),
        edit_grid(generator, data, count=config.samples),
        edit_measures(generator, data, count=config.edited, batch=batch),
    )
