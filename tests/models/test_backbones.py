"""ConvNeXt and ViT: published sizes, gradients, and recomputation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models import convnext, vit
from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.vit import ViT, ViTConfig

PUBLISHED = {
    "CONVNEXT_TINY": 28_589_128,
    "CONVNEXT_SMALL": 50_223_688,
    "CONVNEXT_BASE": 88_591_464,
    "CONVNEXT_LARGE": 197_767_336,
    "VIT_TI16": 5_717_416,
    "VIT_S16": 22_050_664,
    "VIT_B16": 86_567_656,
    "VIT_B32": 88_224_232,
    "VIT_L16": 304_326_632,
}
SMALL = {
    "convnext": ConvNeXt(ConvNeXtConfig(depths=(1, 1), widths=(8, 16), classes=3, layer_scale=0.5)),
    "vit": ViT(ViTConfig(patch=4, width=8, depth=2, heads=2, classes=3)),
}
IMAGE = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


def _random_variables(model):
    """Parameters none of which is zero."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, train=False))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape, scale=0.3), jnp.float32), shapes)


def _gradient(model, variables):
    return jax.grad(lambda values: jnp.sum(jnp.sin(model.apply(values, IMAGE, train=True))))(variables)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    config = getattr(convnext if name.startswith("CONVNEXT") else vit, name)
    model = ConvNeXt(config) if isinstance(config, ConvNeXtConfig) else ViT(config)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(lambda image: model.init(jax.random.key(0), image, train=False), image)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == PUBLISHED[name]


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_receives_a_gradient(name):
    model = SMALL[name]
    for path, leaf in jax.tree_util.tree_leaves_with_path(_gradient(model, _random_variables(model))):
        assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", SMALL)
def test_remat_changes_no_gradient(name):
    model = SMALL[name]
    remat = type(model)(dataclasses.replace(model.config, remat=True))
    variables = _random_variables(model)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        _gradient(model, variables),
        _gradient(remat, variables),
    )
