"""The algebra of steps: a training step is a value, ``(TrainState, Batch) -> (TrainState, Scalars)``.

A loss becomes a step by :func:`gradient`; steps are composed by :func:`projected` (constraints on parameters),
:func:`alternate` (players), :func:`averaged` (EMA) and :func:`repeated` (several steps in one dispatch), and mapped by
:class:`OverSeeds` (several runs as one program); losses by :func:`accumulate` (microbatches) and :func:`preprocessed`
(augmentation on the device). Nothing here knows a model or a task.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from vision.parallel.gathering import divided, gathered, over_samples
from vision.platform import platform
from vision.train.state import attach_frozen, detach_frozen, parameters
from vision.types import Batch, LossFn, Params, Scalars, Schedule, Step, TrainState


def gradient(loss: LossFn, optimizer: optax.GradientTransformation, *, part: str | None = None) -> Step:
    """One step of ``optimizer`` down the gradient of ``loss``.

    With ``part``, only the sub-tree ``params[part]`` is differentiated and changed, and its optimizer state is
    ``opt_state[part]``: the other players are constants. Logs ``loss`` (``{part}_loss``), the scalars of the loss,
    and ``gradient_norm`` (``{part}_gradient_norm``), whose value is finite only if every gradient is.

    The loss sees whole arrays, which are gathered once for the step; the optimizer shares (``parallel.gathering``).
    """
    prefix, name = ("", "params") if part is None else (f"{part}_", f"params/{part}")

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        of = lambda params: params if part is None else params[part]
        merged = lambda params, own: own if part is None else {**params, part: own}
        key = jax.random.fold_in(state.key, state.step)
        own, params, carried = (
            of(state.params),
            gathered(state.params, "params"),
            gathered(state.model_state, "model_state"),
        )
        # with respect to the whole parameters: no gradient passes through the gathering
        differentiated = lambda own: loss(merged(params, own), carried, over_samples(batch), key=key, step=state.step)
        (value, (model_state, scalars)), grads = jax.value_and_grad(differentiated, has_aux=True)(of(params))
        grads = divided(grads, name)
        opt_state = state.opt_state if part is None else state.opt_state[part]
        updates, opt_state = optimizer.update(grads, opt_state, own)
        state = state.replace(
            step=state.step + 1,
            params=merged(state.params, optax.apply_updates(own, updates)),
            model_state=model_state,
            opt_state=opt_state if part is None else {**state.opt_state, part: opt_state},
        )
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)))
        return state, {f"{prefix}loss": value, f"{prefix}gradient_norm": norm, **scalars}

    return step


def projected(step: Step, onto: Callable[[Params], Params]) -> Step:
    """``step`` followed by a projection of the parameters, such as the normalisation of weights.

    Put it around :func:`gradient` and inside :func:`averaged`, whose averages are then of projected parameters and are
    not projected themselves. Microbatches make no difference: the parameters change once a step.
    """

    def then(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        state, scalars = step(state, batch)
        return state.replace(params=onto(state.params)), scalars

    return then


def alternate(*steps: Step, split: bool = False) -> Step:
    """One step that plays ``steps`` in turn, each with randomness of its own.

    All see the same batch, or, with ``split``, each its own equal share of it (several critic steps on fresh images:
    ``alternate(critic, critic, generator, split=True)``). ``state.step`` counts rounds. Scalars are merged; a name
    that occurs twice keeps the value of the later step.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        round_number, key = state.step, state.key
        shares = _microbatches(batch, len(steps)) if split else [batch] * len(steps)
        scalars: dict[str, Array] = {}
        for turn, (each, share) in enumerate(zip(steps, shares, strict=True)):
            mine = state.replace(step=round_number, key=jax.random.fold_in(key, turn))
            state, new = each(mine, share)
            scalars.update(new)
        return state.replace(step=round_number + 1, key=key), scalars

    return step


