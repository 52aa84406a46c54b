"""Writing files so that neither a kill nor a full disk damages what is already there, or leaves it half written."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from .messages import BadInputError
from .modeling.json_files_refseg import SavedFileError, read_mapping

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

LOCK = ".lock"
PARTIAL = ".partial"
# In bytes; systems open up to 4096, from the root on.
LONGEST_PATH = 1024
# What writing alone can run into, never reading: no room, no share of it left, a file too large, a read-only disk.
WRITE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class OutputError(OSError):
    """A folder that cannot be written, or has no room for a file."""


def is_plain_name(name: object) -> bool:
    """Whether a name is one plain part of a path; another one could lead out of the folder that it is meant for.

    One with half a character (a lone surrogate), or of more than 255 bytes, is the name of no file either.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0\ud800-\udfff]", name):
        return False
    return len(name.encode()) <= 255


def is_plain_path(path: str) -> bool:
    """Whether a path consists of plain names, see `is_plain_name`, and is short enough to be opened in a folder."""
    parts = PurePosixPath(path).parts
    return bool(parts) and all(map(is_plain_name, parts)) and len(path.encode()) <= LONGEST_PATH


def may_be_on_hub(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of nothing on this machine, and could be the id user/name of something on the Hub.

    Neither part of an id begins with a point or a hyphen, so ./name is a path.
    """
    return not Path(name).exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)) is not None


def public_name(name: str) -> str:
    """A name as others may see it: of a path of this machine the last part alone, anything else as it is."""
    is_path = os.path.isabs(name) or name.startswith(("~", "./", "../")) or ("/" in name and os.path.exists(name))
    return os.path.basename(os.path.abspath(name)) if is_path else name


def slug(text: str) -> str:
    """A text as a safe part of a file name: a to z, digits, "+" and "-", at most 40; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9+]+", "-", plain)[:40].strip("-")


def unique_names(bases: Iterable[str]) -> list[str]:
    """The names, those that are there several times numbered in order: "photo", "photo-2"."""
    names: dict[str, None] = {}
    for base in bases:
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names[name] = None
    return list(names)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def what_is_in(folder: Path) -> str:
    """What lies in a folder, for an error."""
    if not folder.is_dir():
        return "it is a file" if folder.exists() else "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"found {', '.join(names[:8]) or 'nothing'}"


@contextmanager
def in_place_of(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A context that fills a file or a folder of another name (`.partial`), which then takes the place of `path`.

    The other name is like no other, so that several processes may write one file: the last one's stays. What cannot be
    finished is removed; only a kill leaves it behind.

    Raises:
        OutputError: the disk is full.
        FileExistsError: it is a folder, and in the meantime there is one that holds files.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        with writing_into(path.parent):
            yield partial
            if partial.is_dir() and path.is_dir() and any(path.iterdir()):
                raise FileExistsError(f"{path} is there already. Choose another folder as output.")
            partial.replace(path)
    finally:
        _remove(partial)


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file that takes the place of `path`, as `in_place_of` does."""
    with in_place_of(path) as partial:
        write(partial)


@contextmanager
def writing_into(
    folder: str | os.PathLike[str], remedy: str = "Make room, or choose another folder"
) -> Iterator[None]:
    """A context that fills a folder, and says so where the disk is full: libraries tell it each in its own way.

    Args:
        folder: the folder.
        remedy: what to do before the same command is started again.

    Raises:
        OutputError: there is no room for more, or the disk is read-only.
    """
    try:
        yield
    except Exception as error:
        reason = find_write_fault(error)
        if reason is None or isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{folder} cannot be written ({reason}). {remedy}, and start the same command again: what is finished is "
            "kept."
        ) from error


def find_write_fault(error: BaseException) -> str | None:
    """Which of `WRITE_FAULTS` an error, or one that led to it, comes from, in words; None for any other error."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        # Some tell the number in their text alone: libraries in Rust (safetensors, tokenizers), or copies of folders.
        told = re.search(r"(?:os error|Errno) (\d+)", str(cause))
        numbers = (getattr(cause, "errno", None), int(told[1]) if told else None)
        if found := [number for number in numbers if number in WRITE_FAULTS]:
            return os.strerror(found[0])
        # So `datasets` says what it sees before it writes anything.
        if isinstance(cause, OSError) and str(cause).startswith("Not enough disk space"):
            return os.strerror(errno.ENOSPC)
        # That a stream of C++ took no more is all that `torch.save` tells.
        if isinstance(cause, RuntimeError) and "iostream" in str(cause):
            return "the disk is full, or takes no file as large"
    return None


def require_no_folder(path: Path, option: str) -> None:
    """Raises ValueError where the file that an option names is a folder."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: pass the name of a file to {option}.")


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Sees to it that a folder can be written, or made, before the work whose results it is for; leaves no trace.

    Raises:
        OutputError: it cannot, or something in its path is no folder.
    """
    folder = Path(folder)
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({nearest}: {error.strerror}). Choose another folder, or make it writable."
        ) from error


