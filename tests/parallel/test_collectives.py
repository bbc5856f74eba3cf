"""Training steps communicate between 8 devices as much as theory predicts, and not more."""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vision.diffusion.conditions import label_conditioning
from vision.models.unet import UNet, UNetConfig
from vision.parallel import sharding
from vision.parallel.collectives import Collective, Traffic, collectives, summary, summed_by_dtype
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, make_process
from vision.train.compile import Compiler
from vision.train.state import create_state
from vision.train.step import gradient

BATCH = 32


class ConvNet(nn.Module):
    """Three convolutions, with or without BatchNorm, and a dense layer."""

    norm: bool

    @nn.compact
    def __call__(self, image, train):
        hidden = image
        for width in (16, 32, 32):
            hidden = nn.Conv(width, (3, 3), use_bias=False)(hidden)
            hidden = nn.BatchNorm(use_running_average=not train)(hidden) if self.norm else hidden
            hidden = nn.relu(hidden)
        return nn.Dense(10)(hidden.mean((1, 2)))


def convnet_loss(model):
    def loss(params, model_state, batch, *, key, step):
        out, model_state = model.apply({"params": params, **model_state}, batch["image"], True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(out, batch["label"]).mean(), (model_state, {})

    return loss


def compiled(config, loss, variables):
    """(collectives, abstract parameters, their shardings) of a step of Adam by the house's compiler on 8 devices."""
    compiler = Compiler(make_mesh(config))
    optimizer = optax.adam(1e-3)

    def init(key):
        made = variables(key)
        return create_state(
            params=made["params"],
            optimizer=optimizer,
            key=key,
            model_state={name: value for name, value in made.items() if name != "params"},
            ema={"ema": None},
        )

    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, 8, 8, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }
    state, placed = compiler.state_shardings(init)
    program = compiler.step(gradient(loss, optimizer), init).program(state, batch)
    return collectives(program.compiled.as_text() or ""), state.params, placed.params


@functools.cache
def convnet(config, norm):
    model = ConvNet(norm)
    return compiled(config, convnet_loss(model), lambda key: model.init(key, jnp.zeros((1, 8, 8, 3)), True))


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_data_parallelism_of_a_diffusion_unet_moves_every_gradient_once_and_two_scalars():
    model = UNet(UNetConfig(width=16, multipliers=(1,), blocks=1, attention=(), classes=3, patch=2))
    process = DiffusionConfig()
    schedule = make_process(process)
    time = jnp.zeros((1,), jnp.int32)
    variables = lambda key: model.init(key, jnp.zeros((1, 8, 8, 3)), time, {"label": time}, train=False)
    loss = diffusion_loss(model, process, schedule, conditioning=label_conditioning(3))
    found, params, _ = compiled(MeshConfig(), loss, variables)
    assert {each.kind for each in found} == {"all-reduce"}
    assert all(each.group == 8 and each.times == 1 and each.exact for each in found)
    scalars = 2 * 4  # the loss and its mse; the gradient's norm is of complete gradients already
    assert sum(each.bytes for each in found) == size(params) + scalars
    moved = summary(found)["all-reduce"].moved_per_device
    assert moved == pytest.approx(2 * 7 / 8 * (size(params) + scalars), rel=1e-12)


def test_synchronised_batch_norm_adds_a_few_numbers_a_channel():
    plain, params, _ = convnet(MeshConfig(), False)
    assert sum(each.bytes for each in plain) == size(params) + 4
    normed, params, _ = convnet(MeshConfig(), True)
    assert {each.kind for each in normed} == {"all-reduce"}
    extra = sum(each.bytes for each in normed) - size(params) - 4
    channels = 16 + 32 + 32
    # Sums over the batch of x and x^2 forward, and of two cotangents backward; a scale's and a bias's gradient are
    # such sums too, and are parameters already. XLA may reuse one for the other: no more than four, and at least two.
    assert 2 * channels * 4 <= extra <= 4 * channels * 4
    assert extra < 0.02 * size(params)


