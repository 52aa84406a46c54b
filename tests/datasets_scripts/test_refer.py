"""The REFER family through `load_refseg`: rows as expected item by item, and a clear error for every damaged file."""

import itertools
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import FIXTURES, REAL_DATA

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.rows import DataFormatError

GOLDEN = FIXTURES / "refer_api"
IMAGES = GOLDEN / "images" / "mscoco" / "images" / "train2014"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
REAL = REAL_DATA / "refcoco_mini"
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"{REAL} is absent; set HF_REFSEG_REAL_DATA to the folder that holds refcoco_mini"
)
Edit = Callable[[list[dict[str, Any]], dict[str, Any]], None]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def ids_by_split(dataset) -> dict[str, list[int]]:
    return {split: sorted(map(int, rows["ref_id"])) for split, rows in dataset.items()}


@pytest.mark.parametrize("mask_overlap", ["union", "background"])
@pytest.mark.parametrize(("name", "split_by"), [("refcoco", "unc"), ("refcocog", "umd"), ("refcocog", "google")])
def test_every_ref_is_as_expected(name, split_by, mask_overlap, cache):
    expected = EXPECTED[f"{name}/{split_by}"]
    dataset = load_refseg(name, GOLDEN, split_by, mask_overlap=mask_overlap, cache_dir=cache)
    assert ids_by_split(dataset) == {split: sorted(expected["ref_ids_by_split_query"][split]) for split in dataset}
    assert sum(rows.num_rows for rows in dataset.values()) == expected["n_refs"]

    refs = {str(ref["ref_id"]): ref for ref in expected["refs"]}
    key = {"union": "mask_union", "background": "mask_lavt_eq1"}[mask_overlap]
    for split, rows in dataset.items():
        for row in rows:
            ref = refs[row["ref_id"]]
            assert row["mask"] == ref.get(key, ref["mask_union"])
            assert (row["ann_ids"], row["image_id"], split) == (
                [str(ref["ann_id"])],
                str(ref["image_id"]),
                ref["split"],
            )
            assert (row["bbox"], row["category"], row["no_target"]) == (ref["bbox"], ref["category"], False)
            assert row["sentences"] == [
                {**sentence, "sent_id": str(sentence["sent_id"])} for sentence in ref["sentences"]
            ]
            assert row["image"].size == tuple(reversed(row["mask"]["size"]))
            if "area" in ref and mask_overlap == "union" and ref["max_value"] == 1:
                assert decode_mask(row["mask"]).sum() == ref["area"]


def test_overlap_changes_some_masks_and_nothing_else(cache):
    union = load_refseg("refcoco", GOLDEN, cache_dir=cache)["train"]
    background = load_refseg("refcoco", GOLDEN, mask_overlap="background", cache_dir=cache)["train"]
    pixels = {str(ref["ref_id"]): ref.get("n_pixels_ge2", 0) for ref in EXPECTED["refcoco/unc"]["refs"]}
    lost = {
        first["ref_id"]: decode_mask(first["mask"]).sum() - decode_mask(second["mask"]).sum()
        for first, second in zip(union, background, strict=True)
    }
    assert lost == {ref_id: pixels[ref_id] for ref_id in lost}
    assert any(lost.values())


def test_grefcoco_has_several_targets_or_none(cache):
    expected = EXPECTED["grefcoco/unc"]
    dataset = load_refseg("grefcoco", GOLDEN, cache_dir=cache)
    assert ids_by_split(dataset) == {split: sorted(ids) for split, ids in expected["ref_ids_by_split_query"].items()}
    boxes = {record["id"]: record["bbox"] for record in read_instances("grefcoco")["annotations"]}
    refs = {str(ref["ref_id"]): ref for ref in expected["refs"]}
    for rows in dataset.values():
        for row in rows:
            ref = refs[row["ref_id"]]
            assert (row["mask"], row["ann_ids"], row["no_target"]) == (
                ref["mask"],
                [*map(str, ref["ann_id"])],
                ref["empty"],
            )
            assert decode_mask(row["mask"]).sum() == ref["area"]
            assert row["sentences"] == [
                {**sentence, "sent_id": str(sentence["sent_id"])} for sentence in ref["sentences"]
            ]
            used = [
                boxes[ann_id] for ann_id in ref["ann_id"] if ann_id in boxes and ann_id not in ref["skipped_crowd"]
            ]
            corners = np.array([[x, y, x + width, y + height] for x, y, width, height in used] or [[0, 0, 0, 0]])
            left, top, right, bottom = *corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)
            assert row["bbox"] == pytest.approx([left, top, right - left, bottom - top])
            assert (row["category"] == "") == ref["empty"]


