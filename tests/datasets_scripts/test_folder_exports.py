"""Folders with the files that annotation tools export: rows as they were drawn, and a clear error for each fault."""

import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import DatasetDict
from export_trees import (
    CAT,
    DOG,
    HEIGHT,
    WIDTH,
    box_mask,
    coco_annotation,
    coco_image,
    corners,
    labelme_file,
    labelme_shape,
    make_cvat,
    make_label_studio,
    make_labelme,
    make_roboflow,
    outline,
    percents,
    png,
    region,
    run_lengths,
    task,
    text_area,
    write_json,
    write_picture,
)
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask
from train_tiny import build_trainer

from hf_refseg.data.examples import ImageExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import InvalidMaskError, decode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.datasets_scripts.folder_records import Box, Joined, RunLengths

CVAT_FILE = "annotations/instances_default.json"
STUDIO_FILE = "project-1-at-2026-01-01-00-00-0a1b2c3d.json"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """The rows of a folder that says nothing of splits, by ref_id."""

    def load_rows(root: Path, **options: Any) -> dict[str, dict[str, Any]]:
        rows = load_all(root, tmp_path / "cache", val_share=0.0, test_share=0.0, **options)
        return {row["ref_id"]: row for row in rows["train"]}

    return load_rows


def load_all(root: Path, cache: Path, **options: Any) -> DatasetDict:
    return load_refseg("folder", root, cache_dir=cache, **options)


def raws(row: dict[str, Any]) -> list[str]:
    return [sentence["raw"] for sentence in row["sentences"]]


def pixels(row: dict[str, Any]) -> list[list[bool]]:
    return decode_mask(row["mask"]).tolist()


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- COCO's format -------------------------------------------------------------------------------------------------


def test_cvat_has_sentences_in_attributes_crowds_and_rectangles(tmp_path, load, caplog):
    rows = load(make_cvat(tmp_path / "data"))
    expected = {
        "images/1.png#1": (["the left dog"], "dog", box_mask(2, 3, 6, 8)),
        "images/1.png#2": (["the dog behind a tree"], "dog", box_mask(10, 1, 13, 4) | box_mask(15, 6, 18, 9)),
        "images/1.png#3": (["a cat", "cat on the grass"], "cat", box_mask(3, 4, 9, 7)),
        "images/2.png#4": (["the small dog"], "dog", box_mask(2, 3, 6, 8)),
        "images/3.png#6": (["the cat in the corner"], "cat", box_mask(1, 1, 3, 3)),
    }
    assert rows.keys() == expected.keys()
    for ref_id, (sentences, category, mask) in expected.items():
        row = rows[ref_id]
        assert (raws(row), row["category"], pixels(row)) == (sentences, category, mask.tolist()), ref_id
        assert row["image_id"] == ref_id.partition("#")[0] and row["image"].size == (WIDTH, HEIGHT)
    assert "shapes without a sentence, which are left out (1)" in caplog.text
    assert "annotations without an outline, whose box is their mask (1)" in caplog.text


def test_pictures_that_nothing_is_said_of_may_be_absent(tmp_path, load):
    root = make_cvat(tmp_path / "data")
    edit(root / CVAT_FILE, setting("annotations", 5, "attributes", to={}))
    (root / "images" / "3.png").unlink()
    assert {row["image_id"] for row in load(root).values()} == {"images/1.png", "images/2.png"}


def test_a_category_as_sentence_means_all_of_it_in_a_picture(tmp_path, load, caplog):
    rows = load(make_cvat(tmp_path / "data"), sentence_from="category")
    assert {ref_id: raws(row) for ref_id, row in rows.items()} == {
        "images/1.png#label dog": ["dog"],
        "images/1.png#label cat": ["cat"],
        "images/2.png#label dog": ["dog"],
        "images/2.png#label cat": ["cat"],
        "images/3.png#label cat": ["cat"],
    }
    both = box_mask(2, 3, 6, 8) | box_mask(10, 1, 13, 4) | box_mask(15, 6, 18, 9)
    assert pixels(rows["images/1.png#label dog"]) == both.tolist()
    assert "all of that label in their picture (1)" in caplog.text


def test_roboflow_has_a_file_for_each_split(tmp_path):
    dataset = load_all(make_roboflow(tmp_path / "data"), tmp_path / "cache")
    assert list(dataset) == ["train", "val", "test"]
    for (split, rows), folder in zip(dataset.items(), ("train", "valid", "test"), strict=True):
        assert [raws(row) for row in rows] == [["the dog", "the animal"], ["the cat"]], split
        assert [row["category"] for row in rows] == ["dog", "cat"]
        # The pictures have one name in all folders.
        assert {row["image_id"] for row in rows} == {f"{folder}/photo_jpg.rf.0a1b2c3d.jpg"}
        gray = {"train": 50, "val": 60, "test": 70}[split]
        assert abs(int(np.asarray(rows[0]["image"]).mean()) - gray) < 3


