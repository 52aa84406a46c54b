"""People's own folders become rows like those of any data set, or one error that says what to correct."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import DatasetDict
from folder_trees import (
    HEIGHT,
    POLYGON,
    TARGET,
    WIDTH,
    make_labels,
    make_metadata,
    make_phrases,
    write_mask,
    write_metadata,
    write_picture,
)
from PIL import Image

from hf_refseg import load_refseg
from hf_refseg.data.examples import ImageExamples
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.data.rows import DataFormatError
from hf_refseg.datasets_scripts import folder
from hf_refseg.datasets_scripts.folder_records import neighbors
from hf_refseg.datasets_scripts.original_files import read_picture

Load = Callable[..., DatasetDict]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the folder `data`."""

    def loaded(**options: Any) -> DatasetDict:
        return load_refseg("folder", tmp_path / "data", cache_dir=tmp_path / "cache", **options)

    return loaded


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def masks_of(dataset: DatasetDict) -> dict[str, np.ndarray]:
    """All masks by the first sentence of their referents."""
    rows = (row for split in dataset.values() for row in split.remove_columns("image"))
    return {row["sentences"][0]["raw"]: decode_mask(row["mask"]) for row in rows}


def write_rows(root: Path, *rows: dict[str, Any], pictures: int = 2) -> None:
    """Pictures and a metadata file whose rows are of picture 0, in train, unless they say something else."""
    for number in range(pictures):
        write_picture(root / f"{number}.png", number)
    usual = {"file_name": "0.png", "text": "it", "polygon": POLYGON, "split": "train"}
    filled = ({**usual, **row} for row in rows)
    write_metadata(
        root / "metadata.jsonl", [{key: value for key, value in row.items() if value is not ...} for row in filled]
    )


# --- metadata ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_metadata_of_every_kind_of_mask_become_rows(suffix: str, root: Path, load: Load, caplog) -> None:
    make_metadata(root, suffix)
    with caplog.at_level(logging.WARNING):
        data = load()
    assert {split: rows["image_id"][:] for split, rows in data.items()} == {
        "train": [f"images/{number}.png" for number in (0, 1, 2, 4)],
        "val": ["images/3.png"],
    }
    masks = masks_of(data)
    assert not masks.pop("nothing").any()
    assert len(masks) == 4 and all(np.array_equal(mask, TARGET) for mask in masks.values())
    first, second, _, empty = data["train"].remove_columns("image")
    assert first["bbox"] == [3, 2, 6, 4] and first["category"] == "dog" and not first["no_target"]
    assert first["sentences"] == [{"sent_id": "images/0.png#0-0", "raw": "The dog", "sent": "the dog"}]
    assert [sentence["raw"] for sentence in second["sentences"]] == ["The cat", "a cat"]
    assert (empty["no_target"], empty["ann_ids"], empty["bbox"]) == (True, [], [0, 0, 0, 0])
    assert data["train"][1]["image"].getpixel((0, 0)) == (40, 1, 0)
    said = [record.message for record in caplog.records]
    found = "found 5 pictures, 6 sentences, masks from PNG and polygons and RLE and boxes, 1 without a target"
    assert sum(found in line for line in said) == 1
    columns = "columns file_name, text, texts, mask_file_name, polygon, rle, bbox, no_target, split, category"
    assert sum(line.endswith(columns) for line in said) == 1


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheet_is_read(delimiter: str, root: Path, load: Load) -> None:
    write_picture(root / "0.png")
    cells = (
        ("file_name", "text", "bbox", "no_target", ""),
        ("0.png", '"a; b"', "[3, 2, 6, 4]", "no", ""),
        ("",) * 5,
        ("0.png", "Löwe", "", "yes", ""),
    )
    table = "\r\n".join(map(delimiter.join, cells))
    (root / "metadata.csv").write_text(table, encoding="utf-8-sig", newline="")
    rows = load(val_share=0, test_share=0)["train"]
    assert [row["sentences"][0]["raw"] for row in rows] == ["a; b", "Löwe"]
    assert rows["no_target"][:] == [False, True]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_only_ends_of_lines_end_a_line(suffix: str, root: Path, load: Load) -> None:
    make_metadata(root, suffix)
    path = root / f"metadata{suffix}"
    path.write_bytes(path.read_bytes().replace(b"The dog", "The\u2028dog\x85".encode()).replace(b"\r\n", b"\n"))
    assert load()["train"][0]["sentences"][0]["sent"] == "the dog"


