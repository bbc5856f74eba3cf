"""The recipe of Gatys et al. 2016: every photograph with every painting, each pair an optimisation of its own.

A pair that is finished stays finished: its picture and numbers are files of the folder. The one that is under way is
kept every few iterations, so that the same command goes on after a kill where it was.
"""

import dataclasses
import functools
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import MinLen
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vision.atomic import write_atomically
from vision.errors import UserError
from vision.evaluation.style import Measured, StyleMeasures, StyleNetworkMeasures, fitted, resized
from vision.models.vgg import VggConfig
from vision.ops.colour_transfer import matched_colours, with_colours_of
from vision.ranges import Depth, NonNegativeFloat, Pixels, PositiveFloat, PositiveInt, Seed
from vision.recipes.style_features import VGG16_FEATURES, StyleNetwork, perceptual_distance
from vision.report.animation import save_animation
from vision.report.grid import save_png
from vision.tasks.style import StyleLossConfig, gram_matrix, guides_at
from vision.tasks.style_optimisation import PARTS, ImageOptimiser, Optimisation, scale_sizes, style_objective

FRAME = 192
"""The longer side of the animation's frames, at most."""
DONE, STATE = "pair.json", "state.npz"


@dataclass(frozen=True, kw_only=True)
class StylePairsConfig:
    """How images are optimised."""

    features: Path | None = None
    """A file of torchvision's weights of the network; None for random weights."""
    network: VggConfig = VGG16_FEATURES
    """The shape of the network."""
    loss: StyleLossConfig = StyleLossConfig()
    size: Pixels = 512
    """The longer side of the result in pixels; the other one keeps the photograph's proportions."""
    style_size: PositiveFloat = 1.0
    """The longer side of paintings, relative to ``size``: above 1 for broader strokes."""
    scales: Depth = 2
    """From coarse to fine, each with sides twice as long as the one before; at least 1."""
    iterations: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (200, 100)
    """Of L-BFGS at each scale, from the coarsest; the last number serves for all others."""
    start: Literal["content", "noise"] = "content"
    """The image to start from: the photograph, or noise around its mean colour."""
    together: bool = False
    """All paintings at once on each photograph, in place of each by itself."""
    style_weights: tuple[NonNegativeFloat, ...] = ()
    """Weights of the paintings of ``together``, not negative; empty for equal ones of sum 1."""
    masks: tuple[Path, ...] = ()
    """Of ``together``: for each painting a grey image, white where it applies (Gatys et al. 2017)."""
    colour: Literal["painting", "luma", "matched"] = "painting"
    """The painting's colours; the photograph's colours below the result's luma; or the painting is given the mean and
    covariance of the photograph's colours first (Gatys et al. 2016, "Preserving Color")."""
    memory: PositiveInt = 10
    """Steps and gradients that L-BFGS keeps, at least 1."""
    frame_every: PositiveInt = 5
    """Iterations between two frames of the animation and points of the curve, at least 1."""
    save_every: PositiveInt = 10
    """Iterations after which the pair under way is kept, at least 1."""
    lpips_weights: Path | None = None
    """The weights of LPIPS' channels (lpips/weights/v0.1/vgg.pth), for VGG16; None for ones."""
    seed: Seed = 0
    """Of noise to start from."""


@dataclass(frozen=True, eq=False)
class NamedPicture:
    """A photograph, painting or mask."""

    name: str
    pixels: UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, eq=False)
class FinishedPair:
    """A stylised image with its numbers."""

    content: str
    style: str
    picture: UInt8[np.ndarray, "_ _ 3"]
    measured: Measured
    curve: Float[np.ndarray, "n k"]
    """Columns: seconds, scale, iteration and `PARTS`."""


@dataclass(frozen=True, eq=False)
class _Task:
    """One image to make."""

    content: int
    styles: tuple[int, ...]
    folder: Path


