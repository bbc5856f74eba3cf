"""Overhead of samplers over the network they evaluate, and diffusion networks against those of diffusers under PyTorch.

Samplers of the published CIFAR-10 UNet (35,746,307 parameters), 20 evaluations an image (19 of Heun's method), batch 8,
against the schedulers of diffusers with equal weights, which are random: our side writes them as a folder of diffusers,
and the other reads it. Training steps, batch 16, Adam: DiT-S/2 with ten classes and the loss of Ho et al. 2020; a UNet
of ADM's form, which diffusers has too, with the loss of EDM (Karras et al. 2022), preconditioned, of log-normal sigma.

    pip install -e .                                                     # this project
    python -m venv torch-env && torch-env/bin/pip install torch diffusers   # for comparison
    python benchmarks/samplers.py --torch-python torch-env/bin/python
    python benchmarks/samplers.py --torch-python torch-env/bin/python --small   # tiny networks, to try the benchmark

Medians of pairs of calls in one run (``pairs.py``). PyTorch runs eagerly, UNets in channels-last or in the default
layout, whichever is faster in a first trial.

The second table has only our side: each sampler with the network of ``diffusion_cifar --quick`` over "network", as many
evaluations of it in one scan, each of what the one before returned, with nothing in between.
"""

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

from pairs import Job, Jobs, compare, when_asked

CLASSES, TRAIN_BATCH, SAMPLE_BATCH, EVALUATIONS, SIDE = 10, 16, 8, 20, 32
METHODS = {"DDIM": "ddim", "Euler": "ddim", "Heun": "heun", "DPM-Solver++": "dpm_solver", "UniPC": "unipc"}
"""Name of a job -> sampler; Euler's method on the probability-flow equation is DDIM, and two schedulers there."""
QUICK_METHODS = ("ddim", "ancestral", "heun", "dpm_solver", "dpm_solver_sde", "unipc")
KINDS = ("training", "forward")


def folder_of(network: str, small: bool) -> Path:
    """Where our side writes the weights of a network, which both have."""
    return Path(tempfile.gettempdir()) / f"benchmark-samplers{'-small' if small else ''}" / network