def test_metadata_in_the_folders_of_splits_name_them(root: Path, load: Load) -> None:
    for split, suffix in (("train", ".jsonl"), ("validation", ".csv")):
        write_picture(root / split / "0.png", len(split))
        write_mask(root / split / "masks" / "0.png")
        row = {"file_name": "0.png", "text": split, "mask_file_name": "masks/0.png"}
        write_metadata(root / split / f"metadata{suffix}", [row])
    data = load()
    assert {split: rows["image_id"][:] for split, rows in data.items()} == {
        "train": ["train/0.png"],
        "val": ["validation/0.png"],
    }
    assert list(load(splits=["val"])) == ["val"]
    with pytest.raises(ValueError, match=r"has no split 'test'\. Choose one of: train, val"):
        load(splits=["test"])


def test_records_of_one_ref_id_are_one_referent(root: Path, load: Load) -> None:
    ids = {"ref_id": 7, "image_id": 3}
    write_rows(root, {**ids, "text": "a"}, {"file_name": "1.png", "text": "b"}, {**ids, "text": "c"})
    rows = load()["train"].remove_columns("image")
    assert rows["ref_id"][:] == ["7", "1.png#0"] and rows["image_id"][:] == ["3", "1.png"]
    assert rows[0]["ann_ids"] == ["7"] and [each["sent_id"] for each in rows[0]["sentences"]] == ["7-0", "7-1"]


def test_rows_of_one_picture_follow_each_other(root: Path, load: Load) -> None:
    write_rows(root, {"text": "a"}, {"file_name": "1.png", "text": "b"}, {"text": "c"})
    assert [row["sentences"][0]["raw"] for row in load()["train"]] == ["a", "c", "b"]


def test_a_picture_is_opened_once_for_all_its_referents(root: Path, load: Load, monkeypatch) -> None:
    opened: list[Path] = []

    def read(path: Path, *arguments: Any) -> Any:
        opened.append(path)
        return read_picture(path, *arguments)

    monkeypatch.setattr(folder, "read_picture", read)
    write_rows(root, {"text": "a"}, {"text": "b", "file_name": "1.png"}, {"text": "c"}, {"text": "d"})
    assert len(load()["train"]) == 4 and opened == [root / "0.png", root / "1.png"]


def test_the_nearest_name_is_found_among_many_without_looking_at_all() -> None:
    names = [f"picture_{number:05d}.png" for number in range(20_000)]
    near = neighbors("picture_12345.jpg", names)
    assert "picture_12345.png" in near and len(near) <= 100
    assert neighbors("a", names[:3]) == neighbors("z", names[:3]) == names[:3]


def test_columns_that_are_not_read_are_named(root: Path, load: Load, caplog) -> None:
    write_rows(root, {"polgon": 1, "zzz": 2})
    with caplog.at_level(logging.WARNING):
        load()
    assert "split; not read: polgon, zzz; did you mean polygon" in caplog.text


def test_a_box_beside_a_mask_is_noted(root: Path, load: Load, caplog) -> None:
    write_rows(root, {"bbox": [0, 0, 1, 1]})
    with caplog.at_level(logging.WARNING):
        data = load()
    assert np.array_equal(masks_of(data)["it"], TARGET) and data["train"][0]["bbox"] == [3, 2, 6, 4]
    assert "boxes beside a mask, which are not read: the mask tells the box (1): " in caplog.text


def test_names_with_backslashes_are_those_of_windows(root: Path, load: Load) -> None:
    make_metadata(root)
    path = root / "metadata.jsonl"
    path.write_text(path.read_text().replace("images/", r"images\\").replace("masks/", r"masks\\"))
    assert len(masks_of(load())) == 5