@pytest.mark.parametrize("fsdp", [4, 8])
def test_fsdp_gathers_every_weight_once_and_sums_gradients(fsdp, monkeypatch):
    """Every sharded weight is gathered once for forward and backward.

    On an accelerator the gradients of sharded weights are then reduce-scattered over ``fsdp``. XLA for CPUs sums them
    whole, as if they were not sharded, and cuts each device's share out, which is what is held against theory here;
    only then does it sum the shares over ``data``.
    """
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 256)
    convnet.cache_clear()
    found, params, placed = convnet(MeshConfig(fsdp=fsdp), False)
    convnet.cache_clear()
    sharded = [leaf for leaf, where in zip(*map(jax.tree.leaves, (params, placed)), strict=True) if any(where.spec)]
    assert len(sharded) == 4
    assert size(params) - size(sharded) == 40  # the bias of the last layer is too small

    gathers = [each.bytes for each in found if each.kind == "all-gather"]
    assert sorted(gathers) == sorted(size(leaf) for leaf in sharded)
    assert all(each.group == fsdp for each in found if each.kind == "all-gather")

    assert {each.kind for each in found} == {"all-gather", "all-reduce"}
    assert not [each for each in found if "scatter" in each.kind]
    sums = [each for each in found if each.kind == "all-reduce" and each.bytes > 100]
    if fsdp == 8:
        assert [(each.bytes, each.group) for each in sums] == [(size(params), 8)]
    else:
        assert sorted((each.bytes, each.group) for each in sums) == [(size(sharded) // 4, 2), (size(sharded), 4)]
    # what is left are the loss, the bias and the parts of the gradient's norm
    assert sum(each.bytes for each in found) - sum(gathers) - sum(each.bytes for each in sums) <= 4 * (1 + 10 + 4 + 1)


def test_one_device_moves_nothing():
    alone = jax.jit(lambda x: x @ x.T).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile()
    assert collectives(alone.as_text()) == []
    assert summary([]) == {}


def loops(body, count):
    """The collectives of a loop over a sum over 8 devices."""
    mesh = make_mesh(MeshConfig())
    split = NamedSharding(mesh, P("data"))
    program = jax.jit(functools.partial(body, count), in_shardings=split, out_shardings=split)
    return collectives(program.lower(jax.ShapeDtypeStruct((64,), jnp.float32)).compile().as_text())


def test_a_loop_counts_as_often_as_it_runs():
    def scanned(count, x):
        return jax.lax.scan(lambda carry, _: (carry + carry.sum(), None), x, None, length=count)[0]

    (found,) = loops(scanned, 5)
    assert (found.kind, found.bytes, found.group, found.times, found.exact) == ("all-reduce", 4, 8, 5, True)
    assert found.moved_per_device == 5 * 4 * 2 * 7 / 8

    def nested(count, x):
        return jax.lax.fori_loop(0, 3, lambda _, carry: scanned(count, carry) * 0.5, x)

    (found,) = loops(nested, 5)
    assert (found.times, found.exact) == (15, True)


def test_a_loop_of_unknown_length_is_said_to_be_one():
    def until(count, x):
        return jax.lax.while_loop(lambda carry: carry[0] < count, lambda carry: carry + carry.sum(), x)

    found = loops(until, 5.0)
    assert found
    assert {(each.times, each.exact) for each in found} == {(1, False)}
    assert not summary(found)["all-reduce"].exact


MODULE = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}}

