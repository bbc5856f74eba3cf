"""The codes of many images in the plane, coloured by class."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

_DOTS_PER_INCH = 110
_INK = "#222222"
_MOST_CLASSES = 20


def principal_plane(
    codes: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " 2"]]:
    """Codes along their two directions of largest variance, and the share of the variance that lies in each.

    Codes of two dimensions are left as they are, but for their order by variance. Of more, the principal components:
    eigenvectors of the covariance, with the sign that makes the largest entry positive.
    """
    centred = codes.astype(np.float64) - codes.mean(0)
    variances, vectors = np.linalg.eigh(np.atleast_2d(np.cov(centred.T)))
    if codes.shape[1] == 2:
        order = np.argsort(-centred.var(0))
        return codes[:, order].astype(np.float64), (centred.var(0) / centred.var(0).sum())[order]
    chosen = vectors[:, ::-1][:, :2]
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(0)[None], axis=0)
    return centred @ (chosen * np.sign(largest)), variances[::-1][:2] / variances.sum()


def latent_space_picture(
    codes: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], class_names: Sequence[str], *, title: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws codes as points in their principal plane, in a colour for each class and with its name at its median.

    Args:
        codes: of at least two dimensions.
        labels: the class of each.
        class_names: one for each class; of more than 20 classes the points are grey and no names are drawn.
        title: what stands above.

    Raises:
        ValueError: there are fewer than three codes, or they have one dimension.
    """
    if len(codes) < 3 or codes.shape[1] < 2:
        raise ValueError(f"A plane of codes needs three of two dimensions, not {list(codes.shape)}.")
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, shares = principal_plane(codes)
    figure = Figure(figsize=(6.4, 6.0), dpi=_DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=_INK, fontsize=10)
    axes.set_xlabel(f"first direction, {100 * shares[0]:.0f} % of the variance of codes")
    axes.set_ylabel(f"second direction, {100 * shares[1]:.0f} %")
    few = len(class_names) <= _MOST_CLASSES
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
