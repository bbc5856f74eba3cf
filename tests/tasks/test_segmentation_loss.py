"""The segmentation loss of a stand-in network: terms, microbatches, void, and what is refused."""

from dataclasses import replace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from vision.errors import UserError
from vision.tasks.segmentation import SegmentationLossConfig, segmentation_loss, segmentation_losses
from vision.train.step import accumulate

CLASSES, VOID = 3, 255
EVERYTHING = SegmentationLossConfig(
    cross_entropy=0.7, dice=0.5, lovasz=0.3, focal=1.5, ohem_threshold=0.6, class_weights="median_frequency"
)
WEIGHTS = np.array([0.5, 1.0, 2.0], np.float32)
KEY = jax.random.key(0)


class Output(NamedTuple):
    """As of a network."""

    logits: Array
    auxiliary: Array | None


class Pointwise(nn.Module):
    """Logits of each pixel from its colour."""

    auxiliary: bool = False
    classes: int = CLASSES

    @nn.compact
    def __call__(self, image, *, train):
        """Logits, and other ones while training."""
        count = self.variable("batch_stats", "count", lambda: jnp.zeros(()))
        if train:
            count.value += 1
        logits = nn.Dense(self.classes, name="head")(image)
        auxiliary = nn.Dense(self.classes, name="auxiliary")(image) if self.auxiliary else None
        return Output(logits, auxiliary if train else None)


