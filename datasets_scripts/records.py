"""Records of original files: their fields, texts and ids are checked here before they become rows."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from hf_refseg.data.masks import MAX_PIXELS
from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import name_text, one_line, short_text

AGAIN = "Download the file again, or correct the record."
# Half of a character: JSON can hold one, and nothing can write it down.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

logger = logging.getLogger(__name__)


def warn_of_repeats(where: str, what: str, ids: Iterable[Hashable], consequence: str) -> None:
    """Says once, with numbers, that ids come more than once, and what follows from it."""
    repeated = {each: count for each, count in Counter(ids).items() if count > 1}
    if repeated:
        first = next(iter(repeated))
        logger.warning(
            one_line(
                f"{where}: {len(repeated)} {what} come more than once, such as {name_text(first)} ({repeated[first]} "
                f"times): {consequence}."
            )
        )


def checked_field(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of a record; raises `DataFormatError` where it is absent, of another kind, or too large for a row."""
    value = record.get(key) if isinstance(record, dict) else None
    # Of a truth value Python makes a number as well.
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(option.__name__ for option in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataFormatError(f"{where}: '{key}' should be of type {names}, found {short_text(value)}. {AGAIN}")
    if isinstance(value, int) and not is_int64(value):
        raise DataFormatError(f"{where}: '{key}' should be a number of 64 bits, found {short_text(value)}. {AGAIN}")
    if isinstance(value, str):
        require_characters(value, f"{where}: '{key}'")
    return value


def checked_id(record: Any, key: str, where: str) -> str:
    """An id of a record, a number or a text, as a text; raises as `checked_field`."""
    return str(checked_field(record, key, (int, str), where))


def is_number(value: Any) -> bool:
    """Whether a value is a number, no truth value."""
    return type(value) in (int, float)


def checked_image_size(image: Any, where: str) -> tuple[int, int]:
    """The height and width of the record of an image; raises `DataFormatError` where no image is so large."""
    height, width = (checked_field(image, side, int, where) for side in ("height", "width"))
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise DataFormatError(f"{where} has the size {width} x {height}; expected up to {MAX_PIXELS} pixels. {AGAIN}")
    return height, width


def is_int64(value: Any) -> bool:
    """Whether a value is an integer, no truth value, that fits into 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def is_split_name(name: str) -> bool:
    """Whether a split may be called so: `datasets` and the names of prepared files know no others."""
    # To `datasets` "all" are all splits together.
    return name != "all" and re.fullmatch("[A-Za-z0-9_]{1,60}", name) is not None


def require_characters(text: str, where: str) -> None:
    """Raises `DataFormatError` for a text with half a character, which no file of rows can hold."""
    if LONE_SURROGATE.search(text):
        raise DataFormatError(
            f"{where} has half a character (a lone surrogate): {short_text(text)}. Write the text again."
        )


def list_folder(folder: Path) -> str:
    """Up to eight names of what lies in a folder, for an error."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(map(name_text, names[:8])) or "nothing"


def fingerprint_files(paths: list[Path]) -> str:
    """A hash of the files' contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def fingerprint_states(root: Path, paths: Iterable[Path]) -> str:
    """A hash of the names, sizes and times of files under a folder, where there are too many to read them."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        state = path.stat()
        digest.update(f"{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def usual_order(splits: Iterable[str]) -> list[str]:
    """The splits that files name: those to train on, to validate on and to test on, then others, by the alphabet."""
    parts = ("train", "val", "test")
    return sorted(splits, key=lambda name: (next((i for i, part in enumerate(parts) if part in name), 3), name))
