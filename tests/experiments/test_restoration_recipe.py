"""The recipes of restoration: a small run and what is done with it, weights in and out, the game, refusals."""

from dataclasses import replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import denoise, srgan, superres
from vision.data.exact_image import read_exact
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.models.restoration.edsr import EdsrConfig
from vision.models.restoration.srcnn import SrcnnConfig
from vision.models.vgg import VggConfig
from vision.ops.degradations.degradation import JpegDegradation, NoiseDegradation
from vision.pretrained.rules import to_published
from vision.pretrained.state_dict import read_state_dict, write_state_dict
from vision.pretrained.vgg import vgg_rules
from vision.recipes.restoration import REDUCTIONS, VggFeaturesConfig, pairs
from vision.recipes.restoration_evaluation import LpipsConfig, vgg_shapes
from vision.recipes.restoration_networks import (
    DENOISING,
    SMALL_DENOISING,
    SMALL_SUPER_RESOLUTION,
    SUPER_RESOLUTION,
    network,
)
from vision.tasks.restoration import RestorationLossConfig
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY_VGG = VggConfig(depths=(1, 1), widths=(4, 4), classes=0)


def run(module, config, workdir, *options):
    return launcher.main(
        module.__name__.rpartition(".")[2],
        config=module.Config(),
        quick=config,
        build=module.build,
        description="",
        arguments=["--quick", "--workdir", str(workdir), *map(str, options)],
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restoration") / "run"
    assert run(superres, superres.TINY, folder) == 0
    return folder


def test_what_a_run_records(finished):
    scalars = {name for line in read_metrics(finished / "metrics.jsonl") for name in line}
    wanted = {"psnr_y_border2", "ssim_rgb_8bit_border2", "psnr_y_border2/bicubic"}
    assert {f"eval/{name}" for name in wanted} | {"train/pixels"} <= scalars
    shown = {file.name.split("-")[0] for file in (finished / "samples").iterdir()}
    assert {"table", "examples"} <= shown


def test_files_are_enlarged(finished, tmp_path, capsys):
    Image.new("RGBA", (50, 40), (1, 2, 3, 200)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert verbs.main(["predict", str(finished), str(tmp_path / "a.png"), "--out", str(out), "--self-ensemble"]) == 0
    assert "50x40 -> 100x80 pixels, RGB of 8 bits with alpha" in capsys.readouterr().out
    assert read_exact(out / "a.png").pixels.shape == (80, 100, 3)
    assert (out / "comparison.html").stat().st_size > 1000


def test_the_exported_function_and_the_published_weights(finished, tmp_path, capsys):
    file = tmp_path / "model.bin"
    assert verbs.main(["export", str(finished), str(file)]) == 0
    call = jax.export.deserialize(file.read_bytes()).call
    made = call(np.zeros((2, 32, 32, 3), np.uint8))["image"]
    assert (made.shape, made.dtype) == ((2, 64, 64, 3), np.uint8)
    assert verbs.main(["export", str(finished), str(tmp_path / "a.safetensors")]) == 0
    published = read_state_dict(tmp_path / "a.safetensors")
    assert published["body.0.conv1.weight"].shape == (4, 4, 3, 3)
    options = ["--init-from", str(tmp_path / "a.safetensors"), "--model.blocks", "1", "--model.width", "4"]
    small = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(small)
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    assert verbs.main(["predict", "superres", *options, "--out", str(theirs), "--", str(small)]) == 0
    assert verbs.main(["predict", str(finished), str(small), "--out", str(own), "--tiling.tile", "192"]) == 0
    images = [read_exact(folder / "a.png").pixels.astype(int) for folder in (own, theirs)]
    assert np.abs(images[0] - images[1]).max() <= 1
    options[3] = "2"
    assert verbs.main(["predict", "superres", *options, "--", str(small)]) == 2
    assert "block_1" in capsys.readouterr().err


def test_a_game_goes_on_from_a_run(finished, tmp_path, capsys):
    config = replace(srgan.TINY, model=EdsrConfig(blocks=1, width=4), init_from=finished)
    experiment = srgan.build(config)
    values = experiment.initial_values()
    assert "starting from the averages" in (said := capsys.readouterr().err)
    assert "stay random" in said
    assert all(name.startswith("params/generator/") for name in values)
    state = jax.jit(experiment.init)(jax.random.key(0), values)
    kernel = state.params["generator"]["conv_last"]["kernel"]
    np.testing.assert_array_equal(kernel, values["params/generator/conv_last/kernel"])
    assert "discriminator" in state.params
    # published names of the generator go on too
    tensors = experiment.published(state)
    write_state_dict(tmp_path / "a.safetensors", tensors)
    again = srgan.build(replace(config, init_from=tmp_path / "a.safetensors")).initial_values()
    np.testing.assert_array_equal(again["params/generator/conv_last/kernel"], kernel)


def test_features_are_a_part_of_their_own(tmp_path):
    shapes = vgg_shapes(TINY_VGG, ("conv2_1",))
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), shapes)
    tensors = to_published(weights, rules=vgg_rules(TINY_VGG))
    write_state_dict(tmp_path / "vgg.safetensors", {**tensors, "classifier.0.weight": np.zeros((1, 1), np.float32)})
    config = replace(
        denoise.TINY,
        loss=RestorationLossConfig(perceptual=0.5),
        perceptual=VggFeaturesConfig(model=TINY_VGG, weights=tmp_path / "vgg.safetensors", layers=("relu1_1",)),
    )
    experiment = denoise.build(config)
    loaded = experiment.frozen["perceptual"].load()
    assert loaded["params"].keys() == {"stage_1"}
    with pytest.raises(UserError, match=r"set both it and perceptual\.weights, or neither"):
        denoise.build(replace(config, perceptual=VggFeaturesConfig()))


