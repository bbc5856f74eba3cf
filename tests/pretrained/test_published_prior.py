"""Published priors: predictions and a sampling path of diffusers, there and back, what is refused.

The golden arrays, prior.npz, are made by make_prior_golden.py with PyTorch.
"""

import dataclasses
import json
import math
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_folders import written
from published_weights import published_array, uniform

from vision.diffusion.guidance import denoiser, guided, static_threshold
from vision.errors import UserError
from vision.models.prior import PUBLISHED, SCALE, PriorConfig, PriorTransformer
from vision.pretrained.diffusers_folder import read_folder
from vision.pretrained.initial import read_initial_values
from vision.pretrained.prior import prior_config, prior_rules, prior_shapes, prior_source, prior_values, read_prior
from vision.pretrained.rules import named, to_published
from vision.pretrained.scheduler_config import (
    FILE,
    PublishedProcess,
    clip_range,
    read_scheduler_config,
    unclip_scheduler,
)
from vision.tasks.diffusion import DiffusionConfig, make_process
from vision.tasks.sampling import SamplingConfig, make_plan, predictor

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "prior.npz")
CASES = ("plain", "normed")


def config_of(case):
    return json.loads(str(GOLDEN[f"{case}_config"]))


@cache
def arrays_of(case):
    names = json.loads(str(GOLDEN[f"{case}_names"]))
    return {name: published_array(name, tuple(shape)) for name, shape in names.items()}


def given(name, *shape):
    return jnp.asarray(2.0 * uniform(name, shape), jnp.float32)


def text(config, which, mask):
    return {
        "text_embedding": given(f"{which} embedding", 2, config.text_embedding),
        "text_states": given(f"{which} states", 2, 5, config.text_width),
        "text_mask": jnp.asarray(mask),
    }


MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


