"""Training on several data sets at once: which images are dropped, and that nothing else changes."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from fresh_process import run_python
from hub_server import TOKEN
from phrasecut_tree import COCO_IDS, make_phrasecut
from places import FIXTURES, REAL_DATA
from tiny_lavt import tiny_lavt

from hf_refseg.commands.info import check_leakage
from hf_refseg.data.catalog import COCO
from hf_refseg.data.examples import ReferentExamples
from hf_refseg.data.leakage import (
    LeakageError,
    TrainingPart,
    drop_images,
    image_collection,
    image_collections,
    join_training_splits,
    read_leakage_list,
)
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.hub.model_card import write_model_card

GOLDEN = FIXTURES / "refer_api"
REAL = REAL_DATA
needs_real_data = pytest.mark.skipif(
    not (REAL / "leakage").is_dir() or not (REAL / "refcoco_mini").is_dir(),
    reason=f"{REAL} is absent; set HF_REFSEG_REAL_DATA to the folder that holds leakage/ and refcoco_mini/",
)
PARTITIONS = {"refcoco": "unc", "refcocog": "umd", "grefcoco": "unc"}
SHAPES = {"train_size": 3, "val_size": 2, "test_size": 2, "image_size": 64}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def load(cache: Path, *names: str) -> dict[str, DatasetDict]:
    return {name: load_refseg(name, GOLDEN, PARTITIONS[name], cache_dir=cache) for name in names}


def original_refs(name: str) -> list[dict]:
    if name == "grefcoco":
        return json.loads((GOLDEN / name / "grefs(unc).json").read_text())
    path = GOLDEN / name / f"refs({PARTITIONS[name]}).p"
    return pickle.loads(path.read_bytes(), encoding="latin1")


def training_part(name: str, held_out: set[int]) -> tuple[set[str], TrainingPart]:
    """Refs of the original file that are left, and the counts, when these images are dropped."""
    refs = [ref for ref in original_refs(name) if ref["split"] == "train"]
    left = [ref for ref in refs if ref["image_id"] not in held_out]
    images, images_left = ({ref["image_id"] for ref in some} for some in (refs, left))
    part = TrainingPart(len(left), len(images_left), len(refs) - len(left), len(images - images_left))
    return {str(ref["ref_id"]) for ref in left}, part


@pytest.mark.parametrize("names", [("refcoco", "refcocog"), ("grefcoco", "refcocog", "refcoco")])
def test_no_image_of_any_val_or_test_split_is_trained_on(names, cache):
    data = load(cache, *names)
    train, parts = join_training_splits(data)
    held_out = {ref["image_id"] for name in names for ref in original_refs(name) if ref["split"] != "train"}
    expected = {name: training_part(name, held_out) for name in names}
    assert parts == {name: part for name, (_, part) in expected.items()}
    assert all(part.dropped_images for part in parts.values())
    assert sum(part.rows for part in parts.values()) == train.num_rows > 0
    assert not {int(image_id) for image_id in train["image_id"]} & held_out
    # One data set after the other, each in its own order.
    start = 0
    for name, (ref_ids, part) in expected.items():
        rows = train.select(range(start, start + part.rows))
        wanted = data[name]["train"].filter(lambda ref_id, ref_ids=ref_ids: ref_id in ref_ids, input_columns="ref_id")
        assert rows.to_list() == wanted.to_list()
        start += part.rows


def test_listed_images_are_dropped_as_well(cache):
    data = load(cache, "refcoco", "refcocog")
    left = set(join_training_splits(data)[0]["image_id"])
    listed = min(left)
    train, parts = join_training_splits(data, listed={listed, "424242"})
    assert set(train["image_id"]) == left - {listed} != set()
    plain = join_training_splits(data)[1]
    assert all(parts[name].dropped_images == plain[name].dropped_images + 1 for name in data)


def test_images_of_other_collections_are_never_compared(cache):
    shapes = load_refseg("refshapes", cache_dir=str(cache), **SHAPES)
    refcoco = load(cache, "refcoco")["refcoco"]
    # Generated scenes with the ids of photographs that are in val.
    photographs = refcoco["val"]["image_id"][:]

    def renamed(row: dict, index: int) -> dict:
        return {"image_id": photographs[index % len(photographs)]}

    shapes["train"] = shapes["train"].map(renamed, with_indices=True, new_fingerprint="renamed")
    train, parts = join_training_splits({"refshapes": shapes, "refcoco": refcoco})
    assert parts["refshapes"] == TrainingPart(shapes["train"].num_rows, len(set(shapes["train"]["image_id"])))
    assert parts["refcoco"].dropped_rows == 0
    assert train.num_rows == shapes["train"].num_rows + refcoco["train"].num_rows


def test_configs_of_refshapes_share_scenes_but_no_split_does(cache):
    names = ("refshapes", "grefshapes")
    data = {name: load_refseg(name, cache_dir=str(cache), **SHAPES) for name in names}
    _, parts = join_training_splits(data)
    assert all(part.dropped_images == 0 and part.images == SHAPES["train_size"] for part in parts.values())
    data["grefshapes"]["val"] = data["refshapes"]["train"]
    _, parts = join_training_splits(data)
    assert all(part.images == 0 and part.dropped_images == SHAPES["train_size"] for part in parts.values())


def test_a_data_set_whose_own_splits_share_images_is_filtered(cache):
    data = load(cache, "refcoco")["refcoco"]
    shared = data["train"][0]["image_id"]
    data["val"] = data["train"].select([0])
    train, parts = join_training_splits({"refcoco": data})
    assert shared not in train["image_id"] and parts["refcoco"].dropped_images == 1


def test_no_image_is_opened_or_copied(cache, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(GOLDEN, root)
    data = {
        name: load_refseg(name, root, PARTITIONS[name], cache_dir=tmp_path / "cache")
        for name in ("refcoco", "refcocog")
    }
    shutil.rmtree(root)
    train, _ = join_training_splits(data)
    assert [file["filename"] for file in train.cache_files] == [
        file["filename"] for splits in data.values() for file in splits["train"].cache_files
    ]


def test_the_sentence_drawn_depends_on_seed_epoch_and_index_alone(cache, tmp_path):
    first = ReferentExamples(join_training_splits(load(cache, "refcoco", "refcocog"))[0], seed=3)
    second = ReferentExamples(join_training_splits(load(tmp_path, "refcoco", "refcocog"))[0], seed=3)
    drawn = []
    for epoch in range(4):
        first.set_epoch(epoch)
        drawn.append([first[index]["sent_id"] for index in range(len(first))])
    assert len(set(map(tuple, drawn))) > 1
    for epoch in reversed(range(4)):
        second.set_epoch(epoch)
        assert [second[index]["sent_id"] for index in reversed(range(len(second)))][::-1] == drawn[epoch]


def test_a_prepared_folder_and_its_original_are_one_collection(cache, tmp_path):
    folder = prepare_dataset("refcocog", GOLDEN, tmp_path / "prepared", split_by="umd", cache_dir=cache)
    assert image_collection(str(folder)) == image_collection("refcoco") != image_collection("refclef")
    prepared = load_refseg(str(folder), cache_dir=str(tmp_path / "cache"))
    data = {**load(cache, "refcoco"), str(folder): prepared}
    train, parts = join_training_splits(data)
    expected, expected_parts = join_training_splits(load(cache, "refcoco", "refcocog"))
    assert train["ref_id"][:] == expected["ref_id"][:]
    assert list(parts.values()) == list(expected_parts.values())


def test_images_are_known_by_their_ids_in_other_collections_too(cache, tmp_path):
    refcoco = load(cache, "refcoco")["refcoco"]
    elsewhere = {image_id for split in ("val", "testA", "testB") for image_id in refcoco[split]["image_id"]}
    trained = next(image_id for image_id in refcoco["train"]["image_id"] if image_id not in elsewhere)
    # The first image is in RefCOCO's val, the third on a list; RefCOCO is trained on one of PhraseCut's val.
    coco_ids = {**COCO_IDS, 1: int(refcoco["val"]["image_id"][0]), 3: 555, 4: int(trained)}
    root = make_phrasecut(tmp_path / "tree", coco_ids)
    folder = str(prepare_dataset("phrasecut", root, tmp_path / "prepared", cache_dir=cache))
    original, prepared = load_refseg("phrasecut", root, cache_dir=cache), load_refseg(folder, cache_dir=tmp_path)
    assert (
        image_collections("phrasecut") == image_collections(folder) == {"image_id": "Visual Genome", "coco_id": COCO}
    )
    for name, splits in (("phrasecut", original), (folder, prepared)):
        train, parts = join_training_splits({"refcoco": refcoco, name: splits})
        assert parts[name] == TrainingPart(rows=2, images=2, dropped_rows=2, dropped_images=1)
        assert train["image_id"][-2:] == ["2", "3"] and train.column_names == refcoco["train"].column_names
        assert parts["refcoco"].dropped_images == 1 and trained not in train["image_id"]
        # An image's own id is none of COCO's.
        train, parts = join_training_splits({name: splits}, listed={"555", "2"})
        assert train["image_id"][:] == ["1", "1", "2"]
        assert parts[name] == TrainingPart(rows=3, images=2, dropped_rows=1, dropped_images=1)
    own = join_training_splits({"phrasecut": original, "refcoco": DatasetDict(train=refcoco["train"])})[1]
    assert own["phrasecut"].dropped_images == 0 and own["refcoco"].dropped_images == 1

    listed = tmp_path / "list.json"
    listed.write_text("[2, 555]")
    with pytest.raises(LeakageError, match="1 of 3 training images, with 1 of 4 referents, are on the list"):
        check_leakage(folder, listed)
    listed.write_text("[2]")
    assert f"none of its 3 training images (Visual Genome) is on the list {listed}" in check_leakage(folder, listed)


def test_an_image_without_its_ids_in_other_collections_is_refused(cache, tmp_path):
    data = load_refseg("phrasecut", make_phrasecut(tmp_path), cache_dir=cache)
    data["val"] = data["val"].remove_columns("coco_id")
    with pytest.raises(DataFormatError, match=r"phrasecut \(val\) lacks the column coco_id, .* in COCO train2014"):
        join_training_splits({"phrasecut": data, **load(cache, "refcoco")})


def test_data_from_elsewhere_is_compared_with_itself_and_said_so(cache, caplog):
    refcoco = load(cache, "refcoco")["refcoco"]
    own = DatasetDict(train=refcoco["val"], val=refcoco["train"])
    with caplog.at_level(logging.WARNING):
        _, parts = join_training_splits({"refcoco": refcoco, "own": own})
    assert [record.message for record in caplog.records if "own" in record.message] == [
        "Where the images of own come from is unknown: they are compared with each other alone."
    ]
    assert parts["refcoco"].dropped_images == parts["own"].dropped_images == 0


@pytest.mark.slow_process
def test_the_card_on_the_hub_tells_the_collection(hub, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    output, sizes = tmp_path / "shapes", {"train_size": 1, "val_size": 1, "test_size": 1, "image_size": 64}
    prepare_dataset("refshapes", None, output, push_to_hub="tester/shapes", cache_dir=str(cache), **sizes)
    read = """
        from hf_refseg.data.leakage import image_collection
        print(image_collection("tester/shapes"), image_collection("neither/a/name"))
    """
    assert run_python(read, cwd=tmp_path, env=hub.environment("reader")) == "RefShapes neither/a/name\n"


def test_what_is_wrong_is_said(cache, tmp_path):
    refcoco = load(cache, "refcoco")["refcoco"]
    shapes = load_refseg("refshapes", cache_dir=str(cache), **SHAPES)
    with pytest.raises(ValueError, match="no data set to train on"):
        join_training_splits({})
    with pytest.raises(ValueError, match="refcoco has no split 'trian', only train, val, testA, testB"):
        join_training_splits({"refcoco": refcoco}, train_split="trian")
    with pytest.raises(ValueError, match=r"ids of COCO train2014, but the images of refshapes come from elsewhere"):
        join_training_splits({"refshapes": shapes}, listed={"25"})
    for content in ("{}", "[]", "[1, true]", '["25"]', "[1.5]", "[1", "1"):
        (tmp_path / "list.json").write_text(content)
        with pytest.raises(DataFormatError, match=r"list\.json"):
            read_leakage_list(tmp_path / "list.json")
    with pytest.raises(FileNotFoundError, match=r"no leakage list .*absent\.json: name a JSON file"):
        read_leakage_list(tmp_path / "absent.json")


def test_dropping_counts_rows_and_images():
    rows = Dataset.from_dict({"image_id": ["1", "1", "2", "3", "3"], "ref_id": list("abcde")})
    left, part = drop_images(rows, {"1", "3", "7"})
    assert left["ref_id"] == ["c"]
    assert part == TrainingPart(rows=1, images=1, dropped_rows=4, dropped_images=2)


def test_the_model_card_says_what_was_trained_on_and_what_was_dropped(tmp_path):
    parts = {
        "refcoco (unc)": TrainingPart(rows=40000, images=15000, dropped_rows=2404, dropped_images=1994),
        "mine": TrainingPart(rows=5, images=4),
    }
    card = write_model_card(tmp_path, model=tiny_lavt(), training_data=parts).read_text(encoding="utf-8")
    assert (
        "## Training\n\n"
        "| trained on | referents | images | images dropped for leakage | their referents |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| refcoco (unc) | 40,000 | 15,000 | 1,994 | 2,404 |\n"
        "| mine | 5 | 4 | 0 | 0 |\n"
    ) in card


@needs_real_data
def test_the_published_list_holds_the_real_val_and_test_images(cache):
    listed = read_leakage_list(REAL / "leakage" / "refcoco_family_val_test_image_ids.json")
    assert len(listed) == 10113
    refcoco = load_refseg("refcoco", REAL / "refcoco_mini", "unc", cache_dir=cache)
    refcocog = load_refseg("refcocog", REAL / "refcoco_mini", "google", cache_dir=cache)
    for splits in (refcoco, refcocog):
        for split in set(splits) - {"train"}:
            assert set(splits[split]["image_id"]) <= listed
    # The one training image of this small part of RefCOCO is in a val or test split of another data set.
    assert join_training_splits({"refcoco": refcoco})[1]["refcoco"] == TrainingPart(1, 1)
    assert join_training_splits({"refcoco": refcoco}, listed=listed)[1]["refcoco"] == TrainingPart(0, 0, 1, 1)
