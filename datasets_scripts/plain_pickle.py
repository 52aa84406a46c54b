"""Reading pickles of plain data (numbers, texts, lists, tuples, dicts), which are measured before they are loaded.

Numbers of NumPy are data as well, though a pickle writes each as two calls of functions. Those of this file make plain
numbers of them: nothing of NumPy is called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import short_text

MAX_BYTES = 2**28
MAX_STEPS = 2**26
MAX_DEPTH = 100
# How many values the references to earlier values may stand for, for each byte of the file.
MAX_SHARED_PER_BYTE = 10
# A text counts as one value more for so many bytes.
TEXT_BYTES = 16

# How many values above it on the stack each opcode puts into a new container, or into the one below them; None: all
# above the last mark.
NEW_CONTAINERS = {
    **{"EMPTY_LIST": 0, "EMPTY_DICT": 0, "EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3},
    **{"LIST": None, "DICT": None, "TUPLE": None},
}
ADDITIONS = {"APPEND": 1, "SETITEM": 2, "APPENDS": None, "SETITEMS": None}
OF_DICTS = ("DICT", "SETITEM", "SETITEMS")
OF_TUPLES = ("TUPLE1", "TUPLE2", "TUPLE3", "TUPLE")
OF_TWO_LINES = ("GLOBAL", "INST")
TEXTS = (
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
NUMBERS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("NONE", "NEWTRUE", "NEWFALSE"),
)
KINDS = {
    **dict.fromkeys(TEXTS, "text"),
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(NEW_CONTAINERS, "container"),
    **dict.fromkeys(ADDITIONS, "addition"),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), "store"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), "fetch"),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), "frame"),
    "MARK": "mark",
    # Ask for a class or function by its name.
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL", "INST"), "class"),
    "REDUCE": "call",
    "BUILD": "state",
}
# Each opcode's kind, name, and the length of its argument as `pickletools` gives it.
OPCODES = {
    ord(code.code): (KINDS.get(code.name), code.name, code.arg.n if code.arg else 0) for code in pickletools.opcodes
}
COUNT_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# What `struct` calls the numbers of NumPy, by the code of their type.
NUMBER_FORMATS = {
    "b1": "?",
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d"},
}


class NumberType:
    """Stands for a `numpy.dtype` of numbers; made with its code, such as "i8", and then told its order of bytes."""

    def __init__(self, code: str, align: int, copy: int):
        if code not in NUMBER_FORMATS:
            raise DataFormatError(f"it holds values of NumPy's type {short_text(code)}, which are no numbers")
        self.format = NUMBER_FORMATS[code]
        self.order = ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *fields, flags = state
        # Neither parts nor names of parts, the size and alignment of its code, and no objects.
        if order not in ("<", ">", "|") or fields != [None, None, None, -1, -1] or flags != 0:
            raise DataFormatError(f"it holds values of a NumPy type of several parts: {short_text(state)}")
        self.order = order


def read_number(kind: NumberType, content: bytes | str) -> int | float | bool:
    """Stands for `numpy.core.multiarray.scalar`: the number in so many bytes, as a plain one."""
    content = content.encode("latin1") if isinstance(content, str) else content
    # Of a single byte there is no order.
    order = "<" if kind.order == "|" and kind.format in "?bB" else kind.order
    if order not in ("<", ">") or len(content) != struct.calcsize(order + kind.format):
        raise DataFormatError(f"it holds a number of NumPy in {len(content)} bytes, which its type has not")
    return struct.unpack(order + kind.format, content)[0]


def as_bytes(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes up to protocol 2."""
    if encoding != "latin1":
        raise DataFormatError(f"it holds bytes in the encoding {short_text(encoding)}, which no pickle writes")
    return text.encode("latin1")


@dataclass(frozen=True)
class Call:
    """A function that a pickle may call: what it makes, its arguments, and what stands for it here."""

    makes: str
    arguments: tuple[str, ...]
    function: Callable[..., Any]


