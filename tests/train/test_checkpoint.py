import errno
import gc
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vision.errors import UserError
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.train.checkpoint import Checkpoints
from vision.train.compile import Compiler
from vision.train.state import create_state
from vision.train.step import averaged, gradient

# When one array of a checkpoint turns out damaged, Orbax drops the unread others without awaiting them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Clipping has an empty state, ahead of Adam's: the usual chain, and a hole in the tree that is stored.
OPTIMIZER = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-2))
RULES = ((r"/w$", P("tensor")),)


def make_init(side=8):
    def init(key):
        params_key, run_key = jax.random.split(key)
        params = {"w": jax.random.normal(params_key, (side, side)), "b": jnp.zeros(side)}
        model_state = {"mean": jnp.ones(side), "count": jnp.zeros((), jnp.int32)}
        return create_state(params=params, optimizer=OPTIMIZER, key=run_key, model_state=model_state, ema={"ema": None})

    return init


def loss(params, model_state, batch, *, key, step):
    out = batch["x"] @ params["w"] + params["b"] + jax.random.normal(key, params["b"].shape)
    return jnp.square(out).mean(), ({**model_state, "count": model_state["count"] + 1}, {})


class Run:
    """A compiler, a step and a state of it."""

    def __init__(self, mesh, side=8):
        self.compiler, self.init, self.side = Compiler(mesh, RULES), make_init(side), side
        self.step = self.compiler.step(averaged(gradient(loss, OPTIMIZER), {"ema": 0.9}), self.init)
        self.state = self.compiler.init(self.init, key=jax.random.key(0))
        shape, placed = self.compiler.state_shardings(self.init)
        self.abstract = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shape, placed
        )

    def advance(self, steps=1):
        for _ in range(steps):
            x = np.random.default_rng(int(self.state.step)).normal(size=(8, self.side)).astype(np.float32)
            self.state, _ = self.step(self.state, self.compiler.shard({"x": x}))
        return self

    @property
    def bits(self):
        return bits(self.state)


def bits(state):
    plain = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(plain(leaf)).copy() for leaf in jax.tree.leaves(state)]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def never(text):
    raise AssertionError(text)


@pytest.fixture(autouse=True)
def nothing_left_to_collect():
    """What a damaged checkpoint left is collected here, not in a test of another file."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory, one_device):
    """A folder with checkpoints of steps 1, 2 and 3, the bits of each, and the shapes to restore them as."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    run, found = Run(one_device), {}
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(run.advance().state, step)
            found[step] = run.bits
    return folder, found, run.abstract


@pytest.fixture
def copy(saved, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved[0], folder)
    return folder, saved[1], saved[2]


def restored(folder, abstract, **options):
    said = []
    with Checkpoints(folder, **options) as checkpoints:
        return checkpoints.restore(abstract, report=said.append), said


def listing(folder):
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def test_what_is_restored_is_what_was_saved_bit_for_bit(saved):
    folder, found, abstract = saved
    state, said = restored(folder, abstract)
    assert_same(bits(state), found[3])
    assert state.key.dtype == abstract.key.dtype
    assert not said
    assert jax.tree.structure(state) == jax.tree.structure(abstract)


def test_a_folder_without_checkpoints_restores_nothing(tmp_path, one_device):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest is None
        assert checkpoints.restore(Run(one_device).abstract, report=never) is None


def test_steps_after_an_asynchronous_save_do_not_reach_into_it(tmp_path, one_device):
    """The next steps are given the state that is being written."""
    run = Run(one_device, side=1500).advance()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        expected = run.bits
        checkpoints.save(run.state, 1)
        run.advance(4)
    assert np.abs(run.bits[1] - expected[1]).max() > 1e-3
    state, _ = restored(tmp_path / "checkpoints", run.abstract)
    assert_same(bits(state), expected)


