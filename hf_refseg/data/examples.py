"""Rows of a data set as training and evaluation examples, decoded on access, and the collator that batches them."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from hf_refseg.data.masks import InvalidMaskError, decode_mask, size_of_rle
from hf_refseg.data.rows import DataFormatError, InvalidRowError
from hf_refseg.messages import name_text
from hf_refseg.modeling.picture_files_refseg import PictureError, decode_rgb, is_turned, open_picture, picture_faults

ReadImage = Callable[[dict[str, Any]], Any]

REQUIRED_COLUMNS = ("image", "image_id", "ref_id", "mask", "no_target", "sentences")


class DrawnExamples(Dataset):
    """Examples of which a part is drawn, by nothing but `seed`, the epoch and the index.

    The epoch lies in shared memory, where worker processes that live on between epochs see it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Makes the items those of this epoch, in worker processes too."""
        self._epoch.fill_(epoch)

    def generator_of(self, index: int) -> random.Random:
        """What the item of this index is drawn with."""
        return random.Random(f"{self.seed}-{self._epoch.item()}-{index}")

    def read(self, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The items of these indices, each made when the one before it has been taken."""
        return map(self.__getitem__, indices)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items of a batch, as a `DataLoader` asks for them."""
        return list(self.read(indices))


class ReferentExamples(DrawnExamples):
    """For training: one item per row (referent), with one of its sentences.

    The sentence depends on nothing but `seed`, the epoch and the index, so a run that resumes, or that splits the rows
    among processes and workers otherwise, reads the same sentences. `set_epoch` also reaches worker processes that
    live on between epochs (`persistent_workers=True`): the epoch lies in shared memory.

    An item is {"image": PIL image (RGB), "text": str (the raw sentence), "mask": bool (H, W), "image_id": str,
    "ref_id": str, "sent_id": str, "no_target": bool}. The image stays in the orientation in which its pixels are
    stored, EXIF rotation is not applied: annotations such as COCO's outline the stored pixels.

    `read_image` makes the image of a row; what another function than `open_image` gives needs its height and width.

    Raises `DataFormatError` when a column is missing and, on access, `InvalidRowError` or `InvalidMaskError` for a row
    whose image, sentence or mask is unusable.
    """

    def __init__(self, dataset: datasets.Dataset, seed: int = 0, read_image: ReadImage | None = None):
        super().__init__(seed)
        self.rows = undecoded(dataset)
        self.read_image = read_image or open_image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        (item,) = self.read([index])
        return item

    def read(self, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        indices = [range(len(self))[index] for index in indices]
        # One by one they would take three times as long to come out of their table.
        for index, row in zip(indices, self.rows.__getitems__(indices), strict=True):
            yield draw_item(row, self.generator_of(index), self.read_image)


class SentenceExamples(Dataset):
    """For evaluation: one item per sentence, in the order of the rows, so sentences of one image stay adjacent.

    Items, `read_image` and errors as in `ReferentExamples`.
    """

    def __init__(self, dataset: datasets.Dataset, read_image: ReadImage | None = None):
        self.rows = undecoded(dataset)
        self.read_image = read_image or open_image
        counts = [len(sentences) for sentences in self.rows.select_columns("sentences")[:]["sentences"]]
        self._row_of_item = np.repeat(np.arange(len(counts)), counts)
        self._first_item_of_row = np.cumsum(counts) - counts

    def __len__(self) -> int:
        return len(self._row_of_item)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        row_index = int(self._row_of_item[index])
        row = self.rows[row_index]
        sentence = checked_sentences(row)[index - int(self._first_item_of_row[row_index])]
        return _item(row, sentence, self.read_image)


class ImageExamples(Dataset):
    """For evaluation that encodes an image once: one item per image (run of rows with one `image_id`), all sentences.

    An item is {"image": PIL image (RGB), "image_id": str} and lists with one entry per sentence: "texts", "masks"
    (bool (H, W); sentences of one referent share the array), "ref_ids", "sent_ids", "no_targets". Rows of one image
    have to be adjacent, as in every data set that this library writes; otherwise the image is an item more than once.
    Orientation and errors as in `ReferentExamples`.
    """

    def __init__(self, dataset: datasets.Dataset):
        self.rows = undecoded(dataset)
        self._rows_without_image = self.rows.remove_columns("image")
        self._bounds = image_bounds(self.rows.select_columns("image_id")[:]["image_id"])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        start, stop = self._bounds[index], self._bounds[index + 1]
        columns = self._rows_without_image[start:stop]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return item_of_image(self.rows[start], rows)

    def keys(self) -> Iterable[int]:
        """What each item is read by, in order."""
        return range(len(self))

    def fingerprint(self, key: int) -> str:
        """A hash of all that the rows say of an item, without the image."""
        return fingerprint(self._rows_without_image[self._bounds[key] : self._bounds[key + 1]])


def image_bounds(image_ids: Sequence[str]) -> list[int]:
    """Where the rows of each image begin, by the ids of all rows, and behind these their number."""
    ids = np.asarray(image_ids, dtype=object)
    starts: Iterable[int] = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else []
    return [int(start) for start in starts] + [len(ids)]


@dataclass(frozen=True)
class RefSegCollator:
    """Turns items of `ReferentExamples` or `SentenceExamples` into a batch that a model takes.

    Calls `processor(images=..., text=..., segmentation_maps=..., return_tensors="pt")`, which gives `pixel_values`,
    `input_ids`, `attention_mask` and `mask_labels`.
    """

    processor: Callable[..., Any]

    def __call__(self, items: Iterable[dict[str, Any]]) -> Any:
        items = list(items)
        return self.processor(
            images=[item["image"] for item in items],
            text=[item["text"] for item in items],
            segmentation_maps=[item["mask"] for item in items],
            return_tensors="pt",
        )


AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.IterableDataset)


def undecoded(dataset: AnyDataset) -> AnyDataset:
    """The data set with images as bytes or paths: decoding by `datasets` would apply EXIF rotation.

    Raises:
        DataFormatError: a column is missing.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in dataset.column_names]
    if missing:
        raise DataFormatError(
            f"The data set has no column {', '.join(missing)}; found {', '.join(dataset.column_names)}. "
            "Load it with hf_refseg.data.loading.load_refseg."
        )
    return dataset.cast_column("image", datasets.Image(decode=False))