@pytest.mark.parametrize("case", CASES)
def test_predictions_of_diffusers(case, tmp_path):
    config, variables = read_prior(written(tmp_path / "prior", config_of(case), arrays_of(case)))
    arguments = given("noisy", 2, 12)[:, None, None], jnp.asarray([3, 700]), text(config, "text", MASK)
    run = jax.jit(lambda *of: PriorTransformer(config).apply({"params": variables["params"]}, *of, train=False))
    expected = GOLDEN[f"{case}_out"]
    np.testing.assert_allclose(run(*arguments)[:, 0, 0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_sampling_path_of_diffusers(tmp_path):
    """Every point of a guided path: schedule, times, threshold, variance, with the noise of the published code."""
    folder = written(tmp_path / "prior", config_of("plain"), arrays_of("plain"))
    config, variables = read_prior(folder)
    (tmp_path / "prior_scheduler").mkdir()
    file = tmp_path / "prior_scheduler" / FILE
    file.write_text(str(GOLDEN["scheduler"]))
    found = read_scheduler_config(file)
    assert (found.schedule, found.steps, found.prediction) == ("cosine", 100, "x0")
    assert clip_range(file) == 0.75
    process = make_process(DiffusionConfig(schedule="cosine", steps=100))
    plan = make_plan(process, SamplingConfig(method="ancestral", steps=6))
    np.testing.assert_array_equal(plan.times, GOLDEN["times"])
    network = predictor(PriorTransformer(config), {"params": variables["params"]})
    denoise = guided(
        denoiser(network, process, "x0"),
        condition=text(config, "text", MASK),
        null=text(config, "empty", np.ones_like(MASK)),
        scale=3.0,
    )
    point, call = given("start", 2, 12)[:, None, None], jax.jit(denoise)
    for number, (row, time) in enumerate(zip(plan.rows, plan.times, strict=True)):
        estimate = static_threshold(0.75)(call(point, jnp.full(2, int(time))))
        moved = (row.from_base + row.from_point) * point + row.move[0] * estimate
        point = moved + row.deviation * given(f"noise {number}", 2, 12)[:, None, None]
        np.testing.assert_allclose(point[:, 0, 0], GOLDEN["path"][number], atol=1e-4)
    scale = variables[SCALE]
    np.testing.assert_allclose(point[:, 0, 0] * scale["deviation"] + scale["mean"], GOLDEN["embedding"], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, tmp_path):
    tensors = arrays_of(case)
    config, variables = read_prior(written(tmp_path / "prior", config_of(case), tensors))
    prior_source(config, limit=5.0).write(tmp_path / "ours", variables)
    values, found = read_folder(tmp_path / "ours")
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
    assert prior_config(values) == config == prior_config(prior_values(config))
    for name, value in config_of(case).items():
        if not name.startswith("_") and value is not None:
            assert values[name] == value, name


def test_the_default_size():
    """1,022,030,080 parameters, mean and deviation of embeddings among them; their names and shapes."""
    assert prior_config(config_of("published")) == PUBLISHED
    shapes = prior_shapes(PUBLISHED)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 1_022_030_080
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    found = to_published(empty, rules=prior_rules())
    wanted = {name: tuple(shape) for name, shape in json.loads(str(GOLDEN["published_names"])).items()}
    joined = {name: array.shape for name, array in found.items() if "to_qkv" in name}
    assert len(joined) == 40
    rest = {name: shape for name, shape in wanted.items() if not any(f"to_{part}." in name for part in "qkv")}
    assert {name: array.shape for name, array in found.items() if name not in joined} == rest


REFUSED = {
    "an unknown entry": ({"qk_norm": True}, "has the entry 'qk_norm', which is not known here"),
    "another network": ({"_class_name": "UNet2DModel"}, "is of 'UNet2DModel', and the weights of a PriorTransformer"),
    "outputs": ({"clip_embed_dim": 24}, "has clip_embed_dim 24, of a network whose input has 12"),
    "states": ({"encoder_hid_proj_type": None}, "has num_embeddings 5, which are those of the hidden states"),
    "more tokens": ({"additional_embeddings": 0}, "has additional_embeddings 0, and only 4 is supported"),
    "added": ({"added_emb_type": "sum"}, "has added_emb_type 'sum', and only 'prd' or null"),
    "norm": ({"norm_in_type": "group"}, "has norm_in_type 'group', and only 'layer' or null"),
    "activation": ({"time_embed_act_fn": "mish"}, "has time_embed_act_fn 'mish'"),
    "dropout": ({"dropout": 1.5}, "describes a network that is not supported: dropout must be"),
    "width": ({"num_attention_heads": 1, "attention_head_dim": 7}, "has attention_head_dim 7, of which 1 are an odd"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_entries_that_are_refused(case):
    changed, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        prior_config({**config_of("plain"), **changed})


def test_networks_that_cannot_be_written():
    plain = PriorConfig(width=16, depth=1, heads=2, embedding=12, text_embedding=10, text_width=12, text_length=5)
    assert prior_config(prior_values(plain)) == plain
    alone = dataclasses.replace(plain, text_width=0, text_length=1)
    assert prior_config(prior_values(alone)) == alone
    with pytest.raises(UserError, match="one width for hidden states of texts, here 8, and for"):
        prior_values(dataclasses.replace(plain, text_width=8))
    with pytest.raises(UserError, match="no network without the embedding of the text"):
        prior_values(dataclasses.replace(plain, text_embedding=0))


def test_hostile_folders(tmp_path):
    config, tensors = config_of("plain"), arrays_of("plain")

    def refuses(name, tensors, message, config=config):
        with pytest.raises(UserError, match=message) as refused:
            read_prior(written(tmp_path / name, config, tensors))
        assert "\n" not in str(refused.value)

    without = lambda part: {name: array for name, array in tensors.items() if part not in name}
    refuses("query", without("blocks.1.attn1.to_q.weight"), "lacks queries, keys or values of transformer_blocks.1")
    heads = {name: np.float32(0) for name in tensors if "blocks.0.attn1.to_" in name and "out" not in name}
    refuses("scalars", {**tensors, **heads}, "lacks queries, keys or values of transformer_blocks.0")
    refuses("scale", without("clip_std"), "variables that nothing sets: embeddings/deviation")
    refuses("more", tensors, "describes a network of 1 blocks, and its weights have 2", {**config, "num_layers": 1})
    refuses("surplus", {**tensors, "proj_out.bias": np.ones(3)}, "arrays that belong nowhere here: proj_out.bias")
    misfit = {**tensors, "proj_in.weight": tensors["proj_in.weight"][:-1]}
    refuses("misfit", misfit, "arrays that do not fit: proj_in.weight of shape")
    refuses("nan", {**tensors, "clip_mean": np.full((1, 12), np.nan, np.float32)}, "numbers that are not finite: clip")


def test_a_run_starts_from_a_folder(tmp_path, capsys):
    folder = written(tmp_path / "prior", config_of("plain"), arrays_of("plain"))
    (folder / FILE).write_text(str(GOLDEN["scheduler"]))
    config, variables = read_prior(folder)
    run = dataclasses.replace(config, remat=True, dtype="bfloat16", dropout=0.1)
    start = lambda run, limit=5.0: read_initial_values(folder, prior_shapes(run), folder=prior_source(run, limit=limit))
    found = start(run)
    for name, array in named(variables).items():
        np.testing.assert_array_equal(found[name], array)
    assert "within 0.75 deviations, as --sampling.threshold static --sampling.limit 0.75" in capsys.readouterr().err
    start(run, 0.75)
    assert "--sampling.limit" not in capsys.readouterr().err
    with pytest.raises(UserError, match=r"than this run has: add --model\.depth 2 --model\.no-norm-in$"):
        start(dataclasses.replace(config, depth=3, norm_in=True))
    with pytest.raises(UserError, match=r"is of a CLIP with text_width 12, and the run's has 8: name its CLIP"):
        start(dataclasses.replace(config, text_width=8))


def test_schedulers_of_priors(tmp_path):
    process = PublishedProcess(schedule="cosine", prediction="x0")
    for limit in (5.0, None):
        values = unclip_scheduler(process, limit=limit)
        (tmp_path / FILE).write_text(json.dumps(values))
        assert read_scheduler_config(tmp_path / FILE) == process
        assert clip_range(tmp_path / FILE) == limit
    assert unclip_scheduler(PublishedProcess(schedule="linear", prediction="x0"), limit=None) is None
    assert unclip_scheduler(PublishedProcess(schedule="cosine", prediction="v"), limit=None) is None
    for wrong in ({"clip_sample_range": "five"}, {"clip_sample_range": -1}, {"clip_sample": 3}):
        (tmp_path / FILE).write_text(json.dumps({**values, **wrong}))
        with pytest.raises(UserError, match="clip_sample"):
            clip_range(tmp_path / FILE)
    (tmp_path / FILE).write_text(json.dumps({**values, "beta_schedule": "linear", "beta_end": 1}))
    with pytest.raises(UserError, match="a network of other betas is not supported"):
        read_scheduler_config(tmp_path / FILE)
