"""From published names to paths of variables and back, by one table of rules that is strict in both directions.

A rule pairs two names with the layout of the array between them:

    Rule("layer{stage}.{block}.conv1.weight", "params/stage_{stage}_block_{block}/conv_in/kernel", CONV)

``{word}`` stands for an integer, the same on both sides. The first rule that matches a name is used. A published array
without a rule, a variable that is not set, and a wrong shape are errors, since partially loaded weights would silently
give a worse network.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UserError
from vision.pretrained.state_dict import StateDict, some


@dataclass(frozen=True)
class Layout:
    """The layout of an array on both sides."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_published: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
"""Vectors: scales, biases, statistics."""
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""Kernels of convolutions: [out, in, h, w] published, [h, w, in, out] here."""
DENSE = Layout(lambda x: x.T, lambda x: x.T)
"""Kernels of linear layers: [out, in] published, [in, out] here."""
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
"""Linear layers that are published as 1x1 convolutions: [out, in, 1, 1] published, [in, out] here."""
QKV = Layout(
    lambda x: x.reshape(3, -1, x.shape[-1]).transpose(2, 0, 1),
    lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).reshape(-1, x.shape[0]),
)
"""Kernels of queries, keys and values: [3 out, in] published, [in, 3, out] here."""
QKV_BIAS = Layout(lambda x: x.reshape(3, -1), lambda x: x.reshape(-1))
"""Their biases: [3 out] published, [3, out] here."""


@dataclass(frozen=True)
class Rule:
    """A published name, the path of the variable, and the layout."""

    published: str
    ours: str
    layout: Layout = SAME


WeightRules = Sequence[Rule]


def conv_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """A convolution without bias."""
    return (Rule(f"{published}.weight", f"params/{ours}/kernel", CONV),)


def dense_rules(published: str, ours: str, layout: Layout = DENSE) -> tuple[Rule, ...]:
    """A linear layer with bias."""
    return (
        Rule(f"{published}.weight", f"params/{ours}/kernel", layout),
        Rule(f"{published}.bias", f"params/{ours}/bias"),
    )


def norm_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """A normalisation with scale and bias, and without statistics."""
    return Rule(f"{published}.weight", f"params/{ours}/scale"), Rule(f"{published}.bias", f"params/{ours}/bias")


def batch_norm_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """A batch normalisation with its running statistics."""
    return (
        Rule(f"{published}.weight", f"params/{ours}/scale"),
        Rule(f"{published}.bias", f"params/{ours}/bias"),
        Rule(f"{published}.running_mean", f"batch_stats/{ours}/mean"),
        Rule(f"{published}.running_var", f"batch_stats/{ours}/var"),
    )


def alike(arrays: Iterable[np.ndarray]) -> bool:
    """Whether arrays are of one shape and have an axis, so that they can be put one after the other."""
    shapes = {array.shape for array in arrays}
    return len(shapes) == 1 and () not in shapes


def renamed(name: str, *, pattern: str, template: str) -> str | None:
    """``name`` translated from ``pattern`` to ``template`` if it matches, otherwise None."""
    match = _expression(pattern).fullmatch(name)
    return template.format(**match.groupdict()) if match else None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    # Text and words alternate
    pieces = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(rf"(?P<{piece}>\d+)" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)))


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of variables by their paths, ``params/layer/kernel``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.")
"""What compiling, data-parallel training and a network around the network put before every name."""

_MOST_PREFIXES = 4


def surplus_prefix(tensors: Mapping[str, Any], target: Any, *, rules: WeightRules, ignored: Sequence[str] = ()) -> str:
    """What precedes every name of ``tensors``, put together of `PREFIXES`, without which most are those of ``target``.

    It is empty where the names are right as they are. Arguments as for :func:`from_published`.
    """
    wanted = named(target)
    names = [name for name in tensors if not any(re.search(expression, name) for expression in ignored)]
    known = lambda prefix: sum(_place(name.removeprefix(prefix), rules)[0] in wanted for name in names)
    prefix = best = ""
    most = known(prefix)
    for _ in range(_MOST_PREFIXES):
        longer = [prefix + each for each in PREFIXES if all(name.startswith(prefix + each) for name in names)]
        if most == len(names) or not longer:
            break
        prefix = longer[0]
        if known(prefix) > most:
            best, most = prefix, known(prefix)
    return best


def _place(name: str, rules: WeightRules) -> tuple[str | None, Layout]:
    """The path of the variable that a published name is of, by the first rule that matches, and the layout."""
    matches = ((renamed(name, pattern=rule.published, template=rule.ours), rule.layout) for rule in rules)
    return next((match for match in matches if match[0] is not None), (None, SAME))


def from_published(
    tensors: Mapping[str, np.ndarray],
    target: Any,
    *,
    rules: WeightRules,
    ignored: Sequence[str] = (),
    replaced: Sequence[str] = (),
) -> tuple[Any, tuple[str, ...]]:
    """Variables with the values of a published state dict.

    Args:
      tensors: published arrays by name (see :func:`vision.pretrained.state_dict.read_state_dict`).
      target: the variables, {"params": ..., "batch_stats": ...}: arrays, or the ShapeDtypeStructs of ``eval_shape``.
      rules: the table.
      ignored: regular expressions, searched in published names, of arrays that may be unused.
      replaced: regular expressions, searched in paths, of variables that keep the values of ``target`` if the published
        array has a different shape or does not exist, such as the head for other classes.

    Returns:
      A tree like ``target`` of numpy arrays in the dtypes of ``target``; and the paths that kept their values, in
      order. The caller should report these, and must have given arrays for them.

    Raises:
      UserError: if a published array is not used, a variable is not set or set twice, a shape or a kind of number
        differs, or numbers are not finite.
    """
    wanted = named(target)
    sources: dict[str, tuple[str, Layout]] = {}
    unused, doubled = [], []
    for name in tensors:
        if any(re.search(expression, name) for expression in ignored):
            continue
        path, layout = _place(name, rules)
        if path is None or path not in wanted:
            unused.append(name)
        elif path in sources:
            doubled.append(name)
        else:
            sources[path] = (name, layout)

    values, left, unset, misfits, broken = {}, [], [], [], []
    for path, leaf in wanted.items():
        name, layout = sources.get(path, (None, SAME))
        problem = _misfit(name, tensors[name], path, leaf, layout) if name is not None else None
        if name is not None and problem is None:
            with np.errstate(over="ignore"):  # what overflows is not finite
                values[path] = layout.to_ours(tensors[name]).astype(leaf.dtype)
            if count := values[path].size - np.count_nonzero(np.isfinite(values[path])):
                broken.append(f"{name} ({count:,} of {values[path].size:,} values)")
        elif any(re.search(expression, path) for expression in replaced):
            values[path] = leaf
            left.append(path)
        elif problem is not None:
            misfits.append(problem)
        else:
            unset.append(path)
    problems = (
        ("arrays that belong nowhere here", unused),
        ("arrays for what another array has set", doubled),
        ("variables that nothing sets", unset),
        ("arrays that do not fit", misfits),
    )
    sentences = [f"{len(names)} {what}: {some(names)}" for what, names in problems if names]
    if sentences:
        raise UserError(
            f"these weights are not of this network, or the configuration is different: {'; '.join(sentences)}"
        )
    if broken:
        raise UserError(
            f"these weights cannot be used: {len(broken)} arrays have numbers that are not finite: {some(broken)}; "
            "choose those of before the training diverged"
        )
    leaves = [values[path] for path in wanted]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(target), leaves), tuple(left)


def _misfit(name: str, array: np.ndarray, path: str, leaf: Any, layout: Layout) -> str | None:
    """Why a published array does not fit a variable, or None."""
    shape = layout.to_published(np.broadcast_to(np.float32(0), leaf.shape)).shape
    if array.shape != shape:
        return f"{name} of shape {array.shape}, where {path} needs {shape}"
    floating = [jnp.issubdtype(dtype, jnp.floating) for dtype in (array.dtype, leaf.dtype)]
    if floating[0] != floating[1]:
        return f"{name} of {array.dtype}, where {path} is {leaf.dtype}"
    return None


def to_published(variables: Any, *, rules: WeightRules) -> StateDict:
    """A state dict under published names, by the inverse of the same table.

    Args:
      variables: {"params": ..., "batch_stats": ...} of arrays; sharded ones must be addressable by this process.
      rules: the table.

    Raises:
      UserError: if a variable has no published name, or two have the same.
    """
    tensors: StateDict = {}
    nameless, doubled = [], []
    for path, leaf in named(variables).items():
        matches = ((renamed(path, pattern=rule.ours, template=rule.published), rule.layout) for rule in rules)
        name, layout = next((match for match in matches if match[0] is not None), (None, SAME))
        if name is None:
            nameless.append(path)
        elif name in tensors:
            doubled.append(path)
        else:
            tensors[name] = layout.to_published(np.asarray(leaf))
    problems = (("have no published name", nameless), ("have the published name of another", doubled))
    sentences = [f"{len(paths)} variables {what}: {some(paths)}" for what, paths in problems if paths]
    if sentences:
        raise UserError(f"this network cannot be written by these rules: {'; '.join(sentences)}")
    return tensors
