"""Published CLIPs: OpenAI's state dicts, and folders of transformers' CLIPModel, in and out.

    published = read_clip("clip-vit-base-patch32")               # config.json and model.safetensors
    made = Clip(published.config).apply(published.variables, image, tokens, train=False)
    write_clip("mine", published)

Rules have OpenAI's names (``visual.conv1.weight``, ``transformer.resblocks.0.attn.in_proj_weight``), of both image
towers. transformers' names of the same arrays are translated before and after, with queries, keys and values in one.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UserError, on_one_line
from vision.models.clip.clip import AnyClipConfig, Clip, ResNetClipConfig, TransformerClipConfig
from vision.models.clip.resnet import ImageResNetConfig
from vision.models.clip.text import TextConfig
from vision.models.clip.vit import ImageTransformerConfig
from vision.platform import shapes_of
from vision.pretrained.adapted import Adapted
from vision.pretrained.clip_config import PublishedSize, clip_config, clip_values
from vision.pretrained.diffusers_config import options
from vision.pretrained.diffusers_folder import CONFIG, FolderSource, check_count, read_config, read_folder, write_folder
from vision.pretrained.rules import (
    QKV,
    QKV_BIAS,
    Layout,
    Rule,
    alike,
    batch_norm_rules,
    conv_rules,
    dense_rules,
    from_published,
    norm_rules,
    renamed,
    to_published,
)
from vision.pretrained.state_dict import StateDict, read_state_dict
from vision.pretrained.vit import resampled_positions
from vision.ranges import check_ranges

IGNORED = (
    *(r"^(input_resolution|context_length|vocab_size)$", r"num_batches_tracked$", r"position_ids$"),
    r"^attn_mask$",
)
"""Regular expressions of published names that are no variables."""
REPLACED = (r"^params/logit_bias$",)
"""What weights of a softmax have not."""
_CLASS_TOKEN = Layout(lambda x: x[None, None], lambda x: x.reshape(-1))
_HEAD = 64
"""Channels of a head in all of OpenAI's networks."""
_BLOCK = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
_TOWERS = (("text_model", "transformer"), ("vision_model", "visual.transformer"))
_WHOLE = (
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.weight", "ln_final.weight"),
    ("text_model.final_layer_norm.bias", "ln_final.bias"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
    ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
    ("vision_model.post_layernorm.weight", "visual.ln_post.weight"),
    ("vision_model.post_layernorm.bias", "visual.ln_post.bias"),
    ("logit_scale", "logit_scale"),
)
_TRANSPOSED = (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection"))
_POSITION = "visual.positional_embedding"
_POOL_POSITION = "visual.attnpool.positional_embedding"


@dataclass(frozen=True, kw_only=True)
class PublishedClip:
    """A CLIP with its weights."""

    config: AnyClipConfig
    resolution: int
    """Side of its images."""
    variables: Mapping[str, Any]
    """{"params": ...} and, of a ResNet, "batch_stats"; float32."""


def clip_rules(config: AnyClipConfig) -> tuple[Rule, ...]:
    """OpenAI's names, which are also those of transformers after :func:`of_transformers`."""
    shared = (
        Rule("token_embedding.weight", "params/text/token"),
        Rule("positional_embedding", "params/text/position"),
        Rule("text_projection", "params/text/projection/kernel"),
        Rule("logit_scale", "params/logit_scale"),
        Rule("logit_bias", "params/logit_bias"),
        *norm_rules("ln_final", "text/norm"),
        *_block("transformer.resblocks.{block}", "text/block_{block}"),
    )
    if isinstance(config, TransformerClipConfig):
        return (
            *shared,
            Rule("visual.class_embedding", "params/image/class_token", _CLASS_TOKEN),
            Rule(_POSITION, "params/image/position"),
            Rule("visual.proj", "params/image/projection/kernel"),
            *conv_rules("visual.conv1", "image/stem"),
            *norm_rules("visual.ln_pre", "image/norm_in"),
            *norm_rules("visual.ln_post", "image/norm"),
            *_block("visual.transformer.resblocks.{block}", "image/block_{block}"),
        )
    stem = (
        rule
        for index in range(3)
        for rule in (
            *conv_rules(f"visual.conv{index + 1}", f"image/stem_{index}_conv"),
            *batch_norm_rules(f"visual.bn{index + 1}", f"image/stem_{index}_norm"),
        )
    )
    theirs, ours = "visual.layer{stage}.{block}", "image/stage_{stage}_block_{block}"
    layers = (
        rule
        for number, layer in ((1, "in"), (2, "mid"), (3, "out"))
        for rule in (
            *conv_rules(f"{theirs}.conv{number}", f"{ours}/conv_{layer}"),
            *batch_norm_rules(f"{theirs}.bn{number}", f"{ours}/norm_{layer}"),
        )
    )
    pool = (("q", "query"), ("k", "key"), ("v", "value"), ("c", "out"))
    return (
        *shared,
        *stem,
        *layers,
        *conv_rules(f"{theirs}.downsample.0", f"{ours}/shortcut/conv"),
        *batch_norm_rules(f"{theirs}.downsample.1", f"{ours}/shortcut/norm"),
        Rule(_POOL_POSITION, "params/image/pool/position"),
        *(rule for name, of in pool for rule in dense_rules(f"visual.attnpool.{name}_proj", f"image/pool/{of}")),
    )


def clip_shapes(config: AnyClipConfig, resolution: int) -> Any:
    """Shapes of the variables, of ShapeDtypeStructs; touches no devices."""

    def made() -> Any:
        image = jnp.zeros((1, resolution, resolution, config.channels))
        tokens = jnp.zeros((1, config.text.length), jnp.int32)
        return Clip(config).init({"params": jax.random.key(0)}, image, tokens, train=False)

    return shapes_of(made)


def describe_clip(folder: str | Path) -> PublishedSize:
    """What config.json of a folder of transformers says. Raises ``UserError`` as :func:`read_clip` does."""
    return clip_config(read_config(folder), origin=str(Path(folder) / CONFIG))


def read_clip(path: str | Path) -> PublishedClip:
    """A published CLIP.

    Args:
      path: a folder of transformers, with config.json and the weights; or a file with one of OpenAI's state dicts,
        whose shapes say what network it is.

    Raises:
      UserError: a file is missing or damaged, config.json has an entry that a `Clip` cannot follow, or the arrays are
        not those of the network.
    """
    path = Path(path)
    if path.is_dir():
        values, tensors = read_folder(path)
        size = clip_config(values, origin=str(path / CONFIG))
        pattern = r"(text|vision)_model\.encoder\.layers\.\d+\.layer_norm1\.weight"
        assert isinstance(size.config, TransformerClipConfig)
        blocks = size.config.text.depth + size.config.image.depth
        check_count(tensors, pattern, expected=blocks, blocks="transformer blocks", folder=path)
        tensors = of_transformers(tensors)
    else:
        tensors = read_state_dict(path)
        tensors = of_transformers(tensors) if _has_names_of_transformers(tensors) else tensors
        size = openai_size(tensors, origin=str(path))
    shapes = clip_shapes(size.config, size.resolution)
    variables, _ = from_published(tensors, shapes, rules=clip_rules(size.config), ignored=IGNORED)
    return PublishedClip(config=size.config, resolution=size.resolution, variables=variables)


def write_clip(folder: str | Path, clip: PublishedClip) -> None:
    """Write a CLIP for transformers' ``CLIPModel.from_pretrained``.

    Raises:
      UserError: there is something at ``folder``, or CLIPModel has no such network.
    """
    values = clip_values(clip.config, resolution=clip.resolution)
    tensors = to_published(clip.variables, rules=clip_rules(clip.config))
    write_folder(folder, {CONFIG: values}, to_transformers(tensors))


def is_of_transformers(config: AnyClipConfig) -> bool:
    """Whether transformers' CLIPModel has networks of this kind."""
    return isinstance(config, TransformerClipConfig) and config.logits == "softmax"


def clip_source(config: AnyClipConfig, *, resolution: int) -> FolderSource:
    """How ``--init-from FOLDER`` starts a run's CLIP from a published one, and how the run is exported."""

    def read(folder: Path) -> Adapted:
        values, tensors = read_folder(folder)
        size = clip_config(values, origin=str(folder / CONFIG))
        missing = options(config, size.config, ignored=("remat", "dtype"))
        if missing:
            raise UserError(f"{folder / CONFIG} describes another network than this run has: add {missing}")
        return adapted(of_transformers(tensors), clip_shapes(config, resolution))

    def written(variables: Mapping[str, Any]) -> tuple[dict[str, Any], StateDict]:
        tensors = to_published(variables, rules=clip_rules(config))
        return clip_values(config, resolution=resolution), to_transformers(tensors)

    return FolderSource(rules=clip_rules(config), read=read, written=written)


def clip_weights(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
    """What is done with a file of weights before the rules: names, and positions of another grid."""
    return adapted(of_transformers(tensors) if _has_names_of_transformers(tensors) else tensors, variables)


def adapted(tensors: StateDict, variables: Any) -> Adapted:
    """OpenAI's arrays without what is no variable, and with position embeddings for the run's own images."""
    kept = {name: array for name, array in tensors.items() if not any(re.search(each, name) for each in IGNORED)}
    notes = []
    image = variables["params"]["image"]
    wanted = image["pool"]["position"] if "pool" in image else image["position"]
    for name in (_POSITION, _POOL_POSITION):
        if name not in kept or kept[name].ndim != 2:
            continue
        before, after = _side(kept[name].shape), _side(wanted.shape)
        if before and after and before != after:
            kept[name] = resampled_positions(kept[name][None], (after, after))[0]
            notes.append(f"position embeddings of {before}x{before} places are interpolated to {after}x{after}")
    return Adapted(kept, notes=tuple(notes), replaced=REPLACED)


def _side(shape: tuple[int, ...]) -> int:
    """The side of the square grid of embeddings [1 + n d]; 0 where it is none."""
    side = math.isqrt(max(shape[0] - 1, 0))
    return side if side**2 == shape[0] - 1 else 0


def _has_names_of_transformers(tensors: Mapping[str, Any]) -> bool:
    return any(name.startswith(tower) for name in tensors for tower, _ in _TOWERS)


def of_transformers(tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Transformers' arrays under OpenAI's names; others keep theirs.

    Raises ``UserError`` where one of query, key and value is missing or has another shape than the others.
    """
    made: StateDict = {}
    heads: dict[str, dict[str, np.ndarray]] = {}
    whole, transposed = dict(_WHOLE), dict(_TRANSPOSED)
    for name, array in tensors.items():
        if name in whole:
            made[whole[name]] = array
        elif name in transposed:
            made[transposed[name]] = array.T
        elif (found := _in_block(name)) is None:
            made[name] = array
        else:
            place, part = found
            if part is None:
                made[place] = array
            else:
                heads.setdefault(place, {})[part] = array
    for place, parts in heads.items():
        if parts.keys() != {"q", "k", "v"} or not alike(parts.values()):
            raise UserError(
                f"queries, keys and values of {place} are missing or of different shapes: fetch the weights again"
            )
        made[place] = np.concatenate([parts[part] for part in "qkv"])
    return made


def to_transformers(tensors: Mapping[str, np.ndarray]) -> StateDict:
    """The inverse of :func:`of_transformers`."""
    made: StateDict = {}
    whole = {ours: theirs for theirs, ours in _WHOLE}
    transposed = {ours: theirs for theirs, ours in _TRANSPOSED}
    for name, array in tensors.items():
        if name in whole:
            made[whole[name]] = array
        elif name in transposed:
            made[transposed[name]] = array.T
        else:
            made.update(_block_of_transformers(name, array))
    return made


def _in_block(name: str) -> tuple[str, str | None] | None:
    """(OpenAI's name, which of query, key and value) of an array of a block; None for others."""
    for theirs, ours in _TOWERS:
        for kind in ("weight", "bias"):
            for part in "qkv":
                pattern = f"{theirs}.encoder.layers.{{block}}.self_attn.{part}_proj.{kind}"
                found = renamed(name, pattern=pattern, template=f"{ours}.resblocks.{{block}}.attn.in_proj_{kind}")
                if found is not None:
                    return found, part
            for layer, other in _BLOCK:
                pattern = f"{theirs}.encoder.layers.{{block}}.{layer}.{kind}"
                found = renamed(name, pattern=pattern, template=f"{ours}.resblocks.{{block}}.{other}.{kind}")
                if found is not None:
                    return found, None
    return None


def _block_of_transformers(name: str, array: np.ndarray) -> StateDict:
    for theirs, ours in _TOWERS:
        for kind in ("weight", "bias"):
            pattern = f"{ours}.resblocks.{{block}}.attn.in_proj_{kind}"
            template = f"{theirs}.encoder.layers.{{block}}.self_attn.PART_proj.{kind}"
            found = renamed(name, pattern=pattern, template=template)
            if found is not None:
                parts = np.split(array, 3)
                return {found.replace("PART", part): each for part, each in zip("qkv", parts, strict=True)}
            for layer, other in _BLOCK:
                pattern = f"{ours}.resblocks.{{block}}.{other}.{kind}"
                found = renamed(name, pattern=pattern, template=f"{theirs}.encoder.layers.{{block}}.{layer}.{kind}")
                if found is not None:
                    return {found: array}
    raise UserError(f"transformers' CLIPModel has no array {name}, so that this network cannot be written for it")


def openai_size(tensors: Mapping[str, np.ndarray], *, origin: str) -> PublishedSize:
    """What network a state dict of OpenAI is of, by the shapes of its arrays.

    Heads have 64 channels, as in all of OpenAI's networks; the end token is the last of the vocabulary.

    Raises ``UserError`` for arrays of another kind.
    """
    try:
        size = _openai_size(tensors)
        check_ranges(size.config)
        if size.resolution < 1:
            raise ValueError("positions of no image")
    except (KeyError, ValueError, IndexError, UserError) as error:
        why = on_one_line(" ".join(str(error).split()))
        raise UserError(
            f"{origin} is no state dict of OpenAI's CLIP ({why}): name one, or a folder of transformers' CLIPModel"
        ) from error
    return size


def _openai_size(tensors: Mapping[str, np.ndarray]) -> PublishedSize:
    vocabulary, width = tensors["token_embedding.weight"].shape
    text = TextConfig(
        vocabulary=vocabulary,
        length=tensors["positional_embedding"].shape[0],
        end=vocabulary - 1,
        width=width,
        depth=_count(tensors, r"transformer\.resblocks\.\d+\.ln_1\.weight"),
        heads=max(width // _HEAD, 1),
    )
    embedding = tensors["text_projection"].shape[1]
    if "visual.proj" in tensors:
        width, channels, patch, _ = tensors["visual.conv1.weight"].shape
        image = ImageTransformerConfig(
            patch=patch,
            width=width,
            depth=_count(tensors, r"visual\.transformer\.resblocks\.\d+\.ln_1\.weight"),
            heads=max(width // _HEAD, 1),
        )
        config = TransformerClipConfig(image=image, text=text, embedding=embedding, channels=channels)
        return PublishedSize(config, patch * math.isqrt(tensors[_POSITION].shape[0] - 1))
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    depths = [_count(tensors, rf"visual\.layer{stage}\.\d+\.conv1\.weight") for stage in (1, 2, 3, 4)]
    image = ImageResNetConfig(
        depths=(depths[0], depths[1], depths[2], depths[3]), width=width, heads=max(32 * width // _HEAD, 1)
    )
    channels = tensors["visual.conv1.weight"].shape[1]
    config = ResNetClipConfig(image=image, text=text, embedding=embedding, channels=channels)
    return PublishedSize(config, 32 * math.isqrt(tensors[_POOL_POSITION].shape[0] - 1))


def _count(tensors: Mapping[str, Any], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


def _block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *norm_rules(f"{theirs}.ln_1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.attn.in_proj_weight", f"params/{ours}/qkv/kernel", QKV),
        Rule(f"{theirs}.attn.in_proj_bias", f"params/{ours}/qkv/bias", QKV_BIAS),
        *dense_rules(f"{theirs}.attn.out_proj", f"{ours}/out"),
        *norm_rules(f"{theirs}.ln_2", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.mlp.c_fc", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.c_proj", f"{ours}/dense_out"),
    )
