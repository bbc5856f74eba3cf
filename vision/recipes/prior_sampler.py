"""A trained prior as a part of other systems: embeddings of images for texts.

    prior = stored_prior(Path("runs/prior_shapes/default"), option="prior.weights")
    embedding = prior.embeddings(["a red star"], key=jax.random.key(0))            # float32 [1 e], of any length
    text = prior.embeddings(["a red star"], key=key, source="text")                # what the paper compares with

Inside a compiled program ``prior.sampler(...)`` is the same as a pure function of the variables of two frozen parts,
``prior.frozen`` and ``prior.clip.frozen``. It is the folder of a run of ``experiments.prior_shapes``, which says which
CLIP it belongs to, or of a published PriorTransformer, with the CLIP named.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.models.prior import PriorConfig, PriorSize
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.pretrained.diffusers_folder import CONFIG, read_config
from vision.pretrained.prior import prior_config, prior_shapes, read_prior
from vision.pretrained.scheduler_config import clip_range, find_scheduler_config, read_scheduler_config
from vision.recipes.clip_encoder import NAME as CLIP
from vision.recipes.clip_encoder import ClipEncoder, clip_encoder
from vision.recipes.prior import PriorRunConfig, prior_network, prior_task
from vision.recipes.stored_config import stored_part, stored_values
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.prior import PriorTask, SampleEmbeddings, TextCondition, check_prior
from vision.tasks.sampling import SamplingConfig
from vision.train.compile import Compiler
from vision.train.experiment import FrozenPart
from vision.train.state import with_values

NAME = "prior"
"""Of the frozen part."""
EmbeddingSource = Literal["prior", "text", "zeros"]
"""Whose embeddings: the prior's; those of the texts themselves, or zeros, in their place (Ramesh et al. 2022, 5.1)."""
_SUITABLE = "a run of experiments.prior_shapes, or the folder of a published PriorTransformer"
_PUBLISHED_SAMPLING = SamplingConfig(method="ancestral", steps=25, guidance=4.0, limit=5.0)
"""As published with Karlo; a scheduler_config.json says otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """A prior, its CLIP, and how it is sampled from."""

    frozen: FrozenPart
    """Its variables {"params", "embeddings"}."""
    clip: ClipEncoder
    task: PriorTask
    network: PriorConfig
    sampling: SamplingConfig
    candidates: int
    """Samples of a text of which the best is taken, where nobody says otherwise."""
    batch: int = 64
    """Texts at a time in :meth:`embeddings`."""
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def embedding(self) -> int:
        """Channels of an embedding."""
        return self.network.embedding

    def sampler(
        self, *, guidance: float | None = None, candidates: int | None = None, steps: int | None = None
    ) -> SampleEmbeddings:
        """(variables, tokens, index, key) -> embeddings [b e] of any length; a pure function.

        Variables are those of ``frozen`` with ``{"frozen": {"clip": variables of the CLIP}}``; see
        ``vision.tasks.prior.SampleEmbeddings``.

        Args:
          guidance: scale, not negative, 1 for none; None for that of the run.
          candidates: at least 1, of which the best is taken; None for as many as the run's.
          steps: of the sampler; None for those of the run.

        Raises:
          UserError: a number is out of range, or the sampler cannot have it.
        """
        changed = {"guidance": guidance, "steps": steps}
        sampling = replace(self.sampling, **{name: value for name, value in changed.items() if value is not None})
        count = self.candidates if candidates is None else candidates
        check_prior(self.task.diffusion, sampling)
        if count < 1:
            raise UserError(f"candidates are at least 1, not {count}")
        return self.task.sampler(sampling, candidates=count)

    def variables(self) -> dict[str, Any]:
        """Read from its folder and that of the CLIP, as :meth:`sampler` takes them."""
        return {**self.frozen.load(), "frozen": {CLIP: self.clip.frozen.load()}}

    def embeddings(
        self,
        texts: Sequence[str],
        *,
        key: Key[Array, ""],
        guidance: float | None = None,
        candidates: int | None = None,
        steps: int | None = None,
        source: EmbeddingSource = "prior",
    ) -> Float[np.ndarray, "n e"]:
        """Embeddings of images for texts, by this host's devices.

        Programs and variables are kept, so that further calls with the same numbers are fast.

        Args:
          texts: any; equal ones at different places get different samples.
          key: of the noise; sample i depends on (key, i, texts[i]) alone.
          guidance: as of :meth:`sampler`.
          candidates: likewise.
          steps: likewise.
          source: whose embeddings.

        Returns:
          float32 [n e] of any length, as the decoder of an image takes them.

        Raises:
          UserError: as :meth:`sampler`; or the variables cannot be read, or are those of another CLIP.
          ValueError: ``source`` is no such thing.
        """
        if source not in get_args(EmbeddingSource):
            raise ValueError(f"the source of embeddings is prior, text or zeros, and not {source!r}")
        if source == "zeros" or not texts:
            return np.zeros((len(texts), self.embedding), np.float32)
        compiler, placed = self._kept("variables", self._placed)
        if source == "text":
            call = self._kept("text", lambda: compiler.function(self._text))
        else:
            of = {"guidance": guidance, "candidates": candidates, "steps": steps}
            call = self._kept(tuple(of.values()), lambda: compiler.function(self.sampler(**of)))
        size, found = compiler.rounded_up(self.batch), []
        for start in range(0, len(texts), size):
            tokens = self.clip.tokenizer.encode(texts[start : start + size])
            padded = compiler.shard_padded(np.resize(tokens, (size, tokens.shape[1])))
            index = compiler.shard_padded(np.arange(start, start + size, dtype=np.int32))
            found.append(
                np.asarray(jax.device_get(call(placed, padded, index, compiler.replicate(key))))[: len(tokens)]
            )
        return np.concatenate(found)

    def _text(self, variables: Any, tokens: Array, index: Array, key: Array) -> Array:
        del index, key
        return self.clip.encode_text(variables["frozen"][CLIP], tokens)["embedding"]

    def _placed(self) -> tuple[Compiler, Any]:
        compiler = Compiler(make_mesh(MeshConfig(), jax.local_devices()))
        return compiler, compiler.place(self.variables())

    def _kept(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]


def stored_prior(path: Path, *, option: str, clip: Path | None = None) -> Prior:
    """The prior in a folder; reads its configuration, and its variables when they are asked for.

    Args:
      path: the folder of a run, or of a published network.
      option: the configuration field that holds the path: "prior.weights".
      clip: the folder of its CLIP; None for where the run found it.

    Raises:
      UserError: there is no such folder, or what is in it is no prior, or its CLIP is missing or of other embeddings.
        When variables are read, also where the CLIP is not the one that the run was trained with.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}, where {option} says that the prior is: name {_SUITABLE}")
    content = read_config(folder)
    if "experiment" in content:
        return _of_run(folder, content, option, clip)
    if clip is None:
        raise UserError(f"{folder} does not say which CLIP it belongs to: name that too")
    return _of_published(folder, option, clip_encoder(clip, option="clip.weights"))


