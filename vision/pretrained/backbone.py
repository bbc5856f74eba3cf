"""Classifiers' weights as initial values of a backbone: their names below ``backbone/``, without what follows features.

Published weights expect images normalised by the mean and deviation of ImageNet (``pixels``).
"""

import re
from collections.abc import Mapping
from typing import Any

from vision.errors import UserError
from vision.ops.pixels import PixelScale
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.rules import Rule, WeightRules, renamed
from vision.pretrained.state_dict import StateDict

BEHIND = (r"^params/head/", r"^params/norm/", r"^params/dense_\d/")
"""Variables of classifiers that a backbone has not: the head, and the normalisation of the mean or the dense layers
before it."""
OUTSIDE = (r"^\w+/(?!backbone/)",)
"""Variables that are not of the backbone."""


def backbone_rules(published: WeightRules) -> tuple[Rule, ...]:
    """A classifier's rules for the same variables below ``backbone/``."""
    return tuple(Rule(rule.published, _below(rule.ours), rule.layout) for rule in published)


def backbone_weights(published: WeightRules, pixels: PixelScale) -> Adapt:
    """For a classifier's weights, under published names or those of this project: only what the backbone needs is left.

    Args:
      published: the classifier's rules.
      pixels: how the network takes images.

    The result raises ``UserError`` where ``pixels`` are not those of published weights. A file or run of a whole
    network with this backbone is left as it is.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        paths = {name: _path(name, published, variables) for name in tensors}
        if any(path is not None and re.match(r"\w+/backbone/", path) for path in paths.values()):
            return Adapted(tensors)
        theirs = any(path is not None and path != name for name, path in paths.items())
        if theirs and pixels != "imagenet":
            raise UserError(
                "published weights of classifiers expect images normalised by the mean and deviation of ImageNet, and "
                f"model.pixels is {pixels}: set --model.pixels imagenet"
            )
        kept = {name: path for name, path in paths.items() if path is None or not _found(BEHIND, path)}
        own = lambda name, path: _below(path) if path == name else name
        return Adapted(
            {own(name, path): tensors[name] for name, path in kept.items()},
            notes=("they are those of a classifier and fill the backbone",),
            replaced=OUTSIDE,
        )

    return adapt


def _path(name: str, published: WeightRules, variables: Mapping[str, Any]) -> str | None:
    """The path of a variable by its name in a file: that itself, or by the rules; None for an unknown name."""
    if name.split("/")[0] in variables:
        return name
    matches = (renamed(name, pattern=rule.published, template=rule.ours) for rule in published)
    return next((match for match in matches if match is not None), None)


def _below(path: str) -> str:
    collection, _, rest = path.partition("/")
    return f"{collection}/backbone/{rest}"


def _found(expressions: tuple[str, ...], path: str) -> bool:
    return any(re.search(expression, path) for expression in expressions)
