"""What stands before and behind a decoder: a prior that turns texts into embeddings of images, and upsamplers.

Ramesh et al. 2022, section 2: P(x | y) = P(x | z, y) P(z | y), and two upsamplers. Only sampling and evaluation use
them, so that a trained decoder takes any that share its CLIP and its sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.evaluation.generator import Generator
from vision.recipes.clip_encoder import NAME as CLIP
from vision.recipes.prior_sampler import NAME as PRIOR
from vision.recipes.prior_sampler import Prior, stored_prior
from vision.recipes.stored_upsampler import StoredUpsampler, stored_upsampler
from vision.recipes.text_conditions import REFERENCE, ClipConditions
from vision.train.experiment import FrozenPart
from vision.types import Condition, TrainState

UPSAMPLERS = ("upsampler", "second_upsampler")
"""Fields of a configuration, and names of frozen parts, in the order in which they enlarge."""
_OF_PRIOR = 0x5052
"""Folded into the seed, so that the noise of the prior is not that of the decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorOfTexts:
    """A prior as ``vision.recipes.text_requests.EmbeddingsOfTexts``."""

    prior: Prior

    def __call__(self, texts: Sequence[str], *, seed: int) -> Float[np.ndarray, "n e"]:
        """One sample for each text."""
        return self.prior.embeddings(texts, key=jax.random.fold_in(jax.random.key(seed), _OF_PRIOR))


@dataclass(frozen=True, kw_only=True, eq=False)
class Cascade:
    """A prior or none, and upsamplers in the order in which they enlarge."""

    prior: PriorOfTexts | None = None
    upsamplers: Mapping[str, StoredUpsampler]

    @property
    def frozen(self) -> dict[str, FrozenPart]:
        """Their variables, by name. Those of the prior are used by this host alone, and not kept with the state."""
        found = {name: part.frozen for name, part in self.upsamplers.items()}
        if self.prior is not None:
            found[PRIOR] = replace(self.prior.prior.frozen, optional=True, in_step=False)
        return found

    def enlargers(self, conditions: ClipConditions) -> tuple[Generator, ...]:
        """The upsamplers as generators; conditions are "image" uint8 and "tokens" int32, variables those of a state."""
        return tuple(_enlarger(name, part, conditions) for name, part in self.upsamplers.items())

    def enlarged(self, generator: Generator, conditions: ClipConditions) -> Generator:
        """``generator`` with the upsamplers behind it, as one function."""
        enlargers = self.enlargers(conditions)

        def sample(variables: Any, condition: Condition, index: Array, key: Array, /) -> Array:
            keys = jax.random.split(key, len(enlargers) + 1)
            images = generator.sample(variables, condition, index, keys[0])
            tokens = {"tokens": condition["tokens"]} if "tokens" in condition else {}
            for each, own in zip(enlargers, keys[1:], strict=True):
                images = each.sample(variables, {REFERENCE: images, **tokens}, index, own)
            return images

        words = "".join(f", enlarged to {part.large} pixels" for part in self.upsamplers.values())
        return replace(generator, sample=sample, description=f"{generator.description}{words}")


def _enlarger(name: str, part: StoredUpsampler, conditions: ClipConditions) -> Generator:
    def sample(variables: Any, condition: Condition, index: Array, key: Array, /) -> Array:
        frozen = variables["frozen"]
        given: dict[str, Any] = {REFERENCE: condition[REFERENCE]}
        if part.has_text:
            given["tokens"] = condition.get("tokens", conditions.no_text(index.shape[0]))
        return part.sample({**frozen[name], CLIP: frozen[CLIP]}, given, index, key)

    def variables(state: TrainState) -> Any:
        return {"frozen": state.model_state["frozen"]}

    return Generator(sample=sample, variables=variables, description=f"enlarged to {part.large} pixels")


def cascade(paths: Mapping[str, Path | None], conditions: ClipConditions, *, side: int) -> Cascade:
    """The parts in the folders of runs; reads their configurations.

    Args:
      paths: by field of the configuration: "prior", "upsampler", "second_upsampler"; None for none.
      conditions: of the decoder, whose CLIP all of them share.
      side: of the images that the decoder generates.

    Raises:
      UserError: a folder has not what it should have, or sizes do not follow each other.
    """
    clip, prior, found = conditions.clip, None, {}
    if (place := paths.get(PRIOR)) is not None:
        if not conditions.has_embedding:
            raise UserError(
                "a prior makes embeddings of images, and this generator is conditioned on texts alone: leave --prior "
                "out, or name a run of experiments.decoder_shapes"
            )
        prior = PriorOfTexts(prior=stored_prior(place, option=PRIOR, clip=clip.frozen.path))
        if prior.prior.embedding != clip.embedding:
            raise UserError(
                f"the prior in {place} makes embeddings of {prior.prior.embedding} channels, and the CLIP has "
                f"{clip.embedding}: name a prior that was trained with this CLIP"
            )
    for name in UPSAMPLERS:
        if (place := paths.get(name)) is None:
            continue
        part = stored_upsampler(place, option=name, clip=clip)
        if part.small != side:
            raise UserError(
                f"the upsampler in {place} enlarges images of {part.small} pixels, and those before it have {side}: "
                f"name one for {side} pixels"
            )
        found[name], side = part, part.large
    return Cascade(prior=prior, upsamplers=found)
