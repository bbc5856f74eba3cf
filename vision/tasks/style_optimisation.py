"""An image as the unknown: L-BFGS from coarse to fine, after Gatys et al. 2016.

Each scale begins with the result of the one before, enlarged. L-BFGS is Optax's, with its line search (Zoom, by the
strong Wolfe conditions). An optimisation is a value that can be written to a file between two iterations, and goes on
from there as if it had not been interrupted.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from vision.tasks.style import Features, StyleLossConfig, content_loss, style_loss, total_variation

Targets = Mapping[str, Any]
"""What an image should be like: "content" (activations by layer), "grams" [s c c] by layer, "weights" [s] of the
styles, and "guides" [s h w] by layer, or None."""
Objective = Callable[[Any, Float[Array, "1 h w 3"], Targets], tuple[Float[Array, ""], dict[str, Array]]]
"""(variables of the network, image, targets) -> what is minimised and its parts."""

PARTS = ("loss", "content", "style", "total_variation")
"""The values of which a curve consists."""


@dataclass(frozen=True)
class Optimisation:
    """An image that is being optimised."""

    image: Float[Array, "1 h w 3"]
    """RGB of about [0, 1], neither bounded nor rounded."""
    memory: Any
    """The state of L-BFGS."""
    scale: int
    """Number of the scale, from 0 for the coarsest."""
    iteration: int
    """Iterations done at this scale."""


def style_objective(activations: Callable[[Any, Array], Features], config: StyleLossConfig) -> Objective:
    """Eq. 7 and total variation.

    Args:
      activations: (variables, images in [0, 1]) -> activations by layer.
      config: layers and weights.
    """

    def objective(variables: Any, image: Array, targets: Targets) -> tuple[Array, dict[str, Array]]:
        found = activations(variables, image)
        parts = {
            "content": content_loss(found, targets["content"], config)[0],
            "style": style_loss(found, targets["grams"], config, weights=targets["weights"], guides=targets["guides"]),
            "total_variation": total_variation(image)[0],
        }
        # Gatys et al. 2016, eq. 7
        loss = config.content * parts["content"] + config.style * parts["style"]
        loss = loss + config.total_variation * parts["total_variation"]
        return loss, {"loss": loss, **parts}

    return objective


class ImageOptimiser:
    """Compiled steps of L-BFGS on images, for any targets of equal shapes."""

    def __init__(self, objective: Objective, *, memory: int = 10, search_steps: int = 12):
        """Args: the objective; pairs of steps and gradients that are kept; evaluations of a line search at most."""
        search = optax.scale_by_zoom_linesearch(max_linesearch_steps=search_steps, initial_guess_strategy="one")
        self._optimizer = optax.lbfgs(memory_size=memory, linesearch=search)
        self._step = jax.jit(self._one)
        self._measure = jax.jit(lambda variables, image, targets: objective(variables, image, targets)[1])
        self._objective = objective

    def start(self, image: Float[Array, "1 h w 3"], *, scale: int = 0) -> Optimisation:
        """The first iteration at a scale."""
        # of the types that a step returns, so that it is compiled once
        memory = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), self._optimizer.init(image))
        return Optimisation(image=jnp.asarray(image, jnp.float32), memory=memory, scale=scale, iteration=0)

    def step(self, state: Optimisation, variables: Any, targets: Targets) -> Optimisation:
        """One iteration."""
        image, memory = self._step(state.image, state.memory, variables, targets)
        return dataclasses.replace(state, image=image, memory=memory, iteration=state.iteration + 1)

    def measure(self, state: Optimisation, variables: Any, targets: Targets) -> dict[str, float]:
        """The values `PARTS` of the image as it is."""
        return {name: float(value) for name, value in self._measure(variables, state.image, targets).items()}

    def _one(self, image: Array, memory: Any, variables: Any, targets: Targets) -> tuple[Array, Any]:
        value_of = lambda image: self._objective(variables, image, targets)[0]
        value, gradient = optax.value_and_grad_from_state(value_of)(image, state=memory)
        updates, memory = self._optimizer.update(gradient, memory, image, value=value, grad=gradient, value_fn=value_of)
        return jnp.asarray(optax.apply_updates(image, updates)), memory

    def to_bytes(self, state: Optimisation, more: Mapping[str, np.ndarray]) -> bytes:
        """The optimisation and other arrays in one npz file."""
        leaves = {f"memory_{n}": np.asarray(leaf) for n, leaf in enumerate(jax.tree.leaves(state.memory))}
        place = np.array([state.scale, state.iteration], np.int64)
        written = io.BytesIO()
        arrays: dict[str, Any] = {"image": np.asarray(state.image), "place": place, **leaves, **more}
        np.savez(written, **arrays)
        return written.getvalue()

    def from_bytes(self, content: bytes) -> tuple[Optimisation, dict[str, np.ndarray]]:
        """The inverse of :meth:`to_bytes`."""
        with np.load(io.BytesIO(content)) as file:
            arrays = {name: file[name] for name in file.files}
        image = jnp.asarray(arrays.pop("image"))
        scale, iteration = arrays.pop("place").tolist()
        like = self._optimizer.init(image)
        leaves = [jnp.asarray(arrays.pop(f"memory_{n}")) for n in range(len(jax.tree.leaves(like)))]
        memory = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return Optimisation(image=image, memory=memory, scale=scale, iteration=iteration), arrays


def scale_sizes(size: tuple[int, int], scales: int, *, least: int = 32) -> Sequence[tuple[int, int]]:
    """Heights and widths from coarse to fine, each twice that of the one before; none has a side under ``least``."""
    found = [size]
    for power in range(1, scales):
        smaller = tuple(round(side / 2**power) for side in size)
        if min(smaller) < least:
            break
        found.insert(0, (smaller[0], smaller[1]))
    return found
