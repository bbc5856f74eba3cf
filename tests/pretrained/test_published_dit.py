"""Published diffusion transformers: predictions of diffusers with weights by a formula of the name; what is refused.

The golden arrays, diffusers.npz, are made by make_diffusers_golden.py with PyTorch.
"""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_folders import GOLDEN, arrays_of, config_of, image_of, shapes_of, sharded, written

from vision.errors import UserError
from vision.models.dit import DIT_XL, DiT, DiTConfig, position_embedding
from vision.pretrained.diffusers_folder import NAMES, read_folder
from vision.pretrained.dit import dit_config, dit_rules, dit_source, dit_values, read_dit
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import named, to_published

EMBEDDINGS = "transformer_blocks.{}.norm1.emb."


def arrays(embeddings):
    """The published arrays, with embeddings of each block or copies of the first block's."""
    tensors = arrays_of("dit")
    if embeddings == "shared":
        for name in tensors:
            if name.startswith(EMBEDDINGS.format(1)):
                tensors[name] = tensors[name.replace("blocks.1.", "blocks.0.")]
    return tensors


@cache
def shapes(config):
    """Shapes of the variables."""
    image, one = jnp.zeros((1, 8, 8, config.channels)), jnp.zeros(1, jnp.int32)
    condition = {"label": one} if config.classes else {}
    return jax.eval_shape(lambda: DiT(config).init(jax.random.key(0), image, one, condition, train=False))


def predicted(config, variables):
    """Of the two golden images; the second has no label."""
    arguments = image_of(8, 4), jnp.asarray([3, 700]), {"label": jnp.asarray([1, 5])}
    return jax.jit(lambda *of: DiT(config).apply(variables, *of, train=False))(*arguments)


@pytest.mark.parametrize("embeddings", ["shared", "each"])
@pytest.mark.parametrize("kind", ["dit", "dit_old"])
def test_predictions_of_diffusers(embeddings, kind, tmp_path):
    config, variables = read_dit(written(tmp_path / "dit", config_of(kind), arrays(embeddings)))
    assert config.embeddings == embeddings
    expected = GOLDEN[f"dit_{embeddings}_out"]
    np.testing.assert_allclose(predicted(config, variables), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize("embeddings", ["shared", "each"])
def test_there_and_back(embeddings, tmp_path):
    """The same arrays, whose bytes a file in half precision keeps too, and the same entries."""
    tensors = arrays(embeddings)
    config, variables = read_dit(sharded(tmp_path / "published", config_of("dit"), tensors))
    dit_source(config, side=8).write(tmp_path / "ours", variables)
    values, found = read_folder(tmp_path / "ours")
    equal(found, tensors)
    stated = config_of("dit")
    assert {name: values[name] for name in stated} == stated
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    assert read_dit(written(tmp_path / "half", config_of("dit"), half, name=NAMES[2]))[0] == config


def test_the_largest_published_network():
    """Names, shapes and number of parameters of DiT-XL/2, which holds its embeddings 28 times."""
    config = dit_config(config_of("published_dit-xl"))
    changes = {"channels": 4, "out_channels": 8, "classes": 1000, "dense_epsilon": 1e-5}
    assert config == dataclasses.replace(DIT_XL, **changes)
    assert dit_config(dit_values(config, side=32)) == config
    variables = shapes(config)
    positions = 256 * config.width  # published code counts the fixed table among its parameters
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) + positions == 675_129_632
    for embeddings in ("shared", "each"):
        config = dataclasses.replace(config, embeddings=embeddings)
        empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(config))
        found = {name: array.shape for name, array in to_published(empty, rules=dit_rules(config)).items()}
        wanted = shapes_of("published_dit-xl")
        if embeddings == "shared":
            wanted = {name: shape for name, shape in wanted.items() if ".emb." not in name or "blocks.0." in name}
        assert found == wanted


