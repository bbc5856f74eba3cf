"""Edits of given images: from a request to conditions, a method and back to pixels.

Generators that were trained to edit (`OwnEdits`) do it in one pass of their sampler; any other one (`GeneralEdits`) by
SDEdit, RePaint, blended diffusion or inversion. Both end in the same way: outside of the mask the pixels of the image
come back, bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vision.data.text.tokenizer import Tokenizer
from vision.diffusion.editing.composite import composited
from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Denoiser
from vision.errors import UserError
from vision.evaluation.generator import Generator, generate
from vision.metrics.editing.preservation import seam, unmasked_psnr
from vision.ops.edit_masks import feathered, grown, reduced
from vision.ops.pixels import to_float, to_uint8
from vision.recipes.latents import LatentSpace
from vision.recipes.text_requests import fitted, report_unknown
from vision.tasks.editing import EditingConfig, GeneralMethod, edit_function
from vision.tasks.sampling import SamplingConfig
from vision.train.compile import Compiler
from vision.train.experiment import Edit
from vision.types import Condition, Edited, EditMethod, EditRequest, TrainState


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A request as the network sees it."""

    image: UInt8[np.ndarray, "s s 3"]
    weight: Float[np.ndarray, "s s 1"] | None
    notes: tuple[str, ...]


def prepared(request: EditRequest, side: int) -> Prepared:
    """Image and mask as training images are fitted, to a square of ``side`` pixels; the mask grown and feathered.

    Raises ``UserError`` for a mask that is then empty or full.
    """
    height, width = request.image.shape[:2]
    image, notes = fitted(request.image, side), ()
    if (height, width) != (side, side):
        cut = "" if height == width else " and its centre cropped"
        notes = (f"the image of {width}x{height} pixels is resized to {side}x{side}{cut}, as training images are",)
    if request.mask is None:
        return Prepared(image=image, weight=None, notes=notes)
    inside = fitted_mask(request.mask, side)
    if not inside.any():
        raise UserError("the mask is empty as the network sees it: mark where the image may change")
    mask = grown(jnp.asarray(inside), request.grow)
    if bool(mask.all()):
        raise UserError("the mask covers the whole image: leave it out, or grow it less")
    weight = np.asarray(feathered(mask, request.feather))
    return Prepared(image=image, weight=weight, notes=notes)


def fitted_mask(mask: UInt8[np.ndarray, "h w 1"], side: int) -> np.ndarray:
    """A mask fitted as images are, without values in between: bool [s s 1]."""
    height, width = mask.shape[:2]
    scale = side / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    resized = Image.fromarray(mask[..., 0]).resize(size, Image.Resampling.NEAREST)
    return (np.asarray(resized.crop((left, top, left + side, top + side))) > 127)[..., None]


