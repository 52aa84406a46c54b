"""What the formats of people's own folders have in common: their records, where files lie, and kinds of masks."""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from hf_refseg.data.masks import check_filled, decode_mask, rasterize_polygons
from hf_refseg.data.rows import DataFormatError
from hf_refseg.messages import name_text, short_text
from hf_refseg.modeling.video_refseg import IMAGE_SUFFIXES

from .mask_pictures import read_mask_picture
from .original_files import checked_path
from .records import is_int64, is_number, is_split_name, require_characters

if TYPE_CHECKING:
    from hf_refseg.data.findings import Findings

# What tools call the splits of this library.
SPLIT_NAMES = {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
    **{name: name for name in ("train", "val", "test")},
}
# So many names before and behind one in their order are compared with it letter by letter to find the nearest.
COMPARED_NAMES = 50

Note = Callable[[str], None]


class MaskSource(Protocol):
    """Where the mask of a record comes from.

    `kind` names it, as in "masks from polygons".
    """

    @property
    def kind(self) -> str: ...

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        """The mask (bool) for a picture of this height and width in pixels.

        It may have a size of its own, which the builder holds against the picture's.

        Args:
            height, width: of the picture.
            note: is told in what way the mask was repaired, if it was.

        Raises:
            BadInputError: there is no such mask; the message says what and the remedy.
        """


@dataclass(frozen=True)
class Polygons:
    """The union of polygons `[x0, y0, x1, y1, ...]` in pixels of a picture of `size` (height, width); None = its own.

    Args:
        polygons: at least one, each of three points or more.
        size: what the file says of the picture's size.
    """

    kind: ClassVar[str] = "polygons"
    polygons: Sequence[Sequence[float]]
    size: tuple[int, int] | None = None

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        height, width = self.size or (height, width)
        if not self.polygons:
            raise DataFormatError("it has no polygon. Draw an outline, or say no_target.")
        mask = rasterize_polygons(self.polygons, height, width)
        if min(height, width) > 2 and all(0 <= side <= 1 for polygon in self.polygons for side in polygon):
            raise DataFormatError(
                f"all coordinates of its polygons lie between 0 and 1, in a picture of {width} x {height} pixels. "
                "Write them in pixels: x times the width, y times the height."
            )
        return mask


@dataclass(frozen=True)
class RunLengths:
    """COCO's run-length encoding `{"size": [height, width], "counts": ...}`, compressed or a list of numbers."""

    rle: Any
    kind: str = "RLE"

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        return decode_mask(self.rle)


@dataclass(frozen=True)
class Box:
    """A box as mask: x, y, width and height in pixels, of a picture of `size` (height, width); None = its own."""

    kind: ClassVar[str] = "boxes"
    box: Sequence[float]
    size: tuple[int, int] | None = None

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        height, width = self.size or (height, width)
        box = self.box
        if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_finite, box)):
            raise DataFormatError(
                f"its box should be four finite numbers, x, y, width and height, found {short_text(box)}."
            )
        x, y, box_width, box_height = box
        if box_width <= 0 or box_height <= 0:
            raise DataFormatError(f"its box {short_text(box)} has no area. Write x, y, width and height in pixels.")
        if x < -1 or y < -1 or x + box_width > width + 1 or y + box_height > height + 1:
            raise DataFormatError(
                f"its box {short_text(box)} reaches out of the picture of {width} x {height} pixels. Write x, y, "
                "width and height in pixels, not the corners."
            )
        if max(box) <= 1 and min(height, width) > 2:
            raise DataFormatError(
                f"its box {short_text(box)} is smaller than a pixel, in a picture of {width} x {height} pixels. Write "
                "x, y, width and height in pixels, not fractions of the picture."
            )
        # The pixels whose middle lies in the box, as with polygons.
        columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        return (columns >= x) & (columns < x + box_width) & (rows >= y) & (rows < y + box_height)


