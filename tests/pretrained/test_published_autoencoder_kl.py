"""Published autoencoders: moments and images of diffusers, both generations of names, and folders that do not fit.

The golden arrays are made by make_autoencoder_kl_golden.py with diffusers.
"""

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_weights import golden_image, published_array, uniform

from vision.errors import UserError
from vision.models.autoencoder_kl import AutoencoderKl, AutoencoderKlConfig
from vision.pretrained.autoencoder_kl import (
    autoencoder_kl_rules,
    autoencoder_shapes,
    describe_autoencoder_kl,
    read_autoencoder_kl,
    write_autoencoder_kl,
)
from vision.pretrained.diffusers_folder import WEIGHTS, read_folder, write_folder
from vision.pretrained.rules import named, to_published
from vision.pretrained.state_dict import write_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "autoencoder_kl.npz")
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def described(name):
    return json.loads(str(GOLDEN[f"{name}_config"]))


def names(config):
    """Published names and shapes, as our table has them."""
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), autoencoder_shapes(config))
    return {key: x.shape for key, x in to_published(empty, rules=autoencoder_kl_rules(config)).items()}


@cache
def tensors_of(name, folder):
    put(folder, described(name), {})
    config = describe_autoencoder_kl(folder).config
    return {key: published_array(key, shape, gain=1.5) for key, shape in names(config).items()}


