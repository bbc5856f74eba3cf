"""--init-from: from runs, our own files and published ones, strictly; and what runs that start so begin with."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import finetune
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.models.resnet import CIFAR_RESNET18, ResNet
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.pretrained.initial import read_initial_values
from vision.pretrained.resnet import IGNORED, cifar_resnet_rules
from vision.pretrained.rules import named, to_published
from vision.pretrained.state_dict import PublishedWeights, write_state_dict
from vision.pretrained.variables import write_variables
from vision.train.checkpoint import Checkpoints
from vision.train.class_names import class_names
from vision.train.compile import Compiler
from vision.train.state import create_state, parameters, variables

pytestmark = pytest.mark.usefixtures("on_one_device")

MODEL = replace(CIFAR_RESNET18, depths=(1,), width=8, classes=4)
SMALL = (
    "--quick --data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red "
    "blue --data.shapes.min-size 0.4 --model.width 8 --model.depths 1 --model.classes 4 --batch-size 8 --images 8"
)
STILL = "--optimizer.lr 0 --loss.running-statistics"  # a step that changes nothing
HEAD = ("params/head/bias", "params/head/kernel")


def shapes(model=MODEL):
    """The variables of a network without their values."""
    return jax.eval_shape(
        lambda key: ResNet(model).init(key, jnp.zeros((1, 16, 16, 3)), train=False), jax.random.key(0)
    )


def filled(tree, seed=0):
    """Other numbers in a tree of these shapes."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32), tree)