@dataclass(frozen=True)
class MaskPicture:
    """A picture of the mask, see `read_mask_picture`; brighter than `above` is foreground, None = by its values."""

    path: Path
    above: int | None = None

    @property
    def kind(self) -> str:
        return self.path.suffix[1:].upper() or "pictures"

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        return read_mask_picture(self.path, self.above, note)


@dataclass(frozen=True)
class Joined:
    """The union of masks of several kinds, of which one at a time is in memory."""

    kind: ClassVar[str] = "several parts"
    parts: tuple[MaskSource, ...]

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        # One after the other: of hundreds that are as large as a photograph there is no room for all.
        union = self.parts[0].draw(height, width, note)
        check_filled(len(self.parts), *union.shape)
        for part in self.parts[1:]:
            mask = part.draw(height, width, note)
            if mask.shape != union.shape:
                raise DataFormatError(
                    f"its parts are of different sizes (height, width): {union.shape} and {mask.shape}. Draw all of "
                    "them on one picture."
                )
            union = union | mask
        return union


@dataclass(frozen=True)
class HeldPicture:
    """A picture that stands in a file of another format; `read` takes it out of `file`."""

    file: Path
    read: Callable[[Path], bytes]

    def read_bytes(self) -> bytes:
        """The content of a picture's file; raises `DataFormatError` where it is none."""
        return self.read(self.file)


@dataclass(frozen=True)
class FolderRecord:
    """A referent of a picture, as a folder has it.

    Attributes:
        where: the file and the record in it, for errors.
        image: the picture.
        sentences: at least one, as written; see `checked_sentences`.
        mask: where the mask comes from; None = there is none, which is right with `no_target` alone.
        no_target: whether the sentences are said to mean nothing in the picture.
        split: the name of its split; None = the folder says nothing of splits.
        ref_id, image_id: ids of the folder's own; None = it has none. Records of one picture and one `ref_id` are one
            referent. A picture that is held by another file has an id.
        category: what kind of thing it is, may be empty.
    """

    where: str
    image: Path | HeldPicture
    sentences: tuple[str, ...]
    mask: MaskSource | None
    no_target: bool = False
    split: str | None = None
    ref_id: str | None = None
    image_id: str | None = None
    category: str = ""


@dataclass(frozen=True)
class FolderFormat:
    """A format of people's own folders.

    Attributes:
        name: by which it is chosen.
        expects: the files by which it is known, as an error names them.
        find: those files of a folder; none where it is not of this format. What they hold is looked at only where
            their names do not tell.
        read: the records. One that is bad raises `DataFormatError` within `reading.findings.skipping()`.
        orientation: "upright" where its tools show photographs turned as their cameras say; "" = it is not known.
    """

    name: str
    expects: str
    find: Callable[[Path], list[Path]]
    read: Callable[[FolderReading], list[FolderRecord]]
    orientation: str = ""