ROWS = {
    "a name in other letters": ({"file_name": "IMAGES/0.PNG"}, r"IMAGES/0\.PNG does not exist; there is 0\.png"),
    "a folder too much": ({"file_name": "images/1.png"}, r"images/1\.png does not exist; there is 1\.png"),
    "another suffix": ({"file_name": "1.jpg"}, r"1\.jpg does not exist; there is 1\.png"),
    "a name like it": ({"file_name": "01.png"}, r"01\.png does not exist; the nearest is [01]\.png"),
    "a mask that is absent": ({"polygon": ..., "mask_file_name": "m/9.png"}, r"m/9\.png does not exist"),
    "a name that leads out": ({"file_name": "../0.png"}, "leads out of"),
    "an absolute name": (
        {"file_name": "/etc/passwd"},
        r"is no path inside the data folder .*\. Write it as it is from there on",
    ),
    "no name": ({"file_name": ...}, "has no file_name, only text, polygon, split"),
    "no sentence": (
        {"text": ..., "caption": "a"},
        "should have either text, a sentence, or texts, a list of them; it has file_name, .*caption",
    ),
    "both": ({"texts": ["a"]}, "should have either text, a sentence, or texts"),
    "a blank sentence": ({"text": " "}, "a sentence should be a text, found ' '"),
    "a number as sentence": ({"text": 3}, "has no sentence, found 3"),
    "half a character": ({"text": "\ud800"}, "half a character"),
    "no mask": ({"polygon": ...}, "has no mask. Give it one, or say no_target"),
    "two masks": ({"rle": {}}, "has several masks: polygon, rle"),
    "an empty mask": ({"polygon": [30.0, 1, 31, 1, 31, 2]}, "the mask is empty.*write no_target"),
    "no target with one": ({"no_target": True}, "the mask is not empty, though it says no_target"),
    "odd polygon": ({"polygon": [1, 2, 3, 4, 5]}, "A polygon has 5 numbers"),
    "fractions": ({"polygon": [0.1, 0.1, 0.9, 0.1, 0.9, 0.9]}, "lie between 0 and 1, in a picture of 20 x 12"),
    "a text as polygon": ({"polygon": "1, 2"}, "a polygon should be a list of numbers"),
    "no polygons": ({"polygon": ..., "polygons": []}, "it has no polygon"),
    "corners": (
        {"polygon": ..., "bbox": [3, 2, 19, 11]},
        "reaches out of the picture of 20 x 12 pixels.*not the corn",
    ),
    "a small box": ({"polygon": ..., "bbox": [0.1, 0.1, 0.5, 0.5]}, "is smaller than a pixel"),
    "a flat box": ({"polygon": ..., "bbox": [3, 2, 0, 4]}, "has no area"),
    "no box": ({"polygon": ..., "bbox": [3, 2, 1e999, 4]}, "four finite numbers"),
    "a bad RLE": ({"polygon": ..., "rle": {"size": [HEIGHT, WIDTH], "counts": [3]}}, "runs of the RLE cover 3 pixels"),
    "another size": ({"polygon": ..., "rle": encode_mask(TARGET[:-1])}, 'or pass on_size_mismatch="resize_mask"'),
    "swapped sides": ({"polygon": ..., "rle": encode_mask(TARGET.T)}, "one of them is turned"),
    "a split that is none": ({"split": "my split"}, "the split should be named by letters"),
    "all splits": ({"split": "all"}, "the split should be named by letters"),
    "a split of many letters": ({"split": "a" * 61}, "the split should be named by letters"),
    "a name of many folders": ({"file_name": "a/" * 2100 + "0.png"}, "is no path inside the data folder"),
    "a hidden name": ({"polygon": ..., "mask_file_name": ".masks/0.png"}, r"'\.masks/0\.png' is hidden"),
    "a box beyond all numbers": ({"polygon": ..., "bbox": [10**400, 2, 3, 4]}, "four finite numbers"),
    "an id that is none": ({"ref_id": 0.5}, "'ref_id' should be a text or a whole number"),
    "no truth": ({"no_target": "maybe"}, "no_target should be true or false, or 1 or 0, found 'maybe'"),
    "ids of two pictures": ({"file_name": "1.png", "ref_id": "0"}, "ref_id 0 is used for another picture"),
    "one image_id": ({"file_name": "1.png", "image_id": "0.png"}, "image_id 0.png is that of another picture"),
    "another mask": ({"ref_id": "0", "bbox": [1, 1, 2, 2], "polygon": ...}, "has ref_id 0, but another mask"),
}


