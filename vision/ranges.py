"""Ranges of configuration fields: declared in a field's annotation, checked before anything else.

    width: Channels = 128
    lr: NonNegativeFloat = 1e-3

The aliases are ``typing.Annotated`` with constraints of the package annotated-types, so that type checkers and readers
see a plain ``int`` or ``float``. `check_ranges` is called when a command line is parsed and by ``RunConfig``; a number
in an experiment's configuration without a range fails a test.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Interval, Le, Lt, MinLen

from vision.errors import UserError

PositiveInt: TypeAlias = Annotated[int, Interval(ge=1, le=10**12)]
NonNegativeInt: TypeAlias = Annotated[int, Interval(ge=0, le=10**12)]
Pixels: TypeAlias = Annotated[int, Interval(ge=1, le=16_384)]
"""Height and width of an image."""
ImageArea: TypeAlias = Annotated[int, Interval(ge=1, le=2**32)]
"""Width times height of an image file, in pixels."""
Channels: TypeAlias = Annotated[int, Interval(ge=1, le=65_536)]
"""Channels of images and features."""
NoneOrMoreChannels: TypeAlias = Annotated[int, Interval(ge=0, le=65_536)]
"""Channels of features, 0 for a part that is left out."""
Depth: TypeAlias = Annotated[int, Interval(ge=1, le=1_000)]
"""Number of layers, blocks, heads or groups."""
NoneOrMoreBlocks: TypeAlias = Annotated[int, Interval(ge=0, le=1_000)]
Classes: TypeAlias = Annotated[int, Interval(ge=1, le=1_000_000)]
NoneOrMoreClasses: TypeAlias = Annotated[int, Interval(ge=0, le=1_000_000)]
Seed: TypeAlias = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Port: TypeAlias = Annotated[int, Interval(ge=0, le=65_535)]
"""Of a network connection; 0 for any that is free."""
Fraction: TypeAlias = Annotated[float, Interval(ge=0.0, le=1.0)]
"""A share or a probability."""
PositiveFraction: TypeAlias = Annotated[float, Interval(gt=0.0, le=1.0)]
OpenFraction: TypeAlias = Annotated[float, Interval(gt=0.0, lt=1.0)]
Decay: TypeAlias = Annotated[float, Interval(ge=0.0, lt=1.0)]
"""Decay of an exponential average."""
AverageLength: TypeAlias = Annotated[float, Interval(ge=0.001, le=0.288)]
"""Length of an average by a power function, sigma_rel (``vision.train.power_average``)."""
DropRate: TypeAlias = Annotated[float, Interval(ge=0.0, lt=1.0)]
"""Probability of dropping a feature or a branch in training."""
PositiveFloat: TypeAlias = Annotated[float, Interval(gt=0.0, lt=math.inf)]
NonNegativeFloat: TypeAlias = Annotated[float, Interval(ge=0.0, lt=math.inf)]
FiniteFloat: TypeAlias = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]

_WORDS = ((Ge, "ge", "at least"), (Gt, "gt", "more than"), (Le, "le", "at most"), (Lt, "lt", "less than"))


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeric field of a configuration, with what is known of its values."""

    name: str
    """Dotted, "optimizer.lr"."""
    value: Any
    """A number, or None, or a tuple of numbers."""
    kind: type
    """int or float."""
    constraints: tuple[BaseMetadata, ...]
    """Of each number."""
    lengths: tuple[MinLen, ...]
    """Of a tuple."""

    def problems(self) -> Iterator[str]:
        """What is wrong with the value, in words. Traced numbers, of a sweep, pass: each was checked before."""
        many = isinstance(self.value, tuple)
        if many and any(len(self.value) < each.min_length for each in self.lengths):
            yield f"{self.name} must have at least {max(each.min_length for each in self.lengths)} number(s)"
        for value in self.value if many else (self.value,):
            if isinstance(value, int | float) and not isinstance(value, bool) and not self._holds(value):
                yield f"{self.name} must be {self._range(value)}, not {_text(value)}"

    def _range(self, value: float) -> str:
        """The range in words, "at least 0 and less than 1", without the bounds that no sensible value comes near."""
        near = max(abs(value), 2**32) if isinstance(value, int) or math.isfinite(value) else 2**32
        words = [f"{word} {_text(bound)}" for word, bound in self._bounds() if abs(bound) <= near]
        return " and ".join(words) or "a finite number"

    def _bounds(self) -> Iterator[tuple[str, float]]:
        for constraint in self.constraints:
            for kind, attribute, word in _WORDS:
                if isinstance(constraint, kind):
                    yield word, getattr(constraint, attribute)

    def _holds(self, value: float) -> bool:
        holds = {
            "at least": lambda bound: value >= bound,
            "more than": lambda bound: value > bound,
            "at most": lambda bound: value <= bound,
            "less than": lambda bound: value < bound,
        }
        # a comparison with nan is false, so that every constraint refuses it
        return all(holds[word](bound) for word, bound in self._bounds())


def numbers(config: Any, prefix: str = "") -> Iterator[Number]:
    """The numeric fields of a configuration and of the dataclasses in it, in order.

    A field that a subclass declares anew, for another default, keeps the ranges of its base classes.
    """
    declared = _declarations(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{field.name}.")
            continue
        kinds: set[Any] = set()
        constraints: list[Any] = []
        for annotation in declared[field.name]:
            _read(annotation, kinds, constraints)
        if kinds and kinds <= {int, float, types.NoneType}:
            unique = tuple(dict.fromkeys(each for each in constraints if not isinstance(each, MinLen)))
            lengths = tuple(each for each in constraints if isinstance(each, MinLen))
            yield Number(f"{prefix}{field.name}", value, float if float in kinds else int, unique, lengths)


def check_ranges(config: Any) -> None:
    """Raise ``UserError`` that names every numeric field of ``config`` whose value is out of its range."""
    problems = list(dict.fromkeys(problem for number in numbers(config) for problem in number.problems()))
    if problems:
        raise UserError("; ".join(problems))


@functools.cache
def _declarations(kind: type) -> dict[str, list[Any]]:
    """Field -> its annotations in the class and its bases."""
    found: dict[str, list[Any]] = {}
    for base in kind.__mro__:
        if dataclasses.is_dataclass(base):
            own = typing.get_type_hints(base, include_extras=True)
            for field in dataclasses.fields(base):
                found.setdefault(field.name, []).append(own[field.name])
    # get_type_hints of a subclass has the annotations of its bases too, where it does not declare the field itself
    return found


def _read(annotation: Any, kinds: set[Any], constraints: list[Any]) -> None:
    """Collect the plain types and the constraints of an annotation, through unions and tuples."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = typing.get_args(annotation)
        for each in metadata:
            constraints += each if isinstance(each, GroupedMetadata) else [each]
        _read(inner, kinds, constraints)
    elif origin in (typing.Union, types.UnionType, tuple):
        for each in typing.get_args(annotation):
            if each is not Ellipsis:
                _read(each, kinds, constraints)
    else:
        kinds.add(annotation)


def _text(number: float) -> str:
    """A number in a message."""
    if isinstance(number, float):
        return f"{number:g}"
    return f"{number:,}" if abs(number) < 10**15 else f"a number of {len(str(abs(number)))} digits"
