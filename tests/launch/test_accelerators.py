"""Training steps compiled for accelerators hold and exchange what is on record; what is listed of every experiment."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.slices import divided, table
from experiments import resnet_mnist
from vision.errors import UserError
from vision.launch.catalogue import listing
from vision.launch.experiment_module import experiment_paths
from vision.launch.fits import CHIPS, FILE, Fit, make_fits, read_fits
from vision.launch.run import main
from vision.parallel.topology import EXTRAS, parse_topology

ROOT = Path(__file__).resolve().parents[2]
# made by tests/golden/make_accelerators_golden.py
GOLDEN = json.loads((ROOT / "tests" / "golden" / "accelerators.json").read_text())
EXPERIMENTS = ("diffusion_cifar", "dit_cifar", "resnet_imagenet", "yolo_coco", "gan_cifar")
SLICES = ("h100:8/2x4", "v5e:4x4/4x4")


def test_five_experiments_are_on_record():
    possible = {f"{name} {where}" for name in EXPERIMENTS for where in SLICES}
    assert {f"{name} {SLICES[0]}" for name in EXPERIMENTS} <= set(GOLDEN) <= possible
    for name, golden in GOLDEN.items():
        assert golden["memory"]["in all"] > 0, name
        assert "reduce-scatter" in golden["exchange"], name


@pytest.mark.accelerator_compilers
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_programs(name, request):
    """The real training steps, in a process of their own."""
    if "accelerator_compilers" not in request.config.option.markexpr:
        pytest.skip("takes minutes for each program: pytest -m accelerator_compilers")
    experiment, where = name.split(" ")
    module, extra = EXTRAS[parse_topology(where.partition("/")[0]).chip.platform]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the extra {extra}")
    golden = GOLDEN[name]
    if other := {name: made for name, made in golden["versions"].items() if version(name) != made}:
        pytest.skip(f"made with {other}: make it anew with tests/golden/make_accelerators_golden.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_FLAGS", "JAX_"))}
    command = [sys.executable, str(ROOT / "benchmarks" / "slices.py"), "none", "--one"]
    done = subprocess.run(
        [*command, "--experiments", experiment, "--slices", where],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["batch"] == golden["batch"]
    for part in ("memory", "sums"):
        assert found[part] == pytest.approx(golden[part], rel=1e-3), part
    assert found["exchange"].keys() == golden["exchange"].keys()
    for kind, each in golden["exchange"].items():
        assert found["exchange"][kind] == pytest.approx(each, rel=1e-3), kind


def test_every_experiment_has_a_row_and_the_list_says_it():
    fits = read_fits(ROOT / "experiments")
    assert set(fits) == set(experiment_paths()), "benchmarks/slices.py says how to add a row"
    assert all({"h100:1/1x1"} <= set(known) <= set(CHIPS) for known in fits.values())
    lines = [line for line in listing().splitlines() if re.match(r" +fits (one v5e chip: .*, )?one H100: ", line)]
    assert len(lines) == len(fits)


def row(**more):
    return {"experiment": "a", "slice": "h100:1/1x1", "options": [], **more}


def test_the_file_is_made_of_rows_of_one_chip_with_defaults(tmp_path):
    rows = [
        row(fits=True, memory={"in all": 3 * 2**29}, versions={"jax": "1"}),
        row(slice="v5e:1x1/1x1", fits=False, problem="the compiler needs 22G of 15G hbm", versions={"libtpu": "2"}),
        row(slice="h100:8/8x1", fits=False),
        row(options=["--batch-size", "1"], fits=False),
        row(experiment="b", problem="not compiled within 1 s"),
    ]
    (tmp_path / FILE).write_text(make_fits(rows))
    fits = read_fits(tmp_path)
    assert [fit.versions for fit in fits["a"].values()] == [{"jax": "1"}, {"libtpu": "2"}]
    assert fits["a"]["h100:1/1x1"].words() == "yes (1.5 GiB)"
    assert fits["a"]["v5e:1x1/1x1"].words() == "no (the compiler needs 22G of 15G hbm)"
    assert fits["b"] == {"h100:1/1x1": Fit(None, 0, "not compiled within 1 s")}
    assert fits["b"]["h100:1/1x1"].words() == "not known (not compiled within 1 s)"
    (tmp_path / FILE).write_text(make_fits([row(experiment="b", fits=True)], (tmp_path / FILE).read_text()))
    assert read_fits(tmp_path) == {**fits, "b": {"h100:1/1x1": Fit(True, 0, None)}}


def test_a_package_without_the_file_is_listed_without_the_column(tmp_path, monkeypatch):
    assert read_fits(tmp_path) == {}
    about = 'ABOUT = About(task="diffusion", paper="", quick="1 second")'
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "__init__.py").touch()
    (tmp_path / "listed" / "one.py").write_text(f'"""One."""\nConfig = QUICK = build = None\n{about}\n')
    monkeypatch.syspath_prepend(tmp_path)
    text = listing(package="listed")
    assert "One." in text
    assert "fits one" not in text


@pytest.mark.parametrize("content", ["", "[]", '{"experiments": 3}', '{"experiments": {"a": {"b": {"c": 1}}}}'])
def test_a_damaged_file_is_one_sentence(content, tmp_path):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"fits\.json cannot be read"):
        read_fits(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--topology", "v5e:4x4"],
            "--topology v5e:4x4 names devices that programs are only compiled for: add --dry-run",
        ),
        (["--topology", "v9:1", "--dry-run"], "--topology v9:1: there is no chip v9, only v4"),
        (["--topology", "h100", "--dry-run"], "there is no such shape of NVIDIA H100 80GB HBM3: write h100:8"),
    ],
)
def test_refusals_of_the_command_line(words, said, capsys):
    from experiments import gan_mnist as module

    arguments = ["--quick", *words]
    code = main(
        "gan_mnist", config=module.Config(), quick=module.TINY, build=module.build, description="", arguments=arguments
    )
    assert code == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("batch", "microbatches", "raised"), [(100, 1, 104), (104, 1, 104), (100, 3, 120), (3, 1, 8)])
def test_a_batch_is_raised_to_one_that_the_devices_can_share(batch, microbatches, raised):
    config = dataclasses.replace(resnet_mnist.TINY, batch_size=batch, microbatches=microbatches)
    experiment, found = divided(resnet_mnist.build, config, 8)
    assert (found, experiment.batch_size) == (raised, raised)


def test_the_table_of_slices():
    made = {
        "batch": 104,
        "batch_by_default": 100,
        "fits": True,
        "processor_seconds": 12.3,
        "memory": {"arguments": 2**30, "temporaries": 2**31},
        "exchange": {"all-reduce": {"count": 3, "sent": 2**20}},
        "least": {"all-reduce": 2**19},
        "sums": {"bf16": 1000.0, "f32": 1.0},
    }
    *_, first, second = table([row(**made), row(problem="no data")]).splitlines()
    assert first == "| a | h100:1/1x1 | 104 (default 100) | yes | 12 | 1.00 + 2.00 | all-reduce 1.0 (3) | 2.00 | bf16 |"
    assert second == "| a | h100:1/1x1 |  | no: no data |  |  |  |  |  |"


@pytest.mark.accelerator_compilers
@pytest.mark.parametrize(("topology", "kind"), [("v5e:2x2", "TPU v5 lite"), ("h100:4", "NVIDIA H100 80GB HBM3")])
def test_the_whole_command(topology, kind):
    module, extra = EXTRAS[parse_topology(topology).chip.platform]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the extra {extra}")
    small = ["--model.width", "8", "--model.depths", "1", "1", "1", "1", "--data.resolution", "32"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_FLAGS", "JAX_"))}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.resnet_mnist", "--quick", "--dry-run", "--topology", topology, *small],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert f"Compiled for 4 x {kind} ({topology})" in done.stdout
    assert re.search(r"^training step .* fits$", done.stdout, re.MULTILINE)
    assert re.search(r"^evaluation: classification.evaluator .* fits$", done.stdout, re.MULTILINE)
    assert "sums over devices: float32" in done.stdout
