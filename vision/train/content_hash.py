"""The identity of a network with fixed weights: a hash of its variables, wherever they were read from."""

import hashlib
from typing import Any

import jax
import numpy as np

from vision.parallel.sharding import path_name


def content_hash(variables: Any) -> str:
    """SHA-256, in hexadecimal, over the paths, dtypes, shapes and bytes of a tree of arrays, sorted by path."""
    digest = hashlib.sha256()
    leaves = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    for name in sorted(leaves):
        array = leaves[name]
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
