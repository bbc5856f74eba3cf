"""Published text-to-image networks in the layout of diffusers' UNet2DConditionModel: Stable Diffusion, Karlo, others.

    config, variables = read_unet2d_condition("stable-diffusion-v1-5/unet")
    noise = ConditionUNet(config).apply(variables, noisy, time, {"context": context}, train=False)
    write_unet2d_condition("mine", config, variables, side=64)

The code of the time may have cosines first there; the inputs of the layer after it are then in another order.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vision.errors import UserError
from vision.models.unet_condition.unet import ConditionUNet, ConditionUNetConfig, condition_shapes
from vision.platform import shapes_of
from vision.pretrained.adapted import Adapted
from vision.pretrained.diffusers_config import options
from vision.pretrained.diffusers_folder import CONFIG, FolderSource, check_count, read_config, read_folder
from vision.pretrained.rules import (
    CONV,
    DENSE,
    POINTWISE,
    Rule,
    dense_rules,
    from_published,
    norm_rules,
    to_published,
)
from vision.pretrained.state_dict import StateDict
from vision.pretrained.unet2d import attention_rules, block_rules, sines_first
from vision.pretrained.unet2d_condition_config import unet2d_condition_config, unet2d_condition_values

_CODED = ("time_embedding.linear_1.weight", "class_embedding.linear_1.weight")
"""What follows the code of a time."""
_OF_TRAINING = ("dropout", "remat", "dtype")
"""Fields that a run may choose for itself."""


def unet2d_condition_rules(config: ConditionUNetConfig, *, linear: bool) -> tuple[Rule, ...]:
    """The published names of a network, with sines first in the code of the time.

    ``linear`` says whether transformers are published with linear layers around them, or with 1x1 convolutions.
    """
    last = len(config.widths) - 1
    attention = _joint if config.attention == "joint" else lambda theirs, ours: _transformer(theirs, ours, linear)
    residual = config.resampling == "residual"
    resample = block_rules if residual else lambda theirs, ours: dense_rules(f"{theirs}.conv", ours, CONV)
    rules = [
        *dense_rules("time_embedding.linear_1", "time_in"),
        *dense_rules("time_embedding.linear_2", "time_out"),
        *dense_rules("class_embedding.linear_1", "embedding_in"),
        *dense_rules("class_embedding.linear_2", "embedding_out"),
        *dense_rules("conv_in", "stem", CONV),
        *block_rules("mid_block.resnets.0", "mid_a"),
        *attention("mid_block.attentions.0", "mid_attention"),
        *block_rules("mid_block.resnets.1", "mid_b"),
        *norm_rules("conv_norm_out", "norm"),
        *dense_rules("conv_out", "head", CONV),
    ]
    if config.embedding == "label":
        rules.append(Rule("class_embedding.weight", "params/label_embedding/embedding"))
    elif config.embedding == "linear":
        rules += dense_rules("class_embedding", "embedding_projection")
    for level in range(last + 1):
        for way, block in (("down", level), ("up", last - level)):
            theirs, ours = f"{way}_blocks.{block}", f"{way}_{level}"
            rules += block_rules(f"{theirs}.resnets.{{index}}", f"{ours}_block_{{index}}")
            rules += attention(f"{theirs}.attentions.{{index}}", f"{ours}_attention_{{index}}")
        rules += resample(f"down_blocks.{level}.downsamplers.0", f"down_{level}_halve")
        rules += resample(f"up_blocks.{last - level}.upsamplers.0", f"up_{level}_double")
    return tuple(rules)


def unet2d_condition_shapes(config: ConditionUNetConfig) -> Any:
    """The tree of variables, of ShapeDtypeStructs; raises ``UserError`` where numbers do not fit each other."""

    def init() -> Any:
        image = jnp.zeros((1, config.factor, config.factor, config.channels))
        shapes = condition_shapes(config, image.shape, {})
        kinds = {"label": jnp.int32}
        condition = {name: jnp.zeros(shape, kinds.get(name, jnp.float32)) for name, shape in shapes.items()}
        return ConditionUNet(config).init(jax.random.key(0), image, jnp.zeros(1), condition, train=False)

    return shapes_of(init)


def describe_unet2d_condition(folder: str | Path) -> ConditionUNetConfig:
    """What config.json of a folder says; reads no weights. Raises ``UserError`` as the reader does."""
    return unet2d_condition_config(read_config(folder), origin=str(Path(folder) / CONFIG))


def read_unet2d_condition(folder: str | Path) -> tuple[ConditionUNetConfig, dict[str, Any]]:
    """A published network.

    Args:
      folder: with config.json and the weights (``vision/pretrained/diffusers_folder.py``).

    Returns:
      Its configuration, and its variables {"params": ...} as float32 numpy arrays.

    Raises:
      UserError: a file is missing or damaged, config.json has an entry that a `ConditionUNet` cannot follow, or the
        arrays are not those of the network it describes.
    """
    values, tensors = read_folder(folder)
    config = unet2d_condition_config(values, origin=str(Path(folder) / CONFIG))
    levels, blocks = len(config.widths), sum(config.blocks)
    blocks = 2 * blocks + levels + 2 + 2 * (levels - 1) * (config.resampling == "residual")
    of_block = r".*\.(resnets|downsamplers|upsamplers)\.\d+\.norm1\.weight"
    check_count(tensors, of_block, expected=blocks, blocks="residual blocks", folder=Path(folder))
    if config.attention == "transformer":
        layers = _transformer_blocks(config)
        check_count(
            tensors, r".*\.attn1\.to_q\.weight", expected=layers, blocks="transformer blocks", folder=Path(folder)
        )
    if values.get("flip_sin_to_cos", True):
        coded = _CODED if config.embedding == "time" else _CODED[:1]
        tensors = sines_first(tensors, coded)
    rules = unet2d_condition_rules(config, linear=values.get("use_linear_projection", False))
    return config, from_published(tensors, unet2d_condition_shapes(config), rules=rules)[0]


def unet2d_condition_source(config: ConditionUNetConfig, *, side: int | None = None) -> FolderSource:
    """How ``--init-from FOLDER`` starts a run's network from a published one, and how networks become folders.

    Args:
      config: of the run's network.
      side: height and width of what pipelines generate by default.
    """
    rules = unet2d_condition_rules(config, linear=True)

    def read(folder: Path) -> Adapted:
        found, variables = read_unet2d_condition(folder)
        missing = options(config, found, ignored=_OF_TRAINING)
        if missing:
            raise UserError(f"{folder / CONFIG} describes another network than this run has: add {missing}")
        return Adapted(to_published(variables, rules=rules))

    def written(variables: Mapping[str, Any]) -> tuple[dict[str, Any], StateDict]:
        return unet2d_condition_values(config, side=side), to_published({"params": variables["params"]}, rules=rules)

    return FolderSource(rules=rules, read=read, written=written)


def write_unet2d_condition(
    folder: str | Path, config: ConditionUNetConfig, variables: Mapping[str, Any], *, side: int | None = None
) -> None:
    """Write a folder that diffusers' ``UNet2DConditionModel.from_pretrained`` reads.

    Args:
      folder: a new one.
      config: of the network.
      variables: {"params": ...}.
      side: height and width of what pipelines generate by default.

    Raises:
      UserError: there is something at ``folder``, or diffusers has no such network.
    """
    unet2d_condition_source(config, side=side).write(folder, variables)


def _transformer_blocks(config: ConditionUNetConfig) -> int:
    """Number of all blocks of transformers."""
    at = {level: config.layers[level] * (2 * config.blocks[level] + 1) for level in config.attending}
    return sum(at.values()) + config.layers[-1]


def _joint(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Self-attention with keys and values of a context."""
    added = (("add_k_proj", "context_key"), ("add_v_proj", "context_value"))
    return (
        *attention_rules(theirs, ours),
        *(rule for name, layer in added for rule in dense_rules(f"{theirs}.{name}", f"{ours}/{layer}")),
    )