def _of_run(folder: Path, content: Mapping[str, Any], option: str, clip: Path | None) -> Prior:
    run, name = content.get("config"), on_one_line(str(content["experiment"]), 60)
    said = run if isinstance(run, Mapping) else {}
    wanted = ("model", "diffusion", "sampling", "clip")
    if not all(isinstance(said.get(each), Mapping) for each in wanted) or "text" not in said:
        raise UserError(f"{folder} is a run of {name}, which is no prior: name {_SUITABLE}")
    if content.get("replicas"):
        raise UserError(f"{folder} holds several runs of {name} as one: name a single run")
    origin = folder / CONFIG
    fields = lambda name: {each: value for each, value in said[name].items() if each != "type"}
    part: Callable[..., Any] = lambda kind, name: stored_part(kind, fields(name), name=name, origin=origin)
    of = {"text": said["text"], "candidates": said.get("candidates", PriorRunConfig.candidates)}
    chosen = stored_part(_Chosen, of, name="prior", origin=origin)
    size, diffusion, sampling = (
        part(PriorSize, "model"),
        part(DiffusionConfig, "diffusion"),
        part(SamplingConfig, "sampling"),
    )
    check_prior(diffusion, sampling)
    place = said["clip"].get("weights")
    if clip is None and not isinstance(place, str):
        raise UserError(f"{origin} has no clip.weights: restore the file")
    encoder = clip_encoder(Path(str(place)) if clip is None else clip, option="clip.weights")
    network = prior_network(size, encoder, text=chosen.text)
    shapes = prior_shapes(network)

    def load() -> Any:
        before = _clip_of(folder)
        if before not in (None, encoder.content()):
            raise UserError(
                f"the prior in {folder} was trained with another CLIP than the one in {encoder.frozen.path}: name that"
            )
        return with_values(shapes, stored_values(folder, shapes))

    return Prior(
        frozen=FrozenPart(option=option, path=folder, shapes=shapes, load=load),
        clip=encoder,
        task=prior_task(network, diffusion, encoder, text=chosen.text),
        network=network,
        sampling=sampling,
        candidates=chosen.candidates,
    )


@dataclass(frozen=True)
class _Chosen:
    """Fields of a run that are no dataclass."""

    text: TextCondition = "both"
    candidates: int = 2


def _of_published(folder: Path, option: str, clip: ClipEncoder) -> Prior:
    network = prior_config(read_config(folder), origin=str(folder / CONFIG))
    own = prior_network(network, clip, text="both" if network.text_width else "embedding")
    for name in ("embedding", "text_embedding", "text_width", "text_length"):
        found, needed = getattr(own, name), getattr(network, name)
        if found != needed:
            raise UserError(
                f"{folder} is of a CLIP with {name} {needed}, and the one in {clip.frozen.path} has {found}: name the "
                "CLIP that it belongs to"
            )
    diffusion, sampling = PriorRunConfig.diffusion, _PUBLISHED_SAMPLING
    file = find_scheduler_config(folder)
    if file is not None:
        process, limit = read_scheduler_config(file), clip_range(file)
        stated = {each.name: getattr(process, each.name) for each in dataclasses.fields(process)}
        diffusion = replace(diffusion, **{**stated, "data_deviation": diffusion.data_deviation})
        unlimited = replace(sampling, threshold="none", limit=1.0)
        sampling = unlimited if limit is None else replace(sampling, limit=limit)
    sampling = replace(sampling, steps=min(sampling.steps, diffusion.steps))
    check_prior(diffusion, sampling)
    return Prior(
        frozen=FrozenPart(option=option, path=folder, shapes=prior_shapes(network), load=lambda: read_prior(folder)[1]),
        clip=clip,
        task=prior_task(network, diffusion, clip, text="both" if network.text_width else "embedding"),
        network=network,
        sampling=sampling,
        candidates=2,
    )


def _clip_of(folder: Path) -> str | None:
    """The hash of the CLIP of a run, from its frozen.json; None where that does not say."""
    try:
        return json.loads((folder / "frozen.json").read_text())[CLIP]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
