"""The shapes world: images of coloured figures, rendered on demand, with annotations for all tasks.

A data set without a download, at any resolution: scenes of one or several objects (shape, colour, size, position,
rotation, depth order) on muted backgrounds, with classes, boxes, semantic and instance masks. Captions are in
`vision.data.shapes.captions`. Scene i is a pure function of (config, seed, split, i): rendered by itself or in any
batch it has the same bytes (`vision.data.shapes.counter_random`). Edges are anti-aliased by signed distance
(`vision.data.shapes.outlines`).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, get_args

import numpy as np
from annotated_types import Interval
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from vision.data.on_demand import OnDemandSource
from vision.data.shapes.backgrounds import BACKGROUNDS, background, background_kinds, smooth
from vision.data.shapes.counter_random import Split, sample_keys, uniform
from vision.data.shapes.outlines import OUTLINES, coverage
from vision.errors import UserError
from vision.ranges import Depth, Fraction, Pixels, PositiveFraction

SHAPES: tuple[str, ...] = tuple(outline.name for outline in OUTLINES)

PALETTE: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (222, 42, 46)),
    ("orange", (247, 138, 22)),
    ("yellow", (252, 216, 48)),
    ("green", (48, 164, 74)),
    ("cyan", (58, 204, 224)),
    ("blue", (44, 92, 222)),
    ("purple", (128, 58, 182)),
    ("pink", (252, 136, 190)),
)
COLOURS: tuple[str, ...] = tuple(name for name, _ in PALETTE)

FIELDS = (
    *("image", "label", "boxes", "shape", "colour", "valid", "size", "visible", "semantic", "instances"),
    "background",
)
"""What :func:`render_scenes` returns."""

_PIXELS_AT_ONCE = 2**16  # keeps the arrays of one chunk in the processor's cache
_LEAST_PIXELS = 6  # objects of a smaller diameter cannot be distinguished
_CANDIDATES = 24


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """The appearance of scenes. Raises `UserError` for invalid values."""

    resolution: Pixels = 32
    """Height and width of the images in pixels."""
    min_objects: Depth = 1
    """Least number of objects in a scene."""
    max_objects: Depth = 1
    """Largest number of objects in a scene; the number is uniform between the two."""
    shapes: tuple[str, ...] = SHAPES
    """The shapes in use; their order numbers them."""
    colours: tuple[str, ...] = COLOURS
    """The colours in use; their order numbers them."""
    min_size: PositiveFraction = 0.33
    """Least diameter of the disc around an object, as a fraction of the image's side."""
    max_size: PositiveFraction = 0.75
    """Largest diameter of that disc. Sizes are uniform between the two, but shrink in crowded scenes."""
    max_rotation: Annotated[float, Interval(ge=0.0, le=180.0)] = 180.0
    """Largest rotation of an object in degrees, in either direction; shapes that would change their name rotate
    less."""
    min_visible: Fraction = 0.6
    """At least this fraction of every object's pixels is visible; nearer objects may hide the others."""
    backgrounds: tuple[str, ...] = BACKGROUNDS
    """The kinds of background in use, equally often."""
    dark_share: Fraction = 0.25
    """Fraction of scenes whose background is dark."""
    shade_jitter: Fraction = 0.08
    """An object's colour is made darker or lighter by up to this fraction."""
    relief: Fraction = 1.0
    """Strength of the objects' shading, darker rim and shadow, from 0 (flat colours) to 1."""

    def __post_init__(self):
        _check_names("shapes", self.shapes, SHAPES)
        _check_names("colours", self.colours, COLOURS)
        _check_names("backgrounds", self.backgrounds, BACKGROUNDS)
        if self.resolution < 8:
            raise UserError(f"resolution is {self.resolution}, but shapes need at least 8x8 pixels.")
        if not 1 <= self.min_objects <= self.max_objects <= 16:
            raise UserError(
                f"min_objects is {self.min_objects} and max_objects is {self.max_objects}, but they must "
                "satisfy 1 <= min_objects <= max_objects <= 16."
            )
        if not 0 < self.min_size <= self.max_size <= 1:
            raise UserError(
                f"min_size is {self.min_size} and max_size is {self.max_size}, but they must satisfy "
                "0 < min_size <= max_size <= 1."
            )
        if self.min_size * self.resolution < _LEAST_PIXELS:
            raise UserError(
                f"min_size {self.min_size} at resolution {self.resolution} gives objects of "
                f"{self.min_size * self.resolution:.1f} pixels, but they need {_LEAST_PIXELS}: "
                f"raise min_size to {_LEAST_PIXELS / self.resolution:.3f} or the resolution."
            )
        if self.min_size * self.cells > 1:
            raise UserError(
                f"max_objects is {self.max_objects}, but this many objects of min_size {self.min_size} may not "
                f"fit next to each other: lower min_size to {math.floor(1000 / self.cells) / 1000} or max_objects "
                f"to {math.floor(1 / self.min_size) ** 2}."
            )
        if not 0 <= self.max_rotation <= 180:
            raise UserError(f"max_rotation is {self.max_rotation}, but it must be from 0 to 180 degrees.")
        if not 0 < self.min_visible <= 1:
            raise UserError(f"min_visible is {self.min_visible}, but it must be above 0 and at most 1.")
        if not 0 <= self.shade_jitter <= 0.2:
            raise UserError(f"shade_jitter is {self.shade_jitter}, but it must be from 0 to 0.2: dark orange is brown.")
        if not 0 <= self.dark_share <= 1:
            raise UserError(f"dark_share is {self.dark_share}, but it must be from 0 to 1.")
        if not 0 <= self.relief <= 1:
            raise UserError(f"relief is {self.relief}, but it must be from 0 to 1.")

    @property
    def cells(self) -> int:
        """Cells per side of the smallest square grid with a cell for every object."""
        return math.isqrt(self.max_objects - 1) + 1


