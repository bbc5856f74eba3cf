"""Losses of autoencoders that compress: distances in features by hand, weights, and when the discriminator joins in."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.tasks.autoencoder import AutoencoderLossConfig, autoencoder_loss, feature_distance, patch_discriminator_loss

KEY = jax.random.key(0)
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)), jnp.float32)


class Halved(nn.Module):
    """An autoencoder of one number: all images become a multiple of themselves, at a cost of 7."""

    @nn.compact
    def __call__(self, image, *, key, train):
        """The image, made darker."""
        del key, train
        factor = self.param("factor", nn.initializers.constant(0.5), ())
        return SimpleNamespace(image=factor * image, penalty=jnp.float32(7.0), statistics={"said": jnp.float32(3.0)})


PARAMS = {"autoencoder": {"factor": jnp.float32(0.5)}, "discriminator": {"slope": jnp.float32(2.0)}}
critic = lambda params, image: params["slope"] * image.mean(-1)


def loss_of(config, *, step=0, state=None, **parts):
    loss = autoencoder_loss(Halved(), config, **{"bottleneck": "vq", "batch_size": 10, **parts})
    return loss(PARAMS, state or {}, {"image": IMAGE}, key=KEY, step=jnp.int32(step))


def test_feature_distance_by_hand():
    """Two maps of 2 and 3 channels, in numpy."""
    rng = np.random.default_rng(1)
    one, other = ([rng.normal(size=(2, side, side, d)) for side, d in ((4, 2), (2, 3))] for _ in range(2))
    want = 0.0
    for a, b in zip(one, other, strict=True):
        unit_a, unit_b = (x / np.sqrt((x**2).sum(-1, keepdims=True)) for x in (a, b))
        want = want + ((unit_a - unit_b) ** 2).sum(-1).mean((1, 2))
    found = feature_distance([jnp.float32(a) for a in one], [jnp.float32(b) for b in other])
    np.testing.assert_allclose(found, want, rtol=1e-5)
    np.testing.assert_allclose(feature_distance([jnp.float32(one[0])], [jnp.float32(one[0])]), 0.0, atol=1e-6)


@pytest.mark.parametrize(("pixels", "error"), [("l1", np.abs), ("l2", np.square)])
def test_error_of_pixels_and_weight_of_the_bottleneck(pixels, error):
    base = error(0.5 * np.asarray(IMAGE)).mean()
    for bottleneck, penalty, weight in (("vq", None, 0.25), ("kl", None, 1e-6), ("kl", 0.5, 0.5)):
        value, (_, scalars) = loss_of(AutoencoderLossConfig(pixels=pixels, penalty=penalty), bottleneck=bottleneck)
        assert value == pytest.approx(base + weight * 7.0, rel=1e-5)
        assert scalars["pixels"] == pytest.approx(base, rel=1e-5)
        assert (scalars["penalty"], scalars["said"]) == (7.0, 3.0)


def test_features_of_a_fixed_network_are_compared():
    config = AutoencoderLossConfig(perceptual=3.0, penalty=0.0)
    features = lambda variables, image: [variables["by"] * image, image[..., :2]]
    state = {"frozen": {"perceptual": {"by": jnp.float32([1.0, -2.0, 1.0])}}}
    plain, _ = loss_of(AutoencoderLossConfig(penalty=0.0))
    # a multiple has the same unit vectors
    value, (_, scalars) = loss_of(config, features=features, state=state)
    assert value == pytest.approx(float(plain), abs=1e-5)
    shifted = lambda variables, image: [variables["by"] * image + 1.0]
    value, (after, scalars) = loss_of(config, features=shifted, state=state)
    perceptual = state["frozen"]["perceptual"]
    want = feature_distance(shifted(perceptual, IMAGE), shifted(perceptual, 0.5 * IMAGE)).mean()
    assert scalars["perceptual"] == pytest.approx(float(want), rel=1e-5)
    assert want > 0.01
    assert value == pytest.approx(float(plain + 3.0 * want), rel=1e-5)
    assert after["frozen"]["perceptual"] is perceptual


def test_the_discriminator_joins_in_after_so_many_images():
    config = AutoencoderLossConfig(penalty=0.0, adversarial=0.5, adversarial_start=100)
    plain, _ = loss_of(AutoencoderLossConfig(penalty=0.0))
    before, _ = loss_of(config, critic=critic, step=9)
    after, _ = loss_of(config, critic=critic, step=10)  # of 10 images each
    assert before == pytest.approx(float(plain), rel=1e-6)
    assert after == pytest.approx(float(plain - 0.5 * 2.0 * 0.5 * IMAGE.mean()), rel=1e-4)
    against = patch_discriminator_loss(Halved(), config, critic, batch_size=10)
    slope = lambda params, step: against(params, {}, {"image": IMAGE}, key=KEY, step=jnp.int32(step))[0]
    assert slope(PARAMS, 9) == 0.0
    real, rebuilt = (2.0 * np.asarray(IMAGE).mean(-1) * factor for factor in (1.0, 0.5))
    hinge = np.maximum(1 - real, 0).mean() + np.maximum(1 + rebuilt, 0).mean()
    assert slope(PARAMS, 10) == pytest.approx(hinge, rel=1e-5)
    gradient = jax.grad(slope)(PARAMS, 10)
    assert gradient["autoencoder"]["factor"] == 0.0  # nothing of the opponent
    assert gradient["discriminator"]["slope"] != 0.0
