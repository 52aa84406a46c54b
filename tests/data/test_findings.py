"""What readers repair and leave out: said when a data set loads, and listed in the folder where it is prepared."""

import io
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from datasets import Image as Undecoded
from datasets import load_dataset
from PIL import Image

from hf_refseg import load_refseg
from hf_refseg.data.examples import ReferentExamples
from hf_refseg.data.findings import Findings
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError

HEIGHT, WIDTH = 8, 12


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """RefCOCO's layout with eight referents, two of each split; the first one of train has a blank sentence."""
    root = tmp_path / "tree"
    pictures = root / "images/mscoco/images/train2014"
    pictures.mkdir(parents=True)
    (root / "refcoco").mkdir()
    # To be turned by 90 degrees: the masks outline the pixels as they are stored.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(pictures / "1.jpg", exif=exif)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:5, 3:9] = True
    annotation = {"image_id": 1, "category_id": 1, "bbox": [3, 2, 6, 3], "segmentation": encode_mask(mask)}
    instances = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": number, **annotation} for number in range(8)],
        "categories": [{"id": 1, "name": "dog"}],
    }
    refs = [
        {
            "ref_id": number,
            "ann_id": number,
            "image_id": 1,
            "split": ("train", "val", "testA", "testB")[number // 2],
            "sentences": [{"sent_id": number, "raw": "the dog" if number else " ", "sent": "the dog"}],
        }
        for number in range(8)
    ]
    (root / "refcoco/instances.json").write_text(json.dumps(instances))
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs))
    return root


@pytest.mark.parametrize("content", ["", '{"skipped": ["a"', "[]", '{"skipped": 3}', '{"skipped": [3]}'])
def test_damaged_findings_in_a_cache_are_named_with_the_remedy(content: str, tree: Path, tmp_path: Path) -> None:
    options = {"on_bad_record": "skip", "cache_dir": tmp_path / "cache"}
    load_refseg("refcoco", tree, **options)
    (file,) = (tmp_path / "cache").rglob("findings.json")
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"{file} is damaged.*delete the folder {file.parent}, and start again"):
        load_refseg("refcoco", tree, **options)


def test_bad_records_are_errors_or_skipped(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataFormatError, match=r"ref 0: sentence 0 is empty"):
        load_refseg("refcoco", tree, cache_dir=tmp_path)
    options = {"on_bad_record": "skip", "cache_dir": tmp_path}
    for _ in range(2):
        # The second time the rows come from the cache.
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            dataset = load_refseg("refcoco", tree, **options)
        assert dataset["train"]["ref_id"][:] == ["1"] and len(dataset["val"]) == 2
        (warning,) = [record.getMessage() for record in caplog.records]
        assert "left out (1)" in warning and "refs(unc).p: ref 0: sentence 0 is empty" in warning
    with pytest.raises(ValueError, match=r"on_bad_record 'ignore': choose one of error, skip"):
        load_refseg("refcoco", tree, on_bad_record="ignore", cache_dir=tmp_path)


def test_what_is_left_out_is_listed_where_it_is_prepared(tree: Path, tmp_path: Path) -> None:
    caches = {"cache_dir": tmp_path / "cache"}
    folder = prepare_dataset("refcoco", tree, tmp_path / "out", on_bad_record="skip", **caches)
    ((kind, records),) = json.loads((folder / "findings.json").read_text()).items()
    assert len(records) == 1 and "ref 0" in records[0]
    card = (folder / "README.md").read_text()
    assert f"{kind}: 1" in card and "findings.json" in card
    whole = prepare_dataset("refcoco", tree, tmp_path / "val", splits=["val"], **caches)
    assert (
        json.loads((whole / "findings.json").read_text()) == {}
        and "findings.json" not in (whole / "README.md").read_text()
    )


