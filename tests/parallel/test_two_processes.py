"""Two processes with four devices each are one with eight, or one with one; a notice to either stops both."""

import jax
import numpy as np
import pytest
from run_small_diffusion import SIZE, STEPS, final_state, run
from safetensors.numpy import load_file
from several_processes import two_processes

from vision.launch import devices
from vision.parallel.mesh import make_mesh
from vision.train.records import read_metrics


def both(folder, *arguments, stop=(None, None)):
    """Exit codes and outputs of both processes of a run."""

    def of(address, index):
        notice = [] if stop[index] is None else ["--stop-at", str(stop[index])]
        joining = ["--processes.coordinator", address, "--processes.count", "2", "--processes.index", str(index)]
        return [*notice, "--workdir", str(folder), *joining, *arguments]

    return two_processes("run_small_diffusion.py", of)


def metrics(folder, prefix):
    return [
        [line["step"], *(float(line[name]) for name in sorted(line) if name.startswith(prefix))]
        for line in read_metrics(folder / "metrics.jsonl")
        if any(name.startswith(prefix) for name in line)
    ]


def parameters(folder):
    state = final_state(folder)
    assert int(state.step) == STEPS
    return jax.device_get((state.params, state.ema, state.opt_state))


def assert_same_curve(folder, expected):
    for prefix, tolerance in (("train/", 3e-4), ("eval/", 3e-3)):
        found, wanted = metrics(folder, prefix), metrics(expected, prefix)
        np.testing.assert_allclose(found, wanted, rtol=tolerance, err_msg=prefix)
    assert [line[0] for line in metrics(folder, "train/")] == list(range(1, STEPS + 1))
    for one, other in zip(*(jax.tree.leaves(parameters(path)) for path in (folder, expected)), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=3e-4, atol=3e-5 * scale + 1e-7)
    snapshots = [sorted((path / "snapshots").iterdir()) for path in (folder, expected)]
    assert len(snapshots[1]) == 2 * STEPS // 4
    for one, other in zip(*snapshots, strict=True):
        assert one.name == other.name
        arrays, others = load_file(one), load_file(other)
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            scale = np.abs(others[name]).max()
            np.testing.assert_allclose(array, others[name], rtol=3e-4, atol=3e-5 * scale + 1e-7, err_msg=name)


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight") / "run"
    assert run(["--workdir", str(folder)]) == 0
    return folder


def test_one_device_is_eight(eight_devices, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "make_mesh", lambda config, **more: make_mesh(config, jax.devices()[:1], **more))
    assert run(["--workdir", str(tmp_path / "run")]) == 0
    assert_same_curve(tmp_path / "run", eight_devices)


def test_two_processes_are_one_and_a_notice_to_the_first_saves_both(eight_devices, tmp_path):
    folder = tmp_path / "run"
    codes, said = both(folder, stop=(4, None))
    assert codes == [75, 75], said
    saved = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    assert 0 < saved < STEPS
    assert "everything is saved" in said[0]
    codes, said = both(folder)
    assert codes == [0, 0], said
    assert f"resuming after step {saved}" in said[0]
    assert "finished" not in said[1]  # one process speaks
    assert len(list((folder / "samples").glob("*.png"))) == 2
    assert_same_curve(folder, eight_devices)


def test_stopped_by_a_notice_to_the_second_and_resumed_on_another_mesh(eight_devices, tmp_path):
    folder = tmp_path / "run"
    codes, said = both(folder, "--mesh.fsdp", "4", stop=(None, 7))
    assert codes == [75, 75], said
    assert run(["--workdir", str(folder)]) == 0  # one process with eight devices, no fsdp
    assert_same_curve(folder, eight_devices)
    assert read_metrics(folder / "metrics.jsonl")[-1]["images"] == SIZE * STEPS


def test_a_mistake_ends_every_process_with_the_same_sentence(eight_devices, tmp_path):
    codes, said = both(eight_devices, "--seed", "5")
    assert codes == [2, 2]
    assert all("belongs to another configuration: seed is 0 there and 5 here" in text for text in said)