def ours(small: bool) -> Jobs:
    """Samplers of the UNet, training steps, forward passes, and samplers of the quick network."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.diffusion.conditions import label_conditioning
    from vision.models.dit import DiTConfig
    from vision.models.unet import ADM_64, UNetConfig
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.recipes.diffusion_networks import SMALL_UNET, diffusion_network
    from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, make_process
    from vision.tasks.sampling import SamplingConfig, make_plan, sampler
    from vision.train.compile import Compiler
    from vision.train.state import create_state
    from vision.train.step import gradient

    compiler = Compiler(make_mesh(MeshConfig()))
    random = np.random.default_rng(0)
    tiny = {"width": 32, "multipliers": (1, 2), "blocks": 1, "groups": 8} if small else {}
    adm = replace(ADM_64, width=128, multipliers=(1, 2, 2), blocks=2, attention=(16, 8), classes=0, null_label=True)
    configs = {
        "UNet": replace(UNetConfig(dropout=0.0), **tiny),
        "DiT-S/2": DiTConfig(classes=CLASSES, depth=1 if small else 12),
        "ADM": replace(adm, **tiny),
    }
    shape = (SIDE, SIDE, 3)
    label = lambda config, count: {"label": np.arange(count, dtype=np.int32) % config.classes} if config.classes else {}

    def parts(config):
        """The network, and random parameters, none of which is 0."""
        network = diffusion_network(config, shape)
        inputs = jnp.zeros((1, *shape)), jnp.zeros((1,)), label(config, 1)
        shapes = jax.eval_shape(lambda: network.module.init(jax.random.key(0), *inputs, train=False))
        normal = np.random.default_rng(0)
        return network, jax.tree.map(lambda x: normal.normal(0, 0.02, x.shape).astype(np.float32), shapes["params"])

    def written(name):
        network, params = parts(configs[name])
        folder = folder_of(name, small)
        shutil.rmtree(folder, ignore_errors=True)
        assert network.folder is not None
        network.folder.write(folder, {"params": params})
        return network.module, params

    def samplers(config, module, params, methods):
        """A job for each sampler, of as many evaluations as fit."""
        process = make_process(DiffusionConfig())
        placed = compiler.replicate(params)
        condition, index = label(config, SAMPLE_BATCH), jnp.arange(SAMPLE_BATCH)

        def job(method):
            steps = EVALUATIONS // 2 if method == "heun" else EVALUATIONS
            sample = sampler(
                module,
                DiffusionConfig(),
                process,
                SamplingConfig(method=method, steps=steps),
                conditioning=label_conditioning(config.classes),
                image_shape=shape,
            )
            call = compiler.function(lambda params, *of: sample({"params": params}, *of))
            return lambda: jax.block_until_ready(call(placed, condition, index, jax.random.key(0)))

        def bare(evaluations):
            times = jnp.linspace(999.0, 0.0, evaluations)

            def call(params, condition, x):
                network = lambda x, time: module.apply(
                    {"params": params}, x, jnp.full(len(x), time), condition, train=False
                )
                return jax.lax.scan(lambda x, time: (network(x, time), None), x, times)[0]

            compiled = compiler.function(call)
            start = random.normal(size=(SAMPLE_BATCH, *shape)).astype(np.float32)
            return lambda: jax.block_until_ready(compiled(placed, condition, start))

        made = {name: job(method) for name, method in methods.items()}
        count = lambda method, steps: make_plan(process, SamplingConfig(method=method, steps=steps)).evaluations
        assert count("heun", EVALUATIONS // 2) == EVALUATIONS - 1
        return {**made, "network": bare(EVALUATIONS), "network, one less": bare(EVALUATIONS - 1)}

    def training(name, diffusion):
        config = configs[name]
        module, params = written(name)
        optimizer = optax.adam(1e-4)
        loss = diffusion_loss(
            module, diffusion, make_process(diffusion), conditioning=label_conditioning(config.classes)
        )
        init = lambda key: create_state(params=jax.tree.map(jnp.asarray, params), optimizer=optimizer, key=key)
        state = compiler.init(init, key=jax.random.key(0))
        step = compiler.step(gradient(loss, optimizer), init)
        images = random.uniform(-1, 1, (TRAIN_BATCH, *shape)).astype(np.float32)
        batch = compiler.shard({"image": images, **label(config, TRAIN_BATCH)})
        time_of = compiler.shard_padded(np.full(TRAIN_BATCH, 500.0, np.float32))
        placed = compiler.replicate(params)
        forward = compiler.function(
            lambda params, batch, time: module.apply(
                {"params": params}, batch["image"], time, {k: v for k, v in batch.items() if k != "image"}, train=False
            )
        )

        def train() -> None:
            nonlocal state
            state, _ = step(state, batch)
            jax.block_until_ready(state)

        return {"training": train, "forward": lambda: jax.block_until_ready(forward(placed, batch, time_of))}

    quick = replace(SMALL_UNET, width=16) if small else SMALL_UNET

    def of_quick():
        network, params = parts(quick)
        return samplers(quick, network.module, params, {method: method for method in QUICK_METHODS})

    edm = DiffusionConfig(schedule="edm", prediction="edm", times="log_normal")
    return {
        **when_asked({"UNet": lambda: samplers(configs["UNet"], *written("UNet"), METHODS)}, tuple(METHODS)),
        **when_asked(
            {"DiT-S/2": partial(training, "DiT-S/2", DiffusionConfig()), "ADM": partial(training, "ADM", edm)}, KINDS
        ),
        **when_asked({"quick": of_quick}, (*QUICK_METHODS, "network", "network, one less")),
    }


def theirs(small: bool) -> Jobs:
    """The same with diffusers; a network is read when its first job runs, after ours was."""
    import diffusers  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    read = lambda kind, name: getattr(diffusers, kind).from_pretrained(folder_of(name, small))

    def in_faster_layout(model, train):
        """The layout of images and weights in which two calls of ``train`` take less time."""

        def seconds(layout):
            model.to(memory_format=layout)
            train(layout)
            started = time.perf_counter()
            train(layout)
            return time.perf_counter() - started

        layouts = (torch.channels_last, torch.contiguous_format)
        layout = min(layouts, key=seconds)
        model.to(memory_format=layout)
        return layout

    def samplers():
        model = read("UNet2DModel", "UNet").eval()
        betas = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
        kinds = {
            "DDIM": diffusers.DDIMScheduler,
            "Euler": diffusers.EulerDiscreteScheduler,
            "Heun": diffusers.HeunDiscreteScheduler,
            "DPM-Solver++": diffusers.DPMSolverMultistepScheduler,
            "UniPC": diffusers.UniPCMultistepScheduler,
        }

        @torch.no_grad()
        def sample(kind, layout, steps=None):
            scheduler = kind(**betas)
            scheduler.set_timesteps(steps or (EVALUATIONS // 2 if kind is kinds["Heun"] else EVALUATIONS))
            image = torch.randn(SAMPLE_BATCH, 3, SIDE, SIDE).contiguous(memory_format=layout)
            image = image * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                seen = scheduler.scale_model_input(image, t)
                output = model(seen, t.expand(SAMPLE_BATCH)).sample
                image = scheduler.step(output, t, image).prev_sample

        layout = in_faster_layout(model, lambda layout: sample(kinds["DDIM"], layout, 2))
        return {name: partial(sample, kind, layout) for name, kind in kinds.items()}

    def training(model, predict, loss):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        images = torch.rand(TRAIN_BATCH, 3, SIDE, SIDE) * 2 - 1

        def train(layout) -> None:
            model.train()
            value = loss(images.contiguous(memory_format=layout))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        layout = in_faster_layout(model, train)

        @torch.no_grad()
        def forward() -> None:
            model.eval()
            predict(images.contiguous(memory_format=layout), torch.full((TRAIN_BATCH,), 500.0))

        return {"training": lambda: train(layout), "forward": forward}

    def dit():
        model = read("DiTTransformer2DModel", "DiT-S/2")
        label = torch.arange(TRAIN_BATCH) % CLASSES
        predict = lambda x, time: model(x, timestep=time, class_labels=label).sample
        scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)

        def loss(image):
            noise, time = torch.randn_like(image), torch.randint(0, 1000, (TRAIN_BATCH,))
            return torch.nn.functional.mse_loss(predict(scheduler.add_noise(image, noise, time), time), noise)

        return training(model, predict, loss)

    def adm():
        model = read("UNet2DModel", "ADM")
        predict = lambda x, time: model(x, time).sample

        def loss(image):
            # Karras et al. 2022, equation 8 and table 1
            sigma = torch.exp(torch.randn(TRAIN_BATCH, 1, 1, 1) * 1.2 - 1.2)
            deviation = 0.5
            total = torch.sqrt(sigma**2 + deviation**2)
            noisy = image + sigma * torch.randn_like(image)
            target = (image - deviation**2 / total**2 * noisy) * total / (sigma * deviation)
            return torch.nn.functional.mse_loss(predict(noisy / total, torch.log(sigma[:, 0, 0, 0]) / 4), target)

        return training(model, predict, loss)

    return {
        **when_asked({"UNet": samplers}, tuple(METHODS)),
        **when_asked({"DiT-S/2": dit, "ADM": adm}, KINDS),
    }


if __name__ == "__main__":
    over = lambda method: "quick network, one less" if method == "heun" else "quick network"
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        sizes=True,
        jobs=[
            *(Job(f"UNet {name}", SAMPLE_BATCH, 3) for name in METHODS),
            *(Job(f"{network} {kind}", TRAIN_BATCH, 5) for network in ("DiT-S/2", "ADM") for kind in KINDS),
            *(Job(f"quick {method}", SAMPLE_BATCH, 15, over=over(method)) for method in QUICK_METHODS),
        ],
    )
