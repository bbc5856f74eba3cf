"""Samples for typed sentences and for given images: from a request to the conditions of a generator, and back.

Where a network is conditioned on the embedding of an image and only a text is given, a prior says what the embedding
may be (Ramesh et al. 2022, section 2.2): any function of texts, see :class:`EmbeddingsOfTexts`. Without one, the
embedding of the text stands in its place, or none (their figure 8 compares the three).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vision.data.folder import square
from vision.data.notices import notice
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError, on_one_line
from vision.evaluation.generator import Generator, generate
from vision.models.clip.text_difference import text_difference, towards
from vision.ops.pixels import to_float
from vision.ops.principal_components import principal_components
from vision.ops.spherical import slerp
from vision.recipes.clip_encoder import NAME
from vision.recipes.text_conditions import EMBEDDING, REFERENCE, ClipConditions
from vision.train.compile import Compiler
from vision.train.experiment import Sample
from vision.types import SampleRequest, Samples, TrainState

Substitute = Literal["text", "zeros"]
"""What stands for the embedding of an image where only a text is given and there is no prior."""
_AT_ONCE = 256
"""Images or texts whose embeddings are computed together."""
_FARTHEST = 0.5
"""Share of the way to the difference of two texts that the last step goes, as at most in the paper."""
_EXAMINED = 2_000
"""Held-out images, the first ones, whose embeddings principal components are computed of."""
_COLUMNS = 12
"""Largest number of prompts or images that have a column of the grid each."""


@runtime_checkable
class EmbeddingsOfTexts(Protocol):
    """A prior: embeddings of images that texts may describe."""

    def __call__(self, texts: Sequence[str], *, seed: int) -> Float[np.ndarray, "n e"]:
        """One embedding for each text, of any length, in the space of the decoder's CLIP; equal texts get several."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRequests:
    """(compiler) -> (state, request) -> samples.

    Raises (the last function): ``UserError`` for a request that the generator has no condition for.
    """

    generator: Generator
    conditions: ClipConditions
    side: int
    """Of generated images, which given ones are made to have."""
    captions: Callable[[int], Sequence[str]]
    """The texts of the conditions that the generator's ``given`` makes, for requests that say nothing."""
    pictures: Callable[[int], UInt8[np.ndarray, "n h w 3"]]
    """At most that many held-out images, whose embeddings have the principal components."""
    prior: EmbeddingsOfTexts | None = None
    substitute: Substitute = "text"
    enlargers: tuple[Generator, ...] = ()
    """Upsamplers in turn, of conditions "image" uint8 and "tokens"."""

    def __call__(self, compiler: Compiler) -> Sample:
        """The function that answers requests."""
        embedder = _Embedder(compiler, self.conditions)

        def sample(state: TrainState, request: SampleRequest) -> Samples:
            self._check(request)
            variables = self.generator.variables(state)
            answer = self._answer(request, variables["frozen"][NAME], embedder)
            images = generate(
                compiler,
                self.generator,
                variables,
                answer.condition,
                count=request.count * request.best_of,
                seed=request.seed,
                same_noise=_in_steps(request),
            )
            if request.best_of > 1:
                tokens = self.conditions.clip.tokenizer.encode(answer.texts)
                images = embedder.best(variables["frozen"][NAME], images, tokens, of=request.best_of)
            images = self._enlarged(compiler, variables, images, answer.texts, request)
            return Samples(images=images, captions=answer.captions, columns=answer.columns, given=answer.given)

        return sample

    def _enlarged(
        self,
        compiler: Compiler,
        variables: Any,
        images: UInt8[np.ndarray, "n h w 3"],
        texts: Sequence[str],
        request: SampleRequest,
    ) -> UInt8[np.ndarray, "n h2 w2 3"]:
        """What the upsamplers make of the images that are kept."""
        tokens = self.conditions.clip.tokenizer.encode(texts) if texts else self.conditions.no_text(len(images))
        of: dict[str, Any] = {"count": len(images), "seed": request.seed, "same_noise": _in_steps(request)}
        for enlarger in self.enlargers:
            images = generate(compiler, enlarger, variables, {REFERENCE: images, "tokens": tokens}, **of)
        return images

    def _check(self, request: SampleRequest) -> None:
        request.check(conditions=fields(self.conditions))
        if request.best_of > 1 and not request.prompts:
            raise UserError("--best-of chooses the images that fit a text best: say which with --prompt")
        if request.interpolate and (len(request.images) or len(request.prompts)) != 2:
            raise UserError("--interpolate is between two images or two texts: name two with --image or with --prompt")
        if request.difference and not (len(request.difference) == 2 and request.images and not request.prompts):
            raise UserError(
                "--difference takes two texts, what --image shows and what it is to show, and no --prompt: name those"
            )
        if request.difference and (request.count % len(request.images) or request.count < 2 * len(request.images)):
            raise UserError(
                f"--difference moves each of {len(request.images)} images in as many steps, at least 2: set --count "
                f"{8 * len(request.images)}"
            )
        if request.difference and (request.interpolate or request.best_of > 1):
            raise UserError("--difference shows steps by itself: leave --interpolate and --best-of out")
        if request.components and (not request.images or request.prompts):
            raise UserError("--components reconstructs images: name them with --image, and leave --prompt out")
        if request.components and (request.interpolate or request.difference or request.best_of > 1):
            raise UserError("--components shows images by itself: leave --interpolate, --difference and --best-of out")
        if request.components and request.count != len(request.components) * len(request.images):
            raise UserError("--components makes an image for each number and each given image: --count must say so")
        if request.interpolate and request.best_of > 1:
            raise UserError("--interpolate shows every step, and --best-of leaves some out: give one of them")

    def _answer(self, request: SampleRequest, clip: Any, embedder: "_Embedder") -> "_Answer":
        count, texts = request.count, request.prompts
        report_unknown(self.conditions.clip.tokenizer, (*texts, *request.difference))
        if not texts and not request.images:
            return _Answer(dict(self.generator.condition(count)), captions=tuple(self.captions(count)))
        if request.interpolate:
            return self._interpolated(request, clip, embedder)
        if request.difference:
            return self._moved(request, clip, embedder)
        if request.components:
            return self._reconstructed(request, clip, embedder)
        given = np.stack([fitted(image, self.side) for image in request.images]) if request.images else None
        repeated = [texts[index % len(texts)] for index in range(count)] if texts else []
        many = [text for text in repeated for _ in range(request.best_of)]
        condition: dict[str, np.ndarray] = {}
        if self.conditions.has_text:
            tokens = self.conditions.clip.tokenizer.encode(many) if texts else self.conditions.no_text(count)
            condition["tokens"] = tokens
        if given is not None:
            rows = np.arange(count).repeat(request.best_of) % len(given)
            condition[EMBEDDING] = embedder.images(clip, given)[rows]
        elif self.conditions.has_embedding:
            condition[EMBEDDING] = self._of_texts(many, clip, embedder, seed=request.seed)
        asked = len(texts) or len(given if given is not None else ())
        captions = repeated or [f"variation of image {index % asked + 1}" for index in range(count)]
        columns = asked if 1 < asked <= min(_COLUMNS, count) else None
        shown = given if given is not None and (columns == len(given)) else None
        return _Answer(condition, captions=tuple(captions), texts=tuple(repeated), columns=columns, given=shown)

    def _interpolated(self, request: SampleRequest, clip: Any, embedder: "_Embedder") -> "_Answer":
        if request.images:
            ends = embedder.images(clip, np.stack([fitted(image, self.side) for image in request.images]))
        else:
            ends = self._of_texts(request.prompts, clip, embedder, seed=request.seed)
        if not np.linalg.norm(ends, axis=1).all():
            raise UserError("--interpolate needs embeddings, and substitute zeros gives none: set --substitute text")
        unit = ends / np.linalg.norm(ends, axis=1, keepdims=True)
        share = np.linspace(0.0, 1.0, request.count)
        condition = {EMBEDDING: np.asarray(slerp(unit[:1], unit[1:], share))}
        if self.conditions.has_text:
            condition["tokens"] = self.conditions.no_text(request.count)
        columns = request.count if request.count <= _COLUMNS else None
        return _Answer(condition, captions=tuple(f"{each:.2f}" for each in share), columns=columns)

    def _moved(self, request: SampleRequest, clip: Any, embedder: "_Embedder") -> "_Answer":
        """Ramesh et al. 2022, section 3.3: z_theta = slerp(z_i, z_d, theta), z_d = norm(z_t - z_t0)."""
        images = np.stack([fitted(image, self.side) for image in request.images])
        tokens = self.conditions.clip.tokenizer.encode(request.difference)
        before, after = embedder.texts(clip, tokens)
        if np.allclose(before, after):
            raise UserError("--difference has two texts that the CLIP does not tell apart: change one of them")
        steps = request.count // len(images)
        share = np.linspace(0.0, _FARTHEST, steps).repeat(len(images))  # a column for each image, a row for each step
        start = jnp.tile(jnp.asarray(embedder.images(clip, images)), (steps, 1))
        difference = text_difference(jnp.asarray(after), jnp.asarray(before))
        made = towards(start, jnp.broadcast_to(difference, start.shape), jnp.asarray(share, jnp.float32))
        condition = {EMBEDDING: np.asarray(made, np.float32)}
        if self.conditions.has_text:
            condition["tokens"] = self.conditions.no_text(len(share))
        columns = steps if len(images) == 1 else len(images)
        captions = tuple(f"{each:.2f}" for each in share)
        given = images if len(images) > 1 and len(images) <= _COLUMNS else None
        return _Answer(condition, captions=captions, columns=columns if columns <= _COLUMNS else None, given=given)

    def _reconstructed(self, request: SampleRequest, clip: Any, embedder: "_Embedder") -> "_Answer":
        """Ramesh et al. 2022, section 4: images of embeddings that keep the leading principal components alone."""
        unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        components = principal_components(unit(embedder.images(clip, self.pictures(_EXAMINED))))
        most = len(components.axes)
        if max(request.components) > most:
            raise UserError(f"--components are at most {most} here, not {max(request.components)}")
        images = np.stack([fitted(image, self.side) for image in request.images])
        own = unit(embedder.images(clip, images))
        rows = np.stack([components.leading(own, count) for count in request.components], axis=1)
        condition = {EMBEDDING: rows.reshape(-1, own.shape[1]).astype(np.float32)}
        if self.conditions.has_text:
            condition["tokens"] = self.conditions.no_text(request.count)
        captions = tuple(f"{count} components" for _ in images for count in request.components)
        return _Answer(condition, captions=captions, columns=len(request.components))

    def _of_texts(
        self, texts: Sequence[str], clip: Any, embedder: "_Embedder", *, seed: int
    ) -> Float[np.ndarray, "n e"]:
        """Embeddings of images for texts, by the prior or by what stands for it."""
        if self.prior is not None:
            return np.asarray(self.prior(texts, seed=seed), np.float32)
        instead = "zeros stand" if self.substitute == "zeros" else "the embedding of the text itself stands"
        notice(
            f"there is no prior, so that {instead} for the embedding of an image: name the run of one with --prior.",
            kind=f"no prior, {self.substitute}",
        )
        if self.substitute == "zeros":
            return np.zeros((len(texts), self.conditions.clip.embedding), np.float32)
        return embedder.texts(clip, self.conditions.clip.tokenizer.encode(texts))


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a request becomes."""

    condition: dict[str, np.ndarray]
    captions: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    columns: int | None = None
    given: UInt8[np.ndarray, "k h w 3"] | None = None


class _Embedder:
    """A CLIP, compiled for arrays of any length."""

    def __init__(self, compiler: Compiler, conditions: ClipConditions):
        clip, self._compiler = conditions.clip, compiler
        self._image = compiler.function(lambda variables, image: clip.encode_image(variables, to_float(image)))
        self._text = compiler.function(lambda variables, tokens: clip.encode_text(variables, tokens)["embedding"])

    def images(self, variables: Any, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n e"]:
        """Embeddings of images."""
        return self._in_parts(self._image, variables, images)

    def texts(self, variables: Any, tokens: Int[np.ndarray, "n length"]) -> Float[np.ndarray, "n e"]:
        """Embeddings of texts."""
        return self._in_parts(self._text, variables, tokens)

    def best(
        self, variables: Any, images: UInt8[np.ndarray, "m h w 3"], tokens: Int[np.ndarray, "n length"], *, of: int
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Of each ``of`` images in turn the one with the largest cosine to its text."""
        unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        image, text = unit(self.images(variables, images)), unit(self.texts(variables, tokens))
        cosines = np.einsum("nke,ne->nk", image.reshape(len(text), of, -1), text)
        return images.reshape(len(text), of, *images.shape[1:])[np.arange(len(text)), cosines.argmax(1)]

    def _in_parts(self, function: Callable[..., Any], variables: Any, rows: np.ndarray) -> np.ndarray:
        size, found = min(_AT_ONCE, len(rows)), []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = part[np.arange(size) % len(part)]
            found.append(jax.device_get(function(variables, self._compiler.replicate(filled)))[: len(part)])
        return np.concatenate(found).astype(np.float32)


def _in_steps(request: SampleRequest) -> bool:
    """Whether images differ in their conditions alone, and share their noise."""
    return request.interpolate or bool(request.difference or request.components)


def fields(conditions: ClipConditions) -> tuple[str, ...]:
    """The fields of a request that a generator with these conditions can follow."""
    images = ("images",) if conditions.has_embedding else ()
    between = ("interpolate", "difference", "components") if conditions.has_embedding else ()
    return ("prompts", *images, "best_of", *between)


def fitted(image: UInt8[np.ndarray, "h w c"], side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """An image as training images are fitted: its shorter side resized, its centre cropped."""
    return square(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), side)


def report_unknown(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Say on stderr which texts have words that the tokenizer does not know, or are cut."""
    for fault, words in (("unknown", "words that are not in the vocabulary"), ("cut", "more tokens than are read")):
        which = [text for text in dict.fromkeys(texts) if getattr(tokenizer.coverage([text]), fault)]
        if which:
            shown = ", ".join(repr(on_one_line(text, 60)) for text in which[:3])
            more = f" and {len(which) - 3} others" if len(which) > 3 else ""
            notice(f"{shown}{more} {'has' if len(which) == 1 else 'have'} {words}.", kind=f"{fault} {shown}")