def _check_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names:
        raise UserError(f"{field} is empty; choose from {', '.join(known)}.")
    for name in names:
        if name not in known:
            raise UserError(f"{field} has no {name!r}; choose from {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise UserError(f"{field} has a name twice: {', '.join(names)}.")


def class_names(config: ShapesConfig) -> tuple[str, ...]:
    """Names such as "red circle", in the order of labels: shape * len(colours) + colour."""
    return tuple(f"{colour} {shape}" for shape in config.shapes for colour in config.colours)


@dataclass(frozen=True)
class Layout:
    """The objects of n scenes, at most m each, the largest first; lengths are fractions of the image's side."""

    valid: np.ndarray  # bool [n m]
    shape: np.ndarray  # int32 [n m]
    colour: np.ndarray  # int32 [n m]
    size: np.ndarray  # float64 [n m], diameter of the disc around the object
    centre: np.ndarray  # float64 [n m 2], (x, y)
    angle: np.ndarray  # float64 [n m], radians
    depth: np.ndarray  # float64 [n m], smaller is nearer


def _lens(a, b, distance):
    """Area common to two discs of radii a and b with centres `distance` apart: two circular segments."""
    distance = np.maximum(distance, 1e-9)
    # Half the angle of each segment, by the law of cosines; the clip covers disjoint and nested discs.
    cos_a = np.clip((distance**2 + a**2 - b**2) / (2 * distance * a), -1, 1)
    cos_b = np.clip((distance**2 + b**2 - a**2) / (2 * distance * b), -1, 1)
    return sum(r * r * (np.arccos(c) - c * np.sqrt(1 - c * c)) for r, c in ((a, cos_a), (b, cos_b)))


def arranged(config: ShapesConfig, keys: UInt64[np.ndarray, "n"]) -> tuple[Layout, Bool[np.ndarray, "n"]]:
    """Places objects one after another, each at its first candidate position that does not hide too much of any object.

    Occlusion is estimated by discs of the objects' areas. Also returns which scenes have a position for every object;
    the others get a grid layout.
    """
    n, m = len(keys), config.max_objects
    span = config.max_objects - config.min_objects + 1
    count = config.min_objects + (uniform(keys, "count", 1) * span).astype(np.int32)
    valid = np.arange(m) < count
    shape = (uniform(keys, "shape", m) * len(config.shapes)).astype(np.int32)
    colour = (uniform(keys, "colour", m) * len(config.colours)).astype(np.int32)
    depth = uniform(keys, "depth", m)
    # Sorting only the sizes makes object 0 the largest and leaves its class uniform.
    size = config.min_size + (config.max_size - config.min_size) * uniform(keys, "size", m)
    size = np.maximum(-np.sort(-np.where(valid, size, 0), axis=1), config.min_size)
    limit = np.radians([min(OUTLINES[SHAPES.index(s)].max_rotation, config.max_rotation) for s in config.shapes])
    angle = (2 * uniform(keys, "angle", m) - 1) * limit[shape]
    area = np.array([OUTLINES[SHAPES.index(name)].area for name in config.shapes])[shape]

    place = uniform(keys, "place", m, _CANDIDATES, 2)
    # The first third of the candidates keep their size, later ones shrink towards the smallest.
    shrink = np.clip(1.5 * np.arange(_CANDIDATES) / (_CANDIDATES - 1) - 0.5, 0, 1)
    centre = np.zeros((n, m, 2))
    hidden = np.zeros((n, m))
    placed = np.ones(n, bool)
    reach = np.sqrt(area / math.pi) / 2
    for k in range(m):
        sizes = size[:, k, None] + (config.min_size - size[:, k, None]) * shrink
        centres = sizes[..., None] / 2 + (1 - sizes[..., None]) * place[:, k]
        fits = np.ones((n, _CANDIDATES), bool)
        own = np.zeros((n, _CANDIDATES))
        overlaps = np.zeros((n, _CANDIDATES, k))
        for j in range(k):
            apart = np.sqrt(((centres - centre[:, j, None]) ** 2).sum(-1))
            overlap = _lens(sizes * reach[:, k, None], (size * reach)[:, j, None], apart)
            overlap *= (valid[:, j] & valid[:, k])[:, None]
            behind = depth[:, j] > depth[:, k]
            overlaps[..., j] = np.where(behind[:, None], overlap, 0)
            own += np.where(behind[:, None], 0, overlap)
            allowed = (1 - config.min_visible) * area[:, j] * size[:, j] ** 2 / 4
            fits &= hidden[:, j, None] + overlaps[..., j] <= allowed[:, None]
        fits &= own <= (1 - config.min_visible) * area[:, k, None] * sizes**2 / 4
        choice = fits.argmax(1)
        rows = np.arange(n)
        placed &= fits.any(1) | ~valid[:, k]
        size[:, k], centre[:, k] = sizes[rows, choice], centres[rows, choice]
        hidden[:, :k] += overlaps[rows, choice]
        hidden[:, k] = own[rows, choice]
    size[~valid] = 0
    return Layout(valid, shape, colour, size, centre, angle, depth), placed


def grid_layout(config: ShapesConfig, keys: UInt64[np.ndarray, "n"], layout: Layout) -> Layout:
    """The same objects at the smallest size, each in its own cell of a grid, so that none hides another."""
    m, cells = config.max_objects, config.cells
    cell = np.argsort(uniform(keys, "cell", cells * cells), axis=1)[:, :m]
    slack = (1 / cells - config.min_size) * uniform(keys, "slack", m, 2)
    centre = np.stack([cell % cells, cell // cells], -1) / cells + config.min_size / 2 + slack
    size = np.where(layout.valid, config.min_size, 0)
    return Layout(layout.valid, layout.shape, layout.colour, size, centre, layout.angle, layout.depth)


def _where(choice: Bool[np.ndarray, "n"], yes: Layout, no: Layout) -> Layout:
    """Complete scenes from one layout or the other."""
    pairs = ((getattr(yes, f.name), getattr(no, f.name)) for f in dataclasses.fields(Layout))
    return Layout(*(np.where(choice.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


def _distances(config: ShapesConfig, layout: Layout, *, offset: float) -> Float[np.ndarray, "n m h w"]:
    """Signed distance in pixels of pixel centres from objects moved down and right by offset * size."""
    n, m = layout.valid.shape
    pixel = np.arange(config.resolution, dtype=np.float32) + np.float32(0.5)
    out = np.full((n, m, config.resolution, config.resolution), np.float32(4 * config.resolution))
    for index, name in enumerate(config.shapes):
        at = np.nonzero(layout.valid & (layout.shape == index))
        size, centre, angle = layout.size[at], layout.centre[at], layout.angle[at]
        if not len(size):
            continue
        radius = size * config.resolution / 2
        cos, sin = ((f(angle) / radius).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        cx, cy = ((centre + offset * size[:, None]) * config.resolution).astype(np.float32).T
        x, y = (pixel - cx[:, None])[:, None, :], (pixel - cy[:, None])[:, :, None]
        outline = OUTLINES[SHAPES.index(name)]
        out[at] = outline.distance(x * cos + y * sin, y * cos - x * sin) * radius.astype(np.float32)[:, None, None]
    return out


def _visible(
    layout: Layout, distance: Float[np.ndarray, "n m h w"]
) -> tuple[UInt8[np.ndarray, "n h w"], Float[np.ndarray, "n m"]]:
    """The instance map (see `render_scenes`), and the visible fraction of each object's pixels."""
    n, m, h, w = distance.shape
    instances = np.zeros((n, h, w), np.uint8)
    rows = np.arange(n)
    for slot in np.argsort(-layout.depth, axis=1).T:
        inside = distance[rows, slot] <= 0
        instances = np.where(inside, (slot[:, None, None] + 1).astype(np.uint8), instances)
    seen, whole = instance_masks(instances, m).sum((2, 3)), (distance <= 0).sum((2, 3))
    return instances, (seen / np.maximum(whole, 1)).astype(np.float32)


def _paint(
    config: ShapesConfig,
    keys: UInt64[np.ndarray, "n"],
    layout: Layout,
    distance: Float[np.ndarray, "n m h w"],
    behind: UInt64[np.ndarray, "n"],
) -> UInt8[np.ndarray, "n h w 3"]:
    """Paints the objects over the background of the keys ``behind``, the farthest first, each with its shadow."""
    n, m = layout.valid.shape
    image = background(config.backgrounds, config.resolution, behind, dark_share=config.dark_share)
    palette = np.array([dict(PALETTE)[name] for name in config.colours]) / 255
    shade = 1 + config.shade_jitter * (2 * uniform(keys, "shade", m) - 1)
    colour = np.minimum(palette[layout.colour] * shade[..., None], 1).astype(np.float32)
    relief = np.float32(config.relief)
    if config.relief:
        fallen = _distances(config, layout, offset=0.035)
    radius = np.maximum(layout.size * config.resolution / 2, 1)
    pixel = np.arange(config.resolution) + 0.5
    rows = np.arange(n)
    for slot in np.argsort(-layout.depth, axis=1).T:
        d = distance[rows, slot]
        r = radius[rows, slot].astype(np.float32)[:, None, None]
        body = np.broadcast_to(colour[rows, slot][:, :, None, None], image.shape)
        if config.relief:
            shadow = np.float32(0.3) * relief * smooth(np.float32(0.5) - fallen[rows, slot] / (np.float32(0.3) * r))
            image = image * (1 - shadow)[:, None]
            # Light from the upper left, and a rim of a tenth of the radius.
            x, y = (pixel - c[:, None] * config.resolution for c in layout.centre[rows, slot].T)
            fall = (x[:, None, :] + y[:, :, None]).astype(np.float32) / (2 * r)
            light = 1 - np.float32(0.13) * relief * np.clip(fall, np.float32(-1), np.float32(1))
            rim = 1 - np.float32(0.22) * relief * smooth(np.float32(1.5) + d / (np.float32(0.1) * r))
            body = np.minimum(body * (light * rim)[:, None], 1)
        image = image + (body - image) * coverage(d)[:, None]
    return np.floor(image.transpose(0, 2, 3, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def instance_masks(instances: UInt8[np.ndarray, "n h w"], m: int) -> Bool[np.ndarray, "n m h w"]:
    """The visible pixels of each of m objects, from the instance map of `render_scenes`."""
    return instances[:, None] == np.arange(1, m + 1, dtype=np.uint8)[:, None, None]


def _boxes(masks: Bool[np.ndarray, "n m h w"]) -> Float[np.ndarray, "n m 4"]:
    columns, rows = np.any(masks, axis=2), np.any(masks, axis=3)
    first = [axis.argmax(2) for axis in (columns, rows)]
    last = [axis.shape[2] - axis[..., ::-1].argmax(2) for axis in (columns, rows)]
    return np.where(np.any(columns, axis=2, keepdims=True), np.stack(first + last, -1), 0).astype(np.float32)


def settled(config: ShapesConfig, keys: UInt64[np.ndarray, "n"]) -> Layout:
    """The objects of the scenes of these keys, as `render_scenes` shows them."""
    layout, placed = arranged(config, keys)
    apart = grid_layout(config, keys, layout)
    layout = _where(placed, layout, apart)
    _, visible = _visible(layout, _distances(config, layout, offset=0.0))
    # `arranged` estimates with discs; a scene whose objects show too few pixels gets the grid layout.
    enough = np.all((visible >= config.min_visible) | ~layout.valid, axis=1)
    return layout if enough.all() else _where(enough, layout, apart)


def rendered(
    config: ShapesConfig,
    keys: UInt64[np.ndarray, "n"],
    layout: Layout,
    *,
    behind: UInt64[np.ndarray, "n"],
    paint: bool = True,
) -> dict[str, np.ndarray]:
    """The arrays of `render_scenes` for any layout.

    Args:
      config: of the scenes.
      keys: of the scenes, on which the shades of the objects depend.
      layout: the objects; invalid ones may be anywhere among them.
      behind: keys of the backgrounds: ``keys`` for those of the scenes themselves.
      paint: whether "image" is among the arrays, which takes half of the time.
    """
    distance = _distances(config, layout, offset=0.0)
    instances, visible = _visible(layout, distance)
    shape, colour = (np.where(layout.valid, of, 0) for of in (layout.shape, layout.colour))
    background_first = np.concatenate([np.zeros((len(keys), 1), np.uint8), (shape + 1).astype(np.uint8)], 1)
    painted = {"image": _paint(config, keys, layout, distance, behind)} if paint else {}
    return {
        **painted,
        "label": shape[:, 0] * np.int32(len(config.colours)) + colour[:, 0],
        "boxes": _boxes(instance_masks(instances, config.max_objects)),
        "shape": shape,
        "colour": colour,
        "valid": layout.valid,
        "size": layout.size.astype(np.float32),
        "visible": visible,
        "semantic": background_first[np.arange(len(keys))[:, None, None], instances],
        "instances": instances,
        "background": background_kinds(len(config.backgrounds), behind),
    }


def _render_chunk(config: ShapesConfig, keys: UInt64[np.ndarray, "n"], *, paint: bool) -> dict[str, np.ndarray]:
    return rendered(config, keys, settled(config, keys), behind=keys, paint=paint)


def _check_fields(fields: Sequence[str]) -> None:
    for field in fields:
        if field not in FIELDS:
            raise UserError(f"shapes have no field {field!r}; choose from {', '.join(FIELDS)}.")


def render_scenes(
    config: ShapesConfig,
    *,
    seed: int,
    indices: Int[np.ndarray, "n"],
    split: Split = "train",
    fields: Sequence[str] = FIELDS,
) -> dict[str, np.ndarray]:
    """Renders the scenes of these indices, each with up to m = `config.max_objects` objects, the largest at index 0.

    Each scene is a function of only (config, seed, split, index), independent of the others.

    Returns, of these, those in ``fields``:
        image: uint8 [n h w 3], RGB.
        label: int32 [n], shape * len(colours) + colour of object 0; uniform over the classes (`class_names`).
        boxes: float32 [n m 4], (x0, y0, x1, y1) in pixels with the image's corners at 0 and `resolution`: the smallest
            box of whole pixels around the object's visible mask; zeros where not valid.
        shape, colour: int32 [n m], indices into `config.shapes` and `config.colours`; zeros where not valid.
        valid: bool [n m], whether there is an object at the index; the valid ones come first.
        size: float32 [n m], diameter of the disc around the object as a fraction of the image's side.
        visible: float32 [n m], the fraction of the object's pixels that no nearer object hides.
        semantic: uint8 [n h w], 0 for background, 1 + shape of the object visible at the pixel.
        instances: uint8 [n h w], 0 for background, 1 + index of the object visible at the pixel: the nearest one that
            covers at least half of it.
        background: int32 [n], index of the kind of background into `config.backgrounds`.

    Raises:
        UserError: for a seed or an index below zero, an unknown split or an unknown field.
    """
    _check_fields(fields)
    indices = np.asarray(indices)
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}, but it must be at least 0 and below 2**63.")
    if split not in get_args(Split):
        raise UserError(f"split is {split!r}; choose from {', '.join(get_args(Split))}.")
    if indices.size and (indices.min() < 0 or indices.max() >= 2**60):
        raise UserError(f"indices reach from {indices.min()} to {indices.max()}, but must lie in [0, 2**60).")
    keys = sample_keys(seed, split, indices)
    step = max(1, _PIXELS_AT_ONCE // (config.resolution**2 * config.max_objects))
    paint = "image" in fields
    starts = range(0, max(len(keys), 1), step)
    chunks = [_render_chunk(config, keys[start : start + step], paint=paint) for start in starts]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in fields}


@dataclass(frozen=True, kw_only=True)
class ShapesSource:
    """A random-access data set of `size` scenes.

    The split is part of every scene's key, so that no two splits of the same seed share a scene, however large they
    are.
    """

    config: ShapesConfig = ShapesConfig()
    """The appearance of scenes."""
    seed: int = 0
    """Seed of the data set."""
    size: int = 10_000
    """Number of scenes."""
    split: Split = "train"
    """The split; splits share no scenes."""

    def __post_init__(self):
        if self.size < 1:
            raise UserError(f"size is {self.size}, but a data set needs at least 1 scene.")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of `render_scenes` for one scene, without the first axis; IndexError outside [0, size)."""
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} of {self.size}")
        return {name: array[0] for name, array in self.render(np.array([index])).items()}

    def render(self, indices: Int[np.ndarray, "n"], fields: Sequence[str] = FIELDS) -> dict[str, np.ndarray]:
        """These arrays of `render_scenes`, for the scenes of ``indices``."""
        return render_scenes(self.config, seed=self.seed, indices=indices, split=self.split, fields=fields)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names such as "red circle", in the order of labels."""
        return class_names(self.config)

    def in_memory(self, fields: Sequence[str]) -> OnDemandSource:
        """All scenes with only these arrays of `render_scenes`, each rendered when it is first asked for.

        Raises UserError for a field that `render_scenes` does not return.
        """
        _check_fields(fields)
        make = functools.partial(self.render, fields=fields)
        return OnDemandSource(make, size=self.size, fields=fields, class_names=self.class_names)

    def arrays(self, fields: Sequence[str] = ("image", "label")) -> dict[str, np.ndarray]:
        """Only these arrays of `render_scenes`, for all scenes at once: for data sets that fit into memory.

        Raises:
            UserError: for a field that `render_scenes` does not return.
        """
        return dict(self.in_memory(fields).arrays)
