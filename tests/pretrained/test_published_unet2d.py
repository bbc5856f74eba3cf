"""Published UNets: predictions of diffusers with weights by a formula of the name, and what folders may lack.

The golden arrays, diffusers.npz, are made by make_diffusers_golden.py with PyTorch.
"""

import dataclasses
import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_folders import GOLDEN, arrays_of, config_of, image_of, shapes_of, sharded, written

from vision.errors import UserError
from vision.models.unet import ADM_64, DDPM_256, UNet, UNetConfig
from vision.pretrained.diffusers_folder import NAMES, is_published_folder, read_folder
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import named, to_published
from vision.pretrained.unet2d import read_unet2d, unet2d_rules, unet2d_source
from vision.pretrained.unet2d_config import published_side, simplest, unet2d_config, unet2d_values

TIMES = {"fourier": [0.5, 7.0]}
LABELS = {"adm": [1, 4]}
CASES = ("ddpm", "adm", "fourier", "unattended")
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_names(tensors, *, convolutions):
    """Attention as older files have it, in linear layers or 1x1 convolutions."""
    made = {}
    for name, array in tensors.items():
        if ".attentions." in name:
            for new, old in OLD.items():
                name = name.replace(f".{new}.", f".{old}.")
            if convolutions and name.endswith("weight") and array.ndim == 2:
                array = array[:, :, None, None]
        made[name] = array
    return made


def predicted(case, config, variables):
    """Of the two golden images."""
    condition = {"label": jnp.asarray(LABELS[case])} if case in LABELS else {}
    arguments = image_of(16, config.channels), jnp.asarray(TIMES.get(case, [3, 700])), condition
    return jax.jit(lambda *of: UNet(config).apply(variables, *of, train=False))(*arguments)


@cache
def shapes(config, side):
    """Shapes of the variables."""
    image, time = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32), jnp.zeros(1)
    condition = {"label": jnp.zeros(1, jnp.int32)} if config.classes else {}
    return jax.eval_shape(lambda x: UNet(config).init(jax.random.key(0), x, time, condition, train=False), image)