SCALAR = Call("number", ("number type", "text"), read_number)
# By the names of module and function.
CALLS: dict[tuple[str, ...], Call] = {
    ("numpy.core.multiarray", "scalar"): SCALAR,
    ("numpy._core.multiarray", "scalar"): SCALAR,
    ("numpy", "dtype"): Call("number type", ("text", "number", "number"), NumberType),
    ("_codecs", "encode"): Call("text", ("text", "text"), as_bytes),
}
NAMES = {part.encode(): part for names in CALLS for part in names}
# As NumPy writes it: version, order of bytes, parts, names, fields, size, alignment, flags.
STATE_FIELDS = 8


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts.

    Any class or function, which could run code, is refused by name, but for the first `calls`, which `check_plain`
    went through.
    """

    def __init__(self, content: bytes, calls: int):
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.calls = calls

    def find_class(self, module: str, name: str) -> Any:
        call = CALLS.get((module, name)) if self.calls else None
        if call is None:
            raise DataFormatError(
                f"it asks for '{module}.{name}', which data has no need of; it was refused and not run"
            )
        self.calls -= 1
        return call.function


def read_pickle(path: Path) -> Any:
    """Unpickle a file, of Python 2 or 3, which may hold no class at all; NumPy's numbers become plain ones.

    Raises:
        DataFormatError: the file is damaged, holds anything but plain data, or more of it than `check_plain` permits.
    """
    damage = (pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError, MemoryError)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataFormatError(f"it has {size} bytes, where data has {MAX_BYTES} at most")
        content = path.read_bytes()
        return PlainUnpickler(content, check_plain(content)).load()
    except DataFormatError as error:
        raise DataFormatError(
            f"{path}: {error}. The file may be malicious: delete it and download it from its authors."
        ) from None
    except (*damage, OverflowError, RecursionError) as error:
        raise DataFormatError(f"{path} is not a complete pickle ({error}). Download the file again.") from error


@dataclass(slots=True)
class _Value:
    """What a pickle makes at one step.

    `size` counts it and all values in it, those that are there many times as often; `depth` is that of its containers.
    Once `fixed` neither may change, as others were counted with it. `kind` is "number", "text" or "container"; what is
    no data is a "number type", a "call" or the "arguments" of one, which hold some. `items` are those of a tuple of
    arguments' length, `name` is that of a module or function, in texts that are one.
    """

    size: int
    kind: str
    depth: int = 0
    fixed: bool = True
    items: tuple[_Value, ...] = ()
    name: str = ""
    call: Call | None = None


NUMBER = _Value(1, "number")
SHORT_TEXT = _Value(1, "text")
DATA = ("number", "text", "container")


def check_plain(content: bytes) -> int:
    """Go through a pickle step by step, as the unpickler will, but with sizes in the place of values.

    A file of a few bytes can ask for gigabytes: by a number in its memo, or by lists of the same lists of the same
    lists, which are nothing until somebody looks through them.

    Returns how many functions it asks for that are `CALLS`, and calls as they are meant, up to the first other one.

    Raises:
        DataFormatError: it holds something else than numbers, texts, lists, tuples, and dicts with texts as keys; it
            has too many steps or is too deep; it numbers its values otherwise than one by one; a container holds
            itself; or what is there many times amounts to far more than the file's size.
        EOFError, LookupError, ValueError: it is damaged.
    """
    stack: list[_Value] = []
    marks: list[int] = []
    memo: list[_Value | None] = []
    shared = calls = 0
    for count, (kind, name, start, end) in enumerate(_steps(content)):
        if kind == "store":
            place = len(memo) if name == "MEMOIZE" else _place(content[start:end], name)
            # A value takes a step at least.
            if not 0 <= place <= count:
                raise DataFormatError(f"it numbers a value {place} at its step {count}, which no pickle does")
            if place >= len(memo):
                memo.extend([None] * (place + 1 - len(memo)))
            memo[place] = stack[-1]
        elif kind == "text":
            stack.append(_text(content[start:end]))
        elif kind == "number":
            stack.append(NUMBER)
        elif kind == "fetch":
            value = memo[_place(content[start:end], name)]
            if value is None:
                raise LookupError("it refers to a value that is not there")
            value.fixed = True
            shared += value.size
            if shared > MAX_SHARED_PER_BYTE * len(content):
                raise DataFormatError("it refers to the same values so often that they would fill the memory")
            stack.append(value)
        elif kind == "mark":
            marks.append(len(stack))
        elif kind == "addition":
            items = _taken(stack, marks, ADDITIONS[name])
            _add(stack[-1], items, name)
        elif kind == "container":
            items = _taken(stack, marks, NEW_CONTAINERS[name])
            stack.append(_Value(1, "container", fixed=False))
            _add(stack[-1], items, name)
        elif kind == "class":
            call = _asked_for(name, content[start:end], stack)
            if call is None:
                # The unpickler refuses it and says which.
                return calls
            calls += 1
            stack.append(_Value(1, "call", call=call))
        elif kind == "call":
            function, arguments = _taken(stack, marks, 2)
            stack.append(_called(function, arguments))
        elif kind == "state":
            state = stack.pop()
            is_meant = stack[-1].kind == "number type" and len(state.items) == STATE_FIELDS
            if not is_meant or state.kind != "container":
                raise DataFormatError("it changes a value after it was made, which data has no need of")
        elif kind != "frame":
            raise DataFormatError(f"it holds the opcode {name}, which data has no need of")
        if count > MAX_STEPS:
            raise DataFormatError(f"it has more than {MAX_STEPS} steps, which no data has")
    if stack and stack[-1].kind not in DATA:
        raise DataFormatError("it holds a function or a type of numbers, which are no data")
    return calls


def _text(characters: bytes) -> _Value:
    size = 1 + len(characters) // TEXT_BYTES
    if characters in NAMES:
        return _Value(size, "text", name=NAMES[characters])
    return SHORT_TEXT if size == 1 else _Value(size, "text")


def _asked_for(opcode: str, argument: bytes, stack: list[_Value]) -> Call | None:
    """The function that is asked for, where it is one of `CALLS`."""
    if opcode == "STACK_GLOBAL":
        return CALLS.get(tuple(value.name for value in _taken(stack, [], 2)))
    return CALLS.get(tuple(argument[:-1].decode("latin1").split("\n"))) if opcode == "GLOBAL" else None


def _called(function: _Value, arguments: _Value) -> _Value:
    """What a call makes."""
    if function.call is None or tuple(item.kind for item in arguments.items) != function.call.arguments:
        raise DataFormatError("it calls a function otherwise than numbers of NumPy are written")
    return _Value(arguments.size, function.call.makes)


def _steps(content: bytes) -> Iterator[tuple[str | None, str, int, int]]:
    """The kind and the name of each opcode up to STOP, and where its argument begins and ends."""
    position = 0
    while position < len(content):
        if content[position] not in OPCODES:
            raise ValueError(f"byte {position} is no opcode")
        kind, name, length = OPCODES[content[position]]
        start = position + 1
        if length >= 0:
            position = start + length
        elif length == pickletools.UP_TO_NEWLINE:
            position = content.index(b"\n", start) + 1
            if name in OF_TWO_LINES:
                position = content.index(b"\n", position) + 1
        else:
            first, start = start, start + COUNT_BYTES[length]
            position = start + int.from_bytes(content[first:start], "little")
        if position > len(content):
            break
        yield kind, name, start, position
        if name == "STOP":
            return
    raise EOFError("it ends before it is complete")


def _place(argument: bytes, name: str) -> int:
    """The place in the memo that an opcode names."""
    return int(argument) if name in ("PUT", "GET") else int.from_bytes(argument, "little")


def _taken(stack: list[_Value], marks: list[int], count: int | None) -> list[_Value]:
    """Takes so many values from the stack, or all above the last mark."""
    first = marks.pop() if count is None else len(stack) - count
    if first < 0:
        raise LookupError("it takes more values than there are")
    items = stack[first:]
    del stack[first:]
    return items


def _add(container: _Value, items: list[_Value], name: str) -> None:
    if items and container.fixed:
        raise DataFormatError("it holds a list or dict within itself, or changes one that it has used elsewhere")
    if name in OF_DICTS and not all(key.kind == "text" for key in items[::2]):
        raise DataFormatError("it holds a dict whose keys are no texts")
    if name in OF_TUPLES and len(items) <= STATE_FIELDS:
        container.items = tuple(items)
    if not all(item.kind in DATA for item in items):
        # On the way to a number of NumPy there is a tuple of its type and its bytes; nothing else may come of it.
        container.kind = "arguments"
    for item in items:
        item.fixed = True
        container.size += item.size
        container.depth = max(container.depth, item.depth + 1)
    if container.depth > MAX_DEPTH:
        raise DataFormatError(f"it nests lists more than {MAX_DEPTH} deep")
