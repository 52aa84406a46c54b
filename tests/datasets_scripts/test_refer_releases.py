"""The REFER family as released, and other people's data in its format: loaded, prepared, verified and trained on."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refer_trees import (
    BOX,
    HEIGHT,
    ROTATED,
    SIDE,
    WIDTH,
    edit_pickle,
    encode_box,
    make_grefcoco,
    make_refclef,
    make_refcoco,
    make_rrsisd,
    write_picture,
)
from train_tiny import build_trainer
from video_trees import edit_json

from hf_refseg.data.catalog import DATASETS
from hf_refseg.data.examples import ImageExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask, mask_to_bbox
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.datasets_scripts import refer

RRSISD = {"dataset": "rrsisd", "on_bad_record": "skip", "on_size_mismatch": "resize_mask"}
TRAIN_IMAGES = Path("images", "mscoco", "images", "train2014")


def box_mask(box: list[int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    x, y, across, down = box
    mask = np.zeros((height, width), dtype=bool)
    mask[y : y + down, x : x + across] = True
    return mask


def ref_ids(dataset: Mapping[str, Any]) -> dict[str, list[str]]:
    return {split: rows["ref_id"][:] for split, rows in dataset.items()}


def only_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    caplog.clear()
    return record.getMessage()


# --- From the download to a training step --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "options", "counts"),
    [
        ("refcoco", make_refcoco, {}, {"train": (2, 4), "val": (1, 2), "testA": (1, 2), "testB": (1, 2)}),
        (
            "refclef",
            make_refclef,
            {},
            {"train": (1, 1), "val": (1, 1), "testA": (2, 2), "testB": (3, 3), "testC": (2, 2)},
        ),
        ("grefcoco", make_grefcoco, {}, {"train": (5, 5), "val": (1, 1), "testA": (1, 1), "testB": (1, 1)}),
        ("refer", make_rrsisd, RRSISD, {"train": (1, 1), "val": (1, 1), "test": (1, 1)}),
    ],
)
def test_a_released_tree_is_prepared_verified_and_trained_on(
    name: str,
    make: Callable[[Path], Path],
    options: dict[str, Any],
    counts: dict[str, tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = DATASETS[name]
    sentences = sum(number for _, number in counts.values())
    partition = replace(spec.partitions[0], published=counts, totals={"sentences": sentences})
    monkeypatch.setitem(DATASETS, name, replace(spec, partitions=(partition,)))
    cache = {"cache_dir": tmp_path / "cache"}
    folder = prepare_dataset(name, make(tmp_path / "data"), tmp_path / "out", verify=True, **options, **cache)
    data = load_refseg(str(folder), **cache)
    assert {split: rows.num_rows for split, rows in data.items()} == {
        split: rows for split, (rows, _) in counts.items()
    }
    for rows in data.values():
        assert all(item["image"].size == item["masks"][0].shape[::-1] for item in ImageExamples(rows))
    trainer = build_trainer(tmp_path / "run", tmp_path, data=data, max_steps=1, per_device_train_batch_size=1)
    before = trainer.model.decoder.classifier.weight.detach().clone()
    assert np.isfinite(trainer.train().training_loss)
    assert not before.equal(trainer.model.decoder.classifier.weight)


# --- RefCOCO -------------------------------------------------------------------------------------------------------


def test_refcoco_is_read_with_its_defects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_refcoco(tmp_path)
    data = load_refseg("refcoco", root, cache_dir=tmp_path / "cache")
    kind = "polygons of fewer than three points, left out beside others (1): "
    assert only_warning(caplog) == f"refcoco: {kind}refcoco/instances.json: annotation 10."
    for rows in data.values():
        for row in rows:
            assert np.array_equal(decode_mask(row["mask"]), box_mask(BOX))
            assert row["bbox"] == BOX and row["category"] == "dog"
            assert [sentence["sent"] for sentence in row["sentences"]] == ["the dog", ""]
    load_refseg("refcoco", root, cache_dir=tmp_path / "cache")
    assert kind in only_warning(caplog), "rows from the cache bring their warning along"


def test_a_picture_that_exif_turns_is_as_it_is_stored_all_the_way(tmp_path: Path) -> None:
    """COCO's annotations outline the stored pixels."""
    cache = {"cache_dir": tmp_path / "cache"}
    root = make_refcoco(tmp_path / "data")
    with Image.open(root / TRAIN_IMAGES / "COCO_train2014_000000000002.jpg") as picture:
        assert picture.getexif()[274] == ROTATED
    folder = prepare_dataset("refcoco", root, tmp_path / "out", **cache)
    for data in (load_refseg("refcoco", root, **cache), load_refseg(str(folder), **cache)):
        items = {item["image_id"]: item for item in ImageExamples(data["train"])}
        assert items["2"]["image"].size == (WIDTH, HEIGHT) and np.array_equal(items["2"]["masks"][0], box_mask(BOX))
    # A copy whose pixels were turned has another size.
    write_picture(root / TRAIN_IMAGES / "COCO_train2014_000000000002.jpg", 2, (HEIGHT, WIDTH))
    with pytest.raises(DataFormatError, match=rf"annotation 11, on COCO_train2014_0+2\.jpg: the mask is {HEIGHT} x"):
        load_refseg("refcoco", root, cache_dir=tmp_path / "anew")


