"""Convolutions and their gradients as sums over the positions of the kernel, in NumPy and float64."""

import numpy as np


def _positions(shape, kernel, how):
    """For each position of the kernel: its index, and the slices of the padded features that it meets."""
    sides = how.result_shape(shape, kernel)[1:3]
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            yield (
                (row, column),
                tuple(
                    slice(at * apart, at * apart + (side - 1) * stride + 1, stride)
                    for at, apart, side, stride in zip((row, column), how.dilation, sides, how.strides, strict=True)
                ),
            )


def _padded(x, how):
    return np.pad(x, ((0, 0), *how.padding, (0, 0)))


def _grouped(x, groups):
    return x.reshape(*x.shape[:-1], groups, -1)


def convolution(x, k, how):
    """F(x, k)."""
    padded, total = _padded(x, how), 0.0
    for at, (rows, columns) in _positions(x.shape, k.shape, how):
        kernel = k[at].reshape(k.shape[2], how.groups, -1)
        part = np.einsum("bhwge,egn->bhwgn", _grouped(padded[:, rows, columns], how.groups), kernel)
        total = total + part.reshape(*part.shape[:3], -1)
    return total


def features_gradient(y, k, shape, how):
    """D(y, k)."""
    made = np.zeros(_padded(np.zeros(shape), how).shape)
    for at, (rows, columns) in _positions(shape, k.shape, how):
        kernel = k[at].reshape(k.shape[2], how.groups, -1)
        part = np.einsum("bhwgn,egn->bhwge", _grouped(y, how.groups), kernel)
        made[:, rows, columns] += part.reshape(*part.shape[:3], -1)
    (above, _), (before, _) = how.padding
    return made[:, above : above + shape[1], before : before + shape[2]]


def kernel_gradient(x, y, shape, how):
    """W(x, y)."""
    padded, made = _padded(x, how), np.zeros(shape)
    for at, (rows, columns) in _positions(x.shape, shape, how):
        part = np.einsum("bhwge,bhwgn->egn", _grouped(padded[:, rows, columns], how.groups), _grouped(y, how.groups))
        made[at] = part.reshape(shape[2:])
    return made
