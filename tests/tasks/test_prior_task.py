"""The prior as a task: closed forms for embeddings that are normal given their text, the null, re-ranking, checks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.prior import SCALE
from vision.tasks.diffusion import DiffusionConfig, make_process
from vision.tasks.prior import PriorTask, check_prior
from vision.tasks.sampling import SamplingConfig

DIFFUSION = DiffusionConfig(schedule="cosine", steps=200, prediction="x0", data_deviation=1.0)
PROCESS = make_process(DIFFUSION)
SAMPLING = SamplingConfig(method="ancestral", steps=200, limit=50.0)
CHANNELS, SPREAD, END = 3, 0.5, 1
MEAN, DEVIATION = np.array([1.0, -2.0, 0.5], np.float32), np.array([2.0, 0.1, 1.0], np.float32)
TABLE = np.array([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [1.0, -1.0, 0.5], [-0.5, 0.3, 0.8]], np.float32)
"""The mean of embeddings of mean 0 and deviation 1 for the texts of tokens 0 to 3."""


class Optimal(nn.Module):
    """The best estimate where embeddings are normal with the deviation SPREAD around "text_embedding"."""

    @nn.compact
    def __call__(self, image, time, condition, *, train):
        del train
        shift = self.param("shift", nn.initializers.zeros, ())
        signal, noise = PROCESS.at(time)
        mean = condition["text_embedding"][:, None, None]
        gain = SPREAD**2 * signal / ((signal * SPREAD) ** 2 + noise**2)
        return mean + gain * (image - signal * mean) + shift


def encode_text(clip, tokens):
    return {"embedding": clip["table"][tokens[:, 0]], "tokens": jnp.zeros((*tokens.shape, 2))}


TASK = PriorTask(
    network=Optimal(),
    diffusion=DIFFUSION,
    process=PROCESS,
    text="embedding",
    channels=CHANNELS,
    encode_text=encode_text,
    similarity=lambda clip, image, text: clip["weight"] * jnp.sum(image * text, axis=-1),
    empty=np.array([0, END, END]),
    end=END,
)
CLIP = {"table": jnp.asarray(TABLE), "weight": jnp.ones(())}
SCALING = {"mean": jnp.asarray(MEAN), "deviation": jnp.asarray(DEVIATION)}
VARIABLES = {"params": {"shift": jnp.zeros(())}, SCALE: SCALING, "frozen": {"clip": CLIP}}
TEXTS = jnp.array([[2, END, END], [3, END, END]])


def sampled(count, *, task=TASK, candidates=1, **sampling):
    run = jax.jit(task.sampler(dataclasses.replace(SAMPLING, **sampling), candidates=candidates))
    tokens = jnp.repeat(TEXTS, count // 2, axis=0)
    return np.asarray(run(VARIABLES, tokens, jnp.arange(count), jax.random.key(0)))


def test_samples_have_the_mean_and_deviation_of_their_text():
    made = sampled(4_000).reshape(2, 2_000, CHANNELS)
    for place, text in enumerate((2, 3)):
        np.testing.assert_allclose((made[place].mean(0) - MEAN) / DEVIATION, TABLE[text], atol=0.05)
        np.testing.assert_allclose(made[place].std(0) / DEVIATION, SPREAD, rtol=0.06)


def test_guidance_moves_the_mean():
    """Of two normal distributions of equal deviation: by the scale times the difference of their means."""
    made = sampled(2_000, guidance=2.0, method="ddim").reshape(2, 1_000, CHANNELS)
    for place, text in enumerate((2, 3)):
        np.testing.assert_allclose((made[place].mean(0) - MEAN) / DEVIATION, 2.0 * TABLE[text], atol=0.1)


def batch(count, text=2, seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, CHANNELS))
    embedding = (TABLE[text] + SPREAD * noise) * DEVIATION + MEAN
    return {"embedding": jnp.asarray(embedding, jnp.float32), "tokens": jnp.tile(TEXTS[text - 2], (count, 1))}


def test_the_held_out_error_is_that_of_the_best_estimate():
    given = {**batch(20_000), "mask": jnp.ones(20_000, bool)}
    total, count = jax.jit(TASK.held_out())(VARIABLES, given, key=jax.random.key(1))
    signal, noise = PROCESS.signal, PROCESS.noise
    expected = np.mean(SPREAD**2 * noise**2 / ((signal * SPREAD) ** 2 + noise**2))
    assert float(total / count) == pytest.approx(expected, rel=0.02)
    other = {**VARIABLES, "params": {"shift": jnp.asarray(0.1)}}
    worse, _ = jax.jit(TASK.held_out())(other, given, key=jax.random.key(1))
    assert float(worse / count) == pytest.approx(expected + 0.01, rel=0.05)


def loss(given, dropout):
    task = dataclasses.replace(TASK, diffusion=dataclasses.replace(DIFFUSION, condition_dropout=dropout))
    state = {SCALE: SCALING, "frozen": {"clip": CLIP}}
    run = jax.jit(lambda params: task.loss()(params, state, given, key=jax.random.key(2), step=jnp.zeros((), int)))
    value, (after, scalars) = run({"shift": jnp.zeros(())})
    assert after.keys() == state.keys()
    assert float(scalars["mse"]) == pytest.approx(float(value))
    return float(value)


def test_dropout_is_training_on_the_empty_text():
    given = batch(64)
    empty = {**given, "tokens": jnp.zeros_like(given["tokens"]).at[:, 1:].set(END)}
    assert loss(given, 1.0) == pytest.approx(loss(empty, 0.0), rel=1e-5)
    assert loss(given, 0.0) < loss(given, 0.5) < loss(given, 1.0)


def test_the_better_candidate_is_taken():
    single = sampled(8)
    alone = jax.jit(TASK.sampler(SAMPLING, candidates=1))
    tokens = jnp.repeat(jnp.repeat(TEXTS, 4, axis=0), 3, axis=0)
    all_of = np.asarray(alone(VARIABLES, tokens, jnp.arange(24), jax.random.key(0))).reshape(8, 3, CHANNELS)
    scores = (all_of * TABLE[[2] * 4 + [3] * 4][:, None]).sum(-1)
    best = all_of[np.arange(8), scores.argmax(1)]
    np.testing.assert_allclose(sampled(8, candidates=3), best, atol=1e-5)
    assert not np.allclose(best, single, atol=1e-3)


def test_a_sample_depends_on_its_number_and_text_alone():
    run = jax.jit(TASK.sampler(SAMPLING, candidates=2))
    whole = run(VARIABLES, jnp.repeat(TEXTS, 2, axis=0), jnp.arange(4), jax.random.key(0))
    part = run(VARIABLES, TEXTS[1:], jnp.array([3]), jax.random.key(0))
    np.testing.assert_allclose(part[0], whole[3], atol=1e-5)
    other = run(VARIABLES, TEXTS[:1], jnp.array([3]), jax.random.key(0))
    assert np.abs(other[0] - part[0]).max() > 0.1


def test_conditions_of_texts():
    tokens = jnp.array([[2, 5, END, 0, 0], [2, END, END, END, END], [2, 3, 4, 5, END]])
    encode = lambda clip, tokens: {"embedding": jnp.ones((len(tokens), 4)), "tokens": jnp.ones((*tokens.shape, 2))}
    of = lambda text: dataclasses.replace(TASK, encode_text=encode, text=text).condition({}, tokens)
    both = of("both")
    assert both.keys() == {"text_embedding", "text_states", "text_mask"}
    np.testing.assert_array_equal(both["text_mask"].sum(1), [3, 2, 5])
    assert both["text_mask"][:, 0].all()
    assert of("embedding").keys() == {"text_embedding"}
    assert of("states").keys() == {"text_states", "text_mask"}


@pytest.mark.parametrize(
    ("diffusion", "sampling", "words"),
    [
        ({"variance": "learned"}, {}, "a prior predicts the embedding alone"),
        ({}, {"threshold": "dynamic", "limit": 1.0}, "the dynamic threshold is of images"),
        ({}, {"limit": 1.0}, "sampling.limit 1 would cut embeddings"),
        ({}, {"threshold": "none"}, "sampling.limit is of the static threshold"),
        ({"condition_dropout": 0.0}, {"guidance": 2.0}, "sampling.guidance needs a network"),
        ({}, {"steps": 300}, "sampling in 300 steps is impossible"),
        ({"zero_terminal_snr": True, "prediction": "epsilon"}, {}, "says nothing of the image"),
    ],
)
def test_settings_that_cannot_go_together(diffusion, sampling, words):
    check_prior(DIFFUSION, SAMPLING)
    with pytest.raises(UserError, match=words):
        check_prior(dataclasses.replace(DIFFUSION, **diffusion), dataclasses.replace(SAMPLING, **sampling))


def test_a_guide_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sampling\.guide is a run of a diffusion model of images"):
        check_prior(DIFFUSION, dataclasses.replace(SAMPLING, guide=tmp_path))
