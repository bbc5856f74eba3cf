"""A published pipeline as a run: sampled from as it is, fine-tuned, evaluated, moved, and written again."""

import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.load_run import load_run
from vision.pretrained.pipeline import describe_pipeline
from vision.pretrained.unet2d_condition import read_unet2d_condition
from vision.recipes.pipeline_parts import PipelineConfig
from vision.recipes.text_pipeline import text_pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "pretrained"))
from pipeline_folders import written

from experiments import text_pipeline as module

pytestmark = pytest.mark.usefixtures("on_one_device")
DATA = (
    *("--data.name", "shapes", "--data.resolution", "16", "--data.shapes-count", "16"),
    *("--data.shapes.min-size", "0.4", "--data.shapes.max-rotation", "0"),
)
SAMPLING = ("--sampling.steps", "2", "--evaluation-batch", "2")
SMALL = (
    *("--images", "4", "--batch-size", "2", "--samples", "2", "--held-out", "4", "--ema", "0"),
    *("--optimizer.warmup", "0", *SAMPLING),
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a pipeline from text to image."""
    return written(tmp_path_factory.mktemp("published") / "pipeline", "text")


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """Two steps of fine-tuning."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = {"config": module.Config(), "quick": module.QUICK, "build": module.build, "description": ""}
    arguments = ["--pipeline.path", str(pipeline), "--workdir", str(folder), *DATA, *SMALL]
    assert launcher.main("text_pipeline", **words, arguments=arguments) == 0
    return folder


@pytest.fixture
def verb(capsys):
    """Run a command; gives (exit code, what it said)."""

    def call(*arguments):
        capsys.readouterr()
        code = verbs.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_a_pipeline_generates_without_training(verb, pipeline, tmp_path):
    of = ("--pipeline.path", pipeline, *DATA, *SAMPLING, "--count", 3, "--out", tmp_path / "made")
    code, said = verb("sample", "text_pipeline", *of, "--prompt", "a red star", "cat", "--seed", 1)
    assert code == 0, said
    assert "starting from published weights in" in said
    made = [np.asarray(Image.open(tmp_path / "made" / f"{number:05d}.png")) for number in range(3)]
    assert made[0].shape == (16, 16, 3)
    assert (made[0] != made[2]).any()  # the same sentence, other noise
    code, said = verb("sample", "text_pipeline", *of)
    assert code == 2
    assert "this generator needs --prompt" in said
    code, said = verb("sample", "text_pipeline", "--prompt", "cat")
    assert code == 2
    assert "has random weights until it is trained" in said


def test_a_run_is_evaluated_sampled_and_exported(verb, run, pipeline, tmp_path):
    code, said = verb("evaluate", run)
    assert code == 0, said
    assert "mse" in said
    code, said = verb(
        "sample", run, "--prompt", "cat", "--count", 1, "--negative-prompt", "red", "--out", tmp_path / "a"
    )
    assert code == 0, said
    code, said = verb("export", run, tmp_path / "again")
    assert code == 0, said
    assert describe_pipeline(tmp_path / "again").network == describe_pipeline(pipeline).network
    _, before = read_unet2d_condition(pipeline / "unet")
    _, after = read_unet2d_condition(tmp_path / "again" / "unet")
    apart = jax.tree.map(lambda one, other: float(np.abs(one - other).max()), before, after)
    assert all(0.0 < each < 1e-3 for each in jax.tree.leaves(apart))
    state = load_run(run).state
    jax.tree.map(np.testing.assert_array_equal, after["params"], jax.device_get(state.ema["ema"]))
    for part in ("vae", "text_encoder", "tokenizer"):
        for file in (pipeline / part).iterdir():
            assert (tmp_path / "again" / part / file.name).read_bytes() == file.read_bytes()
    code, said = verb("export", run, tmp_path / "again")
    assert code == 2
    assert "exists already" in said
    code, said = verb("export", run, tmp_path / "again.safetensors")
    assert code == 2
    assert "is exported as a folder" in said


def test_a_pipeline_that_has_moved(verb, run, pipeline, tmp_path):
    """Its content says which it is: another place is named, another text encoder is refused."""
    moved = shutil.copytree(pipeline, tmp_path / "moved")
    code, said = verb("evaluate", run, "--pipeline.path", moved, "--held-out", 2)
    assert code == 0, said
    weights = moved / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    code, said = verb("evaluate", run, "--pipeline.path", moved)
    assert code == 2
    assert "the text encoder of" in said
    assert "--pipeline.path" in said
    code, said = verb("evaluate", run, "--pipeline.path", tmp_path / "nowhere")
    assert code == 2
    assert "there is no" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model.groups": 16}, "model.groups is the pipeline's own, 4: leave it out"),
        ({"diffusion.prediction": "v"}, "diffusion.prediction is the pipeline's own, epsilon: leave it out"),
        ({"text.width": 16}, "text encoder and first stage are the pipeline's own: leave --text and"),
        ({"sampling.threshold": "static"}, "latents are not confined"),
        ({"sampling.guide": Path("x"), "sampling.guidance": 1.0}, "sampling.guide is for networks without texts"),
        ({"diffusion.variance": "learned"}, "set diffusion.variance fixed"),
        ({"pipeline.path": None, "diffusion.variance": "learned"}, "set --model.out-channels 8"),
        ({"data.resolution": 18}, "latents of 9x9x4 do not fit a network of 4 channels whose sides are multiples of 2"),
        ({"first_stage.latents": Path("x")}, "are encoded in every step: leave first_stage.latents out"),
        ({"pipeline.path": None, "model.context": 32}, "texts have 768 channels: set --model.context 768"),
        ({"pipeline.path": None, "model.condition_channels": 4}, "images are generated from captions alone"),
        ({"pipeline.path": None, "text.end": 5}, "ends texts with the token 1: set --text.end 1"),
        (
            {"pipeline.path": None, "first_stage.path": None},
            "name a first stage with --first-stage.path, or",
        ),
    ],
)
def test_options_that_contradict_each_other(changed, message, pipeline):
    config = module.Config(pipeline=PipelineConfig(pipeline))
    for dotted, value in changed.items():
        first, _, rest = dotted.partition(".")
        part = replaced(getattr(config, first), **{rest: value})
        config = replaced(config, **{first: part})
    with pytest.raises(UserError, match=message):
        text_pipeline(config)


def replaced(value, **of):
    """The dataclass with other fields."""
    return type(value)(**{**vars(value), **of})
