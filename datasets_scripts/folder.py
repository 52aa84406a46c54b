"""People's own pictures: a folder in one of several formats, which is recognized, checked and split."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import ExifTags, Image

from hf_refseg.data.findings import SKIPPED, Findings
from hf_refseg.data.masks import encode_mask, mask_to_bbox
from hf_refseg.data.rows import DataFormatError, ordered_splits, row_features
from hf_refseg.messages import BadInputError, counted, name_text, one_line, short_text

from .folder_coco import COCO
from .folder_exports import other_exports
from .folder_label_studio import LABEL_STUDIO
from .folder_labelme import LABELME
from .folder_labels import LABELS
from .folder_metadata import METADATA
from .folder_phrases import PHRASES
from .folder_records import FolderFormat, FolderReading, FolderRecord, HeldPicture, MaskPicture
from .original_files import check_link, read_picture, turned_file
from .records import LONE_SURROGATE, list_folder
from .rows_builder import RowsBuilder, RowsConfig

FORMATS: tuple[FolderFormat, ...] = (METADATA, LABELS, PHRASES, COCO, LABELME, LABEL_STUDIO)
SENTENCES_FROM = ("sentence", "category")
ORIENTATIONS = ("upright", "stored")
# The EXIF orientation of a picture that need not be turned.
STORED_UPRIGHT = 1
# Of all pictures, where the folder says nothing of splits.
DRAWN_SHARE = 0.1

logger = logging.getLogger(__name__)


@dataclass
class FolderConfig(RowsConfig):
    """`format` is the name of one of `FORMATS`, "" = the one that is found; `sentence_from` one of `SENTENCES_FROM`;
    `orientation` one of `ORIENTATIONS`, "" = a photograph that its camera says to turn is an error.

    `val_share` and `test_share` of the pictures, and `seed`, are for splits that are drawn; None = as usual.
    """

    format: str = ""
    sentence_from: str = "sentence"
    orientation: str = ""
    val_share: float | None = None
    test_share: float | None = None
    seed: int | None = None


class Folder(RowsBuilder):
    """One row for each referent of a folder; see `hf_refseg.data.rows.row_features` for the columns.

    Splits are those of the folder; where it says nothing of them, its pictures are shared out by `seed`, equal ones
    into one split.

    Raises:
        ValueError: an option has no such value, or no effect on this folder.
        DataFormatError: the folder is in none of the formats or in several, or a record is bad.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = FolderConfig
    config: FolderConfig

    def __init__(self, data_dir: str, **options: Any):
        super().__init__(data_dir=data_dir, fingerprint=fingerprint_folder(Path(data_dir)), **options)
        for name, known in (("sentence_from", SENTENCES_FROM), ("orientation", ("", *ORIENTATIONS))):
            if (value := getattr(self.config, name)) not in known:
                raise ValueError(
                    f"Unknown {name} {short_text(value)}: choose one of {', '.join(filter(None, known))}."
                )
        for name in ("val_share", "test_share"):
            share = getattr(self.config, name)
            if share is not None and not (isinstance(share, int | float) and 0 <= share < 1):
                raise ValueError(f"{name} is {short_text(share)}: choose a share of the pictures, from 0 to below 1.")
        find_format(Path(data_dir), self.config.format)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=row_features())

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        root = Path(self.config.data_dir)
        found, files = find_format(root, self.config.format)
        for file in files:
            check_link(file, root, found.name)
        records = found.read(FolderReading(root, files, self.findings, self.config.sentence_from))
        pictures = join_records(records, root, self.findings)
        if not pictures:
            last = f" The last one: {skipped[-1]}" if (skipped := self.findings.records.get(SKIPPED)) else ""
            raise DataFormatError(f"{root} has no record that can be read ({found.name}). Write one.{last}")
        logger.warning("%s", one_line(f"{root} ({found.name}): {describe_pictures(pictures)}."))
        splits = self._share_out(root, pictures)
        orientation = self.config.orientation or found.orientation
        return [
            datasets.SplitGenerator(split, gen_kwargs={"pictures": tuple(splits[split]), "orientation": orientation})
            for split in ordered_splits(str(root), splits, self.config.splits or splits)
        ]

    def _share_out(self, root: Path, pictures: list[Picture]) -> dict[str, list[Picture]]:
        """The pictures of each split, as the folder says, or drawn."""
        drawing = {name: getattr(self.config, name) for name in ("val_share", "test_share", "seed")}
        unsaid = [picture for picture in pictures if None in picture.splits()]
        if not unsaid:
            if given := [name for name, value in drawing.items() if value is not None]:
                raise ValueError(f"{root} says itself what is in which split: leave {given[0]} out.")
            return split_as_said(pictures, self.findings)
        if len(unsaid) < len(pictures) or len({split for picture in unsaid for split in picture.splits()}) > 1:
            raise DataFormatError(
                f"{unsaid[0].referents[0].where} says no split, others do. Write one for each record, or for none."
            )
        return draw_splits(
            root,
            pictures,
            val_share=DRAWN_SHARE if self.config.val_share is None else self.config.val_share,
            test_share=DRAWN_SHARE if self.config.test_share is None else self.config.test_share,
            seed=self.config.seed or 0,
        )

    def _generate_examples(
        self, pictures: tuple[Picture, ...], orientation: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for picture in pictures:
            stored = None
            for referent in picture.referents:
                with self.findings.skipping():
                    # Once for all of them: it may be turned and written anew, or taken out of a large file.
                    stored = stored or _stored(picture.image, referent.where, orientation)
                    yield f"{picture.image_id} {referent.ref_id}", self._row(picture, referent, *stored)

    def _row(
        self, picture: Picture, referent: FolderRecord, image: str | dict[str, Any], size: tuple[int, int]
    ) -> dict[str, Any]:
        mask = self._mask(replace(referent, where=f"{referent.where} ({picture.image_id})"), size)
        return {
            "image": image,
            "image_id": picture.image_id,
            "ref_id": referent.ref_id,
            "ann_ids": [referent.ref_id] if mask.any() else [],
            "category": referent.category,
            "mask": encode_mask(mask),
            "bbox": mask_to_bbox(mask),
            "no_target": referent.no_target,
            "sentences": [
                {"sent_id": f"{referent.ref_id}-{number}", "raw": raw, "sent": " ".join(raw.lower().split())}
                for number, raw in enumerate(referent.sentences)
            ],
        }

    def _mask(self, referent: FolderRecord, size: tuple[int, int]) -> np.ndarray:
        """The mask of the size (H, W) of its picture; raises `DataFormatError` where it is bad or empty by mistake."""
        if referent.mask is None and not referent.no_target:
            raise DataFormatError(f"{referent.where} has no mask. Give it one, or say no_target.")
        if referent.mask is None:
            return np.zeros(size, dtype=bool)
        try:
            mask = referent.mask.draw(*size, partial(self.findings.note, record=referent.where))
        except BadInputError as error:
            raise DataFormatError(f"{referent.where}: {error}") from error
        where = referent.where
        if isinstance(referent.mask, MaskPicture):
            where += f", {referent.mask.path.name}"
        if mask.any() == referent.no_target:
            found = "is not empty, though it says no_target" if referent.no_target else "is empty"
            raise DataFormatError(
                f"{where}: the mask {found}. Correct the mask, or write no_target where the sentences mean "
                "nothing in the picture, and only there."
            )
        if mask.shape != size and mask.shape == size[::-1]:
            raise DataFormatError(
                f"{where}: the mask is {mask.shape[1]} x {mask.shape[0]} (width x height), its picture "
                f"{size[1]} x {size[0]}: one of them is turned. Where the camera said to turn it, pass the other "
                "orientation, upright or stored; else turn the picture or the mask."
            )
        return self.fit_mask(mask, size, where)


@dataclass(frozen=True)
class Picture:
    """A picture and its referents, which all have a `ref_id`."""

    image: Path | HeldPicture
    image_id: str
    referents: list[FolderRecord]

    def splits(self) -> set[str | None]:
        """All that its records say of its split."""
        return {referent.split for referent in self.referents}


def _stored(image: Path | HeldPicture, where: str, orientation: str) -> tuple[str | dict[str, Any], tuple[int, int]]:
    """A picture as a row has it, and its height and width.

    That is its file, or, where it is held by another file or turned as its camera says, its content.
    """
    path = _file_of(image)
    content: io.BytesIO | None = None
    stored: str | dict[str, Any] = str(path)
    if isinstance(image, HeldPicture):
        content = io.BytesIO(image.read_bytes())
        stored = {"bytes": content.getvalue(), "path": None}
    size, turn = read_picture(path, where, _size_and_turn, content)
    if turn == STORED_UPRIGHT or orientation == "stored":
        return stored, size
    if orientation == "upright":
        turned, size = read_picture(path, where, turned_file, content)
        return {"bytes": turned, "path": path.name}, size
    raise DataFormatError(
        f"{where}: programs turn {path} as its camera says (EXIF orientation {turn}); stored it is "
        f'{size[1]} x {size[0]} (width x height). Pass orientation="upright" if masks and sentences are of the '
        'turned picture, as in most labeling tools, or "stored" if masks are of the stored one.'
    )


def _size_and_turn(picture: Image.Image) -> tuple[tuple[int, int], int]:
    """Height and width as stored, and in which way programs turn it (EXIF)."""
    # Pillow would decode a whole PNG file to look behind its pixels.
    is_told = picture.format != "PNG" or "exif" in picture.info
    orientation = picture.getexif().get(ExifTags.Base.Orientation, STORED_UPRIGHT) if is_told else STORED_UPRIGHT
    return (picture.height, picture.width), orientation if orientation in range(1, 9) else STORED_UPRIGHT


def find_format(root: Path, name: str) -> tuple[FolderFormat, list[Path]]:
    """The format of a folder, and the files by which it is known; by its name, or the one that is found for "".

    Raises:
        ValueError: there is no such format.
        DataFormatError: the folder is not of that format, of none, or of several.
    """
    known = {each.name: each for each in FORMATS}
    if name and name not in known:
        raise ValueError(f"Unknown format {short_text(name)}: choose one of {', '.join(known)}.")
    wanted = [known[name]] if name else FORMATS
    found = [(each, files) for each in wanted if (files := each.find(root))]
    if len(found) > 1:
        names = ", ".join(f"{each.name} ({name_text(files[0].name)})" for each, files in found)
        raise DataFormatError(f"{root} is in several formats: {names}. Choose one of them by the option format.")
    if not found:
        expected = "; ".join(f"{each.name}: {each.expects}" for each in wanted)
        raise DataFormatError(
            f"{root} is in no known format. Found: {list_folder(root)}. Expected {expected}.{other_exports(root)}"
        )
    return found[0]


def join_records(records: list[FolderRecord], root: Path, findings: Findings) -> list[Picture]:
    """The pictures in the order of their first records; records of one picture and one `ref_id` become one referent.

    Ids that the folder does not give are the picture's path in it, and this and a number. A record whose ids belong to
    another picture or mask is a bad one.
    """
    pictures: dict[Path | HeldPicture, Picture] = {}
    by_id: dict[str, Picture] = {}
    owners: dict[str, Picture] = {}
    places: dict[tuple[str, str | None], int] = {}
    for record in records:
        with findings.skipping():
            for file in _files_of(record):
                check_link(file, root, record.where)
            image_id = record.image_id or _file_of(record.image).relative_to(root).as_posix()
            if LONE_SURROGATE.search(image_id):
                raise DataFormatError(
                    f"{record.where}: the name {short_text(image_id)} is no text in UTF-8, as of files that came out "
                    "of an archive of another system. Rename the file, or its folder."
                )
            picture = pictures.get(record.image) or Picture(record.image, image_id, [])
            if by_id.get(image_id, picture) is not picture or (record.image_id and image_id != picture.image_id):
                raise DataFormatError(
                    f"{record.where}: image_id {name_text(image_id)} is that of another picture, or this picture has "
                    "another one. Give each picture one id, or none."
                )
            ref_id = record.ref_id or f"{image_id}#{len(picture.referents)}"
            if owners.get(ref_id, picture) is not picture:
                raise DataFormatError(
                    f"{record.where}: ref_id {name_text(ref_id)} is used for another picture as well. Give each "
                    "referent an id of its own, or none."
                )
            place = places.setdefault((ref_id, record.split), len(picture.referents))
            _add(picture, replace(record, ref_id=ref_id), place)
            by_id[image_id] = owners[ref_id] = pictures[record.image] = picture
    return list(pictures.values())


def _files_of(record: FolderRecord) -> list[Path]:
    """The files of a record whose pixels come to be in its row."""
    image = _file_of(record.image)
    return [image, record.mask.path] if isinstance(record.mask, MaskPicture) else [image]


def _file_of(image: Path | HeldPicture) -> Path:
    """The file of a picture, or the one that holds it."""
    return image.file if isinstance(image, HeldPicture) else image


def _add(picture: Picture, record: FolderRecord, place: int) -> None:
    """Adds a record behind the referents of a picture, or its sentences to the one at `place`, which has its id."""
    if place == len(picture.referents):
        picture.referents.append(record)
        return
    other = picture.referents[place]
    if replace(record, where="", sentences=()) != replace(other, where="", sentences=()):
        raise DataFormatError(
            f"{record.where} has ref_id {name_text(record.ref_id)}, but another mask or category than "
            f"{other.where}. Give each referent an id of its own, or none."
        )
    picture.referents[place] = replace(other, sentences=other.sentences + record.sentences)


def describe_pictures(pictures: list[Picture]) -> str:
    """What was found, such as "found 212 pictures, 640 sentences, masks from PNG"."""
    referents = [referent for picture in pictures for referent in picture.referents]
    sentences = sum(len(referent.sentences) for referent in referents)
    kinds = Counter(referent.mask.kind for referent in referents if referent.mask is not None)
    masks = f"masks from {' and '.join(kinds)}" if kinds else "no mask"
    none = sum(referent.no_target for referent in referents)
    counts = f"{counted(len(pictures), 'picture')}, {counted(sentences, 'sentence')}"
    return f"found {counts}, {masks}" + f", {none} without a target" * bool(none)


def split_as_said(pictures: list[Picture], findings: Findings) -> dict[str, list[Picture]]:
    """The pictures of each split that their records name, train, val and test first."""
    for equal in equal_pictures(pictures):
        if len({split for picture in equal for split in picture.splits()}) > 1:
            names = " = ".join(name_text(picture.image_id) for picture in equal[:3])
            findings.note("pictures that are in several splits, so that scores are not those of new ones", names)
    splits: dict[str, list[Picture]] = {split: [] for split in ("train", "val", "test")}
    for picture in pictures:
        named = [referent.split for referent in picture.referents if referent.split is not None]
        for split in dict.fromkeys(named):
            mine = [referent for referent in picture.referents if referent.split == split]
            splits.setdefault(split, []).append(replace(picture, referents=mine))
    return {split: members for split, members in splits.items() if members}


def equal_pictures(pictures: list[Picture]) -> list[list[Picture]]:
    """Pictures in groups of equal files; only those of equal size are read."""
    by_size: dict[int | None, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_size[picture.image.stat().st_size if isinstance(picture.image, Path) else None].append(picture)
    groups: dict[tuple[int | None, bytes], list[Picture]] = defaultdict(list)
    for size, alike in by_size.items():
        for picture in alike:
            content = hashlib.sha256(picture.image.read_bytes()).digest() if len(alike) > 1 else b""
            groups[size, content].append(picture)
    return list(groups.values())


def draw_splits(
    root: Path, pictures: list[Picture], val_share: float, test_share: float, seed: int
) -> dict[str, list[Picture]]:
    """Pictures shared out by their contents and the seed; those of equal files are in one split.

    Their order follows from a hash, so that a picture which is added moves few others.

    Raises:
        DataFormatError: there are too few pictures.
    """
    equal: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        content = hashlib.sha256(picture.image.read_bytes()).hexdigest()
        equal[hashlib.sha256(f"{seed} {content}".encode()).hexdigest()].append(picture)
    remaining = [equal[key] for key in sorted(equal)]
    splits: dict[str, list[Picture]] = {"train": [], "val": [], "test": []}
    for split, share in (("val", val_share), ("test", test_share)):
        wanted = max(1, round(share * len(pictures))) if share else 0
        while remaining and len(splits[split]) < wanted:
            splits[split] += remaining.pop()
    splits["train"] = [picture for group in remaining for picture in group]
    if not splits["train"]:
        raise DataFormatError(
            f"{root} has {len(equal)} different pictures, too few for the splits train, val and test. Add some, pass "
            "smaller val_share and test_share (0 = no such split), or name splits in the folder."
        )
    order = {id(picture): place for place, picture in enumerate(pictures)}
    return {split: sorted(found, key=lambda each: order[id(each)]) for split, found in splits.items() if found}


def fingerprint_folder(root: Path) -> str:
    """A hash of the names, sizes and times of all files of a folder and of those that it links to, but hidden ones."""
    digest = hashlib.sha256()
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        # Links may lead in a circle.
        folders[:] = [] if place in seen else sorted(name for name in folders if not name.startswith("."))
        seen.add(place)
        for path in (Path(folder, name) for name in sorted(names)):
            state = path.stat() if path.exists() else path.lstat()
            digest.update(f"{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()
