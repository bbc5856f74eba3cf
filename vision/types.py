"""The types that the packages share: batches, conditions, losses, steps, the state of a run, requests for samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from vision.errors import UserError

Params = Any
"""A tree of arrays: the parameters of a network, or of several under the names of the players."""

Batch = Mapping[str, Array]
"""Fields with the samples along the first axis: "image" [b h w c], uint8 in the input pipeline, float32 in [-1, 1]
inside a step; "label" int32 [b]; ..."""

Condition = Mapping[str, Array]
"""What a network is conditioned on, by name, samples along the first axis: "label" int32 [b], "tokens" int32 [b n],
"context" float32 [b n d], "embedding" float32 [b d], "image" float32 [b h w c] in [-1, 1], "mask" float32 [b h w 1]; of
a text that a frozen CLIP has encoded "text_embedding" float32 [b e], "text_states" float [b n d] and "text_mask" bool
[b n]. Empty for none."""

Scalars = Mapping[str, Num[Array, "..."]]
"""Numbers by the names under which they are logged, means over the global batch; one for each replica where several
runs are trained as one program."""

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
"""Step -> value."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The identity of a split of a data set, wherever it lies (``vision.data.content``)."""

    count: int
    """Images."""
    sha256: str
    """Of what names them, in hexadecimal."""


class TrainState(struct.PyTreeNode):
    """All that a run is, and all that a checkpoint holds. Frozen networks (``vision.launch.frozen``) are no part of it.

    Attributes:
      step: int32 scalar, steps taken.
      params: parameters; with several players, a mapping from player to its sub-tree.
      model_state: what the model carries besides (batch statistics, code books); ``{}`` for none.
      opt_state: Optax state; with several players, a mapping with the keys of ``params``.
      ema: averaged copies by name, of the parameters or of all variables; ``{}`` for none.
      key: the run's key; each step uses ``fold_in(key, step)``, so that randomness is a function of the step.
    """

    # Unchecked types: a state of shapes and a state of shardings are TrainStates too.
    step: Any
    params: Params
    model_state: Any
    opt_state: Any
    ema: dict[str, Any]
    key: Any


Step = Callable[[TrainState, Batch], tuple[TrainState, Scalars]]
"""A training step is a value: see ``vision.train.step`` for how steps are composed."""


@runtime_checkable
class LossFn(Protocol):
    """A loss is a mean over the global batch, with the model's new state and the scalars to log."""

    def __call__(
        self, params: Params, model_state: Any, batch: Batch, *, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Any, Scalars]]:
        """(params, model_state, batch) -> (loss, (model_state, scalars)); ``step`` is for losses that warm up.

        Variables of frozen networks are in ``model_state["frozen"]`` by name, and are returned as they are.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """A generator as a pure function of its variables, of conditions and of noise."""

    def __call__(
        self, variables: Any, condition: Condition, index: Int[Array, " n"], key: Key[Array, ""], /
    ) -> Num[Array, "n h w c"]:
        """Images, float32 in [-1, 1] or uint8; the noise of image i is a function of (key, index[i]).

        ``index`` says how many images there are, also where there are no conditions.
        """
        ...


REQUEST_OPTIONS: Mapping[str, str] = {
    **{"labels": "--labels", "prompts": "--prompt", "images": "--image", "masks": "--mask"},
    **{"best_of": "--best-of", "interpolate": "--interpolate", "difference": "--difference"},
    "components": "--components",
}
"""Fields of a request that not every generator can follow, and their options of ``vision sample``."""


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What is asked of a generator. Fields that the generator has no condition for stay empty."""

    count: int
    """Number of images, at least 1."""
    labels: tuple[int, ...] = ()
    """Classes, repeated until there are ``count``; empty for equal numbers of all."""
    prompts: tuple[str, ...] = ()
    """Texts, repeated until there are ``count``."""
    images: tuple[UInt8[np.ndarray, "h w c"], ...] = ()
    """Images to start from or to look at, repeated until there are ``count``."""
    masks: tuple[UInt8[np.ndarray, "h w 1"], ...] = ()
    """0 or 255 for each pixel of ``images``: 255 where they may change."""
    seed: int = 0
    """Of the noise."""
    best_of: int = 1
    """Images, at least 1, that are generated for each one that is returned: the one that fits its text best."""
    interpolate: bool = False
    """Whether the images are steps of equal length from the first of two ``images`` or ``prompts`` to the second."""
    difference: tuple[str, ...] = ()
    """Two texts, what ``images`` show and what they are to show: the images move along their difference."""
    components: tuple[int, ...] = ()
    """Numbers of principal components of embeddings that ``images`` are reconstructed from, a column each."""

    def check(self, *, conditions: Sequence[str]) -> None:
        """Raise ``UserError`` where a field is set that the generator cannot follow.

        Args:
          conditions: the fields that it can: some of "labels", "prompts", "images", "masks", "best_of", "interpolate",
            "difference", "components".
        """
        for name, option in REQUEST_OPTIONS.items():
            asked = self.best_of > 1 if name == "best_of" else bool(getattr(self, name))
            if asked and name not in conditions:
                known = f": it takes {' and '.join(REQUEST_OPTIONS[each] for each in conditions)}" if conditions else ""
                raise UserError(f"this generator has no condition for {option}{known}. Leave {option} out")


EditMethod = Literal["auto", "model", "sdedit", "repaint", "blended", "inversion"]
"""How an image is edited: by what the network was trained for, by a method for any generator, or by the first that fits
the request."""


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """What is asked of an editor, of one image."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w 1"] | None = None
    """255 where the image may change, else 0; None for everywhere."""
    grow: float = 0.0
    """Pixels, as the network sees the image, by which the mask grows."""
    feather: float = 0.0
    """Pixels over which the edit fades out beyond the grown mask."""
    method: EditMethod = "auto"
    prompt: str = ""
    """What the result shows, or, of a network that inpaints with words, what the inside of the mask shows."""
    instruction: str = ""
    """What is to be done."""
    background: str = ""
    """What the background becomes; the mask is then that of the background."""
    source: str = ""
    """What the image shows, for inversion."""
    remove: bool = False
    """Whether the inside of the mask should show nothing but background."""
    strength: float = 0.75
    """Share of the sampler's steps that an edit takes, from 0 to 1."""
    resamplings: int = 10
    """Of RePaint: how often each step is made, at least 1."""
    jump: int = 5
    """Of RePaint: steps that are taken back at once, at least 1."""
    count: int = 1
    """Results, at least 1, each with noise of its own."""
    seed: int = 0
    """Of the noise."""


@dataclass(frozen=True, kw_only=True)
class Edited:
    """What an editor returned."""

    images: UInt8[np.ndarray, "n s s c"]
    image: UInt8[np.ndarray, "s s c"]
    """The image as the network saw it."""
    weight: Float[np.ndarray, "s s 1"] | None
    """How much of the edit each pixel shows; where it is exactly 0, the pixels of ``images`` are those of ``image``."""
    method: EditMethod
    notes: tuple[str, ...] = ()
    """What was done with the request, a sentence each."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """Numbers about the edits that need no truth, as JSON has them."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a generator returned."""

    images: UInt8[np.ndarray, "n h w c"]
    captions: tuple[str, ...] = ()
    """One for each image, or none."""
    columns: int | None = None
    """Of the grid that shows them; None for about as many as rows."""
    given: UInt8[np.ndarray, "k h w c"] | None = None
    """The images that were asked about, one for each column, as the generator saw them."""
