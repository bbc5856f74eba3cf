"""The features of a backbone as decoders see them: "cN" with a stride of 2**N, until dilation keeps it."""

from collections.abc import Mapping

from jaxtyping import Array, Float

from vision.errors import UserError

Levels = Mapping[str, Float[Array, "b _ _ _"]]


def numbers(levels: Levels) -> list[int]:
    """N of every level "cN", from fine to coarse."""
    return sorted(int(name.removeprefix("c")) for name in levels)


def last_level(levels: Levels) -> Float[Array, "b h w c"]:
    """The coarsest features."""
    return levels[f"c{numbers(levels)[-1]}"]


def level(levels: Levels, name: str, reader: str) -> Float[Array, "b h w c"]:
    """The features of a name. Raises ``UserError`` that says that ``reader`` needs them, where there are none."""
    if name not in levels:
        raise UserError(
            f"{reader} needs features {name}, and the backbone has {', '.join(sorted(levels))}: choose a backbone with "
            "more stages"
        )
    return levels[name]


def size_of(features: Float[Array, "b h w c"]) -> tuple[int, int]:
    """Height and width."""
    return features.shape[1], features.shape[2]
