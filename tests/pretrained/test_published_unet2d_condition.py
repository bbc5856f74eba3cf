"""Published networks with a context: predictions of diffusers with weights by a formula, and what folders may lack.

The golden arrays, condition_unets.npz, are made by make_condition_unets_golden.py with PyTorch.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from condition_unets import GOLDEN, arrays_of, config_of, shapes_of, values
from diffusers_folders import sharded, written

from vision.errors import UserError
from vision.models.unet import UNet
from vision.models.unet_condition.text_projection import TextProjection
from vision.models.unet_condition.transformer import SpatialTransformer
from vision.models.unet_condition.unet import STABLE_DIFFUSION_2, ConditionUNet, ConditionUNetConfig
from vision.pretrained.diffusers_folder import NAMES, read_folder
from vision.pretrained.rules import Rule, from_published, to_published
from vision.pretrained.text_projection import RULES, read_text_projection, text_projection_shapes, write_text_projection
from vision.pretrained.unet2d import unet2d_rules
from vision.pretrained.unet2d_condition import (
    read_unet2d_condition,
    unet2d_condition_rules,
    unet2d_condition_shapes,
    write_unet2d_condition,
)
from vision.pretrained.unet2d_condition_config import unet2d_condition_config, unet2d_condition_values
from vision.pretrained.unet2d_config import unet2d_config

CASES = ("sd1", "sd2", "only_cross", "times", "projected", "linear", "karlo", "karlo_context")
CONDITIONS = {
    "only_cross": {"label": jnp.asarray([1, 4])},
    "times": {"embedding": jnp.asarray([20.0, 500.0])},
    "projected": {"embedding": values("embedding", 2, 6)},
    "linear": {"embedding": values("embedding", 2, 6)},
    "karlo": {
        "embedding": values("embedding", 2, 64),
        "context_mask": jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool),
    },
}


def equal(one, other):
    """Trees of equal arrays."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def predicted(case, config, variables):
    """Of the two golden images."""
    whole = values("image", 2, 8, 8, config.channels + config.condition_channels)
    condition = {"context": values("context", 2, 5, 12), **CONDITIONS.get(case, {})}
    if config.condition_channels:
        condition["image"] = whole[..., config.channels :]
    network = ConditionUNet(config)
    call = jax.jit(lambda *of: network.apply(variables, *of, train=False))
    return call(whole[..., : config.channels], jnp.asarray([3, 700]), condition)


@pytest.mark.parametrize("case", CASES)
def test_predictions_of_diffusers(case, tmp_path):
    """Also that what is written computes the same and has diffusers' names and shapes."""
    config, variables = read_unet2d_condition(written(tmp_path / "unet", config_of(case), arrays_of(case)))
    np.testing.assert_allclose(predicted(case, config, variables), GOLDEN[f"{case}_out"], atol=1e-4)

    write_unet2d_condition(tmp_path / "ours", config, variables, side=8)
    _, tensors = read_folder(tmp_path / "ours")
    flat = lambda shape: shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
    of_projections = lambda shapes: {name: flat(shape) if ".proj_" in name else shape for name, shape in shapes.items()}
    assert {name: array.shape for name, array in tensors.items()} == of_projections(shapes_of(case))
    again, same = read_unet2d_condition(tmp_path / "ours")
    assert again == config
    equal(same, variables)
    with pytest.raises(UserError, match="exists already"):
        write_unet2d_condition(tmp_path / "ours", config, variables)


def test_the_transformer_alone():
    module = SpatialTransformer(heads=2, depth=2, groups=4)
    features, context = values("image", 2, 4, 4, 16), values("context", 2, 5, 12)
    target = jax.eval_shape(lambda: module.init(jax.random.key(0), features, context, train=False))
    config = ConditionUNetConfig(widths=(16,), blocks=(1,), layers=(2,), heads=(2,), attending=(), groups=4, context=12)
    prefix = "mid_block.attentions.0."
    rules = [
        Rule(rule.published.removeprefix(prefix), rule.ours.replace("mid_attention/", ""), rule.layout)
        for rule in unet2d_condition_rules(config, linear=False)
        if rule.published.startswith(prefix)
    ]
    variables, _ = from_published(arrays_of("transformer"), target, rules=rules)
    made = module.apply(variables, features, context, train=False)
    np.testing.assert_allclose(made, GOLDEN["transformer_out"], atol=1e-5)


