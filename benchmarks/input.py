"""Images a second of each source of images against PyTorch's DataLoader on the same images, with the same change.

In pairs (``pairs.py``), nothing else at work. Every measurement opens its readers anew on both sides and reads batches
to the end; PyTorch has two worker processes, or none where its data is in memory.

    pip install -e .                                                          # this project
    python -m venv torch-env && torch-env/bin/pip install torch torchvision   # for comparison
    TFDS_DATA_DIR=~/tensorflow_datasets python benchmarks/input.py --torch-python torch-env/bin/python

JPEGs: a folder of 256 of 500x375, read twice; random resized crop to 224, with a flip in PyTorch (here it is part of
the step); and letterboxed to 416 with the boxes of a COCO annotation (mosaics are part of the step here). TFDS: the
CIFAR-10 that ``python -m vision.data.cifar10`` has prepared, decoded as it is read; PyTorch reads the same images as
JPEG files. In memory: 50,000 arrays of 32x32, one epoch. Shapes world: rendered when first asked for; PyTorch has no
counterpart.
"""

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pairs import Job, compare

FILES, READ, SMALL, ARRAYS, BATCH = 256, 512, 4096, 50_000, 64
HEIGHT, WIDTH, CROP, SQUARE = 375, 500, 224, 416
PLACE = Path(tempfile.gettempdir()) / "benchmark-input"


def folder_of_jpegs() -> Path:
    """256 images with the spectrum of photographs (amplitude 1 / frequency), the same for both sides."""
    import numpy as np
    from PIL import Image

    folder = PLACE / "jpegs"
    if not (folder / ".done").exists():
        generator = np.random.default_rng(0)
        frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]) + 1 / WIDTH
        for index in range(FILES):
            noise = np.fft.rfft2(generator.normal(size=(3, HEIGHT, WIDTH)))
            image = np.fft.irfft2(noise / frequency, (HEIGHT, WIDTH)).transpose(1, 2, 0)
            pixels = np.clip(128 + 60 * image / image.std(), 0, 255).astype(np.uint8)
            place = folder / str(index % 2)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{index}.jpg", quality=90)
        (folder / ".done").touch()
    return folder


def annotation() -> Path:
    """A COCO annotation of these images with four boxes each."""
    file = PLACE / "boxes.json"
    if not file.exists():
        images = [
            {"id": index, "file_name": f"{index % 2}/{index}.jpg", "width": WIDTH, "height": HEIGHT}
            for index in range(FILES)
        ]
        boxes = [
            {
                "id": 4 * index + place,
                "image_id": index,
                "category_id": 1,
                "bbox": [20 + 100 * place, 30 + index % 200, 80, 60],
                "area": 4800,
                "iscrowd": 0,
            }
            for index in range(FILES)
            for place in range(4)
        ]
        folder_of_jpegs()
        file.write_text(
            json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]})
        )
    return file


