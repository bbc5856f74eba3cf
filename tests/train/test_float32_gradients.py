"""Networks that compute in bfloat16 have gradients that are float32 before devices sum them."""

import jax
import jax.numpy as jnp
import pytest

from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.dit import DiT, DiTConfig
from vision.models.gan.networks import GanConfig, discriminator, generator
from vision.models.resnet import ResNet, ResNetConfig
from vision.models.speedrun import SpeedrunConfig, SpeedrunNet
from vision.models.unet import UNet, UNetConfig
from vision.models.vit import ViT, ViTConfig
from vision.parallel.sharding import path_name

IMAGE, TIME, LABEL = jnp.zeros((2, 16, 16, 3)), jnp.zeros(2), {"label": jnp.zeros(2, jnp.int32)}
HALF = {"dtype": "bfloat16"}
GAN = {"resolution": 16, "channels": 3, "classes": 2, "latent": 8, "generator_width": 16, "discriminator_width": 16}
NETWORKS = {
    "resnet": (ResNet(ResNetConfig(stem="cifar", depths=(1, 1), width=8, classes=2, **HALF)), (IMAGE,)),
    "convnext": (ConvNeXt(ConvNeXtConfig(depths=(1, 1), widths=(8, 16), classes=2, **HALF)), (IMAGE,)),
    "vit": (ViT(ViTConfig(patch=8, width=16, depth=1, heads=2, classes=2, **HALF)), (IMAGE,)),
    "unet": (
        UNet(UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(8,), classes=2, **HALF)),
        (IMAGE, TIME, LABEL),
    ),
    "dit": (DiT(DiTConfig(patch=4, width=16, depth=1, heads=2, classes=2, **HALF)), (IMAGE, TIME, LABEL)),
    "speedrun": (SpeedrunNet(SpeedrunConfig(classes=2, **HALF)), (jnp.zeros((2, 32, 32, 3)),)),
} | {
    f"{name} {player.__name__}": (
        player(GanConfig(architecture=name, discriminator_norm=norm, **GAN, **HALF)),
        (jnp.zeros((2, 8)) if player is generator else IMAGE, LABEL["label"]),
    )
    for name, norm in (("dcgan", "batch"), ("sngan", "spectral"), ("r3gan", "none"))
    for player in (generator, discriminator)
}
SHAPED = (
    "reshape",
    "transpose",
    "squeeze",
    "broadcast_in_dim",
    "slice",
    "rev",
    "copy",
    "add_any",
    "pad",
    "jit",
    "pjit",
)


def rounded(jaxpr, variable):
    """Whether a result of ``jaxpr`` is bfloat16 that has been converted, whatever became of its shape since."""
    for equation in jaxpr.eqns:
        if variable not in equation.outvars:
            continue
        if equation.primitive.name == "convert_element_type":
            return equation.invars[0].aval.dtype == jnp.bfloat16
        if equation.primitive.name in ("jit", "pjit", "remat2", "checkpoint"):
            inner = equation.params["jaxpr"]
            inner = getattr(inner, "jaxpr", inner)
            return rounded(inner, inner.outvars[equation.outvars.index(variable)])
        if equation.primitive.name in SHAPED:
            return any(rounded(jaxpr, each) for each in equation.invars if hasattr(each, "count"))
    return False


@pytest.mark.parametrize("name", NETWORKS)
def test_no_gradient_has_been_rounded_to_bfloat16(name):
    network, inputs = NETWORKS[name]
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    made = jax.eval_shape(lambda: network.init(keys, *inputs, train=False))
    rest = {kind: tree for kind, tree in made.items() if kind != "params"}

    def loss(params, rest):
        out, _ = network.apply({"params": params, **rest}, *inputs, train=True, rngs=keys, mutable=list(rest))
        return jnp.square(out).mean()

    program = jax.make_jaxpr(jax.grad(loss))(made["params"], rest)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(made["params"])]
    assert len(names) == len(program.jaxpr.outvars)
    wrong = [
        name
        for name, variable in zip(names, program.jaxpr.outvars, strict=True)
        if rounded(program.jaxpr, variable) or variable.aval.dtype != jnp.float32
    ]
    assert not wrong
    assert "bf16" in str(program)
