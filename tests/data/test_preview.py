"""Contact sheets of data sets: the right pixels, the rows that were asked for and no others, any size and text."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from color_videos import COLORS, as_dataset, make_row
from datasets import Dataset
from PIL import Image
from places import FIXTURES
from typer.testing import CliRunner

from hf_refseg import load_refseg, preview_dataset
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError, InvalidRowError, row_features
from hf_refseg.visualization import SheetFrame, SheetRow, draw_image_sheet, draw_video_sheet
from hf_refseg.visualization.contact_sheets import MARK_COLOR
from hf_refseg.visualization.overlays import MASK_COLOR
from hf_refseg_cli import app

REFER_API = FIXTURES / "refer_api"
SCENES = {"train_size": 1, "val_size": 2, "test_size": 1, "image_size": 64}


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> np.ndarray:
    """A mask of a picture of some width and height that is true in a box (left, upper, right, lower), or nowhere."""
    mask = np.zeros(size[::-1], dtype=bool)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def gray_row(
    level: int,
    size: tuple[int, int] = (240, 240),
    box: tuple[int, int, int, int] | None = (60, 60, 180, 180),
    sentences: tuple[str, ...] = ("the box",),
    **changed: object,
) -> dict:
    """A row with a picture of one level of gray."""
    row = {
        "image": Image.new("RGB", size, (level,) * 3),
        "image_id": f"{level}",
        "ref_id": f"r{level}",
        "ann_ids": ["1"],
        "category": "box",
        "mask": encode_mask(box_mask(size, box)),
        "bbox": [0, 0, 0, 0],
        "no_target": False,
        "sentences": [{"sent_id": str(place), "raw": text, "sent": text} for place, text in enumerate(sentences)],
    }
    return row | changed


def as_images(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=row_features())


def count(sheet: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == color).all(axis=-1).sum())


def levels_in(sheet: Image.Image, levels: range) -> list[int]:
    """The levels of gray that cover much of a sheet."""
    red, green, blue = np.moveaxis(np.asarray(sheet), -1, 0)
    numbers = np.bincount(red[(red == green) & (green == blue)], minlength=256)
    return [level for level in levels if numbers[level] > 2000]


def test_the_mask_is_tinted_and_nothing_else():
    sheet = preview_dataset(as_images(gray_row(120)))
    pixels = np.asarray(sheet).astype(int)
    left, top = (np.flatnonzero((pixels == 120).all(axis=-1).sum(axis=axis) > 100)[0] for axis in (0, 1))
    picture = pixels[top : top + 240, left : left + 240]
    mask = box_mask((240, 240), (60, 60, 180, 180))
    assert (picture[~mask] == 120).all()
    # Between gray and the mask's color inside, and the color itself around it.
    inner = box_mask((240, 240), (62, 62, 178, 178))
    share = (picture[inner] - 120) / (np.array(MASK_COLOR) - 120)
    assert share.min() > 0.3 and share.max() < 0.6
    assert (picture[60, 60:180] == MASK_COLOR).all()
    assert count(sheet, MARK_COLOR) == 0


def test_rows_are_spread_evenly_or_drawn_by_a_seed():
    levels = range(100, 140)
    rows = as_images(*(gray_row(level, box=None) for level in levels))
    assert levels_in(preview_dataset(rows, 4), levels) == [100, 113, 126, 139]
    drawn = [levels_in(preview_dataset(rows, 4, seed=seed), levels) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(each) == 4 for each in drawn)
    assert preview_dataset(rows, 4, seed=1).tobytes() == preview_dataset(rows, 4, seed=1).tobytes()
    assert levels_in(preview_dataset(rows.select(range(3)), 12), levels) == [100, 101, 102]
    assert preview_dataset(rows, 4, title="one").tobytes() != preview_dataset(rows, 4, title="other").tobytes()


def test_only_the_rows_that_are_drawn_are_opened(tmp_path):
    absent = str(tmp_path / "absent.png")
    rows = [gray_row(level, image={"path": absent, "bytes": None}) for level in range(100, 109)]
    for place in (0, 4, 8):
        rows[place] = gray_row(100 + place)
    assert levels_in(preview_dataset(as_images(*rows), 3), range(100, 109)) == [100, 104, 108]
    with pytest.raises(InvalidRowError, match=r"row r101 .*absent\.png"):
        preview_dataset(as_images(*rows), 9)
    video = make_row(0, COLORS, frames=9, annotated=[0, 3, 6, 8])
    video["frames"] = [
        frame if number in (0, 3, 6, 8) else {"path": absent, "bytes": None}
        for number, frame in enumerate(video["frames"])
    ]
    assert preview_dataset(as_dataset(video)).width > 5 * 240


def test_what_has_no_mask_says_so():
    none = preview_dataset(as_images(gray_row(120, box=None, no_target=True)))
    empty = preview_dataset(as_images(gray_row(120, box=None)))
    assert count(none, MARK_COLOR) > 30 and count(empty, MARK_COLOR) > 30
    assert none.tobytes() != empty.tobytes()
    assert count(none, MASK_COLOR) == count(empty, MASK_COLOR) == 0


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1600, 1200), (800, 600, 801, 601)),
        ((1600, 1200), (1599, 1199, 1600, 1200)),
        ((3000, 20), (2900, 2, 2990, 18)),
    ],
)
def test_small_masks_and_those_in_long_pictures_are_seen(size, box):
    sheet = preview_dataset(as_images(gray_row(120, size, box)))
    assert count(sheet, MASK_COLOR) >= 20
    turned = preview_dataset(as_images(gray_row(120, size[::-1], (box[1], box[0], box[3], box[2]))))
    assert count(turned, MASK_COLOR) >= 20


def test_a_sheet_has_a_bounded_size():
    long = ("word " * 400, "x" * 3000, *(["again"] * 50))
    rows = [
        gray_row(120, (3000, 10), (0, 0, 9, 9), long, ref_id="r" * 5000),
        gray_row(120, (10, 3000), (0, 0, 9, 9), ("word\x00\n" * 50, "\ud800"), ref_id="\U0010ffff" * 90),
        gray_row(120, (1, 1), (0, 0, 1, 1), ("الدائرة الحمراء", "红色的圆圈")),
        *(gray_row(120) for _ in range(9)),
    ]
    # Lone surrogates do not get into Arrow tables: this one is drawn alone.
    rows[1]["sentences"].pop()
    sheet = preview_dataset(as_images(*rows), title="name " * 500)
    assert sheet.width == 4 * 240 + 5 * 6
    assert sheet.height < 3 * 2 * 240
    drawn = draw_image_sheet([SheetRow([SheetFrame(rows[0]["image"], None)], ["\ud800"], ["\ud800"])], "\ud800")
    assert drawn.height < 2 * 240
    assert preview_dataset(as_images(gray_row(120))).width == 240 + 2 * 6


def test_of_a_long_id_the_beginning_is_shown():
    first, other = (preview_dataset(as_images(gray_row(120, ref_id=letter * 90))) for letter in "ab")
    assert first.tobytes() != other.tobytes()


def test_videos_are_strips():
    videos = as_dataset(*(make_row(video, COLORS) for video in range(3)))
    sheet = preview_dataset(videos)
    assert sheet.width == 5 * 240 + 6 * 6
    assert 9 * 240 < sheet.height < 9 * 300
    assert count(sheet, MASK_COLOR) > 9 * 4 * 50
    assert preview_dataset(videos, 2).height < 2 * 300
    hidden = make_row(0, ["red"])
    hidden["referents"][0]["masks"][1] = encode_mask(np.zeros((64, 64), dtype=bool))
    assert count(preview_dataset(as_dataset(hidden)), MASK_COLOR) < count(sheet, MASK_COLOR) / 9
    unlabeled = preview_dataset(as_dataset(make_row(0, ["red"], annotated=[])))
    assert (count(unlabeled, MASK_COLOR), count(unlabeled, MARK_COLOR) > 30) == (0, True)


def test_what_cannot_be_drawn_is_named():
    rows = as_images(gray_row(120))
    for wrong in (0, 101):
        with pytest.raises(ValueError, match=f"1 to 100 rows, not {wrong}"):
            preview_dataset(rows, wrong)
    for empty in (rows.select([]), as_dataset(make_row(0, COLORS)).select([])):
        with pytest.raises(ValueError, match="the data set has no referent"):
            preview_dataset(empty)
    with pytest.raises(DataFormatError, match="no column sentences"):
        preview_dataset(rows.remove_columns("sentences"))
    with pytest.raises(InvalidRowError, match="mask of row r120 is 5 x 5"):
        preview_dataset(as_images(gray_row(120, mask=encode_mask(np.ones((5, 5), dtype=bool)))))
    frame = SheetFrame(Image.new("RGB", (8, 8)), np.ones((8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="Expected a boolean mask"):
        draw_image_sheet([SheetRow([frame], [], [])], "")
    for draw in (draw_image_sheet, draw_video_sheet):
        for nothing in ([], [SheetRow([], ["the box"], [])]):
            with pytest.raises(ValueError, match="nothing to draw"):
                draw(nothing, "")


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_command_writes_the_sheet(own_folder):
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["preview", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.stdout

    read = ["refcoco", "--data-dir", REFER_API]
    assert run(*read, "-o", "new/sheet.png", "--rows", 3, "--split", "val") == "new/sheet.png\n"
    rows = load_refseg("refcoco", REFER_API)
    expected = preview_dataset(rows["val"], 3, title="refcoco val")
    assert Image.open("new/sheet.png").tobytes() == expected.tobytes()
    run(*read, "-o", "first.png", "--sample-seed", 1)
    expected = preview_dataset(rows["train"], 12, seed=1, title="refcoco train")
    assert Image.open("first.png").tobytes() == expected.tobytes()

    def error(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["preview", *map(str, arguments)])
        assert result.exit_code == 1, result.output
        return result.stderr.splitlines()[-1]

    assert "sheet.jpg is to be a PNG file" in error(*read, "-o", "sheet.jpg")
    assert "has no split" in error(*read, "-o", "sheet.png", "--split", "nope")
    assert "takes no --train-size" in error(*read, "-o", "sheet.png", "--train-size", 3)
    assert not Path("sheet.png").exists()


def test_prepared_folders_have_sheets(own_folder, monkeypatch):
    folder = prepare_dataset("grefshapes", None, "prepared", **SCENES)
    rows = load_refseg(str(folder))
    card = (folder / "README.md").read_text()
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert list(pictures) and set(pictures) == {f"preview_{split}.png" for split in rows}
    for split in rows:
        # Drawn of the rows as they were read, the same as of those that were written.
        expected = preview_dataset(rows[split], title=f"RefShapes {split}")
        assert Image.open(folder / f"preview_{split}.png").tobytes() == expected.tobytes()
        assert f"![{split}](preview_{split}.png)" in card
    # A run that was cut off before the pictures goes on.
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("data/*.parquet")}
    (folder / "preview_val.png").unlink()
    prepare_dataset("grefshapes", None, "prepared", **SCENES)
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == pictures
    assert {path: path.stat().st_mtime_ns for path in folder.glob("data/*.parquet")} == shards
