"""Pictures of restored images, tables of numbers, and the page with a slider."""

import base64
import hashlib
import io
import re

import numpy as np
from PIL import Image

from vision.report.comparison import Compared, write_comparison
from vision.report.restoration import Restored, cut, detail_box, detail_row, number_table, restoration_sheet


def flat_with_noise(height, width, box):
    image = np.full((height, width, 3), 90, np.uint8)
    top, left, tall, wide = box
    image[top : top + tall, left : left + wide] = np.random.default_rng(0).integers(0, 256, (tall, wide, 3))
    return image


def test_the_detail_is_where_the_image_varies():
    top, left, height, width = detail_box(flat_with_noise(80, 120, (50, 70, 20, 20)), 24)
    assert (height, width) == (24, 24)
    assert 45 <= top <= 51
    assert 65 <= left <= 71
    assert detail_box(flat_with_noise(5, 9, (0, 0, 2, 2)), 24) == (0, 0, 5, 9)
    large = detail_box(flat_with_noise(2000, 2400, (1500, 800, 90, 90)), 60)
    assert abs(large[0] - 1500) < 60
    assert abs(large[1] - 800) < 60


def test_sheets():
    truth = flat_with_noise(40, 60, (5, 5, 20, 20))
    row = detail_row(truth, (0, 0, 16, 16), {"before": truth[:16, :16], "after": truth[:16, :16]})
    # details are enlarged by 16, each pixel as a square
    pixels = [tuple(pixel) for pixel in row.reshape(-1, 3).tolist()]
    assert pixels.count(tuple(truth[10, 10].tolist())) >= 2 * 256
    assert cut(truth, (1, 2, 3, 4)).shape == (3, 4, 3)
    shown = Restored({"bicubic": truth, "restored": truth, "truth": truth}, {"restored": "30.12 dB"})
    other = Restored({"bicubic": truth[:20], "truth": truth[:20]}, {})
    sheet = restoration_sheet([shown, other])
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] > 4 * 100


def test_tables():
    values = np.array([[20.0, 31.25], [np.nan, np.nan]])
    table = number_table(values, rows=["sigma25", "sigma50"], columns=["input", "network"], title="PSNR in dB")
    assert table.shape[0] == 24 * 4 + 12
    other = number_table(values + 1, rows=["sigma25", "sigma50"], columns=["input", "network"], title="PSNR in dB")
    assert table.shape != other.shape or (table != other).any()


def test_the_page_loads_nothing_and_shows_both(tmp_path):
    before, after = flat_with_noise(20, 30, (0, 0, 9, 9)), np.zeros((20, 30, 3), np.uint8)
    compared = Compared(name="<b>&\udcff.png", before=before, after=after, note="20 < 30")
    write_comparison(tmp_path / "a.html", [compared], title="A & B", description="drag", labels=("in", "out"))
    text = (tmp_path / "a.html").read_text("utf-8", "surrogateescape")
    assert "<b>" not in text
    assert "A &amp; B" in text
    assert not re.search(r'(?:src|href)="(?!data:image/jpeg;base64,)', text)
    (script,) = re.findall(r"<script>(.*)</script>", text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in text
    inlined = re.findall(r'base64,([^"]+)"', text)
    sizes = [Image.open(io.BytesIO(base64.b64decode(each))).size for each in inlined]
    assert sizes == [(30, 20), (30, 20)]
