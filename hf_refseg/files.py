"""Writing files so that a kill in the middle never damages one that is already there."""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK = ".lock"


def is_plain_name(name: object) -> bool:
    """Whether a name is one plain part of a path; another one could lead out of the folder that it is meant for."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def may_be_on_hub(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of nothing on this machine, and could be the id user/name of something on the Hub."""
    return not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) is not None


def slug(text: str) -> str:
    """A text as a safe part of a file name: a to z, digits, "+" and "-", at most 40; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9+]+", "-", plain)[:40].strip("-")


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file of another name (`.partial`), which then takes the place of `path`.

    The other name is like no other, so that several processes may write one file: the last one's stays. What cannot be
    finished is removed; only a kill leaves it behind.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON as `write_whole` does; what JSON has no type for is written as text."""
    text = json.dumps(content, indent=1, default=str)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within this context no other process writes to a folder that several may fill; waits, and says so, for another.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("Another process is writing to %s: waiting until it has finished or ended.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def begin_folder(manifest: Path, content: Any) -> bool:
    """Makes the folder of a manifest, and the manifest, where there is none yet: of several processes the first one.

    Returns False, and changes nothing, where the folder holds other files. Hidden and partial ones do not count: they
    are what a killed process left.
    """
    folder = manifest.parent
    if manifest.exists():
        return True
    if folder.exists() and (not folder.is_dir() or any(map(_is_finished, folder.iterdir()))):
        # Another process may have begun the folder in the meantime.
        return manifest.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        if not manifest.exists():
            write_json(manifest, content)
    return True


def _is_finished(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix != ".partial"
