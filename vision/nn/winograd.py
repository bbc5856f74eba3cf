"""3x3 convolutions of stride 1 by Winograd's minimal filtering F(4x4, 3x3), and their kernel gradients.

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks": a 4x4 tile of results is

    Y = A^T [ (G g G^T) * (B^T d B) ] A        (their equation 8)

of a 6x6 tile d of the image and a kernel g, with 36 products for every pair of channels where the sums have 144. Over
all tiles and channels they are 36 products of matrices, [tiles x c] [c x n]. The gradient of g, given that of Y, is the
transpose of this: G^T [ sum over tiles of (B^T d B) * (A y A^T) ] G. The matrices are those of the polynomial points 0,
1, -1, 2, -2 and infinity (their section 4.1), written as sums with common terms.

Rounding in float32 is up to 2e-5 of the largest result, where the sums have 2e-6.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TILE = 4
"""Side of a tile of results; tiles of the image overlap and have two pixels more."""

WORKING_SET = 8 * 2**20
"""Bytes of transformed tiles and products that are computed at a time, so that they stay in the cache of a CPU: over
[64, 32, 32, 64] to 64 channels this doubles the speed."""

Transform = Callable[..., list[Array]]
"""One-dimensional: from the rows of a tile to its transformed rows."""


def image_transform(d0: Array, d1: Array, d2: Array, d3: Array, d4: Array, d5: Array) -> list[Array]:
    """B^T d."""
    even, odd, wide_even, wide_odd = d4 - 4 * d2, d3 - 4 * d1, d4 - d2, 2 * (d3 - d1)
    return [
        4 * d0 - 5 * d2 + d4,
        even + odd,
        even - odd,
        wide_even + wide_odd,
        wide_even - wide_odd,
        4 * d1 - 5 * d3 + d5,
    ]


def kernel_transform(g0: Array, g1: Array, g2: Array) -> list[Array]:
    """G g."""
    even, odd, wide_even, wide_odd = (g0 + g2) / -6, g1 / -6, (g0 + 4 * g2) / 24, g1 / 12
    return [g0 / 4, even + odd, even - odd, wide_even + wide_odd, wide_even - wide_odd, g2]


def transposed_kernel_transform(m0: Array, m1: Array, m2: Array, m3: Array, m4: Array, m5: Array) -> list[Array]:
    """G^T m."""
    even, odd, wide_even, wide_odd = (m1 + m2) / -6, (m2 - m1) / 6, (m3 + m4) / 24, (m3 - m4) / 12
    return [m0 / 4 + even + wide_even, odd + wide_odd, even + 4 * wide_even + m5]


def result_transform(m0: Array, m1: Array, m2: Array, m3: Array, m4: Array, m5: Array) -> list[Array]:
    """A^T m."""
    even, odd, wide_even, wide_odd = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return [m0 + even + wide_even, odd + 2 * wide_odd, even + 4 * wide_even, odd + 8 * wide_odd + m5]


def transposed_result_transform(y0: Array, y1: Array, y2: Array, y3: Array) -> list[Array]:
    """A y."""
    even, odd, wide_even, wide_odd = y0 + y2, y1 + y3, y0 + 4 * y2, 2 * (y1 + 4 * y3)
    return [y0, even + odd, even - odd, wide_even + wide_odd, wide_even - wide_odd, y3]


def winograd_conv(
    features: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c n"], *, padding: int = 1
) -> Float[Array, "b H W n"]:
    """The convolution of stride 1 with ``padding`` pixels of zeros on every side."""
    batch, height, width, inputs = features.shape
    outputs = kernel.shape[-1]
    rows, columns = height + 2 * padding - 2, width + 2 * padding - 2
    grid = -(-rows // TILE), -(-columns // TILE)
    # G g G^T
    kernels = _along(kernel_transform, _along(kernel_transform, kernel, 0), 1).reshape(36, inputs, outputs)
    kernels = jax.lax.optimization_barrier(kernels)

    def of_part(features: Array) -> Array:
        tiles = _image_tiles(features, grid, padding)
        products = jax.lax.dot_general(
            tiles, kernels, (((2,), (1,)), ((0,), (0,))), preferred_element_type=features.dtype
        )
        products = jax.lax.optimization_barrier(products).reshape(6, 6, -1, *grid, outputs)
        # A^T M A: of the columns, then of the rows of each tile
        across = jax.lax.optimization_barrier(_along(result_transform, products, 1))
        made = _along(result_transform, across, 0).transpose(2, 3, 0, 4, 1, 5)  # [b rows 4 columns 4 n]
        return made.reshape(-1, TILE * grid[0], TILE * grid[1], outputs)[:, :rows, :columns]

    parts = _parts(batch, grid, inputs + outputs)
    if parts == 1:
        return of_part(features)
    divided = features.reshape(-1, parts, height, width, inputs)

    def body(index: Array, made: Array) -> Array:
        part = of_part(jax.lax.dynamic_index_in_dim(divided, index, 1, keepdims=False))
        return jax.lax.dynamic_update_index_in_dim(made, part, index, 1)

    made = jnp.zeros((batch // parts, parts, rows, columns, outputs), features.dtype)
    return jax.lax.fori_loop(0, parts, body, made).reshape(batch, rows, columns, outputs)


def winograd_kernel_gradient(
    features: Float[Array, "b h w c"], gradient: Float[Array, "b H W n"], *, padding: int = 1
) -> Float[Array, "3 3 c n"]:
    """The gradient of the kernel of :func:`winograd_conv`, given that of its result."""
    batch, height, width, inputs = features.shape
    _, rows, columns, outputs = gradient.shape
    grid = -(-rows // TILE), -(-columns // TILE)

    def of_part(features: Array, gradient: Array) -> Array:
        tiles, others = _image_tiles(features, grid, padding), _gradient_tiles(gradient, grid)
        return jax.lax.dot_general(tiles, others, (((1,), (1,)), ((0,), (0,))), preferred_element_type=features.dtype)

    parts = _parts(batch, grid, inputs + outputs)
    if parts == 1:
        products = of_part(features, gradient)
    else:
        left = features.reshape(-1, parts, height, width, inputs)
        right = gradient.reshape(-1, parts, rows, columns, outputs)
        at = lambda x, index: jax.lax.dynamic_index_in_dim(x, index, 1, keepdims=False)
        body = lambda index, total: total + of_part(at(left, index), at(right, index))
        products = jax.lax.fori_loop(0, parts, body, jnp.zeros((36, inputs, outputs), features.dtype))
    products = products.reshape(6, 6, inputs, outputs)
    return _along(transposed_kernel_transform, _along(transposed_kernel_transform, products, 0), 1)


def _parts(batch: int, grid: tuple[int, int], channels: int) -> int:
    """Into how many parts of every n-th sample a batch is divided, so that every device keeps its samples."""
    each = 36 * grid[0] * grid[1] * channels * 4
    possible = (parts for parts in range(1, batch + 1) if batch % parts == 0 and batch // parts * each <= WORKING_SET)
    return next(possible, batch)


def _image_tiles(features: Array, grid: tuple[int, int], padding: int) -> Float[Array, "36 tiles c"]:
    """B^T d B of every tile."""
    after = [TILE * count + 2 - padding - side for count, side in zip(grid, features.shape[1:3], strict=True)]
    padded = jnp.pad(features, ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0)))
    return _tiles(image_transform, padded, 6, grid)


def _gradient_tiles(gradient: Array, grid: tuple[int, int]) -> Float[Array, "36 tiles n"]:
    """A y A^T of every tile."""
    after = [TILE * count - side for count, side in zip(grid, gradient.shape[1:3], strict=True)]
    padded = jnp.pad(gradient, ((0, 0), (0, after[0]), (0, after[1]), (0, 0)))
    return _tiles(transposed_result_transform, padded, TILE, grid)


def _tiles(transform: Transform, padded: Array, side: int, grid: tuple[int, int]) -> Float[Array, "36 tiles c"]:
    """The transform of the rows and of the columns of every tile; row i of all tiles is one strided slice.

    In two stages with a barrier between them: in one, every row sum would be computed again for each column.
    """
    rows, columns = (TILE * (count - 1) + 1 for count in grid)
    down = jnp.stack(transform(*(padded[:, i : i + rows : TILE] for i in range(side))), 0)
    down = jax.lax.optimization_barrier(down)
    across = jnp.stack(transform(*(down[:, :, :, j : j + columns : TILE] for j in range(side))), 1)
    return jax.lax.optimization_barrier(across).reshape(36, -1, padded.shape[-1])


def _along(transform: Transform, values: Array, axis: int) -> Array:
    parts = [jax.lax.index_in_dim(values, index, axis, keepdims=False) for index in range(values.shape[axis])]
    return jnp.stack(transform(*parts), axis)
