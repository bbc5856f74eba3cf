"""Convolutions and their gradients on a CPU: ours in the form that is chosen for the shape, XLA's, and PyTorch's.

Each line is one direction of one convolution, float32: forward (Winograd's form allowed), gradient of the features,
gradient of the kernel. Images per second, in pairs (``pairs.py``); lines named "XLA" are XLA's own convolution in our
process.

    pip install -e .                                              # this project
    python -m venv torch-env && torch-env/bin/pip install torch   # for comparison
    python benchmarks/convolutions.py --torch-python torch-env/bin/python
"""

from collections.abc import Callable
from pathlib import Path

from pairs import Job, compare

SHAPES = {
    "3x3, 64 channels, 32x32": (64, 32, 64, 3, 1, 1, 1),
    "3x3, 128 channels, 16x16": (64, 16, 128, 3, 1, 1, 1),
    "3x3, 256 channels, 8x8": (64, 8, 256, 3, 1, 1, 1),
    "3x3, 512 channels, 4x4": (64, 4, 512, 3, 1, 1, 1),
    "3x3, 128 channels, 32x32": (8, 32, 128, 3, 1, 1, 1),
    "3x3, 256 channels, 16x16": (16, 16, 256, 3, 1, 1, 1),
    "3x3, stride 2, 128 channels, 32x32": (16, 32, 128, 3, 2, 1, 1),
    "3x3 in 32 groups, 128 channels, 28x28": (8, 28, 128, 3, 1, 32, 1),
    "7x7 depthwise, 96 channels, 56x56": (8, 56, 96, 7, 1, 96, 1),
    "7x7 depthwise, 384 channels, 14x14": (8, 14, 384, 7, 1, 384, 1),
    "3x3, dilation 4, 512 channels, 32x32": (4, 32, 512, 3, 1, 1, 4),
    "3x3, dilation 12, 512 channels, 32x32": (4, 32, 512, 3, 1, 1, 12),
}
"""Batch, side, channels, size of the kernel, stride, groups, dilation."""
DIRECTIONS = ("forward", "features", "kernel")
REPEATS = 5
"""Calls in one measurement."""


def ours() -> dict[str, Callable[[], object]]:
    """Each direction by ``convolve``, and as XLA computes it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vision.nn.convolution import convolve
    from vision.nn.window import Window, xla_convolution
    from vision.train.compile import compiler_options

    def timed(function, *operands):
        compiled = jax.jit(function).lower(*operands).compile(compiler_options=compiler_options("cpu"))
        return lambda: [jax.block_until_ready(compiled(*operands)) for _ in range(REPEATS)]

    def directions(convolution, x, k, y):
        return {
            "forward": timed(convolution, x, k),
            "features": timed(lambda y, k: jax.linear_transpose(lambda x: convolution(x, k), x)(y)[0], y, k),
            "kernel": timed(lambda y, x: jax.linear_transpose(lambda k: convolution(x, k), k)(y)[0], y, x),
        }

    def jobs(batch, side, channels, size, stride, groups, dilation):
        margin = (size // 2 * dilation, size // 2 * dilation)
        how = Window((stride, stride), (margin, margin), (dilation, dilation), groups=groups, winograd=True)
        random = np.random.default_rng(0)
        normal = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
        x, k = normal(batch, side, side, channels), normal(size, size, channels // groups, channels)
        y = normal(*how.result_shape(x.shape, k.shape))
        own = directions(lambda x, k: convolve(x, k, how), x, k, y)
        plain = directions(lambda x, k: xla_convolution(x, k, how), x, k, y)
        return own | {f"XLA {direction}": run for direction, run in plain.items()}

    return {f"{name}, {job}": run for name, shape in SHAPES.items() for job, run in jobs(*shape).items()}


def theirs() -> dict[str, Callable[[], object]]:
    """The same with PyTorch, channels last."""
    import torch  # pyright: ignore[reportMissingImports]

    def timed(function):
        return lambda: [function() for _ in range(REPEATS)]

    def jobs(batch, side, channels, size, stride, groups, dilation):
        last = lambda *shape: torch.randn(*shape).contiguous(memory_format=torch.channels_last)
        x, k = last(batch, channels, side, side), last(channels, channels // groups, size, size)
        how = {"stride": stride, "padding": size // 2 * dilation, "groups": groups, "dilation": dilation}
        y = torch.nn.functional.conv2d(x, k, **how)
        functions = {
            "forward": lambda: torch.nn.functional.conv2d(x, k, **how),
            "features": lambda: torch.nn.grad.conv2d_input(x.shape, k, y, **how),
            "kernel": lambda: torch.nn.grad.conv2d_weight(x, k.shape, y, **how),
        }
        return {direction: timed(function) for direction, function in functions.items()}

    return {f"{name}, {job}": run for name, shape in SHAPES.items() for job, run in jobs(*shape).items()}


if __name__ == "__main__":
    compare(
        str(Path(__file__).resolve()),
        __doc__ or "",
        ours=ours,
        theirs=theirs,
        jobs=[
            Job(f"{name}, {form}{direction}", shape[0] * REPEATS, 7, alone=bool(form))
            for name, shape in SHAPES.items()
            for direction in DIRECTIONS
            for form in ("", "XLA ")
        ],
    )