def test_the_text_projection_of_karlo(tmp_path):
    folder = written(tmp_path / "text_proj", config_of("projection"), arrays_of("projection"))
    config, variables = read_text_projection(folder)
    text, tokens = values("text", 2, 6), values("tokens", 2, 5, 6)
    project = lambda image, row: TextProjection(config).apply(variables, image, text[row], tokens[row])
    for image, row in ((None, slice(0, 1)), (values("image", 1, 6), slice(1, 2))):
        made = project(image, row)
        np.testing.assert_allclose(made["context"], GOLDEN["projection_context"][row], atol=1e-5)
        np.testing.assert_allclose(made["embedding"], GOLDEN["projection_embedding"][row], atol=1e-5)
    write_text_projection(tmp_path / "ours", config, variables)
    stated, tensors = read_folder(tmp_path / "ours")
    assert stated == config_of("projection")
    for name, array in arrays_of("projection").items():
        np.testing.assert_array_equal(tensors[name], array)
    whole = text_projection_shapes(type(config)())
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), whole)
    found = {name: array.shape for name, array in to_published(empty, rules=RULES).items()}
    assert found == shapes_of("published_karlo-text-projection")
    (folder / "config.json").write_text(json.dumps({"_class_name": "UnCLIPTextProjModel", "time_embed_dim": 8}))
    with pytest.raises(UserError, match="has cross_attention_dim null"):
        read_text_projection(folder)


@pytest.mark.parametrize(
    ("name", "count", "preset"),
    [
        ("stable-diffusion-v1-5", 859_520_964, ConditionUNetConfig()),
        ("stable-diffusion-2-1", 865_910_724, STABLE_DIFFUSION_2),
        ("instruct-pix2pix", 859_532_484, ConditionUNetConfig(condition_channels=4)),
        ("stable-diffusion-inpainting", 859_535_364, ConditionUNetConfig(condition_channels=5)),
        ("karlo-decoder", 885_439_686, None),
    ],
)
def test_published_networks(name, count, preset):
    """Of each published configuration the names, shapes and number of parameters that diffusers has."""
    stated, wanted = config_of(f"published_{name}"), shapes_of(f"published_{name}")
    config = unet2d_condition_config(stated)
    shapes = unet2d_condition_shapes(config)
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert found == sum(np.prod(shape, dtype=np.int64) for shape in wanted.values())
    assert found == count
    assert preset in (None, config)
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    rules = unet2d_condition_rules(config, linear=stated.get("use_linear_projection", False))
    assert {each: array.shape for each, array in to_published(empty, rules=rules).items()} == wanted
    assert unet2d_condition_config(unet2d_condition_values(config, side=64)) == config


