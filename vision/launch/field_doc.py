"""The docstring below a field of a dataclass, read from its source."""

import ast
import functools
import inspect
import itertools
import textwrap
from typing import Any


def field_doc(config: Any, dotted: str) -> str:
    """What the source says of a dotted field, on one line; "" where it says nothing.

    Args:
      config: an instance of a dataclass, whose fields may be dataclasses.
      dotted: "optimizer.lr".
    """
    first, _, rest = dotted.partition(".")
    if rest:
        return field_doc(getattr(config, first), rest)
    return next((docs[first] for kind in type(config).__mro__ if first in (docs := _docs(kind))), "")


@functools.cache
def _docs(kind: type) -> dict[str, str]:
    """Docstrings of the fields that a class itself defines."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):  # builtins, and classes that were made without source
        return {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found: dict[str, str] = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                found[node.target.id] = " ".join(text.split())
    return found
