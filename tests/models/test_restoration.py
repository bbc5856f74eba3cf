"""Networks of restoration: published sizes, scales, gradients, recomputation, precision, what they begin with."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.restoration import dncnn, edsr, rrdb, srcnn, swinir, vdsr
from vision.models.restoration.dncnn import DNCNN_B, DNCNN_B_COLOUR, DNCNN_S, DNCNN_TRAINING, Dncnn, DncnnConfig
from vision.models.restoration.edsr import EDSR_BASELINE, EDSR_LARGE, Edsr, EdsrConfig
from vision.models.restoration.rrdb import RRDB, Rrdb, RrdbConfig
from vision.models.restoration.srcnn import SRCNN_915, SRCNN_955, Srcnn, SrcnnConfig
from vision.models.restoration.swinir import SWINIR_DENOISING, SWINIR_LIGHT, SWINIR_MEDIUM, SwinIr, SwinIrConfig
from vision.models.restoration.vdsr import VDSR, Vdsr, VdsrConfig
from vision.nn.shifted_windows import WindowAttention, relative_positions, visible
from vision.ops.imresize import imresize
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name, shardings
from vision.ranges import check_ranges

SMALL = {
    Srcnn: SrcnnConfig(widths=(6, 4), middle=3, scale=2),
    Vdsr: VdsrConfig(depth=4, width=6, scale=3),
    Dncnn: DncnnConfig(depth=4, width=6, norm=True, channels=3),
    Edsr: EdsrConfig(blocks=2, width=6, residual_scale=0.5, scale=3),
    Rrdb: RrdbConfig(blocks=1, width=6, growth=3, scale=2),
    SwinIr: SwinIrConfig(width=6, depths=(2,), heads=2, window=4, feature_width=5, scale=2, stochastic_depth=0.0),
}
RULES = {Srcnn: srcnn, Vdsr: vdsr, Dncnn: dncnn, Edsr: edsr, Rrdb: rrdb, SwinIr: swinir}
x = lambda config, scale: dataclasses.replace(config, scale=scale)

# SRCNN and VDSR without biases: Dong et al. 2016, table 1; Kim et al. 2016. The others are counted by PyTorch's modules
# of BasicSR, KAIR and SwinIR (make_restoration_golden.py has the shapes).
SIZES = [
    (Srcnn, SRCNN_915, 8_032 + 97),
    (Srcnn, SRCNN_955, 57_184 + 97),
    (Vdsr, dataclasses.replace(VDSR, use_bias=False), 664_704),
    (Vdsr, VDSR, 665_921),
    (Dncnn, DNCNN_S, 555_137),
    (Dncnn, DNCNN_B, 665_921),
    (Dncnn, DNCNN_B_COLOUR, 668_227),
    (Dncnn, DNCNN_TRAINING, 556_032),
    (Edsr, EDSR_BASELINE, 1_369_859),
    (Edsr, x(EDSR_BASELINE, 3), 1_554_499),
    (Edsr, x(EDSR_BASELINE, 4), 1_517_571),
    (Edsr, x(EDSR_LARGE, 4), 43_089_923),
    (Rrdb, RRDB, 16_697_987),
    (SwinIr, SWINIR_LIGHT, 910_152),
    (SwinIr, x(SWINIR_LIGHT, 4), 929_628),
    (SwinIr, SWINIR_MEDIUM, 11_752_487),
    (SwinIr, SWINIR_DENOISING, 11_504_163),
]


def shapes(module, config, side=16):
    image = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32)
    return jax.eval_shape(lambda image: module(config).init(jax.random.key(0), image, train=False), image)


@pytest.mark.parametrize(("module", "config", "parameters"), SIZES)
def test_published_sizes(module, config, parameters):
    check_ranges(config)
    image = jax.ShapeDtypeStruct((2, 12, 16, config.channels), jnp.float32)
    run = lambda image: module(config).init_with_output(jax.random.key(0), image, train=False)
    made, found = jax.eval_shape(run, image)
    assert sum(leaf.size for leaf in jax.tree.leaves(found["params"])) == parameters
    scale = getattr(config, "scale", 1)
    assert made.shape == (2, 12 * scale, 16 * scale, config.channels)


@cache
def variables(module, config):
    """Variables none of which is zero."""
    generator = np.random.default_rng(0)
    spread = lambda leaf: generator.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]) / 2, 4))
    made = jax.tree.map(lambda leaf: jnp.asarray(spread(leaf), jnp.float32), shapes(module, config))
    if "batch_stats" in made:
        made["batch_stats"] = jax.tree.map(lambda leaf: 1 + 0.2 * jnp.abs(leaf), made["batch_stats"])
    return made


@cache
def gradient(module, remat=False, dtype="float32"):
    """(images, gradients of the parameters)."""
    config = dataclasses.replace(SMALL[module], dtype=dtype)
    if remat:
        config = dataclasses.replace(config, remat=True)
    image = jax.random.uniform(jax.random.key(0), (2, 8, 10, config.channels))
    values = variables(module, SMALL[module])

    def loss(params):
        out, _ = module(config).apply({**values, "params": params}, image, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(out)), out

    gradients, images = jax.jit(jax.grad(loss, has_aux=True))(values["params"])
    return images, gradients


@pytest.mark.parametrize("module", SMALL)
def test_every_parameter_receives_a_gradient(module):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(module)[1]):
        # a bias before a batch normalisation has none
        if module is Dncnn and path_name(path) in ("conv_2/bias", "conv_3/bias"):
            continue
        assert float(jnp.abs(leaf).max()) > 1e-6, path_name(path)


@pytest.mark.parametrize("module", [each for each in SMALL if each is not Srcnn])
def test_remat_changes_no_gradient(module):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, gradient(module, remat=True), gradient(module))


@pytest.mark.parametrize("module", [Edsr, SwinIr])
def test_bfloat16_is_near_and_its_images_are_float32(module):
    images, gradients = gradient(module, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((images, gradients))} == {jnp.dtype("float32")}
    wanted = gradient(module)[0]
    assert 0 < np.abs(images - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("module", SMALL)
def test_sharding_rules_hold(module):
    even = {Srcnn: {"widths": (8, 4)}, Rrdb: {"width": 8, "growth": 4}}
    config = dataclasses.replace(SMALL[module], **even.get(module, {"width": 8}))
    found = shapes(module, config)
    mesh = make_mesh(MeshConfig(tensor=2))
    placed = jax.tree.leaves(shardings(found, mesh=mesh, rules=RULES[module].SHARDING_RULES))
    assert any("tensor" in each.spec for each in placed)


def test_srcnn_and_vdsr_begin_with_the_bicubic_image():
    image = jax.random.uniform(jax.random.key(0), (1, 6, 7, 1))
    config = VdsrConfig(depth=3, width=4, scale=2)
    values = jax.tree.map(jnp.zeros_like, Vdsr(config).init(jax.random.key(0), image, train=False))
    np.testing.assert_array_equal(Vdsr(config).apply(values, image, train=False), imresize(image, 2.0))


def test_borders_of_srcnn():
    """By the border's value or by zeros before each convolution; inside they are equal."""
    image = jax.random.uniform(jax.random.key(0), (1, 30, 31, 1))
    config = dataclasses.replace(SMALL[Srcnn], scale=1)
    values = variables(Srcnn, SMALL[Srcnn])
    edge, zeros = (
        Srcnn(dataclasses.replace(config, border=border)).apply(values, image, train=False)
        for border in ("edge", "constant")
    )
    assert edge.shape == zeros.shape == image.shape
    np.testing.assert_allclose(edge[:, 7:-7, 7:-7], zeros[:, 7:-7, 7:-7], atol=1e-5)
    assert np.abs(edge - zeros).max() > 1e-3


