"""The published Inception: outputs of pytorch-fid and torch-fidelity under the weights that a formula gives by name.

The golden values are made by make_inception_golden.py with PyTorch.
"""

import hashlib
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from published_weights import golden_image, published_array, uniform

from vision.errors import UserError
from vision.models.inception import Inception, InceptionOutput
from vision.pretrained.inception import IGNORED, inception_rules, inception_target, load_inception
from vision.pretrained.inception_features import InceptionFeatures, load_inception_features
from vision.pretrained.rules import from_published, to_published
from vision.pretrained.state_dict import write_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "inception.npz"


@cache
def _published():
    """A published state dict, as the names and shapes of our table have it."""
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), inception_target())
    shapes = {name: array.shape for name, array in to_published(empty, rules=inception_rules()).items()}
    # twice the scales of the formula, with which 94 layers neither fade nor explode
    gain = lambda name: np.float32(2 if name.endswith("bn.weight") else 1)
    return {name: published_array(name, shape) * gain(name) for name, shape in shapes.items()}


@cache
def _variables():
    counted = _published() | {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(0)}
    return from_published(counted, inception_target(), rules=inception_rules(), ignored=IGNORED)[0]


def _outputs(function, *of):
    return jax.device_get(jax.jit(function)(*of))


def test_the_network():
    """At 139x107 pixels, so that a row is no column, against pytorch-fid."""
    golden = np.load(GOLDEN)
    found = _outputs(Inception().apply, _variables(), golden_image(139, 107))
    for ours, theirs in ((found.pool, golden["features"]), (found.logits, golden["logits"])):
        assert np.abs(theirs[0] - theirs[1]).max() > 0.5
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_the_protocol_from_levels_to_probabilities():
    """32x32 levels by the legacy resize, against torch-fidelity."""
    golden = np.load(GOLDEN)
    levels = np.floor(128 * (uniform("levels", (2, 32, 32, 3)) + 1)).astype(np.uint8)
    extractor = InceptionFeatures(_variables(), resize="legacy_tensorflow", weights="by formula")
    # off the levels by less than half of one
    images = ((levels + 0.4 * uniform("off", levels.shape)) / 127.5 - 1).astype(np.float32)
    features, probabilities = _outputs(lambda extractor, x: extractor.features_and_probabilities(x), extractor, images)
    unbiased = golden["protocol_unbiased_logits"]
    expected = np.exp(unbiased - unbiased.max(-1, keepdims=True))
    np.testing.assert_allclose(features, golden["protocol_features"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(probabilities, expected / expected.sum(-1, keepdims=True), rtol=0, atol=1e-4)
    assert np.abs(golden["protocol_logits"] - unbiased).max() > 0.05


# PyTorch's state dict has these too, and as many counters; five of them by hand
def test_names():
    names = set(_published())
    assert len(names) == 472
    assert {"Conv2d_2b_3x3.bn.running_var", "Mixed_5d.branch_pool.conv.weight", "Mixed_6a.branch3x3.bn.weight"} <= names
    assert {"Mixed_7a.branch7x7x3_4.bn.bias", "Mixed_7c.branch3x3dbl_3b.conv.weight", "fc.bias"} <= names


def test_there_and_back():
    found = to_published(_variables(), rules=inception_rules())
    assert set(found) == set(_published())
    for name, array in _published().items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.fixture
def stem(monkeypatch):
    """Files of a complete network are large, so the network is its first layer: published arrays by name."""
    part = {kind: {"stem_1": variables["stem_1"]} for kind, variables in inception_target().items()}
    monkeypatch.setattr("vision.pretrained.inception.inception_target", lambda: part)
    return {name: array for name, array in _published().items() if name.startswith("Conv2d_1a")}


def test_a_checked_file_is_converted_once(stem, tmp_path):
    path, elsewhere = tmp_path / "weights.pth", tmp_path / "ours.safetensors"
    write_state_dict(path, stem)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    first = load_inception(path, sha256=digest[:8])
    assert (tmp_path / "weights.safetensors").is_file()
    np.testing.assert_array_equal(
        first["params"]["stem_1"]["conv"]["kernel"], stem["Conv2d_1a_3x3.conv.weight"].transpose(2, 3, 1, 0)
    )
    load_inception(path, converted=elsewhere, sha256=digest)
    path.unlink()
    for again in (load_inception(path), load_inception("nowhere.pth", converted=elsewhere), load_inception(elsewhere)):
        jax.tree.map(np.testing.assert_array_equal, again, first)
    extractor = load_inception_features(path, resize="clean")
    assert extractor.name == "inception_2015_clean"
    assert "SHA-256 6726825d" in extractor.protocol()
    assert "Pillow" in extractor.protocol()
    jax.tree.map(np.testing.assert_array_equal, extractor.variables, first)


def test_a_wrong_file(stem, tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    with pytest.raises(UserError, match=r"no Inception weights at .*: download pt_inception-2015-12-05-6726825d\.pth"):
        load_inception(path)
    write_state_dict(path, stem)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"its SHA-256 begins with {digest[:8]}, not 6726825d; fetch") as caught:
        load_inception(path)
    assert "\n" not in str(caught.value)
    assert not path.with_suffix(".safetensors").exists()
    with pytest.raises(UserError, match=r"cannot be written to .*: choose another path"):
        load_inception(path, converted=tmp_path / "no" / "folder.safetensors", sha256=digest)
    write_state_dict(path, stem | {"Conv2d_1a_3x3.conv.bias": np.zeros(32, np.float32)})
    with pytest.raises(UserError, match=r"weights are not of this network.*Conv2d_1a_3x3\.conv\.bias"):
        load_inception(path, sha256="")


@pytest.mark.parametrize("resize", ["legacy_tensorflow", "clean"])
def test_what_the_network_is_given(resize, monkeypatch, unchecked):
    """Images off the levels are rounded first; then the named resize; then (v - 128) / 128."""

    class Seen:
        def apply(self, _, image):
            return InceptionOutput(image, image, image)

    monkeypatch.setattr("vision.pretrained.inception_features.Inception", Seen)
    levels = np.floor(128 * (uniform("levels", (2, 32, 32, 3)) + 1)).astype(np.uint8)
    images = ((levels + 0.4 * uniform("off", levels.shape)) / 127.5 - 1).astype(np.float32)
    extractor = InceptionFeatures({}, resize=resize, weights="none")
    seen = np.asarray(extractor(jnp.asarray(levels)).pool)
    np.testing.assert_array_equal(extractor.features_and_probabilities(jnp.asarray(images))[0], seen)
    if resize == "clean":
        by_pillow = lambda channel: np.asarray(Image.fromarray(channel).resize((299, 299), Image.Resampling.BICUBIC))
        floats = levels.astype(np.float32)
        expected = np.stack([np.stack([by_pillow(i[..., c]) for c in range(3)], axis=-1) for i in floats]).clip(0, 255)
    else:
        seen, expected = seen[:, ::23, ::29], np.load(GOLDEN)["protocol_resized"]
    np.testing.assert_allclose(seen, (expected - 128) / 128, rtol=0, atol=2e-6)
    assert extractor.name == f"inception_2015_{resize}"


def test_invalid_input(unchecked):
    extractor = InceptionFeatures({}, resize="clean", weights="none")
    with pytest.raises(UserError, match="have 1 channels: repeat grey"):
        extractor.features_and_probabilities(np.zeros((1, 28, 28, 1), np.float32))
    with pytest.raises(UserError, match='no resize "bicubic", only legacy_tensorflow and clean'):
        load_inception_features("weights.pth", resize="bicubic")
