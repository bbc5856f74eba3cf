"""Evaluation of restoration on whole images: PSNR and SSIM by the protocols of papers, next to what is simple.

What is simple is bicubic enlargement, the degraded image itself, or classic filters of noise. It does not depend on
the state and is measured once. Noise is a function of an image's place among the test images alone.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.data.image_data import Data
from vision.metrics.reconstruction.super_resolution import ReconstructionProtocol, region_quality
from vision.report.restoration import Restored, number_table, restoration_sheet
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

RestoreImages = Callable[[Any, Array], Array]
"""(variables, images in [0, 1] as the network takes them) -> restored images."""
Simple = Callable[[Array, Array], Array]
"""(degraded images in [0, 1], level) -> images of the size of the truth."""

SHOWN = 6
"""Test images on the sheet of examples."""
SEED = 0
"""Of the noise of evaluation."""


@dataclass(frozen=True)
class Condition:
    """A level of degradation at which networks are measured."""

    level: float
    name: str
    """Part of the numbers' names: "sigma25"; "" where there is only one kind."""
    words: str
    protocols: tuple[ReconstructionProtocol, ...]
    """What is measured there, the first of which orders tables and sheets."""


@dataclass(frozen=True)
class Baseline:
    """What a network is compared with."""

    function: Simple
    words: str
    """In words, for protocols: "MATLAB's bicubic enlargement"."""


@dataclass(frozen=True, kw_only=True)
class RestorationTask:
    """What is restored, and how it is measured."""

    view: Callable[[Array], Array]
    """RGB in [0, 1] -> the truth as the network knows it, luma or colours."""
    degrade: Callable[[Array, Array, Array], Array]
    """(one true image [1 h w c], level [1], key) -> the degraded image."""
    conditions: Sequence[Condition]
    baselines: Callable[[Compiler], Mapping[str, Baseline]]
    """What networks are compared with, by name, the first of which is shown on sheets; called once, at the first
    evaluation."""
    distance: Callable[[Array, Array], Array] | None = None
    """LPIPS of restored and true images [1 h w 3] in [0, 1] at their own size; None for none."""


@dataclass(frozen=True)
class RestorationSet:
    """What a network is evaluated on."""

    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    """This process's share of the batches of ``vision.data.photographs``."""
    description: str
    """In words, for protocols."""


@dataclass(frozen=True)
class _Found:
    """The numbers of a condition, means over images, and some of the images by their place."""

    means: Mapping[str, float]
    count: int
    images: Mapping[int, np.ndarray]


Make = Callable[[Any, Array, Array], Array]
"""(variables, degraded images, level) -> images of the size of the truth."""