def test_a_picture_that_differs_by_a_pixel_is_noticed_and_its_mask_resized_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_refcoco(tmp_path)
    picture = root / TRAIN_IMAGES / "COCO_train2014_000000000003.jpg"
    write_picture(picture, 3, (WIDTH - 1, HEIGHT))
    with pytest.raises(
        DataFormatError, match=rf"{picture.name}: the mask is 12 x 20 .*, its picture 12 x 19\. .*resize"
    ):
        load_refseg("refcoco", root, cache_dir=tmp_path / "cache")
    assert load_refseg("refcoco", root, splits=["train"], cache_dir=tmp_path / "cache").keys() == {"train"}
    caplog.clear()
    options = {"on_size_mismatch": "resize_mask", "splits": ["val"], "cache_dir": tmp_path / "cache"}
    (row,) = load_refseg("refcoco", root, **options)["val"]
    assert only_warning(caplog).startswith("refcoco: masks resized to their pictures (1): ")
    assert row["mask"]["size"] == [HEIGHT, WIDTH - 1] and row["image"].size == (WIDTH - 1, HEIGHT)
    # The box follows the mask.
    write_picture(picture, 3, (WIDTH // 2, HEIGHT))
    (row,) = load_refseg("refcoco", root, **options)["val"]
    assert row["bbox"] == mask_to_bbox(decode_mask(row["mask"])) != BOX
    caplog.clear()
    # With the original in its place there is nothing to resize: rows depend on the pictures now.
    write_picture(picture, 3)
    (row,) = load_refseg("refcoco", root, **options)["val"]
    assert row["mask"]["size"] == [HEIGHT, WIDTH] and not caplog.records


def test_bad_records_are_left_out_when_asked_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_refcoco(tmp_path)
    # Of its polygon of two points nothing is said then.
    edit_pickle(root / "refcoco" / "refs(unc).p", lambda refs: refs[0]["sentences"][0].update(raw=" "))
    edit_pickle(root / "refcoco" / "refs(unc).p", lambda refs: refs[3].update(split="tset"))
    edit_json(root / "refcoco" / "instances.json", lambda content: content["annotations"][2].update(id=None))
    cache = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(DataFormatError, match=r"annotations at position 2: 'id' should be"):
        load_refseg("refcoco", root, **cache)
    # The only ref of val has no annotation now.
    with pytest.raises(
        DataFormatError, match=r"no record of the split 'val' can be read\. .*: ref 2: annotation 12 does not exist"
    ):
        load_refseg("refcoco", root, on_bad_record="skip", **cache)
    caplog.clear()
    options = {"on_bad_record": "skip", "splits": ["testB", "train"]}
    folder = prepare_dataset("refcoco", root, tmp_path / "out", **options, **cache)
    assert ref_ids(load_refseg(str(folder), **cache)) == {"train": ["1"], "testB": ["4"]}
    warning = only_warning(caplog)
    assert warning.startswith("refcoco: bad records, which are left out (3): ")
    listed = (folder / "findings.json").read_text()
    for part in (
        "'id' should be of type int or str, found None",
        "ref 3 is in the split 'tset'",
        "sentence 0 is empty",
    ):
        assert part in listed
    assert "refs(unc).p: ref 3 " in warning
    with pytest.raises(ValueError, match=r"refcoco has no split 'testA'\. Choose one of: train, val, testB"):
        load_refseg("refcoco", root, splits=["testA"], on_bad_record="skip", **cache)


def test_the_header_of_each_picture_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(refer, "picture_size", lambda path, where: opened.append(path.name) or (HEIGHT, WIDTH))
    root = make_refcoco(tmp_path)
    # Two refs of train on one image.
    edit_pickle(root / "refcoco" / "refs(unc).p", lambda refs: refs[1].update(image_id=1))
    edit_json(root / "refcoco" / "instances.json", lambda content: content["annotations"][1].update(image_id=1))
    load_refseg("refcoco", root, splits=["train"], cache_dir=tmp_path / "cache")
    assert opened == ["COCO_train2014_000000000001.jpg"]


def test_pictures_that_came_later_are_read(tmp_path: Path) -> None:
    root = make_refcoco(tmp_path)
    picture = root / TRAIN_IMAGES / "COCO_train2014_000000000002.jpg"
    content = picture.read_bytes()
    picture.unlink()
    options = {"on_bad_record": "skip", "splits": ["train"], "cache_dir": tmp_path / "cache"}
    assert ref_ids(load_refseg("refcoco", root, **options)) == {"train": ["0"]}
    picture.write_bytes(content)
    assert ref_ids(load_refseg("refcoco", root, **options)) == {"train": ["0", "1"]}


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_damaged_picture_is_named_at_loading(content: bytes, tmp_path: Path) -> None:
    root = make_refcoco(tmp_path)
    picture = root / TRAIN_IMAGES / "COCO_train2014_000000000002.jpg"
    picture.write_bytes(content)
    with pytest.raises(DataFormatError, match=rf"{picture} .*refs\(unc\)\.p: ref 1\) cannot be read as a picture"):
        load_refseg("refcoco", root, cache_dir=tmp_path / "cache")


def test_refcoco_plus_was_split_by_unc_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown split_by 'google' for refcoco\+\. Choose one of: unc\."):
        load_refseg("refcoco+", tmp_path, "google")


# --- RefCLEF -------------------------------------------------------------------------------------------------------


def test_refclef_has_text_ids_and_combined_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_refseg("refclef", make_refclef(tmp_path), cache_dir=tmp_path / "cache")
    assert ref_ids(data) == {
        "train": ["0"],
        "val": ["1"],
        "testA": ["2", "5"],
        "testB": ["3", "5", "6"],
        "testC": ["4", "6"],
    }
    row = data["testA"][1]
    assert (row["ann_ids"], row["image_id"], row["category"], row["bbox"]) == (["117_1"], "117", "sky", BOX)
    assert np.array_equal(decode_mask(row["mask"]), box_mask(BOX))
    assert not caplog.records
    only = load_refseg("refclef", tmp_path, splits=["testC"], cache_dir=tmp_path / "cache")
    assert ref_ids(only) == {"testC": ["4", "6"]}


def test_refs_to_images_that_were_never_released_are_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_refclef(tmp_path)
    cache = {"cache_dir": tmp_path / "cache"}
    assert ref_ids(load_refseg("refclef", root, "berkeley", **cache)) == {"train": ["0"], "val": ["1"], "test": ["2"]}
    assert only_warning(caplog).startswith(
        "refclef: refs of the images 17975, 19575, 19579, which were never released, left out (3): "
        "refclef/refs(berkeley).p: ref 102; "
    )
    load_refseg("refclef", root, "berkeley", splits=["val"], **cache)
    assert not caplog.records, "of another split nothing is said"
    # Another image that is absent is an error.
    edit_json(root / "refclef" / "instances.json", lambda content: content.update(images=content["images"][1:]))
    with pytest.raises(DataFormatError, match=r"ref 0: image 112 has no entry"):
        load_refseg("refclef", root, "berkeley", **cache)


# --- gRefCOCO ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refs_name", ["grefs(unc).json", "grefs(unc).p"])
def test_grefcoco_is_read_as_released(refs_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_grefcoco(tmp_path, refs_name)
    data = load_refseg("grefcoco", root, cache_dir=tmp_path / "cache")
    assert only_warning(caplog) == f"grefcoco: refs without a sentence, left out (1): grefcoco/{refs_name}: ref 6."
    found = {row["ref_id"]: row for rows in data.values() for row in rows}
    left, right = box_mask([0, 2, 6, 4]), box_mask([10, 2, 6, 4])
    for ref_id, ann_ids, mask in (
        ("0", ["10"], left),
        ("1", ["11"], right),
        ("2", ["10", "11"], left | right),
        ("3", ["10", "12"], left),
        ("4", ["-1"], left & right),
        ("7", ["-1"], left & right),
    ):
        row = found[ref_id]
        assert row["ann_ids"] == ann_ids and np.array_equal(decode_mask(row["mask"]), mask)
        assert row["no_target"] == (ann_ids == ["-1"]) and row["category"] == ("" if row["no_target"] else "dog")
    assert found["2"]["bbox"] == [0.0, 2.0, 16.0, 4.0] and found["4"]["bbox"] == [0.0] * 4


def test_the_files_of_grefcoco_may_lie_in_two_places_and_have_two_names(tmp_path: Path) -> None:
    root = make_grefcoco(tmp_path)
    (root / "images" / "mscoco" / "images").mkdir(parents=True)
    (root / "images" / "train2014").rename(root / TRAIN_IMAGES)
    assert load_refseg("grefcoco", root, cache_dir=tmp_path / "cache")["val"].num_rows == 1
    (root / "images").rename(root / "pictures")
    expected = r"Expected images/mscoco/images/train2014 or images/train2014 under .*found there cache, grefcoco, pict"
    with pytest.raises(DataFormatError, match=expected):
        load_refseg("grefcoco", root, cache_dir=tmp_path / "cache")
    (root / "grefcoco" / "grefs(unc).json").unlink()
    expected = r"Expected grefcoco/grefs\(unc\)\.json or grefcoco/grefs\(unc\)\.p, grefcoco/instances\.json under"
    with pytest.raises(DataFormatError, match=expected):
        load_refseg("grefcoco", root, cache_dir=tmp_path / "cache")


# --- Other people's data -------------------------------------------------------------------------------------------


def test_rrsisd_is_read_as_its_options_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_rrsisd(tmp_path)
    cache = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(DataFormatError, match=r"ref 3: its mask, of annotation 8 in .*, is empty.*on_bad_record"):
        load_refseg("refer", root, dataset="rrsisd", **cache)
    with pytest.raises(
        DataFormatError, match=r"annotation 6, on 00006\.jpg: the mask is 16 x 16 .* 17 x 16\..*resize"
    ):
        load_refseg("refer", root, "unc", dataset="rrsisd", splits=["val"], **cache)
    caplog.clear()
    data = load_refseg("refer", root, "unc", **RRSISD, **cache)
    messages = sorted(record.getMessage() for record in caplog.records)
    assert [message.partition(": ")[2].partition(" (")[0] for message in messages] == [
        "bad records, which are left out",
        "masks resized to their pictures",
    ]
    assert ref_ids(data) == {"train": ["2"], "val": ["1"], "test": ["0"]} and list(data) == ["train", "val", "test"]
    row = data["test"][0]
    assert (row["bbox"], row["category"], row["ann_ids"], row["no_target"]) == (BOX, "airplane", ["5"], False)
    assert np.array_equal(decode_mask(row["mask"]), box_mask(BOX, SIDE, SIDE))
    assert data["val"][0]["mask"]["size"] == [SIDE + 1, SIDE]
    # An empty mask is empty in any size.
    write_picture(root / "images" / "rrsisd" / "JPEGImages" / "00008.jpg", 3, (SIDE + 1, SIDE))
    with pytest.raises(DataFormatError, match=r"ref 3: its mask, of annotation 8 in .*, is empty"):
        load_refseg("refer", root, dataset="rrsisd", on_size_mismatch="resize_mask", **cache)
    assert load_refseg("refer", root, splits=["test"], dataset="rrsisd", **cache).keys() == {"test"}
    with pytest.raises(ValueError, match=r"rrsisd has no split 'testA'\. Choose one of: train, val, test"):
        load_refseg("refer", root, splits=["testA"], dataset="rrsisd", **cache)


def test_ids_are_numbers_or_texts_and_splits_any_words(tmp_path: Path) -> None:
    root = make_rrsisd(tmp_path)
    folder = root / "rrsisd"

    def with_texts(refs: list[dict[str, Any]]) -> None:
        for ref, split in zip(refs, ("testB", "trainval", "extra", "validation"), strict=True):
            ref.update(
                ref_id=f"r{ref['ref_id']}", ann_id=[f"{ref['ann_id']}"], image_id=str(ref["image_id"]), split=split
            )
            ref.pop("category_id")

    edit_pickle(folder / "refs(unc).p", with_texts)
    edit_json(
        folder / "instances.json",
        lambda content: content["annotations"][3].update(segmentation=[encode_box(BOX, SIDE, SIDE)]),
    )
    (folder / "refs(unc).p").rename(folder / "refs(mine).p")
    data = load_refseg(
        "refer", root, "mine", dataset="rrsisd", on_size_mismatch="resize_mask", cache_dir=tmp_path / "cache"
    )
    assert ref_ids(data) == {"trainval": ["r1"], "validation": ["r3"], "testB": ["r0"], "extra": ["r2"]}
    assert list(data) == ["trainval", "validation", "testB", "extra"]
    row = data["testB"][0]
    assert (row["ann_ids"], row["image_id"], row["category"]) == (["5"], "5", "")


@pytest.mark.parametrize("place", ["images/mine", "mine/images", "images/mscoco/images/train2014"])
def test_images_are_found_in_the_usual_places_or_where_the_option_says(place: str, tmp_path: Path) -> None:
    root = make_rrsisd(tmp_path)
    (root / "rrsisd").rename(root / "mine")
    options = {"dataset": "mine", "splits": ["test"], "cache_dir": tmp_path / "cache"}
    with pytest.raises(DataFormatError, match=r"Expected images/mine/JPEGImages or images/mine or .*pass image_dir"):
        load_refseg("refer", root, **options)
    pictures = root / "images" / "rrsisd" / "JPEGImages"
    assert load_refseg("refer", root, image_dir=pictures, **options)["test"].num_rows == 1
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    pictures.rename(root / place)
    path = load_refseg("refer", root, **options)["test"][0]["image"].filename
    assert path == str(root / place / "00005.jpg")


def test_data_in_the_format_needs_a_name_and_has_no_published_counts(tmp_path: Path) -> None:
    root = make_rrsisd(tmp_path)
    cache = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match="pass dataset, the name of the folder under data_dir"):
        load_refseg("refer", root, **cache)
    with pytest.raises(ValueError, match=r"dataset is '\.\./rrsisd': pass the name of a folder"):
        load_refseg("refer", root, dataset="../rrsisd", **cache)
    with pytest.raises(ValueError, match="split_by is 'a/b': pass the name of a folder"):
        load_refseg("refer", root, "a/b", dataset="rrsisd", **cache)
    with pytest.raises(DataFormatError, match=r"refs\(mine\)\.p does not exist\. Expected rrsisd/refs\(mine\)\.p or "):
        load_refseg("refer", root, "mine", dataset="rrsisd", **cache)
    with pytest.raises(ValueError, match="No counts are published for refer unc: prepare it without verify"):
        prepare_dataset("refer", root, tmp_path / "out", verify=True, **RRSISD, **cache)
    with pytest.raises(ValueError, match="refcoco has no option 'dataset'"):
        load_refseg("refcoco", root, dataset="rrsisd", **cache)


@pytest.mark.parametrize("split", ["a-b", "", "../x", "x" * 61, "ü", "all"])
def test_a_split_whose_name_is_no_word_is_refused(split: str, tmp_path: Path) -> None:
    root = make_rrsisd(tmp_path)
    edit_pickle(root / "rrsisd" / "refs(unc).p", lambda refs: refs[0].update(split=split))
    with pytest.raises(DataFormatError, match=r"refs\(unc\)\.p: ref 0 is in the split .*, which is no word"):
        load_refseg("refer", root, dataset="rrsisd", cache_dir=tmp_path / "cache")
