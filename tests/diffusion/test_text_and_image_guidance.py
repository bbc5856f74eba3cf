"""Guidance by an instruction and by the image that it is about, against its formula."""

import jax.numpy as jnp
import numpy as np

from vision.diffusion.guidance import guided_by_text_and_image


def test_two_scales_are_the_formula():
    """Brooks et al. 2023, equation 3, of a denoiser that is a sum; a learned variance is that with both conditions."""

    def denoise(noisy, time, condition):
        found = (
            noisy + condition["context"] + 10.0 * condition["image"] + 100.0 * condition["context"] * condition["image"]
        )
        return jnp.concatenate([found, condition["context"] + condition["image"]], axis=-1)

    one = jnp.ones((2, 1, 1, 1))
    condition, null = {"context": 2.0 * one, "image": 3.0 * one}, {"context": 0.5 * one, "image": 0.0 * one}
    guided = guided_by_text_and_image(denoise, condition=condition, null=null, scale=7.5, image_scale=1.5)
    made = guided(0.25 * one, jnp.zeros(2))
    none, image, both = 0.25 + 0.5, 0.25 + 0.5 + 30.0 + 150.0, 0.25 + 2.0 + 30.0 + 600.0
    expected = none + 1.5 * (image - none) + 7.5 * (both - image)
    np.testing.assert_allclose(made[..., 0], np.full((2, 1, 1), expected), rtol=1e-6)
    np.testing.assert_allclose(made[..., 1], np.full((2, 1, 1), 5.0))
    alone = guided_by_text_and_image(denoise, condition=condition, null=null, scale=1.0, image_scale=1.0)
    np.testing.assert_allclose(alone(0.25 * one, jnp.zeros(2))[..., 0], np.full((2, 1, 1), both), rtol=1e-6)