def test_cocos_own_names_say_the_split(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        write_picture(root / f"{split}2017" / f"{split}.jpg")
        content = {
            "images": [coco_image(7, f"{split}.jpg")],
            "categories": [],
            "annotations": [{"id": 1, "image_id": 7, "bbox": [1, 1, 2, 2], "segmentation": [], "text": f"of {split}"}],
        }
        write_json(root / "annotations" / f"instances_{split}2017.json", content)
    dataset = load_all(root, tmp_path / "cache")
    assert {split: [raws(row) for row in rows] for split, rows in dataset.items()} == {
        "train": [["of train"]],
        "val": [["of val"]],
    }


@pytest.mark.parametrize("form", ["compressed", "list of RLEs", "polygons", "polygon and a line"])
def test_each_form_of_segmentation(form, tmp_path, load):
    mask = box_mask(2, 3, 6, 8) | box_mask(9, 1, 14, 11)
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed = {**compressed, "counts": compressed["counts"].decode()}
    polygons = [outline(2, 3, 6, 8), outline(9, 1, 14, 11)]
    segmentation = {
        "compressed": compressed,
        "list of RLEs": [run_lengths(box_mask(2, 3, 6, 8)), run_lengths(box_mask(9, 1, 14, 11))],
        "polygons": polygons,
        "polygon and a line": [*polygons, [1.0, 1.0, 5.0, 1.0]],
    }[form]
    rows = load(coco_folder(tmp_path / "data", coco_annotation(5, 1, segmentation, sentence="both")))
    assert pixels(rows["1.png#5"]) == mask.tolist()


def coco_folder(root: Path, *annotations: dict[str, Any], **image: Any) -> Path:
    """One picture, and its annotations."""
    write_picture(root / "1.png")
    content = {
        "images": [{**coco_image(1, "1.png"), **image}],
        "categories": [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}],
        "annotations": list(annotations),
    }
    write_json(root / "coco.json", content)
    return root


@pytest.mark.parametrize("field", ["caption", "text", "sentence", "description", "captions", "sentences"])
def test_each_name_of_a_sentence(field, tmp_path, load):
    box = [outline(2, 3, 6, 8)]
    root = coco_folder(
        tmp_path / "data",
        coco_annotation(1, 1, box, **{field: ["a dog", " the dog\nit ", "", "a dog"]}),
        coco_annotation(2, 1, box, attributes={field.upper(): "in capitals", "occluded": True}),
    )
    assert {ref_id: raws(row) for ref_id, row in load(root).items()} == {
        "1.png#1": ["a dog", "the dog", "it"],
        "1.png#2": ["in capitals"],
    }


def test_a_size_that_is_not_the_pictures(tmp_path, load):
    annotation = coco_annotation(1, 1, [outline(4, 6, 12, 16)], text="twice as large")
    root = coco_folder(tmp_path / "data", annotation, width=2 * WIDTH, height=2 * HEIGHT)
    with pytest.raises(DataFormatError, match=re.escape("coco.json: annotation 1 (1.png): the mask is 24 x 40")):
        load(root)
    rows = load(root, on_size_mismatch="resize_mask")
    assert pixels(rows["1.png#1"]) == box_mask(2, 3, 6, 8).tolist()
    edit(root / "coco.json", lambda content: [content["images"][0].pop(side) for side in ("width", "height")])
    assert pixels(load(root)["1.png#1"]) == box_mask(4, 6, 12, 12).tolist()


# --- labelme -------------------------------------------------------------------------------------------------------


def test_each_shape_of_labelme(tmp_path, load, caplog):
    rows = load(make_labelme(tmp_path / "data"))
    piece = np.zeros((HEIGHT, WIDTH), dtype=bool)
    piece[10, [10, 12]] = piece[11, [10, 11]] = True
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = {
        "a.jpg#0": (["the left dog", "the dog that sits"], "dog", box_mask(2, 3, 6, 8)),
        "a.jpg#1": (["the parted dog"], "dog", box_mask(10, 1, 13, 4) | box_mask(15, 6, 18, 9)),
        "a.jpg#label cat": (["cat"], "cat", piece),
        "pictures/b.jpg#0": (["the ball"], "ball", (x - 8) ** 2 + (y - 6) ** 2 <= 16),
        "pictures/b.jpg#label dog": (["dog"], "dog", box_mask(1, 1, 3, 3) | box_mask(5, 5, 7, 7)),
    }
    rope = pixels(rows.pop("pictures/b.jpg#1"))
    assert rows.keys() == expected.keys()
    for ref_id, (sentences, category, mask) in expected.items():
        row = rows[ref_id]
        assert (raws(row), row["category"], pixels(row)) == (sentences, category, mask.tolist()), ref_id
    # Ten pixels thick, about its middle.
    assert np.sum(rope, axis=0).tolist()[3:17] == [10] * 14 and np.sum(rope) <= 10 * 18
    assert "points, which have no area and are left out (1)" in caplog.text


