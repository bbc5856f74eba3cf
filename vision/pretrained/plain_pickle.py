"""Pickles of plain containers, numbers and strings, read without Python's unpickler.

A pickle is a program for a machine with a stack. Python's own machine imports and calls whatever a pickle names, and a
hostile one can also make it take all memory or never return: by the place of one entry in its memo, by the length of a
string that is not there, by keys whose hashes collide or take exponential time. The machine here takes the opcodes one
by one from ``pickletools.genops``, which holds every length against the bytes that there are. It knows only those that
build containers, leaves every name to its caller, and uses time and memory in proportion to the pickle.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any

MOST_BYTES = 1 << 25
"""Longest sequence of pickles."""
MOST_OPCODES = 2_000_000
"""Opcodes of one pickle, with what is added for calls. A tensor of a state dict takes about 60."""

_MOST_BITS = 2048
_MOST_ARGUMENTS = 32
_CALL = 8  # what a call takes of the opcodes, since it takes longer than one
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_LITERALS = frozenset(
    code.name
    for code in pickletools.opcodes
    if re.fullmatch(
        r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?|BYTEARRAY8", code.name
    )
)


class TooLarge(pickle.UnpicklingError):
    """More than is read, which may be honest."""


class Instance:
    """What a pickle makes of a class by name, without the class: ``build`` is given its attributes."""

    def build(self, attributes: Any) -> int:
        """Take the attributes; returns how many opcodes that stands for."""
        raise NotImplementedError


def load(
    stream: io.BytesIO,
    *,
    named: Callable[[str, str], Any],
    persistent: Callable[[Any], Any],
    instance: Callable[[Any], Instance] | None = None,
    without_attributes: tuple[type, ...] = (dict,),
    most: int = MOST_OPCODES,
) -> Any:
    """The value of the pickle at the position of ``stream``, which afterwards is at its end.

    Args:
      stream: at most ``MOST_BYTES``.
      named: (module, name) -> what stands for it; where the pickle calls it, it must be callable. The lengths of what a
        call is given count as opcodes, so that copies of one large container cannot add up.
      persistent: an object from outside of the pickle by its description.
      instance: what stands for a new object of a class, by what ``named`` gave for the class; None refuses them.
      without_attributes: types of values whose attributes are left out.
      most: opcodes that the pickle may have.

    Returns:
      Containers, numbers, strings, bytes, None, and what ``named``, ``persistent`` and ``instance`` return. The same
      container may be in several places, also in itself.

    Raises:
      TooLarge: if there are more opcodes.
      pickle.UnpicklingError: if the pickle needs anything else; for damage also nearly any other exception.
    """
    machine = _Machine(named, persistent, instance, without_attributes)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number + machine.charged > most:
            raise TooLarge(f"a pickle of more than {most:,} opcodes")
        if opcode.name == "STOP":
            break
        machine.do(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """A stack, the stacks below each mark, and a memo."""

    def __init__(
        self,
        named: Callable[[str, str], Any],
        persistent: Callable[[Any], Any],
        instance: Callable[[Any], Instance] | None,
        without_attributes: tuple[type, ...],
    ):
        self.stack: list[Any] = []
        self.charged = 0
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._named, self._persistent = named, persistent
        self._instance, self._without_attributes = instance, without_attributes

    def do(self, name: str, argument: Any) -> None:
        """Execute one opcode."""
        stack = self.stack
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
                raise pickle.UnpicklingError(f"an integer of {argument.bit_length()} bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(stack)
            self.stack = []
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise pickle.UnpicklingError("a tuple of more values than there are")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "GLOBAL":
            stack.append(self._named(*argument.split(" ", 1)))
        elif name not in ("PROTO", "FRAME"):
            method = _METHODS.get(name)
            if method is None:
                raise pickle.UnpicklingError(f"the opcode {name}, which is not part of a state dict")
            method(self)

    def _since_mark(self) -> list[Any]:
        """The values since the last mark, which are taken off."""
        values, self.stack = self.stack, self._marks.pop()
        return values

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self) -> None:
        self._since_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self) -> None:
        values = self._since_mark()
        self.stack.append(tuple(values))

    def _list(self) -> None:
        values = self._since_mark()
        self.stack.append(values)

    def _dict(self) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._set(values)

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise pickle.UnpicklingError(f"values for a {type(target).__name__} in place of a list")
        target.extend(values)

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_many(self) -> None:
        self._set(self._since_mark())

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise pickle.UnpicklingError(f"keys and values for a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise pickle.UnpicklingError("a name that is not a string")
        self.stack.append(self._named(module, name))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or not isinstance(arguments, tuple) or len(arguments) > _MOST_ARGUMENTS:
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}, which is not callable like this")
        self.charged += _CALL + sum(len(each) for each in arguments if isinstance(each, tuple | list))
        self.stack.append(function(*arguments))

    def _new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if self._instance is None or arguments != ():
            raise pickle.UnpicklingError(f"a new object of a {type(kind).__name__}")
        self.charged += _CALL
        self.stack.append(self._instance(kind))

    def _build(self) -> None:
        attributes, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Instance):
            self.charged += target.build(attributes)
        elif not isinstance(target, self._without_attributes):
            raise pickle.UnpicklingError(f"attributes of a {type(target).__name__}")

    def _from_outside(self) -> None:
        self.stack.append(self._persistent(self.stack.pop()))


def checked_key(key: Any) -> Any:
    """The key of a table, if it is a plain one, whose hash takes no time and collides with few.

    Raises ``pickle.UnpicklingError`` for any other.
    """
    if key is None or isinstance(key, str | bytes | float) or (isinstance(key, int) and key.bit_length() <= 64):
        return key
    raise pickle.UnpicklingError(f"a table with a key of type {type(key).__name__}")


_METHODS: Mapping[str, Callable[[_Machine], None]] = {
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._dup,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_one,
    "SETITEMS": _Machine._set_many,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._new,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._from_outside,
}
