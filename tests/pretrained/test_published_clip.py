"""Published CLIPs: embeddings and logits of transformers and open_clip, names both ways, and files that do not fit.

The golden arrays are made by make_clip_golden.py with transformers and open_clip.
"""

import json
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_weights import golden_image, published_array

from vision.errors import UserError
from vision.models.clip.clip import RN50, VIT_B32, Clip
from vision.pretrained.clip import (
    PublishedClip,
    clip_rules,
    clip_shapes,
    clip_source,
    clip_weights,
    of_transformers,
    openai_size,
    read_clip,
    to_transformers,
    write_clip,
)
from vision.pretrained.clip_config import clip_config, clip_values
from vision.pretrained.diffusers_folder import is_published_folder, read_folder
from vision.pretrained.rules import to_published
from vision.pretrained.state_dict import write_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "clip.npz")
CONFIG = json.loads(str(GOLDEN["transformers_config"]))
TOKENS = jnp.array([[62, 5, 9, 63, 63, 63, 63], [62, 1, 2, 3, 4, 60, 63]], jnp.int32)
TOWERS = ("vit", "resnet")


def golden_names(name):
    return {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"{name}_names"])).items()}


def empty(shapes):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


@cache
def openai(tower):
    """A state dict in OpenAI's layout."""
    shapes = golden_names(f"openai_{tower}")
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    arrays = {key: np.asarray(published_array(key, shape)) for key, shape in shapes.items() if key not in counters}
    return {**arrays, **{key: np.array(0) for key in counters}}


@cache
def transformers():
    """The arrays of the golden CLIPModel by its names."""
    size = clip_config(CONFIG, origin="config.json")
    ours = to_published(empty(clip_shapes(size.config, 16)), rules=clip_rules(size.config))
    shapes = {key: array.shape for key, array in to_transformers(ours).items()}
    return {key: np.asarray(published_array(key, shape)) for key, shape in shapes.items()}


def put(folder, config=CONFIG, tensors=None):
    """A folder of transformers, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    write_state_dict(folder / "model.safetensors", transformers() if tensors is None else tensors)
    return folder


def test_logits_of_transformers(tmp_path):
    found = read_clip(put(tmp_path / "clip"))
    model, image = Clip(found.config), jnp.asarray(golden_image(16, 16))
    assert found.resolution == 16
    images = model.apply(found.variables, image, train=False, method="encode_image")["embedding"]
    texts = model.apply(found.variables, TOKENS, train=False, method="encode_text")
    np.testing.assert_allclose(texts["tokens"], GOLDEN["transformers_tokens"], atol=1e-5)
    pairs = jax.jit(lambda v: model.apply(v, image, TOKENS, train=False))(found.variables)
    np.testing.assert_allclose(pairs.scale * pairs.image @ pairs.text.T, GOLDEN["transformers_logits"], atol=1e-4)
    for key, value in (("image", pairs.image), ("text", pairs.text)):
        np.testing.assert_allclose(value, GOLDEN[f"transformers_{key}"], atol=1e-5, err_msg=key)
    for raw, unit in ((images, pairs.image), (texts["embedding"], pairs.text)):
        np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, atol=1e-6)


@pytest.mark.parametrize("tower", TOWERS)
def test_embeddings_of_openai(tower, tmp_path):
    """Of the layout of OpenAI's state dicts, whose arrays say what network it is."""
    write_state_dict(tmp_path / "clip.safetensors", openai(tower))
    found = read_clip(tmp_path / "clip.safetensors")
    model, side = Clip(found.config), {"vit": 16, "resnet": 64}[tower]
    assert found.resolution == side
    image = jax.jit(lambda v, x: model.apply(v, x, train=False, method="encode_image")["embedding"])(
        found.variables, jnp.asarray(golden_image(side, side))
    )
    text = model.apply(found.variables, TOKENS, train=False, method="encode_text")["embedding"]
    np.testing.assert_allclose(image, GOLDEN[f"openai_{tower}_image"], atol=1e-4)
    np.testing.assert_allclose(text, GOLDEN[f"openai_{tower}_text"], atol=1e-4)
    # and back, but for the counters
    back = to_published(found.variables, rules=clip_rules(found.config))
    kept = {name: array for name, array in openai(tower).items() if not name.endswith("num_batches_tracked")}
    assert back.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.parametrize(("name", "config"), [("vit_b32", VIT_B32), ("rn50", RN50)])
def test_names_and_shapes_of_published_sizes(name, config):
    wanted = {key: shape for key, shape in golden_names(name).items() if not key.endswith("num_batches_tracked")}
    made = to_published(empty(clip_shapes(config, 224)), rules=clip_rules(config))
    assert {key: array.shape for key, array in made.items()} == wanted
    if name == "vit_b32":
        theirs = {key: array.shape for key, array in to_transformers(made).items()}
        assert theirs == golden_names("vit_b32_transformers")
    size = openai_size(made, origin="file")
    assert (size.config, size.resolution) == (config, 224)