class StylePairs:
    """Optimises all pairs of photographs and paintings in a folder."""

    def __init__(
        self,
        config: StylePairsConfig,
        contents: Sequence[NamedPicture],
        styles: Sequence[NamedPicture],
        folder: Path,
        *,
        masks: Sequence[NamedPicture] = (),
        say: Callable[[str], None] = print,
    ):
        """Raises ``UserError`` where settings or files do not fit, or the folder is of another run."""
        self.config, self.contents, self.styles, self.folder, self.masks = config, contents, styles, folder, masks
        _check(config, contents, styles, masks)
        self.network = StyleNetwork(config.network, config.loss.layers, config.features)
        self._say = say
        self.variables = self.network.load()
        self._claim()
        self.measures = StyleMeasures(
            StyleNetworkMeasures(
                activations=self.network.activations,
                loss=config.loss,
                words=self.network.words,
                distance=perceptual_distance(self.network, config.lpips_weights),
            )
        )
        self._optimiser = ImageOptimiser(style_objective(self.network.activations, config.loss), memory=config.memory)
        self._activations = jax.jit(self.network.activations)
        self._content_targets = functools.lru_cache(maxsize=2)(self._content_targets)
        self._grams = functools.cache(self._grams)

    def run(self) -> list[FinishedPair]:
        """All pairs, content by content; those that are on record are read."""
        every = tuple(range(len(self.styles)))
        chosen = [every] if self.config.together else [(style,) for style in every]
        tasks = []
        for content, picture in enumerate(self.contents):
            for styles in chosen:
                other = "all" if self.config.together else self.styles[styles[0]].name
                tasks.append(_Task(content, styles, self.folder / "pairs" / f"{picture.name}--{other}"))
        for number, task in enumerate(tasks, start=1):
            if not (task.folder / DONE).exists():
                task.folder.mkdir(parents=True, exist_ok=True)
                self._say(f"{number} of {len(tasks)}: {task.folder.name}: {self._optimised(task)}")
        return [self._read(task) for task in tasks]

    def _optimised(self, task: _Task) -> str:
        """Optimise one image, write it and its numbers; returns a line about it."""
        config, content = self.config, self.contents[task.content].pixels
        finest = fitted(content, config.size)
        sizes = scale_sizes((finest.shape[0], finest.shape[1]), config.scales)
        state, curve, frames = self._begun(task, sizes)
        spent, since = (curve[-1][0] if curve else 0.0), time.perf_counter()
        for scale in range(state.scale, len(sizes)):
            if scale > state.scale:
                larger = jax.image.resize(state.image, (1, *sizes[scale], 3), "cubic")
                state = self._optimiser.start(larger, scale=scale)
            targets = self._targets(task, sizes[scale])
            last = config.iterations[min(scale, len(config.iterations) - 1)]
            while state.iteration < last:
                if state.iteration % config.frame_every == 0 and not _on_record(curve, state):
                    parts = self._optimiser.measure(state, self.variables, targets)
                    seconds = spent + time.perf_counter() - since
                    curve.append([seconds, scale, state.iteration, *(parts[name] for name in PARTS)])
                    frames.append(_frame(state, finest))
                state = self._optimiser.step(state, self.variables, targets)
                if state.iteration % config.save_every == 0 or state.iteration == last:
                    if not np.isfinite(np.asarray(state.image)).all():
                        raise UserError(f"{task.folder.name} is no longer finite: reduce --loss.style")
                    more = {"curve": np.array(curve), "frames": np.stack(frames)}
                    write_atomically(task.folder / STATE, self._optimiser.to_bytes(state, more))
        parts = self._optimiser.measure(state, self.variables, targets)
        curve.append(
            [spent + time.perf_counter() - since, state.scale, state.iteration, *(parts[name] for name in PARTS)]
        )
        frames.append(_frame(state, finest))
        return self._written(task, state, finest, np.array(curve), np.stack(frames))

    def _begun(
        self, task: _Task, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Optimisation, list[list[float]], list[np.ndarray]]:
        """The optimisation as it was kept, or a new one."""
        if (task.folder / STATE).exists():
            state, more = self._optimiser.from_bytes((task.folder / STATE).read_bytes())
            return state, more["curve"].tolist(), list(more["frames"])
        picture = _unit(resized(fitted(self.contents[task.content].pixels, self.config.size), sizes[0]))
        if self.config.start == "noise":
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(self.config.seed), task.content), picture.shape)
            picture = jnp.mean(picture, (1, 2), keepdims=True) + 0.1 * noise
        return self._optimiser.start(picture), [], []

    def _targets(self, task: _Task, size: tuple[int, int]) -> dict[str, Any]:
        config = self.config
        features = self._content_targets(task.content, size)
        colours = task.content if config.colour == "matched" else -1
        of = [self._grams(style, max(size), colours) for style in task.styles]
        count = len(task.styles)
        weights = np.asarray(config.style_weights or (1.0 / count,) * count, np.float32) if config.together else [1.0]
        guides = None
        if self.masks:
            masks = jnp.stack([_unit(resized(mask.pixels, size))[0].mean(-1) for mask in self.masks])
            guides = guides_at(masks, {name: features[name] for name in config.loss.style_layers})
        return {
            "content": {name: features[name] for name in config.loss.content_layers},
            "grams": {name: jnp.concatenate([grams[name] for grams in of]) for name in config.loss.style_layers},
            "weights": jnp.asarray(weights, jnp.float32),
            "guides": guides,
        }

    def _content_targets(self, content: int, size: tuple[int, int]) -> dict[str, Array]:
        picture = resized(fitted(self.contents[content].pixels, self.config.size), size)
        return self._activations(self.variables, _unit(picture))

    def _grams(self, style: int, longer: int, content: int) -> dict[str, Array]:
        """Gram matrices of a painting at a scale; ``content`` is the photograph whose colours it gets, -1 for none."""
        picture = fitted(self.styles[style].pixels, max(16, round(longer * self.config.style_size)))
        image = _unit(picture)
        if content >= 0:
            image = matched_colours(image[0], _unit(self.contents[content].pixels)[0])[None]
        found = self._activations(self.variables, image)
        return {name: gram_matrix(found[name]) for name in self.config.loss.style_layers}

    def _written(
        self, task: _Task, state: Optimisation, content: np.ndarray, curve: np.ndarray, frames: np.ndarray
    ) -> str:
        result = jnp.clip(state.image, 0.0, 1.0)
        if self.config.colour == "luma":
            result = with_colours_of(result, _unit(content))
        picture = np.asarray(jnp.round(result[0] * 255.0)).astype(np.uint8)
        save_png(task.folder / "result.png", picture)
        save_animation(task.folder / "optimisation.gif", frames)
        others = [other.pixels for number, other in enumerate(self.contents) if number != task.content]
        style = fitted(self.styles[task.styles[0]].pixels, max(16, round(self.config.size * self.config.style_size)))
        measured = self.measures(self.variables, picture, content, style, others)
        np_bytes = io.BytesIO()
        np.savez(np_bytes, pooled=measured.pooled, curve=curve)
        write_atomically(task.folder / "curve.npz", np_bytes.getvalue())
        stated = {"seconds": float(curve[-1, 0]), "iterations": self.config.iterations, "scalars": measured.scalars}
        # the last file: its presence says that the pair is finished
        write_atomically(task.folder / DONE, (json.dumps(stated, indent=1) + "\n").encode())
        (task.folder / STATE).unlink(missing_ok=True)
        numbers = measured.scalars
        more = f", content {numbers['content_ratio']:.3f} of an unrelated one" if "content_ratio" in numbers else ""
        return f"{curve[-1, 0]:.0f} s, Gram loss {numbers['gram_ratio']:.4f} of the photograph's{more}"

    def _read(self, task: _Task) -> FinishedPair:
        stated = json.loads((task.folder / DONE).read_text())
        with np.load(task.folder / "curve.npz") as file:
            pooled, curve = file["pooled"], file["curve"]
        with Image.open(task.folder / "result.png") as image:
            picture = np.asarray(image.convert("RGB"))
        style = "all" if self.config.together else self.styles[task.styles[0]].name
        measured = Measured(stated["scalars"], pooled)
        return FinishedPair(self.contents[task.content].name, style, picture, measured, curve)

    def _claim(self) -> None:
        """Make the folder this run's, or check that it is."""
        fields = dataclasses.asdict(self.config) | {"features": _file_hash(self.config.features)}
        fields |= {"masks": [_hash(mask.pixels) for mask in self.masks]}
        fields |= {kind: {each.name: _hash(each.pixels) for each in of} for kind, of in self._pictures().items()}
        own = json.loads(json.dumps(fields, default=str))
        path = self.folder / "config.json"
        if path.exists():
            known = json.loads(path.read_text())
            differing = [name for name in own if known.get(name) != own[name]]
            if differing:
                raise UserError(
                    f"{self.folder} is of a run with another {differing[0]}: give another --workdir, or the same "
                    "options"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(own, indent=1) + "\n").encode())

    def _pictures(self) -> dict[str, Sequence[NamedPicture]]:
        return {"photographs": self.contents, "paintings": self.styles}


