"""What can be done with a run that is loaded: evaluate it, predict with it, sample from it, export it."""

import contextlib
import errno
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from vision.data.image_file import opened
from vision.errors import UserError
from vision.home import expanded
from vision.launch.average_length import scanned
from vision.launch.export import write_export
from vision.launch.export_onnx import write_onnx
from vision.launch.files import files_of
from vision.launch.inputs import check_data
from vision.launch.load_run import LoadedRun
from vision.launch.options import command_line, unknown_name
from vision.launch.provenance import request_record, run_record, save_generated
from vision.parallel.agreement import first_alone, is_first
from vision.pretrained.diffusers_folder import library_of, write_folder
from vision.pretrained.state_dict import write_state_dict
from vision.report.grid import sample_grid, save_png
from vision.report.samples_page import BASELINE, write_samples_page
from vision.train.compile import Compiler
from vision.train.compiling import compiling_for
from vision.train.experiment import Sample
from vision.train.kept import TOKENIZER
from vision.train.replicas import combined
from vision.types import SampleRequest, Samples


def evaluate(run: LoadedRun, *, average_lengths: Sequence[float] = ()) -> list[str]:
    """The numbers of the experiment's evaluation, a line each with its protocol.

    With lengths, those of the average of each length in place of "ema".

    Raises ``UserError`` where the data has another place than the run's and is not the same, or there are no snapshots
    to make averages of.
    """
    if run.folder is not None:
        folder = run.folder
        first_alone(lambda: check_data(folder, run.config, run.experiment.contents()))
    with compiling_for("the evaluation", _say):
        if average_lengths:
            found = {f"[length {of:g}]": each for of, each in scanned(run, average_lengths).items()}
        else:
            found = {"": (run.experiment.evaluation(run.compiler)(run.state), "")}
    return [
        f"{name}{of} {value:.6g}  "
        f"({'; '.join(filter(None, (evaluation.protocol.get(name, 'no protocol stated'), words)))})"
        for of, (evaluation, words) in found.items()
        for name, value in combined(evaluation.scalars, run.experiment.replicas).items()
    ]


def predict(run: LoadedRun, patterns: Sequence[str], out: Path) -> list[str]:
    """What the run recognises in files, folders or patterns, a line each; images and tables are written to ``out``.

    Raises ``UserError`` for an experiment that recognises nothing, a run of several replicas, a pattern that names no
    file, or files that are no images.
    """
    if run.experiment.prediction is None or run.experiment.replicas:
        why = "is a run of several replicas" if run.experiment.replicas else "does not recognise anything"
        raise UserError(f"{run.name} {why}, so that it cannot predict")
    with writing(out), compiling_for("the predictions", _say):
        return list(run.experiment.prediction(run.compiler, _class_names(run))(run.state, files_of(patterns), out))


def export(run: LoadedRun, file: Path) -> str:
    """Write the run's function of images to ``file``, or what its name asks for; returns a line about what it wrote.

    A name in .onnx is for ONNX's runtimes, one in .safetensors asks for the weights under published names. A diffusion
    network that is published so becomes a new folder of diffusers, a fine-tuned pipeline one of several networks.

    Raises ``UserError`` for an experiment without such a function or such names, or a run of several replicas.
    """
    if run.experiment.write_pipeline is not None and not run.experiment.replicas:
        return _export_pipeline(run, expanded(file))
    as_file = bool(file.suffix) and run.experiment.inference is not None
    if run.experiment.published_folder is not None and not run.experiment.replicas and not as_file:
        return _export_folder(run, expanded(file))
    if run.experiment.inference is None or run.experiment.replicas:
        why = "is a run of several replicas" if run.experiment.replicas else "has no function of images"
        raise UserError(f"{run.name} {why}, so that there is nothing to export")
    file = expanded(file)
    if file.is_dir():
        raise UserError(f"{file} is a folder: name the file to write, such as {file / 'model.stablehlo'}")
    if file.suffix == ".safetensors":
        return _export_weights(run, file)
    inference = run.experiment.inference(jax.device_get(run.state))
    write = write_onnx if file.suffix == ".onnx" else write_export
    names = _class_names(run)
    with writing(file):
        return write(file, inference, names) if is_first() else ""


