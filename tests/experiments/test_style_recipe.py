"""Style transfer: pairs that are resumed, refusals, files painted in tiles, paintings mixed and masked."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from experiments import style_adain, style_fast, style_gatys
from vision.data.textures import texture
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.recipes import style_pairs
from vision.tasks.style import StyleLossConfig

pytestmark = pytest.mark.usefixtures("on_one_device")


def saved(path, size, name="cells"):
    Image.fromarray(texture(name, max(size))[: size[0], : size[1]]).save(path)
    return path


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


class KilledError(Exception):
    pass


def test_pairs_go_on_after_a_kill(tmp_path, monkeypatch, capsys):
    files = [str(saved(tmp_path / f"{name}.png", (24, 32), name)) for name in ("rings", "cells", "waves")]
    config = replace(
        style_gatys.TINY, content=(files[0],), style=tuple(files[1:]), save_every=2, frame_every=2, iterations=(3, 4)
    )
    config = replace(config, size=96, scales=2)
    lines = style_gatys.stylise(config, tmp_path / "whole")
    assert any(line.startswith("gram_ratio ") for line in lines)
    found = json.loads((tmp_path / "whole" / "style.json").read_text())
    assert set(found["scalars"]) == set(found["protocol"])
    assert found["scalars"]["gram_ratio"] < 1.0
    assert (tmp_path / "whole" / "sheet.png").exists()
    with Image.open(tmp_path / "whole" / "optimisation.gif") as animation:
        assert animation.n_frames > 1

    steps, step = [], style_pairs.ImageOptimiser.step

    def stopping(self, *arguments):
        steps.append(1)
        if len(steps) in (6, 9):  # at the second scale of the first pair, and in the second pair
            raise KilledError
        return step(self, *arguments)

    monkeypatch.setattr(style_pairs.ImageOptimiser, "step", stopping)
    for _ in range(2):
        with pytest.raises(KilledError):
            style_gatys.stylise(config, tmp_path / "again")
    style_gatys.stylise(config, tmp_path / "again")
    for pair in ("rings--cells", "rings--waves"):
        one, other = (pixels(tmp_path / run / "pairs" / pair / "result.png") for run in ("whole", "again"))
        assert one.shape == (72, 96, 3)
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="another loss"):
        style_gatys.stylise(replace(config, loss=StyleLossConfig(content_layers=("relu3_1",))), tmp_path / "again")


def test_several_paintings_with_masks_and_the_photographs_colours(tmp_path):
    styles = tuple(str(saved(tmp_path / f"{name}.png", (32, 32), name)) for name in ("waves", "rings"))
    masks = []
    for name, columns in (("left", slice(0, 16)), ("right", slice(16, 32))):
        mask = np.zeros((32, 32), np.uint8)
        mask[:, columns] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        masks.append(tmp_path / f"{name}.png")
    content = str(saved(tmp_path / "photograph.png", (32, 32), "cells"))
    config = replace(style_gatys.TINY, content=(content,), style=styles, iterations=(3,), together=True)
    style_gatys.stylise(replace(config, masks=tuple(masks), colour="luma"), tmp_path / "run")
    made = pixels(tmp_path / "run" / "pairs" / "photograph--all" / "result.png")
    assert made.shape == (32, 32, 3)
    with pytest.raises(UserError, match="as many masks, not 1"):
        style_gatys.stylise(replace(config, masks=tuple(masks[:1])), tmp_path / "other")
    with pytest.raises(UserError, match="give --together too"):
        style_gatys.stylise(replace(config, together=False, style_weights=(1.0, 2.0)), tmp_path / "other")


def test_the_command_line_of_gatys(tmp_path, capsys):
    assert style_gatys.main(["--quick", "--seeds", "2"]) == 2
    assert "trains nothing" in capsys.readouterr().err
    assert style_gatys.main(["--quick", "--style", str(tmp_path / "none.jpg"), "--workdir", str(tmp_path)]) == 2
    assert "names no file" in capsys.readouterr().err
    assert style_gatys.main(["--quick", "--features", str(tmp_path / "none.pth"), "--workdir", str(tmp_path)]) == 2
    assert "none.pth" in capsys.readouterr().err


def run(module, workdir):
    return launcher.main(
        module.__name__.rpartition(".")[2],
        config=module.Config(),
        quick=module.TINY,
        build=module.build,
        description="",
        arguments=["--quick", "--workdir", str(workdir)],
    )


def test_one_style_on_files(tmp_path, capsys):
    assert run(style_fast, tmp_path / "run") == 0
    files = [str(saved(tmp_path / "small.png", (20, 17))), str(saved(tmp_path / "large.png", (90, 70)))]
    options = ["--out", str(tmp_path / "out"), "--tiling.tile", "64", "--tiling.margin", "24"]
    assert verbs.main(["predict", str(tmp_path / "run"), *files, *options]) == 0, capsys.readouterr().err
    assert "70x90 pixels" in capsys.readouterr().out
    assert pixels(tmp_path / "out" / "small.png").shape == (20, 17, 3)
    assert pixels(tmp_path / "out" / "large.png").shape == (90, 70, 3)
    assert (tmp_path / "out" / "sheet.png").exists()


def test_any_style_on_files(tmp_path, capsys):
    assert run(style_adain, tmp_path / "run") == 0
    image = str(saved(tmp_path / "image.png", (40, 48)))
    styles = [str(saved(tmp_path / f"{name}.png", (32, 32), name)) for name in ("waves", "rings")]
    black, white = (tmp_path / f"{name}.png" for name in ("black", "white"))
    Image.new("L", (8, 8), 0).save(black)
    Image.new("L", (8, 8), 255).save(white)

    def painted(*options):
        out = tmp_path / "out"
        code = verbs.main(["predict", str(tmp_path / "run"), image, "--out", str(out), *options])
        assert code == 0, capsys.readouterr().err
        return pixels(out / "image.png")

    first, second = (painted("--style", style) for style in styles)
    assert np.abs(first - second).max() > 1
    mixed = painted("--style", *styles, "--style-weights", "1", "0")
    assert np.abs(mixed - first).max() <= 1
    masked = painted("--style", *styles, "--masks", str(black), str(white))
    assert np.abs(masked - second).max() <= 1
    plain = [painted("--style", style, "--alpha", "0") for style in styles]
    np.testing.assert_array_equal(*plain)
    assert verbs.main(["predict", str(tmp_path / "run"), image]) == 2
    assert "--style" in capsys.readouterr().err