def accumulate(loss: LossFn, microbatches: int, *, unroll: bool | None = None) -> LossFn:
    """The same loss, evaluated and differentiated on one microbatch after another: less memory, equal gradients.

    The result is a LossFn with a derivative of its own: the forward pass computes the mean gradient over the
    microbatches and the backward pass merely scales it. Equal to the big batch for losses that are means over
    samples; each microbatch draws its own randomness, and the model's state passes through them in turn.

    ``unroll`` writes the microbatches out instead of looping; the default is to unroll on CPUs, where the weight
    gradient of a convolution inside a loop is some fifty times slower. Every microbatch takes every n-th sample, so
    that no sample changes device.
    """
    if microbatches == 1:
        return loss

    def total(params, model_state, batch, key, step):
        value_and_grad = jax.value_and_grad(loss, has_aux=True)

        def one(model_state, microbatch, index):
            key_here = jax.random.fold_in(key, index)
            (value, (model_state, scalars)), grads = value_and_grad(
                params, model_state, microbatch, key=key_here, step=step
            )
            return model_state, (value, scalars, grads)

        parts = _microbatches(batch, microbatches)
        add = lambda a, b: jax.tree.map(jnp.add, a, b)
        model_state, sums = one(model_state, parts[0], 0)
        if platform() == "cpu" if unroll is None else unroll:
            for index in range(1, microbatches):
                model_state, new = one(model_state, parts[index], index)
                sums = add(sums, new)
        else:

            def body(carry, part):
                model_state, sums = carry
                microbatch, index = part
                model_state, new = one(model_state, microbatch, index)
                return (model_state, add(sums, new)), None

            rest = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts[1:])
            (model_state, sums), _ = jax.lax.scan(body, (model_state, sums), (rest, jnp.arange(1, microbatches)))
        value, scalars, grads = jax.tree.map(lambda x: x / microbatches, sums)
        return value, model_state, scalars, grads

    @jax.custom_vjp
    def accumulated(params, model_state, batch, key, step):
        value, model_state, scalars, _ = total(params, model_state, batch, key, step)
        return value, (model_state, scalars)

    def forward(params, model_state, batch, key, step):
        value, model_state, scalars, grads = total(params, model_state, batch, key, step)
        return (value, (model_state, scalars)), grads

    def backward(grads, cotangents):
        scale, _ = cotangents
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads), None, None, None, None

    accumulated.defvjp(forward, backward)
    return lambda params, model_state, batch, *, key, step: accumulated(params, model_state, batch, key, step)


def preprocessed(loss: LossFn, transform: Callable[..., Batch]) -> LossFn:
    """The loss of ``transform(batch, key=...)``: augmentation inside the step, on the device, keyed by the step."""

    def transformed(params, model_state, batch, *, key, step):
        augmentation_key, loss_key = jax.random.split(key)
        return loss(params, model_state, transform(batch, key=augmentation_key), key=loss_key, step=step)

    return transformed


def with_frozen(step: Callable[..., Any], frozen: Mapping[str, Any]) -> Callable[..., Any]:
    """``step`` whose losses find the variables ``frozen`` in ``model_state["frozen"]``; of replicas, each has the same.

    They are no part of the state that comes out, so that no checkpoint, average or optimizer holds them.
    """
    if not frozen:
        return step
    if isinstance(step, OverSeeds):
        return dataclasses.replace(step, step=with_frozen(step.step, frozen))

    def attached(state: TrainState, batch: Batch, *numbers: Any) -> tuple[TrainState, Scalars]:
        state, scalars = step(attach_frozen(state, frozen), batch, *numbers)
        return detach_frozen(state)[0], scalars

    return attached


def averaged(
    step: Step, decays: Mapping[str, float | Schedule], *, of: Callable[[TrainState], Any] = parameters
) -> Step:
    """``step`` followed by exponential moving averages, one for each name in ``decays``.

    ema <- decay * ema + (1 - decay) * value. A decay is a number or a function of the step counted from 0, such as
    :func:`warmed_up`. ``of`` names the values, as for ``create_state``: the parameters, with ``state.variables`` the
    batch statistics too, or one player's sub-tree. Integers and random keys among them are copied.
    """

    def averaging(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        taken = state.step
        state, scalars = step(state, batch)
        ema = {}
        for name, decay in decays.items():
            keep = decay(taken) if callable(decay) else decay

            def moved(e: Array, p: Array, keep: Any = keep) -> Array:
                # e + (1 - d)(p - e): exact when e = p, unlike d e + (1 - d) p
                return e + (1.0 - keep) * (p - e) if jnp.issubdtype(p.dtype, jnp.floating) else p

            ema[name] = jax.tree.map(moved, state.ema[name], of(state))
        return state.replace(ema={**state.ema, **ema}), scalars

    return averaging


def warmed_up(decay: float) -> Schedule:
    """min(decay, (1 + step) / (10 + step)): an average that forgets the random start of a young run."""
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def repeated(step: Step, count: int, *, unroll: bool | None = None) -> Step:
    """``count`` steps in one dispatch: every leaf of the batch has a leading axis of ``count``.

    A loop on accelerators; written out on CPUs (see :func:`accumulate`) unless ``unroll`` says otherwise. Scalars are
    means over the steps, so that one bad step still makes them non-finite.
    """

    def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Scalars]:
        if platform() == "cpu" if unroll is None else unroll:
            collected = []
            for index in range(count):
                state, scalars = step(state, jax.tree.map(lambda x, i=index: x[i], batches))
                collected.append(scalars)
            stacked = jax.tree.map(lambda *values: jnp.stack(values), *collected)
        else:
            state, stacked = jax.lax.scan(step, state, batches, length=count)
        return state, jax.tree.map(lambda x: x.mean(0), stacked)

    return steps


