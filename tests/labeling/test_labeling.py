"""Labels by a system: which answers become rows, the same files whoever writes them, and what is wrong with images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
from filelock import FileLock
from huggingface_hub import DatasetCard
from PIL import ExifTags, Image
from tiny_lavt import tiny_lavt, tiny_processor

from hf_refseg import load_refseg
from hf_refseg.data.examples import ReferentExamples, RefSegCollator
from hf_refseg.data.leakage import image_collections, join_training_splits
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.rows import DataFormatError
from hf_refseg.evaluation.systems import Answer, System
from hf_refseg.labeling import DatasetImages, Labeling, LabelRules, Photographs, label_images
from hf_refseg.messages import BadInputError

TEXTS = ["the light half", "the dark half", "a cat"]
# What the system answers about each of them.
SCORES = {"the light half": 0.9, "the dark half": 0.4, "a cat": 0.0}


class Halves(System):
    """Knows light and dark pixels by their red, and nothing else; `asked` grows by the texts of each image."""

    name = "halves"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        self.asked.append(list(texts))
        red = np.asarray(image)[:, :, 0]
        masks = {"the light half": red > 127, "the dark half": red <= 127}
        for text in texts:
            mask = masks.get(text, np.zeros(red.shape, dtype=bool))
            yield Answer(mask=mask, score=SCORES.get(text, 0.0))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_half(path: Path, width: int = 12, orientation: int = 1) -> Path:
    """A picture whose left half is light."""
    pixels = np.zeros((8, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photographs in three folders."""
    for number, folder in enumerate((".", "2024", "2024", "2024/beach", ".")):
        write_half(tmp_path / "photos" / folder / f"{number}.png", 12 + 2 * number)
    return tmp_path / "photos"


def all_of(folder: Path, texts: Sequence[str]) -> Photographs:
    """Photographs, all of them to train on."""
    return Photographs(folder, texts, val_share=0)


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a data set consists of."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_masks_of_photographs_become_rows_that_load_and_train(photos: Path) -> None:
    report = label_images(Halves(), all_of(photos, TEXTS), "labels", progress=False)
    assert report.problems == []
    assert report.counts["train"] == {
        **{"images": 5, "unreadable": 0, "failed": 0},
        **{"labeled": 10, "no_target": 0, "not_found": 5, "low_score": 0},
    }
    rows = load_refseg("labels")["train"]
    assert list(dict.fromkeys(rows["image_id"])) == ["0.png", "2024/1.png", "2024/2.png", "2024/beach/3.png", "4.png"]
    assert len(set(rows["ref_id"])) == len(rows) == 10
    assert [row["raw"] for sentences in rows["sentences"] for row in sentences] == TEXTS[:2] * 5
    assert rows["score"] == [0.9, 0.4] * 5 and not any(rows["no_target"])
    for row in rows:
        red = np.asarray(row["image"])[:, :, 0]
        light = row["sentences"][0]["raw"] == "the light half"
        assert np.array_equal(decode_mask(row["mask"]), (red > 127) == light)
    model, batch = tiny_lavt().train(), RefSegCollator(tiny_processor())([ReferentExamples(rows)[0]])
    model(**batch).loss.backward()
    assert sum(float(weight.grad.abs().sum()) for weight in model.parameters() if weight.grad is not None) > 0


def test_labels_and_other_data_train_together(photos: Path, shapes: datasets.DatasetDict) -> None:
    label_images(Halves(), all_of(photos, TEXTS), "labels", progress=False)
    rows, _ = join_training_splits({"labels": load_refseg("labels"), "refshapes": shapes})
    assert len(rows) == 10 + len(shapes["train"])
    assert rows["score"][:2] == [0.9, 0.4] and rows["score"][10] is None
    assert ReferentExamples(rows)[10]["mask"].any()


def test_scores_and_answers_without_a_mask_are_for_the_rules(photos: Path) -> None:
    images = all_of(photos, TEXTS)
    # The score of the light half: it is the least one that is enough.
    rules = LabelRules(minimum_score=0.9, keep_no_target=True)
    report = label_images(Halves(), images, "labels", rules=rules, progress=False)
    counts = {name: report.counts["train"][name] for name in ("labeled", "no_target", "not_found", "low_score")}
    assert counts == {"labeled": 5, "no_target": 5, "not_found": 0, "low_score": 5}
    without = load_refseg("labels")["train"].filter(lambda row: row["no_target"])
    assert {sentence["raw"] for sentences in without["sentences"] for sentence in sentences} == {"a cat"}
    assert not any(decode_mask(row["mask"]).any() for row in without)
    assert without["bbox"] == [[0.0] * 4] * 5 and without["ann_ids"] == [[]] * 5
    with pytest.raises(ValueError, match=r"The minimum score is 1\.5: choose one from 0 to 1"):
        LabelRules(minimum_score=1.5)


