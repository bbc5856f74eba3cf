"""The published weights of the Inception network that FID is defined by, from the PyTorch file in common use.

pytorch-fid calls the file ``pt_inception-2015-12-05-6726825d.pth``, torch-fidelity
``weights-inception-2015-12-05-6726825d.pth``. It is the same file, and the end of its name is the beginning of its
SHA-256. It has 96 MB, is not part of this project, and is available in the releases of either. It may be in PyTorch's
format before 1.6. Its names are torchvision's; the scales of its batch normalisations are the graph's ``gamma``.
"""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import safetensors

from vision.errors import UserError
from vision.models.inception import SMALLEST, Inception
from vision.pretrained.rules import DENSE, Rule, batch_norm_rules, conv_rules, from_published
from vision.pretrained.state_dict import read_state_dict
from vision.pretrained.variables import read_variables, write_variables

SHA256 = "6726825d"
"""The beginning of the file's SHA-256, in hexadecimal digits, as in its name."""
IGNORED = (r"num_batches_tracked$",)
"""Additional entries of PyTorch's state dicts: the number of batches seen."""

_BLOCKS = {
    "Conv2d_1a_3x3": "stem_1",
    "Conv2d_2a_3x3": "stem_2",
    "Conv2d_2b_3x3": "stem_3",
    "Conv2d_3b_1x1": "stem_4",
    "Conv2d_4a_3x3": "stem_5",
    "Mixed_5b": "block_35_0",
    "Mixed_5c": "block_35_1",
    "Mixed_5d": "block_35_2",
    "Mixed_6a": "reduction_35",
    "Mixed_6b": "block_17_0",
    "Mixed_6c": "block_17_1",
    "Mixed_6d": "block_17_2",
    "Mixed_6e": "block_17_3",
    "Mixed_7a": "reduction_17",
    "Mixed_7b": "block_8_0",
    "Mixed_7c": "block_8_1",
}
_BRANCHES = {
    "branch1x1": "conv_1x1",
    "branch3x3": "conv_3x3",
    "branch3x3_{n}": "conv_3x3_{n}",
    "branch3x3_2a": "conv_3x3_row",
    "branch3x3_2b": "conv_3x3_column",
    "branch3x3dbl_{n}": "double_3x3_{n}",
    "branch3x3dbl_3a": "double_3x3_row",
    "branch3x3dbl_3b": "double_3x3_column",
    "branch5x5_{n}": "conv_5x5_{n}",
    "branch7x7_{n}": "conv_7x7_{n}",
    "branch7x7dbl_{n}": "double_7x7_{n}",
    "branch7x7x3_{n}": "conv_7x7x3_{n}",
    "branch_pool": "pool_1x1",
}


def inception_rules() -> tuple[Rule, ...]:
    """The names of torchvision's Inception-v3, which pytorch-fid and torch-fidelity share."""
    units = [
        (f"{block}.{branch}" if block.startswith("Mixed") else block, f"{ours}/{inside}" if inside else ours)
        for block, ours in _BLOCKS.items()
        for branch, inside in (_BRANCHES.items() if block.startswith("Mixed") else [("", "")])
    ]
    return (
        *(
            rule
            for theirs, ours in units
            for rule in (
                *conv_rules(f"{theirs}.conv", f"{ours}/conv"),
                *batch_norm_rules(f"{theirs}.bn", f"{ours}/norm"),
            )
        ),
        Rule("fc.weight", "params/head_kernel", DENSE),
        Rule("fc.bias", "params/head_bias"),
    )


@cache
def inception_target() -> Any:
    """The shapes of the network's variables, {"params": ..., "batch_stats": ...} of ShapeDtypeStructs."""
    image = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
    return jax.eval_shape(lambda x: Inception().init(jax.random.key(0), x), image)


def load_inception(
    path: str | os.PathLike[str], *, converted: str | os.PathLike[str] | None = None, sha256: str = SHA256
) -> Any:
    """The network's variables from the published file, which is verified and converted once.

    Args:
      path: the published file, which is not needed once it is converted; or the converted file.
      converted: path of the converted variables, a safetensors file; by default next to the published file, with the
        ending ".safetensors". If it exists, only this file is read.
      sha256: the expected beginning of the published file's SHA-256.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 numpy arrays, for ``Inception().apply``.

    Raises:
      UserError: there is no such file, its checksum differs, or the converted file cannot be read or written.
    """
    path = Path(path)
    converted = path.with_suffix(".safetensors") if converted is None else Path(converted)
    if converted.is_file():
        return read_variables(converted, inception_target())
    if not path.is_file():
        raise UserError(
            f"there are no Inception weights at {path}: download pt_inception-2015-12-05-{SHA256}.pth from the "
            "releases of pytorch-fid and set its path"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise UserError(
            f"{path} is not the Inception network that FID is defined by, or was not fully downloaded: its SHA-256 "
            f"begins with {found[:8]}, not {sha256[:8]}; fetch pt_inception-2015-12-05-{SHA256}.pth"
        )
    tensors = read_state_dict(path)
    variables, _ = from_published(tensors, inception_target(), rules=inception_rules(), ignored=IGNORED)
    try:
        write_variables(converted, variables)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"the converted weights cannot be written to {converted}: choose another path") from error
    return variables