def test_other_tools_write_rectangles_by_four_corners_and_turned_ones(tmp_path, load):
    diamond = [[6, 1], [10, 5], [6, 9], [2, 5]]
    root = labelme_folder(
        tmp_path / "data",
        labelme_shape("a", corners(2, 3, 6, 8), "rectangle"),
        labelme_shape("b", diamond, "rotation"),
        labelme_shape("c", diamond, "oriented_rectangle"),
    )
    # Files of old versions lack what they did not know.
    edit(root / "1.json", lambda content: [content["shapes"][0].pop(key) for key in ("description", "flags", "mask")])
    rows = load(root)
    assert pixels(rows["1.png#label a"]) == box_mask(2, 3, 6, 8).tolist()
    assert pixels(rows["1.png#label b"]) == pixels(rows["1.png#label c"])
    assert np.sum(pixels(rows["1.png#label b"])) == 32


def labelme_folder(root: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    """One picture, and the file of its shapes."""
    write_picture(root / "1.png")
    write_json(root / "1.json", labelme_file("1.png", list(shapes), **more))
    return root


def test_groups_join_what_has_one_sentence(tmp_path, load, caplog):
    boxes = [corners(1 + 3 * place, 1, 3 + 3 * place, 3) for place in range(6)]
    root = labelme_folder(
        tmp_path / "data",
        labelme_shape("dog", boxes[0], description="the head", group_id=1),
        labelme_shape("dog", boxes[1], description="the tail", group_id=1),
        labelme_shape("dog", boxes[2], description="the head", group_id=1),
        labelme_shape("cat", boxes[3], group_id=2),
        labelme_shape("cat", boxes[4], description="the cat", group_id=2),
        labelme_shape("dog", boxes[5], description="the tail"),
        # Of a group that has several sentences, neither is its own.
        labelme_shape("leg", corners(1, 6, 3, 8), group_id=1),
    )
    rows = load(root)
    masks = [box_mask(1 + 3 * place, 1, 3 + 3 * place, 3) for place in range(6)]
    assert {ref_id: raws(row) for ref_id, row in rows.items()} == {
        "1.png#0": ["the head"],
        "1.png#1": ["the tail"],
        "1.png#3": ["the cat"],
        "1.png#5": ["the tail"],
        "1.png#label leg": ["leg"],
    }
    assert pixels(rows["1.png#0"]) == (masks[0] | masks[2]).tolist()
    assert pixels(rows["1.png#3"]) == (masks[3] | masks[4]).tolist()
    assert pixels(rows["1.png#5"]) == masks[5].tolist()
    assert "sentences of several targets in one picture, each of which stays one of its own (2)" in caplog.text


def test_labelme_folders_may_be_splits(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        labelme_folder(root / split, labelme_shape(f"a {split} dog", corners(2, 3, 6, 8)))
    dataset = load_all(root, tmp_path / "cache")
    assert {split: [raws(row) for row in rows] for split, rows in dataset.items()} == {
        "train": [["a train dog"]],
        "val": [["a val dog"]],
    }


def test_a_picture_is_taken_out_of_labelmes_file_where_it_is_nowhere_else(tmp_path, load):
    def image_data(gray: int) -> str:
        return png(np.full((HEIGHT, WIDTH, 3), gray, np.uint8))

    root = labelme_folder(tmp_path / "data", labelme_shape("dog", corners(2, 3, 6, 8)), imageData=image_data(30))
    (row,) = load(root).values()
    assert (row["image_id"], np.unique(row["image"]).tolist()) == ("1.png", [90])
    (root / "1.png").unlink()
    (row,) = load(root).values()
    assert (row["image_id"], np.unique(row["image"]).tolist()) == ("1.json", [30])
    assert pixels(row) == box_mask(2, 3, 6, 8).tolist()
    # Each has a row of its own, in one of the three splits that are drawn.
    for number in range(2, 5):
        edit(root / "1.json", setting("imageData", to=image_data(number)))
        (root / f"{number}.json").write_text((root / "1.json").read_text())
    dataset = load_all(root, tmp_path / "cache")
    assert {split: rows.num_rows for split, rows in dataset.items()} == {"train": 2, "val": 1, "test": 1}
    for wrong, message in (
        ("&", "1.json: Expected a picture as a file in base64"),
        ("QUJD", "1.json .*damaged or no"),
    ):
        edit(root / "1.json", setting("imageData", to=wrong))
        with pytest.raises(DataFormatError, match=message):
            load(root)


# --- Label Studio --------------------------------------------------------------------------------------------------


def test_each_region_of_label_studio(tmp_path, load, caplog):
    rows = load(make_label_studio(tmp_path / "data"))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = {
        "images/a.jpg#1-p1": (["the left dog", "the dog that sits"], "dog", box_mask(2, 3, 6, 8)),
        # A quarter turn clockwise about its upper left corner.
        "images/a.jpg#1-r1": (["the cat"], "cat", box_mask(7, 1, 9, 4)),
        "images/a.jpg#label dog": (["dog"], "dog", box_mask(2, 3, 6, 8) | box_mask(13, 5, 18, 10)),
        "images/0a1b2c3d-b.jpg#2-e1": (["the ball"], "ball", ((x - 10) / 4) ** 2 + ((y - 6) / 3) ** 2 <= 1),
        "images/my photo.jpg#label dog": (["dog"], "dog", box_mask(2, 2, 4, 4) | box_mask(6, 6, 9, 9)),
    }
    assert rows.keys() == expected.keys()
    for ref_id, (sentences, category, mask) in expected.items():
        row = rows[ref_id]
        assert (raws(row), row["category"], pixels(row)) == (sentences, category, mask.tolist()), ref_id
    assert "results that are no region with an area, label or sentence, which are left out (1)" in caplog.text


def studio_folder(root: Path, *results: dict[str, Any], **more: Any) -> Path:
    """One picture, and a task with these results."""
    write_picture(root / "1.png")
    write_json(root / "tasks.json", [task(1, "/data/upload/1/0a1b2c3d-1.png", *results, **more)])
    return root


def a_box(region_id: str = "r1", label: str = "dog", **more: Any) -> dict[str, Any]:
    return region(region_id, "rectanglelabels", {**percents(2, 3, 6, 8), "rectanglelabels": [label]}, **more)


def test_the_first_annotation_that_was_submitted_counts(tmp_path, load, caplog):
    def annotation(label: str, **more: Any) -> dict[str, Any]:
        return {"id": 1, "was_cancelled": False, "result": [a_box(label=label)], **more}

    root = studio_folder(tmp_path / "data")
    write_json(
        root / "tasks.json",
        [
            task(
                1,
                "1.png",
                annotations=[annotation("skipped", was_cancelled=True), annotation("one"), annotation("two")],
            ),
            task(2, "1.png", annotations=[annotation("skipped", was_cancelled=True)]),
            task(3, "1.png", annotations=[], predictions=[annotation("of a model")]),
            task(4, "nowhere.png"),
        ],
    )
    assert [raws(row) for row in load(root).values()] == [["one"]]
    assert "tasks with several annotations, the first of which counts (1)" in caplog.text
    assert "tasks that nobody has annotated, or that were skipped, which are left out (2)" in caplog.text
    assert "tasks without a region, which are left out (1)" in caplog.text


def test_regions_and_their_texts_are_told_apart(tmp_path, load, caplog):
    root = studio_folder(
        tmp_path / "data",
        text_area("r1", "written first"),
        a_box("r1", meta={"text": "of the region"}),
        text_area("r2", "of no region"),
        a_box("r3", "a label"),
        region("r3", "labels", {"labels": ["another label"]}),
        region("k1", "keypointlabels", {"x": 1, "y": 1, "keypointlabels": ["dog"]}),
    )
    rows = load(root)
    assert {ref_id: (raws(row), row["category"]) for ref_id, row in rows.items()} == {
        "1.png#1-r1": (["written first", "of the region"], "dog"),
        "1.png#label a label": (["a label"], "a label, another label"),
        "1.png#label another label": (["another label"], "a label, another label"),
    }
    assert "sentences that belong to no region, which are left out (1)" in caplog.text
    assert "result 5: keypointlabels" in caplog.text


# --- Pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/upload/3/0a1b2c3d-dog.png", "dog.png"),
        ("/data/upload/3/0a1b2c3d-dog.png", "pictures/0a1b2c3d-dog.png"),
        ("/data/local-files/?d=pets/my%20dog.png", "deep/er/my dog.png"),
        ("/storage-data/uploaded/?filepath=upload/3/dog.png", "dog.png"),
        ("https://example.com/a/b/d%C3%B6g.png?width=5#top", "dög.png"),
        ("s3://bucket/pets/dog.png", "dog.png"),
        (r"C:\Users\me\pets\dog.png", "pets/dog.png"),
        ("/home/me/pets/dog.png", "dog.png"),
        ("/data/me/dog%20#1.png", "dog%20#1.png"),
        ("../../../../pets/dog.png", "dog.png"),
        ("dog.png", "dog.png"),
        # The letter ö as one character and as two.
        ("d\u00f6g.png", "do\u0308g.png"),
    ],
)
def test_a_picture_is_found_by_the_name_that_another_machine_had_for_it(address, path, tmp_path, load):
    root = tmp_path / "data"
    write_picture(root / path)
    write_json(root / "tasks.json", [task(1, address, a_box())])
    (row,) = load(root).values()
    assert row["image_id"] == path


