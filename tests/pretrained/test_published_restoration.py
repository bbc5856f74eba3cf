"""Published networks of restoration: PyTorch's results with weights by a formula, names, buffers.

The golden arrays are made by make_restoration_golden.py with PyTorch.
"""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from published_weights import published_array
from restoration_images import golden_unit_image

from vision.errors import UserError
from vision.models.restoration.dncnn import DNCNN_S, DncnnConfig
from vision.models.restoration.edsr import EDSR_BASELINE, EDSR_LARGE, EdsrConfig
from vision.models.restoration.rrdb import RRDB, RrdbConfig
from vision.models.restoration.srcnn import SrcnnConfig
from vision.models.restoration.swinir import SWINIR_LIGHT, SWINIR_MEDIUM, SwinIrConfig
from vision.models.restoration.vdsr import VDSR, VdsrConfig
from vision.pretrained.edsr import authors_rules, edsr_authors_state_dict
from vision.pretrained.restoration import read_restoration, restoration_network, restoration_shapes
from vision.pretrained.rrdb import basicsr_rules, first_release_rules, second_release_rules
from vision.pretrained.rules import from_published, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.swinir import swinir_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "restoration.npz")

SMALL_EDSR = EdsrConfig(blocks=2, width=8, residual_scale=0.5)
SMALL_RRDB = RrdbConfig(blocks=2, width=8)
SMALL_SWINIR = SwinIrConfig(upsampling="shuffle direct", width=12, depths=(2, 3), heads=3, window=4)
SMALL_VDSR = VdsrConfig(depth=6, width=8, use_bias=False)
CASES = {
    "srcnn_915": (SrcnnConfig(widths=(8, 4), border="constant"), (13, 12)),
    "srcnn_955": (SrcnnConfig(middle=5, widths=(8, 4), border="constant"), (13, 12)),
    "vdsr": (SMALL_VDSR, (13, 12)),
    **{f"edsr_x{scale}": (replace(SMALL_EDSR, scale=scale), (5, 6)) for scale in (2, 3, 4)},
    **{f"rrdb_x{s}": (replace(SMALL_RRDB, scale=s), (side, side + 4)) for s, side in ((4, 6), (2, 8), (1, 12))},
    "dncnn": (DncnnConfig(depth=5, width=8), (13, 12)),
    "dncnn_norm": (DncnnConfig(depth=5, width=8, norm=True, norm_epsilon=1e-4, channels=3), (13, 12)),
    **{f"swinir_light_x{scale}": (replace(SMALL_SWINIR, scale=scale), (6, 9)) for scale in (2, 3, 4)},
    "swinir_medium_x4": (replace(SMALL_SWINIR, scale=4, upsampling="shuffle"), (6, 9)),
    "swinir_denoising": (replace(SMALL_SWINIR, scale=1, upsampling="none", channels=1), (6, 9)),
}
WHOLE = {
    "edsr_baseline_x2": (EDSR_BASELINE, authors_rules(EDSR_BASELINE)),
    "edsr_large_x3": (replace(EDSR_LARGE, scale=3), authors_rules(replace(EDSR_LARGE, scale=3))),
    "vdsr": (replace(VDSR, use_bias=False), None),
    "rrdb_x4": (RRDB, first_release_rules(RRDB)),
    "dncnn_s": (DNCNN_S, None),
    "swinir_light_x2": (SWINIR_LIGHT, None),
    "swinir_medium_x4": (replace(SWINIR_MEDIUM, scale=4), None),
}


def empty(tree):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)


def rules_of(config):
    """The names with which the golden arrays were made: the first release's of RRDB, the authors' of EDSR."""
    match config:
        case EdsrConfig():
            return authors_rules(config)
        case RrdbConfig():
            return first_release_rules(config)
        case _:
            return restoration_network(config).published


def published(config):
    """A published state dict with weights by the formula."""
    shapes = to_published(empty(restoration_shapes(config)), rules=rules_of(config))
    return {name: published_array(name, array.shape) for name, array in shapes.items()}


@pytest.mark.parametrize("name", CASES)
def test_what_pytorch_computes(name):
    config, size = CASES[name]
    network = restoration_network(config)
    variables, left = from_published(published(config), restoration_shapes(config), rules=network.published)
    assert left == ()
    found = jax.jit(partial(network.module.apply, train=False))(variables, golden_unit_image(*size, config.channels))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=2e-5 * np.abs(GOLDEN[name]).max())


@pytest.mark.parametrize("name", WHOLE)
def test_names_shapes_and_buffers_of_pytorch(name):
    """What is written is what a strict ``load_state_dict`` of the published implementation takes."""
    config, rules = WHOLE[name]
    wanted = {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"names_{name}"])).items()}
    variables = empty(restoration_shapes(config))
    match config:
        case EdsrConfig():
            written = edsr_authors_state_dict(variables, config)
        case SwinIrConfig():
            written = swinir_state_dict(variables, config, side=48 if "medium" in name else 64)
        case _:
            written = to_published(variables, rules=rules or restoration_network(config).published)
    assert {key: array.shape for key, array in written.items()} == wanted


@pytest.mark.parametrize("name", ["srcnn_955", "vdsr", "edsr_x3", "rrdb_x2", "dncnn_norm", "swinir_medium_x4"])
def test_there_and_back_changes_nothing(name, tmp_path):
    config, _ = CASES[name]
    tensors = published(config)
    write_state_dict(tmp_path / "w.safetensors", tensors)
    variables = read_restoration(tmp_path / "w.safetensors", config)
    written = to_published(variables, rules=rules_of(config))
    assert written.keys() == tensors.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, tensors[key], err_msg=key)
    again = to_published(variables, rules=restoration_network(config).published)
    write_state_dict(tmp_path / "again.safetensors", again)
    jax.tree.map(np.testing.assert_array_equal, read_restoration(tmp_path / "again.safetensors", config), variables)