{computations}
ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0), metadata={{op_name="all-reduce(x), replica_groups={{0}} calls=%nothing"}}
{lines}
  ROOT %result = f32[8]{{0}} copy(%p)
}}
"""


def parsed(*lines, computations=""):
    return collectives(MODULE.format(lines="\n".join(f"  {line}" for line in lines), computations=computations))


LISTED = "channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true"
SNIPPETS = {
    "all-reduce, groups listed": (
        f"%a = bf16[3,5]{{1,0}} all-reduce(%p), {LISTED}, to_apply=%add",
        ("all-reduce", "bf16", 30, 4, 2 * 3 / 4 * 30),
    ),
    "all-reduce of several, a scalar among them, tiled layouts and numbered parts": (
        "%a = (f32[8,128]{1,0:T(8,128)S(1)}, /*index=1*/f32[]) all-reduce(%p, %q), replica_groups={}, to_apply=%add",
        ("all-reduce", "f32", 4100, 8, 2 * 7 / 8 * 4100),
    ),
    "all-reduce, groups as an iota": (
        "%a = f32[6]{0} all-reduce(%p), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add",
        ("all-reduce", "f32", 24, 4, 36.0),
    ),
    "all-reduce, groups as a transposed iota": (
        "%a = f32[6]{0} all-reduce(%p), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add",
        ("all-reduce", "f32", 24, 2, 24.0),
    ),
    "all-reduce, groups as axes of a mesh": (
        "%a = f32[6]{0} all-reduce(%p), replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a','c'}, "
        "use_global_device_ids=true, to_apply=%add",
        ("all-reduce", "f32", 24, 8, 42.0),
    ),
    "all-reduce, groups as part of an axis": (
        "%a = f32[6]{0} all-reduce(%p), replica_groups=mesh['a'=8] {'a':(2)4}, to_apply=%add",
        ("all-reduce", "f32", 24, 4, 36.0),
    ),
    "all-gather counts its output": (
        "%a = f32[8,2]{1,0} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}",
        ("all-gather", "f32", 64, 8, 7 / 8 * 64),
    ),
    "reduce-scatter counts its input": (
        "%a = f32[2]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add",
        ("reduce-scatter", "f32", 32, 4, 24.0),
    ),
    "all-to-all of parts": (
        "%a = (s8[4]{0}, s8[4]{0}) all-to-all(%p, %q), replica_groups={{0,4},{1,5},{2,6},{3,7}}",
        ("all-to-all", "s8", 8, 2, 4.0),
    ),
    "collective-permute": (
        "%a = pred[16]{0} collective-permute(%p), channel_id=3, source_target_pairs={{0,1},{1,2},{2,0}}",
        ("collective-permute", "pred", 16, 3, 16.0),
    ),
    "several types": (
        f"%a = (f32[2]{{0}}, bf16[2]{{0}}) all-reduce(%p, %q), {LISTED}, to_apply=%add",
        ("all-reduce", "f32+bf16", 12, 4, 18.0),
    ),
    "half a byte each": (
        f"%a = s4[16]{{0:E(4)}} all-gather(%p), {LISTED}, dimensions={{0}}",
        ("all-gather", "s4", 8, 4, 6.0),
    ),
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_instructions(name):
    line, (kind, dtype, size, group, moved) = SNIPPETS[name]
    (found,) = parsed(line)
    assert found == Collective(kind, "a", dtype, size, group)
    assert found.moved_per_device == pytest.approx(moved)


ASYNCHRONOUS = {
    "all-reduce": ("f32[6]{0}", "f32[6]{0}", 24),
    "all-gather": ("(f32[2]{0}, f32[8]{0})", "f32[8]{0}", 32),
    "all-gather of several": (
        "((f32[2]{0}, f32[1]{0}), (f32[8]{0}, f32[4]{0}))",
        "(f32[8]{0}, f32[4]{0})",
        48,
    ),
    "reduce-scatter": ("((f32[8]{0}), f32[2]{0})", "f32[2]{0}", 32),
    "all-to-all": ("((f32[8]{0}), f32[8]{0}, u32[])", "f32[8]{0}", 32),
    "collective-permute": ("(f32[5]{0}, f32[5]{0}, u32[], u32[])", "f32[5]{0}", 20),
}


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_asynchronous_forms_count_once(name):
    kind, (started, done, size) = name.split()[0], ASYNCHRONOUS[name]
    where = "source_target_pairs={{0,1}}" if kind == "collective-permute" else LISTED
    (found,) = parsed(f"%s = {started} {kind}-start(%p), {where}, to_apply=%add", f"%d = {done} {kind}-done(%s)")
    assert (found.kind, found.bytes, found.times) == (kind, size, 1)


def test_asynchronous_computations_count_once():
    wrapped = f"""%wrapped (q: f32[8]) -> f32[2] {{
  %q = f32[8]{{0}} parameter(0)
  ROOT %rs = f32[2]{{0}} reduce-scatter(%q), {LISTED}, dimensions={{0}}, to_apply=%add
}}, execution_thread="parallel"
"""
    started = "%s = ((f32[8]{0}), f32[2]{0}, s32[]) async-start(%p), calls=%wrapped"
    (found,) = parsed(started, "%d = f32[2]{0} async-done(%s), calls=%wrapped", computations=wrapped)
    assert (found.kind, found.bytes, found.group) == ("reduce-scatter", 32, 4)


BRANCHES = f"""%small (q: f32[8]) -> f32[8] {{
  ROOT %one = f32[8]{{0}} all-reduce(%q), {LISTED}, to_apply=%add
}}

%large (q: f32[8]) -> f32[8] {{
  %two = f32[8]{{0}} all-reduce(%q), {LISTED}, to_apply=%add
  ROOT %three = f32[8]{{0}} all-reduce(%two), {LISTED}, to_apply=%add
}}