class Unsure(Halves):
    """Gives probabilities, and holds back what it does not know."""

    threshold = 0.3

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        for text, answer in zip(texts, super().segment(image, texts), strict=True):
            probabilities = np.where(answer.mask, 0.4, 0.1)
            yield Answer(probabilities, present=text != "the dark half")


class Masks(Halves):
    """Answers nothing else."""

    gives_masks = True


def test_masks_of_a_system_without_probabilities_have_no_threshold(photos: Path) -> None:
    label_images(Masks(), all_of(photos, TEXTS), "labels", progress=False)
    assert json.loads(Path("labels/labels.json").read_text())["threshold"] is None
    assert "threshold" not in Path("labels/README.md").read_text()


def test_photographs_are_drawn_for_val_whatever_others_there_are(photos: Path) -> None:
    for number in range(40):
        write_half(photos / f"more{number}.png")
    splits = {}
    for _ in range(2):
        images = Photographs(photos, TEXTS, val_share=0.3)
        assert 8 <= images.counts["val"] <= 20 and sum(images.counts.values()) >= 45
        for split, count in images.counts.items():
            for place in range(count):
                image_id = images.image_id(split, place)
                assert splits.setdefault(image_id, split) == split
        write_half(photos / "new.png")
    assert Photographs(photos, TEXTS, val_share=1e-9).counts["val"] == 1
    assert list(Photographs(photos, TEXTS, val_share=0).counts) == ["train"]
    with pytest.raises(ValueError, match=r"val_share is 1: choose a share .*from 0 to below 1"):
        Photographs(photos, TEXTS, val_share=1)


def test_probabilities_are_cut_at_the_systems_threshold(photos: Path) -> None:
    report = label_images(Unsure(), all_of(photos, TEXTS), "labels", progress=False)
    assert report.counts["train"]["labeled"] == 5 and report.counts["train"]["not_found"] == 10
    assert load_refseg("labels")["train"]["score"] == pytest.approx([0.4] * 5)
    assert json.loads(Path("labels/labels.json").read_text())["threshold"] == 0.3
    system = Unsure()
    system.threshold = 0.5
    with pytest.raises(BadInputError, match=r"No answer became a row of .*5 images, 15 answers without a mask"):
        label_images(system, all_of(photos, TEXTS), "none", progress=False)


def test_a_photograph_is_stored_as_people_see_it(tmp_path: Path) -> None:
    # The camera lay on its side: light is on the left as it is stored, and above as it is shown.
    write_half(tmp_path / "photos" / "turned.jpg", 40, orientation=6)
    label_images(Halves(), all_of(tmp_path / "photos", ["the light half"]), "labels", progress=False)
    row = load_refseg("labels")["train"][0]
    mask = decode_mask(row["mask"])
    assert row["image"].size == (8, 40) and mask.shape == (40, 8)
    assert mask[:19].all() and not mask[21:].any()
    item = ReferentExamples(load_refseg("labels")["train"])[0]
    assert item["image"].size == (8, 40)


def test_ids_stay_when_photographs_and_texts_are_added(photos: Path) -> None:
    label_images(Halves(), all_of(photos, TEXTS[:1]), "before", progress=False)
    write_half(photos / "2023" / "new.png")
    label_images(Halves(), all_of(photos, TEXTS[::-1]), "after", progress=False)
    before, after = (load_refseg(name)["train"] for name in ("before", "after"))
    light = [row for row in after if row["sentences"][0]["raw"] == "the light half"]
    assert set(before["ref_id"]) < {row["ref_id"] for row in light} and len(light) == 6


def label_in_shards(system: System, photos: Path, output: str) -> Labeling:
    labeling = Labeling(all_of(photos, TEXTS), output, {"system": system.name}, shard_images=2)
    labeling.begin()
    return labeling


def lock_of(labeling: Labeling) -> Path:
    """The lock of its first file."""
    folder = labeling.folder / ".locks"
    folder.mkdir(exist_ok=True)
    return folder / f"{labeling.shards()[0].path.name}.lock"


