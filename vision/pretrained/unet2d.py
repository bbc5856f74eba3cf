"""Published diffusion UNets in the layout of diffusers' UNet2DModel: DDPM, ADM, consistency models, and their like.

    model, variables = read_unet2d("ddpm-cifar10-32")
    noise = UNet(model).apply(variables, noisy, time, train=False)
    unet2d_source(model, side=32).write("mine", variables)

config.json becomes a `UNetConfig`, whose attention is given by the side of feature maps and not by level: ``side`` is
that of the images. The published code of the time may have cosines first; the inputs of the first dense layer are then
in another order, and nothing else differs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UserError
from vision.models.unet import UNet, UNetConfig
from vision.pretrained.adapted import Adapted
from vision.pretrained.diffusers_folder import CONFIG, FolderSource, check_count, read_folder
from vision.pretrained.learned_variance import variance_is_surplus, without_variance
from vision.pretrained.rules import CONV, POINTWISE, Rule, dense_rules, from_published, norm_rules, to_published
from vision.pretrained.state_dict import StateDict
from vision.pretrained.unet2d_config import missing_options, outputs_of, published_side, unet2d_config, unet2d_values

_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_TIME = "time_embedding.linear_1.weight"
_LABELS = "class_embedding.weight"
_OF_TRAINING = ("dropout", "remat", "dtype", "classes", "null_label")
"""Fields that a run may choose for itself."""


def unet2d_rules(config: UNetConfig) -> tuple[Rule, ...]:
    """The published names of a network, with the newer ones of attention and sines first in the code of the time."""
    levels = len(config.multipliers)
    residual = config.resampling.startswith("residual")
    resample = block_rules if residual else lambda theirs, ours: dense_rules(f"{theirs}.conv", ours, CONV)
    rules = [
        *dense_rules("time_embedding.linear_1", "time_in"),
        *dense_rules("time_embedding.linear_2", "time_out"),
        Rule("time_proj.weight", "params/time_frequencies"),
        Rule(_LABELS, "params/label_embedding/embedding"),
        *dense_rules("conv_in", "stem", CONV),
        *block_rules("mid_block.resnets.0", "mid_a"),
        *attention_rules("mid_block.attentions.0", "mid_attention"),
        *block_rules("mid_block.resnets.1", "mid_b"),
        *norm_rules("conv_norm_out", "norm"),
        *dense_rules("conv_out", "head", CONV),
    ]
    for level in range(levels):
        for way, block in (("down", level), ("up", levels - 1 - level)):
            theirs, ours = f"{way}_blocks.{block}", f"{way}_{level}"
            rules += block_rules(f"{theirs}.resnets.{{index}}", f"{ours}_block_{{index}}")
            rules += attention_rules(f"{theirs}.attentions.{{index}}", f"{ours}_attention_{{index}}")
        rules += resample(f"down_blocks.{level}.downsamplers.0", f"down_{level}_halve")
        rules += resample(f"up_blocks.{levels - 1 - level}.upsamplers.0", f"up_{level}_double")
    return tuple(rules)


def read_unet2d(folder: str | Path, *, side: int | None = None) -> tuple[UNetConfig, dict[str, Any]]:
    """A published network.

    Args:
      folder: with config.json and the weights (``vision/pretrained/diffusers_folder.py``).
      side: height of the images that it will be used for; None for "sample_size" of config.json.

    Returns:
      Its configuration, and its variables {"params": ...} as float32 numpy arrays.

    Raises:
      UserError: a file is missing or damaged, config.json has an entry that a `UNet` cannot follow, or the arrays are
        not those of the network it describes.
    """
    values, tensors = read_folder(folder)
    origin = str(Path(folder) / CONFIG)
    side = published_side(values, origin=origin) if side is None else side
    config = unet2d_config(values, origin=origin, side=side)
    levels = len(config.multipliers)
    blocks = levels * (2 * config.blocks + 1) + 2 + 2 * (levels - 1) * (config.resampling == "residual")
    check_count(tensors, r".*\.norm1\.weight", expected=blocks, blocks="residual blocks", folder=Path(folder))
    image = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    condition = {"label": one} if config.classes else {}
    init = lambda *of: UNet(config).init(jax.random.key(0), *of, train=False)
    target = jax.eval_shape(init, image, one, condition)
    return config, from_published(_as_rules_expect(tensors, values), target, rules=unet2d_rules(config))[0]


def unet2d_source(config: UNetConfig, *, side: int) -> FolderSource:
    """How ``--init-from FOLDER`` starts a run's network from a published one, and how networks become folders.

    Args:
      config: of the run's network.
      side: height of the run's images.

    Labels other than the published ones begin with random embeddings, and "no label" adds nothing where the published
    network was trained with labels only. Where the published network predicts a variance too, and the run's does not,
    those outputs are left out.
    """

    def read(folder: Path) -> Adapted:
        values, tensors = read_folder(folder)
        origin = str(folder / CONFIG)
        wanted = unet2d_config(values, origin=origin, side=side)
        counts = lambda config: (config.channels, outputs_of(config))
        variance = variance_is_surplus(counts(config), counts(wanted), origin=origin)
        ignored = (*_OF_TRAINING, *(("out_channels",) if variance else ()))
        missing = missing_options(config, wanted, side=side, ignored=ignored)
        if wanted.classes and not config.classes:
            missing = f"{missing} --model.classes {wanted.classes}".strip()
        if missing:
            raise UserError(f"{origin} describes another network than this run has: add {missing}")
        tensors, notes = _as_rules_expect(tensors, values), []
        if variance:
            tensors, note = without_variance(tensors, "conv_out")
            notes.append(note)
        if _LABELS in tensors and config.null_label and len(tensors[_LABELS]) == config.classes:
            tensors[_LABELS] = np.pad(tensors[_LABELS], ((0, 1), (0, 0)))
            notes.append('"no label", which they were not trained with, adds nothing at first')
        return Adapted(tensors, notes=tuple(notes), replaced=(r"^params/label_embedding/",))

    return FolderSource(
        rules=unet2d_rules(config), read=read, written=lambda variables: _published(config, variables, side)
    )


def _published(config: UNetConfig, variables: Mapping[str, Any], side: int) -> tuple[dict[str, Any], StateDict]:
    values = unet2d_values(config, side=side)
    return values, to_published({"params": variables["params"]}, rules=unet2d_rules(config))


def _as_rules_expect(tensors: StateDict, values: Mapping[str, Any]) -> StateDict:
    """Arrays under the newer names of attention, of linear layers there, and for sines before cosines."""
    made: StateDict = {}
    for name, array in tensors.items():
        parts = name.split(".")
        if "attentions" in parts:
            if len(parts) > 2 and parts[-2] in _OLD_ATTENTION:
                parts[-2] = _OLD_ATTENTION[parts[-2]]
            if parts[-1] == "weight" and array.ndim == 4 and array.shape[2:] == (1, 1):
                array = array[:, :, 0, 0]
        new = ".".join(parts)
        if new in made:
            raise UserError(f"these weights have an older and a newer name for {new}: fetch them again")
        made[new] = array
    positional = values.get("time_embedding_type", "positional") == "positional"
    return sines_first(made, (_TIME,)) if positional and values.get("flip_sin_to_cos", True) else made


def sines_first(tensors: StateDict, layers: Sequence[str]) -> StateDict:
    """Arrays of first layers after the code of a time, where cosines come first, as they are where sines do.

    ``layers`` are names of weights [n code], some of which may not be there.
    """
    found = {name: tensors[name] for name in layers if name in tensors and tensors[name].ndim == 2}
    return {**tensors, **{name: np.roll(array, array.shape[1] // 2, axis=1) for name, array in found.items()}}


def block_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A residual block."""
    return (
        *norm_rules(f"{theirs}.norm1", f"{ours}/norm_in"),
        *dense_rules(f"{theirs}.conv1", f"{ours}/conv_in", CONV),
        *dense_rules(f"{theirs}.time_emb_proj", f"{ours}/embedding"),
        *norm_rules(f"{theirs}.norm2", f"{ours}/norm_out"),
        *dense_rules(f"{theirs}.conv2", f"{ours}/conv_out", CONV),
        *dense_rules(f"{theirs}.conv_shortcut", f"{ours}/skip", POINTWISE),
    )


def attention_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Self-attention with its normalisation."""
    layers = (dense_rules(f"{theirs}.{name}", f"{ours}/{layer}") for name, layer in _ATTENTION.items())
    return (*norm_rules(f"{theirs}.group_norm", f"{ours}/norm"), *(rule for layer in layers for rule in layer))
