"""What a file of `torch.save` asks for and how large it is, found out before `torch.load` makes anything of it."""

from __future__ import annotations

import os
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..messages import BadInputError, name_text

ARCHIVE = b"PK\x03\x04"
# The last record of an archive: signature, numbers of disks and entries, size and place of the directory, length of
# a comment; before it, in large archives, the place of one with longer numbers.
END = struct.Struct("<4s4HLLH")
END64_PLACE = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
# Before PyTorch 1.6 a file was a row of pickles: a magic number, a version, the machine, the content, and the keys of
# the storages, which follow as plain bytes.
LEGACY_PICKLES = 5
# Far more than any released checkpoint has: a tensor takes about 300 bytes and 40 opcodes of the pickle.
MAX_PICKLE_BYTES = 2**24
MAX_OPCODES = 2 * 10**6
# Of tuples within tuples. Shapes and the random state of Python are the long ones; hashing one takes this many steps.
MAX_TUPLE_ITEMS = 2000
AGAIN = "Download it again, from its authors."

CONTAINERS = {"collections.OrderedDict", "collections.Counter", "argparse.Namespace", "torch.Size", "torch.device"}
TENSORS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}
ODD_TENSORS = {
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, without values",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
}
# What the readers of ZIP archives and of pickles raise for files that are not whole.
DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
)


# Released checkpoints of MagNet have tensors with names of 87 characters.
tensor_text = partial(name_text, longest=120)


class CheckpointError(BadInputError):
    """A checkpoint is not what a converter can read; says what was expected and what was found."""


def check_torch_file(path: Path) -> None:
    """Reads the directory and the pickles of a file of `torch.save`, of either format, as data.

    Afterwards `torch.load` takes no more memory than the file has bytes, and a bounded time.

    Raises:
        CheckpointError: the file is damaged, is compressed, asks for anything but containers and plain tensors, or
            holds more than any checkpoint does.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE
    try:
        if is_archive:
            _check_pickle(_pickle_of_archive(path))
        else:
            _check_legacy_file(path)
    except _NotPlainError as error:
        raise CheckpointError(f"{path}: this is no checkpoint that can be loaded safely: {error}. {AGAIN}") from None
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: this is no checkpoint that can be loaded safely: it is cut off or damaged. {AGAIN}"
        ) from error


class _NotPlainError(Exception):
    """What a checkpoint has no need of."""


def _pickle_of_archive(path: Path) -> bytes:
    """The pickle of a ZIP archive, nothing of which is packed: then its parts are no larger than the file."""
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise _NotPlainError(
                    f"its part {name_text(entry.filename)} is compressed, which torch.save never does"
                )
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise _NotPlainError("its parts overlap")
        # PyTorch looks names up without regard to case.
        if len({entry.filename.casefold() for entry in entries}) < len(entries):
            raise _NotPlainError("two of its parts have the same name")
        pickled = archive.getinfo(f"{entries[0].filename.split('/')[0]}/data.pkl")
        if pickled.file_size > MAX_PICKLE_BYTES:
            raise _NotPlainError(f"the list of its content is longer than {MAX_PICKLE_BYTES} bytes")
        return archive.read(pickled)


def _check_directory(path: Path) -> None:
    """Raises `_NotPlainError` where this reader of ZIP archives and PyTorch's could find different directories."""
    with path.open("rb") as file:
        end = file.seek(-END.size, os.SEEK_END)
        signature, *_, size, offset, comment = END.unpack(file.read())
        file.seek(end - END64_PLACE.size)
        place_signature, _, place, _ = END64_PLACE.unpack(file.read(END64_PLACE.size))
        if place_signature == b"PK\6\7":
            end = file.seek(end - END64_PLACE.size - END64.size)
            *_, size, offset = END64.unpack(file.read(END64.size))
            comment += place != end
    if signature != b"PK\5\6":
        raise zipfile.BadZipFile("it does not end as archives do")
    if comment or offset + size != end:
        raise _NotPlainError("there is something between its directory and its end")


def _check_legacy_file(path: Path) -> None:
    if _is_tar(path):
        raise _NotPlainError("it is a TAR archive")
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            start = file.tell()
            file.seek(start + _check_pickle(file.read(MAX_PICKLE_BYTES)))


def _is_tar(path: Path) -> bool:
    """As `torch.load` looks for the format of its first releases."""
    try:
        with tarfile.open(path, mode="r:"):
            return True
    except tarfile.TarError:
        return False


def _check_pickle(pickled: bytes) -> int:
    """Goes through the opcodes of a pickle without doing what they say; returns its length.

    Raises:
        _NotPlainError: there is something in it that a checkpoint has no need of.
        ValueError, LookupError: it is no complete pickle.
    """
    # Of each value on the stack the text that it is, or how many items a tuple spreads to when it is hashed.
    values: list[str | int] = []
    memo: dict[int, str | int] = {}
    marks: list[int] = []
    end = 0
    # Of bytes each place is known, and the opcode says what its argument is.
    steps = cast("Iterator[tuple[pickletools.OpcodeInfo, Any, int]]", pickletools.genops(pickled))
    for count, (opcode, argument, position) in enumerate(steps):
        end = position + 1
        if count == MAX_OPCODES:
            raise _NotPlainError(f"the list of its content has more than {MAX_OPCODES} steps")
        if opcode.name == "MARK":
            marks.append(len(values))
        elif opcode.name == "BINUNICODE":
            values.append(argument)
        elif opcode.name.endswith("PUT"):
            memo[argument] = values[-1]
        elif opcode.name.endswith("GET"):
            values.append(memo[argument])
        else:
            if opcode.name == "GLOBAL":
                _check_global(argument.replace(" ", "."), values)
            taken = _take(values, marks, opcode)
            items = 1
            if "TUPLE" in opcode.name:
                items += sum(1 if isinstance(value, str) else value for value in taken)
            if items > MAX_TUPLE_ITEMS:
                raise _NotPlainError(f"a tuple in it has more than {MAX_TUPLE_ITEMS} items")
            values += [items] * len(opcode.stack_after)
    return end


def _take(values: list[str | int], marks: list[int], opcode: pickletools.OpcodeInfo) -> list[str | int]:
    """Takes what the opcode consumes off the stack."""
    consumed = opcode.stack_before
    if pickletools.markobject in consumed:
        start = marks.pop() - consumed.index(pickletools.markobject)
    else:
        start = len(values) - len(consumed)
    if start < 0:
        raise ValueError("the stack is empty")
    taken = values[start:]
    del values[start:]
    return taken


def _check_global(name: str, values: list[str | int]) -> None:
    """Raises `_NotPlainError` for a class or function that no checkpoint needs."""
    if name in ODD_TENSORS:
        # A dictionary's key lies on the stack below its value.
        key = next((value for value in reversed(values) if isinstance(value, str)), "a value")
        raise _NotPlainError(f"{tensor_text(key)} is {ODD_TENSORS[name]}, where checkpoints hold plain ones")
    is_type = name.startswith("torch.") and name.count(".") == 1 and not name.endswith("Tensor")
    if name not in CONTAINERS and name not in TENSORS and not is_type:
        raise _NotPlainError(f"it asks for {name_text(name)}, which no checkpoint needs, and which was not run")