def test_processes_that_share_the_work_write_what_one_writes(photos: Path) -> None:
    one = Halves()
    label_images(one, all_of(photos, TEXTS), "one", made_by={}, shard_images=2, progress=False)
    # Of two that were started at the same time each has its own system.
    first, second = (Halves(), Halves())
    mine = label_in_shards(first, photos, "several")
    other = pickle.loads(pickle.dumps(label_in_shards(second, photos, "several")))
    with FileLock(lock_of(other)):
        # The other one is at the first shard.
        mine.write_all(first, progress=False)
        assert mine.unfinished() == mine.shards()[:1] and len(first.asked) == 3
    with pytest.raises(ValueError, match=r"train-00000-of-00003\.parquet is not there"):
        mine.finish()
    other.write_all(second, progress=False)
    assert len(second.asked) == 2
    other.finish()
    assert files_of(Path("several")) == files_of(Path("one")) and len(files_of(Path("one"))) == 6
    # It is the size of a shard, not the process, that the files depend on.
    label_images(Halves(), all_of(photos, TEXTS), "whole", progress=False)
    assert load_refseg("whole")["train"].to_list() == load_refseg("one")["train"].to_list()


class Dying(Halves):
    """While it answers for the first time, the process that holds a lock ends."""

    def __init__(self, lock: FileLock) -> None:
        super().__init__()
        self.lock = lock

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        self.lock.release()
        return super().segment(image, texts)


def test_what_a_process_had_claimed_that_died_is_done_by_the_others(photos: Path) -> None:
    labeling = label_in_shards(Halves(), photos, "labels")
    lock = FileLock(lock_of(labeling))
    lock.acquire()
    system = Dying(lock)
    labeling.write_all(system, progress=False)
    assert labeling.unfinished() == [] and len(system.asked) == 5


def test_reading_in_worker_processes_changes_nothing(photos: Path) -> None:
    for output, workers in (("here", 0), ("workers", 1)):
        label_images(Halves(), all_of(photos, TEXTS), output, num_workers=workers, progress=False)
    assert files_of(Path("here")) == files_of(Path("workers"))


class Killed(Halves):
    """Ends, as a kill does, at the fourth image."""

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        if len(self.asked) == 3:
            raise KeyboardInterrupt
        return super().segment(image, texts)


def test_a_killed_run_goes_on_where_it_was(photos: Path) -> None:
    label_images(Halves(), all_of(photos, TEXTS), "whole", shard_images=2, progress=False)
    with pytest.raises(KeyboardInterrupt):
        label_images(Killed(), all_of(photos, TEXTS), "cut", shard_images=2, progress=False)
    assert [path.name for path in Path("cut/data").glob("*.parquet")] == ["train-00000-of-00003.parquet"]
    # What only a kill leaves behind.
    left = Path("cut/data/train-00001-of-00003.parquet.0123456789ab.partial")
    left.write_bytes(b"half")
    with pytest.raises(DataFormatError, match="no prepared data set"):
        load_refseg("cut")
    system = Halves()
    label_images(system, all_of(photos, TEXTS), "cut", shard_images=2, progress=False)
    assert len(system.asked) == 3 and not left.exists()
    assert files_of(Path("cut")) == files_of(Path("whole"))
    label_images(system, all_of(photos, TEXTS), "cut", shard_images=2, progress=False)
    assert len(system.asked) == 3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"texts": TEXTS[:2]}, "ids and texts"),
        ({"rules": LabelRules(minimum_score=0.2)}, "minimum_score"),
        ({"made_by": {"system": "halves", "revision": "1"}}, "revision"),
        ({"made_by": {}}, "system"),
        ({"shard_images": 3}, "shard_images"),
    ],
)
def test_other_inputs_in_the_same_folder_are_an_error(photos: Path, changed: dict, named: str) -> None:
    label_in_shards(Halves(), photos, "labels")
    options = {"made_by": {"system": "halves"}, "shard_images": 2, **changed}
    images = all_of(photos, options.pop("texts", TEXTS))
    with pytest.raises(DataFormatError, match=rf"begun with other inputs or options \(different: {named}\)"):
        Labeling(images, "labels", **options).begin()


def test_a_broken_image_is_told_and_labeled_once_it_is_whole(photos: Path) -> None:
    whole = (photos / "2024" / "1.png").read_bytes()
    (photos / "2024" / "1.png").write_bytes(whole[:60])
    system = Halves()
    images = all_of(photos, TEXTS)
    report = label_images(system, images, "labels", shard_images=2, progress=False)
    (problem,) = report.problems
    assert "2024/1.png is damaged or no image" in problem and "Replace it with the complete file" in problem
    assert report.counts["train"]["unreadable"] == 1 and len(load_refseg("labels")["train"]) == 8
    # Where the photographs lie is nobody's business.
    assert not any(str(photos).encode() in content for content in files_of(Path("labels")).values())
    # It is still broken: nothing is done again, and it is told again.
    assert label_images(system, images, "labels", shard_images=2, progress=False) == report
    assert len(system.asked) == 4
    (photos / "2024" / "1.png").write_bytes(whole)
    assert label_images(system, images, "labels", shard_images=2, progress=False).problems == []
    assert len(system.asked) == 6
    label_images(Halves(), images, "new", shard_images=2, progress=False)
    assert files_of(Path("labels")) == files_of(Path("new"))


