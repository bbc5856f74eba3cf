"""The shape classifier: real images, soft ones, nothing at all, and the numbering of classes."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from experiments.shape_classifier import Config, batches, held_out_accuracy, soften, train, training_images
from vision.data.shapes.world import COLOURS, PALETTE, SHAPES, ShapesConfig, ShapesSource
from vision.errors import UserError
from vision.pretrained import shape_classifier as shape_classifier
from vision.pretrained.shape_classifier import compute, load_shape_classifier, merge, save_shape_classifier

COUNT = 512


@pytest.fixture(scope="module")
def classifier():
    return load_shape_classifier()


@pytest.fixture(scope="module")
def evaluated(classifier):
    """Accuracy sums over all classes, compiled once for 512 images of 32x32."""
    return jax.jit(lambda images, labels: classifier.accuracy(images, labels, ShapesConfig()))


@pytest.fixture(scope="module")
def real():
    """Held-out images in [-1, 1] and their labels."""
    scenes = ShapesSource(seed=123, size=COUNT, split="test").arrays()
    return jnp.asarray(scenes["image"] / np.float32(127.5) - 1), jnp.asarray(scenes["label"])


def _near_chance(correct, count, chance):
    """Within what 1 in 10^6 honest coins exceed."""
    return stats.binomtest(int(correct), int(count), chance).pvalue > 1e-6


def test_real_images_are_recognised(evaluated, real):
    marks = compute(evaluated(*real))
    assert marks["class_accuracy"] >= 0.97  # 0.98 and more on many images, see the experiment
    assert marks["shape_accuracy"] >= marks["class_accuracy"]
    assert marks["colour_accuracy"] >= 0.99


def test_soft_and_noisy_images_are_recognised(evaluated, real):
    images, labels = real
    soft = ndimage.gaussian_filter(images, (0, 0.7, 0.7, 0))
    noisy = np.clip(soft + 0.05 * np.random.default_rng(0).normal(size=soft.shape), -1, 1).astype(np.float32)
    assert compute(evaluated(noisy, labels))["class_accuracy"] >= 0.93


@pytest.mark.parametrize("kind", ["permuted", "noise", "pixels", "flat"])
def test_no_credit_for_nothing(evaluated, real, kind):
    images, labels = real
    generator = np.random.default_rng(1)
    match kind:
        case "permuted":
            labels = generator.permutation(labels)
        case "noise":
            images = np.clip(generator.normal(size=images.shape), -1, 1)
        case "pixels":
            images = generator.uniform(-1, 1, size=images.shape)
        case "flat":
            images = np.broadcast_to(generator.uniform(-1, 1, size=(COUNT, 1, 1, 3)), images.shape)
    sums = evaluated(np.asarray(images, np.float32), labels)
    assert int(sums["count"]) == COUNT
    assert _near_chance(sums["class_correct"], COUNT, 1 / 64)
    assert _near_chance(sums["shape_correct"], COUNT, 1 / 8)
    assert _near_chance(sums["colour_correct"], COUNT, 1 / 8)


def test_flat_images_of_the_right_colour_earn_no_shape(classifier, evaluated):
    """A canvas in the requested colour: its colour is right, its shape must be a guess."""
    labels = np.arange(COUNT, dtype=np.int32) % 64
    palette = np.array([rgb for _, rgb in PALETTE], np.float32) / 127.5 - 1
    flat = np.broadcast_to(palette[labels % 8][:, None, None], (COUNT, 32, 32, 3))
    sums = evaluated(np.asarray(flat), labels)
    assert int(sums["shape_correct"]) == COUNT // 8  # the same guess for all eight shapes of a colour
    assert int(sums["class_correct"]) <= COUNT // 8


@pytest.mark.parametrize("resolution", [24, 64])
def test_other_resolutions(classifier, resolution):
    config = ShapesConfig(resolution=resolution)
    scenes = ShapesSource(config=config, seed=5, size=128, split="test").arrays()
    sums = classifier.accuracy(
        jnp.asarray(scenes["image"] / np.float32(127.5) - 1), jnp.asarray(scenes["label"]), config
    )
    assert compute(sums)["class_accuracy"] >= 0.92


def test_subset_is_mapped_by_name_and_gives_no_help(classifier):
    """Labels of a reordered subset mean its names; the choice stays among all classes."""
    config = ShapesConfig(shapes=("star", "circle"), colours=("pink", "red", "green"))
    scenes = ShapesSource(config=config, seed=3, size=96, split="test").arrays()
    images, labels = jnp.asarray(scenes["image"] / np.float32(127.5) - 1), scenes["label"]
    shape_logits, colour_logits = classifier(images)
    shape_names = np.array(SHAPES)[np.asarray(shape_logits).argmax(1)]
    colour_names = np.array(COLOURS)[np.asarray(colour_logits).argmax(1)]
    shape_right = shape_names == np.array(config.shapes)[labels // 3]
    colour_right = colour_names == np.array(config.colours)[labels % 3]
    sums = {name: int(value) for name, value in classifier.accuracy(images, jnp.asarray(labels), config).items()}
    assert sums == {
        "class_correct": (shape_right & colour_right).sum(),
        "shape_correct": shape_right.sum(),
        "colour_correct": colour_right.sum(),
        "count": 96,
    }
    assert sums["class_correct"] >= 0.95 * 96
    # A world of one class: an image of another is wrong, although the subset leaves only one answer.
    blue = ShapesConfig(shapes=("square",), colours=("blue",))
    assert int(classifier.accuracy(images, jnp.zeros(96, jnp.int32), blue)["class_correct"]) == 0


def test_padding_is_left_out_and_parts_add_up(classifier, evaluated, real):
    images, labels = real
    whole = evaluated(images, labels)
    mask = jnp.arange(COUNT) < 100
    part = jax.jit(lambda *of, mask: classifier.accuracy(*of, ShapesConfig(), mask=mask))
    together = merge(part(images, labels, mask=mask), part(images, labels, mask=~mask))
    assert {k: int(v) for k, v in together.items()} == {k: int(v) for k, v in whole.items()}
    assert int(part(images, labels, mask=mask)["count"]) == 100


@pytest.mark.usefixtures("unchecked")
def test_no_images_are_an_error(classifier, real):
    sums = classifier.accuracy(real[0][:2], real[1][:2], ShapesConfig(), mask=jnp.zeros(2, bool))
    with pytest.raises(UserError, match="no images"):
        compute(sums)


@pytest.mark.usefixtures("unchecked")
def test_unknown_shape_is_an_error(classifier, real):
    class Pentagons:
        shapes = ("pentagon",)
        colours = ("red",)

    with pytest.raises(UserError, match="knows no shape 'pentagon'"):
        classifier.accuracy(real[0][:2], real[1][:2], Pentagons())


def test_file(classifier, tmp_path):
    path = Path(shape_classifier.__file__).with_name("shape_classifier.npz")
    assert path.stat().st_size <= 150_000
    assert classifier.version == "1"
    assert classifier.shapes == SHAPES
    assert classifier.colours == COLOURS
    assert "shape classifier 1:" in classifier.protocol(ShapesConfig(shapes=("star",)))
    assert "labels of 1 shapes x 8 colours" in classifier.protocol(ShapesConfig(shapes=("star",)))
    save_shape_classifier(tmp_path / "again.npz", classifier)
    jax.tree.map(np.testing.assert_array_equal, load_shape_classifier(tmp_path / "again.npz").params, classifier.params)
    with pytest.raises(UserError, match="no weights"):
        load_shape_classifier(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(UserError, match="not a shape classifier"):
        load_shape_classifier(tmp_path / "other.npz")


def test_deterministic_and_fast(classifier, real):
    function = jax.jit(classifier)
    images = real[0][:256]
    first = jax.block_until_ready(function(images))
    started = time.perf_counter()
    second = jax.block_until_ready(function(images))
    assert time.perf_counter() - started < 3.0  # under 0.2 s by itself; other work may share the core
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_softening_keeps_range_and_mean():
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 13, 13, 1)), jnp.float32)
    soft = soften(images, blur=1.0, noise=0.0, key=jax.random.key(0))
    assert float(jnp.abs(soft).max()) <= 1
    # Away from the edges an average of averages: the variance falls, the mean stays.
    assert (jnp.var(soft, axis=(1, 2, 3)) < jnp.var(images, axis=(1, 2, 3))).all()
    np.testing.assert_allclose(soft.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.05)
    point = jnp.zeros((64, 13, 13, 1)).at[:, 6, 6].set(1.0)
    spread = np.asarray(soften(point, blur=1.0, noise=0.0, key=jax.random.key(1)))[..., 0]
    variance = (spread * (np.arange(13) - 6) ** 2).sum((1, 2))
    assert (variance <= 1.0 + 1e-5).all()
    assert stats.kstest(np.sqrt(variance), "uniform").pvalue > 1e-4


def test_experiment_runs(tmp_path, capsys, one_device):
    """Two steps of the recipe: batches are a function of the seed, and the weights move."""
    config = Config(out=tmp_path / "judge.npz", images=96, steps=2, batch_size=16, other_resolutions=(64,))
    classifier = train(config, mesh=one_device)
    assert "step 1," in capsys.readouterr().out
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(classifier.params))
    assert np.abs(classifier.params["Dense_0"]["bias"]).max() > 0
    images, labels = training_images(config)
    assert images.shape == (144, 32, 32, 3)
    first, again = (next(batches(config, images, labels)) for _ in range(2))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert len({image.tobytes() for image in first["image"]}) == 16
    marks = held_out_accuracy(classifier, size=64, seed=0, mesh=one_device)
    assert set(marks) == {"class_accuracy", "shape_accuracy", "colour_accuracy"}