@pytest.mark.parametrize(
    "renamed",
    [
        # Conv and ReLU in a list, without and with a name of their own; all in one list
        lambda n, last: f"body.{n}.0.weight",
        lambda n, last: "conv1.0.weight" if n == 0 else "conv2.weight" if last else f"trunk.{n - 1}.conv.weight",
        lambda n, last: f"module.net.{2 * n}.weight",
    ],
)
def test_a_chain_of_any_names(renamed, tmp_path):
    config = replace(SMALL_VDSR, depth=14)
    tensors = published(config)
    order = ["input.weight", *(f"residual_layer.{n}.conv.weight" for n in range(12)), "output.weight"]
    assert sorted(order) == sorted(tensors)
    others = {renamed(n, n == 13): tensors[name] for n, name in enumerate(order)}
    write_state_dict(tmp_path / "others.safetensors", dict(reversed(others.items())))
    found = read_restoration(tmp_path / "others.safetensors", config)
    expected = from_published(tensors, restoration_shapes(config), rules=rules_of(config))[0]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    write_state_dict(tmp_path / "short.safetensors", dict(list(others.items())[:-1]))
    with pytest.raises(UserError, match="variables that nothing sets: params/conv_"):
        read_restoration(tmp_path / "short.safetensors", config)


def test_a_chain_that_does_not_fit_is_refused(tmp_path):
    tensors = {**published(SMALL_VDSR), "extra.weight": np.zeros((8, 8, 3, 3), np.float32)}
    write_state_dict(tmp_path / "long.safetensors", tensors)
    with pytest.raises(UserError, match=r"1 arrays that belong nowhere here: extra\.weight"):
        read_restoration(tmp_path / "long.safetensors", SMALL_VDSR)
    write_state_dict(tmp_path / "w.safetensors", published(SMALL_VDSR))
    with pytest.raises(UserError, match="params/conv_1/bias"):
        read_restoration(tmp_path / "w.safetensors", replace(SMALL_VDSR, use_bias=True))


@pytest.mark.parametrize("rules", [basicsr_rules, first_release_rules, second_release_rules], ids=lambda f: f.__name__)
def test_names_of_rrdb(rules, tmp_path):
    values = from_published(published(SMALL_RRDB), restoration_shapes(SMALL_RRDB), rules=rules_of(SMALL_RRDB))[0]
    written = to_published(values, rules=rules(SMALL_RRDB))
    expected = {
        "basicsr_rules": {"body.1.rdb3.conv5.weight", "conv_body.bias", "conv_up2.weight", "conv_hr.bias"},
        "first_release_rules": {"model.0.bias", "model.1.sub.1.RDB3.conv5.0.weight", "model.1.sub.2.weight"},
        "second_release_rules": {"RRDB_trunk.1.RDB3.conv5.bias", "trunk_conv.weight", "upconv2.bias", "HRconv.bias"},
    }
    assert expected[rules.__name__] < set(written)
    write_state_dict(tmp_path / "w.safetensors", {f"module.{name}": array for name, array in written.items()})
    jax.tree.map(np.testing.assert_array_equal, read_restoration(tmp_path / "w.safetensors", SMALL_RRDB), values)


def test_the_mean_of_edsr_must_be_the_one_that_is_built_in(tmp_path):
    values = from_published(published(SMALL_EDSR), restoration_shapes(SMALL_EDSR), rules=rules_of(SMALL_EDSR))[0]
    written = edsr_authors_state_dict(values, SMALL_EDSR)
    np.testing.assert_allclose(written["sub_mean.bias"], [-114.444, -111.4605, -103.02], atol=1e-3)
    write_state_dict(tmp_path / "w.safetensors", written)
    jax.tree.map(np.testing.assert_array_equal, read_restoration(tmp_path / "w.safetensors", SMALL_EDSR), values)
    written["sub_mean.bias"] = written["sub_mean.bias"] / 255
    write_state_dict(tmp_path / "w.safetensors", written)
    with pytest.raises(UserError, match=r"subtract another mean than EDSR's: sub_mean.bias is not \[-114"):
        read_restoration(tmp_path / "w.safetensors", SMALL_EDSR)


def test_buffers_of_swinir(tmp_path):
    """The index must be ours; masks are those of PyTorch's module; the sizes of a file's masks do not matter."""
    config = SMALL_SWINIR
    values = from_published(published(config), restoration_shapes(config), rules=rules_of(config))[0]
    written = swinir_state_dict(values, config, side=16)
    assert len([name for name in written if name.endswith("attn_mask")]) == 2
    mask = written["layers.0.residual_group.blocks.1.attn_mask"]
    assert mask.shape == (16, 16, 16)
    assert set(np.unique(mask)) == {-100.0, 0.0}
    # windows inside see all of their pixels; the last one is of four parts
    assert not mask[0].any()
    assert (mask[-1] == 0).sum() == 4 * 4**2
    write_state_dict(tmp_path / "w.safetensors", written)
    jax.tree.map(np.testing.assert_array_equal, read_restoration(tmp_path / "w.safetensors", config), values)
    with pytest.raises(UserError, match=re.escape("for other windows than model.window 2: layers.0")):
        read_restoration(tmp_path / "w.safetensors", replace(config, window=2))
