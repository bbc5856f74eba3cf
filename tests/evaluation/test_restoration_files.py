"""Files that are restored: tiles against whole images, depth and transparency, what is written, what is skipped."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.data.exact_image import ExactImage, read_exact, write_exact
from vision.errors import UserError
from vision.evaluation.restoration_files import restore_photographs
from vision.ops.imresize import imresize
from vision.ops.tiling import TilingConfig
from vision.train.compile import Compiler

TILING = TilingConfig(tile=24, margin=6, batch=2)


@pytest.fixture(scope="module")
def compiler(one_device):
    return Compiler(one_device)


@pytest.fixture(scope="module")
def enlarge(compiler):
    return restore_photographs(compiler, lambda factor, images: factor * imresize(images, 2.0), tiling=TILING, scale=2)


def enlarged(values):
    most = np.iinfo(values.dtype).max
    made = np.asarray(imresize(jnp.asarray(values[None] / np.float32(most)), 2.0))[0]
    return np.floor(np.clip(made, 0, 1) * most + 0.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_make_the_whole_image_of_its_depth(enlarge, dtype, channels, tmp_path):
    generator = np.random.default_rng(0)
    values = lambda count: generator.integers(0, np.iinfo(dtype).max, (37, 50, count)).astype(dtype)
    image = ExactImage(values(channels), values(1))
    write_exact(tmp_path / "a.png", image)
    lines = enlarge(jnp.float32(1.0), [tmp_path / "a.png"], tmp_path / "out")
    kind = "grey" if channels == 1 else "RGB"
    assert f"50x37 -> 100x74 pixels, {kind} of {8 * np.dtype(dtype).itemsize} bits with alpha" in lines[0]
    found = read_exact(tmp_path / "out" / "a.png")
    for made, source in ((found.pixels, image.pixels), (found.alpha, image.alpha)):
        difference = np.abs(made.astype(np.int64) - enlarged(source))
        assert difference.max() <= (1 if dtype == np.uint8 else 4)


def test_what_is_written(enlarge, tmp_path):
    (tmp_path / "b").mkdir()
    for place in ("a.png", "b/a.jpg"):
        Image.new("RGB", (30, 20), (200, 100, 50)).save(tmp_path / place)
    (tmp_path / "c.png").write_bytes(b"nothing")
    files = [tmp_path / name for name in ("a.png", "b/a.jpg", "c.png")]
    lines = enlarge(jnp.float32(0.5), files, tmp_path / "out")
    assert "c.png: skipped, it cannot be decoded" in lines[2]
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"a.png", "a-2.png", "details", "restoration.json", "comparison.html"}
    table = json.loads((tmp_path / "out" / "restoration.json").read_text())
    assert [row["written"] for row in table["images"]] == ["a.png", "a-2.png"]
    assert table["images"][0]["to"] == "60x40"
    made = read_exact(tmp_path / "out" / "a.png").pixels
    assert np.unique(made.reshape(-1, 3), axis=0).tolist() == [[100, 50, 25]]
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("<section>") == 2
    assert "60x40 pixels of 60x40, from column 0 and row 0" in page


def test_nothing_to_restore(enlarge, tmp_path):
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(UserError, match="there is nothing to predict"):
        enlarge(jnp.float32(1.0), [tmp_path / "c.png"], tmp_path / "out")
