"""Inception-v3: its size, the shapes on its way, and the pools that make it the graph of 2015."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.inception import Block8, Block35, Inception


def _run(height, width, **options):
    """Shapes of what ``init_with_output`` gives; nothing is computed."""
    image = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: Inception().init_with_output(jax.random.key(0), x, **options), image)


def test_published_size():
    """PyTorch counts 23,850,960 parameters and 34,432 statistics, of 94 convolutions and the classifier."""
    _, variables = _run(75, 75)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(variables["params"]) == 23_850_960
    assert count(variables["batch_stats"]) == 34_432
    assert len(jax.tree.leaves(variables)) == 94 * 5 + 2
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_published_maps():
    """Szegedy et al. 2016, table 1: 35x35x288, 17x17x768, 8x8x1280, 8x8x2048."""
    out, variables = _run(299, 299, capture_intermediates=True, mutable=True)
    shapes = {name: at["__call__"][0].shape[1:] for name, at in variables["intermediates"].items() if "__call__" in at}
    assert shapes["stem_1"] == (149, 149, 32)
    assert shapes["stem_3"] == (147, 147, 64)
    assert shapes["stem_5"] == (71, 71, 192)
    assert shapes["block_35_0"] == (35, 35, 256)
    assert shapes["block_35_2"] == (35, 35, 288)
    assert shapes["reduction_35"] == shapes["block_17_3"] == (17, 17, 768)
    assert shapes["reduction_17"] == (8, 8, 1280)
    assert shapes["block_8_0"] == shapes["block_8_1"] == (8, 8, 2048)
    assert [part.shape for part in out] == [(2, 2048), (2, 1008), (2, 1008)]


@cache
def _pooled_branch(block):
    """A block whose pooled branch shows its first channels, as a compiled function of features."""
    features = jnp.zeros((1, 5, 4, 192))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), features))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    unit = variables["params"]["pool_1x1"]
    channels = unit["norm"]["scale"].size
    unit["conv"]["kernel"] = jnp.eye(192, channels)[None, None]
    # 1e-3 is added to the variance, which together are 4
    unit["norm"]["scale"] = jnp.full(channels, 2.0)
    variables["batch_stats"]["pool_1x1"]["norm"]["var"] = jnp.full(channels, 3.999)
    return jax.jit(lambda x: block.apply(variables, x)[..., -channels:]), channels


@pytest.mark.parametrize(
    ("block", "reduce"),
    [(Block35(pooled=32), np.mean), (Block8(maximum=False), np.mean), (Block8(maximum=True), np.max)],
    ids=["35", "first of 8", "last of 8"],
)
def test_pools_by_hand(block, reduce):
    """Means are of only the pixels inside the image, and the last block has maxima."""
    run, channels = _pooled_branch(block)
    features = np.random.default_rng(0).uniform(0.5, 1.5, (1, 5, 4, 192)).astype(np.float32)
    expected = [
        [reduce(features[0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2, :channels], axis=(0, 1)) for x in range(4)]
        for y in range(5)
    ]
    np.testing.assert_allclose(run(features)[0], expected, rtol=1e-6)


def test_images_too_small():
    assert _run(75, 80)[0].pool.shape == (2, 2048)
    with pytest.raises(UserError, match="images of 74x299 pixels are too small for Inception-v3, which needs 75"):
        _run(74, 299)


def test_products_are_in_full_float32():
    """On accelerators too, whose default is shorter."""
    variables = _run(75, 75)[1]
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    program = jax.jit(Inception().apply).trace(variables, image).lower(lowering_platforms=("tpu",)).as_text()
    products = program.count("stablehlo.convolution") + program.count("stablehlo.dot_general")
    highest = "precision HIGHEST>, #stablehlo<precision HIGHEST>", "precision = [HIGHEST, HIGHEST]"
    assert products == sum(map(program.count, highest))
    assert products > 60  # of 95: layers of equal shapes share a function