def evaluator(
    compiler: Compiler, restore: RestoreImages, task: RestorationTask
) -> Callable[[Any, RestorationSet], Evaluation]:
    """(variables, test set) -> numbers of the network and of what is simple, with a sheet of examples and a table.

    The network's numbers are named by protocol and condition, "psnr_y_border2" or "psnr_rgb_8bit_border0_sigma25";
    those of what is simple have its name at the end, "psnr_y_border2/bicubic". Sheets are made only by a single-process
    run.
    """

    def measure(
        make: Make,
        protocols: Sequence[ReconstructionProtocol],
        variables: Any,
        batch: Mapping[str, Array],
        level: Array,
    ) -> tuple[dict[str, Array], Array]:
        truth = task.view(batch["image"].astype(jnp.float32) / 255.0)

        def degraded(image: Array, index: Array) -> Array:
            key = jax.random.fold_in(jax.random.key(SEED), index)
            return task.degrade(image[None], level[None], key)[0]

        made = make(variables, jax.vmap(degraded)(truth, batch["index"]), level)
        found: dict[str, Array] = {"count": jnp.ones(len(made))}
        for protocol in protocols:
            found |= region_quality(made, truth, batch["size"], protocol)
        return {name: jnp.sum(jnp.where(batch["mask"], value, 0.0)) for name, value in found.items()}, made

    @functools.cache
    def compiled(make: Make, protocols: tuple[ReconstructionProtocol, ...]) -> Callable[..., Any]:
        return compiler.function(functools.partial(measure, make, protocols))

    def measured(make: Make, variables: Any, condition: Condition, test: RestorationSet, *, keep: int) -> _Found:
        """With the first ``keep`` images."""
        totals: dict[str, float] = {}
        images: dict[int, np.ndarray] = {}
        level = compiler.replicate(np.float32(condition.level))
        for batch in test.batches():
            found, made = compiled(make, condition.protocols)(variables, compiler.shard(batch), level)
            for name, value in jax.device_get(found).items():
                totals[name] = totals.get(name, 0.0) + float(value)
            if jax.process_count() > 1:
                continue  # images of other processes are not here
            for row in np.flatnonzero(batch["mask"] & (batch["index"] < keep)).tolist():
                height, width = batch["size"][row].tolist()
                images[int(batch["index"][row])] = np.asarray(jax.device_get(made[row]))[:height, :width]
        count = int(totals.pop("count"))
        return _Found({name: total / count for name, total in totals.items()}, count, images)

    own: Make = lambda variables, images, level: restore(variables, images)
    middle = task.conditions[len(task.conditions) // 2]
    known: dict[tuple[str, Condition], _Found] = {}
    baselines: dict[str, Baseline] = {}

    def evaluate(variables: Any, test: RestorationSet) -> Evaluation:
        if not baselines:
            for name, each in task.baselines(compiler).items():
                make: Make = lambda variables, images, level, each=each: each.function(images, level)
                for condition in task.conditions:
                    keep = SHOWN if condition is middle and not baselines else 0
                    known[name, condition] = measured(make, {}, condition, test, keep=keep)
                baselines[name] = each
        every = sys.maxsize if task.distance is not None else SHOWN
        found = {
            condition: measured(own, variables, condition, test, keep=every if condition is middle else 0)
            for condition in task.conditions
        }
        scalars, protocol = {}, {}
        for condition, each in found.items():
            scalars |= {_named(key, condition): value for key, value in each.means.items()}
            protocol |= _protocol(condition, baselines, each.count, test.description)
            for name in baselines:
                means = known[name, condition].means
                scalars |= {f"{_named(key, condition)}/{name}": value for key, value in means.items()}
        truths = _truths(test, found[middle].images)
        if task.distance is not None and truths:
            distance = task.distance
            each = [_distance(distance, found[middle].images[index], truth) for index, truth in truths.items()]
            scalars["lpips"] = float(np.mean(each))
            protocol["lpips"] = f"LPIPS of colours; {middle.words}; mean over {len(each)} images of {test.description}"
        images = {"table": _table(task.conditions, list(baselines), scalars)}
        if truths:
            simple = {name: known[name, middle].images for name in list(baselines)[:1]}
            shown = {index: truth for index, truth in truths.items() if index < SHOWN}
            images["examples"] = _sheet(task, simple | {"restored": found[middle].images}, shown)
        return Evaluation(scalars, images, protocol)

    return evaluate


def _truths(test: RestorationSet, wanted: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The true images uint8 [h w 3] of these places, in order."""
    found = {}
    for batch in test.batches() if wanted else ():
        for row in np.flatnonzero(batch["mask"]).tolist():
            height, width = batch["size"][row].tolist()
            if int(batch["index"][row]) in wanted:
                found[int(batch["index"][row])] = batch["image"][row, :height, :width]
    return dict(sorted(found.items()))


def _distance(distance: Callable[[Array, Array], Array], made: np.ndarray, truth: np.ndarray) -> float:
    coloured = made if made.shape[-1] == 3 else np.repeat(made, 3, axis=-1)
    whole = jnp.asarray(truth[None], jnp.float32) / 255.0
    return float(distance(jnp.clip(jnp.asarray(coloured[None]), 0.0, 1.0), whole)[0])


def _named(key: str, condition: Condition) -> str:
    return f"{key}_{condition.name}" if condition.name else key


def _protocol(condition: Condition, baselines: Mapping[str, Baseline], count: int, description: str) -> dict[str, str]:
    found = {}
    what = {"psnr": "peak signal-to-noise ratio in dB", "ssim": "structural similarity"}
    for protocol in condition.protocols:
        for short, words in what.items():
            key = _named(f"{short}_{protocol.label}", condition)
            how = f"{words}, {protocol.words}; {condition.words}; mean over {count} whole images of {description}"
            found[key] = how
            found |= {f"{key}/{name}": f"{each.words}: {how}" for name, each in baselines.items()}
    return found


def _table(conditions: Sequence[Condition], baselines: Sequence[str], scalars: Mapping[str, float]) -> np.ndarray:
    """PSNR by condition and protocol, of what is simple and of the network."""
    rows = [(condition, protocol) for condition in conditions for protocol in condition.protocols]
    keys = [_named(f"psnr_{protocol.label}", condition) for condition, protocol in rows]
    values = np.array([[*(scalars[f"{key}/{name}"] for name in baselines), scalars[key]] for key in keys])
    names = [key.removeprefix("psnr_") for key in keys]
    return number_table(values, rows=names, columns=[*baselines, "network"], title="PSNR in dB")


def _sheet(
    task: RestorationTask, versions: Mapping[str, Mapping[int, np.ndarray]], truths: Mapping[int, np.ndarray]
) -> np.ndarray:
    examples = []
    for index, truth in truths.items():
        view = np.asarray(task.view(jnp.asarray(truth[None], jnp.float32) / 255.0))[0]
        images = {name: of[index] for name, of in versions.items()}
        captions = {name: f"{_psnr(image, view):.2f} dB" for name, image in images.items()}
        shown = {name: _eight_bits(image) for name, image in (*images.items(), ("truth", view))}
        examples.append(Restored(shown, captions))
    return restoration_sheet(examples)


def _psnr(image: Float[np.ndarray, "h w c"], truth: Float[np.ndarray, "h w c"]) -> float:
    """Of a whole image, for captions."""
    return float(-10.0 * np.log10(max(float(np.mean((np.clip(image, 0.0, 1.0) - truth) ** 2)), 1e-12)))


def _eight_bits(image: np.ndarray) -> np.ndarray:
    levels = np.floor(np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels


def restoration_metrics(
    restore: RestoreImages,
    data: Data,
    variables: Callable[[TrainState], Any],
    task: RestorationTask,
    *,
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """The numbers of :func:`evaluator` on the test split.

    Args:
      restore: the network.
      data: of ``vision.data.photographs``.
      variables: state -> variables of the network.
      task: what is restored.
      batch_size: images of equal canvases at a time, rounded up to a multiple of the devices.
      description: how the network is used, for protocols: "EMA 0.999".
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, restore, task)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = RestorationSet(lambda: data.test_batches(size), words)
        return lambda state: evaluate(variables(state), test)

    return factory
