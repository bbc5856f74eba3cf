"""The diffusion prior as a task: the embedding of an image is diffused like an image of one place, given its text.

    task = PriorTask(network=PriorTransformer(config), encode_text=clip.encode_text, ...)
    loss = task.loss()                        # of batches with "embedding" [b e] and "tokens" [b n]
    sample = task.sampler(sampling, candidates=2)

Embeddings are scaled to mean 0 and deviation 1 by the statistics of a run's training images (``clip_mean`` and
``clip_std`` of published priors). A frozen CLIP makes of a text's tokens its embedding and the hidden states of its
tokens. The null of classifier-free guidance, what a share of samples is trained with in place of its text, is the empty
text: of both at once, as in published priors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vision.diffusion.conditions import Conditioning
from vision.diffusion.process import Process
from vision.errors import UserError
from vision.models.prior import SCALE
from vision.tasks.diffusion import DiffusionConfig, HeldOutError, diffusion_loss, held_out_error
from vision.tasks.sampling import SamplingConfig, check, sampler
from vision.types import Batch, Condition, LossFn

CLIP = "clip"
"""The name of the frozen CLIP among a run's frozen parts."""
TextCondition = Literal["both", "embedding", "states"]

EncodeText = Callable[[Any, Array], Mapping[str, Array]]
"""(variables of a CLIP, tokens [b n]) -> "embedding" [b e] and "tokens" [b n d] (``recipes.clip_encoder``)."""
Similarity = Callable[[Any, Array, Array], Array]
"""(variables of a CLIP, embeddings of images [b e], of texts [b e]) -> [b], larger for what fits better."""
SampleEmbeddings = Callable[[Any, Array, Array, Array], Array]
"""(variables, tokens int32 [b n], index int32 [b], key) -> embeddings of images [b e], of any length.

Variables are {"params", "embeddings", "frozen": {"clip"}}. Sample i depends on (key, index[i], tokens[i]) alone, up to
rounding."""

_LEAST_LIMIT = 3.0
"""Deviations within which nearly all scaled embeddings are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorTask:
    """A prior as pure functions of its variables and those of a frozen CLIP."""

    network: nn.Module
    """With the call of ``vision.models.prior.PriorTransformer``."""
    diffusion: DiffusionConfig
    process: Process
    text: TextCondition
    """Which conditions the network has."""
    channels: int
    """Of an embedding."""
    encode_text: EncodeText
    similarity: Similarity
    empty: Int[np.ndarray, " n"]
    """Tokens of the empty text."""
    end: int
    """The token that ends a text; what is after its first occurrence is padding."""

    def condition(self, clip: Any, tokens: Int[Array, "b n"]) -> Condition:
        """What the network is conditioned on, encoded by the frozen CLIP with these variables."""
        made = self.encode_text(clip, tokens)
        found: dict[str, Array] = {}
        if self.text != "states":
            found["text_embedding"] = made["embedding"]
        if self.text != "embedding":
            found["text_states"] = made["tokens"]
            before = jnp.cumsum(tokens == self.end, axis=1) - (tokens == self.end)  # end tokens before each
            found["text_mask"] = before == 0
        return found

    def conditioning(self, clip: Any) -> Conditioning:
        """The conditions with the empty text as their null."""
        null = self.condition(clip, jnp.asarray(self.empty)[None])
        return Conditioning({name: value[0] for name, value in null.items()})

    def loss(self) -> LossFn:
        """The loss of batches with "embedding" float32 [b e], of any length, and "tokens" int32 [b n].

        The mean squared error of the prediction, of the embedding itself in the paper (Ramesh et al. 2022, equation 2).
        A share ``diffusion.condition_dropout`` of samples is trained with the empty text.
        """

        def of_embeddings(params, model_state, batch, *, key, step):
            clip = model_state["frozen"][CLIP]
            loss = diffusion_loss(self.network, self.diffusion, self.process, conditioning=self.conditioning(clip))
            return loss(params, model_state, self._scaled(model_state, clip, batch), key=key, step=step)

        return of_embeddings

    def held_out(self) -> HeldOutError:
        """The error of the target on embeddings not trained on, which is about 1 for the mean of all embeddings.

        Variables are as those of ``SampleEmbeddings``; batches as of :meth:`loss`, with "mask" bool [b].
        """

        def error(variables, batch, *, key):
            clip = variables["frozen"][CLIP]
            evaluate = held_out_error(self.network, self.diffusion, self.process, conditioning=self.conditioning(clip))
            scaled = {**self._scaled(variables, clip, batch), "mask": batch["mask"]}
            return evaluate({"params": variables["params"]}, scaled, key=key)

        return error

    def sampler(self, sampling: SamplingConfig, *, candidates: int) -> SampleEmbeddings:
        """The function that samples embeddings of images.

        Of ``candidates`` for each text, the one that is most similar to the embedding of the text is returned (Ramesh
        et al. 2022, section 2.2, with two).
        """
        shape = (1, 1, self.channels)

        def sample(variables: Any, tokens: Array, index: Array, key: Key[Array, ""]) -> Float[Array, "b e"]:
            clip, scale = variables["frozen"][CLIP], variables[SCALE]
            repeated = lambda values: jnp.repeat(values, candidates, axis=0)
            condition = {name: repeated(value) for name, value in self.condition(clip, tokens).items()}
            run = sampler(
                self.network,
                self.diffusion,
                self.process,
                sampling,
                conditioning=self.conditioning(clip),
                image_shape=shape,
            )
            numbers = (index[:, None] * candidates + jnp.arange(candidates)).reshape(-1)
            made = run({"params": variables["params"]}, condition, numbers, key)[:, 0, 0]
            made = made * scale["deviation"] + scale["mean"]
            if candidates == 1:
                return made
            text = repeated(self.encode_text(clip, tokens)["embedding"])
            best = jnp.argmax(self.similarity(clip, made, text).reshape(-1, candidates), axis=1)
            each = made.reshape(-1, candidates, self.channels)
            return jnp.take_along_axis(each, best[:, None, None], axis=1)[:, 0]

        return sample

    def _scaled(self, values: Mapping[str, Any], clip: Any, batch: Batch) -> Batch:
        """A batch as the functions of images take it."""
        scale = values[SCALE]
        image = (batch["embedding"] - scale["mean"]) / scale["deviation"]
        return {"image": image[:, None, None, :], **self.condition(clip, batch["tokens"])}


def check_prior(config: DiffusionConfig, sampling: SamplingConfig, *, batch_size: int | None = None) -> None:
    """Raise ``UserError`` where settings cannot go together, as ``vision.tasks.sampling.check`` and for embeddings.

    ``batch_size`` is that of training, of a microbatch, where it is known.
    """
    check(config, sampling, conditioning=Conditioning({"text": 0}), batch_size=batch_size)
    if config.variance == "learned":
        raise UserError("a prior predicts the embedding alone: leave diffusion.variance fixed")
    if sampling.guide is not None:
        raise UserError(
            "sampling.guide is a run of a diffusion model of images: leave it out, and set sampling.guidance"
        )
    if sampling.threshold == "dynamic":
        raise UserError("the dynamic threshold is of images in [-1, 1]: set sampling.threshold static, or none")
    if sampling.threshold == "static" and sampling.limit < _LEAST_LIMIT:
        raise UserError(
            f"sampling.limit {sampling.limit:g} would cut embeddings, whose deviation is 1: set it to "
            f"{_LEAST_LIMIT:g} at least, 5 as published, or sampling.threshold none"
        )