@pytest.mark.parametrize(("row", "message"), ROWS.values(), ids=ROWS)
def test_a_bad_record_is_one_error_that_names_it_or_is_left_out(
    row: dict[str, Any], message: str, root: Path, load: Load, caplog
) -> None:
    write_rows(root, {"text": "good", "ref_id": "0"}, row)
    with pytest.raises(DataFormatError, match=message) as caught:
        load()
    assert "metadata.jsonl: line 2" in str(caught.value) and "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        data = load(on_bad_record="skip")
    assert list(masks_of(data)) == ["good"] and "left out (1): " in caplog.text


LINES = {
    "no JSON": ("{", "is not valid JSON"),
    "a list": ("[1]", "should be a JSON object, found [1]"),
    "a key twice": ('{"file_name": "0.png", "file_name": "1.png"}', "has a key twice"),
}


@pytest.mark.parametrize(("line", "message"), LINES.values(), ids=LINES)
def test_a_bad_line_is_one_error_or_is_left_out(line: str, message: str, root: Path, load: Load) -> None:
    write_rows(root, {})
    with (root / "metadata.jsonl").open("a") as file:
        file.write(f"\n{line}")
    with pytest.raises(DataFormatError, match=rf"line 2.*{re.escape(message)}"):
        load()
    assert len(load(on_bad_record="skip")["train"]) == 1


def test_a_bad_line_of_a_table_is_one_error_or_is_left_out(root: Path, load: Load) -> None:
    write_picture(root / "0.png")
    (root / "metadata.csv").write_text("file_name,text,no_target,split\n0.png,a, b,1,train\n0.png,c,1,train\n")
    with pytest.raises(DataFormatError, match=r"metadata\.csv: line 2 has 5 cells for 4 columns\. .*double quotes"):
        load()
    assert len(load(on_bad_record="skip")["train"]) == 1
    (root / "metadata.csv").write_text("file_name,texts\n0.png,the mug\n")
    with pytest.raises(DataFormatError, match=r"line 2: texts is not valid JSON .* Write lists as JSON, such as \["):
        load()
    (root / "metadata.csv").write_text("file_name,text,text\n")
    with pytest.raises(DataFormatError, match="has a column twice"):
        load()


def test_masks_of_another_size_are_resized_when_asked_for(root: Path, load: Load, caplog) -> None:
    write_rows(root, {"polygon": ..., "rle": encode_mask(TARGET.repeat(2, axis=0).repeat(2, axis=1))})
    with caplog.at_level(logging.WARNING):
        data = load(on_size_mismatch="resize_mask")
    assert np.array_equal(masks_of(data)["it"], TARGET) and "resized" in caplog.text


def test_gray_edges_are_noted(root: Path, load: Load, caplog) -> None:
    write_mask(root / "mask.jpg")
    write_rows(root, {"polygon": ..., "mask_file_name": "mask.jpg"})
    with caplog.at_level(logging.WARNING):
        load()
    assert "masks with gray edges, cut at half of white (1): " in caplog.text and "line 1" in caplog.text


# --- Photographs that a camera says to turn --------------------------------------------------------------------------