REFUSED = {
    "an unknown entry": ({"qk_norm": True}, "has the entry 'qk_norm', which is not known here"),
    "another network": ({"_class_name": "SD3Transformer2DModel"}, "is of 'SD3Transformer2DModel'"),
    "no name": ({"_class_name": None}, "is of null, and the weights of a DiTTransformer2DModel or"),
    "norm": ({"norm_type": "ada_norm_single"}, "has norm_type 'ada_norm_single', and only 'ada_norm_zero'"),
    "activation": ({"activation_fn": "geglu"}, "has activation_fn 'geglu'"),
    "text": ({"cross_attention_dim": 64}, "has cross_attention_dim 64, and only null"),
    "bias": ({"attention_bias": False}, "has attention_bias false, and only true"),
    "dropout": ({"dropout": 0.1}, "has dropout 0.1"),
    "labels": ({"num_embeds_ada_norm": None}, "has num_embeds_ada_norm null"),
    "width": ({"attention_head_dim": 7}, "has attention_head_dim 7, of which 2 are no multiple of 4"),
    "positions": ({"interpolation_scale": 2}, "has interpolation_scale 2, and only 1 or null"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_entries_that_are_refused(case):
    changed, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        dit_config({**config_of("dit"), **changed})


def test_positions_that_diffusers_compresses():
    large = {**config_of("dit_old"), "sample_size": 128}
    with pytest.raises(UserError, match="has interpolation_scale null, and only 1"):
        dit_config(large)
    dit_config({**large, "interpolation_scale": 1})


def test_networks_that_cannot_be_written():
    plain = DiTConfig(width=16, depth=1, heads=2, classes=3)
    dit_values(plain, side=8)
    for changed in ({"classes": 0}, {"expansion": 2}, {"embedding": 8}, {"condition_channels": 1}):
        with pytest.raises(UserError, match=f"no network with model.{next(iter(changed))} "):
            dit_values(dataclasses.replace(plain, **changed), side=8)


def test_hostile_folders(tmp_path):
    config, tensors = config_of("dit"), arrays("shared")

    def refuses(name, tensors, message, config=config):
        with pytest.raises(UserError, match=message) as refused:
            read_dit(written(tmp_path / name, config, tensors))
        assert "\n" not in str(refused.value)

    without = lambda part: {name: array for name, array in tensors.items() if part not in name}
    refuses("label", without("blocks.1.norm1.emb.class"), "has 1 arrays norm1.emb.class_embedder.* for 2 blocks")
    refuses("first", without("blocks.0.norm1.emb.class"), "has no transformer_blocks.0.norm1.emb.class_embedder")
    refuses("block", without("blocks.1.attn1.to_q"), "variables that nothing sets: params/block_1/query")
    refuses("more", tensors, "describes a network of 1 blocks, and its weights have 2", {**config, "num_layers": 1})
    surplus = {**tensors, "transformer_blocks.2.attn1.to_q.bias": tensors["transformer_blocks.1.attn1.to_q.bias"]}
    refuses("surplus", surplus, "arrays that belong nowhere here: transformer_blocks.2.attn1.to_q.bias")
    misfit = {**tensors, "proj_out_2.weight": tensors["proj_out_2.weight"][:-1]}
    refuses("misfit", misfit, "arrays that do not fit: proj_out_2.weight of shape")
    halves = position_embedding(4, 4, 16)
    table = np.concatenate([halves[:, 8:], halves[:, :8]], axis=1)[None]
    refuses("moved", {**tensors, "pos_embed.pos_embed": table + 1}, "has other positions")
    _, variables = read_dit(written(tmp_path / "plain", config, tensors))
    equal(read_dit(written(tmp_path / "table", config, {**tensors, "pos_embed.pos_embed": table}))[1], variables)


def test_a_run_starts_from_a_folder(tmp_path, capsys):
    folder = written(tmp_path / "dit", config_of("dit"), arrays("shared"))
    config, variables = read_dit(folder)
    start = lambda run: read_initial_values(folder, shapes(run), folder=dit_source(run, side=8))
    found = start(dataclasses.replace(config, remat=True, dtype="bfloat16"))
    assert found.keys() == named(variables).keys()
    for name, array in named(variables).items():
        np.testing.assert_array_equal(found[name], array)

    target = dataclasses.replace(config, out_channels=None)
    found = start(target)
    assert "outputs for the variance are left out" in capsys.readouterr().err
    tree = shapes(target)
    values = jax.tree.unflatten(jax.tree.structure(tree), [found[name] for name in named(tree)])
    np.testing.assert_allclose(predicted(target, values), GOLDEN["dit_shared_out"][..., :4], atol=1e-4)

    assert "params/label_embedding/embedding" not in start(dataclasses.replace(config, classes=7))
    with pytest.raises(UserError, match=r"than this run has: add --model\.depth 2 --model\.dense-epsilon 0\.01$"):
        start(dataclasses.replace(config, depth=3, dense_epsilon=1e-6))
    with pytest.raises(UserError, match=r"add --model\.classes 5$"):
        start(dataclasses.replace(config, classes=0))
    each = written(tmp_path / "each", config_of("dit"), arrays("each"))
    with pytest.raises(UserError, match=r"add --model\.embeddings each$"):
        read_initial_values(each, shapes(config), folder=dit_source(config, side=8))