def test_some_splits_alone_are_made(tree: Path, tmp_path: Path) -> None:
    # The bad record is in another split.
    dataset = load_refseg("refcoco", tree, splits=["testA", "val"], cache_dir=tmp_path / "cache")
    assert list(dataset) == ["val", "testA"]
    with pytest.raises(ValueError, match=r"no split 'test'. Choose one of: train, val, testA, testB"):
        load_refseg("refcoco", tree, splits=["test"], cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="names no split"):
        load_refseg("refcoco", tree, splits=[], cache_dir=tmp_path / "cache")
    folder = prepare_dataset("refcoco", tree, tmp_path / "out", splits=["val", "testB"], cache_dir=tmp_path / "cache")
    assert list(load_refseg(str(folder), cache_dir=tmp_path / "read")) == ["val", "testB"]
    (folder / "data/testB-00000-of-00001.parquet").write_bytes(b"damaged")
    assert list(load_refseg(str(folder), splits=["val"], cache_dir=tmp_path / "read")) == ["val"]
    with pytest.raises(ValueError, match=r"no split 'train'. Choose one of: val, testB"):
        load_refseg(str(folder), splits=["train"], cache_dir=tmp_path / "read")
    shapes = load_refseg("refshapes", splits=["test"], test_size=2, cache_dir=tmp_path / "cache")
    assert list(shapes) == ["test"] and len(shapes["test"]) > 2
    assert list((tmp_path / "cache").glob("*/*/*/*train*")) == []


def test_a_turned_picture_is_as_the_card_says(tree: Path, tmp_path: Path) -> None:
    folder = prepare_dataset("refcoco", tree, tmp_path / "out", splits=["val"], cache_dir=tmp_path / "cache")
    assert "Masks and boxes are of the image as it is stored" in (folder / "README.md").read_text()
    rows = load_dataset(str(folder), split="val", cache_dir=str(tmp_path / "read"))
    (stored,) = {row["image"]["bytes"] for row in rows.cast_column("image", Undecoded(decode=False))}
    assert rows[0]["mask"]["size"] == [HEIGHT, WIDTH]
    assert rows[0]["image"].size == (HEIGHT, WIDTH)
    assert Image.open(io.BytesIO(stored)).size == (WIDTH, HEIGHT)


def test_a_turned_picture_is_prepared_as_it_is_trained_on(tree: Path, tmp_path: Path) -> None:
    folder = prepare_dataset("refcoco", tree, tmp_path / "out", splits=["val"], cache_dir=tmp_path / "cache")
    for name, options in (("refcoco", {"data_dir": tree}), (str(folder), {})):
        rows = load_refseg(name, splits=["val"], cache_dir=tmp_path / "cache", **options)["val"]
        item = ReferentExamples(rows)[0]
        assert item["image"].size == (WIDTH, HEIGHT) and item["mask"].shape == (HEIGHT, WIDTH)


def test_ids_of_annotations_are_texts_in_old_folders_too(tmp_path: Path) -> None:
    prepared = Path(__file__).parents[1] / "fixtures/prepared/grefcoco"
    dataset = load_refseg(str(prepared), cache_dir=tmp_path)
    ids = [each for rows in dataset.values() for row in rows["ann_ids"] for each in row]
    assert ids and all(isinstance(each, str) for each in ids)


def test_findings_do_not_tell_where_the_folder_lies() -> None:
    findings = Findings(folders=("/home/me/data",))
    findings.note("kind", "/home/me/data/1.json: 'a.jpg' is nowhere in /home/me/data. Put it into /home/me/data.")
    findings.note("kind", "/home/me/data2/1.json")
    assert findings.records["kind"] == [
        "1.json: 'a.jpg' is nowhere in data. Put it into data.",
        "/home/me/data2/1.json",
    ]


def test_findings_say_how_many_and_the_first_five() -> None:
    findings = Findings()
    for number in range(7):
        findings.note("names repaired", f"line {number}")
    assert findings.describe() == ["names repaired (7): line 0; line 1; line 2; line 3; line 4; and 2 more."]
