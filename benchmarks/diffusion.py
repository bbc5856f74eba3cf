"""Speed and memory of diffusion networks against those of diffusers under PyTorch.

The published CIFAR-10 UNet against ``UNet2DModel``, 35,746,307 parameters, and DiT-S/2 on 32x32 pixels with ten classes
against ``DiTTransformer2DModel``, 32,475,660 parameters and in diffusers 2,758,272 more, since it gives each block a
time and class embedding of its own. The same batch, the same machine, one run. Two worker processes, one per
framework, are measured in pairs (``pairs.py``).

    pip install -e .                                                     # this project
    python -m venv torch-env && torch-env/bin/pip install torch diffusers   # for comparison
    python benchmarks/diffusion.py --torch-python torch-env/bin/python

Training: forward, backward, clipping at norm 1, Adam, batch 16, float32, dropout 0.1 in the UNet. Sampling: DDIM, 50
steps, eta 0, batch 8. Both use all cores. PyTorch runs eagerly, the UNet in channels-last or in its default layout,
whichever is faster in a first trial. Peak memory is the largest resident set of each process, over all jobs so far.
"""

import time
from functools import partial
from pathlib import Path

from pairs import Job, Jobs, compare, when_asked

UNET_PARAMETERS, DIT_PARAMETERS, DIT_EMBEDDINGS = 35_746_307, 32_475_660, 2_758_272
KINDS = ("training", "50-step DDIM")
CLASSES, TRAIN_BATCH, SAMPLE_BATCH, STEPS = 10, 16, 8, 50


def ours() -> Jobs:
    """A training step and a sampling run of each network."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.diffusion.conditions import Conditioning
    from vision.diffusion.schedules import linear
    from vision.models.dit import DiT, DiTConfig
    from vision.models.unet import UNet, UNetConfig
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.tasks.diffusion import DiffusionConfig, diffusion_loss
    from vision.tasks.sampling import SamplingConfig, sampler
    from vision.train.compile import Compiler
    from vision.train.state import create_state
    from vision.train.step import gradient

    schedule, config = linear(), DiffusionConfig()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4))
    compiler = Compiler(make_mesh(MeshConfig()))
    random = np.random.default_rng(0)

    def jobs(model, classes, parameters):
        conditioning = Conditioning({"label": classes} if classes else {})
        label = lambda count: {"label": np.arange(count, dtype=np.int32) % classes} if classes else {}

        def init(key):
            inputs = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,), jnp.int32), label(1)
            params = model.init(key, *inputs, train=False)["params"]
            return create_state(params=params, optimizer=optimizer, key=key)

        state = compiler.init(init, key=jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters
        step = compiler.step(
            gradient(diffusion_loss(model, config, schedule, conditioning=conditioning), optimizer), init
        )
        images = random.uniform(-1, 1, (TRAIN_BATCH, 32, 32, 3)).astype(np.float32)
        batch = compiler.shard({"image": images, **label(TRAIN_BATCH)})
        generate = sampler(
            model,
            config,
            schedule,
            SamplingConfig(steps=STEPS),
            conditioning=conditioning,
            image_shape=(32, 32, 3),
        )
        compiled = compiler.function(lambda params, *of: generate({"params": params}, *of))
        condition, index = label(SAMPLE_BATCH), jnp.arange(SAMPLE_BATCH)

        def train() -> None:
            nonlocal state
            state, _ = step(state, batch)
            jax.block_until_ready(state)

        def sample() -> None:
            jax.block_until_ready(compiled(step.merged(state).params, condition, index, jax.random.key(0)))

        return {KINDS[0]: train, KINDS[1]: sample}

    makers = {
        "UNet": partial(jobs, UNet(UNetConfig()), 0, UNET_PARAMETERS),
        "DiT-S/2": partial(jobs, DiT(DiTConfig(classes=CLASSES)), CLASSES, DIT_PARAMETERS),
    }
    return when_asked(makers, KINDS)


def theirs() -> Jobs:
    """The same jobs with diffusers."""
    import torch  # pyright: ignore[reportMissingImports]
    from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(STEPS)

    def jobs(model, parameters, predict):
        assert sum(p.numel() for p in model.parameters()) == parameters
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
        images = torch.rand(TRAIN_BATCH, 3, 32, 32) * 2 - 1
        layout = torch.contiguous_format

        def train() -> None:
            model.train()
            noise = torch.randn_like(images)
            time = torch.randint(0, 1000, (TRAIN_BATCH,))
            noisy = scheduler.add_noise(images, noise, time).contiguous(memory_format=layout)
            loss = torch.nn.functional.mse_loss(predict(noisy, time), noise)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        @torch.no_grad()
        def sample() -> None:
            model.eval()
            image = torch.randn(SAMPLE_BATCH, 3, 32, 32).contiguous(memory_format=layout)
            for t in scheduler.timesteps:
                image = scheduler.step(predict(image, t.expand(SAMPLE_BATCH)), t, image, eta=0.0).prev_sample

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
        return {KINDS[0]: train, KINDS[1]: sample}

    unet = UNet2DModel(
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
    dit = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=3,
        out_channels=3,
        num_layers=12,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
    label = lambda x: torch.arange(len(x)) % CLASSES
    makers = {
        "UNet": partial(jobs, unet, UNET_PARAMETERS, lambda x, time: unet(x, time).sample),
        "DiT-S/2": partial(
            jobs,
            dit,
            DIT_PARAMETERS + DIT_EMBEDDINGS,
            lambda x, time: dit(x, timestep=time, class_labels=label(x)).sample,
        ),
    }
    return when_asked(makers, KINDS)


if __name__ == "__main__":
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            Job(f"{name} {job}", images, pairs)
            for name in ("UNet", "DiT-S/2")
            for job, images, pairs in zip(KINDS, (TRAIN_BATCH, SAMPLE_BATCH), (7, 3), strict=True)
        ],
    )