def batch(seed=0, *, images=4):
    """Images with void in different shares; the last one is all void."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, (images, 6, 5))
    share = np.linspace(0, 0.9, images)[:, None, None]
    truth = np.where(generator.random(truth.shape) < share, VOID, truth)
    truth[-1] = VOID
    image = generator.normal(size=(*truth.shape, 3)).astype(np.float32)
    return {"image": jnp.asarray(image), "semantic": jnp.asarray(truth, jnp.int32)}


def compiled(loss):
    """(params, model_state, batch) -> ((loss, (model_state, scalars)), gradient)."""
    call = lambda params, state, batch: loss(params, state, batch, key=KEY, step=jnp.int32(0))
    return jax.jit(jax.value_and_grad(call, has_aux=True))


def start(model):
    """Parameters and batch statistics."""
    variables = model.init(KEY, jnp.zeros((1, 2, 2, 3)), train=True)
    return variables["params"], {"batch_stats": variables["batch_stats"]}


def test_terms_add_up_and_microbatches_change_nothing():
    """Images of different shares of void, one of them all void, together and each alone."""
    model = Pointwise(auxiliary=True)
    params, state = start(model)
    loss = segmentation_loss(model, EVERYTHING, classes=CLASSES, ignore=VOID, class_weights=WEIGHTS)
    (whole, (new, scalars)), gradient = compiled(loss)(params, state, batch())
    terms = {name: getattr(EVERYTHING, name) for name in ("cross_entropy", "dice", "lovasz")}
    assert sorted(scalars) == sorted([*terms, "auxiliary", "pixel_accuracy"])
    own = sum(weight * scalars[name] for name, weight in terms.items())
    np.testing.assert_allclose(whole, own + 0.4 * scalars["auxiliary"], rtol=1e-6)
    assert new["batch_stats"]["count"] == state["batch_stats"]["count"] + 1
    output = model.apply({"params": params, **state}, batch()["image"], train=False)
    right = np.argmax(output.logits, -1) == batch()["semantic"]
    expected = [
        r[t != VOID].mean() if (t != VOID).any() else 0 for r, t in zip(right, batch()["semantic"], strict=True)
    ]
    np.testing.assert_allclose(scalars["pixel_accuracy"], np.mean(expected), rtol=1e-6)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient))
    (value, (_, parts)), other = compiled(accumulate(loss, 4))(params, state, batch())
    np.testing.assert_allclose(value, whole, rtol=1e-5)
    for name, number in scalars.items():
        np.testing.assert_allclose(parts[name], number, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)


def test_a_batch_of_void_has_no_loss_and_no_gradient():
    model = Pointwise(auxiliary=True)
    params, state = start(model)
    loss = segmentation_loss(model, EVERYTHING, classes=CLASSES, ignore=VOID, class_weights=WEIGHTS)
    nothing = {**batch(), "semantic": jnp.full((4, 6, 5), VOID, jnp.int32)}
    (value, (_, scalars)), gradient = compiled(loss)(params, state, nothing)
    assert value == 0
    assert not any(np.asarray(number).any() for number in scalars.values())
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_without_auxiliary_output_its_weight_is_not_used():
    model = Pointwise()
    params, state = start(model)
    loss = segmentation_loss(model, SegmentationLossConfig(), classes=CLASSES, ignore=VOID)
    (value, (_, scalars)), _ = compiled(loss)(params, state, batch())
    assert sorted(scalars) == ["cross_entropy", "pixel_accuracy"]
    assert value == scalars["cross_entropy"]


def test_a_label_that_is_no_class_stops_the_run():
    logits = jnp.zeros((2, 2, 2, CLASSES))
    truth = jnp.zeros((2, 2, 2), jnp.int32).at[1, 0, 0].set(CLASSES)
    config = SegmentationLossConfig(dice=1.0, lovasz=1.0)
    for values in segmentation_losses(logits, truth, config, ignore=VOID).values():
        assert np.isnan(values).tolist() == [False, True]
    losses = segmentation_losses(logits, truth.at[1, 0, 0].set(VOID), config, ignore=VOID)
    assert np.isfinite([*losses.values()]).all()
    assert np.isnan(segmentation_losses(logits, truth - 1, config, ignore=None)["dice"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dice": -1.0}, "dice must be at least 0"),
        ({"smoothing": 1.0}, "smoothing must be at least 0 and less than 1"),
        ({"ohem_threshold": 2.0}, "ohem_threshold must be"),
        ({"ohem_minimum": 0.0}, "ohem_minimum must be more than 0"),
        ({"cross_entropy": 0.0}, "all terms of the loss have weight 0"),
        ({"cross_entropy": 0.0, "dice": 1.0, "focal": 2.0}, "loss.focal is for the cross-entropy"),
        ({"cross_entropy": 0.0, "dice": 1.0, "smoothing": 0.1}, "loss.smoothing is for the cross-entropy"),
        ({"cross_entropy": 0.0, "lovasz": 1.0, "ohem_threshold": 0.7}, "loss.ohem_threshold is for the cross-entropy"),
        (
            {"cross_entropy": 0.0, "dice": 1.0, "class_weights": "median_frequency"},
            "loss.class_weights is for the cross",
        ),
        ({"focal": 2.0, "smoothing": 0.1}, "contradict each other"),
        ({"class_weights": "median_frequency"}, "loss.class_weights is median_frequency, but no weights are given"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        segmentation_loss(Pointwise(), replace(SegmentationLossConfig(), **changes), classes=CLASSES, ignore=VOID)


def test_weights_and_networks_that_do_not_fit_are_refused():
    make = lambda config, **more: segmentation_loss(Pointwise(), config, ignore=VOID, **more)
    with pytest.raises(UserError, match=r"weights of the classes are given, but loss\.class_weights is none"):
        make(SegmentationLossConfig(), classes=CLASSES, class_weights=WEIGHTS)
    with pytest.raises(UserError, match="3 weights are given for 4 classes"):
        make(SegmentationLossConfig(class_weights="median_frequency"), classes=4, class_weights=WEIGHTS)
    loss = make(SegmentationLossConfig(), classes=CLASSES + 1)
    with pytest.raises(UserError, match="the network gives 3 classes at 6x5 pixels for maps of 4 classes at 6x5"):
        loss(*start(Pointwise()), batch(), key=KEY, step=jnp.int32(0))