def test_splits_come_in_order_and_rows_of_an_image_together(cache, tmp_path):
    def scatter(refs, instances):
        refs.sort(key=lambda ref: (ref["ref_id"] * 7) % 5)

    dataset = load_edited(tmp_path, scatter)
    assert list(dataset) == ["train", "val", "testA", "testB"]
    assert list(load_refseg("refcocog", GOLDEN, "umd", cache_dir=cache)) == ["train", "val", "test"]
    image_ids = list(dataset["train"]["image_id"])
    changes = sum(first != second for first, second in itertools.pairwise(image_ids))
    assert changes == len(set(image_ids)) - 1 > 2


@needs_real_data
def test_real_data_loads(cache):
    refcoco = load_refseg("refcoco", REAL, "unc", cache_dir=cache)
    assert {split: rows.num_rows for split, rows in refcoco.items()} == {"train": 1, "val": 8, "testA": 4, "testB": 7}
    assert sum(len(sentences) for rows in refcoco.values() for sentences in rows["sentences"]) == 59
    masks = {}
    for mask_overlap in ("union", "background"):
        rows = load_refseg("refcocog", REAL, "google", mask_overlap=mask_overlap, cache_dir=cache)["val"]
        assert all(row["image"].size == tuple(reversed(row["mask"]["size"])) for row in rows)
        masks[mask_overlap] = next(decode_mask(row["mask"]) for row in rows if row["ann_ids"] == ["41510"])
    assert (masks["union"].sum(), masks["background"].sum()) == (15306 + 106, 15306)


# Damaged files. Each case edits a copy of the golden refcoco.


def read_instances(name: str = "refcoco") -> dict[str, Any]:
    return json.loads((GOLDEN / name / "instances.json").read_text())


def write_tree(root: Path, edit: Edit | None = None) -> Path:
    """A copy of the golden refcoco under `root` after `edit(refs, instances)`; images stay where they are."""
    refs = pickle.loads((GOLDEN / "refcoco" / "refs(unc).p").read_bytes(), encoding="latin1")
    instances = read_instances()
    if edit is not None:
        edit(refs, instances)
    folder = root / "refcoco"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(json.dumps(instances))
    return root


def load_edited(root: Path, edit: Edit | None = None, **options):
    return load_refseg(
        "refcoco", write_tree(root, edit), **{"image_dir": IMAGES, "cache_dir": root / "cache", **options}
    )


def annotation_of(refs, instances, index: int = 0) -> dict[str, Any]:
    return next(record for record in instances["annotations"] if record["id"] == refs[index]["ann_id"])


def with_segmentation(segmentation: Any) -> Edit:
    def edit(refs, instances):
        annotation_of(refs, instances)["segmentation"] = segmentation

    return edit


def with_ref(**fields: Any) -> Edit:
    return lambda refs, instances: refs[0].update(fields)


def with_annotation(**fields: Any) -> Edit:
    return lambda refs, instances: annotation_of(refs, instances).update(fields)


def with_image(**fields: Any) -> Edit:
    return lambda refs, instances: instances["images"][0].update(fields)