def _check(
    config: StylePairsConfig,
    contents: Sequence[NamedPicture],
    styles: Sequence[NamedPicture],
    masks: Sequence[NamedPicture],
) -> None:
    for kind, of in (("photographs", contents), ("paintings", styles)):
        names = [each.name for each in of]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"two {kind} are called {twice[0]}: rename one of the files")
    if not config.loss.style_layers or not config.loss.content_layers:
        raise UserError("loss.style_layers and loss.content_layers need at least one layer each")
    if config.loss.layer_weights and len(config.loss.layer_weights) != len(config.loss.style_layers):
        raise UserError(
            f"{len(config.loss.style_layers)} style layers need as many loss.layer_weights, not "
            f"{len(config.loss.layer_weights)}"
        )
    if not config.together and (masks or config.style_weights):
        raise UserError("masks and style_weights are of several paintings on one photograph: give --together too")
    if masks and len(masks) != len(styles):
        raise UserError(f"{len(styles)} paintings need as many masks, not {len(masks)}")
    if config.style_weights and len(config.style_weights) != len(styles):
        raise UserError(f"{len(styles)} paintings need as many style_weights, not {len(config.style_weights)}")


def _on_record(curve: Sequence[Sequence[float]], state: Optimisation) -> bool:
    return bool(curve) and (curve[-1][1], curve[-1][2]) == (state.scale, state.iteration)


def _frame(state: Optimisation, finest: np.ndarray) -> UInt8[np.ndarray, "_ _ 3"]:
    picture = np.asarray(jnp.round(jnp.clip(state.image[0], 0.0, 1.0) * 255.0)).astype(np.uint8)
    small = fitted(finest, min(FRAME, max(finest.shape[:2])))
    return resized(picture, (small.shape[0], small.shape[1]))


def _unit(picture: np.ndarray) -> Float[Array, "1 h w 3"]:
    return jnp.asarray(picture[None], jnp.float32) / 255.0


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def _file_hash(path: Path | None) -> str:
    return "random weights" if path is None else hashlib.sha256(path.expanduser().read_bytes()).hexdigest()[:16]
