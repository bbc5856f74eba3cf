"""What is done with the arrays of a file before the rules of a network apply: one function for each kind of network.

Rules rename and transpose. What needs more than that is here: names that the whole file has under a prefix, arrays of
another grid, numbers that belong to the configuration and not to the variables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vision.pretrained.state_dict import StateDict


@dataclass(frozen=True)
class Adapted:
    """Arrays as the rules expect them."""

    tensors: StateDict
    notes: tuple[str, ...] = ()
    """What was done, for the summary of ``--init-from``."""
    replaced: tuple[str, ...] = ()
    """Regular expressions of variables that the file has not and that stay random."""


Adapt = Callable[[StateDict, Mapping[str, Any]], Adapted]
"""(arrays by their names in the file, shapes of the network's variables) -> adapted. Raises ``UserError``."""


def unchanged(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
    """For networks whose rules are enough."""
    del variables
    return Adapted(tensors)