def _class_names(run: LoadedRun) -> Sequence[str]:
    """The names of the classes that a run tells apart; of weights without a run, those of the data."""
    if run.class_names is not None:
        return run.class_names
    return run.experiment.class_names() if run.experiment.class_names is not None else ()


def _export_weights(run: LoadedRun, file: Path) -> str:
    if run.experiment.published is None:
        raise UserError(f"the network of {run.name} has no published names: export to another format")
    tensors = run.experiment.published(jax.device_get(run.state))
    with writing(file):
        if is_first():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_state_dict(file, tensors)
    size = sum(array.nbytes for array in tensors.values())
    return f"{file}: {size / 1e6:.1f} MB, {len(tensors)} arrays under the names of published weights"


def _export_folder(run: LoadedRun, folder: Path) -> str:
    assert run.experiment.published_folder is not None
    if folder.suffix:
        raise UserError(f"{run.name} is exported as a folder: name a new one, such as {folder.stem}")
    files, tensors = run.experiment.published_folder(jax.device_get(run.state))
    if run.experiment.tokenizer is not None:
        files = {**files, TOKENIZER: json.loads(run.experiment.tokenizer.content())}
    with writing(folder):
        if is_first():
            write_folder(folder, files, tensors)
    size = sum(array.nbytes for array in tensors.values())
    library, kind = library_of(files["config.json"])
    return f"{folder}: {size / 1e6:.1f} MB, {len(tensors)} arrays and {' and '.join(files)} for {library}' {kind}"


def _export_pipeline(run: LoadedRun, folder: Path) -> str:
    assert run.experiment.write_pipeline is not None
    if folder.suffix:
        raise UserError(f"{run.name} is exported as a folder: name a new one, such as {folder.stem}")
    state = jax.device_get(run.state)
    with writing(folder):
        if is_first():
            run.experiment.write_pipeline(state, folder)
    return f"{folder}: the pipeline with this network, for diffusers' DiffusionPipeline"


def sample(
    run: LoadedRun,
    request: SampleRequest,
    out: Path,
    *,
    baseline: LoadedRun | None = None,
    watermark: bool = False,
) -> str:
    """Write what the run generates as PNG files, a grid of all and a page to ``out``; returns a line about it.

    Each file has a record of where it comes from (`vision.launch.provenance`).

    Args:
      run: the generator.
      request: what is asked of it.
      out: the folder.
      baseline: another generator, whose images for the same request are written too and shown next to the others.
      watermark: whether images get an invisible watermark, by which ``verify`` knows them without their record.

    Raises ``UserError`` for an experiment that does not generate images, or has no such condition, and for images that
    are too small for a watermark.
    """
    samples = samples_of(run, request)
    compared = None
    if baseline is not None:
        try:
            compared = samples_of(baseline, request)
        except UserError as error:
            raise UserError(f"of the baseline in {baseline.folder}: {error}", code=error.code) from error
    if not is_first():
        return ""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        of: dict[str, Any] = {"request": request, "watermark": watermark}
        _write_images(out, "", samples, run, **of)
        if baseline is not None and compared is not None:
            _write_images(out, BASELINE, compared, baseline, **of)
        title = f"{len(samples.images)} samples of {run.name} after {run.images:,} images"
        write_samples_page(
            out / "samples.html",
            title=title,
            command=command_line(),
            captions=samples.captions,
            count=len(samples.images),
            baseline="" if baseline is None else f"{baseline.name} after {baseline.images:,} images",
        )
    return f"{len(samples.images)} samples after {run.images:,} images: {out / 'grid.png'}"


def samples_of(run: LoadedRun, request: SampleRequest) -> Samples:
    """What the run generates; raises ``UserError`` for an experiment that generates nothing, or has no condition."""
    sampling = _sampling(run)
    with compiling_for("the samples", _say):
        return sampling(run.compiler)(run.state, request)


