"""Runs with snapshots through their command lines: trained, killed and resumed, extended, evaluated at any length."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from line_experiment import SIZE, Config, Hooks, make_build

from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.average_length import scanned, with_average
from vision.launch.load_run import load_run
from vision.ranges import check_ranges
from vision.train.snapshots import SnapshotConfig, stored

pytestmark = pytest.mark.usefixtures("on_one_device")

WITH = ("--snapshots.interval", 2 * SIZE, "--images", 10 * SIZE)


def train(folder, *arguments, hooks=None, config=None):
    config = config or Config()
    words = {"config": config, "quick": config, "build": make_build(hooks or Hooks()), "description": ""}
    return launcher.main("line", **words, arguments=[str(each) for each in ("--workdir", folder, *arguments)])


def load(folder):
    return load_run(folder, package="tiny_experiments")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("average_length") / "run"
    assert train(folder, *WITH) == 0
    return folder


def verb(capsys, *arguments):
    capsys.readouterr()
    code = verbs.main([str(argument) for argument in arguments], package="tiny_experiments")
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_run_keeps_snapshots_and_says_how_large_they_are(run, tmp_path, capsys):
    assert [profile.step for _, profile in stored(run / "snapshots")] == [n for n in (2, 4, 6, 8, 10) for _ in range(2)]
    assert train(tmp_path / "again", *WITH) == 0
    said = capsys.readouterr().err
    assert f"snapshots of 2 averages every {2 * SIZE} images: 5 times" in said
    assert train(tmp_path / "without", "--images", 2 * SIZE) == 0
    assert not (tmp_path / "without" / "snapshots").exists()
    assert "snapshots of" not in capsys.readouterr().err


def test_a_run_that_was_killed_has_the_same_snapshots(run, tmp_path):
    class Killed(BaseException):
        pass

    hooks, folder = Hooks(), tmp_path / "run"

    def kill(step):
        if step == 7:
            raise Killed

    hooks.at_batch = kill
    with pytest.raises(Killed):
        train(folder, *WITH, hooks=hooks)
    hooks.at_batch = lambda step: None
    assert train(folder, *WITH, hooks=hooks) == 0
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == sorted(
        path.name for path in (run / "snapshots").iterdir()
    )
    for path in (folder / "snapshots").iterdir():
        assert path.read_bytes() == (run / "snapshots" / path.name).read_bytes(), path.name


def test_an_extended_run_takes_them_along(run, tmp_path):
    more = (*WITH[:2], "--images", 12 * SIZE)
    assert train(tmp_path / "long", *more, "--extend", run) == 0
    assert train(tmp_path / "whole", *more) == 0
    files = [sorted((tmp_path / name / "snapshots").iterdir()) for name in ("long", "whole")]
    assert len(files[0]) == 12
    for one, other in zip(*files, strict=True):
        assert (one.name, one.read_bytes()) == (other.name, other.read_bytes())


def test_the_average_replaces_the_one_that_is_evaluated(run):
    loaded = load(run)
    same, words = with_average(loaded, 0.05)
    np.testing.assert_array_equal(same.state.ema["ema"]["w"], loaded.state.ema["power_0.05"]["w"])
    assert words == '"ema" is the average of relative length 0.05, of 1 snapshot (relative error of its profile 0)'
    other, words = with_average(loaded, 0.13)
    assert "of 10 snapshots" in words
    for name in ("power_0.05", "power_0.1"):
        np.testing.assert_array_equal(other.state.ema[name]["w"], loaded.state.ema[name]["w"])
    # longer averages of a run that approaches its target are further behind
    found = scanned(loaded, (0.05, 0.1, 0.13, 0.2))
    distances = [evaluation.scalars["distance"] for evaluation, _ in found.values()]
    assert distances == sorted(distances)
    assert len(set(distances)) == 4


def test_evaluate_and_sample_at_another_length(run, capsys):
    code, plain = verb(capsys, "evaluate", run)
    assert (code, "length" in plain) == (0, False)
    code, said = verb(capsys, "evaluate", run, "--average-length", 0.05, 0.13)
    assert code == 0
    first, second = said.splitlines()
    assert first.startswith("distance[length 0.05] ")
    assert first.endswith(
        '(largest; "ema" is the average of relative length 0.05, of 1 snapshot (relative error of its profile 0))'
    )
    assert second.startswith("distance[length 0.13] ")
    assert float(second.split()[2]) != float(plain.split()[1])
    code, said = verb(capsys, "sample", run, "--count", 2, "--average-length", 0.13)
    assert (code, "of relative length 0.13, of 10 snapshots" in said) == (0, True)
    assert (run / "samples" / "sampled-0000000080-length-0.13" / "grid.png").exists()


def test_what_cannot_be_is_one_sentence(run, tmp_path, capsys):
    assert verb(capsys, "evaluate", run, "--average-length", 0.5) == (
        2,
        "error: average_length must be at least 0.001 and at most 0.288, not 0.5\n",
    )
    folder = tmp_path / "without"
    assert train(folder, "--images", 2 * SIZE) == 0
    code, said = verb(capsys, "sample", folder, "--average-length", 0.1)
    assert (code, said) == (
        2,
        f"error: {folder} keeps no snapshots of averages: train with --snapshots.interval IMAGES\n",
    )
    with pytest.raises(Exception, match=r"snapshots\.lengths must be at least 0\.001"):
        check_ranges(replace(Config(), snapshots=SnapshotConfig(lengths=(0.1, 0.0))))


def test_replicas_keep_theirs_together(tmp_path, capsys):
    folder = tmp_path / "seeds"
    assert train(folder, *WITH, "--seeds", 2) == 0
    loaded = load(folder)
    changed, _ = with_average(loaded, 0.13)
    assert changed.state.ema["ema"]["w"].shape == (2, 3)
    alone = tmp_path / "alone"
    assert train(alone, *WITH, "--seed", 1) == 0
    one, _ = with_average(load(alone), 0.13)
    np.testing.assert_allclose(
        jax.device_get(changed.state.ema["ema"]["w"])[1], jax.device_get(one.state.ema["ema"]["w"]), atol=1e-5
    )
