"""Speed of the detector n against a detector of similar size in PyTorch, and against its mosaics.

YOLOv5 n (1.8 M parameters for three classes) and torchvision's SSDLite with MobileNetV3 (2.2 M): both about 0.6
billion multiplications per image of 320 pixels. The same batches, the same machine, one run, in pairs (``pairs.py``).
Inference includes decoding and non-maximum suppression of the 900 most confident candidates to 300; if torchvision's
compiled suppression is missing, vectorised PyTorch operations replace it. A training step is forward, loss, backward
and SGD, with eight boxes per image.

    pip install -e .                                                          # this project
    python -m venv torch-env && torch-env/bin/pip install torch torchvision   # for comparison
    python benchmarks/yolo.py --torch-python torch-env/bin/python

Only ours: mosaics on the device, which must be faster than a training step. Reading is measured by ``input.py``.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from pairs import Job, compare

CLASSES, BOXES, CANDIDATES, MOST, FILES = 3, 8, 900, 300, 128
SIZES = ((320, 1), (320, 16), (640, 1), (640, 16))


def folder_of_images() -> Path:
    """128 images of 416x312 with the spectrum of photographs, and eight boxes each in COCO's form."""
    import numpy as np
    from PIL import Image

    folder = Path(tempfile.gettempdir()) / "benchmark-boxes"
    if not (folder / "train.json").exists():
        generator = np.random.default_rng(0)
        height, width = 312, 416
        (folder / "images").mkdir(parents=True, exist_ok=True)
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / width
        images, boxes = [], []
        for index in range(1, FILES + 1):
            noise = np.fft.rfft2(generator.normal(size=(3, height, width)))
            image = np.fft.irfft2(noise / frequency, (height, width)).transpose(1, 2, 0)
            pixels = np.clip(128 + 60 * image / image.std(), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg", quality=90)
            images.append({"id": index, "file_name": f"{index}.jpg", "width": width, "height": height})
            for _ in range(BOXES):
                x, y = generator.uniform(0, width - 90), generator.uniform(0, height - 90)
                w, h = generator.uniform(20, 90, 2)
                fields = {"image_id": index, "category_id": 1 + len(boxes) % CLASSES, "iscrowd": 0, "area": w * h}
                boxes.append({"id": len(boxes) + 1, "bbox": [x, y, w, h], **fields})
        categories = [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / "train.json").write_text(json.dumps(content))
    return folder


def random_batch(side: int, count: int):
    """Random images [count side side 3] and boxes [count 8 4] in pixels, the same for both sides."""
    import numpy as np

    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 0.7 * side, (count, BOXES, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0.05 * side, 0.3 * side, (count, BOXES, 2))], -1)
    return generator.uniform(size=(count, side, side, 3)).astype(np.float32), boxes.astype(np.float32)


