"""What the documents tell people to type is typed here."""

import functools
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.options import choices, flatten, option_of, parse, parse_fields
from vision.launch.verbs import VERBS, chosen, divided
from vision.pretrained.download import CLASSIFIERS, FILES

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = [path for path in sorted((ROOT / "experiments").glob("*.py")) if "\nQUICK = " in path.read_text()]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *EXPERIMENTS]
NAMES = {f"experiments.{path.stem}": path.stem for path in EXPERIMENTS}


def commands(path):
    """Every line that starts python, with continued lines joined and comments dropped."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    found = re.findall(r"^\s*(?:pip install -e \. && )?(python -m [^#\n`]+)", text, re.MULTILINE)
    return [re.split(r"\s{3,}", line.strip())[0] for line in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_documents_exist(path):
    """Every command of an experiment parses, so that no document names an option that is gone."""
    for command in commands(path):
        words = shlex.split(command)
        if words[:2] == ["python", "-m"] and words[2] in NAMES:
            module = importlib.import_module(words[2])
            parse("", default=module.Config(), quick=module.QUICK, description="", arguments=words[3:])
        if words[:4] == ["python", "-m", "vision", "download"]:
            assert words[4] in FILES, command
        elif words[:4] == ["python", "-m", "vision", "verify"]:
            assert {word for word in words if word.startswith("--")} <= {"--records"}, command
        elif words[:3] == ["python", "-m", "vision"]:
            before, options, after = divided(words[4:])
            verb = VERBS[words[3]]
            verb.check([*before, *after])
            own, others = chosen(options, [option_of(name) for name in flatten(verb.options())])
            parse_fields("", base=verb.options(), arguments=own)
            assert {word for word in others if word.startswith("--")} <= fields(), command


@functools.cache
def fields():
    """All options that are fields of some experiment."""
    configs = [importlib.import_module(name).Config() for name in NAMES]
    found = {option_of(name) for config in configs for name in (*flatten(config), *choices(config))}
    switches = [name for config in configs for name, value in flatten(config).items() if isinstance(value, bool)]
    return found | {option_of(re.sub(r"(\w+)$", r"no-\1", name)) for name in switches}


def test_readme_names_the_two_commands():
    """The continuous integration takes its command from the README."""
    text = (ROOT / "README.md").read_text()
    assert "pip install -e . && python -m experiments.diffusion_cifar --quick" in text
    assert 'pip install -e ".[test]" && pytest' in text


def test_nothing_is_left_to_fill_in():
    """No document has a placeholder."""
    for path in DOCUMENTS:
        assert "@@" not in path.read_text(), path.name


def test_every_published_file_is_in_the_table_of_weights():
    """Its name, its address and its publisher's number."""
    rows = [line for line in (ROOT / "docs" / "weights.md").read_text().splitlines() if line.startswith("| `")]
    for name, file in FILES.items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}` |")]
        words = [f"[{file.name}]({file.url})", f"| {file.stated:.1f} |"]
        words += [f"| {file.resize} |"] if name in CLASSIFIERS else []
        for word in [*words, f"`{file.options}`" if file.options else "Mask R-CNN"]:
            assert word in row, (name, word)


def test_links_lead_somewhere():
    """Relative links and images in the documents exist."""
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if path.suffix == ".md" and not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def typed_here(words):
    """What ``python -m`` does with these words; returns the exit code."""
    name, *arguments = words
    if name == "vision":
        return verbs.main(arguments)
    module = importlib.import_module(name)
    if name not in NAMES:
        return module.main(arguments)
    of = {"config": module.Config(), "quick": module.QUICK, "build": module.build, "description": module.__doc__}
    return launcher.main(NAMES[name], arguments=arguments, **of)


@pytest.mark.usefixtures("on_one_device")
def test_bring_your_own_data(tmp_path, monkeypatch, capsys):
    """From images to samples, a classifier, detectors, segmenters, and larger images, by the document's commands."""
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "my_images" / kind).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (20 + index, 31, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my_images" / kind / f"{index}.png")
    for folder in ("my_data", "my_shapes"):
        for place in ("images/train", "images/val", "labels/train", "labels/val"):
            (tmp_path / folder / place).mkdir(parents=True)
        (tmp_path / folder / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "my_captions").mkdir()
    (tmp_path / "new_images").symlink_to(tmp_path / "my_data" / "images" / "val")
    for index in range(16):
        split, name = "train" if index < 12 else "val", f"{index}.png"
        pixels = Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8))
        for folder in ("my_data", "my_shapes"):
            pixels.save(tmp_path / folder / "images" / split / name)
        boxes = [f"{k} 0.5 0.5 {0.2 + 0.03 * index} {0.3 + 0.02 * index * k}" for k in (0, 1)]
        (tmp_path / "my_data/labels" / split / f"{index}.txt").write_text("\n".join(boxes))
        outlines = [f"{k} 0.1 {0.1 + 0.3 * k} {0.5 + 0.02 * index} 0.2 0.3 {0.7 + 0.01 * index}" for k in (0, 1)]
        (tmp_path / "my_shapes/labels" / split / f"{index}.txt").write_text("\n".join(outlines))
        pixels.save(tmp_path / "my_captions" / f"{name}")
        (tmp_path / "my_captions" / f"{index}.txt").write_text(f"picture {index}\nnumber {index}\n")
        segmented = tmp_path / "my_data" / ("train" if index < 12 else "test")
        for kind, pixels in (("images", rng.integers(0, 256, (30, 28, 3))), ("masks", rng.integers(0, 2, (30, 28)))):
            (segmented / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(segmented / kind / name)
    (tmp_path / "my_photographs").mkdir()
    for index in range(24):
        pixels = rng.integers(0, 256, (44, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "my_photographs" / f"{index}.png")
    short = "--batch-size 8 --images 16"
    segmenter = f"{short} --data.height 32 --data.width 32 --decoder.width 8 --no-auxiliary"
    segmenter = f"{segmenter} --backbone resnet18 --backbone.depths 1 1 1 1 --backbone.width 8"
    detector = f"{short} --data.resolution 32 --model.width 0.125"
    instances = f"{short} --data.resolution 32 --method.model.yolo.width 0.125 --method.model.width 64"
    clip = f"{short} --data.resolution 16 --model.image.depth 1 --model.text.depth 1 --retrieval.compared 2"
    restoration = f"{short} --data.patch 16 --model.blocks 1 --model.width 4"
    short = f"{short} --data.resolution 16 --model.width 8"
    sampling = "--model.multipliers 1 --samples 4 --diffusion.steps 20 --sampling.steps 2"
    painter = f"{short} {sampling} --model.blocks 1 --held-out 8"
    more = {
        "experiments.diffusion_cifar": f"{short} {sampling}",
        "experiments.finetune": f"{short} --model.depths 1",
        "yolo_folder": detector,
        "instances_folder": instances,
        "experiments.yolo_folder": detector,
        "experiments.instances_folder": instances,
        "experiments.segment_folder": segmenter,
        "experiments.clip_shapes": clip,
        **dict.fromkeys(("experiments.text_to_image_shapes", "experiments.decoder_shapes"), f"{painter} --asked 4"),
        "experiments.upsampler_shapes": painter,
        "experiments.superres": restoration,
    }
    lines = [shlex.split(line) for line in commands(ROOT / "docs" / "bring_your_own_data.md")]
    typed = [words for words in lines if not any(word.endswith(".safetensors") for word in words)]
    assert [len(lines), len(typed)] == [25, 23]
    said = []
    monkeypatch.chdir(tmp_path)
    for words in typed:
        named = words[3] if words[2] == "experiments.fit_anchors" else words[2]
        # in this process: starting one for each command takes longer than what they do
        assert typed_here([*words[2:], *more.get(named, "").split()]) == 0, capsys.readouterr().err
        said.append(capsys.readouterr().out)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert len(list((tmp_path / "runs" / "mine" / "samples").glob("sampled-*/0*.png"))) == 16
    assert said[3].count("my_images/cats/") == 12
    assert len(list((tmp_path / "runs" / "classifier" / "predictions").glob("*/predictions.png"))) == 1
    assert said[4].splitlines()[-1].startswith("--model.anchors ")
    assert said[6].count("new_images/") == 4
    assert said[8].splitlines()[-1].startswith("--method.model.yolo.anchors ")
    assert said[10].count("new_images/") == 4
    assert said[12].count("new_images/") == 4
    assert said[14].count("new_images/") == 4
    for place, run, count in ((16, "painter", 8), (18, "decoder", 8), (20, "enlarger", 4)):
        assert f"{count} samples after 16 images" in said[place]
        assert len(list((tmp_path / "runs" / run / "samples").glob("sampled-*/0*.png"))) == count
    assert said[22].count("48x40 -> 96x80 pixels, RGB of 8 bits") == 4
    assert (tmp_path / "detector.stablehlo").stat().st_size > 1e6


def test_the_list_of_functions_is_up_to_date():
    """docs/api.md is what docs/make_api.py writes."""
    specification = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    make_api = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(make_api)
    assert make_api.FILE.read_text() == make_api.page(), "run python docs/make_api.py"