def prepared_cifar10() -> Path | None:
    """The folder of TFDS' data sets, if CIFAR-10 is there."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    return folder if (folder / "cifar10").is_dir() else None


def folder_of_small_jpegs() -> Path:
    """The first images of CIFAR-10 as JPEG files, which is how the prepared files hold them."""
    return PLACE / "small" / "train"


def ours() -> dict[str, Callable[[], None]]:
    """Our jobs."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from PIL import Image

    from vision.data.crop import random_resized_crop
    from vision.data.detection import DetectionConfig, detection_source
    from vision.data.folder import folder_source
    from vision.data.pipeline import batches
    from vision.data.source import ArraySource, Source
    from vision.data.tfds import tfds_source
    from vision.recipes.quick_data import DETECTION, RECOGNITION

    def read(stream: Iterator, count: int, batch_size: int) -> None:
        for _ in range(count // batch_size):
            jax.block_until_ready(jnp.asarray(next(stream)["image"]))

    def reading(source: Source, count: int = READ, size: int = BATCH, **how) -> Callable[[], None]:
        def job() -> None:
            stream = batches(source, batch_size=size, seed=0, **how)
            read(stream, count, size)
            stream.close()

        return job

    jpegs = folder_source(folder_of_jpegs(), resolution=None, shorter_side=None)
    boxes = DetectionConfig(
        name="coco",
        dir=PLACE,
        train_json=annotation().name,
        train_images="jpegs",
        resolution=SQUARE,
        stream=True,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (ARRAYS, 32, 32, 3), np.uint8)
    scenes = replace(DETECTION, shapes_count=READ)
    world = RECOGNITION.shapes
    jobs: dict[str, Callable[[], None]] = {
        "JPEGs, random resized crop": reading(jpegs, transform=random_resized_crop(CROP)),
        "JPEGs, letterboxed, with boxes": reading(detection_source(boxes, "train")),
        "arrays in memory": reading(ArraySource({"image": pixels}), count=ARRAYS, size=128),
        "shapes world, 32 pixels": lambda: reading(open_shapes(world, SMALL), count=SMALL)(),
        "shapes world with boxes, 128 pixels": lambda: reading(detection_source(scenes, "train"))(),
    }
    if folder := prepared_cifar10():
        cifar = tfds_source("cifar10", "train", data_dir=folder)
        if not folder_of_small_jpegs().exists():
            (folder_of_small_jpegs() / "all").mkdir(parents=True)
            for index in range(SMALL):
                Image.fromarray(cifar[index]["image"]).save(
                    folder_of_small_jpegs() / "all" / f"{index}.jpg", quality=75
                )
        jobs["CIFAR-10 of TFDS, decoded"] = reading(cifar, count=SMALL)
    return jobs


def open_shapes(config, size: int):
    """Scenes of the shapes world that are not rendered yet."""
    from vision.data.shapes.world import ShapesSource

    return ShapesSource(config=config, size=size).in_memory(("image", "label"))


class Letterboxed:
    """A data set of PyTorch: JPEGs letterboxed, with their boxes, padded to a number of 100."""

    def __init__(self):
        content = json.loads(annotation().read_text())
        self._images = content["images"]
        self._boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in self._images}
        for each in content["annotations"]:
            self._boxes[each["image_id"]].append(each["bbox"])

    def __len__(self) -> int:
        return READ

    def __getitem__(self, index: int):
        import numpy as np
        import torch  # pyright: ignore[reportMissingImports]
        from PIL import Image

        found = self._images[index % FILES]
        with Image.open(folder_of_jpegs() / found["file_name"]) as opened:
            image = opened.convert("RGB")
        scale = SQUARE / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        left, top = (SQUARE - width) // 2, (SQUARE - height) // 2
        square = np.full((SQUARE, SQUARE, 3), 114, np.uint8)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        square[top : top + height, left : left + width] = np.asarray(resized)
        boxes = np.zeros((100, 4), np.float32)
        own = np.array(self._boxes[found["id"]], np.float32) * scale
        boxes[: len(own)] = np.concatenate([own[:, :2], own[:, :2] + own[:, 2:]], 1) + np.array([left, top, left, top])
        return torch.from_numpy(square), torch.from_numpy(boxes), len(own)


def theirs() -> dict[str, Callable[[], None]]:
    """The same jobs with PyTorch's DataLoader."""
    import torch  # pyright: ignore[reportMissingImports]

    library = torch.library.Library("torchvision", "DEF")  # its compiled operators may be missing, and are not used
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
    import torchvision  # pyright: ignore[reportMissingImports]
    from torchvision import transforms  # pyright: ignore[reportMissingImports]

    def read(data, size: int = BATCH, workers: int = 2) -> None:
        for _ in torch.utils.data.DataLoader(data, size, True, num_workers=workers):
            pass

    steps = [transforms.RandomResizedCrop(CROP), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    folder = torchvision.datasets.ImageFolder(str(folder_of_jpegs()), transforms.Compose(steps))
    twice = torch.utils.data.ConcatDataset([folder, folder])
    pixels = torch.randint(0, 256, (ARRAYS, 3, 32, 32), dtype=torch.uint8)
    arrays = torch.utils.data.TensorDataset(pixels)
    jobs: dict[str, Callable[[], None]] = {
        "JPEGs, random resized crop": functools.partial(read, twice),
        "JPEGs, letterboxed, with boxes": functools.partial(read, Letterboxed()),
        "arrays in memory": functools.partial(read, arrays, size=128, workers=0),
    }
    if prepared_cifar10():
        jobs["CIFAR-10 of TFDS, decoded"] = lambda: read(
            torchvision.datasets.ImageFolder(str(folder_of_small_jpegs()), transforms.PILToTensor())
        )
    return jobs


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            Job("JPEGs, random resized crop", READ, 5),
            Job("JPEGs, letterboxed, with boxes", READ, 5),
            *([Job("CIFAR-10 of TFDS, decoded", SMALL, 5)] if prepared_cifar10() else []),
            Job("arrays in memory", ARRAYS // 128 * 128, 5),
            Job("shapes world, 32 pixels", SMALL, 5, alone=True),
            Job("shapes world with boxes, 128 pixels", READ, 5, alone=True),
        ],
    )