def assert_same(values, expected, *, but=()):
    """Two tables of arrays by path, of which the first lacks ``but``."""
    assert values.keys() | set(but) == expected.keys()
    assert not values.keys() & set(but)
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def stored(workdir):
    """All arrays of the newest checkpoint of a run, by path."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.arrays()


def below(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def finetuning(workdir, *options, build=finetune.build):
    """The exit code of the experiment on one device; ``options`` are words, or strings of several."""
    words = [word for option in (SMALL, *options) for word in str(option).split()]
    return launcher.main(
        "finetune",
        config=finetune.Config(),
        quick=finetune.QUICK,
        build=build,
        description="A tiny one.",
        arguments=[*words, *(("--workdir", str(workdir)) if workdir else ())],
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of one step."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    assert finetuning(workdir, "--optimizer.warmup 0") == 0
    return workdir


@pytest.mark.parametrize("below_it", ["", "checkpoints"])
def test_from_a_run_come_its_averages_with_their_statistics(source, capsys, below_it):
    values = read_initial_values(source / below_it, shapes())
    assert capsys.readouterr().err == f"starting from the averages in {source / below_it}\n"
    arrays = stored(source)
    assert_same(values, below(arrays, "ema/ema/"))
    assert {name.split("/")[0] for name in values} == {"params", "batch_stats"}
    # which are not the newest variables
    newest = {**{f"params/{n}": a for n, a in below(arrays, "params/").items()}, **below(arrays, "model_state/")}
    assert newest.keys() == values.keys()
    assert sum(not np.array_equal(newest[name], values[name]) for name in values) > 10


@pytest.mark.parametrize(
    ("ema", "averaging", "average", "words"),
    [
        ({"ema": None, "short": None}, parameters, "ema", "the averages"),
        ({"ema": None, "short": None}, parameters, "short", "the averages"),
        ({"ema": None, "short": None}, parameters, None, "the variables"),
        ({"other": None}, variables, "ema", "the variables"),
    ],
)
def test_from_runs_with_averages_of_parameters_or_none(tmp_path, capsys, ema, averaging, average, words):
    """Parameters of the average where there is one, and statistics as they are."""
    tree = filled(shapes())
    statistics = {"batch_stats": tree["batch_stats"]}
    state = create_state(
        params=tree["params"],
        optimizer=optax.adam(0.1),
        key=jax.random.key(0),
        model_state=statistics,
        ema=ema,
        averaging=averaging,
    )
    other = {name: filled(average, seed) for seed, (name, average) in enumerate(state.ema.items(), start=1)}
    state = state.replace(ema=other)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(jax.tree.map(jnp.asarray, state), 3)
    values = read_initial_values(tmp_path, shapes(), average=average)
    assert capsys.readouterr().err == f"starting from {words} in {tmp_path}\n"
    params = other[average] if words.endswith("averages") else tree["params"]
    assert_same(values, named({"params": params, **statistics}))


def test_from_a_file_of_our_own(tmp_path, capsys):
    tree, path = filled(shapes()), tmp_path / "ours.safetensors"
    write_variables(path, tree)
    # even where there are published names too
    values = read_initial_values(path, shapes(), published=cifar_resnet_rules(MODEL), ignored=IGNORED)
    assert_same(values, named(tree))
    assert capsys.readouterr().err == f"starting from variables of this project in {path}\n"


def test_from_published_names(tmp_path, capsys):
    tree, path = filled(shapes()), tmp_path / "theirs.safetensors"
    rules = cifar_resnet_rules(MODEL)
    tensors = {**to_published(tree, rules=rules), "bn1.num_batches_tracked": np.array(3)}
    assert "layer1.0.conv1.weight" in tensors
    write_state_dict(path, tensors)
    values = read_initial_values(path, shapes(), published=rules, ignored=IGNORED)
    assert_same(values, named(tree))
    assert capsys.readouterr().err == f"starting from published weights in {path}\n"
    with pytest.raises(
        UserError, match=r"theirs.safetensors has none of this network.s names, and there are no published"
    ):
        read_initial_values(path, shapes())
    with pytest.raises(UserError, match=r"1 arrays that belong nowhere here: bn1\.num_batches_tracked"):
        read_initial_values(path, shapes(), published=rules)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "module.", "model.", "backbone."])
def test_a_prefix_of_all_published_names_is_left_out_and_it_is_said(tmp_path, capsys, prefix):
    tree, path, rules = filled(shapes()), tmp_path / "theirs.safetensors", cifar_resnet_rules(MODEL)
    tensors = {f"{prefix}{name}": array for name, array in to_published(tree, rules=rules).items()}
    write_state_dict(path, {**tensors, f"{prefix}bn1.num_batches_tracked": np.array(3)})
    assert_same(read_initial_values(path, shapes(), published=rules, ignored=IGNORED), named(tree))
    said = capsys.readouterr().err
    assert said == f"starting from published weights in {path}; the prefix {prefix} of all names is left out\n"
    # of another network, the message has the names without it
    with pytest.raises(UserError, match=r"nothing sets: .*stage_1_block_1/"):
        read_initial_values(path, shapes(replace(MODEL, depths=(2,))), published=rules, ignored=IGNORED)


def test_averages_of_published_weights_are_said(tmp_path, capsys, monkeypatch):
    tree, path, rules = filled(shapes()), tmp_path / "theirs.pth", cifar_resnet_rules(MODEL)
    path.touch()
    weights = PublishedWeights(to_published(tree, rules=rules), "state_dict_ema")
    monkeypatch.setattr("vision.pretrained.initial.read_weights", lambda path: weights)
    assert_same(read_initial_values(path, shapes(), published=rules), named(tree))
    assert capsys.readouterr().err == f"starting from the averages state_dict_ema of published weights in {path}\n"


@pytest.mark.parametrize("kind", ["run", "ours", "published"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, kind):
    tree, path, rules = filled(shapes()), tmp_path / "file.safetensors", cifar_resnet_rules(MODEL)
    tree["params"]["stem_conv"]["kernel"][0, 0] = np.nan
    if kind == "run":
        path = tmp_path / "run"
        statistics = {"batch_stats": tree["batch_stats"]}
        made = {"optimizer": optax.sgd(0.1), "key": jax.random.key(0), "model_state": statistics, "ema": {"ema": None}}
        with Checkpoints(path / "checkpoints") as checkpoints:
            checkpoints.save(jax.tree.map(jnp.asarray, create_state(params=tree["params"], **made)), 3)
    elif kind == "ours":
        write_variables(path, tree)
    else:
        write_state_dict(path, to_published(tree, rules=rules))
    name = "conv1.weight" if kind == "published" else "params/stem_conv/kernel"
    with pytest.raises(UserError, match=rf"1 arrays have numbers that are not finite: {name} \(24 of 216 values\)"):
        read_initial_values(path, shapes(), published=rules)


def test_a_run_is_written_under_published_names(source, tmp_path, capsys):
    """The averages, which --init-from reads again."""
    path = tmp_path / "theirs.safetensors"
    assert verbs.main(["export", str(source), str(path)]) == 0, capsys.readouterr().err
    assert "arrays under the names of published weights" in capsys.readouterr().out
    values = read_initial_values(path, shapes(), published=cifar_resnet_rules(MODEL))
    assert capsys.readouterr().err == f"starting from published weights in {path}\n"
    assert_same(values, below(stored(source), "ema/ema/"))


@pytest.mark.parametrize("kind", ["run", "ours", "published"])
def test_the_head_stays_random_for_other_classes_and_it_is_said(source, tmp_path, capsys, kind):
    wanted = shapes(replace(MODEL, classes=3))
    path, tree = source, filled(shapes())
    expected = below(stored(source), "ema/ema/") if kind == "run" else named(tree)
    if kind != "run":
        path = tmp_path / "file.safetensors"
        write = {"ours": lambda: write_variables(path, tree)}.get(
            kind, lambda: write_state_dict(path, to_published(tree, rules=cifar_resnet_rules(MODEL)))
        )
        write()
    tables = {"published": cifar_resnet_rules(MODEL), "ignored": IGNORED}
    values = read_initial_values(path, wanted, **tables, replaced=("^params/head/",))
    assert_same(values, expected, but=HEAD)
    said = capsys.readouterr().err
    assert said.endswith(f"in {path}; {', '.join(HEAD)} stay random, since there are no matching values\n")
    with pytest.raises(UserError, match=r"2 arrays that do not fit: .* of shape \(4,\), where params/head/bias needs"):
        read_initial_values(path, wanted, **tables)


@pytest.mark.parametrize("place", ["", "checkpoints"])
def test_a_head_that_fits_is_left_out_where_the_classes_are_others(source, capsys, place):
    names = class_names(source)
    assert names == ("red circle", "blue circle", "red star", "blue star")
    averages = below(stored(source), "ema/ema/")
    assert_same(read_initial_values(source / place, shapes(), replaced=("^params/head/",), class_names=names), averages)
    assert "stay random" not in capsys.readouterr().err
    others = read_initial_values(source / place, shapes(), replaced=("^params/head/",), class_names=names[::-1])
    assert_same(others, averages, but=HEAD)
    assert f"; {', '.join(HEAD)} stay random, since the classes differ\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": (2,)}, r"variables that nothing sets: .*stage_1_block_1"),
        ({"depths": (1, 1)}, r"variables that nothing sets: .*stage_2_block_0"),
        ({"width": 16}, r"arrays that do not fit: .*of shape .* where .* needs"),
        ({"stem": "imagenet"}, r"arrays that do not fit: .*stem_conv/kernel"),
        ({"squeeze_excite": 0.5}, r"variables that nothing sets: .*excite"),
    ],
)
@pytest.mark.parametrize("kind", ["run", "ours"])
def test_all_but_the_head_must_fit(source, tmp_path, kind, change, words):
    path = source
    if kind == "ours":
        path = tmp_path / "ours.safetensors"
        write_variables(path, filled(shapes()))
    with pytest.raises(UserError, match=f"these weights are not of this network, .*{words}"):
        read_initial_values(path, shapes(replace(MODEL, **change)), replaced=("^params/head/",))


def test_more_than_there_is_room_for_is_refused(tmp_path):
    path = tmp_path / "ours.safetensors"
    write_variables(path, filled(shapes(replace(MODEL, depths=(1, 1)))))
    with pytest.raises(UserError, match=r"arrays that belong nowhere here: .*stage_2_block_0"):
        read_initial_values(path, shapes(), replaced=("^params/head/",))


def test_paths_to_nothing(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*none to start from: --init-from takes a file of weights or a"):
        read_initial_values(tmp_path / "none", shapes())
    with pytest.raises(UserError, match="is not the work directory of a run: it has no folder checkpoints/"):
        read_initial_values(tmp_path, shapes())
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no checkpoint yet: wait for the run to save one"):
        read_initial_values(tmp_path, shapes())
    text = tmp_path / "weights.pth"
    text.write_text("no weights")
    with pytest.raises(UserError, match=r"weights\.pth"):
        read_initial_values(text, shapes())


def test_a_run_begins_with_exactly_these_values_and_reads_them_once(source, tmp_path, capsys, monkeypatch):
    """Two steps of learning rate 0, stopped between them; the source is gone when the run is resumed."""
    weights, run = tmp_path / "weights", tmp_path / "run"
    shutil.copytree(source / "checkpoints", weights / "checkpoints")
    given = below(stored(source), "ema/ema/")

    def stopping(config):
        made = finetune.build(config)

        def batches(**share):
            for step, batch in enumerate(made.batches(**share), start=share["start_step"]):
                if step == 1:
                    raise UserError("enough")
                yield batch

        return replace(made, batches=batches)

    options = (STILL, "--images 16 --intervals.save 8", "--init-from", weights)
    assert finetuning(run, *options, build=stopping) == 2
    said = capsys.readouterr().err
    assert f"starting from the averages in {weights}\n" in said
    assert "error: enough" in said

    def begun():
        arrays = stored(run)
        assert_same(below(arrays, "ema/ema/"), given)
        params = {f"params/{name}": array for name, array in below(arrays, "params/").items()}
        assert_same({**params, **below(arrays, "model_state/")}, given)

    begun()
    shutil.rmtree(weights)
    assert finetuning(run, *options) == 0
    said = capsys.readouterr().err
    assert "resuming after step 1" in said
    assert "starting from" not in said
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]
    begun()

    # the weights are a part of what the run is
    assert json.loads((run / "config.json").read_text())["config"]["init_from"] == str(weights)
    assert finetuning(run, STILL, "--images 16") == 2
    assert f"init_from is {weights} there and None here" in capsys.readouterr().err
    config = replace(finetune.QUICK, init_from=weights)
    name = launcher.work.default_workdir("finetune", quick=True, config=config, default=finetune.QUICK).name
    assert name.startswith("quick,init_from=")
    # and come back from the configuration of a run
    parsed = launcher.parse(
        "", default=finetune.Config(), quick=finetune.QUICK, description="", arguments=["--config", str(run)]
    )
    assert parsed.config.init_from == weights


def test_several_seeds_begin_with_the_same_values_and_heads_of_their_own(source, tmp_path, capsys):
    """As each would alone: the head is drawn from the replica's own seed."""
    run, given = tmp_path / "run", below(stored(source), "ema/ema/")
    options = (STILL, "--init-from", source, "--data.shapes.shapes star circle --seeds 2")
    assert finetuning(run, *options) == 0
    assert capsys.readouterr().err.count("starting from the averages") == 1
    both = below(stored(run), "ema/ema/")
    assert both.keys() == given.keys()
    for name, array in both.items():
        if name in HEAD:
            assert name.endswith("bias") or not np.array_equal(array[0], array[1]), name  # biases begin at 0
            alone = [finetune.build(small_config(seed)).init(jax.random.key(seed)) for seed in (0, 1)]
            for replica, state in enumerate(alone):
                np.testing.assert_array_equal(array[replica], named(state.ema["ema"])[name], err_msg=name)
        else:
            for replica in (0, 1):
                np.testing.assert_array_equal(array[replica], given[name], err_msg=name)
    # nor can several predict one thing, or be a start
    assert verbs.main(["predict", str(run), str(source / "report.html")]) == 2
    assert "finetune is a run of several replicas, so that it cannot predict" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"arrays that do not fit: .*of shape \(2, "):
        read_initial_values(run, shapes())


def small_config(seed):
    """The configuration that SMALL gives, without starting weights."""
    parsed = launcher.parse(
        "",
        default=finetune.Config(),
        quick=finetune.QUICK,
        description="",
        arguments=[*SMALL.split(), f"--seed={seed}"],
    )
    return parsed.config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--init-from nowhere", "there is no nowhere to start from: --init-from takes a file of weights or a work"),
        ("--init-from .", "is not the work directory of a run: it has no folder checkpoints/"),
        ("--init-from SOURCE --model.depths 2", "these weights are not of this network, or the configuration is"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert finetuning(tmp_path / "run", options.replace("SOURCE", str(source))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_the_mesh_does_not_matter(source):
    """Sharded over eight devices, the given values are the same."""
    config = replace(small_config(0), init_from=source)
    experiment = finetune.build(config)
    compiler = Compiler(make_mesh(MeshConfig(fsdp=2, tensor=2)), experiment.rules)
    state = compiler.init(experiment.init, key=jax.random.key(0), initial=experiment.initial_values())
    assert_same(named(jax.device_get(variables(state))), below(stored(source), "ema/ema/"))