@dataclass(frozen=True, eq=False)
class OverSeeds:
    """``count`` independent runs as one step: every leaf of state, batch and scalars has a leading axis of replicas.

    Replica i computes what ``step`` alone would, to float32 rounding. On a device the replicas are vmapped, or go in
    turn: the compiler then makes one program of :meth:`turn`, which is compiled once and dispatched for one replica
    after another, so that a replica costs what it costs alone.

    Attributes:
      step: the step of one replica; with ``numbers``, a function (state, batch, numbers) whose last argument maps the
        same names to the replica's scalars.
      count: number of replicas n.
      numbers: hyperparameters in which the replicas differ, one value for each.
      mesh: a mesh whose axis ``seeds``, when larger than 1, divides the replicas among its devices, in order. The other
        axes share the work on each replica as they do for a single run.
      sequential: whether the replicas of one device go in turn. By default on CPUs, where the step has convolutions: a
        convolution vmapped over its weights is several times slower there than the same work in turn.

    Raises:
      ValueError: the replicas cannot be divided equally.
    """

    step: Callable[..., tuple[TrainState, Scalars]]
    count: int
    numbers: Mapping[str, Float[np.ndarray, " n"]] | None = None
    mesh: Mesh | None = None
    sequential: bool | None = None

    def __post_init__(self):
        if self.count % self._shards:
            raise ValueError(f"{self.count} replicas cannot be divided equally among {self._shards} groups of devices")

    @property
    def _shards(self) -> int:
        return 1 if self.mesh is None else self.mesh.shape["seeds"]

    def rounds(self, state: Any, batch: Any) -> int:
        """How many replicas of a device go in turn, or 1 where all are computed at once; of arrays or their shapes."""
        here = self.count // self._shards
        if here == 1 or self.sequential is False:
            return 1
        if self.sequential is None:
            one = jax.eval_shape(lambda *of: _replica(0, *of), state, dict(batch), self._constants())
            if platform() != "cpu" or not has_convolution(self._one, *one):
                return 1
        return here

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """A step of all."""
        rounds = self.rounds(state, batch)
        if rounds == 1:
            at_once = jax.vmap(self._one) if self.count > self._shards else self._alone
            return self._divided(at_once)(state, dict(batch), self._constants())
        parts, collected = list(self.split(state, rounds)), []
        for index in range(rounds):
            parts[index], scalars = self.turn(parts[index], batch, jnp.int32(index))
            collected.append(scalars)
        return self.joined(parts), self.joined(collected)

    def split(self, tree: Any, rounds: int) -> tuple[Any, ...]:
        """Leaves [replicas ...] as one tree for each turn, of leaves [groups of devices ...]."""
        return tuple(
            jax.tree.map(lambda x, i=index: x.reshape(-1, rounds, *x.shape[1:])[:, i], tree) for index in range(rounds)
        )

    def joined(self, parts: Sequence[Any]) -> Any:
        """The inverse of :meth:`split`."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:]), *parts)

    def turn(self, part: TrainState, batch: Batch, index: Int[Array, ""]) -> tuple[TrainState, Scalars]:
        """A step of the replica ``index`` of every group of devices.

        ``part`` is of :meth:`split`, the batch of all replicas. Only the part is written: a stacked state would be
        copied whole for every replica.
        """

        def local(part: Any, batch: Any, numbers: Any) -> Any:
            own = (*_replica(0, part), *_replica(index, batch, numbers))
            return jax.tree.map(lambda x: x[None], self._one(*own))

        return self._divided(local)(part, dict(batch), self._constants())

    def _alone(self, *trees: Any) -> tuple[TrainState, Scalars]:
        return jax.tree.map(lambda x: x[None], self._one(*_replica(0, *trees)))

    def _constants(self) -> dict[str, Array]:
        return {name: jnp.asarray(values, jnp.float32) for name, values in (self.numbers or {}).items()}

    def _one(self, state: TrainState, batch: Batch, numbers: Mapping[str, Array]) -> tuple[TrainState, Scalars]:
        return self.step(state, batch, numbers) if self.numbers else self.step(state, batch)

    def _divided(self, local: Callable[..., Any]) -> Callable[..., Any]:
        """``local``, on the replicas of each group of devices."""
        if self._shards == 1:
            return local
        spec = PartitionSpec("seeds")
        return jax.shard_map(
            local,
            mesh=self.mesh,
            axis_names={"seeds"},
            in_specs=(spec, spec, spec),
            out_specs=(spec, spec),
            check_vma=False,  # replicas never meet: there is nothing to sum over the axis
        )


def _replica(index: int | Int[Array, ""], *trees: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, keepdims=False), trees)


def has_convolution(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the program of ``function`` for arguments of these shapes has a convolution in it."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)

    def search(jaxpr: Any) -> bool:
        return any(
            equation.primitive.name.startswith(("conv_", "convolution"))
            or any(map(search, jaxprs_in_params(equation.params)))
            for equation in jaxpr.eqns
        )

    return search(jax.make_jaxpr(function)(*shapes).jaxpr)


def _microbatches(batch: Batch, count: int) -> list[Batch]:
    for name, leaf in batch.items():
        if leaf.shape[0] % count:
            raise ValueError(f"{name} of {leaf.shape[0]} samples cannot be cut into {count} equal microbatches")
    cut = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> n b ...", n=count), dict(batch))
    return [jax.tree.map(lambda x, i=index: x[i], cut) for index in range(count)]
