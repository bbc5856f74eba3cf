"""A trained CLIP as a part of other systems: what embeds images and texts, with its tokenizer, as a frozen network.

    clip = clip_encoder(Path("runs/clip/default"), option="clip.path")          # or a folder of transformers
    frozen = {NAME: clip.frozen}
    embedding = clip.encode_image(model_state["frozen"][NAME], images)          # float32 [b e], of any length
    text = clip.encode_text(model_state["frozen"][NAME], tokens)                # "embedding" [b e], "tokens" [b n d]
    tokens = clip.tokenizer.encode(["a red star"])

The tokenizer is a part of the frozen content, so that another one is another network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vision import pretrained
from vision.data.text.clip import read_clip_tokenizer
from vision.data.text.tokenizer import MAX_BYTES, Tokenizer
from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.models.clip.clip import CLIPS, AnyClipConfig, Clip, ResNetClipConfig, TransformerClipConfig
from vision.ops.resize import CLIP_MEAN, CLIP_STD, normalise, resize
from vision.ops.spherical import normalised
from vision.pretrained.clip import clip_shapes, describe_clip, read_clip
from vision.pretrained.diffusers_folder import read_config
from vision.recipes.stored_config import stored_part, stored_values
from vision.train.content_hash import content_hash
from vision.train.experiment import FrozenPart
from vision.train.kept import TOKENIZER
from vision.train.state import with_values

NAME = "clip"
"""Of the frozen part."""
SHAPES = Path(pretrained.__file__).parent / "shapes_clip"
"""The folder of a CLIP of the shapes world (``vision.recipes.quick_data.PAIRS``)."""
_SUITABLE = "a run of experiments.clip_shapes, or the folder of a published CLIPModel"
_KINDS: Mapping[str, type[AnyClipConfig]] = {kind.__name__: kind for kind in (TransformerClipConfig, ResNetClipConfig)}


def clip_by_name(default: AnyClipConfig, quick: Mapping[str, AnyClipConfig] | None = None) -> Any:
    """The field ``model`` of a recipe: ``--model NAME``, then ``--model.FIELD``; the small ones of ``quick``."""
    return field(default=default, metadata={"choices": CLIPS, "quick_choices": CLIPS if quick is None else quick})


def prepared(image: Float[Array, "b h w c"], *, clip_statistics: bool) -> Float[Array, "b h w c"]:
    """Images in [-1, 1] as a CLIP gets them."""
    return normalise(image, CLIP_MEAN, CLIP_STD) if clip_statistics else image


@dataclass(frozen=True, kw_only=True)
class ClipEncoder:
    """A CLIP as pure functions of its variables."""

    frozen: FrozenPart
    """Its variables, and its tokenizer's JSON as "tokenizer" uint8."""
    content: Callable[[], str]
    """Reads the hash of both."""
    config: AnyClipConfig
    tokenizer: Tokenizer
    resolution: int
    """Side of the images that it embeds; others are resized."""
    clip_statistics: bool
    """Whether images are normalised by the statistics of CLIP's."""
    name: str
    """For the names of numbers: "CLIP vit_b32"."""

    @property
    def embedding(self) -> int:
        """Channels of an embedding."""
        return self.config.embedding

    @property
    def network(self) -> str:
        """Its configuration in words, for what is known by its content."""
        return f"Clip at {self.resolution} pixels, CLIP's statistics {self.clip_statistics}, {self.config}"

    def encode_image(self, variables: Any, image: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
        """Embeddings, of any length, of images in [-1, 1] of any size, which are resized (bicubic, antialiased)."""
        size = (self.resolution, self.resolution)
        image = resize(image, size, method="bicubic") if image.shape[1:3] != size else image
        image = prepared(image, clip_statistics=self.clip_statistics)
        made: Any = self._apply(variables, image, method="encode_image")
        return made["embedding"]

    def encode_text(self, variables: Any, tokens: Int[Array, "b n"]) -> dict[str, Array]:
        """Of tokens that ``tokenizer`` makes: "embedding" float32 [b e], of any length, and "tokens" [b n d]."""
        return self._apply(variables, tokens, method="encode_text")

    def similarity(self, variables: Any, image: Float[Array, "b e"], text: Float[Array, "b e"]) -> Float[Array, " b"]:
        """Scaled cosines of pairs of embeddings, as the logits in training: to choose among samples by them."""
        scale = jnp.exp(variables["params"]["logit_scale"])
        return scale * jnp.sum(normalised(image) * normalised(text), axis=-1)

    def _apply(self, variables: Any, *arguments: Array, method: str) -> Any:
        weights = {name: tree for name, tree in variables.items() if name != "tokenizer"}
        return Clip(self.config).apply(weights, *arguments, train=False, method=method)


def clip_encoder(path: Path, *, option: str) -> ClipEncoder:
    """The CLIP in a folder; reads its configuration and tokenizer, and its variables when they are asked for.

    Args:
      path: the folder of a run, or of a published network with the files of its tokenizer.
      option: the configuration field that holds the path: "clip.path".

    Raises:
      UserError: there is no such folder, or what is in it is no CLIP, or it has no tokenizer.
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise UserError(f"there is no folder {path}, where {option} says that the CLIP is: name {_SUITABLE}")
    content = read_config(folder)
    return _of_run(folder, content, option) if "experiment" in content else _of_published(folder, option)


def _of_run(folder: Path, content: Mapping[str, Any], option: str) -> ClipEncoder:
    run = content.get("config")
    said = run.get("model") if isinstance(run, Mapping) else None
    name = on_one_line(str(content["experiment"]), 60)
    if not isinstance(run, Mapping) or not isinstance(said, Mapping) or said.get("type") not in _KINDS:
        raise UserError(f"{folder} is a run of {name}, which is no CLIP: name {_SUITABLE}")
    if content.get("replicas"):
        raise UserError(f"{folder} holds several runs of {name} as one: name a single run")
    fields = {field: value for field, value in said.items() if field != "type"}
    origin = folder / "config.json"
    config = stored_part(_KINDS[said["type"]], fields, name="model", origin=origin)
    data, statistics = run.get("data"), run.get("clip_statistics")
    resolution = data.get("resolution") if isinstance(data, Mapping) else None
    if type(resolution) is not int or not 1 <= resolution <= 2**14 or type(statistics) is not bool:
        raise UserError(f"{origin} has no data.resolution or clip_statistics: restore the file")
    shapes = clip_shapes(config, resolution)
    return _made(
        folder,
        option,
        shapes,
        lambda: with_values(shapes, stored_values(folder, shapes)),
        config=config,
        tokenizer=Tokenizer(_kept(folder)),
        resolution=resolution,
        clip_statistics=statistics,
        name=f"CLIP {folder.name}",
    )


def _kept(folder: Path) -> str:
    file = folder / TOKENIZER
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file} has more than {MAX_BYTES >> 20} MiB, which is not what it should be")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): restore it") from error


def _of_published(folder: Path, option: str) -> ClipEncoder:
    size = describe_clip(folder)
    tokenizer = read_clip_tokenizer(folder, length=size.config.text.length)
    return _made(
        folder,
        option,
        clip_shapes(size.config, size.resolution),
        lambda: read_clip(folder).variables,
        config=size.config,
        tokenizer=tokenizer,
        resolution=size.resolution,
        clip_statistics=True,
        name=f"CLIP {folder.name}",
    )


def _made(
    folder: Path, option: str, shapes: Any, load: Callable[[], Any], *, tokenizer: Tokenizer, **of: Any
) -> ClipEncoder:
    """With the tokenizer among the variables, which are read for their hash only where nobody has read them before."""
    config: AnyClipConfig = of["config"]
    if tokenizer.end != config.text.end or tokenizer.vocabulary > config.text.vocabulary:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.vocabulary:,} tokens and ends texts with {tokenizer.end}, and "
            f"the network is for {config.text.vocabulary:,} and {config.text.end}: put the one there that belongs to it"
        )
    definition = np.frombuffer(tokenizer.definition.encode(), np.uint8)
    found: list[str] = []

    def whole() -> Any:
        variables = {**load(), "tokenizer": definition}
        found[:] = [content_hash(variables)]
        return variables

    def content() -> str:
        if not found:
            whole()
        return found[0]

    all_shapes = {**shapes, "tokenizer": jax.ShapeDtypeStruct(definition.shape, jnp.uint8)}
    frozen = FrozenPart(option=option, path=folder, shapes=all_shapes, load=whole)
    # what a layer recomputes in training, and in which type, is no part of what it is
    of["config"] = replace(config, remat=False)
    return ClipEncoder(frozen=frozen, content=content, tokenizer=tokenizer, **of)