def put(folder, config, tensors):
    """Write a folder, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(folder, {"config.json": config}, tensors)


@pytest.fixture(params=["full", "bare", "attentive"])
def published(request, tmp_path):
    """(name, folder) of a published network."""
    tensors = tensors_of(request.param, tmp_path)
    put(tmp_path, described(request.param), tensors)
    return request.param, tmp_path


@pytest.fixture
def full(tmp_path):
    put(tmp_path, described("full"), tensors_of("full", tmp_path))
    return tmp_path


def test_moments_and_images_of_diffusers(published):
    name, folder = published
    found = read_autoencoder_kl(folder)
    model = AutoencoderKl(found.config)
    mean, log_variance = jax.jit(lambda v, x: model.apply(v, x, method="encode"))(
        found.variables, golden_image(16, 24) / 2
    )
    shape = mean.shape
    latent = uniform("latent", (shape[0], shape[3], shape[1], shape[2])).transpose(0, 2, 3, 1).astype(np.float32)
    image = jax.jit(lambda v, z: model.apply(v, z, method="decode"))(found.variables, latent)
    for key, value in (("mean", mean), ("log_variance", log_variance), ("image", image)):
        np.testing.assert_allclose(value, GOLDEN[f"{name}_{key}"], rtol=0, atol=2e-5, err_msg=key)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("stable_diffusion", AutoencoderKlConfig()),
        (
            "without_projections",
            AutoencoderKlConfig(latent=16, encoded_projection=False, decoded_projection=False),
        ),
    ],
)
def test_names_and_shapes_of_diffusers(name, config):
    wanted = {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"{name}_names"])).items()}
    assert names(config) == wanted


def test_scale_of_latents(full, tmp_path):
    found = read_autoencoder_kl(full)
    np.testing.assert_allclose(found.deviation, np.full(3, 1 / 0.18215), rtol=1e-6)
    np.testing.assert_array_equal(found.mean, np.zeros(3))
    each = {"latents_mean": [1, 2.5, -3.0], "latents_std": [1, 2.0, 4.0], "scaling_factor": 0.5}
    put(tmp_path / "each", {**described("full"), **each}, {})
    found = describe_autoencoder_kl(tmp_path / "each")
    np.testing.assert_array_equal(found.mean, [1, 2.5, -3.0])
    np.testing.assert_array_equal(found.deviation, [2, 4, 8])


def test_there_and_back_changes_nothing(published, tmp_path):
    name, folder = published
    before = read_autoencoder_kl(folder)
    for number, changes in enumerate(({}, {"mean": np.arange(before.config.latent, dtype=np.float32)})):
        written = dataclasses.replace(before, **changes)
        write_autoencoder_kl(tmp_path / f"again_{number}", written)
        content, tensors = read_folder(tmp_path / f"again_{number}")
        original = described(name)
        same = [key for key in content if key in original and "scal" not in key and "lat" not in key]
        assert {key: content[key] for key in same} == {key: original[key] for key in same}
        assert tensors.keys() == tensors_of(name, folder).keys()
        after = read_autoencoder_kl(tmp_path / f"again_{number}")
        assert after.config == before.config
        np.testing.assert_array_equal(after.mean, written.mean)
        np.testing.assert_allclose(after.deviation, written.deviation, rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)


def older(tensors):
    """With the names of attention that diffusers had before."""
    made = {}
    for key, array in tensors.items():
        for new, old in OLD.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        made[key] = array
    return made


def test_older_names_shards_and_half_precision(full):
    """A folder in two files by their index, in float16, with the older names."""
    wanted = named(read_autoencoder_kl(full).variables)
    tensors = {key: array.astype(np.float16) for key, array in older(tensors_of("full", full)).items()}
    assert sum("proj_attn" in key for key in tensors) == 4
    (full / WEIGHTS).unlink()
    shards = {f"part-{k}.safetensors": sorted(tensors)[k::2] for k in range(2)}
    for file, keys in shards.items():
        write_state_dict(full / file, {key: tensors[key] for key in keys})
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (full / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    found = named(read_autoencoder_kl(full).variables)
    assert found.keys() == wanted.keys()
    for path, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, wanted[path], atol=1e-3, err_msg=path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "VQModel"}, "is of 'VQModel': name the folder of an AutoencoderKL"),
        ({"_class_name": None}, 'has no "_class_name"'),
        ({"widths": [1]}, "has the setting 'widths', which is not known here"),
        ({"block_out_channels": 8}, "has 8 for block_out_channels, which is no list of int"),
        ({"block_out_channels": []}, "has [] for block_out_channels, which is no level at all"),
        ({"block_out_channels": [8, 8.5]}, "for block_out_channels, which is no list of int"),
        ({"latent_channels": True}, "has True for latent_channels, which is no int"),
        ({"latent_channels": 0}, "latent must be at least 1"),
        ({"norm_num_groups": 3}, "has 3 groups, which do not divide 8, 16 channels"),
        ({"act_fn": "relu"}, "has 'relu' for act_fn, and only 'silu' is known here"),
        ({"out_channels": 6}, "has 6 for out_channels, and only 3 is known here"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "only 2 of DownEncoderBlock2D or AttnDownEncoderBlock2D are known"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "only 2 of UpDecoderBlock2D or AttnUpDecoderBlock2D are known"),
        ({"scaling_factor": 0}, "no mean and positive deviation for each of 3 channels"),
        ({"scaling_factor": float("nan")}, "has nan for scaling_factor, which is no float"),
        ({"latents_mean": [1.0]}, "no mean and positive deviation for each of 3 channels"),
    ],
)
def test_configurations_that_are_refused(full, change, words):
    put(full, {**described("full"), **change}, {})
    with pytest.raises(UserError) as error:
        describe_autoencoder_kl(full)
    assert words in str(error.value)


def test_weights_that_do_not_fit(full):
    tensors = tensors_of("full", full)
    key = "encoder.conv_in.bias"
    for changed, words in (
        ({**tensors, "more": tensors[key]}, "1 arrays that belong nowhere here: more"),
        (
            {name: x for name, x in tensors.items() if name != key},
            "variables that nothing sets: params/encoder/stem/bias",
        ),
        ({**tensors, key: np.zeros(3, np.float32)}, "arrays that do not fit: encoder.conv_in.bias of shape"),
        ({**tensors, key: np.full(8, np.nan, np.float32)}, "numbers that are not finite"),
        ({**tensors, **older(tensors)}, "arrays for what another array has set"),
    ):
        put(full, described("full"), changed)
        with pytest.raises(UserError, match=words):
            read_autoencoder_kl(full)


def test_folders_without_files(full):
    with pytest.raises(UserError, match=r"there is no .*config\.json, which says what network the weights are of"):
        read_folder(full / "nothing")
    content = (full / WEIGHTS).read_bytes()
    (full / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged or was not fully downloaded"):
        read_folder(full)
    (full / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"has no weights: put {WEIGHTS} next to its config.json"):
        read_folder(full)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20) + b"{}"])
def test_hostile_configurations(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json (is damaged|holds no table|was not read).*fetch it again"):
        describe_autoencoder_kl(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(described("full"))), value=JSON)
def test_any_value_is_read_or_refused_in_one_sentence(tmp_path_factory, name, value):
    folder = tmp_path_factory.mktemp("any")
    put(folder, {**described("full"), name: value}, {})
    said = ""
    try:
        describe_autoencoder_kl(folder)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600
