"""PhraseCut as it is released, defects included: loads, prepares, verifies, and is trained on and scored."""

from __future__ import annotations

import json
import operator
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phrasecut_tree import COCO_IDS, SIZES, all_tasks, box, make_phrasecut
from places import FIXTURES
from tiny_recipes import write_recipe
from typer.testing import CliRunner

from hf_refseg.data.catalog import DATASETS, Partition
from hf_refseg.data.examples import undecoded
from hf_refseg.data.json_list import JsonList
from hf_refseg.data.leakage import TrainingPart
from hf_refseg.data.loading import load_refseg, load_with_findings
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.image_data import ImageData
from hf_refseg.training.recipes import run_recipe
from hf_refseg_cli import app

REFER_API = FIXTURES / "refer_api"
COUNTS = {"train": (4, 4), "val": (2, 2), "test": (1, 1), "miniv": (1, 1)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phrasecut(tmp_path_factory.mktemp("released"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_phrasecut(tmp_path / "tree")


def load(root: Path, cache: Path, **options: Any):
    return load_refseg("phrasecut", root, cache_dir=cache, **options)


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def without_image(rows) -> list[dict[str, Any]]:
    return rows.remove_columns("image").to_list()


# --- As released -----------------------------------------------------------------------------------------------------


def test_every_task_is_a_row(released: Path, cache: Path) -> None:
    data = load(released, cache)
    assert {split: rows.num_rows for split, rows in data.items()} == {
        name: count for name, (count, _) in COUNTS.items()
    }
    tasks = {each["task_id"]: (split, each) for split, tasks in all_tasks().items() for each in tasks}
    for split, rows in data.items():
        for row in rows:
            of_split, each = tasks.pop(row["ref_id"])
            assert of_split == split and row["image_id"] == str(each["image_id"])
            assert row["ann_ids"] == list(map(str, each["ann_ids"])) and row["no_target"] is False
            assert row["category"] == each["phrase_structure"]["name"]
            assert row["sentences"] == [
                {
                    "sent_id": each["task_id"],
                    "raw": each["phrase"],
                    "sent": " ".join(each["phrase"].lower().split()),
                }
            ]
            coco_id = COCO_IDS[each["image_id"]]
            assert row["coco_id"] == (None if coco_id is None else str(coco_id))
            assert row["image"].size == SIZES[each["image_id"]] == tuple(reversed(row["mask"]["size"]))
    assert tasks == {}
    # Rows of one image, which are scattered in the file, follow each other.
    image_ids = data["train"]["image_id"][:]
    assert image_ids == ["1", "1", "2", "3"]


def test_masks_are_those_of_the_authors(released: Path, cache: Path) -> None:
    """Coordinates are cut off, outlines belong to a mask, instances are joined, and a polygon of one point is none."""
    tree, sky, _, window = load(released, cache)["train"]
    expected = np.zeros((24, 37), dtype=bool)
    expected[3:16, 2:13] = expected[2:10, 20:26] = True
    assert np.array_equal(decode_mask(tree["mask"]), expected) and tree["bbox"] == [2, 2, 24, 14]
    assert sky["bbox"] == [0, 0, 37, 6]
    # A polygon of two points is a line.
    line = np.zeros((31, 24), dtype=bool)
    line[4, 3:19] = line[12:21, 5:12] = True
    assert np.array_equal(decode_mask(window["mask"]), line)


@pytest.mark.parametrize("split", COUNTS)
def test_each_split_loads_without_the_files_of_the_others(tree: Path, cache: Path, split: str) -> None:
    for path in (tree / "VGPhraseCut_v0").glob("refer_*.json"):
        if path.name != f"refer_{split}.json":
            path.unlink()
    data = load(tree, cache, splits=[split])
    assert list(data) == [split] and data[split].num_rows == COUNTS[split][0]
    with pytest.raises(
        DataFormatError, match=r"refer_\w+\.json does not exist.*name the splits whose files are there"
    ):
        load(tree, cache)


def test_images_lie_where_people_have_them(released: Path, tmp_path: Path, cache: Path) -> None:
    expected = without_image(load(released, cache)["train"])
    assert without_image(load(released / "VGPhraseCut_v0", cache)["train"]) == expected
    moved = tmp_path / "moved"
    shutil.copytree(released, moved)
    folder = moved / "VGPhraseCut_v0"
    (folder / "image_data_split.json").rename(folder / "image_data_split3000.json")
    # Visual Genome's own folders, beside the phrases, inside of their folder, or elsewhere.
    for place in (moved, folder, tmp_path / "visual_genome"):
        for number, name in enumerate(("VG_100K", "VG_100K_2")):
            (place / name).mkdir(parents=True)
            for image_id in list(SIZES)[number::2]:
                shutil.copy(released / "VGPhraseCut_v0" / "images" / f"{image_id}.jpg", place / name)
        shutil.rmtree(folder / "images", ignore_errors=True)
        options = {"image_dir": place} if place.name == "visual_genome" else {}
        rows = load(moved, tmp_path / "cache" / place.name, **options)["train"]
        assert without_image(rows) == expected
        assert {Path(row["image"]["path"]).parents[1] for row in undecoded(rows).to_list()} == {place}
        for name in ("VG_100K", "VG_100K_2"):
            shutil.rmtree(place / name)
    flat = released / "VGPhraseCut_v0" / "images"
    assert without_image(load(moved, tmp_path / "cache" / "flat", image_dir=flat)["train"]) == expected


def test_the_published_counts_are_those_of_the_files(
    tree: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published,) = DATASETS["phrasecut"].partitions
    # miniv is a part of val, in a file of its own.
    assert sum(sentences for _, sentences in published.published.values()) == published.totals["sentences"] == 345486
    assert published.published["val"][1] + published.published["miniv"][1] == 20316
    small = Partition(tuple(COUNTS), published=COUNTS, totals={"referents": 8, "sentences": 8, "images": 6})
    monkeypatch.setitem(DATASETS, "phrasecut", replace(DATASETS["phrasecut"], partitions=(small,)))
    prepare_dataset("phrasecut", tree, tmp_path / "out", verify=True, cache_dir=cache)
    edit_json(tree / "VGPhraseCut_v0" / "refer_val.json", lambda tasks: tasks.pop())
    with pytest.raises(DataFormatError, match=r"\| val \| sentences \| 2 \| 1 \| -1 \|"):
        prepare_dataset("phrasecut", tree, tmp_path / "more", verify=True, cache_dir=cache)


def test_a_prepared_folder_keeps_the_ids_in_coco(released: Path, cache: Path, tmp_path: Path) -> None:
    original = load(released, cache)
    folder = prepare_dataset("phrasecut", released, tmp_path / "out", cache_dir=cache)
    read = load_refseg(str(folder), cache_dir=tmp_path / "read")
    assert list(read) == list(COUNTS)
    for split, rows in original.items():
        assert read[split].features == rows.features and without_image(read[split]) == without_image(rows)
    card = (folder / "README.md").read_text()
    for line in ("pretty_name: PhraseCut", "- `coco_id`: the image's id in COCO train2014", "2008.01187"):
        assert line in card


# --- Imperfect files -------------------------------------------------------------------------------------------------

Edit = Callable[[Any], None]
TRAIN, IMAGES = "refer_train.json", "image_data_split.json"


def with_task(**fields: Any) -> tuple[str, Edit]:
    return TRAIN, lambda tasks: tasks[1].update(fields)


def with_image(**fields: Any) -> tuple[str, Edit]:
    return IMAGES, lambda images: images[1].update(fields)


def with_polygons(*polygons: Any) -> tuple[str, Edit]:
    return with_task(Polygons=[list(polygons)])


# Task 2__2020 is the one of image 2.
DAMAGED = [
    (with_polygons([[1, 1], [9, float("nan")], [9, 9]]), ["refer_train.json: task 2__2020", "not finite", "Correct"]),
    (with_polygons([[1, 1], [9, 1e8], [9, 9]]), ["refer_train.json: task 2__2020", "far outside"]),
    (with_polygons([1, 1, 9, 1, 9, 9]), ["refer_train.json: task 2__2020", "list of points [x, y]"]),
    (with_polygons([[5, 5]]), ["refer_train.json: task 2__2020", "show nothing of the image", "correct"]),
    (with_polygons(box(61, 1, 70, 9)), ["refer_train.json: task 2__2020", "show nothing of the image"]),
    (with_task(Polygons=[]), ["refer_train.json: task 2__2020", "show nothing of the image"]),
    (
        with_task(Polygons=[5]),
        ["task 2__2020 ", "'Polygons' should be a list of polygons for each instance, found [5]"],
    ),
    (
        with_task(Polygons=None),
        ["task 2__2020 ", "'Polygons' should be of type list, found None"],
    ),
    (with_task(phrase=" "), ["task 2__2020: its phrase is empty", "remove"]),
    (with_task(phrase="\ud83d dog"), ["task 2__2020: 'phrase' has half a character"]),
    (with_task(phrase_structure=None), ["task 2__2020: 'phrase_structure' should be of type dict"]),
    (with_task(phrase_structure={}), ["task 2__2020: phrase_structure: 'name' should be of type str"]),
    (with_task(ann_ids=[1, "2"]), ["task 2__2020: 'ann_ids' should be a list of integers, found [1, '2']"]),
    (with_task(ann_ids=None), ["task 2__2020: 'ann_ids' should be of type list"]),
    (with_task(task_id=5), ["refer_train.json: task at position 1: 'task_id' should be of type str, found 5"]),
    (with_task(image_id="2"), ["refer_train.json: task at position 1: 'image_id' should be of type int, found '2'"]),
    (with_task(image_id=99), ["task 2__2020: image 99 has no entry in", "image_data_split.json"]),
    ((TRAIN, lambda tasks: operator.setitem(tasks, 1, "text")), ["refer_train.json: task at position 1"]),
    (with_image(width=0), ["image_data_split.json: image 2 has the size 0 x 45"]),
    (with_image(width=10**6, height=10**6), ["image_data_split.json: image 2 has the size 1000000 x 1000000"]),
    (with_image(height=None), ["image_data_split.json: image 2: 'height' should be of type int, found None"]),
    (with_image(coco_id="42"), ["image_data_split.json: image 2: 'coco_id' should be of type int, found '42'"]),
    ((IMAGES, lambda images: images[1].pop("coco_id")), ["image_data_split.json: image 2: 'coco_id' should be"]),
    (
        with_image(height=46),
        ["task 2__2020 (sizes: image_data_split.json): the mask is 46 x 61", "its picture 45 x 61", "resize_mask"],
    ),
]


@pytest.mark.parametrize(("damage", "parts"), DAMAGED)
def test_a_bad_record_is_named_and_left_out(
    tree: Path, cache: Path, damage: tuple[str, Edit], parts: list[str]
) -> None:
    name, edit = damage
    edit_json(tree / "VGPhraseCut_v0" / name, edit)
    options = {"splits": ["train"], "on_bad_record": "skip", "cache_dir": cache}
    data, findings = load_with_findings("phrasecut", tree, **options)
    (records,) = findings.records.values()
    assert len(records) == 1 and all(part in records[0] for part in parts), records
    assert data["train"]["image_id"][:] == ["1", "1", "3"]


def test_a_bad_record_is_an_error_unless_it_is_to_be_left_out(tree: Path, cache: Path, tmp_path: Path) -> None:
    edit_json(tree / "VGPhraseCut_v0" / TRAIN, with_task(phrase="")[1])
    with pytest.raises(DataFormatError, match=r"refer_train\.json: task 2__2020: its phrase is empty"):
        load(tree, cache)
    options = {"splits": ["train"], "on_bad_record": "skip", "cache_dir": cache}
    folder = prepare_dataset("phrasecut", tree, tmp_path / "out", **options)
    (found,) = json.loads((folder / "findings.json").read_text()).values()
    assert len(found) == 1 and "refer_train.json: task 2__2020: its phrase is empty" in found[0]


def test_images_that_come_later_are_rows_and_no_note_tells_where_they_lie(tree: Path, tmp_path: Path) -> None:
    images = tmp_path / "private"
    (tree / "VGPhraseCut_v0" / "images").rename(images)
    (images / "2.jpg").rename(tmp_path / "2.jpg")
    options = {"splits": ["train"], "image_dir": images, "on_bad_record": "skip", "cache_dir": tmp_path / "cache"}
    data, findings = load_with_findings("phrasecut", tree, **options)
    (records,) = findings.records.values()
    assert data["train"].num_rows == 3 and "its image 2.jpg does not exist" in records[0]
    assert str(tmp_path) not in records[0]
    (tmp_path / "2.jpg").rename(images / "2.jpg")
    data, findings = load_with_findings("phrasecut", tree, **options)
    assert data["train"].num_rows == 4 and not findings.records


def test_masks_of_another_size_are_resized_when_asked(
    tree: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_json(tree / "VGPhraseCut_v0" / IMAGES, lambda images: images[1].update(width=122, height=90))
    edit_json(tree / "VGPhraseCut_v0" / TRAIN, with_polygons(box(20, 10, 79, 59))[1])
    row = load(tree, cache, splits=["train"], on_size_mismatch="resize_mask")["train"][2]
    expected = np.zeros((45, 61), dtype=bool)
    expected[5:30, 10:40] = True
    assert row["image"].size == (61, 45) and np.array_equal(decode_mask(row["mask"]), expected)
    assert row["bbox"] == [10, 5, 30, 25] and "masks resized to their pictures (1)" in caplog.text


def test_a_missing_or_damaged_file_is_named(tree: Path, cache: Path) -> None:
    folder = tree / "VGPhraseCut_v0"
    (folder / "images" / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(DataFormatError, match=r"2\.jpg .*task 2__2020.* cannot be read as a picture"):
        load(tree, cache)
    (folder / "images" / "2.jpg").unlink()
    with pytest.raises(DataFormatError, match=r"task 2__2020: its image .*images/2\.jpg does not exist.*image_dir"):
        load(tree, cache)
    for content, message in (
        ("[]", "holds no task"),
        ("{}", "should hold a list"),
        ("[", "is not valid JSON"),
        ('[{"task_id": "a", "task_id": "b"}]', "has the key 'task_id' twice"),
    ):
        (folder / "refer_test.json").write_text(content)
        with pytest.raises(DataFormatError, match=rf"refer_test\.json {message}"):
            load(tree, cache, splits=["test"])
    (folder / "refer_test.json").unlink()
    with pytest.raises(
        DataFormatError, match=r"refer_test\.json does not exist; refer_input_test\.json has phrases w"
    ):
        load(tree, cache, splits=["test"])
    for content in ("{}", "[1]"):
        (folder / IMAGES).write_text(content)
        with pytest.raises(DataFormatError, match=r"image_data_split\.json"):
            load(tree, cache, splits=["val"])
    (folder / IMAGES).unlink()
    with pytest.raises(DataFormatError, match=r"neither image_data_split\.json nor image_data_split3000\.json, but"):
        load(tree, cache, splits=["val"])
    with pytest.raises(ValueError, match=r"phrasecut has no split 'testA'\. Choose one of: train, val, test, miniv"):
        load(tree, cache, splits=["testA"])


def test_ids_that_come_twice_are_said(tree: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_json(tree / "VGPhraseCut_v0" / TRAIN, lambda tasks: tasks.append(tasks[1]))
    edit_json(tree / "VGPhraseCut_v0" / IMAGES, lambda images: images.append({**images[1], "coco_id": 77}))
    rows = load(tree, cache, splits=["train"])["train"]
    assert rows["coco_id"][:] == ["9", "9", "77", "77", "30"]
    assert "1 ids of tasks come more than once, such as 2__2020 (2 times)" in caplog.text
    assert "1 ids of images come more than once, such as 2 (2 times): the last record of each counts" in caplog.text


TEXTS = ["[]", " [ ] ", '[1, {"a": [2, "]"]} ,\n3.5e2 ]\n', "[1 2]", "[1,]", "[1,,2]", "[1", "[1]x", "", "[" * 3000]
TEXTS += ["[NaN, -Infinity]", '\ufeff["é"]', '["\\ud800"]', "[1" + "0" * 5000 + "]", "nothing", '{"a": 1}', "1"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_list_is_decoded_by_its_elements_as_all_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    try:
        expected = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        expected = None
    if isinstance(expected, list):
        elements = JsonList(path)
        assert repr([element for _, element in elements]) == repr(expected)
        assert repr([elements.decode(place) for place, _ in elements]) == repr(expected)
    else:
        with pytest.raises(DataFormatError, match=r"list\.json"):
            list(JsonList(path))


# --- Trained on and scored -------------------------------------------------------------------------------------------


def test_a_run_on_refcoco_as_well_trains_on_no_image_that_one_of_them_holds_out(tmp_path: Path) -> None:
    held_out = load_refseg("refcoco", REFER_API, splits=["testA"], cache_dir=tmp_path)["testA"]["image_id"][0]
    # Of the images of train, the first is in RefCOCO's testA, the second in no data set, and the third on the list.
    root = make_phrasecut(tmp_path / "data", {**COCO_IDS, 1: int(held_out), 3: 555})
    for name in ("refcoco", "images"):
        (root / name).symlink_to(REFER_API / name)
    (tmp_path / "list.json").write_text("[555]")
    arguments = ImageDataArguments(
        dataset_name=["phrasecut", "refcoco"],
        data_dir=str(root),
        leakage_list=str(tmp_path / "list.json"),
        dataset_options={"cache_dir": str(tmp_path / "cache")},
    )
    data = ImageData.load(arguments)
    assert data.trained["phrasecut"] == TrainingPart(rows=1, images=1, dropped_rows=3, dropped_images=2)
    assert [image_id for image_id in data.train["image_id"] if image_id in ("1", "2", "3")] == ["2"]
    assert "phrasecut: 2 of 3 training images, with 3 of 4 referents, are dropped as they are held out." in data.note()


def test_a_step_is_trained_and_scored_by_its_own_protocol(released: Path, cache: Path, tmp_path: Path) -> None:
    data = {"dataset_name": "phrasecut", "protocol": "phrasecut", "test_splits": ["val"], "data_dir": str(released)}
    recipe = write_recipe(tmp_path, cache, **data, dataset_options={"cache_dir": str(cache)}, max_steps=1)
    report = run_recipe([str(recipe)])
    assert report["training"]["steps"] == 1
    assert list(report["splits"]["val"]["metrics"]) == [
        "cum-IoU",
        "mean-IoU",
        *(f"Pr@0.{tenth}" for tenth in range(5, 10)),
    ]
    arguments = [
        "phrasecut",
        "--data-dir",
        str(released),
        "--cache-dir",
        str(cache),
        "--output",
        str(tmp_path / "scores"),
    ]
    scored = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), *arguments])
    assert scored.exit_code == 0, scored.output
    written = json.loads((tmp_path / "scores" / "phrasecut_val_phrasecut.json").read_text())
    assert written["metrics"] == pytest.approx(report["splits"]["val"]["metrics"]) and written["images"] == 1