class Failing(Halves):
    """Fails on pictures that are wider than `limit`."""

    limit = 18

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        if image.width > self.limit:
            raise ValueError("so wide a picture")
        return super().segment(image, texts)


def test_a_picture_that_a_system_fails_on_stops_no_others(photos: Path) -> None:
    report = label_images(Failing(), all_of(photos, TEXTS), "labels", progress=False)
    assert report.problems == ["4.png: so wide a picture"]
    assert report.counts["train"]["failed"] == 1 and len(load_refseg("labels")["train"]) == 8
    system = Failing()
    system.limit = 0
    with pytest.raises(ValueError, match="so wide a picture"):
        label_images(system, all_of(photos, TEXTS), "none", progress=False)
    assert not list(Path("none/data").iterdir())


class Small(Halves):
    """Answers at another size than the image's."""

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return super().segment(image.reduce(2), texts)


def test_answers_of_another_size_are_an_error_of_the_system(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"about 0.png, 'the light half', is 4 x 6 .*the image 8 x 12"):
        label_images(Small(), all_of(photos, TEXTS), "labels", progress=False)


def test_a_damaged_file_of_labels_is_named(photos: Path) -> None:
    label_images(Halves(), all_of(photos, TEXTS), "labels", progress=False)
    path = Path("labels/data/train-00000-of-00001.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataFormatError, match=r"train-00000-of-00001.parquet is damaged .*Delete it"):
        label_images(Halves(), all_of(photos, TEXTS), "labels", progress=False)


def test_masks_of_two_thresholds_are_no_data_set(photos: Path) -> None:
    labeling = label_in_shards(Unsure(), photos, "labels")
    for shard, threshold in zip(labeling.shards(), (0.3, 0.2, 0.3), strict=True):
        system = Unsure()
        system.threshold = threshold
        labeling.write(system, shard)
    with pytest.raises(DataFormatError, match=r"several thresholds \(0.3 and 0.2\)"):
        labeling.finish()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> datasets.DatasetDict:
    """Five scenes."""
    sizes = {"train_size": 3, "val_size": 2, "test_size": 1, "image_size": 64}
    return load_refseg("refshapes", splits=["train", "val"], cache_dir=tmp_path_factory.mktemp("shapes"), **sizes)


class Everywhere(Halves):
    """Means the whole image by every text."""

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        self.asked.append(list(texts))
        return (Answer(mask=np.ones((image.height, image.width), dtype=bool)) for _ in texts)


def test_a_data_set_is_asked_for_its_own_sentences(shapes: datasets.DatasetDict) -> None:
    system = Everywhere()
    report = label_images(system, DatasetImages("refshapes", shapes), "labels", progress=False)
    labels = load_refseg("labels")
    for split, rows in shapes.items():
        own = {(row["image_id"], sentence["raw"]) for row in rows for sentence in row["sentences"]}
        found = {(row["image_id"], sentence["raw"]) for row in labels[split] for sentence in row["sentences"]}
        assert found == own and len(labels[split]) == len(own)
        assert report.counts[split]["images"] == len(set(rows["image_id"]))
        sent_ids = {sentence["sent_id"] for row in rows for sentence in row["sentences"]}
        assert {sentence["sent_id"] for row in labels[split] for sentence in row["sentences"]} <= sent_ids
        assert {row["image_id"]: row["image"].tobytes() for row in labels[split]} == {
            row["image_id"]: row["image"].tobytes() for row in rows
        }
    assert all(decode_mask(row["mask"]).all() for row in labels["train"])
    assert len(system.asked) == 5


def test_a_sentence_of_several_referents_is_asked_once(shapes: datasets.DatasetDict) -> None:
    rows = shapes["val"]
    alike = [[{"sent_id": str(number), "raw": "a shape", "sent": "a shape"}] for number in range(len(rows))]
    rows = rows.remove_columns("sentences").add_column("sentences", alike, feature=rows.features["sentences"])
    system = Everywhere()
    label_images(system, DatasetImages("shapes", {"val": rows}), "labels", progress=False)
    assert system.asked == [["a shape"]] * 2 and len(rows) > 2
    first = [str(rows["image_id"].index(image_id)) for image_id in dict.fromkeys(rows["image_id"])]
    assert [sentence["sent_id"] for (sentence,) in load_refseg("labels")["val"]["sentences"]] == first


def test_a_data_set_is_asked_for_other_texts(shapes: datasets.DatasetDict) -> None:
    system = Everywhere()
    label_images(system, DatasetImages("refshapes", shapes, ["a shape"]), "labels", progress=False)
    assert system.asked == [["a shape"]] * 5
    assert {split: len(rows) for split, rows in load_refseg("labels").items()} == {"train": 3, "val": 2}


def test_the_card_says_who_made_the_labels_and_whose_images_they_are(shapes: datasets.DatasetDict) -> None:
    images = DatasetImages("refshapes", shapes, source_datasets=["extended|RefShapes"])
    label_images(Everywhere(), images, "labels", made_by={"revision": "12ab"}, progress=False)
    card = Path("labels/README.md").read_text()
    for line in ("# refshapes, labeled by halves", "- revision: 12ab", "- threshold: 0.5", "- machine-generated"):
        assert line in card.splitlines()
    # Images of its val split are held out from whatever is trained on with it.
    assert image_collections("labels") == image_collections("refshapes")
    assert Image.open("labels/preview_val.png").width > 100
    again = DatasetImages("refshapes", shapes, source_datasets=["extended|RefShapes"])
    label_images(Everywhere(), again, "again", made_by={"revision": "12ab"}, progress=False)
    assert files_of(Path("again")) == files_of(Path("labels"))


def test_ids_in_other_collections_go_along(shapes: datasets.DatasetDict) -> None:
    rows = shapes["val"]
    rows = rows.add_column("coco_id", [f"coco {image_id}" for image_id in rows["image_id"]])
    images = DatasetImages("shapes", {"val": rows}, ["a shape"], other_ids=["coco_id"])
    label_images(Everywhere(), images, "labels", progress=False)
    for row in load_refseg("labels")["val"]:
        assert row["coco_id"] == f"coco {row['image_id']}"


def test_what_cannot_be_labeled_is_said(photos: Path, shapes: datasets.DatasetDict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder elsewhere with photographs"):
        Photographs(Path("elsewhere"), TEXTS)
    with pytest.raises(ValueError, match="Photographs have no sentences of their own"):
        Photographs(photos, [])
    with pytest.raises(ValueError, match="A text is empty"):
        Photographs(photos, [" "])
    with pytest.raises(DataFormatError, match="A text has half a character"):
        Photographs(photos, ["a \ud800"])
    with pytest.raises(ValueError, match="The text a cat is given more than once"):
        Photographs(photos, ["a cat", "a cat"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no photographs"):
        Photographs(tmp_path / "empty", TEXTS)
    with pytest.raises(ValueError, match=r"lies within .*photos, whose images are labeled"):
        Labeling(Photographs(photos, TEXTS), photos / "labels", {"system": "halves"})
    with pytest.raises(ValueError, match="A shard has 0 images"):
        Labeling(Photographs(photos, TEXTS), "labels", {"system": "halves"}, shard_images=0)
    rows = shapes["train"]
    apart = rows.select([*range(len(rows)), 0])
    with pytest.raises(DataFormatError, match=r"shapes \(train\): rows of one image are not adjacent"):
        DatasetImages("shapes", {"train": apart})
    videos = datasets.Dataset.from_dict({"video_id": ["0"], "frames": [[]]})
    with pytest.raises(ValueError, match="clips holds videos, and only images are labeled"):
        DatasetImages("clips", {"val": videos})


def test_a_linked_photograph_brings_no_other_one_in(photos: Path, tmp_path: Path) -> None:
    secret = write_half(tmp_path / "private" / "secret.png")
    (photos / "link.png").symlink_to(secret)
    report = label_images(Halves(), all_of(photos, TEXTS), "labels", progress=False)
    assert report.counts["train"]["unreadable"] == 1 and "is a link to" in report.problems[0]
    assert "link.png" not in load_refseg("labels")["train"]["image_id"]


def test_names_become_no_markup_in_the_card(photos: Path) -> None:
    system = Halves()
    system.name = "evil <script>|\n---\nlicense: mit\n# heading [link](target)"
    named = photos.rename(photos.with_name("a <b>\n---\nphotos"))
    label_images(system, all_of(named, TEXTS), "labels", progress=False)
    card = Path("labels/README.md").read_text(encoding="utf-8")
    data = DatasetCard(card).data
    assert (data.license, data.pretty_name) == ("other", f"{named.name}, labeled by {system.name}")
    assert "<" not in card and "\n# heading" not in card
    assert "[link](target)" not in card.split("\n---\n", 1)[1]
    assert load_refseg("labels")["train"].num_rows == 10