def test_of_several_pictures_of_one_name_the_path_decides(tmp_path, load):
    root = tmp_path / "data"
    for place, folder in enumerate(("a/left", "a/right", "b/right")):
        write_picture(root / folder / "1.png", 40 * place)
    tasks = [task(1, "/home/me/left/1.png", a_box()), task(2, "c:\\b\\right\\1.png", a_box())]
    write_json(root / "tasks.json", tasks)
    assert [row["image_id"] for row in load(root).values()] == ["a/left/1.png", "b/right/1.png"]
    write_json(root / "tasks.json", [task(1, "/home/me/right/1.png", a_box())])
    with pytest.raises(DataFormatError, match=re.escape("1.png may be a/right/1.png or b/right/1.png. Rename")):
        load(root)


@pytest.mark.parametrize(
    "name",
    ["../outside/secret.png", "/etc/passwd", "..", "", "a/..", "x\0y.png", "/data/local-files/?d=", "http://[/a"],
)
def test_no_name_leads_out_of_the_folder(name, tmp_path, load):
    write_picture(tmp_path / "outside" / "secret.png")
    root = tmp_path / "data"
    write_picture(root / "1.png")
    write_json(root / "tasks.json", [task(1, name, a_box())])
    with pytest.raises(DataFormatError, match=r"tasks.json: task 1: .*(nowhere in|is no name of a picture)"):
        load(root)
    coco_folder(tmp_path / "coco", coco_annotation(1, 1, [outline(2, 3, 6, 8)], text="x"), file_name=name)
    with pytest.raises(DataFormatError, match=r"coco.json: image 1: .*(nowhere in|is no name of a picture)"):
        load(tmp_path / "coco")


