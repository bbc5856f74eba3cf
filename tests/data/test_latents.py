"""Latents on disk: encoded once, resumed, shared by processes, known by their content; damage; the statistics."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import latents as module
from vision.data.latents import FILE, LatentIdentity, LatentSource, finish_latents, open_latents, write_latents
from vision.data.pipeline import batches
from vision.data.source import ArraySource, in_memory
from vision.errors import UserError
from vision.types import Content

COUNT, NAMES = 23, ("cat", "dog")
_RNG = np.random.default_rng(0)
IMAGES = _RNG.integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
LABELS = _RNG.integers(0, 2, COUNT).astype(np.int32)
SOURCE = ArraySource({"image": IMAGES, "label": LABELS}, NAMES)
IDENTITY = LatentIdentity(
    variables="ab" * 32,
    network="mean and deviation of squares",
    gaussian=True,
    content=Content(count=COUNT, sha256="cd" * 32),
    image=(4, 4, 3),
    latent=(2, 2, 4),
    flips=False,
    dtype="float32",
)


class Encoder:
    """Counts its calls; the latent of an image has two channels: means of squares, then positive deviations."""

    def __init__(self, until=None):
        self.images, self.until = 0, until

    def __call__(self, images):
        """Moments of four squares of each image."""
        self.images += len(images)
        if self.until is not None and self.images > self.until:
            raise KeyboardInterrupt
        squares = images.astype(np.float32).reshape(len(images), 2, 2, 2, 2, 3).mean((2, 4)) / 100
        return np.concatenate([squares[..., :2], 0.1 + squares[..., 1:]], axis=-1)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    """Five images a shard in float32 without flips: a record has 68 bytes."""
    monkeypatch.setattr(module, "SHARD_BYTES", 68 * 5)


def made(root, identity=IDENTITY, *, source=SOURCE, encode=None, share=(0, 1), **of):
    """What a start does, and how many images it encoded."""
    encode = encode or Encoder()
    if (found := open_latents(root, identity)) is None:
        write_latents(root, identity, source, encode, batch_size=4, share=share, **of)
        finish_latents(root, identity, source.class_names)
        found = open_latents(root, identity)
    assert found is not None
    return found, encode.images


def test_records_are_what_was_encoded(tmp_path):
    found, _ = made(tmp_path)
    assert isinstance(found, LatentSource)
    assert (len(found), found.class_names, found.nbytes) == (COUNT, NAMES, COUNT * 68)
    want = Encoder()(IMAGES)
    for index in (0, 4, 5, 22):
        record = found[index]
        np.testing.assert_array_equal(record["latent"], want[index])
        assert record["label"] == LABELS[index]
        assert (record["label"].shape, record["label"].dtype) == ((), np.int32)
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            found[index]
    np.testing.assert_array_equal(in_memory(found).arrays["latent"], want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))[7]["latent"], want[7])


def test_batches_are_functions_of_seed_and_step(tmp_path):
    """From files and from memory alike."""
    found, _ = made(tmp_path)
    streams = [batches(source, batch_size=6, seed=1, start_step=2) for source in (found, in_memory(found))]
    for _ in range(4):
        one, other = (next(stream) for stream in streams)
        np.testing.assert_array_equal(one["latent"], other["latent"])
        np.testing.assert_array_equal(one["label"], other["label"])


def test_a_second_start_reads(tmp_path):
    seen = []
    _, encoded = made(tmp_path, report=seen.append)
    assert encoded == 5 * 8 - 4  # shards of 5, 5, 5, 5 and 3 images, in batches of 4
    assert seen == sorted(seen)
    assert seen[-1] == COUNT
    again, encoded = made(tmp_path)
    assert encoded == 0
    assert len(again) == COUNT


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("flips", [True, False])
def test_statistics_are_those_of_numpy(gaussian, flips, tmp_path):
    """Of Gaussian latents, the moments of samples."""
    identity = dataclasses.replace(IDENTITY, gaussian=gaussian, flips=flips)
    found, _ = made(tmp_path, identity)
    images = np.concatenate([IMAGES, IMAGES[:, :, ::-1]]) if flips else IMAGES
    values = np.asarray(Encoder()(images), np.float64).reshape(-1, 4)
    mean, deviation = (values[:, :2], values[:, 2:]) if gaussian else (values, 0.0)
    np.testing.assert_allclose(found.mean, mean.mean(0), rtol=1e-9)
    variance = mean.var(0) + np.square(deviation).mean(0) if gaussian else mean.var(0)
    np.testing.assert_allclose(found.deviation, np.sqrt(variance), rtol=1e-9)
    if gaussian and not flips:
        samples = mean + deviation * np.random.default_rng(1).normal(size=(4000, *mean.shape))
        np.testing.assert_allclose(samples.std((0, 1)), found.deviation, rtol=0.02)
    stated = json.loads((found.folder / FILE).read_text())
    assert stated["mean"] == found.mean.tolist()
    assert stated["deviation"] == found.deviation.tolist()


def test_both_flips_are_stored(tmp_path):
    found, encoded = made(tmp_path, dataclasses.replace(IDENTITY, flips=True))
    assert len(found) == 2 * COUNT
    assert encoded >= 2 * COUNT
    want = np.stack([Encoder()(IMAGES), Encoder()(IMAGES[:, :, ::-1])], axis=1)
    for index in range(2 * COUNT):
        record = found[index]
        np.testing.assert_array_equal(record["latent"], want[index // 2, index % 2])
        assert record["label"] == LABELS[index // 2]


def test_a_start_after_a_kill_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, encode=Encoder(until=20))  # in the third shard
    folder = module.latent_folder(tmp_path, IDENTITY)
    left = sorted(path.name for path in folder.iterdir())
    assert left == [f"images-00000000{first}.{kind}" for first in (0, 5) for kind in ("array_record", "json")]
    assert open_latents(tmp_path, IDENTITY) is None
    # a file without its JSON was not finished; a temporary one is left by a kill
    (folder / "images-000000010.array_record").write_bytes(b"begun")
    (folder / ".images-000000010.array_record.0.tmp").write_bytes(b"begun")
    found, encoded = made(tmp_path)
    assert encoded == 2 * 8 + 4
    np.testing.assert_array_equal(in_memory(found).arrays["latent"], Encoder()(IMAGES))


def test_each_process_encodes_its_shards(tmp_path):
    encoders = [Encoder(), Encoder()]
    write_latents(tmp_path, IDENTITY, SOURCE, encoders[1], batch_size=4, share=(1, 2))
    with pytest.raises(UserError, match=r"has latents of 0 of 23 images .* name a folder that all of them share"):
        finish_latents(tmp_path, IDENTITY, NAMES)
    write_latents(tmp_path, IDENTITY, SOURCE, encoders[0], batch_size=4, share=(0, 2))
    finish_latents(tmp_path, IDENTITY, NAMES)
    assert [each.images for each in encoders] == [2 * 8 + 4, 2 * 8]
    found, encoded = made(tmp_path)
    assert encoded == 0
    np.testing.assert_array_equal(in_memory(found).arrays["latent"], Encoder()(IMAGES))


@pytest.mark.parametrize(
    "change",
    [
        {"variables": "ef" * 32},
        {"content": Content(count=COUNT, sha256="ef" * 32)},
        {"image": (8, 8, 3)},
        {"flips": True},
        {"dtype": "float16"},
        {"gaussian": False},
        {"network": "another"},
    ],
)
def test_any_change_is_another_folder(change, tmp_path):
    made(tmp_path)
    other = dataclasses.replace(IDENTITY, **change)
    assert module.latent_folder(tmp_path, other) != module.latent_folder(tmp_path, IDENTITY)
    assert open_latents(tmp_path, other) is None


def test_half_precision(tmp_path):
    found, _ = made(tmp_path, dataclasses.replace(IDENTITY, dtype="float16"))
    assert found[3]["latent"].dtype == np.float16
    np.testing.assert_allclose(found[3]["latent"], Encoder()(IMAGES)[3], rtol=1e-3)
    too_large = lambda images: 1e5 * Encoder()(images)
    identity = dataclasses.replace(IDENTITY, dtype="float16", network="large")
    with pytest.raises(UserError, match=r"not finite in float16: choose another network, or float32"):
        made(tmp_path, identity, encode=type("Large", (), {"__call__": lambda self, x: too_large(x), "images": 0})())


def test_a_shorter_file_is_encoded_again(tmp_path, capsys):
    found, _ = made(tmp_path)
    file = found.folder / "images-000000005.array_record"
    file.write_bytes(file.read_bytes()[:-100])
    again, encoded = made(tmp_path)
    assert encoded == 8
    assert f"{file} has " in capsys.readouterr().err
    np.testing.assert_array_equal(in_memory(again).arrays["latent"], Encoder()(IMAGES))
    file.unlink()
    assert made(tmp_path)[1] == 8


def test_a_damaged_record_is_one_sentence(tmp_path):
    found, _ = made(tmp_path)
    file = found.folder / "images-000000005.array_record"
    content = bytearray(file.read_bytes())
    for place in range(len(content)):
        content[place] ^= 0x55
    file.write_bytes(content)
    damaged, encoded = made(tmp_path)
    assert encoded == 0
    np.testing.assert_array_equal(damaged[0]["latent"], found[0]["latent"])
    with pytest.raises(
        UserError, match=r"images-000000005.array_record is damaged \(.*\): delete it, and the next start"
    ):
        damaged[6]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"{", b"\xff", b"[" * 50_000])
@pytest.mark.parametrize("name", [FILE, "images-000000000.json"])
def test_damaged_descriptions_are_as_if_not_written(name, content, tmp_path):
    found, _ = made(tmp_path)
    (found.folder / name).write_bytes(content)
    assert open_latents(tmp_path, IDENTITY) is None
    again, encoded = made(tmp_path)
    assert encoded == (0 if name == FILE else 8)
    assert len(again) == COUNT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LAYOUTS = st.dictionaries(st.sampled_from(["latent", "label"]), st.tuples(st.text(max_size=3), st.lists(st.integers())))


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_BYTES", 68 * 5)
        return root, made(root)[0].folder


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["first", "images", "bytes", "layout", "sums", "squares"]), value=JSON | LAYOUTS)
def test_any_description_of_a_shard_is_read_or_not(complete, name, value):
    root, folder = complete
    path = folder / "images-000000000.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), name: value}))
    try:
        found = open_latents(root, IDENTITY)
        said = ""
        try:
            if found is not None:
                assert set(found[0]) >= {"latent"}
        except UserError as error:
            said = str(error)
        assert "\n" not in said
    finally:
        path.write_text(before)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(UserError, match=r"latents cannot be written to .*No space left.*free some space or"):
        made(tmp_path)
    assert not list(module.latent_folder(tmp_path, IDENTITY).iterdir())