def test_karlos_super_resolution():
    """Six channels in, three out, nothing attends: a `UNet`."""
    stated, wanted = (of("published_karlo-super-resolution") for of in (config_of, shapes_of))
    config = unet2d_config(stated)
    image, time = jnp.zeros((1, 8, 8, 6)), jnp.zeros(1)
    shapes = jax.eval_shape(lambda: UNet(config).init(jax.random.key(0), image, time, {}, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 691_579_523
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    rules = unet2d_rules(config)
    assert {each: array.shape for each, array in to_published(empty, rules=rules).items()} == wanted


REFUSED = {
    "an unknown entry": ({"dual": True}, "has the entry 'dual', which is not known here"),
    "another network": ({"_class_name": "UNet2DModel"}, "is of 'UNet2DModel', and the weights of a UNet2DCondition"),
    "blocks": ({"down_block_types": ["KDownBlock2D"] * 2}, "has down_block_types .*'KDownBlock2D' is not supported"),
    "mixed blocks": (
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
        "'CrossAttnDownBlock2D' is not supported with UNetMidBlock2DSimpleCrossAttn",
    ),
    "no middle": ({"mid_block_type": "UNetMidBlock2D"}, "has mid_block_type 'UNetMidBlock2D', and only"),
    "too few blocks": ({"up_block_types": ["UpBlock2D"]}, "has up_block_types .* not as many as block_out_channels"),
    "attention elsewhere": (
        {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
        "has up_block_types .*not at the levels of down_block_types",
    ),
    "layers": ({"layers_per_block": [1, 2, 3]}, r"has layers_per_block \[1, 2, 3\], which are not as many"),
    "contexts": ({"cross_attention_dim": [12, 16]}, "has cross_attention_dim .* only one number for all blocks"),
    "groups": ({"norm_num_groups": 5}, "has norm_num_groups 5, which does not divide"),
    "heads": ({"attention_head_dim": 3}, "has attention_head_dim 3, which does not divide"),
    "channels": ({"out_channels": 5}, "has out_channels 5, which are neither fewer than in_channels 4 nor twice"),
    "SDXL": ({"addition_embed_type": "text_time"}, "has addition_embed_type 'text_time', and only null"),
    "Kandinsky": ({"encoder_hid_dim_type": "image_proj"}, "has encoder_hid_dim_type 'image_proj', and only null"),
    "concatenated": ({"class_embeddings_concat": True}, "has class_embeddings_concat true, and only false"),
    "class embeddings": ({"class_embed_type": "learned"}, "has class_embed_type 'learned'"),
    "no size": ({"class_embed_type": "projection"}, "has projection_class_embeddings_input_dim null, which class_emb"),
    "kernels": ({"conv_in_kernel": 1}, "has conv_in_kernel 1, and only 3"),
    "gates": ({"attention_type": "gated"}, "has attention_type 'gated', and only 'default'"),
    "two contexts": ({"dual_cross_attention": True}, "has dual_cross_attention true, and only false"),
    "activation": ({"act_fn": "mish"}, "has act_fn 'mish', and only 'silu'"),
    "times": ({"time_embedding_type": "fourier"}, "has time_embedding_type 'fourier', and only 'positional'"),
    "a word": ({"norm_eps": "small"}, "has norm_eps 'small', which is no number between"),
    "shift": ({"freq_shift": 2}, "has freq_shift 2, and only 0 to 1"),
    "dropout": ({"dropout": 1.5}, "has dropout 1.5"),
    "depth": ({"transformer_layers_per_block": 0}, "has transformer_layers_per_block 0, which is no whole number"),
    "a wide width": ({"block_out_channels": [16, 10**9]}, "has block_out_channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_entries_that_are_refused(case):
    changed, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as refused:
        unet2d_condition_config({**config_of("sd1"), **changed}, origin="x/config.json")
    assert "x/config.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_entries_of_karlo_that_are_refused():
    for changed, message in (
        ({"attention_head_dim": [8, 16]}, "has attention_head_dim .* only one number is supported with such blocks"),
        ({"norm_eps": 1e-6}, "has norm_eps 1e-06, and only 1e-05 is supported with such blocks"),
    ):
        with pytest.raises(UserError, match=message):
            unet2d_condition_config({**config_of("karlo"), **changed})


def test_networks_that_cannot_be_written():
    joint = ConditionUNetConfig(
        widths=(16, 32), blocks=(1, 1), layers=(1, 1), heads=(2, 4), attention="joint", resampling="residual", groups=4
    )
    joint = dataclasses.replace(joint, attending=(0,))
    assert unet2d_condition_config(unet2d_condition_values(joint)) == joint
    for changed, name in (({"heads": (2, 2)}, "heads"), ({"resampling": "strided"}, "resampling")):
        with pytest.raises(UserError, match=f"no network with model.{name} "):
            unet2d_condition_values(dataclasses.replace(joint, **changed))


def test_hostile_folders(tmp_path):
    config, tensors = config_of("sd1"), arrays_of("sd1")

    def refuses(folder, message):
        with pytest.raises(UserError, match=message) as refused:
            read_unet2d_condition(folder)
        assert "\n" not in str(refused.value)

    refuses(tmp_path / "nowhere", "there is no .*config.json")
    folder = written(tmp_path / "no weights", config, tensors)
    (folder / NAMES[0]).unlink()
    refuses(folder, "has no weights: put diffusion_pytorch_model.safetensors next to")
    folder = sharded(tmp_path / "shards", config, tensors)
    assert read_unet2d_condition(folder)[0].heads == (2, 2)
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    refuses(folder, "needs files that are not in its folder")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    misfit = {**tensors, name: tensors[name][:, :5]}
    refuses(written(tmp_path / "misfit", config, misfit), f"arrays that do not fit: {name} of shape")
    less = {each: array for each, array in tensors.items() if each != "conv_in.bias"}
    refuses(written(tmp_path / "less", config, less), "variables that nothing sets: params/stem/bias")
    more = {**tensors, "add_embedding.linear_1.weight": tensors["conv_in.weight"]}
    refuses(written(tmp_path / "more", config, more), "arrays that belong nowhere here: add_embedding.linear_1.weight")
    deep = {**config, "layers_per_block": 999}
    refuses(written(tmp_path / "deep", deep, tensors), "a network of 4,000 residual blocks, and its weights have 8:")
    deep = {**config, "transformer_layers_per_block": 999}
    refuses(
        written(tmp_path / "layers", deep, tensors), "a network of 3,996 transformer blocks, and its weights have 4:"
    )
    # linear layers where config.json says convolutions
    flat = {
        each: array[..., 0, 0] if ".proj_" in each and array.ndim == 4 else array for each, array in tensors.items()
    }
    refuses(written(tmp_path / "flat", config, flat), "arrays that do not fit: .*proj_in.weight of shape")