@pytest.mark.parametrize("make", ["labelme", "label_studio"])
def test_photographs_that_a_camera_turns_are_read_as_the_tools_show_them(make, tmp_path, load):
    root = tmp_path / "data"
    if make == "labelme":
        labelme_folder(root, labelme_shape("dog", corners(2, 3, 6, 8)))
    else:
        studio_folder(root, a_box())
    stored = Image.new("RGB", (HEIGHT, WIDTH), "white")
    stored.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored.save(root / "1.png", exif=exif)
    (row,) = load(root).values()
    assert row["image"].size == (WIDTH, HEIGHT) and row["image"].getpixel((WIDTH - 1, 0)) == (0, 0, 0)
    assert pixels(row) == box_mask(2, 3, 6, 8).tolist()
    with pytest.raises(DataFormatError, match="one of them is turned"):
        load(root, orientation="stored")


# --- Faults --------------------------------------------------------------------------------------------------------


def coco(change: Callable[[Any], Any]) -> tuple[Callable[[Path], Path], str, Callable[[Any], Any]]:
    return make_cvat, CVAT_FILE, change


def labelme(change: Callable[[Any], Any]) -> tuple[Callable[[Path], Path], str, Callable[[Any], Any]]:
    return make_labelme, "a.json", change


def studio(change: Callable[[Any], Any]) -> tuple[Callable[[Path], Path], str, Callable[[Any], Any]]:
    return make_label_studio, STUDIO_FILE, change


def setting(*path: Any, to: Any) -> Callable[[Any], None]:
    """Sets a place in the content of a file."""

    def change(content: Any) -> None:
        *places, last = path
        for place in places:
            content = content[place]
        content[last] = to

    return change


