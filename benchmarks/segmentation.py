"""Speed and memory of DeepLabV3 on a ResNet-50 against torchvision's, and of the data that it is trained on.

The same networks of 21 classes (parameter counts checked on both sides), the same batches, the same machine, one run,
in pairs (``pairs.py``). Both use all cores; PyTorch runs eagerly in channels-last. Peak memory is the largest resident
set of each process, over all jobs so far.

    pip install -e .                                                          # this project
    python -m venv torch-env && torch-env/bin/pip install torch torchvision   # for comparison
    python benchmarks/segmentation.py --torch-python torch-env/bin/python

Training: forward, cross-entropy of every pixel, backward, SGD with momentum, float32, 4 images of 256x256; with the
auxiliary head its cross-entropy counts 0.4. Inference: logits of every pixel of 2 images of 520x520.

Ours alone: the augmentation of images and masks, which is part of the step, at the size and the batch of training; and
a folder of 64 JPEGs of 500x375 with masks as PNG files, each read, decoded and reduced to a canvas of 256x256.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pairs import Job, Jobs, compare, when_asked

CLASSES = 21
TRAIN_BATCH, TRAIN_SIDE = 4, 256
TEST_BATCH, TEST_SIDE = 2, 520
SIZES = ((TRAIN_BATCH, TRAIN_SIDE), (TEST_BATCH, TEST_SIDE))
AUXILIARY = 0.4
NETWORKS = {"DeepLabV3": (False, 39_638_869), "DeepLabV3 with auxiliary head": (True, 42_004_074)}
"""Whether there is an auxiliary head, and the number of parameters."""
KINDS = ("training", "inference")
FILES, HEIGHT, WIDTH = 64, 375, 500
PLACE = Path(tempfile.gettempdir()) / "benchmark-segmentation"


def folder_of_masks() -> Path:
    """Images with the spectrum of photographs (amplitude 1 / frequency), and masks of their blurred levels."""
    import numpy as np
    from PIL import Image

    if not (PLACE / ".done").exists():
        generator = np.random.default_rng(0)
        frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]) + 1 / WIDTH
        for folder in ("images", "masks"):
            (PLACE / "train" / folder).mkdir(parents=True, exist_ok=True)
        for index in range(FILES):
            noise = np.fft.rfft2(generator.normal(size=(3, HEIGHT, WIDTH)))
            image = np.fft.irfft2(noise / frequency, (HEIGHT, WIDTH)).transpose(1, 2, 0)
            pixels = np.clip(128 + 60 * image / image.std(), 0, 255).astype(np.uint8)
            smooth = np.fft.irfft2(noise[0] / frequency**2, (HEIGHT, WIDTH))
            levels = np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, CLASSES + 1)[1:-1])).astype(np.uint8)
            Image.fromarray(pixels).save(PLACE / "train" / "images" / f"{index}.jpg", quality=90)
            Image.fromarray(levels).save(PLACE / "train" / "masks" / f"{index}.png")
        (PLACE / "classes.txt").write_text("".join(f"level {label}\n" for label in range(CLASSES)))
        (PLACE / ".done").touch()
    return PLACE


def ours() -> Jobs:
    """Our jobs."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.data.annotations.index_masks import VOID
    from vision.data.augment.masks import MaskAugmentConfig, mask_augment
    from vision.data.pipeline import batches
    from vision.data.semantic import SemanticConfig, semantic_source
    from vision.models.resnet import RESNET50, ResNet
    from vision.models.segmentation.segmenter import Segmenter
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.tasks.segmentation import SegmentationLossConfig, segmentation_loss
    from vision.train.compile import Compiler
    from vision.train.state import network_state
    from vision.train.step import gradient

    compiler = Compiler(make_mesh(MeshConfig()))
    optimizer = optax.sgd(0.01, momentum=0.9)
    generator = np.random.default_rng(0)
    images = {side: generator.normal(size=(n, side, side, 3)).astype(np.float32) for n, side in SIZES}
    truth = generator.integers(0, CLASSES, (TRAIN_BATCH, TRAIN_SIDE, TRAIN_SIDE)).astype(np.int32)

    def jobs(auxiliary, parameters):
        backbone = partial(ResNet, replace(RESNET50, output_stride=8))
        model = Segmenter(backbone, classes=CLASSES, auxiliary=auxiliary)

        def init(key):
            made = model.init(key, jnp.zeros((1, TRAIN_SIDE, TRAIN_SIDE, 3)), train=False)
            return network_state(made, optimizer=optimizer, key=key, averages=())

        state = compiler.init(init, key=jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters
        loss = segmentation_loss(model, SegmentationLossConfig(auxiliary=AUXILIARY), classes=CLASSES, ignore=VOID)
        step = compiler.step(gradient(loss, optimizer), init)
        batch = compiler.shard({"image": images[TRAIN_SIDE], "semantic": truth})
        tested = compiler.shard({"image": images[TEST_SIDE]})["image"]

        @compiler.function
        def forward(state, x):
            found: Any = model.apply({"params": state.params, **state.model_state}, x, train=False)
            return found.logits

        def train():
            nonlocal state
            state, _ = step(state, batch)
            jax.block_until_ready(state)

        return {"training": train, "inference": lambda: jax.block_until_ready(forward(state, tested))}

    sample = compiler.shard(
        {
            "image": np.clip(images[TRAIN_SIDE], -1, 1),
            "semantic": truth,
            "size": np.full((TRAIN_BATCH, 2), TRAIN_SIDE, np.int32),
        }
    )
    augmented = compiler.function(
        lambda sample, key: mask_augment(
            sample, MaskAugmentConfig(), size=(TRAIN_SIDE, TRAIN_SIDE), fill=(0.0, 0.0, 0.0), key=key
        )
    )
    folder = SemanticConfig(name="folder", dir=folder_of_masks(), height=TRAIN_SIDE, width=TRAIN_SIDE, stream=True)
    source = semantic_source(folder, "train")

    def read():
        stream = batches(source, batch_size=TRAIN_BATCH, seed=0)
        for _ in range(FILES // TRAIN_BATCH):
            jax.block_until_ready(jnp.asarray(next(stream)["image"]))
        stream.close()

    return {
        **when_asked({name: partial(jobs, *each) for name, each in NETWORKS.items()}, KINDS),
        "augmentation": lambda: jax.block_until_ready(augmented(sample, jax.random.key(0))),
        "reading": read,
    }


def theirs() -> Jobs:
    """The same jobs with torchvision."""
    import torch  # pyright: ignore[reportMissingImports]

    library = torch.library.Library("torchvision", "DEF")  # its compiled operators may be missing, and are not used
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
    from torchvision.models.segmentation import deeplabv3_resnet50  # pyright: ignore[reportMissingImports]

    images = {side: torch.randn(n, 3, side, side).contiguous(memory_format=torch.channels_last) for n, side in SIZES}
    truth = torch.randint(0, CLASSES, (TRAIN_BATCH, TRAIN_SIDE, TRAIN_SIDE))

    def jobs(auxiliary, parameters):
        model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=auxiliary)
        assert sum(p.numel() for p in model.parameters()) == parameters
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        entropy = partial(torch.nn.functional.cross_entropy, ignore_index=255)

        def train():
            model.train()
            found = model(images[TRAIN_SIDE])
            loss = entropy(found["out"], truth)
            if auxiliary:
                loss = loss + AUXILIARY * entropy(found["aux"], truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        @torch.no_grad()
        def use():
            model.eval()
            model(images[TEST_SIDE])

        return {"training": train, "inference": use}

    return when_asked({name: partial(jobs, *each) for name, each in NETWORKS.items()}, KINDS)


if __name__ == "__main__":
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            *(Job(f"{name} training", TRAIN_BATCH, 5) for name in NETWORKS),
            *(Job(f"{name} inference", TEST_BATCH, 5) for name in NETWORKS),
            Job("augmentation", TRAIN_BATCH, 5, alone=True),
            Job("reading", FILES, 5, alone=True),
        ],
    )
