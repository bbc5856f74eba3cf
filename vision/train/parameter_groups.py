"""Parameters treated differently by the optimizer: frozen ones, learning rates by depth, decay of weights only.

Groups are distinguished by the path of a parameter, ``stage_1_block_0/conv_in/kernel``. All of it is plain Optax: what
comes out wraps an optimizer, or is a mask for one.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from vision.errors import UserError
from vision.parallel.sharding import path_name


def matching(params: PyTree, patterns: Sequence[str]) -> PyTree[bool]:
    """For each parameter, whether one of the regular expressions is found in its path.

    Raises ``UserError`` for a pattern that is no regular expression, or is found nowhere, with some of the paths.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [path_name(path) for path, _ in leaves]
    for pattern in patterns:
        try:
            found = any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise UserError(f"{pattern!r} is no regular expression: {error}") from error
        if not found:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"no parameter has {pattern!r} in its path; there are {', '.join(names[:3])}{more}")
    chosen = [any(re.search(pattern, name) for pattern in patterns) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def frozen(optimizer: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """``optimizer`` for parameters that match no pattern; the others stay as they are and take no optimizer state."""
    if not patterns:
        return optimizer
    labels = lambda params: jax.tree.map(lambda still: "frozen" if still else "trained", matching(params, patterns))
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def weights_alone(params: PyTree) -> PyTree[bool]:
    """A mask for weight decay: kernels, not biases or the scales of normalisation, which are vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def scaled_by(factor: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiply the update of each parameter by ``factor`` of its path: learning rates of their own.

    Put it last in a chain, after the learning rate.
    """

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        return jax.tree_util.tree_map_with_path(lambda path, u: u * factor(path_name(path)), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def layerwise(decay: float, depth_of: Callable[[str], int], deepest: int) -> optax.GradientTransformation:
    """Learning rates that fall by ``decay`` with every layer away from the head.

    Clark et al. 2020 (ELECTRA), section 3; Bao et al. 2022 (BEiT): lr_l = lr * decay ** (L - l).

    Args:
      decay: factor for each layer, within (0, 1].
      depth_of: path of a parameter -> its layer l, 0 for the stem, ``deepest`` for the head.
      deepest: L, the layer whose rate is not lowered.
    """
    if not 0.0 < decay <= 1.0:
        raise UserError(f"layer-wise decay is a factor within (0, 1], not {decay}")
    return scaled_by(lambda name: decay ** (deepest - depth_of(name)))
