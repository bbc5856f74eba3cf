"""Adversarial networks: sizes against written-out counts, shapes, gradients, what cannot go together."""

import dataclasses
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.gan.dcgan import PatchDiscriminator, halvings
from vision.models.gan.networks import SHARDING_RULES, GanConfig, discriminator, generator
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name, shardings
from vision.ranges import check_ranges

DCGAN = GanConfig("dcgan", 64, latent=100, generator_width=128, discriminator_width=128, discriminator_norm="batch")
RESIDUAL = GanConfig()
R3GAN = GanConfig(
    "r3gan", latent=64, classes=10, generator_width=768, discriminator_width=768, discriminator_norm="none"
)
TINY = {
    "dcgan": GanConfig("dcgan", 8, 1, 0, 3, 4, 4, "batch"),
    "dcgan with classes": GanConfig("dcgan", 16, 3, 2, 3, 4, 4, "spectral"),
    "sngan": GanConfig("sngan", 16, 1, 0, 3, 4, 4),
    "sngan with classes": GanConfig("sngan", 8, 3, 2, 3, 4, 4, "batch"),
    "r3gan": GanConfig("r3gan", 8, 1, 0, 3, 16, 16, "none", blocks=1),
    "r3gan with classes": GanConfig("r3gan", 8, 3, 2, 3, 16, 16, "none", blocks=1),
}


def inputs(config, count=3):
    label = jnp.arange(count) % config.classes if config.classes else None
    latent = jax.random.normal(jax.random.key(0), (count, config.latent))
    image = jax.random.normal(jax.random.key(1), (count, config.resolution, config.resolution, config.channels))
    return latent, image, label


def shapes(config):
    latent, image, label = jax.eval_shape(lambda: inputs(config))
    key = jax.random.key(0)
    made = jax.eval_shape(lambda *of: generator(config).init_with_output(key, *of, train=False), latent, label)
    judged = jax.eval_shape(lambda *of: discriminator(config).init_with_output(key, *of, train=False), image, label)
    return made, judged


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def sizes(config):
    return tuple(count(variables["params"]) for _, variables in shapes(config))


conv = lambda size, inputs, outputs: size * size * inputs * outputs


def test_size_of_dcgan():
    """Figure 1 of Radford et al. 2016 with kernels of 4x4: 1024, 512, 256 and 128 channels."""
    maps = (1024, 512, 256, 128)
    made = 100 * 16 * 1024 + sum(2 * width for width in maps) + conv(4, 128, 3) + 3
    made += sum(conv(4, wide, narrow) for wide, narrow in pairwise(maps))
    judged = conv(4, 3, 128) + 128 + sum(2 * width for width in maps[:3]) + 16 * 1024 + 1
    judged += sum(conv(4, narrow, wide) for wide, narrow in pairwise(maps))
    assert sizes(DCGAN) == (made, judged) == (12_658_435, 11_036_289)


def test_size_of_the_residual_networks():
    """Table 4 of Miyato et al. 2018."""
    layer = lambda size, inputs, outputs: conv(size, inputs, outputs) + outputs
    block = 4 * 256 + 2 * layer(3, 256, 256) + layer(1, 256, 256)
    made = 129 * 16 * 256 + 3 * block + 2 * 256 + layer(3, 256, 3)
    first = layer(3, 3, 128) + layer(3, 128, 128) + layer(1, 3, 128)
    judged = first + 3 * 2 * layer(3, 128, 128) + layer(1, 128, 128) + 129
    assert sizes(RESIDUAL) == (made, judged) == (4_276_739, 1_053_825)
    # a scale and a shift for each class in place of one of each; a vector of each class
    classes = dataclasses.replace(RESIDUAL, classes=10)
    assert sizes(classes) == (made + 3 * 9 * 4 * 256, judged + 10 * 128)


def test_size_of_the_modern_networks():
    block = (768 + 1) * 1536 + conv(3, 16, 1536) + 1536 + 1536 * 768
    made = 8 * block + 16 * 768 + 128 * 768 + 10 * 64 + 769 * 3
    judged = 8 * block + 16 * 768 + 4 * 768 + 768 + 1 + 10 * 768
    assert sizes(R3GAN) == (made, judged)


def test_size_and_view_of_the_patch_discriminator():
    """Isola et al. 2017: 70x70 pixels a logit; 2,765,633 parameters for three channels."""
    network = PatchDiscriminator()
    image = jnp.zeros((1, 70, 70, 3))
    logits, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image, train=False))
    maps = (64, 128, 256, 512)
    expected = conv(4, 3, 64) + 64 + sum(conv(4, a, b) + 2 * b for a, b in pairwise(maps))
    assert count(variables["params"]) == expected + conv(4, 512, 1) + 1 == 2_765_633
    assert logits.shape == (1, 6, 6)

    small = PatchDiscriminator(width=2, layers=1, norm="none")
    image = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))
    variables = jax.jit(partial(small.init, train=False))(jax.random.key(1), image)
    seen = jax.jit(jax.grad(lambda x: small.apply(variables, x, train=False)[0, 6, 6]))(image)[0, ..., 0]
    rows, columns = np.nonzero(seen)
    assert np.ptp(rows) == np.ptp(columns) == 15


