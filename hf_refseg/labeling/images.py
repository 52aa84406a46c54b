"""What is labeled: photographs of a folder, or the images of a data set, each with the texts that it is asked for."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from ..data.catalog import DATASETS
from ..data.examples import checked_sentences, image_bounds, open_image, read_image_file, undecoded
from ..data.leakage import image_collections
from ..data.loading import load_refseg
from ..data.prepared import find_specs, is_prepared, source_name
from ..data.rows import DataFormatError, holds_videos
from ..datasets_scripts.original_files import check_link, turned_file
from ..datasets_scripts.records import LONE_SURROGATE, require_characters
from ..files import may_be_on_hub, public_name
from ..messages import BadInputError, name_text, short_text
from ..modeling.picture_files_refseg import decode_rgb, is_turned, naming_picture, open_picture
from ..modeling.video_refseg import IMAGE_SUFFIXES

# Of photographs, which are for val: training asks for such a split.
VAL_SHARE = 0.1


@dataclass(frozen=True)
class AskedText:
    """A text that an image is asked for.

    Attributes:
        raw: the text.
        sent_id: what it is called in the data set that it comes from; None = it comes from none.
    """

    raw: str
    sent_id: str | None = None


@dataclass(frozen=True)
class AskedImage:
    """An image that is labeled.

    Attributes:
        image_id: like that of no other image of its split.
        texts: what it is asked for, each once.
        size: height and width of its masks.
        file: what a row holds of it, of that size as its pixels are stored.
        name: what the file is called; None = nothing is known.
        other_ids: its ids in other collections, by column.
    """

    image_id: str
    texts: tuple[AskedText, ...]
    size: tuple[int, int]
    file: bytes
    name: str | None
    other_ids: Mapping[str, str | None] = field(default_factory=dict)


class ImagesToLabel(ABC):
    """Images in order, by split, and what each is asked for. Its pickle goes to other processes.

    Attributes:
        name: what they are called together, without any place of this machine.
        counts: the number of images of each split.
        other_ids: columns with ids of the images in other collections.
        source_datasets: what the metadata of a card say that they come from.
        folder: whose files they are; None = a data set's.
    """

    name: str
    counts: Mapping[str, int]
    other_ids: Sequence[str] = ()
    source_datasets: Sequence[str] = ("original",)
    folder: Path | None = None

    @abstractmethod
    def image_id(self, split: str, place: int) -> str:
        """The id of an image, which is not read."""

    @abstractmethod
    def texts(self, split: str, place: int) -> tuple[AskedText, ...]:
        """What an image is asked for; it is not read."""

    @abstractmethod
    def read(self, split: str, place: int) -> tuple[AskedImage, Image.Image]:
        """An image, and its picture in RGB, as it is stored in its file.

        Raises:
            OSError, ValueError: it is absent, damaged or something else; the message names the file.
        """

    def fingerprint(self) -> str:
        """A hash of the ids of all images and of what each is asked for."""
        digest = hashlib.sha256()
        for split, count in self.counts.items():
            for place in range(count):
                asked = [text.raw for text in self.texts(split, place)]
                digest.update(repr((split, self.image_id(split, place), asked)).encode())
        return digest.hexdigest()


class Photographs(ImagesToLabel):
    """The photographs of a folder, and of folders in it, in the order of their paths, as `train` and `val`.

    Files are known by their endings; hidden ones and folders that are linked are left out. The id of a photograph is
    its path in the folder. One that its camera says to turn is turned, and written anew, so that rows hold what people
    see.

    Args:
        folder: the folder.
        texts: what each photograph is asked for.
        val_share: share of them that is in `val`, at least one of several; 0 = no such split. It is drawn by their
            ids, so that photographs which are added move no others.

    Raises:
        ValueError: there is no such folder or no photograph in it, no text, an empty one, a share out of range, or a
            name that is no text.
    """

    folder: Path

    def __init__(self, folder: Path, texts: Sequence[str], *, val_share: float = VAL_SHARE) -> None:
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder} with photographs to label.")
        if not texts:
            raise ValueError("Photographs have no sentences of their own: say what to segment (--texts).")
        self.folder, self.name = folder.resolve(), folder.resolve().name
        self._texts = as_asked(texts)
        if not 0 <= val_share < 1:
            raise ValueError(f"val_share is {val_share}: choose a share of the photographs, from 0 to below 1.")
        names = sorted(_names_of_photographs(self.folder))
        if not names:
            raise ValueError(f"{folder} holds no photographs: files ({', '.join(IMAGE_SUFFIXES)}) are expected there.")
        if unwritable := [name for name in names if LONE_SURROGATE.search(name)]:
            raise DataFormatError(
                f"{folder}: the name {short_text(unwritable[0])} is no text in UTF-8, as of files that came out of an "
                "archive of another system. Rename the file, or its folder."
            )
        drawn = _draw(names, val_share)
        splits = {"train": [name for name in names if name not in drawn], "val": sorted(drawn)}
        self._names = {split: members for split, members in splits.items() if members}
        self.counts = {split: len(members) for split, members in self._names.items()}

    def image_id(self, split: str, place: int) -> str:
        return self._names[split][place]

    def texts(self, split: str, place: int) -> tuple[AskedText, ...]:
        return self._texts

    def read(self, split: str, place: int) -> tuple[AskedImage, Image.Image]:
        path = self.folder / self._names[split][place]
        check_link(path, self.folder, "A photograph")
        file = path.read_bytes()
        with naming_picture(str(path)), open_picture(io.BytesIO(file)) as stored:
            if is_turned(stored):
                file, _ = turned_file(stored)
                picture = decode_rgb(open_picture(io.BytesIO(file)))
            else:
                picture = decode_rgb(stored)
        return AskedImage(self._names[split][place], self._texts, _size(picture), file, path.name), picture


class DatasetImages(ImagesToLabel):
    """The images of a data set, each once, in its order.

    Args:
        name: what the data set is called.
        dataset: the splits of `load_refseg`, of images.
        texts: what each image is asked for; None = its own sentences, each once.
        other_ids: columns with ids of the images in other collections.
        source_datasets: as in `hf_refseg.data.prepared.source_name`.

    Raises:
        ValueError: the data set holds videos, or no text is given.
        DataFormatError: the rows of an image are not adjacent.
    """

    def __init__(
        self,
        name: str,
        dataset: Mapping[str, Dataset],
        texts: Sequence[str] | None = None,
        *,
        other_ids: Sequence[str] = (),
        source_datasets: Sequence[str] = ("original",),
    ) -> None:
        if any(holds_videos(rows) for rows in dataset.values()):
            raise ValueError(f"{name} holds videos, and only images are labeled.")
        self.name, self.other_ids, self.source_datasets = name, other_ids, source_datasets
        self._texts = None if texts is None else as_asked(texts)
        self._rows = {split: undecoded(rows) for split, rows in dataset.items()}
        self._sentences = {split: rows.select_columns(["ref_id", "sentences"]) for split, rows in self._rows.items()}
        self._image_ids = {split: rows.select_columns("image_id")[:]["image_id"] for split, rows in dataset.items()}
        self._bounds = {split: image_bounds(image_ids) for split, image_ids in self._image_ids.items()}
        self.counts = {split: len(bounds) - 1 for split, bounds in self._bounds.items()}
        for split, count in self.counts.items():
            if count > len(set(self._image_ids[split])):
                raise DataFormatError(
                    f"{name} ({split}): rows of one image are not adjacent. Sort the rows by image_id first."
                )

    def image_id(self, split: str, place: int) -> str:
        return self._image_ids[split][self._bounds[split][place]]

    def texts(self, split: str, place: int) -> tuple[AskedText, ...]:
        if self._texts is not None:
            return self._texts
        start, stop = self._bounds[split][place : place + 2]
        columns = self._sentences[split][start:stop]
        found: dict[str, AskedText] = {}
        for ref_id, sentences in zip(columns["ref_id"], columns["sentences"], strict=True):
            for sentence in checked_sentences({"ref_id": ref_id, "sentences": sentences}):
                found.setdefault(sentence["raw"], AskedText(sentence["raw"], sentence["sent_id"]))
        return tuple(found.values())

    def read(self, split: str, place: int) -> tuple[AskedImage, Image.Image]:
        columns = ["image", "image_id", "ref_id", *self.other_ids]
        row: dict[str, Any] = self._rows[split].select_columns(columns)[self._bounds[split][place]]
        file, path = read_image_file(row), row["image"]["path"]
        picture = open_image({**row, "image": {"bytes": file, "path": path}})
        name = None if path is None else os.path.basename(path)
        ids = {column: row[column] for column in self.other_ids}
        return AskedImage(row["image_id"], self.texts(split, place), _size(picture), file, name, ids), picture


def find_images(name: str, texts: Sequence[str] | None = None, **options: Any) -> ImagesToLabel:
    """What a name means: a data set of `load_refseg`, or else the photographs of a folder.

    Args:
        name: a data set's name, or the folder or Hub id of a prepared one; else a folder.
        texts: what each image is asked for; None = the sentences of a data set.
        options: those of the data set, of photographs `val_share`.

    Raises:
        ValueError: there is nothing of that name, it takes no such option, or photographs are asked for nothing;
            further errors are those of `load_refseg`.
    """
    if name not in DATASETS and not is_prepared(Path(name)) and not may_be_on_hub(name):
        if unknown := options.keys() - {"val_share"}:
            raise ValueError(
                f"{name} is a folder of photographs, which takes no {min(unknown)}, only val_share: leave it out."
            )
        return Photographs(Path(name), texts or [], **options)
    dataset = load_refseg(name, **options)
    _, *other_ids = image_collections(name)
    sources = [source_name(spec.title) for spec in find_specs(name)] or ["original"]
    return DatasetImages(public_name(name), dataset, texts, other_ids=other_ids, source_datasets=sources)


def as_asked(texts: Sequence[str]) -> tuple[AskedText, ...]:
    """The texts; raises ValueError where there is none, an empty one, one twice, or one that no row can hold."""
    if not texts:
        raise ValueError("There is no text: say what to segment.")
    for text in texts:
        if not text.strip():
            raise ValueError("A text is empty: write what to segment.")
        require_characters(text, "A text")
        if texts.count(text) > 1:
            raise ValueError(f"The text {name_text(text)} is given more than once: leave it out.")
    return tuple(map(AskedText, texts))


def read_texts(file: Path) -> list[str]:
    """The lines of a text file that are not blank, without blanks around them.

    Raises:
        BadInputError: it is no text in UTF-8, or has no line.
        OSError: it cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file} is no text in UTF-8: write one text in each line.") from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise BadInputError(f"{file} is empty: write one text in each line.")
    return texts


def _size(picture: Image.Image) -> tuple[int, int]:
    return picture.height, picture.width


def _draw(names: Sequence[str], share: float) -> set[str]:
    """That share of the names, those of small hashes; of several at least one."""
    if len(names) < 2 or not share:
        return set()
    places = {name: int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for name in names}
    return {name for name, place in places.items() if place < share} or {min(names, key=places.__getitem__)}


def _names_of_photographs(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(folder, name).relative_to(root).as_posix()
