"""Files of data sets: found in their folders, and read as texts, tables and pictures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from PIL import Image

from hf_refseg.data.rows import DataFormatError
from hf_refseg.files import is_plain_path
from hf_refseg.messages import short_text
from hf_refseg.modeling.picture_files_refseg import PictureError, open_picture, picture_faults, upright_rgb

from .records import AGAIN, list_folder

# What code page 1252 has in the place of control characters; five bytes it leaves undefined, and they stay.
WINDOWS_CHARACTERS = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)}


def require_file(path: Path, root: Path, expected: str) -> Path:
    """The path; raises `DataFormatError` with the `expected` layout when there is no such file."""
    if not path.is_file():
        raise DataFormatError(
            f"{path} does not exist. Expected {expected} under {root}; found {list_folder(root)}. Point data_dir at "
            "the folder that holds them, or download what is missing."
        )
    return path


def checked_path(folder: Path, name: Any, prefix: str, where: str) -> Path:
    """A relative path of a record, which may begin with `prefix`, inside `folder`; one that leads out is refused."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if ".." in parts:
        raise DataFormatError(f"{where}: the path {short_text(name)} leads out of {folder}. {AGAIN}")
    if not parts or not is_plain_path(name):
        raise DataFormatError(
            f"{where}: {short_text(name)} is no path inside the data folder {folder}. Write it as it is from there "
            "on, or download the file again."
        )
    return folder.joinpath(*(parts[1:] if parts[:1] == (prefix,) else parts))


def check_link(path: Path, root: Path, where: str) -> None:
    """Raises `DataFormatError` where a file is a link to one that lies neither in `root` nor in its own folder.

    In an archive of a stranger such a link could bring a private picture, or private lines, of whoever unpacks it into
    a data set that is shared. Folders that are links are made by users themselves.
    """
    if not path.is_symlink():
        return
    target = path.resolve()
    if not any(target.is_relative_to(folder.resolve()) for folder in (root, path.parent)):
        raise DataFormatError(
            f"{where}: {path} is a link to {target}, outside of the data folder. Put the file itself there, or make "
            "a link to its whole folder."
        )


def read_text(path: Path) -> str:
    """A text in UTF-8 or else, as older editors write it, in code page 1252 or Latin-1, which agree on all letters.

    Raises:
        DataFormatError: it is no text: it holds zeros.
    """
    content = path.read_bytes()
    if b"\0" in content:
        raise DataFormatError(f"{path} is no text in UTF-8. Save it in UTF-8, or download the file again.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeError:
        return content.decode("latin-1").translate(WINDOWS_CHARACTERS)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of such a text that are not blank, each with its number from 1."""
    # Other characters than those that end a line here end one for `splitlines`, and occur within sentences.
    for number, line in enumerate(re.split("\r\n?|\n", read_text(path)), start=1):
        if line.strip():
            yield number, line


def read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV file that are not blank, each with its file and number as a text, for messages."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise DataFormatError(f"{path} is not valid CSV ({error}). Download the file again.") from error
    for number, row in enumerate(rows, start=1):
        if row:
            yield f"{path}: line {number}", row


def picture_size(path: Path, where: str) -> tuple[int, int]:
    """Height and width of a picture, by its header."""
    return read_picture(path, where, lambda picture: (picture.height, picture.width))


def read_picture(path: Path, where: str, read: Callable[[Image.Image], Any], content: BinaryIO | None = None) -> Any:
    """What `read` makes of a picture that is opened, but not decoded yet: a file, or `content` that stands in it."""
    try:
        with picture_faults(), open_picture(content or path) as picture:
            return read(picture)
    except FileNotFoundError as error:
        raise DataFormatError(f"{path} ({where}) does not exist. Download it.") from error
    except PictureError as error:
        raise DataFormatError(
            f"{path} ({where}) cannot be read as a picture: it is {error}. Download it again, or save it as "
            "JPEG or PNG."
        ) from error


def turned_file(picture: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """A file of the picture, turned, without what its camera wrote; and its height and width."""
    turned = upright_rgb(picture)
    file = io.BytesIO()
    if picture.format in ("JPEG", "MPO"):
        turned.save(file, format="JPEG", quality=95, subsampling=0)
    else:
        turned.save(file, format="PNG")
    return file.getvalue(), (turned.height, turned.width)