def test_windows_of_a_rolled_map():
    """Pixel by pixel: two pixels of a window see each other if no border of the image is between them."""
    height, width, window, shift = 8, 12, 4, 2
    found = visible(height, width, window, shift)
    rows, columns = (np.arange(side) for side in (height, width))
    for index, (top, left) in enumerate((t, s) for t in range(0, height, window) for s in range(0, width, window)):
        places = [
            ((row + shift) % height, (column + shift) % width)
            for row in rows[top : top + window]
            for column in columns[left : left + window]
        ]
        for one, other in np.ndindex(window**2, window**2):
            near = all(abs(places[one][axis] - places[other][axis]) < window for axis in (0, 1))
            assert found[index, one, other] == near
    table = relative_positions(3)
    assert table[4, 4] == table[0, 0] == 12
    assert table[0, 8] == 0
    assert table[8, 0] == 24
    assert table[1, 0] == 13


def test_a_shift_by_whole_windows_of_content():
    """Attention in shifted windows is attention in plain ones of the map that is moved, away from its border."""
    features = jax.random.normal(jax.random.key(0), (1, 12, 12, 6))
    plain, shifted = WindowAttention(2, 4), WindowAttention(2, 4, shift=2)
    values = plain.init(jax.random.key(1), features)
    inner = plain.apply(values, features[:, 2:10, 2:10])
    np.testing.assert_allclose(shifted.apply(values, features)[:, 2:10, 2:10], inner, atol=1e-5)


def test_stochastic_depth_of_swinir_is_for_training():
    config = dataclasses.replace(SMALL[SwinIr], stochastic_depth=0.5)
    image = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    values = variables(SwinIr, SMALL[SwinIr])
    run = jax.jit(lambda seed: SwinIr(config).apply(values, image, train=True, rngs={"dropout": jax.random.key(seed)}))
    assert np.abs(run(0) - run(1)).max() > 1e-3


def test_refused():
    with pytest.raises(UserError, match="a SwinIR without upsampling has the scale 1, not 2"):
        shapes(SwinIr, SwinIrConfig(upsampling="none"))
    with pytest.raises(UserError, match="a width of 20 is no multiple of 6 heads"):
        shapes(SwinIr, SwinIrConfig(width=20))
    with pytest.raises(UserError, match="images of 4x4 pixels are too small to be continued by reflection"):
        shapes(SwinIr, SWINIR_LIGHT, side=4)
    with pytest.raises(UserError, match="cannot be cut into 2x2 patches"):
        shapes(Rrdb, x(RRDB, 2), side=15)
