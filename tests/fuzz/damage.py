"""Damages the content of sound files as a short description says; what is no such file any more is all right."""

from __future__ import annotations

import copy
import io
import json
import pickle
import pickletools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from scipy.io import savemat

# Stand for what a description cannot hold: lists in lists, lists that hold one list twice, and numpy's numbers.
DEEP, SHARED, NUMPY = "<deep>", "<shared>", "<numpy>"
DEPTH = 3000
SECRET = "secret"


def damage(content: bytes, kind: str, how: Any) -> bytes:
    """The damaged content, by one of `KINDS`."""
    return KINDS[kind](content, how)


def edit_bytes(content: bytes, edits: Iterable[tuple[str, int, Any]]) -> bytes:
    """Edits (what, where, value); places are counted from the end where they are negative."""
    for action, place, value in edits:
        at = place % (len(content) + 1)
        if action == "set":
            content = content[:at] + value + content[at + len(value) :]
        elif action == "insert":
            content = content[:at] + value + content[at:]
        elif action == "remove":
            content = content[:at] + content[at + value :]
        elif action == "repeat":
            content = content[:at] + content[at : at + 64] * value + content[at:]
        elif action == "cut":
            content = content[:at]
    return content


# --- JSON, CSV and pickles -----------------------------------------------------------------------------------------


