"""A plot of the latents of many images in a plane, coloured by class."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

_DOTS_PER_INCH = 110
_INK = "#222222"
_MAX_CLASSES = 20


def principal_plane(
    latents: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " 2"]]:
    """Latents along their two directions of largest variance, and the share of the variance of each.

    Two dimensions are only ordered by variance. For more, these are the principal components: eigenvectors of the
    covariance, with the sign that makes the largest entry positive.
    """
    centred = latents.astype(np.float64) - latents.mean(0)
    variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov(centred.T)))
    if latents.shape[1] == 2:
        order = np.argsort(-centred.var(0))
        return latents[:, order].astype(np.float64), (centred.var(0) / centred.var(0).sum())[order]
    chosen = vectors[:, ::-1][:, :2]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(0)[None], axis=0)
    return centred @ (chosen * np.sign(largest)), variances[::-1][:2] / variances.sum()


def latent_space_plot(
    latents: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], class_names: Sequence[str], *, title: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Plots latents as points in their principal plane, with a colour for each class and its name at its median.

    Args:
        latents: of at least two dimensions.
        labels: the class of each.
        class_names: one for each class; for more than 20 classes the points are grey and names are omitted.
        title: title of the plot.

    Raises:
        ValueError: there are fewer than three latents, or they have one dimension.
    """
    if len(latents) < 3 or latents.shape[1] < 2:
        raise ValueError(
            f"A plot of latents needs at least three of at least two dimensions, not {list(latents.shape)}."
        )
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, shares = principal_plane(latents)
    figure = Figure(figsize=(6.4, 6.0), dpi=_DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=_INK, fontsize=10)
    axes.set_xlabel(f"first direction, {100 * shares[0]:.0f} % of the variance of latents")
    axes.set_ylabel(f"second direction, {100 * shares[1]:.0f} %")
    few = len(class_names) <= _MAX_CLASSES
    colours = colormaps["tab20" if len(class_names) > 10 else "tab10"]
    for label, name in enumerate(class_names if few else ()):
        own = points[labels == label]
        if not len(own):
            continue
        axes.scatter(own[:, 0], own[:, 1], s=5, color=colours(label), alpha=0.55, linewidths=0)
        box = {"facecolor": "white", "edgecolor": colours(label), "alpha": 0.85, "pad": 1.5}
        x, y = np.median(own, axis=0)
        axes.text(x, y, name, color=_INK, fontsize=9, ha="center", va="center", bbox=box, zorder=5)
    if not few:
        axes.scatter(points[:, 0], points[:, 1], s=5, color="#888888", alpha=0.5, linewidths=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_aspect("equal", adjustable="datalim")
    encoded = io.BytesIO()
    canvas.print_png(encoded)
    with Image.open(encoded) as image:
        return np.array(image.convert("RGB"))
