"""``--export``: a trained model as one file that needs none of this code, only ``jax`` and ``flatbuffers``.

The file is a serialised `jax.export.Exported`: StableHLO with the variables inside, for CPUs, CUDA and TPUs, and any
number of images. To use it:

    import jax, numpy as np
    model = jax.export.deserialize(open("detector.stablehlo", "rb").read())
    images = np.zeros((1, 320, 320, 3), np.uint8)      # RGB, of the size that was said when it was written
    found = jax.device_get(model.call(images))         # a dictionary of arrays, the images along the first axis
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array

from vision.report.atomic import write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


def write_export(path: Path, function: Callable[[Array], Mapping[str, Array]], image: tuple[int, int, int]) -> str:
    """Write ``function`` for images uint8 [b, height, width, channels] and return what was written, in words.

    Args:
      path: the file; replaced where there is one.
      function: images -> named arrays with the images along the first axis; a pure function, whose variables are
        constants inside it.
      image: height, width and channels.
    """
    (count,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((count, *image), jnp.uint8)
    exported = jax.export.export(jax.jit(lambda images: dict(function(images))), platforms=PLATFORMS)(shape)
    data = exported.serialize()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, bytes(data))
    names = exported.out_tree.unflatten(exported.out_avals)
    outputs = ", ".join(f"{name} {aval.dtype.name} [{', '.join(map(str, aval.shape))}]" for name, aval in names.items())
    sides = ", ".join(map(str, image))
    return f"{path}: {len(data) / 1e6:.1f} MB, images uint8 [b, {sides}] -> {outputs}"
