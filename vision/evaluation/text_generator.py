"""A generator of images from sentences, as evaluation and ``python -m vision sample`` see it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from vision.data.folder import square
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError
from vision.evaluation.generator import Generator, generate
from vision.pretrained.pipeline import Task
from vision.train.compile import Compiler
from vision.train.experiment import Sample
from vision.types import REQUEST_OPTIONS, SampleRequest, Samples, TrainState

_NEEDED: Mapping[Task, tuple[str, ...]] = {
    "text": ("prompts",),
    "edit": ("prompts", "images"),
    "inpaint": ("prompts", "images", "masks"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class TextGenerator(Generator):
    """What generates images from texts.

    Its conditions are "tokens" and "null" int32 [n length], of the texts and of the negative one; where it edits or
    inpaints also "image" uint8 [n h w 3], and where it inpaints "mask" uint8 [n h w 1].
    """

    tokenizer: Callable[[], Tokenizer]
    texts: Callable[[int], Sequence[str]]
    """The first captions of held-out images, for evaluation."""
    negative: str = ""
    """What samples move away from under guidance."""
    task: Task = "text"
    """What it is given besides texts."""

    def condition(self, count: int, labels: Sequence[int] = ()) -> dict[str, np.ndarray]:
        """Of ``count`` held-out captions; there are no labels."""
        del labels
        return self.of_texts(self.texts(count), count)

    def of_texts(self, texts: Sequence[str], count: int) -> dict[str, np.ndarray]:
        """Of texts, repeated until there are ``count``."""
        rows, null = self.tokenizer().encode(texts), self.tokenizer().encode([self.negative])
        return {"tokens": _repeated(rows, count), "null": _repeated(null, count)}


def text_sampling(generator: TextGenerator, *, resolution: int, batch: int) -> Callable[[Compiler], Sample]:
    """(compiler) -> (state, request) -> samples, captioned by their sentences.

    Args:
      generator: what generates.
      resolution: side of its images; those of a request are resized, and their centre is taken.
      batch: samples at a time.

    Raises (the last function): ``UserError`` for a request that lacks what is needed, or has more.
    """
    needed = _NEEDED[generator.task]

    def factory(compiler: Compiler) -> Sample:
        def sample(state: TrainState, request: SampleRequest) -> Samples:
            request.check(conditions=needed)
            for name in needed:
                if not getattr(request, name):
                    listed = " and ".join(REQUEST_OPTIONS[each] for each in needed)
                    raise UserError(f"this generator needs {listed}: say with {REQUEST_OPTIONS[name]} what to generate")
            condition = generator.of_texts(request.prompts, request.count)
            if "images" in needed:
                images = [square(Image.fromarray(image), resolution) for image in request.images]
                condition["image"] = _repeated(np.stack(images), request.count)
            if "masks" in needed:
                masks = [square(Image.fromarray(mask[..., 0]), resolution)[..., :1] for mask in request.masks]
                condition["mask"] = _repeated(np.stack(masks), request.count)
            images = generate(
                compiler,
                generator,
                generator.variables(state),
                condition,
                count=request.count,
                seed=request.seed,
                batch=batch,
            )
            captions = tuple(request.prompts[place % len(request.prompts)] for place in range(request.count))
            return Samples(images=images, captions=captions)

        return sample

    return factory


def _repeated(rows: Shaped[np.ndarray, "m ..."], count: int) -> Shaped[np.ndarray, "{count} ..."]:
    """The rows in turn, until there are ``count``."""
    return rows[np.arange(count) % len(rows)]