@pytest.mark.parametrize(("side", "expected"), [(64, 4), (32, 3), (28, 2), (16, 2), (8, 1), (7, 0), (48, 3)])
def test_halvings(side, expected):
    assert halvings(side) == expected


@pytest.mark.parametrize("side", [28, 32, 64])
@pytest.mark.parametrize("base", [DCGAN, RESIDUAL, R3GAN], ids=["dcgan", "sngan", "r3gan"])
def test_shapes(base, side):
    config = dataclasses.replace(base, resolution=side, channels=1, classes=3)
    (image, _), (logits, _) = shapes(config)
    assert (image.shape, logits.shape) == ((3, side, side, 1), (3,))
    assert image.dtype == logits.dtype == jnp.float32


@cache
def variables_of(name):
    """Random variables in which nothing is zero."""
    config = TINY[name]
    latent, image, label = inputs(config)
    made = generator(config).init(jax.random.key(0), latent, label, train=False)
    judged = discriminator(config).init(jax.random.key(1), image, label, train=False)
    noise = lambda tree: jax.tree.map(
        lambda leaf: leaf + 0.2 * jnp.asarray(np.random.default_rng(leaf.size).normal(size=leaf.shape), leaf.dtype),
        tree,
    )
    return tuple({**each, "params": noise(each["params"])} for each in (made, judged))


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_has_a_gradient(name):
    config = TINY[name]
    latent, _, label = inputs(config)
    made, judged = variables_of(name)

    def value(params):
        carried = [{key: tree for key, tree in each.items() if key != "params"} for each in (made, judged)]
        image, _ = generator(config).apply(
            {"params": params[0], **carried[0]}, latent, label, train=True, mutable=list(carried[0])
        )
        logits, _ = discriminator(config).apply(
            {"params": params[1], **carried[1]}, image, label, train=True, mutable=list(carried[1])
        )
        return jnp.sum(jnp.sin(logits * jnp.arange(1.0, 4.0)))

    gradients = jax.jit(jax.grad(value))((made["params"], judged["params"]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        # batch normalisation takes away what is the same for all images and pixels, of the generator's blocks the whole
        # way to the last of them: the published network has these biases none the less
        biases = ("conv_in/bias", "conv_out/bias", "skip/bias") if path_name(path).startswith("0/") else "conv_in/bias"
        before_norm = "sngan" in name and path_name(path).endswith(biases)
        assert float(jnp.abs(leaf).max()) > 1e-6 or before_norm, path_name(path)
        if before_norm and path_name(path).startswith("0/"):
            assert float(jnp.abs(leaf).max()) < 1e-4, path_name(path)  # what rounding leaves


def test_labels_matter_and_batch_norm_needs_none_at_inference():
    config = TINY["sngan with classes"]
    latent, image, _ = inputs(config)
    made, judged = variables_of("sngan with classes")
    for label in (jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.int32)):
        assert generator(config).apply(made, latent, label, train=False).shape == image.shape
    pictures = [generator(config).apply(made, latent, jnp.full(3, k), train=False) for k in (0, 1)]
    logits = [discriminator(config).apply(judged, image, jnp.full(3, k), train=False) for k in (0, 1)]
    assert float(jnp.abs(pictures[0] - pictures[1]).max()) > 1e-3
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 1e-3


def test_residual_branches_of_the_modern_networks_begin_at_zero():
    """Zhang et al. 2019: a new network is its skip connections, and the branches' inner layers are scaled by L^-1/4."""
    config = dataclasses.replace(TINY["r3gan"], generator_width=64)
    latent, _, _ = inputs(config)
    params = generator(config).init(jax.random.key(0), latent, train=False)["params"]
    block = params["level_0_block_0"]
    assert float(jnp.abs(block["narrow"]["kernel"]).max()) == 0.0
    expected = np.sqrt(2 / 64) * 2**-0.25
    np.testing.assert_allclose(block["widen"]["kernel"].std(), expected, rtol=0.1)


def test_rules_split_what_they_name():
    mesh = make_mesh(MeshConfig(tensor=2))
    for base, names in (
        (RESIDUAL, {"block_0/conv_in/kernel": 3, "block_0/conv_out/kernel": 2}),
        (R3GAN, {"level_0_block_1/widen/kernel": 3, "level_3_block_0/narrow/kernel": 2}),
        (dataclasses.replace(DCGAN, resolution=32), {"double_0/kernel": 3}),
    ):
        (_, made), _ = shapes(base)
        placed = jax.tree_util.tree_leaves_with_path(shardings(made["params"], mesh=mesh, rules=SHARDING_RULES))
        found = {path_name(path): placement.spec for path, placement in placed}
        for name, axis in names.items():
            assert found[name][axis] == "tensor", name


def test_what_cannot_go_together():
    with pytest.raises(UserError, match="has no normalisation"):
        GanConfig("r3gan")
    with pytest.raises(UserError, match="even and at least 8, not 7"):
        GanConfig(resolution=7)
    with pytest.raises(UserError, match=r"latent must be at least 1"):
        check_ranges(GanConfig(latent=0))
