"""Classification without training for it: classes are texts (Radford et al. 2021, section 3.1)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vision.errors import UserError

TEMPLATES = (
    *("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "a bright photo of a {}."),
    *("a photo of one {}.", "a photo of a small {}.", "a photo of a large {}."),
)
"""Sentences for photographs; "{}" stands for the name of a class."""


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, name by name. Raises ``UserError`` for a template without "{}", or none."""
    if not templates or not names:
        raise UserError("classification by texts needs at least one class and one template")
    for template in templates:
        if "{}" not in template:
            raise UserError(
                f'the template {template!r} has no "{{}}", in the place of which the name of a class stands'
            )
    return [template.replace("{}", name) for name in names for template in templates]


def class_embeddings(texts: Float[np.ndarray, "kt d"], *, templates: int) -> Float[np.ndarray, "k d"]:
    """The mean of the embeddings of each class's prompts, of length 1 before and after (prompt ensembling).

    Radford et al. 2021, section 3.1.4.

    Args:
      texts: embeddings of :func:`prompts`.
      templates: number of prompts of each class.
    """
    unit = _unit(texts.astype(np.float64)).reshape(-1, templates, texts.shape[-1])
    return _unit(unit.mean(1)).astype(np.float32)


def predicted(images: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "k d"]) -> Int[np.ndarray, " n"]:
    """The class whose embedding is most similar to each image's; of equally similar ones the first."""
    return np.argmax(images.astype(np.float32) @ classes.astype(np.float32).T, axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
