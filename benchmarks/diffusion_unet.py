"""Speed and memory of the CIFAR-10 diffusion UNet against diffusers' ``UNet2DModel`` under PyTorch.

The same network (35,746,307 parameters, checked on both sides), the same batch, the same machine, one run. Two worker
processes, one per framework, are measured in pairs (``pairs.py``).

    pip install -e .                                                     # this project
    python -m venv torch-env && torch-env/bin/pip install torch diffusers   # for comparison
    python benchmarks/diffusion_unet.py --torch-python torch-env/bin/python

Training: forward, backward, clipping at norm 1, Adam, batch 16, dropout 0.1, float32. Sampling: DDIM, 50 steps,
eta 0, batch 8. Both use all cores. PyTorch runs eagerly, in channels-last or in its default layout, whichever is faster
in a first trial. Peak memory is the largest resident set of each process.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pairs import Job, compare

PARAMETERS = 35_746_307
TRAIN_BATCH, SAMPLE_BATCH, STEPS = 16, 8, 50


def ours() -> dict[str, Callable[[], None]]:
    """One training step and one sampling run of this project."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.diffusion.conditions import Conditioning
    from vision.diffusion.schedules import linear
    from vision.models.unet import UNet, UNetConfig
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.tasks.diffusion import DiffusionConfig, SamplingConfig, diffusion_loss, sampler
    from vision.train.compile import Compiler
    from vision.train.state import create_state
    from vision.train.step import gradient

    model, schedule, config = UNet(UNetConfig()), linear(), DiffusionConfig()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4))

    def init(key):
        time = jnp.zeros((1,), jnp.int32)
        params = model.init(key, jnp.zeros((1, 32, 32, 3)), time, train=False)["params"]
        return create_state(params=params, optimizer=optimizer, key=key)

    compiler = Compiler(make_mesh(MeshConfig()))
    state = compiler.init(init, key=jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == PARAMETERS
    step = compiler.step(
        gradient(diffusion_loss(model, config, schedule, conditioning=Conditioning({})), optimizer), init
    )
    images = np.random.default_rng(0).uniform(-1, 1, (TRAIN_BATCH, 32, 32, 3)).astype(np.float32)
    batch = compiler.shard({"image": images})
    generate = sampler(
        model,
        config,
        schedule,
        SamplingConfig(steps=STEPS),
        conditioning=Conditioning({}),
        image_shape=(32, 32, 3),
    )
    compiled = compiler.function(lambda params, index, key: generate({"params": params}, {}, index, key))
    index = jnp.arange(SAMPLE_BATCH)

    def train() -> None:
        nonlocal state
        state, _ = step(state, batch)
        jax.block_until_ready(state)

    def sample() -> None:
        jax.block_until_ready(compiled(step.merged(state).params, index, jax.random.key(0)))

    return {"train": train, "sample": sample}


def theirs() -> dict[str, Callable[[], None]]:
    """The same jobs with diffusers."""
    import torch  # pyright: ignore[reportMissingImports]
    from diffusers import DDIMScheduler, UNet2DModel  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=1,
        dropout=0.1,
    )
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    images = torch.rand(TRAIN_BATCH, 3, 32, 32) * 2 - 1
    layout = torch.contiguous_format

    def train() -> None:
        model.train()
        noise = torch.randn_like(images)
        time = torch.randint(0, 1000, (TRAIN_BATCH,))
        noisy = scheduler.add_noise(images, noise, time).contiguous(memory_format=layout)
        loss = torch.nn.functional.mse_loss(model(noisy, time).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def sample() -> None:
        model.eval()
        image = torch.randn(SAMPLE_BATCH, 3, 32, 32).contiguous(memory_format=layout)
        for t in scheduler.timesteps:
            image = scheduler.step(model(image, t).sample, t, image, eta=0.0).prev_sample

    def seconds() -> float:
        train()
        started = time.perf_counter()
        train()
        return time.perf_counter() - started

    plain = seconds()
    layout = torch.channels_last
    model.to(memory_format=layout)
    if seconds() > plain:
        layout = torch.contiguous_format
        model.to(memory_format=layout)
    return {"train": train, "sample": sample}


if __name__ == "__main__":
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[Job("train", TRAIN_BATCH, 7), Job("sample", SAMPLE_BATCH, 3)],
    )