def encoded(tokenizer: Tokenizer, text: str, count: int) -> np.ndarray:
    """The tokens of one text in ``count`` rows, all 0 for none; unknown words are reported and read as one word."""
    if not text:
        return np.zeros((count, tokenizer.length), np.int32)
    report_unknown(tokenizer, [text])
    return tokenizer.encode([text] * count)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnEdits:
    """(compiler) -> (state, request) -> edited, of a generator that was trained to edit."""

    generator: Generator
    side: int
    conditions: Callable[[EditRequest, Prepared], Mapping[str, np.ndarray]]
    """(request, prepared) -> conditions, [count ...]. Raises ``UserError`` for a request it cannot follow."""

    def __call__(self, compiler: Compiler) -> Edit:
        """The function that edits."""

        def edit(state: TrainState, request: EditRequest) -> Edited:
            if request.method not in ("auto", "model"):
                raise UserError(
                    f"this run was trained to edit, and does it by itself: leave --method {request.method} out"
                )
            ready = prepared(request, self.side)
            condition = self.conditions(request, ready)
            of: dict[str, Any] = {"count": request.count, "seed": request.seed}
            made = generate(compiler, self.generator, self.generator.variables(state), condition, **of)
            return edited_images(ready, made, "model")

        return edit


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneralEdits:
    """The same of a generator that was not."""

    generator: Generator
    side: int
    process: Process
    sampling: SamplingConfig
    denoiser: Callable[[Any, Condition], Denoiser]
    """(variables of the generator, condition) -> the denoiser that the result follows, guided."""
    described: Callable[[Any, Condition], Denoiser]
    """The same without guidance, for inversion."""
    conditions: Callable[[str, int], Mapping[str, np.ndarray]]
    """(text, count) -> conditions, [count ...]; "" for none. Raises ``UserError`` for a text it cannot follow."""
    space: LatentSpace | None = None

    def __call__(self, compiler: Compiler) -> Edit:
        """The function that edits."""
        compiled: dict[EditingConfig, Callable[..., Array]] = {}

        def edit(state: TrainState, request: EditRequest) -> Edited:
            method = self._method(request)
            config = EditingConfig(
                method=method, strength=request.strength, resamplings=request.resamplings, jump=request.jump
            )
            if config not in compiled:
                compiled[config] = compiler.function(self._edited(config))
            ready, count = prepared(request, self.side), request.count
            wanted = said(request)
            weight = np.ones((*ready.image.shape[:2], 1), np.float32) if ready.weight is None else ready.weight
            row = lambda array: compiler.replicate(np.broadcast_to(array[None], (count, *array.shape)))
            conditions = [compiler.replicate(dict(self.conditions(text, count))) for text in (request.source, wanted)]
            made = compiled[config](
                self.generator.variables(state),
                *conditions,
                row(ready.image),
                row(weight),
                compiler.replicate(np.arange(count, dtype=np.int32)),
                compiler.replicate(jax.random.key(request.seed)),
            )
            return edited_images(ready, np.asarray(jax.device_get(made)), method)

        return edit

    def _method(self, request: EditRequest) -> GeneralMethod:
        if request.instruction:
            raise UserError("this run follows no instructions: say what the result shows with --prompt")
        if request.method == "model":
            raise UserError(
                "this run was not trained to edit: choose --method sdedit, repaint, blended or inversion, or a run of "
                "experiments.edit_instructions or inpaint_shapes"
            )
        if request.mask is None and (request.remove or request.method in ("repaint", "blended")):
            what = "--remove" if request.remove else f"--method {request.method}"
            raise UserError(f"{what} needs to know where: give --mask or --box")
        if request.method != "auto":
            return request.method
        if request.mask is None:
            return "sdedit"
        return "blended" if said(request) else "repaint"

    def _edited(self, config: EditingConfig) -> Callable[..., Array]:
        function = edit_function(config, self.process, self.sampling)

        def edited(variables, source, target, image, weight, index, key):
            encode_key, edit_key = jax.random.split(key)
            given, inside = to_float(image), weight
            if self.space is not None:
                given = self.space.encoded(variables, {"image": image}, key=encode_key)["image"]
                inside = reduced(weight, image.shape[1] // given.shape[1])
            denoisers = self.described(variables, source), self.denoiser(variables, target)
            made = function(*denoisers, given, inside, index, edit_key)
            return to_uint8(self.space.decode(variables, made) if self.space is not None else made)

        return edited


def edited_images(ready: Prepared, made: UInt8[np.ndarray, "n s s 3"], method: EditMethod) -> Edited:
    """What was generated, with the pixels of the image wherever the weight is 0, and what can be measured of it."""
    of: dict[str, Any] = {"image": ready.image, "weight": ready.weight, "method": method, "notes": ready.notes}
    if ready.weight is None:
        return Edited(images=made, **of)
    original = jnp.broadcast_to(jnp.asarray(ready.image), made.shape)
    images = np.asarray(composited(original, jnp.asarray(made), jnp.asarray(ready.weight[None])))
    inside = ready.weight[..., 0] > 0
    measures = {
        "unmasked_psnr": [unmasked_psnr(image, ready.image, inside) for image in images],
        "unmasked_psnr_before_compositing": [unmasked_psnr(image, ready.image, inside) for image in made],
        "seam": [seam(image, inside) for image in images],
        "seam_of_the_image": seam(ready.image, inside),
    }
    return Edited(images=images, measures=measures, **of)


def said(request: EditRequest) -> str:
    """What the result shows. Raises ``UserError`` where that is said twice."""
    if request.remove and request.prompt:
        raise UserError("--remove says that nothing is there and --prompt what is: give one of them")
    return request.prompt or request.background


def label_conditions(class_names: Callable[[], Sequence[str]], classes: int) -> Callable[[str, int], dict]:
    """(name of a class, count) -> "label"; "" is no label."""

    def conditions(text: str, count: int) -> dict[str, np.ndarray]:
        if not classes:
            if text:
                raise UserError("this run generates images without conditions: leave --prompt out")
            return {}
        names = list(class_names())
        if text and text not in names:
            raise UserError(f"this run knows the classes {', '.join(names)}, and not {text!r}")
        return {"label": np.full(count, names.index(text) if text else classes, np.int32)}

    return conditions
