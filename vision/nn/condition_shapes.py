"""The check that a network is given the conditions it was built for."""

from collections.abc import Mapping

from vision.types import Condition


def check_condition(network: str, condition: Condition, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless ``condition`` has the names and shapes that a network was built for.

    Args:
      network: the network's name in messages, with its article: "a UNet".
      condition: what it was given.
      expected: shape of each condition that the network needs, the batch included.
    """
    built = f"{network} with {_listed(expected)}" if expected else f"{network} without conditions"
    for name in condition:
        if name not in expected:
            raise ValueError(f"{built} was given the condition {name!r}")
    for name, shape in expected.items():
        if name not in condition:
            raise ValueError(f"{built} was not given the condition {name!r}")
        if condition[name].shape != shape:
            raise ValueError(
                f"{built} was given the condition {name!r} of shape {condition[name].shape}, which should be {shape}"
            )


def _listed(expected: Mapping[str, tuple[int, ...]]) -> str:
    return f"the {'conditions' if len(expected) > 1 else 'condition'} {', '.join(expected)}"
