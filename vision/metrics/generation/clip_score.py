"""CLIP score (Hessel et al. 2021): how well an image fits a text, by the cosine of their embeddings.

A number means something only together with the model that embeds, whose name belongs to that of the number.
"""

import numpy as np
from jaxtyping import Float


def clip_score(image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """100 max(cosine, 0) of each pair, float64; the paper's weight is 2.5 in place of 100.

    Embeddings may have any length but 0.
    """
    image, text = image.astype(np.float64), text.astype(np.float64)
    lengths = np.linalg.norm(image, axis=-1) * np.linalg.norm(text, axis=-1)
    return 100.0 * np.maximum((image * text).sum(-1) / lengths, 0.0)


def protocol(model: str, pairs: str) -> str:
    """In words: which model, and what the pairs are."""
    return f"mean of 100 max(cosine, 0) (Hessel et al. 2021, with 100 for their weight 2.5) of {pairs}, by {model}"