%turn (q: f32[8]) -> f32[8] {{
  ROOT %fused = f32[8]{{0}} fusion(%q), kind=kCustom, calls=%small
}}
"""


@pytest.mark.parametrize(
    ("line", "names", "times", "exact"),
    [
        ("%c = f32[8]{0} call(%p), to_apply=%large", ["two", "three"], 1, True),
        ("%c = f32[8]{0} fusion(%p), kind=kLoop, calls=%small", ["one"], 1, True),
        ("%c = f32[8]{0} conditional(%i, %p, %p), branch_computations={%small, %large}", ["two", "three"], 1, True),
        (
            "%c = f32[8]{0} conditional(%i, %p, %p), true_computation=%large, false_computation=%small",
            ["two", "three"],
            1,
            True,
        ),
        (
            "%c = f32[8]{0} while(%p), condition=%add, body=%turn, "
            'backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0","step":"1"}}',
            ["one"],
            7,
            True,
        ),
        (
            "%c = f32[8]{0} while(%p), condition=%add, body=%turn, "
            'backend_config="{\\"known_trip_count\\":{\\"n\\":\\"9\\"}}"',
            ["one"],
            9,
            True,
        ),
        ("%c = f32[8]{0} while(%p), condition=%add, body=%turn", ["one"], 1, False),
    ],
)
def test_computations(line, names, times, exact):
    found = parsed(line, computations=BRANCHES)
    assert [(each.name, each.times, each.exact) for each in found] == [(name, times, exact) for name in names]


def test_totals_by_kind():
    one = Collective("all-reduce", "a", "f32", 100, 4, times=3)
    two = Collective("all-reduce", "b", "f32", 10, 1)
    three = Collective("all-gather", "c", "f32", 800, 8, exact=False)
    assert list(summary([one, two, three]).items()) == [
        ("all-gather", Traffic(1, 700.0, False)),
        ("all-reduce", Traffic(4, 450.0, True)),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "%a = f32[8]{0} all-reduce(%p), replica_groups=somehow, to_apply=%add",
            "groups of a are written in an unknown",
        ),
        (f"%a = weird[8]{{0}} all-reduce(%p), {LISTED}", r"unknown type weird\[8\]"),
    ],
)
def test_what_is_not_understood_is_refused(line, problem):
    with pytest.raises(ValueError, match=problem):
        parsed(line)


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("HloModule nothing")


PROGRAMS = Path(__file__).parent / "programs"


def test_a_program_for_tpus():
    """Parts of the step of ``resnet_cifar`` on v5e:4x4, data 4 and fsdp 4, as libtpu 0.0.42.1 compiles it.

    The gathering of a kernel starts, runs concurrently with a convolution, and ends, in three fusions of one channel; a
    fused all-reduce whose slice is kept is a reduce-scatter; sums of BatchNorm's are all-reduces.
    """
    found = collectives((PROGRAMS / "tpu_fsdp.txt").read_text())
    kernel = 3 * 3 * 64 * 64
    assert sorted((each.kind, each.dtype, each.bytes, each.group, each.times) for each in found) == [
        ("all-gather", "bf16", 2 * kernel, 4, 1),
        ("all-reduce", "f32", 2 * 64 * 4, 16, 1),
        ("reduce-scatter", "f32", 4 * kernel, 4, 1),
    ]
    assert summed_by_dtype(found) == {"f32": pytest.approx(3 / 4 * 4 * kernel + 2 * 15 / 16 * 2 * 64 * 4)}


def test_a_program_for_gpus():
    """Parts of the steps of ``resnet_cifar`` and, in bfloat16, ``dit_cifar`` on 8 H100, data 2 and fsdp 4."""
    found = collectives((PROGRAMS / "gpu_fsdp.txt").read_text())
    gathered, channels = 3 * 3 * 512 * 512 * 3 * 4, 4 * 16 * 576
    scattered = 4 * 2787328 * 4  # what is summed over data afterwards is a quarter of it
    assert sorted((each.kind, each.dtype, each.bytes, each.group) for each in found) == [
        ("all-gather", "f32", gathered, 4),
        ("all-reduce", "bf16", 2 * 5332992, 2),
        ("all-reduce", "f32", 4 * 2787328, 2),
        ("all-to-all", "bf16", 2 * channels, 4),
        ("reduce-scatter", "f32", scattered, 4),
    ]
    assert summed_by_dtype(found) == {"f32": 3 / 4 * scattered + 4 * 2787328, "bf16": 2 * 5332992}


COUNTED = f"""%turn (t: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %t = (s32[], f32[8]{{0}}) parameter(0)
  %step = s32[]{{:T(128)}} constant(STEP)
  %i = s32[]{{:T(128)}} get-tuple-element(%t), index=0
  %copied = s32[]{{:T(128)S(6)}} copy(%i)
  %next = s32[]{{:T(128)}} add(%copied, %step)
  %x = f32[8]{{0}} get-tuple-element(%t), index=1
  %sum = f32[8]{{0}} all-reduce(%x), {LISTED}, to_apply=%add
  ROOT %both = (s32[]{{:T(128)}}, /*index=1*/f32[8]{{0}}) tuple(%next, /*index=1*/%sum)
}}