def _write_images(
    out: Path, prefix: str, samples: Samples, run: LoadedRun, *, request: SampleRequest, watermark: bool
) -> None:
    """A file for each image, and the grid of all with those that were given."""
    count = len(samples.images)
    columns = samples.columns or int(np.ceil(np.sqrt(count)))
    columns = count // len(run.experiment.replicas) if run.experiment.replicas else columns  # a row a replica
    shown, captions = samples.images, list(samples.captions)
    if samples.given is not None:
        factor = shown.shape[1] // samples.given.shape[1]  # an upsampler may have made them larger
        given = samples.given.repeat(factor, axis=1).repeat(factor, axis=2)
        shown = np.concatenate([given, shown])
        captions = ["given"] * len(given) + captions if captions else captions
    paths = [out / f"{prefix}{index:05d}.png" for index in range(count)]
    record = {"made": "generated", **run_record(run), "request": request_record(request)}
    save_generated(paths, samples.images, record, captions=samples.captions, watermark=watermark)
    save_png(out / f"{prefix}grid.png", sample_grid(shown, columns=columns, captions=captions or None))


def sample_request(
    run: LoadedRun,
    *,
    count: int,
    labels: Sequence[str] = (),
    prompts: Sequence[str] = (),
    images: Sequence[str] = (),
    masks: Sequence[str] = (),
    seed: int = 0,
    best_of: int = 1,
    interpolate: bool = False,
    difference: Sequence[str] = (),
    components: Sequence[int] = (),
) -> SampleRequest:
    """Check a request for samples and read its files.

    Args:
      run: the generator.
      count: number of images.
      labels: names or numbers of classes.
      prompts: texts.
      images: files, folders or patterns.
      masks: the same; grey images, 255 where an image may change, as many as images or one for all.
      seed: of the noise.
      best_of: images that are generated for each one that is kept.
      interpolate: whether the images are steps between two images or texts.
      difference: two texts, along whose difference the images move.
      components: numbers of principal components that images are reconstructed from; ``count`` follows from them.

    Raises ``UserError`` for an unknown class, or files that do not fit.
    """
    _sampling(run)
    names = run.class_names
    if labels and names is None and run.experiment.class_names is not None:
        names = tuple(run.experiment.class_names())
    read = [_read_image(file, "RGB") for file in files_of(images)]
    read_masks = [_read_image(file, "L") for file in files_of(masks)]
    if masks and not images:
        raise UserError("--mask says where --image may change: name images too")
    if masks and len(read_masks) not in (1, len(read)):
        raise UserError(f"--mask has {len(read_masks)} files and --image {len(read)}: give one mask, or as many")
    return SampleRequest(
        count=len(components) * len(read) if components and read else count,
        labels=tuple(_label(run, label, names) for label in labels),
        prompts=tuple(prompts),
        images=tuple(read),
        masks=tuple(read_masks),
        seed=seed,
        best_of=best_of,
        interpolate=interpolate,
        difference=tuple(difference),
        components=tuple(components),
    )


def _say(text: str) -> None:
    if is_first():
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Make one sentence of an error in writing to ``place``; a full disk is explained elsewhere."""
    try:
        yield
    except OSError as error:
        named = Path(error.filename or "/").absolute()
        inside = place.absolute().parent in named.parents or named in place.absolute().parents
        if not inside or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{place} cannot be written: {error.strerror}") from error


def _sampling(run: LoadedRun) -> Callable[[Compiler], Sample]:
    if run.experiment.sampling is None:
        raise UserError(f"{run.name} does not generate images, so that there is nothing to sample")
    return run.experiment.sampling


def _label(run: LoadedRun, label: str, names: Sequence[str] | None) -> int:
    """The number of a class."""
    if "label" not in run.experiment.batch:
        raise UserError(f"{run.name} generates images without classes here: leave --labels out")
    if names and label in names:
        return list(names).index(label)
    if not label.isdecimal():
        if names:
            raise UserError(unknown_name("class", label, list(names), f"there are {', '.join(names)}"))
        raise UserError(f"{run.name} has kept no names of classes: give --labels as numbers, not {label}")
    if names and int(label) >= len(names):
        raise UserError(f"--labels {label} is too large: the classes are numbered from 0 to {len(names) - 1}")
    return int(label)


def _read_image(path: Path, mode: str) -> UInt8[np.ndarray, "h w c"]:
    with opened(path, adjustable=False) as image:
        pixels = np.asarray(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]