def without(table: str) -> Edit:
    return lambda refs, instances: instances[table].clear()


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (
            with_segmentation([[1, 1, 9, float("nan"), 9, 9]]),
            ["instances.json", "annotation 1001", "finite", "Correct"],
        ),
        (
            with_segmentation([[1, 1, 9, float("inf"), 9, 9]]),
            ["instances.json", "annotation 1001", "finite", "Correct"],
        ),
        (with_segmentation([[1, 1, 9, 1e8, 9, 9]]), ["instances.json", "annotation 1001", "far outside", "Correct"]),
        (with_segmentation([[1, 1, 9, 1, 9, 9, 5]]), ["instances.json", "annotation 1001", "7 numbers", "remove"]),
        (with_segmentation([[1, 1, 9, 9]]), ["instances.json", "annotation 1001", "4 numbers", "remove"]),
        (with_segmentation({"size": [104, 81], "counts": [100]}), ["annotation 1001", "cover 100 pixels", "cut off"]),
        (
            with_segmentation({"size": [81, 104], "counts": [8424]}),
            ["annotation 1001, on COCO_train2014_", "the mask is 81 x 104 ", "its picture 104 x 81", "resize_mask"],
        ),
        (
            lambda refs, instances: [record.update(name="\ud800") for record in instances["categories"]],
            ["instances.json: category ", "'name' has half a character"],
        ),
        (with_annotation(bbox=[True, 2, 3, 4]), ["annotation 1001", "finite numbers, found [True, 2, 3, 4]"]),
        (
            with_annotation(id=2**70),
            ["instances.json", "annotations at position 1: 'id' should be a number of 64 bits"],
        ),
        (with_annotation(bbox=[1, 2, 3]), ["instances.json", "annotation 1001", "bbox", "correct"]),
        (with_annotation(bbox=[1, 2, float("nan"), 4]), ["annotation 1001", "finite numbers"]),
        (with_annotation(category_id=12345), ["annotation 1001", "category 12345", "correct"]),
        (with_annotation(image_id=300017), ["annotation 1001", "does not belong to image 300000"]),
        (with_ref(ann_id=424242), ["refs(unc).p", "ref 0", "annotation 424242", "instances.json", "correct"]),
        (with_ref(ann_id=None), ["refs(unc).p", "ref 0", "'ann_id' should be of type int"]),
        (with_ref(image_id=424242), ["refs(unc).p", "ref 0", "image 424242 has no entry", "instances.json"]),
        (with_ref(split="tset"), ["refs(unc).p", "ref 0", "'tset'", "train, val, testA, testB"]),
        (with_ref(sentences=[]), ["refs(unc).p", "ref 0", "no sentence", "remove"]),
        (
            with_ref(sentences=[{"sent_id": 77, "raw": " ", "sent": "x"}]),
            ["refs(unc).p", "ref 0", "sentence 77 is empty", "remove"],
        ),
        (
            with_ref(sentences=[{"sent_id": 77, "raw": "\ud83d dog", "sent": "x"}]),
            ["refs(unc).p", "ref 0", "sentence 77: 'raw' has half a character", r"'\ud83d dog'", "Write"],
        ),
        (
            with_ref(sentences=[{"sent_id": 77, "raw": "x", "sent": "\udfff"}]),
            ["refs(unc).p", "ref 0", "sentence 77: 'sent' has half a character"],
        ),
        (
            with_ref(sentences=[{"sent_id": "\ud800", "raw": "x", "sent": "x"}]),
            ["ref 0: 'sent_id' has half a character"],
        ),
        (with_ref(sentences=[{"sent_id": True, "raw": "x", "sent": "x"}]), ["ref 0: 'sent_id' should be of type int"]),
        (with_ref(ref_id=2**63), ["refs(unc).p", "'ref_id' should be a number of 64 bits", "correct"]),
        (with_ref(ann_id=2**70), ["refs(unc).p", "ref 0: 'ann_id' should be a number of 64 bits"]),
        (with_ref(image_id=True), ["refs(unc).p", "ref 0: 'image_id' should be of type int or str, found True"]),
        (with_ref(sentences=[{"sent_id": 77, "raw": "x"}]), ["refs(unc).p", "sentence 77", "'sent' should be"]),
        (with_image(file_name="absent.jpg"), ["refs(unc).p", "ref 0", "absent.jpg", "does not exist", "image_dir"]),
        (with_image(file_name=None), ["ref 0: image 300000 of instances.json: 'file_name' should be of type str"]),
        (with_image(file_name="x" * 300), ["refs(unc).p", "ref 0", "leads out of", "or is none"]),
        (with_image(file_name="a/" * 2100 + "0.jpg"), ["refs(unc).p", "ref 0", "leads out of", "or is none"]),
        (with_image(file_name="."), ["refs(unc).p", "ref 0", "leads out of", "or is none"]),
        (with_image(width=True), ["instances.json: image 300000: 'width' should be of type int, found True"]),
        (with_image(height=2**70), ["instances.json: image 300000: 'height' should be a number of 64 bits"]),
        (with_image(file_name="../../../expected.json"), ["refs(unc).p", "ref 0", "leads out of"]),
        (with_image(file_name=str(IMAGES / "COCO_train2014_000000300000.jpg")), ["ref 0", "leads out of"]),
        (with_image(width=10**6, height=10**6), ["instances.json", "image 300000", "1000000 x 1000000"]),
        (with_image(width=0), ["instances.json", "image 300000", "0 x 104"]),
        (without("images"), ["refs(unc).p", "ref 0", "image 300000 has no entry"]),
        (
            lambda refs, instances: instances.pop("annotations"),
            ["instances.json", "'annotations' should be of type list"],
        ),
        (lambda refs, instances: refs.clear(), ["refs(unc).p", "should hold a list of refs"]),
        (lambda refs, instances: refs.insert(0, "text"), ["refs(unc).p", "ref at position 0"]),
    ],
)
def test_a_damaged_record_is_named_with_its_file_and_remedy(edit, parts, tmp_path):
    with pytest.raises(DataFormatError) as error:
        load_edited(tmp_path, edit)
    for part in parts:
        assert part in str(error.value)


