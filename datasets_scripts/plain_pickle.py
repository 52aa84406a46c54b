"""Reading pickles of plain data (numbers, texts, lists, tuples, dicts), which are measured before they are loaded."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_refseg.data.rows import DataFormatError

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
    # Ask for a class by its name: the unpickler refuses them and says which.
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL", "INST"), "class"),
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


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts; any class or function, which could run code, is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataFormatError(f"it asks for '{module}.{name}', which data has no need of; it was refused and not run")


def read_pickle(path: Path) -> Any:
    """Unpickle a file, of Python 2 or 3, which may hold no class at all.

    Raises:
        DataFormatError: the file is damaged, holds anything but plain data, or more of it than `check_plain` permits.
    """
    damage = (pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError, MemoryError)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataFormatError(f"it has {size} bytes, where data has {MAX_BYTES} at most")
        content = path.read_bytes()
        check_plain(content)
        return PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
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
    Once `fixed` neither may change, as others were counted with it.
    """

    size: int
    depth: int = 0
    is_text: bool = False
    fixed: bool = True


NUMBER = _Value(1)
SHORT_TEXT = _Value(1, is_text=True)


def check_plain(content: bytes) -> None:
    """Go through a pickle step by step, as the unpickler will, but with sizes in the place of values.

    A file of a few bytes can ask for gigabytes: by a number in its memo, or by lists of the same lists of the same
    lists, which are nothing until somebody looks through them.

    Raises:
        DataFormatError: it holds something else than numbers, texts, lists, tuples, and dicts with texts as keys; it
            has too many steps or is too deep; it numbers its values otherwise than one by one; a container holds
            itself; or what is there many times amounts to far more than the file's size.
        EOFError, LookupError, ValueError: it is damaged.
    """
    stack: list[_Value] = []
    marks: list[int] = []
    memo: list[_Value | None] = []
    shared = 0
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
            size = 1 + (end - start) // TEXT_BYTES
            stack.append(SHORT_TEXT if size == 1 else _Value(size, is_text=True))
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
            stack.append(_Value(1, fixed=False))
            _add(stack[-1], items, name)
        elif kind == "class":
            return
        elif kind != "frame":
            raise DataFormatError(f"it holds the opcode {name}, which data has no need of")
        if count > MAX_STEPS:
            raise DataFormatError(f"it has more than {MAX_STEPS} steps, which no data has")


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
    if name in OF_DICTS and not all(key.is_text for key in items[::2]):
        raise DataFormatError("it holds a dict whose keys are no texts")
    for item in items:
        item.fixed = True
        container.size += item.size
        container.depth = max(container.depth, item.depth + 1)
    if container.depth > MAX_DEPTH:
        raise DataFormatError(f"it nests lists more than {MAX_DEPTH} deep")
