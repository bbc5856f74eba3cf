"""Evaluation of restoration: numbers against direct ones, baselines, classic filters, and Set5 as published."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.photographs import PhotographsConfig, photograph_data
from vision.data.shapes.world import ShapesConfig
from vision.evaluation.classic_filters import FILTERS, best_filters
from vision.evaluation.restoration import RestorationSet, RestorationTask, evaluator
from vision.metrics.reconstruction.super_resolution import ReconstructionProtocol, reconstruction_quality
from vision.ops.degradations.degradation import BicubicDegradation, JpegDegradation, NoiseDegradation, degraded
from vision.ops.imresize import imresize
from vision.ops.ycbcr import luma
from vision.recipes.restoration_evaluation import LpipsConfig, conditions, restoration_task
from vision.recipes.restoration_networks import SMALL_DENOISING, SMALL_SUPER_RESOLUTION, network
from vision.train.compile import Compiler

WORLD = PhotographsConfig(
    name="shapes",
    patch=16,
    shapes_count=30,
    test_images=3,
    shapes=ShapesConfig(resolution=40, min_size=0.4, max_size=0.6),
)


@pytest.fixture(scope="module")
def compiler(one_device):
    return Compiler(one_device)


def found(compiler, degradation, net, restore, data):
    task = restoration_task(degradation, net, data, LpipsConfig())
    test = RestorationSet(lambda: data.test_batches(2), "the test images")
    evaluate = evaluator(compiler, lambda variables, images: restore(images), task)
    return evaluate, test


def test_a_network_that_is_bicubic_has_its_numbers(compiler):
    net = network(SMALL_SUPER_RESOLUTION["edsr"])
    data = photograph_data(WORLD, scale=2, margin=4)
    evaluate, test = found(compiler, BicubicDegradation(), net, functools.partial(imresize, scale=2.0), data)
    result = evaluate({}, test)
    wanted = []
    for index in range(3):
        truth = jnp.asarray(data.source("test")[index]["image"][None] / np.float32(255))
        made = imresize(imresize(truth, 0.5), 2.0)
        wanted.append(reconstruction_quality(made, truth, ReconstructionProtocol("luma", 2)))
    for key in ("psnr_y_border2", "ssim_y_border2"):
        np.testing.assert_allclose(result.scalars[key], np.mean([each[key] for each in wanted]), rtol=1e-4)
    measured = [name for name in result.scalars if "/" not in name]
    assert len(measured) == 6
    for name in measured:
        np.testing.assert_allclose(result.scalars[name], result.scalars[f"{name}/bicubic"], rtol=1e-5)
    assert result.scalars.keys() == result.protocol.keys()
    assert "not rounded; 2 pixels of the border left out" in result.protocol["psnr_y_border2"]
    assert "mean over 3 whole images of the test images" in result.protocol["psnr_y_border2"]
    assert result.images.keys() == {"table", "examples"}
    again = evaluate({}, test)
    assert again.scalars == result.scalars


def test_levels_and_filters_of_noise(compiler):
    net = network(SMALL_DENOISING["dncnn"])
    data = photograph_data(WORLD, scale=1, margin=0)
    evaluate, test = found(compiler, NoiseDegradation(sigma=(15.0, 30.0)), net, lambda images: images, data)
    scalars = evaluate({}, test).scalars
    names = ["input", *FILTERS]
    wanted = {f"{kind}_rgb_8bit_border0_{sigma}" for kind in ("psnr", "ssim") for sigma in ("sigma15", "sigma25")}
    assert scalars.keys() == wanted | {f"{key}/{name}" for key in wanted for name in names}
    for key in wanted:
        np.testing.assert_allclose(scalars[key], scalars[f"{key}/input"], rtol=1e-5)
    for name in FILTERS:
        assert scalars[f"psnr_rgb_8bit_border0_sigma25/{name}"] > scalars["psnr_rgb_8bit_border0_sigma25"] + 2.0
    assert scalars["psnr_rgb_8bit_border0_sigma15"] > scalars["psnr_rgb_8bit_border0_sigma25"]


def test_the_best_setting_is_the_best(compiler):
    """Where there is hardly any noise, the weakest setting of each filter."""
    image = np.random.default_rng(0).random((1, 24, 24, 1), np.float32)
    noisy = lambda images, level: degraded(images, NoiseDegradation(), level, scale=1, key=jax.random.key(0))
    best = best_filters(compiler, image, degrade=noisy, levels=[1.0])
    assert best["median"].words == "median of 3x3 pixels"
    assert best["total_variation"].words == "total variation of weight 0.5 sigma"


def test_conditions_follow_the_network():
    names = lambda *arguments, **keywords: [
        [protocol.label for protocol in each.protocols] for each in conditions(*arguments, **keywords)
    ]
    assert names(BicubicDegradation(), scale=3, channels=1) == [["y_border3"], ["y_8bit_border3"]]
    assert names(BicubicDegradation(), scale=2, channels=3)[1] == ["y_of_8bit_rgb_border2", "rgb_8bit_border2"]
    assert names(JpegDegradation(), scale=1, channels=3) == [["rgb_8bit_border0"]]
    assert names(JpegDegradation(), scale=1, channels=1) == [["y_8bit_border0"]]


@pytest.mark.parametrize(("scale", "decibels"), [(2, 33.69), (3, 30.41), (4, 28.43)])
def test_bicubic_on_set5_is_as_published(compiler, real_data, scale, decibels):
    folder = real_data / "superres" / "set5"
    config = PhotographsConfig(dir=folder, test_dir=folder, patch=48, test_multiple=32)
    data = photograph_data(config, scale=scale, margin=4)
    task = RestorationTask(
        view=luma,
        degrade=lambda image, level, key: degraded(image, BicubicDegradation(), level, scale=scale, key=key),
        conditions=conditions(BicubicDegradation(), scale=scale, channels=1)[:1],
        baselines=lambda compiler: {},
    )
    evaluate = evaluator(compiler, lambda variables, images: imresize(images, float(scale)), task)
    test = RestorationSet(lambda: data.test_batches(1), "Set5")
    assert round(evaluate({}, test).scalars[f"psnr_y_border{scale}"], 2) == decibels