def require_new_folder(folder: Path) -> None:
    """Raises ValueError where a folder holds anything, or OutputError where it cannot be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds other files. Choose a new or an empty folder as output.")
    require_writable(folder)


@contextmanager
def filling_new_folder(folder: Path) -> Iterator[None]:
    """A context that fills a new or empty folder, as `writing_into` does; an error leaves no folder behind."""
    try:
        with writing_into(folder):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON as `write_whole` does; what JSON has no type for is written as text."""
    text = json.dumps(content, indent=1, default=str)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_picture(path: str | os.PathLike[str], picture: Image.Image) -> None:
    """Writes a PNG file as `write_whole` does."""
    write_whole(path, lambda partial: picture.save(partial, format="PNG"))


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within this context no other process writes to a folder that several may fill; waits, and says so, for another.

    What a killed one had not finished (`.partial`) is removed.

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
        for partial in list(folder.rglob(f"*{PARTIAL}")):
            _remove(partial)
        yield
    finally:
        lock.release()


def begin_folder(
    manifest: Path, content: Mapping[str, Any], error: type[BadInputError] = BadInputError
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Begins a folder that is filled step by step, or goes on with one; then fill it within `only_writer`.

    Its manifest, a JSON file, says what the folder holds. Of several processes the first one writes it.

    Args:
        manifest: the file.
        content: what the folder shall hold.
        error: what is raised.

    Returns:
        What the manifest and `content` do not share: of the manifest, and of `content`. Both are empty where the
        folder is new or was begun with the same.

    Raises:
        BadInputError: the manifest is damaged, or the folder holds other files. Hidden and partial ones do not count:
            they are what a killed process left.
        OSError: the folder cannot be made or written.
    """
    folder = manifest.parent
    if not _is_begun(manifest):
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            if not manifest.exists():
                write_json(manifest, dict(content))
    elif not manifest.exists():
        raise error(f"{folder} holds other files, but no {manifest.name}. Choose a new or an empty folder as output.")
    try:
        begun = read_mapping(manifest, f"Delete {folder}, and start again.")
    except SavedFileError as damage:
        raise error(str(damage)) from damage
    # As it comes back from the file: tuples as lists, numbers as keys as text.
    wanted = json.loads(json.dumps(dict(content), default=str))
    return _not_in(wanted, begun), _not_in(begun, wanted)


def _is_begun(manifest: Path) -> bool:
    """Whether a folder holds its manifest, or anything else that is finished."""
    folder = manifest.parent
    if manifest.exists() or (folder.exists() and not folder.is_dir()):
        return True
    return folder.exists() and any(
        not path.name.startswith(".") and path.suffix != PARTIAL for path in folder.iterdir()
    )


def _not_in(other: Mapping[str, Any], mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a mapping that another one does not hold, or holds with another value."""
    return {key: value for key, value in mapping.items() if key not in other or other[key] != value}


def _remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
