"""Whatever config.json holds: a configuration, or one sentence that names the entry."""

import dataclasses

import pytest
from diffusers_folders import config_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.models.dit import DiTConfig
from vision.models.unet import UNetConfig
from vision.pretrained.diffusers_config import options
from vision.pretrained.dit import dit_config, dit_values
from vision.pretrained.unet2d_config import unet2d_config, unet2d_values
from vision.ranges import check_ranges

UNET = unet2d_values(UNetConfig(width=32, multipliers=(1, 2), attention=(8,), groups=8), side=16)
DIT = dit_values(DiTConfig(width=16, depth=1, heads=2, classes=3), side=8)
SCALARS = st.none() | st.booleans() | st.integers(-2, 70_000) | st.floats() | st.text(max_size=5)
SCALARS |= st.sampled_from(["AttnDownBlock2D", "fourier", "scale_shift", "resnet", 10**400])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


def outcome(read, values):
    """The configuration, or the one sentence."""
    try:
        config = read(values)
    except UserError as error:
        sentence = str(error)
    else:
        check_ranges(config)
        return config
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([name for name in UNET if name != "_class_name"]), VALUES)
def test_any_value_of_an_entry_of_a_unet(name, value):
    found = outcome(unet2d_config, {**UNET, name: value})
    assert not isinstance(found, str) or any(
        word in found for word in (name, "pixels do not have", "block_out", "not supported")
    )


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([name for name in DIT if name != "_class_name"]), VALUES)
def test_any_value_of_an_entry_of_a_transformer(name, value):
    found = outcome(dit_config, {**DIT, name: value})
    assert not isinstance(found, str) or any(word in found for word in (name, "attention_head_dim", "not supported"))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(UNET)))
def test_absent_entries_have_the_defaults_of_diffusers(name):
    """Or are asked for."""
    found = outcome(unet2d_config, {key: value for key, value in UNET.items() if key != name})
    if name in ("_class_name", "block_out_channels", "down_block_types", "up_block_types", "sample_size"):
        assert name in found
    else:
        assert not isinstance(found, str) or "attention_head_dim" in found or "norm_num_groups" in found


def test_options_that_are_missing():
    ours = UNetConfig()
    wanted = dataclasses.replace(ours, centred=True, null_label=False, attention=(8, 4), epsilon=1e-5, mid_scale=0.5)
    assert options(ours, ours) == ""
    assert options(ours, wanted, ignored=("attention",)) == (
        "--model.no-null-label --model.mid-scale 0.5 --model.epsilon 1e-05 --model.centred"
    )


@pytest.mark.parametrize("case", ["ddpm", "dit"])
def test_notes_of_the_library_are_read_over(case):
    read = unet2d_config if case == "ddpm" else dit_config
    notes = {"_diffusers_version": "0.12.0", "_name_or_path": "x"}
    assert read({**config_of(case), **notes}) == read(config_of(case))
