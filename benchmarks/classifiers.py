"""Speed and memory of classifiers against torchvision's under PyTorch; input is measured by ``input.py``.

The same networks (parameter counts checked on both sides), the same batches, the same machine, one run, in pairs
(``pairs.py``). Both use all cores; PyTorch runs eagerly in channels-last. Peak memory is the largest resident set of
each process, over all jobs so far.

    pip install -e .                                                          # this project
    python -m venv torch-env && torch-env/bin/pip install torch torchvision   # for comparison
    python benchmarks/classifiers.py --torch-python torch-env/bin/python

Training: forward, backward, SGD with Nesterov momentum, float32. ResNet-18 in its CIFAR form on 32x32, batch 64;
ResNet-50, ResNeXt-50 32x4d, ConvNeXt-T, MobileNetV2 and ViT-S/16 on 224x224, batch 8.
"""

from functools import partial
from pathlib import Path

from pairs import Job, Jobs, compare, when_asked

CIFAR_BATCH, BATCH = 64, 8
CIFAR_PARAMETERS = 11_173_962
KINDS = ("training", "inference")
LARGE = {
    "ResNet-50": ("resnet50", 25_557_032),
    "ResNeXt-50 32x4d": ("resnext50_32x4d", 25_028_904),
    "ConvNeXt-T": ("convnext_tiny", 28_589_128),
    "MobileNetV2": ("mobilenet_v2", 3_504_872),
    "ViT-S/16": ("vit_s16", 22_050_664),
}
"""Networks on 224x224: the name in ``CLASSIFIERS``, and the number of parameters."""


def ours() -> Jobs:
    """Our jobs."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vision.models.resnet import CIFAR_RESNET18
    from vision.parallel.mesh import MeshConfig, make_mesh
    from vision.recipes.classifiers import CLASSIFIERS, network
    from vision.tasks.classification import ClassificationConfig, classification_loss
    from vision.train.compile import Compiler
    from vision.train.state import create_state
    from vision.train.step import gradient

    compiler = Compiler(make_mesh(MeshConfig()))
    optimizer = optax.sgd(0.01, momentum=0.9, nesterov=True)

    def jobs(config, side, count, parameters):
        model = network(config).model

        def init(key):
            made = dict(model.init(key, jnp.zeros((1, side, side, 3)), train=False))
            return create_state(params=made.pop("params"), optimizer=optimizer, key=key, model_state=made)

        state = compiler.init(init, key=jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters
        step = compiler.step(gradient(classification_loss(model, ClassificationConfig()), optimizer), init)
        images = np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)
        target = np.eye(config.classes, dtype=np.float32)[np.arange(count) % config.classes]
        batch = compiler.shard({"image": images, "target": target})
        forward = compiler.function(
            lambda state, x: model.apply({"params": state.params, **state.model_state}, x, train=False)
        )

        def train():
            nonlocal state
            state, _ = step(state, batch)
            jax.block_until_ready(state)

        return {"training": train, "inference": lambda: jax.block_until_ready(forward(state, batch["image"]))}

    small = partial(jobs, CIFAR_RESNET18, 32, CIFAR_BATCH, CIFAR_PARAMETERS)
    large = {name: partial(jobs, CLASSIFIERS[each], 224, BATCH, count) for name, (each, count) in LARGE.items()}
    return when_asked({"ResNet-18 (CIFAR)": small, **large}, KINDS)


def theirs() -> Jobs:
    """The same jobs with torchvision."""
    import torch  # pyright: ignore[reportMissingImports]

    library = torch.library.Library("torchvision", "DEF")  # its compiled operators may be missing, and are not used
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
    import torchvision  # pyright: ignore[reportMissingImports]

    def jobs(model, side, count, parameters):
        assert sum(p.numel() for p in model.parameters()) == parameters
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        images = torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)
        labels = torch.arange(count) % 10

        def train():
            model.train()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        @torch.no_grad()
        def use():
            model.eval()
            model(images)

        return {"training": train, "inference": use}

    def small():
        cifar = torchvision.models.resnet18(num_classes=10)
        cifar.conv1, cifar.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
        return jobs(cifar, 32, CIFAR_BATCH, CIFAR_PARAMETERS)

    vit = {"image_size": 224, "patch_size": 16, "num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536}
    makers = {
        "ResNet-50": torchvision.models.resnet50,
        "ResNeXt-50 32x4d": torchvision.models.resnext50_32x4d,
        "ConvNeXt-T": torchvision.models.convnext_tiny,
        "MobileNetV2": torchvision.models.mobilenet_v2,
        "ViT-S/16": partial(torchvision.models.VisionTransformer, **vit),
    }
    large = {
        name: lambda name=name, make=make: jobs(make(), 224, BATCH, LARGE[name][1]) for name, make in makers.items()
    }
    return when_asked({"ResNet-18 (CIFAR)": small, **large}, KINDS)


if __name__ == "__main__":
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            Job("ResNet-18 (CIFAR) training", CIFAR_BATCH, 7),
            Job("ResNet-18 (CIFAR) inference", CIFAR_BATCH, 7),
            *(Job(f"{name} training", BATCH, 5) for name in LARGE),
            *(Job(f"{name} inference", BATCH, 5) for name in LARGE),
        ],
    )
