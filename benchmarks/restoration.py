"""Speed and memory of the baseline EDSR against the same network in PyTorch.

Lim et al. 2017, scales of 2 and 3: 16 blocks of 64 channels (parameter counts checked on both sides), the same
batches, the same machine, one run, in pairs (``pairs.py``). Both use all cores; PyTorch runs eagerly in channels-last.
Peak memory is the largest resident set of each process, over all jobs so far.

    pip install -e .                                              # this project
    python -m venv torch-env && torch-env/bin/pip install torch   # for comparison
    python benchmarks/restoration.py --torch-python torch-env/bin/python

Training: forward, mean absolute error, backward, Adam, float32, 8 crops that become 96x96. Inference: 2 images of
128x128 enlarged. Ours alone: the reduction of 8 crops of 96x96 by MATLAB's bicubic kernel, which is part of a training
step; and a photograph of 512x384 enlarged in tiles of 192 pixels.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pairs import Job, Jobs, compare, when_asked

TRAIN_BATCH, TARGET_SIDE = 8, 96
TEST_BATCH, TEST_SIDE = 2, 128
HEIGHT, WIDTH = 384, 512
NETWORKS = {"EDSR-baseline x2": (2, 1_369_859), "EDSR-baseline x3": (3, 1_554_499)}
"""Scale, and the number of parameters."""
KINDS = ("training", "inference")


def ours() -> Jobs:
    """Our jobs."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.models.restoration.edsr import EDSR_BASELINE, Edsr
    from vision.ops.imresize import imresize
    from vision.ops.tiling import TilingConfig, tiled
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.tasks.restoration import RestorationLossConfig, restoration_loss
    from vision.train.compile import Compiler
    from vision.train.state import network_state
    from vision.train.step import gradient

    compiler = Compiler(make_mesh(MeshConfig()))
    optimizer = optax.adam(1e-4)
    generator = np.random.default_rng(0)
    uniform = lambda *shape: generator.uniform(size=shape).astype(np.float32)

    def jobs(scale: int, parameters: int) -> dict[str, Callable[[], object]]:
        model = Edsr(replace(EDSR_BASELINE, scale=scale))
        small = TARGET_SIDE // scale

        def init(key):
            made = model.init(key, jnp.zeros((1, small, small, 3)), train=False)
            return network_state(made, optimizer=optimizer, key=key, averages=())

        state = compiler.init(init, key=jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters
        step = compiler.step(gradient(restoration_loss(model, RestorationLossConfig()), optimizer), init)
        batch = compiler.shard(
            {
                "image": uniform(TRAIN_BATCH, small, small, 3),
                "target": uniform(TRAIN_BATCH, TARGET_SIDE, TARGET_SIDE, 3),
            }
        )
        tested = compiler.shard({"image": uniform(TEST_BATCH, TEST_SIDE, TEST_SIDE, 3)})["image"]
        forward: Any = compiler.function(lambda state, x: model.apply({"params": state.params}, x, train=False))

        def train():
            nonlocal state
            state, _ = step(state, batch)
            jax.block_until_ready(state)

        return {"training": train, "inference": lambda: jax.block_until_ready(forward(state, tested))}

    whole = compiler.shard({"image": uniform(TRAIN_BATCH, TARGET_SIDE, TARGET_SIDE, 3)})["image"]
    halved: Any = compiler.function(lambda images: imresize(images, 0.5))
    enlarging = Edsr(EDSR_BASELINE)
    photograph = uniform(1, HEIGHT, WIDTH, 3)
    variables = enlarging.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    enlarge: Any = compiler.function(lambda images: enlarging.apply(variables, images, train=False))
    return {
        **when_asked({name: partial(jobs, *each) for name, each in NETWORKS.items()}, KINDS),
        "reduction": lambda: jax.block_until_ready(halved(whole)),
        "tiles": lambda: tiled(enlarge, photograph, TilingConfig(tile=192), scale=2),
    }


def theirs() -> Jobs:
    """The same network in PyTorch, from the paper's section 3."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))

        def forward(self, x):
            return x + self.branch(x)

    class TorchEdsr(nn.Module):
        def __init__(self, scale: int):
            super().__init__()
            self.first = nn.Conv2d(3, 64, 3, padding=1)
            self.body = nn.Sequential(*(Block() for _ in range(16)), nn.Conv2d(64, 64, 3, padding=1))
            self.enlarge = nn.Sequential(nn.Conv2d(64, 64 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
            self.last = nn.Conv2d(64, 3, 3, padding=1)

        def forward(self, x):
            x = self.first(x)
            return self.last(self.enlarge(x + self.body(x)))

    last = lambda x: x.contiguous(memory_format=torch.channels_last)

    def jobs(scale: int, parameters: int) -> dict[str, Callable[[], object]]:
        model = TorchEdsr(scale).to(memory_format=torch.channels_last)
        assert sum(p.numel() for p in model.parameters()) == parameters
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        small = TARGET_SIDE // scale
        image, target = torch.rand(TRAIN_BATCH, 3, small, small), torch.rand(TRAIN_BATCH, 3, TARGET_SIDE, TARGET_SIDE)
        image, target, tested = last(image), last(target), last(torch.rand(TEST_BATCH, 3, TEST_SIDE, TEST_SIDE))

        def train():
            loss = torch.nn.functional.l1_loss(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        @torch.no_grad()
        def use():
            model(tested)

        return {"training": train, "inference": use}

    return when_asked({name: partial(jobs, *each) for name, each in NETWORKS.items()}, KINDS)


if __name__ == "__main__":
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            *(Job(f"{name} training", TRAIN_BATCH, 7) for name in NETWORKS),
            *(Job(f"{name} inference", TEST_BATCH, 7) for name in NETWORKS),
            Job("reduction", TRAIN_BATCH, 7, alone=True),
            Job("tiles", 1, 3, alone=True),
        ],
    )