def removing(*path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        *places, last = path
        for place in places:
            content = content[place]
        del content[last]

    return change


SHAPE = ("shapes", 0)
RESULT = (0, "annotations", 0, "result")
FAULTS = {
    "annotation of no image": (coco(setting("annotations", 0, "image_id", to=9)), "image 9 is not listed"),
    "annotation of no category": (coco(setting("annotations", 0, "category_id", to=9)), "category 9 is not listed"),
    "category without a name": (coco(removing("categories", 0, "name")), "category 1: 'name' should be of type str"),
    "two images of one id": (coco(setting("images", 1, "id", to=1)), "images at position 1: another one has the id 1"),
    "image of no size": (coco(setting("images", 0, "width", to=-3)), "image 1: The picture's height and width"),
    "image of a huge size": (
        coco(setting("images", 0, "width", to=10**400)),
        "image 1: The picture's height and width",
    ),
    "image without a file": (coco(removing("images", 0, "file_name")), "image 1: 'file_name' should be of type str"),
    "no segmentation at all": (
        coco(lambda content: [content["annotations"][0].pop(key) for key in ("segmentation", "bbox")]),
        "annotation 1 has neither segmentation nor bbox",
    ),
    "segmentation of text": (coco(setting("annotations", 0, "segmentation", to="x")), "should be a list of polygons"),
    "polygon of text": (
        coco(setting("annotations", 0, "segmentation", to=["x"])),
        "annotation 1 (images/1.png): Expected a polygon",
    ),
    "flat polygon": (
        coco(setting("annotations", 0, "segmentation", to=[1, 1, 5, 1, 5, 5])),
        "annotation 1 (images/1.png): Expected a polygon",
    ),
    "polygon of NaN": (
        coco(setting("annotations", 0, "segmentation", 0, 0, to=float("nan"))),
        "annotation 1 (images/1.png): A polygon has a coordinate which is not finite",
    ),
    "huge coordinate": (coco(setting("annotations", 0, "segmentation", 0, 0, to=10**400)), "lies far outside"),
    "RLE of another picture": (
        coco(setting("annotations", 2, "segmentation", "size", to=[20, 12])),
        "annotation 3 (images/1.png): the mask is 12 x 20 (width x height)",
    ),
    "RLE of a huge size": (
        coco(setting("annotations", 2, "segmentation", "size", to=[10**9, 10**9])),
        "annotation 3 (images/1.png): The RLE's size [1000000000, 1000000000] exceeds",
    ),
    "sentence of a number": (
        coco(setting("annotations", 0, "caption", to=5)),
        "annotation 1: 'caption' should be a text",
    ),
    "sentence of half a character": (
        coco(setting("annotations", 0, "text", to="\ud800")),
        "annotation 1: 'text' has half",
    ),
    "attributes of text": (coco(setting("annotations", 0, "attributes", to="x")), "'attributes' should be a mapping"),
    "annotations of text": (coco(setting("annotations", to="x")), "'annotations' should be of type list"),
    "annotation of text": (coco(setting("annotations", 0, to="x")), "annotation at position 0: 'image_id' should be"),
    "mask of nothing": (
        coco(setting("annotations", 3, "bbox", to=[2.0, 3.0, 0.0, 5.0])),
        "annotation 4 (images/2.png): its box",
    ),
    "no shapes": (labelme(removing("shapes")), "a.json: 'shapes' should be of type list"),
    "shape of text": (labelme(setting(*SHAPE, to="x")), "a.json: shape 0: 'label' should be of type str"),
    "unknown shape": (labelme(setting(*SHAPE, "shape_type", to="cuboid")), "shape 0 has the shape_type 'cuboid'"),
    "shape_type of a list": (labelme(setting(*SHAPE, "shape_type", to=["x"])), "shape 0 has the shape_type ['x']"),
    "two points": (labelme(removing(*SHAPE, "points", slice(2, 4))), "shape 0: Expected at least 3 points [x, y]"),
    "rectangle of three points": (
        labelme(setting("shapes", 1, "points", to=[[1, 1], [2, 2], [3, 1]])),
        "shape 1: Expected 2 or 4 points [x, y]",
    ),
    "point of text": (
        labelme(setting(*SHAPE, "points", 0, 0, to="x")),
        "shape 0: 'x' should be a number from -20 to 40",
    ),
    "point of NaN": (labelme(setting(*SHAPE, "points", 0, 1, to=float("nan"))), "shape 0: 'y' should be a number"),
    "far point": (labelme(setting(*SHAPE, "points", 0, 0, to=10**400)), "shape 0: 'x' should be a number"),
    "description of a list": (labelme(setting(*SHAPE, "description", to=[5])), "'description' should be a text"),
    "group of a list": (labelme(setting(*SHAPE, "group_id", to=[1])), "'group_id' should be a text or a whole number"),
    "mask of no base64": (
        labelme(setting("shapes", 3, "mask", to="&&")),
        "shape 3 (a.jpg): Expected a mask as a file in base64",
    ),
    "mask of no picture": (
        labelme(setting("shapes", 3, "mask", to="QUJD")),
        "shape 3 (a.jpg): The mask in base64 is damaged or no image (it is in no known format)",
    ),
    "mask of colors": (
        labelme(setting("shapes", 3, "mask", to=png(np.zeros((2, 3, 3), np.uint8)))),
        "shape 3 (a.jpg): The mask in base64 has colors (mode RGB)",
    ),
    "mask larger than its picture": (
        labelme(setting("shapes", 3, "mask", to=png(np.ones((2, WIDTH + 1), np.uint8)))),
        "shape 3 (a.jpg): The piece of mask has 21 x 2 pixels, its picture 20 x 12",
    ),
    "mask out of its picture": (
        labelme(setting("shapes", 3, "points", to=[[19, 11], [21, 12]])),
        "shape 3 (a.jpg): The piece of mask lies at 19 to 22 (x) and 11 to 13 (y), outside of the picture",
    ),
    "mask that begins out of its picture": (
        labelme(setting("shapes", 3, "points", to=[[-2, 3], [1, 4]])),
        "shape 3 (a.jpg): The piece of mask lies at -2 to 1 (x)",
    ),
    "mask above its picture": (
        labelme(setting("shapes", 3, "points", to=[[3, -1], [5, 0]])),
        "and -1 to 1 (y), outside of the picture",
    ),
    "huge labelme picture": (labelme(setting("imageWidth", to=10**9)), "a.json: The picture's height and width"),
    "picture of a number": (labelme(setting("imagePath", to=5)), "a.json: 'imagePath' should be of type str"),
    "JSON-MIN": (
        studio(
            lambda tasks: [each.pop("annotations") for each in tasks] and [each.update(annotator=1) for each in tasks]
        ),
        "task 1 has no 'annotations', as in the export JSON-MIN",
    ),
    "task without an id": (studio(removing(0, "id")), "task at position 0: 'id' should be of type int or str"),
    "no data": (studio(removing(0, "data")), "task 1: 'data' should be of type dict"),
    "pictures of several pages": (studio(setting(0, "data", "image", to=["a", "b"])), "'image' should be of type str"),
    "no picture in the data": (studio(setting(0, "data", to={"text": "x"})), "task 1: none of its data (text) are"),
    "annotation that is text": (
        studio(setting(0, "annotations", 0, to="x")),
        "task 1: 'result' should be of type list",
    ),
    "result of text": (studio(setting(*RESULT, 0, to="x")), "task 1, result 0: 'type' should be of type str"),
    "region without an id": (studio(removing(*RESULT, 0, "id")), "result 0: 'id' should be of type str"),
    "no original size": (studio(removing(*RESULT, 0, "original_width")), "result 0: The picture's height and width"),
    "turned picture": (studio(setting(*RESULT, 0, "image_rotation", to=90)), "was turned by 90 degrees"),
    "percent of text": (
        studio(setting(*RESULT, 2, "value", "x", to="5")),
        "result 2: 'x' should be a number from -1000",
    ),
    "percent of NaN": (studio(setting(*RESULT, 2, "value", "width", to=float("nan"))), "result 2: 'width' should be"),
    "endless turn": (studio(setting(*RESULT, 2, "value", "rotation", to=1e308)), "result 2: 'rotation' should be"),
    "far polygon": (
        studio(setting(*RESULT, 0, "value", "points", 0, 0, to=900)),
        "result 0 (images/a.jpg): A polygon has a coordinate",
    ),
    "negative radius": (studio(setting(1, *RESULT[1:], 0, "value", "radiusX", to=-5)), "the radii -1 and 3"),
    "brush of another format": (
        studio(setting(*RESULT, 3, "value", "format", to="png")),
        "result 3: The brush's mask is",
    ),
    "brush of another size": (
        studio(setting(*RESULT, 3, "original_width", to=10)),
        "with shape 1-b1: The brush's mask has 960 values of 8 bits, a picture of 10 x 12 pixels 480 of 8",
    ),
    "brush that ends": (
        studio(removing(*RESULT, 3, "value", "rle", slice(20, None))),
        "with shape 1-b1: The brush's mask ends too early",
    ),
    "brush of text": (studio(setting(*RESULT, 3, "value", "rle", to="x")), "Expected a brush's mask as a list"),
    "text of a number": (studio(setting(*RESULT, 1, "value", "text", to=[5])), "'text' should be a text or a list"),
    "labels of a number": (studio(setting(*RESULT, 0, "value", "polygonlabels", to=5)), "its labels should be a text"),
    "meta of text": (studio(setting(*RESULT, 0, "meta", to="x")), "result 0: 'meta' should be a mapping"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_file_and_record(name, tmp_path, load):
    (make, path, change), message = FAULTS[name]
    root = make(tmp_path / "data")
    edit(root / path, change)
    with pytest.raises(DataFormatError, match=re.escape(message)) as raised:
        load(root)
    text = str(raised.value)
    assert Path(path).name in text and len(text) <= 500 and text.isprintable()


def test_bad_records_are_skipped_when_asked(tmp_path, load, caplog):
    root = make_cvat(tmp_path / "cvat")
    edit(root / CVAT_FILE, setting("annotations", 0, "segmentation", to="x"))
    edit(root / CVAT_FILE, setting("annotations", 2, "segmentation", "size", to=[3, 3]))
    edit(root / CVAT_FILE, setting("images", 2, "file_name", to="nowhere.png"))
    assert list(load(root, on_bad_record="skip")) == ["images/1.png#2", "images/2.png#4"]
    root = make_labelme(tmp_path / "labelme")
    edit(root / "a.json", setting("shapes", 0, "points", to=[]))
    (root / "labels" / "b.json").write_text('{"shapes": [')
    assert list(load(root, on_bad_record="skip")) == ["a.jpg#1", "a.jpg#label cat"]
    root = make_label_studio(tmp_path / "studio")
    edit(root / STUDIO_FILE, setting(*RESULT, 0, "value", to="x"))
    edit(root / STUDIO_FILE, setting(1, "annotations", to=5))
    assert list(load(root, on_bad_record="skip")) == [
        "images/a.jpg#1-r1",
        "images/a.jpg#label dog",
        "images/my photo.jpg#label dog",
    ]
    assert caplog.text.count("bad records, which are left out") == 3


@pytest.mark.parametrize(
    "text", ["", "[", '{"annotations": ' + "[" * 10**5, '{"images": NaN}', '{"images": 1, "images": 2}']
)
def test_files_that_are_no_json(text, tmp_path, load):
    root = make_cvat(tmp_path / "data")
    (root / CVAT_FILE).write_text(text)
    with pytest.raises(DataFormatError, match=r"instances_default\.json"):
        load(root)


def test_without_any_sentence_the_remedy_is_said(tmp_path, load):
    root = coco_folder(tmp_path / "data", coco_annotation(1, 1, [outline(2, 3, 6, 8)]))
    with pytest.raises(DataFormatError, match=r'no annotation has a sentence.*sentence_from="category"'):
        load(root)
    assert list(load(root, sentence_from="category")) == ["1.png#label dog"]


def test_what_is_exported_twice_is_named(tmp_path, load):
    root = make_label_studio(tmp_path / "data")
    (root / "project-2.json").write_text((root / STUDIO_FILE).read_text())
    with pytest.raises(DataFormatError, match=r"project-2.json: task 1, result 0 is there already, as .*project-1"):
        load(root)
    assert len(load(root, on_bad_record="skip")) == 5


def test_folders_that_are_in_no_format_or_in_two(tmp_path, load):
    root = tmp_path / "cvat"
    write_picture(root / "images" / "1.png")
    (root / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>'
    )
    with pytest.raises(DataFormatError, match=r'annotations.xml is in a format of CVAT.s own: export .* "COCO 1.0"'):
        load(root)
    make_cvat(root)
    make_label_studio(root)
    with pytest.raises(DataFormatError, match=r"coco \(instances_default.json\), label_studio \(project-1.*format"):
        load(root)
    assert len(load(root, format="coco")) == len(load(root, format="label_studio")) == 5


@pytest.mark.parametrize(
    ("make", "splits", "total"),
    [
        (make_roboflow, ["train", "val", "test"], 6),
        (make_labelme, ["train", "val"], 6),
        (make_label_studio, ["train", "val"], 5),
    ],
)
def test_an_export_is_prepared_and_trained_on(make, splits, total, tmp_path):
    drawn = {} if "test" in splits else {"test_share": 0.0}
    cache = {"cache_dir": tmp_path / "cache"}
    folder = prepare_dataset("folder", make(tmp_path / "data"), tmp_path / "out", **drawn, **cache)
    data = load_refseg(str(folder), **cache)
    assert list(data) == splits and sum(rows.num_rows for rows in data.values()) == total
    for rows in data.values():
        for item in ImageExamples(rows):
            assert item["image"].size == item["masks"][0].shape[::-1] and all(mask.any() for mask in item["masks"])
    trainer = build_trainer(tmp_path / "run", tmp_path, data=data, max_steps=1, per_device_train_batch_size=2)
    before = trainer.model.decoder.classifier.weight.detach().clone()
    assert np.isfinite(trainer.train().training_loss)
    assert not before.equal(trainer.model.decoder.classifier.weight)


def test_names_of_exports_that_are_no_files(tmp_path, load):
    root = make_cvat(tmp_path / "data")
    (root / "notes.json").symlink_to("nowhere")
    # Whoever opens a pipe waits until somebody writes to it.
    os.mkfifo(root / "pipe.json")
    assert len(load(root)) == 5
    (root / CVAT_FILE).unlink()
    (root / "pictures.xml").mkdir()
    os.mkfifo(root / "pipe.xml")
    with pytest.raises(DataFormatError, match="is in no known format"):
        load(root)


def test_a_mask_of_too_many_parts_is_one_error():
    part = RunLengths({"size": [1000, 1000], "counts": [0, 1000_000]})
    with pytest.raises(InvalidMaskError, match="9000 outlines are too many for an image of 1000 x 1000"):
        Joined((part,) * 9000).draw(1, 1, pytest.fail)


def test_a_file_that_is_too_large_to_be_read_at_once(tmp_path, load):
    root = make_cvat(tmp_path / "data")
    # It takes no room: what lies behind its content was never written.
    os.truncate(root / CVAT_FILE, 2**31 + 1)
    with pytest.raises(
        DataFormatError, match=r"instances_default.json has 2147483649 bytes.*Export it in several files"
    ):
        load(root)


@pytest.mark.parametrize("degrees", [0, 30, 90, 200.5])
def test_ellipses_are_the_pixels_whose_centers_lie_in_them(degrees, tmp_path, load):
    value = {"x": 45, "y": 55, "radiusX": 30, "radiusY": 20, "rotation": degrees}
    root = studio_folder(tmp_path / "data", region("e1", "ellipselabels", {**value, "ellipselabels": ["ball"]}))
    (row,) = load(root).values()
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    # Turned back about its center.
    turned = np.exp(-1j * np.radians(degrees)) * ((x - 9) + 1j * (y - 6.6))
    assert pixels(row) == ((turned.real / 6) ** 2 + (turned.imag / 2.4) ** 2 <= 1).tolist()


def test_hundreds_of_parts_are_joined_without_room_for_all():
    parts = Joined(tuple(Box((place, 0, 1, 500), (500, 500)) for place in range(200)))
    tracemalloc.start()
    mask = parts.draw(500, 500, print)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask[:, :200].all() and not mask[:, 200:].any()
    assert peak < 10 * mask.nbytes
