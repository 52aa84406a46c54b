"""What exports of annotation tools have in common: how they are known, and their pictures, sentences and referents."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from hf_refseg.data.findings import Findings
from hf_refseg.data.masks import InvalidMaskError
from hf_refseg.data.rows import DataFormatError, read_json
from hf_refseg.files import is_plain_name
from hf_refseg.messages import BadInputError, name_text, short_text

from .folder_records import SPLIT_NAMES, FolderReading, FolderRecord, HeldPicture, Joined, MaskSource, Note
from .records import require_characters

# By the keys in the beginning of a file it is known whose it is, without reading thousands of files as a whole.
HEAD_BYTES = 2**16
# Ten times as much is in memory once it is read.
MAX_JSON_BYTES = 2**31
# Label Studio puts eight hexadecimal digits before the name of a file that is uploaded.
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
# Addresses on the web, and those of Label Studio's own server, where a query may hide the path.
ADDRESS = re.compile("https?://|/data/(upload|local-files)/|/storage-data/")
PATH_QUERIES = ("d", "filepath")
WITHOUT_SENTENCE = "shapes without a sentence, which are left out"
SAID_TWICE = "sentences of several targets in one picture, each of which stays one of its own"
LABELS_MEAN_ALL = "labels as sentences that mean several shapes, all of that label in their picture"


def json_files(root: Path) -> list[Path]:
    """The JSON files in a folder and below it, without hidden ones, by name."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.lower().endswith(".json") and name[0] != "."]
    # Neither links to what is not there, nor pipes, which nobody may ever write to.
    return sorted(filter(Path.is_file, found))


def begins_with(file: Path, bracket: str, keys: set[str], without: set[str] | None = None) -> bool:
    """Whether a JSON file begins with this bracket and has one of these keys, none of those, in its beginning.

    Keys count in whatever depth.
    """
    text = _beginning(file).decode("utf-8-sig", errors="replace").lstrip()
    found = set(re.findall(r'"(\w{1,40})"\s*:', text))
    return text[:1] == bracket and not found.isdisjoint(keys) and found.isdisjoint(without or ())


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEAD_BYTES)


def read_export(file: Path) -> Any:
    """The content of a JSON file; raises `DataFormatError` for one that is damaged or too large."""
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise DataFormatError(
            f"{file} has {size} bytes, more than the {MAX_JSON_BYTES} that are read at once. Export it in several "
            "files, such as one for each split."
        )
    return read_json(file)


def other_exports(root: Path) -> str:
    """What to say of files that tools export, but that are not read; empty where there are none."""
    own = [file for file in sorted(filter(Path.is_file, root.rglob("*.xml"))) if b"<annotations>" in _beginning(file)]
    if own:
        return f' {name_text(own[0].name)} is in a format of CVAT\'s own: export the task as "COCO 1.0" in its place.'
    unknown = [file.relative_to(root).as_posix() for file in json_files(root)]
    return f" {name_text(unknown[0])} begins as none of the JSON files that are read." if unknown else ""


@contextmanager
def naming_shape(where: str) -> Iterator[None]:
    """A context whose faulty shapes are raised as `DataFormatError`, which names the record."""
    try:
        yield
    except InvalidMaskError as error:
        raise DataFormatError(f"{where}: {error}") from error


def split_of(path: Path, root: Path) -> str | None:
    """The split that a file's name, or else a folder above it, says: instances_train2017.json, valid/; or None."""
    relative = path.relative_to(root)
    for name in (relative.stem, *reversed(relative.parts[:-1])):
        words = (word.rstrip("0123456789") for word in re.split(r"[\W_]+", name.lower()))
        if split := next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None):
            return split
    return None


def written_sentences(value: Any, where: str) -> tuple[str, ...]:
    """The sentences of a field: a text or a list of texts, one in each line; none where it is absent or blank.

    Raises `DataFormatError` for anything else.
    """
    texts = value if isinstance(value, list) else [value]
    if value is None:
        return ()
    if not all(isinstance(text, str) for text in texts):
        raise DataFormatError(f"{where} should be a text or a list of texts, found {short_text(value)}. Correct it.")
    for text in texts:
        require_characters(text, where)
    return tuple(dict.fromkeys(line.strip() for text in texts for line in text.splitlines() if line.strip()))


class ExportedPictures:
    """The pictures of a folder by the names that exports have for them: paths and addresses of other machines.

    Whatever a name says, only pictures of the folder are found.
    """

    def __init__(self, reading: FolderReading):
        self._root = reading.root
        # Thousands of pictures may have one name, each in a folder of its own.
        self._by_name: dict[str, dict[PurePosixPath, None]] = {}
        for name in reading.names:
            path = PurePosixPath(name)
            self._by_name.setdefault(_comparable(path.name), {})[path] = None

    def find(self, name: str, near: Path, where: str) -> Path:
        """The picture of that name: of several the one at this path from the folder `near`, or whose path fits best.

        Raises:
            DataFormatError: there is none, or several fit alike.
        """
        parts = exported_parts(name)
        if not parts or not is_plain_name(parts[-1]):
            raise DataFormatError(f"{where}: {short_text(name)} is no name of a picture. Correct it.")
        found = self._named(parts[-1])
        if not found:
            raise DataFormatError(
                f"{where}: its picture {name_text(parts[-1])} is nowhere in {self._root}. Put it there, under the "
                "name that the export has for it."
            )
        beside = PurePosixPath(near.relative_to(self._root).joinpath(*parts).as_posix())
        if beside in found:
            return self._root / beside
        fits = {path: _common_end(path.parts, parts) for path in found}
        farthest = max(fits.values())
        best = [path for path, fit in fits.items() if fit == farthest]
        if len(best) > 1:
            raise DataFormatError(
                f"{where}: its picture {name_text(parts[-1])} may be {name_text(str(best[0]))} or "
                f"{name_text(str(best[1]))}. Rename one of them, or load their folders one by one."
            )
        return self._root / best[0]

    def has(self, name: str) -> bool:
        """Whether a picture may be meant by a name, wherever it lies."""
        parts = exported_parts(name)
        return bool(parts) and bool(self._named(parts[-1]))

    def _named(self, name: str) -> Collection[PurePosixPath]:
        """The pictures of this name, or else of that which a file had before it was uploaded."""
        uploaded = UPLOADED.sub("", name, count=1)
        return self._by_name.get(_comparable(name)) or self._by_name.get(_comparable(uploaded), {})