def _transformer(theirs: str, ours: str, linear: bool) -> tuple[Rule, ...]:
    around = DENSE if linear else POINTWISE
    block, own = f"{theirs}.transformer_blocks.{{block}}", f"{ours}/block_{{block}}"
    rules = [
        *norm_rules(f"{theirs}.norm", f"{ours}/norm"),
        *dense_rules(f"{theirs}.proj_in", f"{ours}/project_in", around),
        *dense_rules(f"{theirs}.proj_out", f"{ours}/project_out", around),
        *norm_rules(f"{block}.norm1", f"{own}/norm_self"),
        *norm_rules(f"{block}.norm2", f"{own}/norm_cross"),
        *norm_rules(f"{block}.norm3", f"{own}/norm_dense"),
        *dense_rules(f"{block}.ff.net.0.proj", f"{own}/dense_in"),
        *dense_rules(f"{block}.ff.net.2", f"{own}/dense_out"),
    ]
    for name, layer in (("attn1", "self"), ("attn2", "cross")):
        for part, kernel in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            rules.append(Rule(f"{block}.{name}.{part}.weight", f"params/{own}/{layer}/{kernel}/kernel", DENSE))
        rules += dense_rules(f"{block}.{name}.to_out.0", f"{own}/{layer}/out")
    return tuple(rules)
