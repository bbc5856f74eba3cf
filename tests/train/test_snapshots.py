"""Snapshots of averages: written at once, by shards or whole, damaged and left over, and averages made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from vision.errors import UserError
from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.train.power_average import power_decay
from vision.train.snapshots import SnapshotConfig, Snapshots, reconstructed, stored
from vision.train.state import create_state
from vision.train.step import averaged, repeated

CONFIG = SnapshotConfig(interval=80)
STEPS, EVERY, SIZE = 640, 20, 4
# averages of the lengths to be reconstructed, tracked directly
DIRECT = {f"direct_{length:g}": power_decay(length) for length in (0.05, 0.07, 0.15)}


def walk(state, batch):
    """Parameters that go their way whatever the batch is."""
    keys = jax.random.split(jax.random.fold_in(state.key, state.step))
    params = {
        "layer": {"kernel": state.params["layer"]["kernel"] + 0.1 * jax.random.normal(keys[0], (16, 8))},
        "bias": state.params["bias"] + 0.1 * jax.random.normal(keys[1], (8,)),
    }
    return state.replace(step=state.step + 1, params=params), {"loss": jnp.mean(batch["x"])}


def init(key):
    params = {"layer": {"kernel": jnp.ones((16, 8))}, "bias": jnp.zeros(8)}
    return create_state(params=params, optimizer=optax.sgd(0.1), key=key, ema={**CONFIG.decays(), **DIRECT})


def trained(folder, mesh, *, start=None, first=0, steps=STEPS):
    """The state after a walk with snapshots, from a state on or from the start."""
    compiler = Compiler(mesh)
    one = averaged(walk, {**CONFIG.decays(), **DIRECT})
    step = compiler.step(repeated(one, EVERY, unroll=False), init, dispatch=EVERY)
    state = compiler.init(init, key=jax.random.key(0)) if start is None else start
    snapshots = Snapshots(folder, CONFIG)
    for taken in range(first + EVERY, steps + 1, EVERY):
        state, _ = step(state, compiler.shard({"x": np.zeros((EVERY, 8, 1), np.float32)}, dispatch=EVERY))
        snapshots.save(state, taken)
    return state


@pytest.fixture(autouse=True)
def tiny_arrays_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 8)


@pytest.fixture
def run(tmp_path, one_device):
    return tmp_path / "snapshots", trained(tmp_path / "snapshots", one_device)


def made(folder, state, length, **how):
    return reconstructed(folder, CONFIG, state, length, **{"now": STEPS, "report": pytest.fail, **how})


def test_other_lengths_are_close_to_those_tracked_directly(run):
    folder, state = run
    assert len(list(folder.iterdir())) == 2 * STEPS // EVERY
    for length in (0.07, 0.15):
        found = made(folder, state, length)
        assert found.snapshots == 2 * STEPS // EVERY
        assert 0 < found.error < 0.004
        direct = state.ema[f"direct_{length:g}"]
        for one, other in zip(jax.tree.leaves(found.average), jax.tree.leaves(direct), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3)
            assert one.dtype == other.dtype
        nearest = state.ema["power_0.1"]["layer"]["kernel"]
        assert np.abs(nearest - direct["layer"]["kernel"]).max() > 0.05


def test_a_stored_length_is_exact_at_the_end_and_before(run, tmp_path, one_device):
    folder, state = run
    found = made(folder, state, 0.05)
    assert (found.snapshots, found.error) == (1, 0.0)
    np.testing.assert_array_equal(found.average["bias"], state.ema["power_0.05"]["bias"])
    np.testing.assert_allclose(found.average["bias"], state.ema["direct_0.05"]["bias"], atol=1e-6)
    halfway = trained(tmp_path / "half", one_device, steps=STEPS // 2)
    before = made(folder, state, 0.05, at=STEPS // 2)
    np.testing.assert_array_equal(before.average["bias"], halfway.ema["power_0.05"]["bias"])


def test_a_run_that_comes_back_has_the_same_bytes_and_no_duplicates(run, tmp_path, one_device):
    """It was stopped after its checkpoint at step 200, and had written snapshots up to step 320."""
    folder, _ = run
    resumed = tmp_path / "resumed"
    trained(resumed, one_device, steps=320)
    at = trained(tmp_path / "checkpoint", one_device, steps=200)
    early = reconstructed(resumed, CONFIG, at, 0.15, now=200, report=pytest.fail)
    assert early.snapshots == 2 * 200 // EVERY  # those of the future that it has not reached do not count
    trained(resumed, one_device, start=at, first=200)
    assert sorted(path.name for path in resumed.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in resumed.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_eight_devices_are_one(run, tmp_path):
    folder, state = run
    shared = tmp_path / "shared"
    divided = trained(shared, make_mesh(MeshConfig(fsdp=4)))
    kernel = divided.ema["power_0.05"]["layer"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 8)
    for (path, profile), (other, same) in zip(stored(folder), stored(shared), strict=True):
        assert profile == same
        one, two = (safetensors.numpy.load_file(each) for each in (path, other))
        assert one.keys() == two.keys() == {"layer/kernel", "bias"}
        for name, array in one.items():
            np.testing.assert_allclose(array, two[name], rtol=1e-6, atol=1e-6)
    found, expected = made(shared, divided, 0.15), made(folder, state, 0.15)
    assert found.average["layer"]["kernel"].sharding == kernel.sharding
    np.testing.assert_allclose(found.average["layer"]["kernel"], expected.average["layer"]["kernel"], atol=1e-5)


def test_damaged_snapshots_are_left_out_and_named_once(run):
    folder, state = run
    paths = sorted(folder.iterdir())
    paths[3].write_bytes(paths[3].read_bytes()[:-5])
    paths[7].write_bytes(b"\x00" * 20)
    safetensors.numpy.save_file({"bias": np.zeros(8, np.float32)}, paths[9])
    (folder / "notes.txt").write_text("mine")
    said = []
    found = made(folder, state, 0.15, report=said.append)
    assert found.snapshots == 2 * STEPS // EVERY - 3
    np.testing.assert_allclose(found.average["bias"], state.ema["direct_0.15"]["bias"], atol=0.02)
    assert said == [
        f"3 of {2 * STEPS // EVERY - 2} snapshots, such as {paths[3]}, are damaged or of another network: "
        "the average is made of the others"
    ]


def test_without_files_the_averages_of_the_state_are_all_there_is(run, tmp_path):
    _, state = run
    found = made(tmp_path / "none", state, 0.07)
    assert found.snapshots == 2
    assert found.error > 0.05
    with pytest.raises(UserError, match=r"has no snapshot up to step 100: choose a later one"):
        made(tmp_path / "none", state, 0.07, at=100)
    with pytest.raises(UserError, match=r"keeps no snapshots of averages: train with --snapshots\.interval"):
        reconstructed(tmp_path, SnapshotConfig(), state, 0.07, now=STEPS, report=pytest.fail)


def test_disk_use_is_said(run):
    folder, state = run
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 * 32 * (136 * 4 + 200)
    said = Snapshots(folder, CONFIG).disk_use(state, images=850)
    assert said == "snapshots of 2 averages every 80 images: 11 times 0.0 MB, 0.00 GB in the end"


def test_a_full_disk_is_one_sentence(run, monkeypatch):
    folder, state = run

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("vision.train.snapshots.write_atomically", full)
    with pytest.raises(UserError, match="is full: the last snapshot was not written, earlier ones are intact"):
        Snapshots(folder, CONFIG).save(state, STEPS)


def test_configurations():
    assert SnapshotConfig().decays() == {}
    assert list(SnapshotConfig(interval=1, lengths=(0.05, 0.123456789)).decays()) == ["power_0.05", "power_0.123456789"]
    with pytest.raises(UserError, match=r"names a length twice: 0\.1 0\.05 0\.1"):
        SnapshotConfig(interval=1, lengths=(0.1, 0.05, 0.1)).decays()