def edit_structure(value: Any, edits: Iterable[tuple[str, int, Any]]) -> Any:
    """A copy of lists and dictionaries in which places, counted from the outside, are changed."""
    holder = [copy.deepcopy(value)]
    for action, place, new in edits:
        everything = list(_places(holder))
        parent, key = everything[place % len(everything)]
        if action == "replace":
            parent[key] = copy.deepcopy(new)
        elif action == "remove" and parent is not holder:
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif action == "rename" and isinstance(parent, dict):
            parent[new] = parent.pop(key)
        elif action == "swap":
            other, other_key = everything[new % len(everything)]
            parent[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(parent[key])
    return holder[0]


def _places(parent: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
        yield parent, key
        if isinstance(parent[key], list | dict):
            yield from _places(parent[key])


def edit_json(content: bytes, edits: Iterable[tuple]) -> bytes:
    text = json.dumps(edit_structure(json.loads(content), edits))
    text = text.replace(f'"{DEEP}"', "[" * DEPTH + "]" * DEPTH).replace(f'"{SHARED}"', "1" * 100_000)
    return text.encode()


def edit_jsonl(content: bytes, edits: Iterable[tuple]) -> bytes:
    changed = edit_structure([json.loads(line) for line in content.splitlines()], edits)
    lines = changed if isinstance(changed, list) else [changed]
    return b"\n".join(edit_json(json.dumps(line).encode(), ()) for line in lines)


def edit_csv(content: bytes, edits: Iterable[tuple]) -> bytes:
    lines = [line.split(",") for line in content.decode().splitlines()]
    changed = edit_structure(lines, edits)
    rows = changed if isinstance(changed, list) else [changed]
    texts = (",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows)
    return "\n".join(texts).encode("utf-8", "surrogatepass")


def edit_pickle(content: bytes, how: tuple[int, Iterable[tuple]]) -> bytes:
    """Writes another structure, by one of the protocols 0 to 5."""
    protocol, edits = how
    changed = pickle.dumps(_put_in(edit_structure(pickle.loads(content), edits)), protocol)
    # Lists in lists are built without a function that calls itself, unlike here by pickle.
    marker = pickle.dumps(DEEP, 2)[2:10]
    return changed.replace(marker, b"]" * DEPTH + b"a" * (DEPTH - 1))


def _put_in(value: Any) -> Any:
    if isinstance(value, list):
        return [_put_in(each) for each in value]
    if isinstance(value, dict):
        return {key: _put_in(each) for key, each in value.items()}
    if value == NUMPY:
        return np.int64(7)
    if value != SHARED:
        return value
    shared: list = []
    for _ in range(30):
        shared = [shared, shared]
    return shared


def insert_opcodes(content: bytes, how: tuple[int, Iterable[tuple[bytes, int]]]) -> bytes:
    """Inserts instructions of pickle, each so many times, between two others."""
    place, opcodes = how
    starts = [at for _, _, at in pickletools.genops(content)]
    at = starts[place % len(starts)]
    return content[:at] + b"".join(code * times for code, times in opcodes) + content[at:]


# --- Pictures, HDF5, MATLAB ----------------------------------------------------------------------------------------


def edit_png(content: bytes, edits: Iterable[tuple[str, int, Any]]) -> bytes:
    """Changes chunks of a PNG, whose checksums are right again afterwards."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    for action, place, new in edits:
        index = place % len(chunks)
        name, data = chunks[index]
        if action == "header":
            chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *new))
        elif action == "rename":
            chunks[index] = (new, data)
        elif action == "repeat":
            chunks.insert(index, chunks[index])
        elif action == "remove" and len(chunks) > 1:
            del chunks[index]
        elif action == "pixels":
            chunks[index] = (name, zlib.compress(new[0] * new[1]))
        else:
            chunks[index] = (name, edit_bytes(data, [(action, place, new)]))
    parts = (struct.pack(">I", len(data)) + name + data + _checksum(name + data) for name, data in chunks)
    return content[:8] + b"".join(parts)


def _checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def write_h5(content: bytes, how: dict[str, Any]) -> bytes:
    """Another file in the place of the annotation of a frame of A2D."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in ("instance", "reMask"):
            described = how[name]
            if described == "external link":
                file[name] = h5py.ExternalLink(f"../../../../outside/{SECRET}.h5", name)
            elif described == "soft link":
                file[name] = h5py.SoftLink("/nowhere")
            elif described == "group":
                file.create_group(name)
            elif described == "other storage":
                file.create_dataset(name, (40,), np.uint8, external=[(f"../../../../outside/{SECRET}.png", 0, 40)])
            elif described == "virtual":
                layout = h5py.VirtualLayout((20, 12), np.uint8)
                layout[:] = h5py.VirtualSource(f"../../../../outside/{SECRET}.h5", name, (20, 12))
                file.create_virtual_dataset(name, layout)
            elif described == "huge":
                file.create_dataset(name, (10**6, 10**6), np.uint8, chunks=(100, 100), fillvalue=1)
            elif described is not None:
                dtype, shape, values = described
                file[name] = _filled(dtype, shape, values)
    return buffer.getvalue()


def write_mat(content: bytes, how: tuple[dict[str, tuple], bool]) -> bytes:
    """Another MATLAB file in the place of the masks of a video of JHMDB."""
    arrays, compressed = how
    buffer = io.BytesIO()
    savemat(buffer, {name: _filled(*described) for name, described in arrays.items()}, do_compression=compressed)
    return buffer.getvalue()


def _filled(dtype: str, shape: Iterable[int], values: list[Any]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.resize(np.array(values), tuple(shape)).astype(dtype)


# --- Parquet -------------------------------------------------------------------------------------------------------


def edit_table(content: bytes, how: tuple[bool, Iterable[tuple]]) -> bytes:
    """Writes other rows, with the types of before or those that they have now."""
    keep_types, edits = how
    table = parquet.read_table(io.BytesIO(content))
    changed = edit_structure(table.to_pylist(), edits)
    buffer = io.BytesIO()
    try:
        new = pyarrow.Table.from_pylist(changed, schema=table.schema if keep_types else None)
        parquet.write_table(new, buffer)
    except (pyarrow.ArrowException, AttributeError, TypeError, ValueError, LookupError, OverflowError):
        # Rows that no table holds.
        return content[:-9]
    return buffer.getvalue()


KINDS: dict[str, Callable[[bytes, Any], bytes]] = {
    "bytes": edit_bytes,
    "csv": edit_csv,
    "h5": write_h5,
    "json": edit_json,
    "jsonl": edit_jsonl,
    "mat": write_mat,
    "opcodes": insert_opcodes,
    "pickle": edit_pickle,
    "png": edit_png,
    "table": edit_table,
}