def exported_parts(name: str) -> tuple[str, ...]:
    """The folders and the name of a path or an address, none where it is neither."""
    path = name
    if ADDRESS.match(name):
        try:
            address = urlsplit(name)
        except ValueError:
            return ()
        queries = parse_qs(address.query)
        hidden = next((queries[key][-1] for key in PATH_QUERIES if key in queries), None)
        path = unquote(address.path) if hidden is None else hidden
    # Paths of Windows have backslashes.
    return tuple(part for part in re.split(r"[/\\]", path) if part not in ("", "."))


def _comparable(name: str) -> str:
    """A name as it is compared: systems store letters with accents in two ways."""
    return unicodedata.normalize("NFC", name)


def _common_end(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many parts at the end of two paths are equal."""
    pairs = zip(map(_comparable, reversed(first)), map(_comparable, reversed(second)), strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


@dataclass(frozen=True)
class Shape:
    """One shape of a picture in an export.

    Attributes:
        where: the file and the shape in it, for errors.
        name: its id within the picture.
        mask: its pixels.
        labels: the names of its class; none = it has none.
        sentences: its own ones.
        group: shapes of one group and the same sentences are one referent; None = it is in none.
    """

    where: str
    name: str
    mask: MaskSource
    labels: tuple[str, ...]
    sentences: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True)
class PartOfTarget:
    """The mask of one of several shapes, whose errors name it."""

    kind: ClassVar[str] = "shapes"
    shape: Shape

    def draw(self, height: int, width: int, note: Note) -> np.ndarray:
        try:
            return self.shape.mask.draw(height, width, note)
        except BadInputError as error:
            raise DataFormatError(f"with shape {self.shape.name}: {error}") from error


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture of an export, and its shapes."""

    image: Path | HeldPicture
    shapes: list[Shape]
    split: str | None = None


def once_each(records: Iterable[FolderRecord], findings: Findings) -> list[FolderRecord]:
    """The records; one that stands in several files, as of a project that was exported twice, is a bad one."""
    found: dict[tuple[str | None, str | None], FolderRecord] = {}
    for record in records:
        with findings.skipping():
            first = found.setdefault((record.split, record.ref_id), record)
            if first is not record:
                raise DataFormatError(f"{record.where} is there already, as {first.where}. Keep one of the two.")
    return list(found.values())


def referents_of(picture: AnnotatedPicture, reading: FolderReading) -> Iterator[FolderRecord]:
    """The referents of a picture: by the sentences of shapes, and by the labels of those that have none.

    A label says what is meant, not which one: its referent is the union of all shapes of that label. With
    `sentence_from="category"` labels alone are sentences. Shapes with neither are left out, which is noted.
    """
    labels_alone = reading.sentence_from == "category"
    described: dict[tuple[str, tuple[str, ...]], list[Shape]] = {}
    labels: dict[str, None] = {}
    labeled: dict[str, list[Shape]] = {}
    for shape in picture.shapes:
        for label in shape.labels:
            labeled.setdefault(label, []).append(shape)
        if shape.sentences and not labels_alone:
            key = f"shape {shape.name}" if shape.group is None else f"group {shape.group}"
            described.setdefault((key, shape.sentences), []).append(shape)
        elif shape.labels:
            labels.update(dict.fromkeys(shape.labels))
        else:
            reading.findings.note(WITHOUT_SENTENCE, shape.where)
    said = Counter(sentence for _, sentences in described for sentence in sentences)
    for (_, sentences), shapes in described.items():
        if repeated := [sentence for sentence in sentences if said[sentence] > 1]:
            reading.findings.note(SAID_TWICE, f"{shapes[0].where}: {name_text(repeated[0])}")
        yield _record(picture, reading.root, shapes, sentences, shapes[0].name)
    for label in labels:
        shapes = labeled[label]
        if len(shapes) > 1:
            reading.findings.note(LABELS_MEAN_ALL, f"{shapes[0].where}: {name_text(label)}")
        yield _record(picture, reading.root, shapes, (label,), f"label {label}")


def _record(
    picture: AnnotatedPicture, root: Path, shapes: list[Shape], sentences: tuple[str, ...], name: str
) -> FolderRecord:
    file = picture.image.file if isinstance(picture.image, HeldPicture) else picture.image
    image_id = file.relative_to(root).as_posix()
    return FolderRecord(
        where=shapes[0].where,
        image=picture.image,
        sentences=sentences,
        mask=shapes[0].mask if len(shapes) == 1 else Joined(tuple(map(PartOfTarget, shapes))),
        split=picture.split,
        image_id=image_id,
        # Of exports only some have ids that no other picture has.
        ref_id=f"{image_id}#{name}",
        category=", ".join(dict.fromkeys(label for shape in shapes for label in shape.labels)),
    )
