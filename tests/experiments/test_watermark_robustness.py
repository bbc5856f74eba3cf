"""The measurement of the watermark: what it writes, and what it refuses."""

import json

import numpy as np
from PIL import Image

from experiments import watermark_robustness

SMALL = ("--side", "64", "--watermark.spacing", "60", "--watermark.pilots", "16", "--watermark.low", "4")


def test_the_shapes_world(tmp_path, capsys):
    words = [*SMALL, "--watermark.high", "16", "--count", "2", "--unmarked", "9", "--out", str(tmp_path / "a")]
    assert watermark_robustness.main(words) == 0
    stated = json.loads((tmp_path / "a" / "watermark.json").read_text())
    shares = {(row["change"], row["level"]): row["bits"] for row in stated["survival"]}
    assert shares["none", 0.0] == shares["JPEG", 90.0] == 1.0
    assert shares["blur", 2.0] < 0.9
    assert ("crop", 0.5) not in shares  # smaller than a tile
    assert (stated["images"], stated["unmarked"], stated["false_positives"]) == (2, 9, 0)
    assert stated["psnr"] > 38.0
    with Image.open(tmp_path / "a" / "watermark.png") as picture:
        assert min(picture.size) > 300
    assert "| JPEG | quality 90 | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out


def test_photographs_that_are_too_small_are_refused(tmp_path, capsys):
    Image.fromarray(np.zeros((50, 90, 3), np.uint8)).save(tmp_path / "small.png")
    words = ["--images", str(tmp_path), *SMALL, "--out", str(tmp_path / "out")]
    assert watermark_robustness.main(words) == 2
    assert "has no image of 64x64 pixels or more" in capsys.readouterr().err
    assert watermark_robustness.main(["--side", "32", "--out", str(tmp_path / "out")]) == 2
    assert "smaller than the 64 pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
