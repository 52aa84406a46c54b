"""Text files of phrases beside pictures and masks of the same name, as RefSegRS and RISBench have them."""

from __future__ import annotations

from pathlib import Path

from hf_refseg.data.rows import DataFormatError
from hf_refseg.files import is_plain_name
from hf_refseg.messages import short_text
from hf_refseg.modeling.video_refseg import IMAGE_SUFFIXES

from .folder_records import FolderFormat, FolderReading, FolderRecord, MaskPicture, checked_sentences, checked_split
from .original_files import read_lines

PREFIX = "output_phrase_"
# Where pictures and their masks lie: in RefSegRS, and in RISBench.
FOLDERS = (("images", "masks"), ("img_rgb", "mask"))
# Brighter pixels of the masks are foreground, as their authors read them.
FOREGROUND = 50


def find_phrases(root: Path) -> list[Path]:
    """A text file for each split."""
    return sorted(root.glob(f"{PREFIX}*.txt"))


def read_phrases(reading: FolderReading) -> list[FolderRecord]:
    """A record for each line `<id> <sentence>`; those of one id are sentences of one referent."""
    if reading.sentence_from == "category":
        raise ValueError(f"{reading.root}: text files of phrases have no categories: leave sentence_from out.")
    folders = [pair for pair in FOLDERS if all((reading.root / name).is_dir() for name in pair)]
    if len(folders) != 1:
        expected = " or ".join(f"{images}/ and {masks}/" for images, masks in FOLDERS)
        raise DataFormatError(f"{reading.root} should hold {expected} beside {reading.files[0].name}.")
    images, masks = (reading.root / name for name in folders[0])
    records = []
    for path in reading.files:
        split = checked_split(path.stem.removeprefix(PREFIX), str(path))
        for number, line in read_lines(path):
            with reading.findings.skipping():
                records.append(_record(line, f"{path}: line {number}", split, images, masks))
    return records


def _record(line: str, where: str, split: str | None, images: Path, masks: Path) -> FolderRecord:
    name, *sentence = line.split(maxsplit=1)
    return FolderRecord(
        where=where,
        image=_picture(images, name, where),
        sentences=checked_sentences("".join(sentence), where),
        mask=MaskPicture(_picture(masks, name, where), FOREGROUND),
        split=split,
        ref_id=name,
        image_id=name,
    )


def _picture(folder: Path, name: str, where: str) -> Path:
    """The picture of an id, whatever its suffix."""
    # Nobody would notice when a hidden file changes.
    if not is_plain_name(name) or name[0] == ".":
        raise DataFormatError(f"{where}: {short_text(name)} is no id of a picture. Write <id> <sentence>.")
    paths = [folder / f"{name}{suffix}" for suffix in (".tif", *IMAGE_SUFFIXES)]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise DataFormatError(
            f"{where}: there is no picture {short_text(name)} ({', '.join(IMAGE_SUFFIXES)}) in {folder}. Put it there."
        )
    return found


PHRASES = FolderFormat("phrases", f"{PREFIX}<split>.txt with images/ and masks/", find_phrases, read_phrases)