def test_pairs_are_aligned():
    config = replace(superres.TINY, augment=False, data=replace(superres.TINY.data, patch=8))
    net = network(config.model)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8))
    pair = pairs(config, net)({"image": image}, key=jax.random.key(0))
    assert pair["image"].shape == (2, 4, 4, 3)
    np.testing.assert_allclose(pair["target"], image[:, 8:16, 8:16] / 255, atol=1e-6)
    turned = pairs(replace(config, augment=True), net)({"image": image}, key=jax.random.key(0))
    assert np.abs(turned["target"] - pair["target"]).max() > 0.1
    luma = network(SrcnnConfig(scale=2))
    assert pairs(config, luma)({"image": image}, key=jax.random.key(0))["target"].shape == (2, 8, 8, 1)


@pytest.mark.parametrize("table", [SUPER_RESOLUTION, SMALL_SUPER_RESOLUTION, DENOISING, SMALL_DENOISING])
def test_networks_by_name(table):
    enlarging = table in (SUPER_RESOLUTION, SMALL_SUPER_RESOLUTION)
    for config in table.values():
        net = network(config)
        assert (net.scale > 1) == enlarging
        side = 8 * net.multiple
        image = jax.ShapeDtypeStruct((1, side, side, net.channels), np.float32)
        made = jax.eval_shape(
            lambda x, net=net: net.module.init_with_output(jax.random.key(0), x, train=False)[0], image
        )
        assert made.shape == (1, net.scale * side, net.scale * side, net.channels)
    assert SUPER_RESOLUTION.keys() == SMALL_SUPER_RESOLUTION.keys()
    assert DENOISING.keys() == SMALL_DENOISING.keys()


@pytest.mark.parametrize(
    ("module", "change", "said"),
    [
        (denoise, {"degradation": REDUCTIONS["bicubic"]}, "leave nothing to restore"),
        (denoise, {"degradation": NoiseDegradation(sigma=(9.0, 3.0))}, "smaller end of a degradation's range"),
        (superres, {"model": EdsrConfig(channels=2)}, r"one channel or three, not model\.channels 2"),
        (superres, {"loss": RestorationLossConfig(pixels=0.0)}, "nothing to minimise"),
        (superres, {"data": replace(superres.TINY.data, patch=15)}, r"data\.patch 15 must be a multiple of 2"),
        (srgan, {"model": SrcnnConfig(scale=2)}, None),
        (denoise, {"degradation": JpegDegradation(quality=(10.0, 90.0))}, None),
        (superres, {"degradation": REDUCTIONS["real_esrgan"]}, None),
    ],
)
def test_settings(module, change, said):
    config = replace(module.TINY, **change)
    if said is None:
        jax.eval_shape(module.build(config).init, jax.random.key(0))
        return
    with pytest.raises(UserError, match=said):
        module.build(config)


def test_lpips_needs_both_files(finished, tmp_path, capsys):
    assert verbs.main(["evaluate", str(finished), "--lpips.features", str(tmp_path / "a.pth")]) == 2
    assert "set both, or neither" in capsys.readouterr().err
    assert LpipsConfig().network == "alexnet"
