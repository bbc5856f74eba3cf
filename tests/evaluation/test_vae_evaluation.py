"""Bounds and errors over a test set: sums that padding leaves alone, and images of what is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.pipeline import evaluation_batches
from vision.data.source import ArraySource
from vision.evaluation import autoencoder as compression
from vision.evaluation.vae import BoundConfig, ReconstructionSet, evaluator
from vision.ops.pixels import to_float
from vision.tasks.vae import VaeFunctions
from vision.train.compile import Compiler

COUNT, SIDE = 23, 12
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 1)).astype(np.uint8)
LABELS = np.arange(COUNT, dtype=np.int32) % 3


def terms(variables, image, *, key):
    """Distortion is the sum of pixels, the rate of dimension d is d times the first pixel."""
    del key
    first = image[:, 0, 0].astype(jnp.float32) / 255.0
    return variables * image.astype(jnp.float32).sum((1, 2, 3)), first * jnp.array([0.0, 1.0, 2.0])


def bound(variables, image, *, samples, key):
    del key
    return -variables * samples * image.astype(jnp.float32).mean((1, 2, 3))


def decode(variables, code):
    """The code's three numbers as rows of grey."""
    del variables
    level = jnp.clip(128 + 30 * code, 0, 255).astype(jnp.uint8)
    return jnp.broadcast_to(jnp.repeat(level, SIDE // 3, axis=1)[:, :, None, None], (len(code), SIDE, SIDE, 1))


def encode(variables, image):
    del variables
    return to_float(image).reshape(len(image), 3, -1).mean(-1)


def functions(**changes):
    reconstruct = lambda variables, image, *, key: (image, 255 - image)
    sample = lambda *request: pytest.fail("nothing is sampled")
    all_of_them = {"terms": terms, "bound": bound, "reconstruct": reconstruct, "sample": sample}
    return VaeFunctions(**{**all_of_them, "encode": encode, "decode": decode, **changes})


def images_to_judge(batch_size, names=("a", "b", "c")):
    images = ArraySource({"image": IMAGES}, ())
    batches = lambda: evaluation_batches(images, batch_size=batch_size, process_index=0, process_count=1)
    return ReconstructionSet(batches, {"image": IMAGES, "label": LABELS}, names, "random images")


@pytest.fixture(scope="module")
def compiler(one_device):
    return Compiler(one_device)


@pytest.mark.parametrize("batch_size", [8, 23, 30])
def test_sums_over_the_set(compiler, batch_size):
    judge = evaluator(
        compiler, functions(), BoundConfig(importance=5, importance_images=10**6), bits=True, preprocessed="as it is"
    )
    found = judge(compiler.replicate(jnp.float32(0.01)), images_to_judge(batch_size))
    distortion = 0.01 * IMAGES.astype(float).sum((1, 2, 3)).mean()
    rate = 3 * IMAGES[:, 0, 0].astype(float).mean() / 255
    assert found.scalars["distortion"] == pytest.approx(distortion, rel=1e-5)
    assert found.scalars["rate"] == pytest.approx(rate, rel=1e-5)
    assert found.scalars["nats"] == pytest.approx(distortion + rate, rel=1e-5)
    assert found.scalars["active"] == 2
    assert found.scalars["nats_5"] == pytest.approx(0.05 * IMAGES.mean(), rel=1e-5)
    assert found.scalars["bits_per_dimension"] == pytest.approx((distortion + rate) / np.log(2) / SIDE**2, rel=1e-5)
    assert found.scalars.keys() == found.protocol.keys()
    assert "23 images of random images, as it is" in found.protocol["nats"]
    assert found.images.keys() == {"reconstructions", "interpolations", "traversals", "latents"}
    assert found.animations["traversals"].shape[0] == 16


def test_the_tighter_bound_is_of_the_first_images(compiler):
    judge = evaluator(compiler, functions(), BoundConfig(importance=2, importance_images=10), bits=True)
    found = judge(compiler.replicate(jnp.float32(1.0)), images_to_judge(8))
    assert found.scalars["nats_2"] == pytest.approx(2 * IMAGES[:16].mean(), rel=1e-5)  # whole batches
    assert "the first 16 images" in found.protocol["nats_2"]


def test_what_is_not_asked_for_is_left_out(compiler):
    plain = functions(encode=None, decode=None)
    found = evaluator(compiler, plain, BoundConfig(importance=0), bits=False)(
        compiler.replicate(jnp.float32(1.0)), images_to_judge(8, ())
    )
    assert found.scalars.keys() == {"nats", "distortion", "rate", "active"}
    assert found.images.keys() == {"reconstructions"}
    assert not found.animations


def test_compression(compiler):
    """Rebuilt images that are 10 levels brighter; codes of which half are in use."""

    def rebuilt(variables, image):
        codes = jnp.broadcast_to(jnp.arange(4, dtype=jnp.int32).reshape(2, 2), (len(image), 2, 2))
        return codes, jnp.clip(image.astype(jnp.int32) + variables, 0, 255).astype(jnp.uint8)

    judge = compression.evaluator(compiler, rebuilt, codebook=8)
    darker = ReconstructionSet(images_to_judge(8).batches, {"image": IMAGES}, (), "random images")
    found = judge(compiler.replicate(jnp.int32(10)), darker)
    brighter = np.clip(IMAGES.astype(int) + 10, 0, 255)
    errors = np.square(brighter - IMAGES).mean((1, 2, 3))
    assert found.scalars["l1"] == pytest.approx(np.abs(brighter - IMAGES).mean() / 255, rel=1e-4)
    assert found.scalars["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), rel=1e-4)
    assert 0.9 < found.scalars["ssim"] < 1.0
    assert found.scalars["perplexity"] == pytest.approx(4.0)
    assert found.scalars["used"] == 0.5
    assert found.scalars.keys() == found.protocol.keys()
    plain = compression.evaluator(compiler, rebuilt, codebook=0)(compiler.replicate(jnp.int32(10)), darker)
    assert plain.scalars.keys() == {"l1", "psnr", "ssim"}
    assert jax.tree.leaves(plain.images)