def ours() -> dict[str, Callable[[], None]]:
    """Our jobs."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.data.augment.boxes import BoxAugmentConfig, box_augment
    from vision.data.detection import DetectionConfig, detection_source
    from vision.data.pipeline import batches
    from vision.models.yolo import YOLO_N, Yolo
    from vision.ops.pixels import to_float
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.tasks.detection import DetectionLossConfig, DetectorConfig, detection_loss, detector
    from vision.train.compile import Compiler
    from vision.train.state import create_state
    from vision.train.step import gradient

    compiler = Compiler(make_mesh(MeshConfig()))
    model = replace(YOLO_N, classes=CLASSES)
    network, optimizer = Yolo(model), optax.sgd(1e-4, momentum=0.9, nesterov=True)
    chosen = DetectorConfig(confidence=0.0, iou=0.55, max_detections=MOST, candidates=CANDIDATES)

    def init(key):
        made = network.init(key, jnp.zeros((1, 64, 64, 3)), train=False)
        rest = {"batch_stats": made["batch_stats"]}
        return create_state(params=made["params"], optimizer=optimizer, key=key, model_state=rest)

    step = compiler.step(gradient(detection_loss(network, model, DetectionLossConfig()), optimizer), init, shapes=4)
    detect = detector(network, model, chosen)
    find = compiler.function(lambda state, x: detect({"params": state.params, **state.model_state}, x))

    def jobs(side, count):
        state = compiler.init(init, key=jax.random.key(0))
        images, boxes = random_batch(side, count)
        labels = np.arange(count * BOXES, dtype=np.int32).reshape(count, BOXES) % CLASSES
        fields = {"image": 2 * images - 1, "boxes": boxes, "labels": labels, "valid": np.ones((count, BOXES), bool)}
        batch = compiler.shard(fields)

        def train():
            nonlocal state
            state, _ = step(state, batch)
            jax.block_until_ready(state)

        return {
            f"inference, {side} pixels, batch {count}": lambda: jax.block_until_ready(find(state, batch["image"])),
            f"training, {side} pixels, batch {count}": train,
        }

    config = DetectionConfig(
        name="coco",
        dir=folder_of_images(),
        train_json="train.json",
        train_images="images",
        resolution=320,
    )
    stream = batches(detection_source(config, "train"), batch_size=16, seed=0)
    sample = {name: jnp.asarray(value) for name, value in next(stream).items() if name != "index"}
    augmented = compiler.function(
        lambda batch, key: box_augment({**batch, "image": to_float(batch["image"])}, BoxAugmentConfig(), key=key)
    )

    made: dict[str, Callable[[], None]] = {}
    for side, count in SIZES:
        made.update(jobs(side, count))
    made["mosaics, 320 pixels, batch 16"] = lambda: jax.block_until_ready(augmented(sample, jax.random.key(0)))
    return made


def theirs() -> dict[str, Callable[[], None]]:
    """The same jobs with torchvision."""
    import torch  # pyright: ignore[reportMissingImports]

    def suppress(boxes, scores, threshold):
        """Greedy suppression with vectorised overlaps."""
        order = scores.argsort(descending=True)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        kept = []
        while len(order):
            first, order = order[0], order[1:]
            kept.append(first)
            low, high = (
                torch.maximum(boxes[first, :2], boxes[order, :2]),
                torch.minimum(boxes[first, 2:], boxes[order, 2:]),
            )
            shared = (high - low).clamp(min=0).prod(1)
            order = order[shared / (area[first] + area[order] - shared) <= threshold]
        return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
    import torchvision  # pyright: ignore[reportMissingImports]

    if not torchvision.extension._has_ops():
        torchvision.ops.boxes.nms = suppress
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large  # pyright: ignore[reportMissingImports]
    from torchvision.models.detection.transform import GeneralizedRCNNTransform  # pyright: ignore[reportMissingImports]

    def jobs(side, count):
        model = ssdlite320_mobilenet_v3_large(
            weights=None,
            weights_backbone=None,
            num_classes=1 + CLASSES,
            score_thresh=0.0,
            topk_candidates=CANDIDATES // CLASSES,
            detections_per_img=MOST,
        )
        model.transform = GeneralizedRCNNTransform(
            side, side, [0.5] * 3, [0.5] * 3, size_divisible=1, fixed_size=(side, side)
        )
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
        images, boxes = random_batch(side, count)
        images = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        labels = 1 + torch.arange(BOXES) % CLASSES
        targets = [{"boxes": torch.from_numpy(each), "labels": labels} for each in boxes]

        def train():
            model.train()
            loss = torch.stack(list(model(images, targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        @torch.no_grad()
        def use():
            model.eval()
            model(images)

        return {f"inference, {side} pixels, batch {count}": use, f"training, {side} pixels, batch {count}": train}

    made: dict[str, Callable[[], None]] = {}
    for side, count in SIZES:
        made.update(jobs(side, count))
    return made


if __name__ == "__main__":
    measured = {1: 7, 16: 3}
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            *(
                # SSDLite's normalisation cannot train on one image, which has one pixel in its last level
                Job(
                    f"{kind}, {side} pixels, batch {count}",
                    count,
                    measured[count],
                    alone=kind == "training" and count == 1,
                )
                for kind in ("inference", "training")
                for side, count in SIZES
            ),
            Job("mosaics, 320 pixels, batch 16", 16, 9, alone=True),
        ],
    )