def test_a_folder_is_written_as_it_was_read(tmp_path):
    found = read_clip(put(tmp_path / "clip"))
    write_clip(tmp_path / "again", found)
    assert is_published_folder(tmp_path / "again")
    config, tensors = read_folder(tmp_path / "again")
    assert tensors.keys() == transformers().keys()
    for name, array in transformers().items():
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)
    assert clip_config(config, origin="again").config == found.config
    with pytest.raises(UserError, match="exists already"):
        write_clip(tmp_path / "again", found)
    shapes = clip_shapes(RN50, 224)
    with pytest.raises(UserError, match="has no ResNets"):
        write_clip(tmp_path / "resnet", PublishedClip(config=RN50, resolution=224, variables=shapes))


def test_names_there_and_back():
    assert to_transformers(of_transformers(transformers())).keys() == transformers().keys()
    lonely = {key: array for key, array in transformers().items() if ".0.self_attn.k_proj.weight" not in key}
    with pytest.raises(UserError, match=r"queries, keys and values of .* are missing or of different shapes"):
        of_transformers(lonely)


def test_a_run_starts_from_a_folder(tmp_path):
    """Position embeddings of another grid are interpolated; another network is refused with the options to add."""
    folder, config = put(tmp_path / "clip"), clip_config(CONFIG, origin="").config
    read = clip_source(config, resolution=32).read(folder)
    assert read.tensors["visual.positional_embedding"].shape == (17, 128)
    assert read.notes == ("position embeddings of 2x2 places are interpolated to 4x4",)
    np.testing.assert_array_equal(
        read.tensors["visual.positional_embedding"][0],
        transformers()["vision_model.embeddings.position_embedding.weight"][0],
    )
    with pytest.raises(UserError, match=r"another network than this run has: add .*--model.text.vocabulary 64"):
        clip_source(VIT_B32, resolution=224).read(folder)
    shapes = clip_shapes(config, 16)
    from_file = clip_weights({**transformers(), "text_model.embeddings.position_ids": np.arange(7)}, shapes)
    assert from_file.tensors.keys() == openai("vit").keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "siglip"}, "is of 'siglip', and a CLIPModel is expected here"),
        ({"text_config": {**CONFIG["text_config"], "hidden_act": "relu"}}, "hidden_act 'relu', and only"),
        ({"vision_config": {**CONFIG["vision_config"], "hidden_act": "gelu"}}, "hidden_act 'gelu', and only"),
        ({"vision_config": {**CONFIG["vision_config"], "image_size": 17}}, "which patches of 8 do not divide"),
        ({"vision_config": {**CONFIG["vision_config"], "num_attention_heads": 3}}, "no multiple of its num_attention"),
        ({"text_config": {**CONFIG["text_config"], "intermediate_size": 5}}, "and only 4 times 64 is supported"),
        ({"text_config": {**CONFIG["text_config"], "eos_token_id": 64}}, "none of 64 tokens"),
        ({"text_config": {**CONFIG["text_config"], "layer_norm_eps": 1e-6}}, "and only 1e-05 is supported"),
        ({"text_config": [1]}, "a text_config that is no table"),
        (
            {"text_config": {**CONFIG["text_config"], "num_hidden_layers": 900}},
            "describes a network of 902 transformer",
        ),
    ],
)
def test_configurations_that_cannot_be_followed(change, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        read_clip(put(tmp_path / "clip", {**CONFIG, **change}))
    assert "\n" not in str(error.value)


def test_old_configurations():
    """An end token of 2 stands for the last of the vocabulary, and the tables may have another name."""
    text = {**CONFIG["text_config"], "eos_token_id": 2}
    old = {**CONFIG, "text_config": None, "text_config_dict": text}
    assert clip_config(old, origin="").config.text.end == 63
    values = clip_values(clip_config(CONFIG, origin="").config, resolution=16)
    assert clip_config(values, origin="") == clip_config(CONFIG, origin="")


def test_arrays_that_do_not_fit(tmp_path):
    tensors = dict(transformers())
    tensors["text_projection.weight"] = tensors["text_projection.weight"][:, :3]
    with pytest.raises(UserError, match="arrays that do not fit"):
        read_clip(put(tmp_path / "clip", tensors=tensors))
    for file, arrays in (("a", {"x": np.zeros(3)}), ("b", {**openai("vit"), "token_embedding.weight": np.zeros(3)})):
        write_state_dict(tmp_path / f"{file}.safetensors", arrays)
        with pytest.raises(UserError, match="is no state dict of OpenAI's CLIP"):
            read_clip(tmp_path / f"{file}.safetensors")


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(openai("resnet"))), shape=st.lists(st.integers(0, 3), max_size=4))
def test_any_shape_is_read_or_refused_in_a_sentence(name, shape):
    said = ""
    try:
        size = openai_size({**openai("resnet"), name: np.zeros(shape, np.float32)}, origin="file")
        assert size.resolution >= 0
    except UserError as error:
        said = str(error)
    assert "\n" not in said