%go_on (t: (s32[], f32[8])) -> pred[] {{
  %t.1 = (s32[], f32[8]{{0}}) parameter(0)
  %end = s32[]{{:T(128)}} constant(END)
  %j = s32[]{{:T(128)}} get-tuple-element(%t.1), index=0
  ROOT %less = pred[]{{:T(512)}} compare(%j, %end), direction=LT
}}
"""


@pytest.mark.parametrize(
    ("start", "step", "end", "changed", "times"),
    [
        ("constant(0)", "1", "4", (), 4),
        ("constant(2)", "3", "9", (), 3),
        ("constant(5)", "1", "4", (), 0),
        ("negate(%q)", "1", "4", (), None),
        ("constant(0)", "0", "4", (), None),
        ("constant(0)", "1", "4", ("direction=LT", "direction=NE"), None),
        ("constant(0)", "1", "4", ("add(%copied, %step)", "multiply(%copied, %step)"), None),
        ("constant(0)", "1", "4", ("ROOT %less", "%less"), None),
    ],
)
def test_the_length_of_a_loop_of_a_tpu_is_read_from_its_counter(start, step, end, changed, times):
    """Libtpu's texts have no known_trip_count."""
    text = COUNTED.replace("STEP", step).replace("END", end)
    text = text.replace(*changed) if changed else text
    lines = [f"%begin = s32[]{{:T(128)}} {start}", "%tuple = (s32[], f32[8]{0}) tuple(%begin, %p)"]
    found = parsed(*lines, "%w = (s32[], f32[8]{0}) while(%tuple), condition=%go_on, body=%turn", computations=text)
    assert [(each.times, each.exact) for each in found] == [(1, False) if times is None else (times, True)]


def test_an_asynchronous_collective_that_ends_in_a_loop_counts_as_often_as_it_runs():
    fused = f"""%begin (q: f32[8]) -> f32[8] {{
  ROOT %one = f32[8]{{0}} all-gather(%q), {LISTED}, dimensions={{0}}
}}

%end (q: f32[8]) -> f32[8] {{
  ROOT %two = f32[8]{{0}} all-gather(%q), {LISTED}, dimensions={{0}}
}}

%turn (q: f32[8]) -> f32[8] {{
  ROOT %fused = f32[8]{{0}} fusion(%q), kind=kCustom, calls=%end
}}
"""
    loop = "%w = f32[8]{0} while(%b), condition=%add, body=%turn, " + 'backend_config={"known_trip_count":{"n":"7"}}'
    (found,) = parsed("%b = f32[8]{0} fusion(%p), kind=kCustom, calls=%begin", loop, computations=fused)
    assert (found.times, found.bytes) == (7, 32)


def test_collectives_outside_of_fusions_count_each_whatever_their_channel():
    line = f"all-reduce(%p), {LISTED}, to_apply=%add"
    assert len(parsed(f"%a = f32[8]{{0}} {line}", f"%b = f32[8]{{0}} {line}")) == 2


def test_sums_of_several_types():
    found = parsed(f"%a = (f32[2]{{0}}, bf16[2]{{0}}) all-reduce(%p, %q), {LISTED}, to_apply=%add")
    assert summed_by_dtype(found) == {"f32": pytest.approx(12.0), "bf16": pytest.approx(6.0)}
    assert summed_by_dtype(parsed(f"%a = s4[16]{{0:E(4)}} all-gather(%p), {LISTED}, dimensions={{0}}")) == {}