class Payload:
    """Pickles as a call of a function that leaves a file behind."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    write_tree(tmp_path)
    refs, marker = tmp_path / "refcoco" / "refs(unc).p", tmp_path / "executed"
    refs.write_bytes(pickle.dumps([Payload(marker)], protocol=2))
    with pytest.raises(DataFormatError) as error:
        load_refseg("refcoco", tmp_path, image_dir=IMAGES, cache_dir=tmp_path / "cache")
    assert not marker.exists()
    for part in (str(refs), "posix.system", "refused", "delete it"):
        assert part in str(error.value)
    pickle.loads(refs.read_bytes())
    assert marker.exists(), "the payload of this test does nothing, so it proves nothing"


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", b"\x80\x02]q\x00", pickle.dumps([{"ref_id": 1}] * 9)[:-4], b"cx\n"]
)
def test_a_damaged_pickle_is_named(content, tmp_path):
    write_tree(tmp_path)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"refs\(unc\)\.p is not a complete pickle.*Download"):
        load_refseg("refcoco", tmp_path, image_dir=IMAGES, cache_dir=tmp_path / "cache")


def test_no_value_of_a_record_makes_a_message_long_or_unprintable(tmp_path):
    """Of a list of lists a pickle holds one copy, however often it is there; as a text it would fill the memory."""
    shared = "\x1b[2J\n" * 9
    for _ in range(12):
        shared = [shared, shared]
    path = tmp_path / "refcoco" / "refs(unc).p"
    for fields in (
        {"ref_id": shared},
        {"ref_id": "\x1b\n" * 999, "split": "\r"},
        {"ref_id": "\x1b", "ann_id": shared},
    ):
        with pytest.raises(DataFormatError) as error:
            load_edited(tmp_path, with_ref(**fields))
        message = str(error.value)
        assert message.startswith(f"{path}: ") and message.isprintable() and len(message) <= 500


@pytest.mark.parametrize("content", [b"", b'{"images": [', b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_json_is_named(content, tmp_path):
    write_tree(tmp_path)
    (tmp_path / "refcoco" / "instances.json").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"instances\.json is not valid JSON.*Download"):
        load_refseg("refcoco", tmp_path, image_dir=IMAGES, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("ann_id", [5, [], ["5"], [-1, 1000], None, [True], [2**70]])
def test_grefcoco_wants_targets_or_minus_one(ann_id, tmp_path):
    shutil.copytree(GOLDEN / "grefcoco", tmp_path / "grefcoco")
    path = tmp_path / "grefcoco" / "grefs(unc).json"
    refs = json.loads(path.read_text())
    refs[0]["ann_id"] = ann_id
    path.write_text(json.dumps(refs))
    with pytest.raises(DataFormatError, match=r"grefs\(unc\)\.json: ref 0"):
        load_refseg("grefcoco", tmp_path, image_dir=IMAGES, cache_dir=tmp_path / "cache")


def test_text_of_python_2_becomes_proper_text(tmp_path):
    """A Python 2 str of UTF-8 or Windows text arrives as its bytes read as latin-1; a unicode object arrives whole."""
    texts = {"cafÃ©": "café", "the man\x92s hat": "the man\u2019s hat", "naïve": "naïve", "café ☕": "café ☕"}
    sentences = [{"sent_id": i, "raw": text, "sent": text} for i, text in enumerate(texts)]
    dataset = load_edited(tmp_path, with_ref(sentences=sentences))
    row = next(row for row in dataset["train"] if row["ref_id"] == "0")
    assert [sentence["sent"] for sentence in row["sentences"]] == list(texts.values())
    assert [sentence["raw"] for sentence in row["sentences"]] == list(texts.values())


def test_changed_annotations_are_never_answered_from_the_cache(tmp_path):
    before = load_edited(tmp_path)["train"]
    times = os.stat(tmp_path / "refcoco" / "refs(unc).p")
    after = load_edited(tmp_path, lambda refs, instances: refs.pop(0))["train"]
    assert after.num_rows == before.num_rows - 1

    def rename(refs, instances):
        refs[1]["sentences"][0]["sent"] = refs[1]["sentences"][0]["sent"].upper()

    write_tree(tmp_path, rename)
    os.utime(tmp_path / "refcoco" / "refs(unc).p", ns=(times.st_atime_ns, times.st_mtime_ns))
    again = load_refseg("refcoco", tmp_path, image_dir=IMAGES, cache_dir=tmp_path / "cache")["train"]
    assert any(sentence["sent"].isupper() for row in again for sentence in row["sentences"])


def test_another_image_folder_is_never_answered_from_the_cache(tmp_path):
    write_tree(tmp_path)
    shutil.copytree(IMAGES, tmp_path / "copy")
    for folder in (IMAGES, tmp_path / "copy"):
        rows = load_refseg("refcoco", tmp_path, image_dir=folder, cache_dir=tmp_path / "cache")["train"]
        assert Path(rows[0]["image"].filename).parent == folder.resolve()


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ({"name": "refcocoo"}, ["refcocoo", "refcoco+", "grefshapes", "prepare"]),
        ({"name": "refcoco", "data_dir": GOLDEN, "split_by": "umd"}, ["'umd'", "unc, google"]),
        ({"name": "refcoco", "data_dir": GOLDEN, "mask_overlap": "sum"}, ["'sum'", "union, background"]),
        ({"name": "refcoco"}, ["data_dir"]),
        ({"name": "refshapes", "data_dir": GOLDEN}, ["refshapes", "no data_dir"]),
    ],
)
def test_an_unknown_choice_names_the_allowed_ones(call, parts):
    with pytest.raises(ValueError) as error:
        load_refseg(**call)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "refcoco",
            {"data_dir": GOLDEN, "mask_overlaps": "union"},
            "refcoco has no option 'mask_overlaps', only data_",
        ),
        ("refcoco", {"data_dir": GOLDEN, "mask_overlaps": "union"}, "did you mean mask_overlap?"),
        ("refshapes", {"train_siez": 5}, "did you mean train_size"),
        ("refshapes", {"num_frames": 5}, "refshapes has no option 'num_frames'"),
        ("refshapes_video", {"num_frame": 5}, "did you mean num_frames?"),
        ("a2d_sentences", {"data_dir": GOLDEN, "context_frame": 5}, "did you mean context_frames?"),
        (str(GOLDEN), {"cache_dirs": "cache"}, "did you mean cache_dir?"),
        ("user/name", {"revison": "main"}, "did you mean revision?"),
    ],
)
def test_an_unknown_option_names_the_nearest_one(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_refseg(name, **options)


def test_a_wrong_layout_says_what_is_expected_and_what_was_found(tmp_path):
    with pytest.raises(DataFormatError) as error:
        load_refseg("refcoco", GOLDEN / "refcoco")
    for part in ("Expected refcoco/refs(unc).p, refcoco/instances.json", "found instances.json, refs(unc).p", "Point"):
        assert part in str(error.value)
    with pytest.raises(DataFormatError, match=r"refs\(google\)\.p does not exist.*refs\(unc\)\.p.*change split_by"):
        load_refseg("refcoco", GOLDEN, "google")
    with pytest.raises(DataFormatError, match=r"images/mscoco/images/train2014.*found there refcoco.*image_dir"):
        load_refseg("refcoco", write_tree(tmp_path))
    with pytest.raises(DataFormatError, match="absent does not exist"):
        load_refseg("refcoco", tmp_path, image_dir=tmp_path / "absent")
    with pytest.raises(DataFormatError, match=r"no prepared data set.*README\.md.*found expected\.json"):
        load_refseg(str(GOLDEN))


def test_a_sentence_needs_no_normalized_form(tmp_path):
    dataset = load_edited(tmp_path, with_ref(sentences=[{"sent_id": 77, "raw": "?!", "sent": ""}]))
    row = next(row for row in dataset["train"] if row["ref_id"] == "0")
    assert row["sentences"] == [{"sent_id": "77", "raw": "?!", "sent": ""}]


def repeat_ids(refs, instances):
    """Two refs of one id, an image and an annotation that are there three times and twice."""
    refs[1]["ref_id"] = refs[0]["ref_id"]
    instances["images"] += [dict(instances["images"][0])] * 2
    first = annotation_of(refs, instances)
    instances["annotations"].insert(0, {**first, "bbox": [0, 0, 1, 1]})


def test_ids_that_repeat_are_said_once_with_their_number(tmp_path, caplog):
    original = load_edited(tmp_path / "original")
    assert not caplog.records
    dataset = load_edited(tmp_path / "repeated", repeat_ids)
    folder = tmp_path / "repeated" / "refcoco"
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}/instances.json: 1 ids of images come more than once, such as 300000 (3 times): the last record of "
        "each counts.",
        f"{folder}/instances.json: 1 ids of annotations come more than once, such as 1001 (2 times): the last record "
        "of each counts.",
        f"{folder}/refs(unc).p: 1 ids of refs come more than once, such as 0 (2 times): each of the refs is a row of "
        "its own.",
    ]
    boxes = {split: rows["bbox"][:] for split, rows in original.items()}
    assert {split: rows["bbox"][:] for split, rows in dataset.items()} == boxes


def test_a_key_that_comes_twice_is_refused(tmp_path):
    path = write_tree(tmp_path) / "refcoco" / "instances.json"
    path.write_text(path.read_text().replace('"width": ', '"width": 5, "width": ', 1))
    with pytest.raises(DataFormatError, match=r"instances\.json has the key 'width' twice.*Remove one"):
        load_refseg("refcoco", tmp_path, image_dir=IMAGES, cache_dir=tmp_path / "cache")


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"images\xff")
    folder.mkdir()
    with pytest.raises(DataFormatError, match=r"images\\udcff is no text in UTF-8\. Rename it"):
        load_edited(tmp_path, image_dir=folder)


def test_no_failure_leaves_rows_behind(tmp_path):
    with pytest.raises(DataFormatError):
        load_edited(tmp_path, with_segmentation([[1, 1, 9, 9]]))
    assert load_edited(tmp_path)["train"].num_rows == 17