@pytest.mark.parametrize("case", CASES)
def test_predictions_of_diffusers(case, tmp_path):
    config, variables = read_unet2d(written(tmp_path / "unet", config_of(case), arrays_of(case)))
    expected = GOLDEN[f"{case}_out"]
    assert expected.shape[-1] == (config.out_channels or config.channels)
    np.testing.assert_allclose(predicted(case, config, variables), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_names_of_attention(convolutions, tmp_path):
    new = read_unet2d(written(tmp_path / "new", config_of("ddpm"), arrays_of("ddpm")))
    tensors = old_names(arrays_of("ddpm"), convolutions=convolutions)
    assert any(".proj_attn." in name for name in tensors)
    old = read_unet2d(written(tmp_path / "old", config_of("ddpm"), tensors))
    assert old[0] == new[0]
    equal(old[1], new[1])
    both = {**tensors, **arrays_of("ddpm")}
    with pytest.raises(UserError, match="an older and a newer name for"):
        read_unet2d(written(tmp_path / "both", config_of("ddpm"), both))


def test_files_that_a_folder_may_have(tmp_path):
    config, tensors = config_of("unattended"), arrays_of("unattended")
    _, expected = read_unet2d(written(tmp_path / "one", config, tensors))
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    for index in (NAMES[1], NAMES[3]):
        equal(read_unet2d(sharded(tmp_path / index, config, tensors, index=index))[1], expected)
    _, found = read_unet2d(written(tmp_path / "half", config, half, name=NAMES[2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected)
    # in full precision where there are both
    both = written(tmp_path / "half", config, tensors)
    equal(read_unet2d(both)[1], expected)
    assert is_published_folder(both)
    (tmp_path / "half" / "config.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"images": 3}')
    assert not is_published_folder(tmp_path / "run")


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, tmp_path):
    """What is written computes the same, has diffusers' names and shapes, and does not change when it is read again."""
    config, variables = read_unet2d(written(tmp_path / "published", config_of(case), arrays_of(case)))
    unet2d_source(config, side=16).write(tmp_path / "ours", variables)
    values, tensors = read_folder(tmp_path / "ours")
    assert {name: array.shape for name, array in tensors.items()} == shapes_of(case)
    again, same = read_unet2d(tmp_path / "ours")
    assert again == dataclasses.replace(config, null_label=not config.classes)
    equal(same, variables)
    stated = {name: value for name, value in config_of(case).items() if name != "flip_sin_to_cos"}
    assert {name: values[name] for name in stated} == stated
    with pytest.raises(UserError, match="exists already"):
        unet2d_source(config, side=16).write(tmp_path / "ours", variables)


@pytest.mark.parametrize(
    ("name", "count", "preset"),
    [
        ("ddpm-cifar10-32", 35_746_307, UNetConfig()),
        ("ddpm-church-256", 113_673_219, DDPM_256),
        ("imagenet64", 295_899_267, ADM_64),
        ("bedroom256", 526_304_771, None),
    ],
)
def test_published_networks(name, count, preset):
    """Of each published configuration the names, shapes and number of parameters that diffusers has."""
    values, wanted = config_of(f"published_{name}"), shapes_of(f"published_{name}")
    side = published_side(values)
    config = unet2d_config(values)
    assert simplest(config, side) == config
    variables = shapes(config, side)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables)
    found = {each: array.shape for each, array in to_published(empty, rules=unet2d_rules(config)).items()}
    assert found == wanted
    if preset is not None:
        # that the padding is after the last row and column is of no concern to new networks
        free = {"resampling": config.resampling} if preset.resampling == "strided" else {}
        assert dataclasses.replace(simplest(preset, side), dropout=0.0, **free) == config
    assert unet2d_config(unet2d_values(config, side=side)) == config


REFUSED = {
    "an unknown entry": ({"dual": True}, "has the entry 'dual', which is not known here"),
    "another network": ({"_class_name": "UNet2DConditionModel"}, "is of 'UNet2DConditionModel'"),
    "skips": ({"down_block_types": ["SkipDownBlock2D"] * 3}, "has down_block_types .*'SkipDownBlock2D' is not supp"),
    "too few blocks": ({"up_block_types": ["UpBlock2D"]}, "has up_block_types .* not as many"),
    "attention elsewhere": (
        {"up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]},
        "has up_block_types .*not at the levels of down_block_types",
    ),
    "mixed": (
        {"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"]},
        "in residual blocks in one place",
    ),
    "widths": ({"block_out_channels": [16, 24, 32]}, r"has block_out_channels \[16, 24, 32\], which are not multiples"),
    "no widths": ({"block_out_channels": None}, "has block_out_channels null"),
    "a wide width": ({"block_out_channels": [16, 10**9, 32]}, "has block_out_channels"),
    "groups": ({"norm_num_groups": 5}, "has norm_num_groups 5, which does not divide"),
    "a truth": ({"layers_per_block": True}, "has layers_per_block true, which is no whole number"),
    "a word": ({"norm_eps": "small"}, "has norm_eps 'small', which is no number between"),
    "infinity": ({"norm_eps": float("inf")}, "has norm_eps inf, which is no number between"),
    "activation": ({"act_fn": "mish"}, "has act_fn 'mish', and only 'silu' or 'swish'"),
    "times": ({"time_embedding_type": "learned"}, "has time_embedding_type 'learned'"),
    "labels": ({"class_embed_type": "identity"}, "has class_embed_type 'identity', and only null"),
    "shift": ({"freq_shift": 2}, "has freq_shift 2, and only 0 to 1"),
    "padding": ({"downsample_padding": 2}, "has downsample_padding 2, and only 0 or 1"),
    "heads": ({"attention_head_dim": 7}, "has attention_head_dim 7, which does not divide"),
    "groups of attention": ({"attn_norm_num_groups": 2}, "has attn_norm_num_groups 2"),
    "dropout": ({"dropout": 1.5}, "has dropout 1.5"),
    "no side": ({"sample_size": None}, "has sample_size null, which says at which sides"),
    "an odd side": ({"sample_size": 18}, "images of 18 pixels do not have"),
    "no middle": ({"mid_block_type": None}, "has mid_block_type null"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_entries_that_are_refused(case):
    changed, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as refused:
        unet2d_config({**config_of("ddpm"), **changed}, origin="x/config.json")
    assert "x/config.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_networks_that_cannot_be_written():
    plain = UNetConfig(width=32, multipliers=(1, 2), attention=(16,), groups=8)
    unet2d_values(plain, side=16)
    for changed in (
        {"patch": 2},
        {"residual_scale": 0.5},
        {"up_attention": "last"},
        {"resampling": "residual_projected"},
        {"multipliers": (2, 2)},
        {"embedding": 8},
        {"condition_channels": 1},
        {"mid_attention": "plain"},
        {"heads": 4},
        {"groups": 32},
    ):
        with pytest.raises(UserError, match=f"no network with model.{next(iter(changed))} "):
            unet2d_values(dataclasses.replace(plain, **changed), side=16)


def test_hostile_folders(tmp_path):
    config, tensors = config_of("unattended"), arrays_of("unattended")
    good = lambda name: written(tmp_path / name, config, tensors)

    def refuses(folder, message):
        with pytest.raises(UserError, match=message) as refused:
            read_unet2d(folder)
        assert "\n" not in str(refused.value)

    refuses(tmp_path / "nowhere", "there is no .*config.json")
    folder = good("no config")
    (folder / "config.json").unlink()
    assert is_published_folder(folder)
    refuses(folder, "there is no .*config.json")
    (folder / "model_index.json").write_text("{}")
    refuses(folder, "is a pipeline of several networks: name the folder of one")
    for text in ("{", "[" * 100_000, "[]", "\xff"):
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        refuses(folder, "config.json (is damaged|holds no table)")
    (folder / "config.json").write_text(" " * (1 << 20) + "{}")
    refuses(folder, "has more than 1,048,576 bytes")
    folder = good("no weights")
    (folder / NAMES[0]).unlink()
    refuses(folder, "has no weights: put diffusion_pytorch_model.safetensors next to")
    folder = good("cut")
    (folder / NAMES[0]).write_bytes((folder / NAMES[0]).read_bytes()[:-10])
    refuses(folder, "is damaged or was not fully downloaded")
    folder = sharded(tmp_path / "shards", config, tensors)
    first = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    refuses(folder, "00001-of-00002.safetensors is damaged or was not fully downloaded")
    first.unlink()
    refuses(folder, "needs files that are not in its folder")
    index = folder / NAMES[1]
    for outside in ("../x.safetensors", "/etc/passwd", ".."):
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": outside}}))
        refuses(folder, "only files of its own folder are read")
    misfit = {**tensors, "conv_in.weight": tensors["conv_in.weight"][:, :2]}
    refuses(written(tmp_path / "misfit", config, misfit), "arrays that do not fit: conv_in.weight of shape")
    less = {name: array for name, array in tensors.items() if name != "conv_in.bias"}
    refuses(written(tmp_path / "less", config, less), "variables that nothing sets: params/stem/bias")
    more = {**tensors, "conv_skip.weight": tensors["conv_in.weight"]}
    refuses(written(tmp_path / "more", config, more), "arrays that belong nowhere here: conv_skip.weight")
    broken = {**tensors, "conv_in.bias": np.full_like(tensors["conv_in.bias"], np.nan)}
    refuses(written(tmp_path / "broken", config, broken), "numbers that are not finite")
    deep = {**config, "layers_per_block": 999}
    refuses(written(tmp_path / "deep", deep, tensors), "a network of 2,001 residual blocks, and its weights have 5:")


def started(folder, config, side=16):
    """What --init-from gives a run's network."""
    return read_initial_values(folder, shapes(config, side), folder=unet2d_source(config, side=side))


def test_a_run_starts_from_a_folder(tmp_path, capsys):
    folder = written(tmp_path / "unet", config_of("ddpm"), arrays_of("ddpm"))
    config, variables = read_unet2d(folder)
    # what a run chooses for itself, and other spellings of the same network
    run = dataclasses.replace(config, dropout=0.1, remat=True, dtype="bfloat16", out_channels=3, attention=(8, 5))
    found = started(folder, run)
    assert found.keys() == named(variables).keys()
    for name, array in named(variables).items():
        np.testing.assert_array_equal(found[name], array)
    assert "starting from published weights" in capsys.readouterr().err
    # labels are new
    labelled = started(folder, dataclasses.replace(config, classes=3))
    assert named(variables).keys() == labelled.keys()
    assert "label_embedding/embedding stay random" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"config.json describes another network than this run has: add --model.width"):
        started(folder, dataclasses.replace(config, width=32, multipliers=(1, 2, 3)))
    # attention is at the same levels of larger images
    larger = dataclasses.replace(config, attention=(16,))
    assert started(folder, larger, side=32).keys() == found.keys()
    with pytest.raises(UserError, match=r"add --model\.attention 16$"):
        started(folder, config, side=32)
    with pytest.raises(UserError, match="is a folder of diffusers, and no network"):
        read_initial_values(folder, shapes(config, 16))
    with pytest.raises(UserError, match=r"with their config\.json: name their folder"):
        read_initial_values(folder / NAMES[0], shapes(config, 16), folder=unet2d_source(config, side=16))


def test_a_run_without_variance_and_with_a_null_label(tmp_path, capsys):
    """The target's outputs of a network that predicts a variance too; "no label" adds nothing."""
    folder = written(tmp_path / "unet", config_of("adm"), arrays_of("adm"))
    config, variables = read_unet2d(folder)
    run = dataclasses.replace(config, out_channels=None, null_label=True)
    found = started(folder, run)
    assert "outputs for the variance are left out" in capsys.readouterr().err
    tree = shapes(run, 16)
    values = jax.tree.unflatten(jax.tree.structure(tree), [found[name] for name in named(tree)])
    expected = GOLDEN["adm_out"][..., :3]
    np.testing.assert_allclose(predicted("adm", run, values), expected, atol=1e-4)

    image, time = jnp.asarray(image_of(16, 3)), jnp.asarray([3, 700])
    null = lambda c, v: UNet(c).apply(v, image, time, {"label": jnp.asarray([5, 5])}, train=False)[..., :3]
    np.testing.assert_allclose(null(run, values), null(config, variables), atol=1e-4)
    with pytest.raises(UserError, match=r"add --model\.classes 5$"):
        started(folder, dataclasses.replace(run, classes=0))
    other = started(folder, dataclasses.replace(run, classes=7))
    assert "params/label_embedding/embedding" not in other