@pytest.mark.parametrize("target", [MeshConfig(), MeshConfig(data=1, tensor=8), MeshConfig(fsdp=2, tensor=2)])
def test_a_run_continues_identically_on_another_mesh(saved, target, one_device):
    folder, _, abstract = saved
    here = Run(one_device)
    here.state, _ = restored(folder, abstract, read_only=True)
    there = Run(make_mesh(target))
    there.state, _ = restored(folder, there.abstract, read_only=True)
    assert_same(there.bits, here.bits)
    assert there.state.params["w"].sharding.shard_shape((8, 8))[0] == 8 // target.tensor
    for one, other in zip(here.advance(2).bits, there.advance(2).bits, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_every_file_of_the_newest_checkpoint_may_be_truncated(saved, tmp_path):
    folder, found, abstract = saved
    files = [path.relative_to(folder) for path in (folder / "3").rglob("*") if path.is_file()]
    assert len(files) >= 4
    passed_over = 0
    for index, file in enumerate(files):
        broken = tmp_path / str(index) / "checkpoints"
        shutil.copytree(folder, broken)
        content = (broken / file).read_bytes()
        (broken / file).write_bytes(content[: len(content) // 2])
        state, said = restored(broken, abstract)
        # a file that restoring does not need may be damaged; whatever is restored is sound
        step = int(state.step)
        assert_same(bits(state), found[step])
        assert step == (2 if said else 3), file
        passed_over += bool(said)
        if said:
            assert "checkpoints/3 is damaged and passed over" in said[0]
            assert [path.name for path in (broken.parent / "checkpoints-damaged").iterdir()] == ["3-0"]
            assert not (broken / "3").exists()
    assert passed_over >= 3


def flip_bits(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    largest.write_bytes(content)


def delete_metadata(folder):
    for path in folder.rglob("_METADATA"):
        path.unlink()


def delete_everything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize("damage", [flip_bits, delete_metadata, delete_everything])
def test_a_damaged_checkpoint_is_reported_set_aside_and_passed_over(copy, damage):
    folder, found, abstract = copy
    damage(folder / "3")
    state, said = restored(folder, abstract)
    assert_same(bits(state), found[2])
    assert len(said) == 1
    assert "checkpoints/3 is damaged" in said[0]
    assert "\n" not in said[0]
    assert (folder.parent / "checkpoints-damaged" / "3-0").is_dir()
    # the run goes on, reaches the step again and saves it again
    with Checkpoints(folder, keep=3) as checkpoints:
        checkpoints.save(state.replace(step=state.step + 1), 3)
    again, said = restored(folder, abstract)
    assert not said
    assert int(again.step) == 3


def test_all_arrays_by_path_whatever_state_it_is(copy):
    """As starting from another run takes them; a random key as its words."""
    folder, found, abstract = copy
    before = listing(folder.parent)
    with Checkpoints(folder, read_only=True) as checkpoints:
        arrays = checkpoints.arrays()
    assert {"step", "key", "params/w", "model_state/mean", "ema/ema/b"} <= arrays.keys()
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)]
    assert_same([arrays[name] for name in names], found[3])
    assert len(arrays) == len(names)
    assert listing(folder.parent) == before


@pytest.mark.parametrize("damage", [flip_bits, delete_metadata, delete_everything])
def test_arrays_that_cannot_be_read_are_one_line(copy, damage):
    folder, _, _ = copy
    damage(folder / "3")
    before = listing(folder.parent)
    with (
        Checkpoints(folder, read_only=True) as checkpoints,
        pytest.raises(UserError, match=r"checkpoint .*3 cannot be read: ") as error,
    ):
        checkpoints.arrays()
    assert "\n" not in str(error.value)
    assert listing(folder.parent) == before


def test_an_empty_newer_folder_is_passed_over(copy):
    folder, found, abstract = copy
    (folder / "9").mkdir()
    state, said = restored(folder, abstract)
    assert_same(bits(state), found[3])
    assert "checkpoints/9" in said[0]


def test_when_all_are_damaged_the_run_does_not_start_afresh(copy):
    folder, _, abstract = copy
    for step in (1, 2, 3):
        flip_bits(folder / str(step))
    before = listing(folder.parent)
    for _ in range(2):  # the second time finds them damaged too, not gone
        with pytest.raises(UserError, match=r"all 3 checkpoints in .* are damaged") as error:
            restored(folder, abstract)
        assert error.value.code == 4
    assert listing(folder.parent) == before


def other_shape(one_device):
    return Run(one_device, side=6).abstract


def other_optimizer(one_device):
    params = {"w": jnp.zeros((8, 8)), "b": jnp.zeros(8)}
    init = lambda key: create_state(params=params, optimizer=optax.sgd(1.0), key=key, ema={"ema": None})
    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(("other", "leaf"), [(other_shape, "ema/ema/b"), (other_optimizer, "model_state/count")])
def test_a_sound_checkpoint_that_does_not_fit_is_an_error(copy, other, leaf, one_device):
    folder, _, _ = copy
    before = listing(folder.parent)
    with pytest.raises(UserError, match=f"checkpoints/3 does not fit this experiment: {leaf} is") as error:
        restored(folder, other(one_device))
    assert error.value.code == 4
    assert listing(folder.parent) == before
    assert not (folder.parent / "checkpoints-damaged").exists()


def test_read_only_never_writes(copy):
    folder, found, abstract = copy
    flip_bits(folder / "3")
    (folder / "4.orbax-checkpoint-tmp-0").mkdir()  # a save in progress
    before, paths = listing(folder.parent), sorted(folder.parent.rglob("*"))
    state, said = restored(folder, abstract, read_only=True)
    assert_same(bits(state), found[2])
    assert said
    assert (listing(folder.parent), sorted(folder.parent.rglob("*"))) == (before, paths)
    with Checkpoints(folder.parent / "none", read_only=True) as checkpoints:
        assert checkpoints.restore(abstract, report=never) is None
    assert not (folder.parent / "none").exists()


@pytest.mark.parametrize("read", ["restore", "arrays"])
def test_a_checkpoint_that_is_just_being_replaced_is_no_damage(copy, tmp_path, monkeypatch, read):
    """The run that is looked at saves step 3 and deletes step 1, file by file, after step 1 was found."""
    folder, found, abstract = copy
    shutil.rmtree(folder / "2")
    (folder / "3").rename(tmp_path / "3")
    found_steps, deletions = Checkpoints._steps, []

    def replaced_after_the_first(self):
        steps = found_steps(self)
        if not deletions:
            (tmp_path / "3").rename(folder / "3")
            for path in [path for path in (folder / "1").rglob("*") if path.is_file()]:
                path.unlink()
            deletions.append(threading.Timer(0.5, shutil.rmtree, [folder / "1"]))
            deletions[0].start()
        return steps

    monkeypatch.setattr(Checkpoints, "_steps", replaced_after_the_first)
    with Checkpoints(folder, read_only=True) as checkpoints:
        if read == "restore":
            assert_same(bits(checkpoints.restore(abstract, report=never)), found[3])
        else:
            np.testing.assert_array_equal(checkpoints.arrays()["step"], 3)
    deletions[0].join()


def test_what_a_killed_save_left_is_cleaned_up(copy):
    folder, found, abstract = copy
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-0")
    state, said = restored(folder, abstract)
    assert_same(bits(state), found[3])
    assert not said
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize(("every", "kept"), [(0, ["5", "6"]), (3, ["3", "5", "6"])])
def test_retention(tmp_path, one_device, every, kept):
    run = Run(one_device)
    with Checkpoints(tmp_path, keep=2, keep_every_steps=every) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(run.advance().state, step)
        assert checkpoints.latest == tmp_path / "6"
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_one_checkpoint_of_each_span_is_kept_though_saves_miss_its_multiples(tmp_path, one_device):
    run = Run(one_device)
    with Checkpoints(tmp_path, keep=1, keep_every_steps=625) as checkpoints:
        for step in (313, 625, 938, 1251, 1563, 1876, 2188):
            checkpoints.save(run.advance().state, step)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [625, 1251, 1876, 2188]


def test_a_step_is_saved_once(tmp_path, one_device):
    run = Run(one_device).advance()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(run.state, 1)
        checkpoints.wait()
        before = (tmp_path / "1").stat().st_mtime_ns
        checkpoints.save(run.state, 1)
        checkpoints.wait()
        assert (tmp_path / "1").stat().st_mtime_ns == before


def test_a_full_disk_is_one_sentence_and_leaves_earlier_checkpoints(copy, monkeypatch):
    import orbax.checkpoint as ocp

    folder, found, abstract = copy
    state, _ = restored(folder, abstract)

    async def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def save():
        with Checkpoints(folder, keep=3) as checkpoints:
            monkeypatch.setattr(ocp.type_handlers.ArrayHandler, "serialize", full)
            checkpoints.save(state, 4)
            checkpoints.wait()

    with pytest.raises(UserError, match=r"disk that holds .* is full: the last checkpoint was not written") as error:
        save()
    assert error.value.code == 4
    monkeypatch.undo()
    state, said = restored(folder, abstract)
    assert_same(bits(state), found[3])
    assert not said