def draw_item(row: dict[str, Any], generator: random.Random, read_image: ReadImage) -> dict[str, Any]:
    """An item of `ReferentExamples`; `generator` chooses one of the row's sentences."""
    sentences = checked_sentences(row)
    return _item(row, sentences[generator.randrange(len(sentences))], read_image)


def item_of_image(first: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """An item of `ImageExamples`: `first` is the first row of the image, `rows` are all; these need no image."""
    image = open_image(first)
    item = {"image": image, "image_id": first["image_id"]}
    item |= {name: [] for name in ("texts", "masks", "ref_ids", "sent_ids", "no_targets")}
    for row in rows:
        sentences = checked_sentences(row)
        item["texts"] += [sentence["raw"] for sentence in sentences]
        item["masks"] += [open_mask(row, image)] * len(sentences)
        item["ref_ids"] += [row["ref_id"]] * len(sentences)
        item["sent_ids"] += [sentence["sent_id"] for sentence in sentences]
        item["no_targets"] += [row["no_target"]] * len(sentences)
    return item


def fingerprint(content: Any) -> str:
    """A short hash of texts and numbers in lists and dictionaries."""
    return hashlib.blake2b(repr(content).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _item(row: dict[str, Any], sentence: dict[str, str], read_image: ReadImage) -> dict[str, Any]:
    image = read_image(row)
    return {
        "image": image,
        "text": sentence["raw"],
        "mask": open_mask(row, image),
        "image_id": row["image_id"],
        "ref_id": row["ref_id"],
        "sent_id": sentence["sent_id"],
        "no_target": row["no_target"],
    }


def checked_sentences(row: dict[str, Any]) -> list[dict[str, str]]:
    """The sentences of a row; raises `InvalidRowError` where there is none, or an empty one."""
    if not row["sentences"]:
        raise InvalidRowError(f"Row {name_text(row['ref_id'])} has no sentence. Remove the row from the data set.")
    for sentence in row["sentences"]:
        if sentence is None or not (sentence["raw"] or "").strip():
            raise InvalidRowError(
                f"Sentence {name_text(sentence and sentence['sent_id'])} of row {name_text(row['ref_id'])} is empty. "
                "Remove the sentence from the row."
            )
    return row["sentences"]


def read_image_file(row: dict[str, Any]) -> bytes:
    """The file of a row's image, as it is stored; the row is one of `undecoded`.

    Raises:
        InvalidRowError: there is no such file, or it cannot be read.
    """
    source = row["image"]
    if source is None or source["bytes"] is source["path"] is None:
        raise InvalidRowError(f"Row {name_text(row['ref_id'])} has no image. Remove the row from the data set.")
    try:
        return Path(source["path"]).read_bytes() if source["bytes"] is None else source["bytes"]
    except (OSError, ValueError) as error:
        raise _unreadable(row, str(error)) from error


def open_image(row: dict[str, Any]) -> Image.Image:
    """The RGB image of a row of `undecoded`, in the orientation in which its pixels are stored.

    Raises:
        InvalidRowError: the file is missing or damaged, or no image.
    """
    file = io.BytesIO(read_image_file(row))
    try:
        with picture_faults(), open_picture(file) as image:
            picture = decode_rgb(image)
            # Without its metadata the picture stays as stored: a processor would turn it by its EXIF orientation.
            return Image.fromarray(np.asarray(picture)) if is_turned(picture) else picture
    except PictureError as error:
        raise _unreadable(row, f"it is {error}") from error


def _unreadable(row: dict[str, Any], reason: str) -> InvalidRowError:
    name = row["image"]["path"] or "embedded in the data set"
    return InvalidRowError(
        f"The image of row {name_text(row['ref_id'])} ({name}) cannot be read: {reason}. "
        "Put the complete file there, or prepare the data set again without that row."
    )


def open_mask(row: dict[str, Any], image: Image.Image) -> np.ndarray:
    """The mask of a row, bool (H, W), of the image's size; raises `InvalidMaskError` or `InvalidRowError`."""
    with naming_mask(row):
        height, width = size_of_rle(row["mask"])
    # Before it is decoded: of another size it may fill the memory.
    if (height, width) != (image.height, image.width):
        raise InvalidRowError(
            f"The mask of row {name_text(row['ref_id'])} is {height} x {width} (height x width), its "
            f"image {image.height} x {image.width}. Use the image that was annotated, in its original size."
        )
    return decode_row_mask(row)


def decode_row_mask(row: dict[str, Any]) -> np.ndarray:
    """The mask of a row, bool (H, W), of whatever size; raises `InvalidMaskError`, which names the row."""
    with naming_mask(row):
        return decode_mask(row["mask"])


@contextmanager
def naming_mask(row: dict[str, Any]) -> Iterator[None]:
    """Names the row in an `InvalidMaskError` about its mask."""
    try:
        yield
    except InvalidMaskError as error:
        raise InvalidMaskError(f"The mask of row {name_text(row['ref_id'])} cannot be decoded: {error}") from error
