"""The system of docs/text_to_image.md: its commands, typed as they stand there, with small networks."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import unclip
from vision.launch import run as launcher
from vision.launch import stages, verbs, web

pytestmark = pytest.mark.usefixtures("on_one_device")

ROOT = Path(__file__).resolve().parents[2]
_SAMPLED = "--model.width 8 --model.multipliers 1 --model.blocks 1 --diffusion.steps 20 --sampling.steps 2 --samples 4"
_SHORT = "--batch-size 8 --images 16 --evaluation-batch 8"
SMALL = {
    "clip": f"{_SHORT} --model.image.depth 1 --model.text.depth 1 --retrieval.compared 2",
    "prior": f"{_SHORT} --model.width 16 --model.depth 1 --model.heads 2 --diffusion.steps 20 --sampling.steps 2 "
    "--evaluation.compared 2 --evaluation.texts 0 --clip.batch 16",
    "upsampler": f"{_SHORT} {_SAMPLED} --held-out 4",
    "decoder": f"{_SHORT} {_SAMPLED} --model.heads 2 --held-out 4 --asked 4",
}


def commands():
    text = (ROOT / "docs" / "text_to_image.md").read_text()
    return [shlex.split(line) for line in re.findall(r"^python -m ([^`\n]+)$", text, re.MULTILINE)]


def small():
    """The options of `SMALL`, as those of the system."""
    words = []
    for name, options in SMALL.items():
        words += [f"--{name}.{word[2:]}" if word.startswith("--") else word for word in options.split()]
    return [*words, "--data.resolution", "16"]


def here(words):
    """A stage in this process."""
    module = importlib.import_module(words[1])
    of = {"config": module.Config(), "quick": module.QUICK, "build": module.build, "description": module.__doc__}
    return launcher.main(words[1].split(".")[-1], arguments=list(words[2:]), **of)


def captioned(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture {index}\nnumber {index}\n")


def test_the_commands_of_the_document(tmp_path, monkeypatch, capsys):
    """One command trains all; the others generate, from sentences and images, in files and on a page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "process", here)
    captioned(tmp_path / "my_captions")
    (tmp_path / "new_images").mkdir()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "new_images" / "a.png")
    (system, *others) = commands()
    assert system[0] == "experiments.unclip"
    assert [words[:2] for words in others] == [["vision", "sample"], ["vision", "sample"], ["vision", "page"]]
    unclip.main([*system[1:], *small()])
    said = capsys.readouterr()
    assert "the system: runs/mine/decoder" in said.out
    content = json.loads((tmp_path / "runs/mine/system.json").read_text())
    assert list(content["stages"]) == ["clip", "prior", "upsampler", "decoder"]
    assert all(each["images"] == 16 for each in content["stages"].values())
    assert "<h2>Stages</h2>" in (tmp_path / "runs/mine/report.html").read_text()
    unclip.main([*system[1:], *small()])
    assert capsys.readouterr().err.count("finished in runs/mine/") == 4
    for words in others[:2]:
        assert verbs.main(words[1:]) == 0, capsys.readouterr().err
        assert "8 samples after 16 images" in capsys.readouterr().out
    files = sorted((tmp_path / "runs/mine/decoder/samples").glob("sampled-*/0*.png"))
    assert len(files) == 8
    with Image.open(files[0]) as image:
        assert image.size == (32, 32)  # by the upsampler
    answers = []

    def serve(run, *, overrides, host, port):
        assert (host, port) == ("127.0.0.1", 8000)
        client = web.application(web.Painter(run, overrides)).test_client()
        answers.append(client.post("/", data={"prompts": "number 3", "count": "8"}))

    monkeypatch.setattr(web, "serve", serve)
    assert verbs.main(others[2][1:]) == 0, capsys.readouterr().err
    assert answers[0].status_code == 200
    assert answers[0].get_data(as_text=True).count("data:image/png;base64,") == 8


def test_the_shapes_world_is_one_for_all_quick_stages():
    """The CLIP's data is that of the prior and the decoder; upsamplers have the same scenes, larger."""
    worlds = {}
    for each in stages.stage_runs(unclip.stages(unclip.Options(quick=True)), [], root=Path("x"), quick=True):
        config = each.config()
        worlds[each.stage.name] = (config.data.shapes, config.data.resolution)
    assert len({world for world, _ in worlds.values()}) == 1
    assert {name: side for name, (_, side) in worlds.items()} == {
        **dict.fromkeys(("clip", "prior", "decoder"), 32),
        "upsampler": 64,
    }


def test_further_stages_and_sizes(capsys):
    """The second upsampler follows the first, the baseline comes before the decoder, sides follow each other."""
    unclip.main(["--quick", "--extra", "baseline", "second_upsampler", "--data.resolution", "16", "--dry-run"])
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    names = ["clip", "prior", "upsampler", "second_upsampler", "baseline", "decoder"]
    assert [line[-1].split("/")[-1] if "upsampler" not in line[2] else "upsampler" for line in lines] == [
        name.replace("second_", "") for name in names
    ]
    sides = [line[-1] for line in lines if "upsampler" in line[2]]
    assert sides == ["32", "64"]
    decoder = lines[-1]
    assert decoder[decoder.index("--second-upsampler") + 1] == "runs/unclip/quick/second_upsampler"
