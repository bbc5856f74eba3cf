import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.tasks.adaptive_augmentation import AdaptiveConfig, adapted, augmentation_state


def after(logits, config, *, start, batch=10):
    state, path = augmentation_state(start), []
    for logit in logits:
        state = adapted(state, jnp.full(batch, logit, jnp.float32), config)
        path.append(float(state["probability"]))
    return path


def test_the_probability_rises_while_all_real_images_are_known_and_falls_otherwise():
    config = AdaptiveConfig(images=1_000, interval=1)
    np.testing.assert_allclose(after([2.0] * 3, config, start=0.0), [0.01, 0.02, 0.03], rtol=1e-5)
    np.testing.assert_allclose(after([-2.0] * 3, config, start=0.5), [0.49, 0.48, 0.47], rtol=1e-5)


def test_it_takes_so_many_images_from_nothing_to_all_and_stays_within():
    config = AdaptiveConfig(images=200, interval=4)
    path = after([1.0] * 24, config, start=0.0)
    assert path[2] == 0.0
    np.testing.assert_allclose(path[3::4], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-5)
    assert after([-1.0] * 8, config, start=0.1)[-1] == 0.0


def test_signs_are_averaged_over_the_interval():
    """Three quarters of the signs positive give a mean of 0.5: below the target, and above a lower one."""
    logits = [1.0, 1.0, -1.0, 1.0]
    assert after(logits, AdaptiveConfig(images=400), start=0.5)[-1] < 0.5
    assert after(logits, AdaptiveConfig(images=400, target=0.4), start=0.5)[-1] > 0.5
    # the next interval begins anew
    assert after(logits + [1.0] * 4, AdaptiveConfig(images=400), start=0.5)[-1] == pytest.approx(0.5)


def test_what_cannot_be():
    with pytest.raises(UserError, match="target must be more than -1 and less than 1, not 1"):
        AdaptiveConfig(target=1.0)