@dataclass(frozen=True)
class FolderReading:
    """A folder that is read.

    Attributes:
        root: the folder.
        files: what the format's `find` has found in it.
        findings: what is noted of records that are bad or repaired.
        sentence_from: "sentence", or "category" where the names of categories are the sentences.
    """

    root: Path
    files: list[Path]
    findings: Findings
    sentence_from: str = "sentence"

    @cached_property
    def names(self) -> list[str]:
        """All pictures of the folder, see `pictures_in`."""
        return pictures_in(self.root)

    def find_file(self, name: Any, where: str, folders: Iterable[Path] = ()) -> Path:
        """The picture that a record names, by its path in one of some folders; by default in `root`.

        Raises:
            DataFormatError: there is none, or the name leads out of the folder; it says which one is nearest. Or it is
                hidden: nobody would notice when such a file changes.
        """
        folders = list(folders) or [self.root]
        # Tools on Windows write backslashes.
        plain = name.replace("\\", "/") if isinstance(name, str) else name
        if isinstance(plain, str) and any(part[0] == "." for part in PurePosixPath(plain).parts if part != ".."):
            raise DataFormatError(f"{where}: {short_text(name)} is hidden, and hidden files are not read. Rename it.")
        paths = [checked_path(folder, plain, "", where) for folder in folders]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise DataFormatError(
                f"{where}: {paths[0]} does not exist{self._nearest(plain)} Correct the name, or put the file there."
            )
        return found

    def _nearest(self, name: str) -> str:
        """'; the nearest is ...', or what there is at all."""
        if not self.names:
            return f"; there is no picture ({', '.join(IMAGE_SUFFIXES)}) in {self.root}."
        for given, known in zip(_alike(name), self._names_alike, strict=True):
            if given in known:
                return f"; there is {name_text(known[given])}."
        close = get_close_matches(name, neighbors(name, self.names), 1)
        return f"; the nearest is {name_text(close[0])}." if close else "."

    @cached_property
    def _names_alike(self) -> list[dict[str, str]]:
        """The first picture for each path, each name and each name without suffix, in small letters."""
        alike: list[dict[str, str]] = [{}, {}, {}]
        for name in self.names:
            for known, given in zip(alike, _alike(name), strict=True):
                known.setdefault(given, name)
        return alike


def _alike(name: str) -> tuple[str, str, str]:
    """The path, the name and the name without suffix of a picture, in small letters."""
    path = PurePosixPath(name.casefold())
    return str(path), path.name, path.stem


def neighbors(name: str, names: Sequence[str]) -> Sequence[str]:
    """Those of some ordered names that come nearest before and behind a name."""
    place = bisect_left(names, name)
    return names[max(0, place - COMPARED_NAMES) : place + COMPARED_NAMES]


def pictures_in(folder: Path) -> list[str]:
    """All pictures of a folder and of those in it by their path there, in order, but hidden ones.

    Those are copies that systems and editors make, such as `._0.jpg` and `.ipynb_checkpoints/0.jpg`.
    """
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        paths = (Path(place, name) for name in names if name[0] != ".")
        found += [
            path.relative_to(folder).as_posix()
            for path in paths
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        ]
    return sorted(found)


def checked_sentences(value: Any, where: str) -> tuple[str, ...]:
    """One sentence or a list of them, without blanks around them; raises `DataFormatError` for anything else."""
    sentences = [value] if isinstance(value, str) else value
    if not isinstance(sentences, list) or not sentences:
        raise DataFormatError(f"{where} has no sentence, found {short_text(value)}. Write one, or remove the record.")
    for sentence in sentences:
        if not isinstance(sentence, str) or not sentence.strip():
            raise DataFormatError(
                f"{where}: a sentence should be a text, found {short_text(sentence)}. Write it, or remove it."
            )
        require_characters(sentence, f"{where}: a sentence")
    return tuple(sentence.strip() for sentence in sentences)


def checked_id(value: Any, key: str, where: str) -> str | None:
    """An id, a text or a whole number, as text; None where there is none. Raises `DataFormatError` for other kinds."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) and not is_int64(value):
        raise DataFormatError(
            f"{where}: '{key}' should be a text or a whole number, found {short_text(value)}. Correct it."
        )
    require_characters(str(value), f"{where}: '{key}'")
    return str(value)


def checked_split(value: Any, where: str) -> str | None:
    """The name of a split as this library calls it; None where there is none. Raises `DataFormatError` for no name."""
    name = checked_id(value, "split", where)
    if name is None or name.lower() in SPLIT_NAMES:
        return name and SPLIT_NAMES[name.lower()]
    if not is_split_name(name):
        raise DataFormatError(
            f"{where}: the split should be named by letters, digits and '_', up to 60, such as train, val or test, "
            f"found {short_text(value)}. Correct it."
        )
    return name


def _is_finite(value: Any) -> bool:
    # As a float, which a number of a thousand digits is not.
    return is_number(value) and -sys.float_info.max <= value <= sys.float_info.max