def write_turned(root: Path, mask: np.ndarray) -> None:
    """A photograph that is shown turned by 90 degrees clockwise: stored WIDTH x HEIGHT, black on the left."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    pixels[:, : WIDTH // 2] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    root.mkdir()
    Image.fromarray(pixels).save(root / "0.jpg", exif=exif)
    rows = [{"file_name": "0.jpg", "text": "it", "rle": encode_mask(mask), "split": "train"}]
    write_metadata(root / "metadata.jsonl", rows)


def test_a_photograph_to_be_turned_needs_a_word(root: Path, load: Load) -> None:
    write_turned(root, TARGET)
    with pytest.raises(DataFormatError, match=r'EXIF orientation 6\); stored it is 20 x 12.* Pass orientation="upri'):
        load()
    with pytest.raises(DataFormatError, match=r"the mask is 20 x 12.*, its picture 12 x 20: one of them is turned"):
        load(orientation="upright", on_size_mismatch="resize_mask")
    with pytest.raises(ValueError, match="Unknown orientation 'up': choose one of upright, stored"):
        load(orientation="up")
    row = load(orientation="stored")["train"][0]
    assert row["mask"]["size"] == [HEIGHT, WIDTH]


def test_a_photograph_is_turned_with_masks_of_what_programs_show(root: Path, load: Load, tmp_path: Path) -> None:
    write_turned(root, np.rot90(TARGET, -1).copy())
    data = load(orientation="upright")
    row, (item, *_) = data["train"][0], ImageExamples(data["train"])
    # Training sees what programs show, as does whoever loads the rows.
    assert item["image"].size == row["image"].size and np.array_equal(item["masks"][0], np.rot90(TARGET, -1))
    assert row["image"].size == (HEIGHT, WIDTH) and row["mask"]["size"] == [WIDTH, HEIGHT]
    # What was on the left is above.
    assert max(row["image"].getpixel((5, 2))) < 20 and min(row["image"].getpixel((5, WIDTH - 3))) > 235
    assert 0x0112 not in row["image"].getexif()


# --- Splits ----------------------------------------------------------------------------------------------------------


def write_many(root: Path, count: int) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"{n} {k}", "split": ...} for n in range(count) for k in range(2)]
    write_rows(root, *rows, pictures=count)


def split_of(data: DatasetDict) -> dict[str, str]:
    """The split of each picture, which has to be one."""
    found: dict[str, str] = {}
    for split, rows in data.items():
        for name in rows["image_id"][:]:
            assert found.setdefault(name, split) == split
    return found


def test_splits_are_drawn_by_picture_and_seed(root: Path, load: Load) -> None:
    write_many(root, 20)
    data = load()
    splits = split_of(data)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 32, "val": 4, "test": 4}
    assert split_of(load(seed=0)) == splits != split_of(load(seed=1))
    shares = load(val_share=0.3, test_share=0)
    assert {split: len(set(rows["image_id"][:])) for split, rows in shares.items()} == {"train": 14, "val": 6}
    # Its pictures are those that come first with other shares as well.
    assert {name for name, split in splits.items() if split == "val"} <= set(shares["val"]["image_id"][:])


def test_equal_pictures_are_drawn_into_one_split(root: Path, load: Load) -> None:
    write_many(root, 10)
    for number in range(10):
        copy = root / f"copy of {number}.png"
        copy.write_bytes((root / f"{number}.png").read_bytes())
    with (root / "metadata.jsonl").open("a") as file:
        for number in range(10):
            line = {"file_name": f"copy of {number}.png", "text": "copy", "polygon": POLYGON}
            file.write("\n" + json.dumps(line))
    splits = split_of(load(val_share=0.3, test_share=0.2))
    assert all(splits[f"{number}.png"] == splits[f"copy of {number}.png"] for number in range(10))
    assert len(set(splits.values())) == 3


def test_too_few_pictures_or_half_a_split_are_one_error(root: Path, load: Load) -> None:
    write_many(root, 2)
    with pytest.raises(DataFormatError, match="2 different pictures, too few for the splits train, val and test"):
        load()
    assert list(load(test_share=0)) == ["train", "val"]
    write_rows(root, {"split": "train"}, {"file_name": "1.png", "split": ...})
    with pytest.raises(DataFormatError, match="line 2 says no split, others do"):
        load()


def test_options_of_drawn_splits_need_folders_without_any(root: Path, load: Load) -> None:
    write_rows(root, {})
    with pytest.raises(ValueError, match="says itself what is in which split: leave seed out"):
        load(seed=3)
    for share in (1.5, "0.1", -0.1):
        with pytest.raises(ValueError, match=rf"val_share is {share!r}: choose a share of the pictures"):
            load(val_share=share)


def test_a_picture_in_two_splits_is_noted(root: Path, load: Load, caplog) -> None:
    write_rows(root, {"split": "train"}, {"split": "dev"})
    with caplog.at_level(logging.WARNING):
        assert list(load()) == ["train", "val"]
    assert "pictures that are in several splits" in caplog.text and "(1): 0.png" in caplog.text
    # Under another name as well.
    write_rows(root, {"split": "train"}, {"file_name": "1.png", "split": "val"})
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load()
    assert "several splits" not in caplog.text
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        load()
    assert "(1): 0.png = 1.png" in caplog.text


# --- Label pictures and phrases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_labels_with_a_table_become_rows(suffix: str, root: Path, load: Load) -> None:
    make_labels(root, suffix)
    data = load()
    described = {
        split: [(row["image_id"], row["category"], [each["raw"] for each in row["sentences"]]) for row in rows]
        for split, rows in data.items()
    }
    assert described == {
        "train": [("images/train/0.jpg", "lake", ["the lake", "water"])],
        "val": [
            ("images/val/1.jpg", "lake", ["the lake", "water"]),
            ("images/val/1.jpg", "", ["the road"]),
        ],
    }
    rest = ~TARGET
    rest[-1] = False
    lake, road = (decode_mask(row["mask"]) for row in data["val"])
    assert np.array_equal(decode_mask(data["train"][0]["mask"]), TARGET)
    assert np.array_equal(road, TARGET) and np.array_equal(lake, rest)


def test_labels_by_color_become_rows(root: Path, load: Load) -> None:
    make_labels(root)
    colors = {0: (0, 0, 0), 1: (255, 128, 0), 2: (0, 0, 9), 255: (224, 224, 192)}
    for path in root.glob("labels/*/*.png"):
        values = np.asarray(Image.open(path))
        pixels = np.zeros((*values.shape, 3), dtype=np.uint8)
        for value, color in colors.items():
            pixels[values == value] = color
        Image.fromarray(pixels).save(path)
    (root / "labels.csv").write_text('color,text\n#ff8000,the lake\n"0, 0, 9",the road\n224 224 192,\n')
    assert {split: len(rows) for split, rows in load().items()} == {"train": 1, "val": 2}
    assert np.array_equal(decode_mask(load()["train"][0]["mask"]), TARGET)


TABLES = {
    "a label that is absent": ("value,text\n1,lake\n2,road\n", "has the label 255, which labels.csv does not hav"),
    "another column": ("value,txet\n1,lake\n", "there is no column txet; did you mean tex"),
    "no sentence at all": ("value,text\n1,\n", "have a text for at least one"),
    "a label twice": ("value,text\n1,lake\n1,sea\n", "the label '1' is there already"),
    "no number": ("value,text\nlake,lake\n", "value should be a number from 0 to 65535"),
    "no color": ("color,text\n300 1 1,lake\n", "color should be like #ff8000"),
    "two kinds": ("value,color,text\n1,,lake\n,#ffffff,sea\n", "all of them alike"),
    "colors for numbers": ("color,text\n#010203,lake\n", "has the label #010101, which labels.csv does not have"),
}


@pytest.mark.parametrize(("table", "message"), TABLES.values(), ids=TABLES)
def test_a_bad_table_of_labels_is_one_error(table: str, message: str, root: Path, load: Load) -> None:
    make_labels(root)
    (root / "labels.csv").write_text(table)
    with pytest.raises(DataFormatError, match=message):
        load()


def test_label_pictures_without_a_picture_are_one_error_or_left_out(root: Path, load: Load) -> None:
    make_labels(root)
    (root / "images" / "train" / "0.jpg").rename(root / "images" / "train" / "a.jpg")
    with pytest.raises(DataFormatError, match=r"train/0\.png: there is no picture of this name in .*images"):
        load()
    assert list(load(on_bad_record="skip")) == ["val"]
    (root / "labels").rename(root / "other")
    with pytest.raises(DataFormatError, match="should hold one of the folders labels, masks, SegmentationClass"):
        load()


def test_hidden_copies_of_pictures_are_none(root: Path, load: Load) -> None:
    make_labels(root)
    for name in ("images/train/._0.jpg", "labels/train/._0.png", "labels/.trash/train/9.png"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"\0\5\x16\7")
    assert {split: len(rows) for split, rows in load().items()} == {"train": 1, "val": 2}


def test_hidden_tables_and_ids_are_not_read(root: Path, load: Load) -> None:
    make_metadata(root / "train")
    shutil.copytree(root / "train", root / ".old")
    assert sum(map(len, load().values())) == 5
    shutil.rmtree(root)
    make_phrases(root)
    (root / "output_phrase_val.txt").write_text(".0 road\n")
    for name in ("images", "masks"):
        shutil.copy(root / name / "0.tif", root / name / ".0.tif")
    with pytest.raises(DataFormatError, match=r"output_phrase_val\.txt: line 1: '\.0' is no id of a picture"):
        load()


def test_a_name_that_is_no_text_is_one_error(root: Path, load: Load) -> None:
    make_labels(root)
    for path in root.glob("*/train/0.*"):
        path.rename(path.with_name(os.fsdecode(b"l\xf6we") + path.suffix))
    with pytest.raises(DataFormatError, match=r"images/train/l.*we\.jpg' is no text in UTF-8.*Rename the file"):
        load()
    assert list(load(on_bad_record="skip")) == ["val"]
    shutil.rmtree(root / "labels" / "val")
    with pytest.raises(DataFormatError, match=r"has no record that can be read.* is no text in UTF-8"):
        load(on_bad_record="skip")


@pytest.mark.parametrize("names", [("images", "masks", ".tif"), ("img_rgb", "mask", ".png")])
def test_phrases_in_text_files_become_rows(names: tuple[str, str, str], root: Path, load: Load) -> None:
    make_phrases(root, *names)
    data = load()
    assert {split: rows["ref_id"][:] for split, rows in data.items()} == {"train": ["0"], "val": ["1"], "test": ["1"]}
    assert [each["raw"] for each in data["train"][0]["sentences"]] == ["road 0", "a way"]
    # 50 is background.
    assert all(np.array_equal(mask, TARGET) for mask in masks_of(data).values())


def test_bad_phrases_are_one_error(root: Path, load: Load) -> None:
    make_phrases(root)
    write_mask(root / "masks" / "0.tif", ~TARGET, foreground=50)
    with pytest.raises(DataFormatError, match=r"output_phrase_train\.txt: line 1 \(0\), 0\.tif: the mask is empty"):
        load()
    for line, message in (
        ("7 road", r"line 1: there is no picture '7'"),
        ("../0 road", "is no id of a picture"),
        ("1", "a sentence should be a text, found ''"),
    ):
        (root / "output_phrase_val.txt").write_text(line)
        with pytest.raises(DataFormatError, match=message):
            load()


# --- Formats ---------------------------------------------------------------------------------------------------------


def test_no_format_and_several_are_one_error(root: Path, load: Load) -> None:
    write_picture(root / "0.png")
    with pytest.raises(DataFormatError, match=r"is in no known format\. Found: 0\.png\. .*metadata\.jsonl or metada"):
        load()
    make_labels(root)
    make_metadata(root)
    with pytest.raises(
        DataFormatError, match=r"in several formats: metadata \(metadata\.jsonl\), labels \(labels.csv"
    ):
        load()
    assert len(load(format="metadata")["train"]) == 4
    with pytest.raises(DataFormatError, match=r"is in no known format.*output_phrase"):
        load(format="phrases")
    with pytest.raises(ValueError, match="Unknown format 'x': choose one of metadata, labels, phrases"):
        load(format="x")
    (root / "metadata.csv").write_text("")
    with pytest.raises(DataFormatError, match=r"holds metadata\.csv and metadata\.jsonl: one file for all"):
        load(format="metadata")
    (root / "metadata.csv").rename(root / "images" / "metadata.csv")
    with pytest.raises(DataFormatError, match=r"holds images/metadata\.csv and metadata\.jsonl: one file for all"):
        load(format="metadata")


def test_categories_are_the_sentences_when_asked_for(root: Path, load: Load) -> None:
    write_rows(root, {"text": ..., "category": "dog"}, {"file_name": "1.png", "text": "a", "category": "A cat"})
    assert list(masks_of(load(sentence_from="category"))) == ["dog", "A cat"]
    write_rows(root, {"text": "a"})
    with pytest.raises(DataFormatError, match="line 1 has no sentence, found None"):
        load(sentence_from="category")
    with pytest.raises(ValueError, match="Unknown sentence_from 'x': choose one of sentence, category"):
        load(sentence_from="x")


def test_labels_of_categories_are_sentences_when_asked_for(root: Path, load: Load) -> None:
    make_labels(root)
    assert list(masks_of(load(sentence_from="category"))) == ["lake"]
    make_phrases(root / "phrases")
    with pytest.raises(ValueError, match="phrases have no categories: leave sentence_from out"):
        load_refseg("folder", root / "phrases", sentence_from="category")


def test_changed_files_are_read_again(root: Path, load: Load) -> None:
    write_rows(root, {})
    assert np.array_equal(masks_of(load())["it"], TARGET)
    write_rows(root, {"polygon": ..., "mask_file_name": "mask.png"})
    write_mask(root / "mask.png")
    assert np.array_equal(masks_of(load())["it"], TARGET)
    write_mask(root / "mask.png", ~TARGET)
    assert np.array_equal(masks_of(load())["it"], ~TARGET)


def test_changed_files_are_read_again_where_folders_are_links(root: Path, load: Load, tmp_path: Path) -> None:
    write_mask(tmp_path / "elsewhere" / "mask.png")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path)
    write_rows(root, {"polygon": ..., "mask_file_name": "masks/mask.png"})
    (root / "masks").symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(masks_of(load())["it"], TARGET)
    write_mask(tmp_path / "elsewhere" / "mask.png", ~TARGET)
    assert np.array_equal(masks_of(load())["it"], ~TARGET)


@pytest.mark.parametrize(("target", "is_read"), [("elsewhere.png", False), ("data/elsewhere.png", True)])
@pytest.mark.parametrize("linked", ["picture", "mask", "label", "text", "table"])
def test_a_file_that_is_a_link_leads_nowhere_out_of_the_folder(
    target: str, is_read: bool, linked: str, root: Path, load: Load, tmp_path: Path
) -> None:
    if linked in ("label", "table"):
        make_labels(root)
    else:
        write_rows(
            root, {"file_name": "0.png"} if linked == "picture" else {"polygon": ..., "mask_file_name": "m.png"}
        )
        write_mask(root / "m.png")
    files = {"picture": "0.png", "mask": "m.png", "label": "labels/train/0.png", "text": "metadata.jsonl"}
    link = root / {**files, "table": "labels.csv"}[linked]
    link.rename(tmp_path / target)
    link.symlink_to(tmp_path / target)
    if is_read:
        assert len(load()["train"]) == 1
        return
    with pytest.raises(DataFormatError, match=rf"{link} is a link to .*{target}, outside of the data folder. Put"):
        load()


def test_files_of_a_folder_that_users_linked_may_be_links_within_it(root: Path, load: Load, tmp_path: Path) -> None:
    write_mask(tmp_path / "elsewhere" / "stored.png")
    (tmp_path / "elsewhere" / "mask.png").symlink_to("stored.png")
    write_rows(root, {"polygon": ..., "mask_file_name": "masks/mask.png"})
    (root / "masks").symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(masks_of(load())["it"], TARGET)


def test_one_of_a_kind_is_counted_without_a_plural(root: Path, load: Load, caplog) -> None:
    write_rows(root, {})
    load()
    assert "found 1 picture, 1 sentence, masks from polygons." in caplog.text
