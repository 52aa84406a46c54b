"""Evaluation at any size: images answered together and read ahead, runs that go on, little in memory at a time."""

import json
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, local
from traceback import clear_frames
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from color_videos import COLORS, ColorModel, as_dataset, color_processor, make_row
from datasets import Dataset
from fresh_process import CHECKOUT, run_program
from PIL import Image
from tiny_lavt import tiny_lavt, tiny_processor
from torch.utils.data import Dataset as TorchDataset

from hf_refseg import RefSegImageProcessor, RefSegProcessor
from hf_refseg.data import examples
from hf_refseg.data.examples import open_mask
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import InvalidRowError, row_features
from hf_refseg.evaluation import Answer, ModelSystem, System, evaluate_system
from hf_refseg.evaluation.answering import answer_items
from hf_refseg.evaluation.portions import forget_portions
from hf_refseg.messages import BadInputError
from hf_refseg.modeling.inference_refseg import prepare_image, probabilities_of_images
from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError

SIZES = [(40, 30), (30, 50), (30, 50), (64, 64), (40, 30)]
TEXTS = [["the left dog", "red"], ["the right"], ["green", "the dog", "left"], ["the red circle", "right"], ["dog"]]


def picture_of(number: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def row_of(number: int, size: tuple[int, int], texts: Sequence[str]) -> dict:
    """An image whose left half is meant by all sentences."""
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[:, : size[0] // 2] = True
    return {
        "image": picture_of(number, size),
        "image_id": f"image{number}",
        "ref_id": str(number),
        "ann_ids": [],
        "category": "half",
        "mask": encode_mask(mask),
        "bbox": [0.0, 0.0, 1.0, 1.0],
        "no_target": False,
        "sentences": [{"sent_id": f"{number}-{place}", "raw": text, "sent": text} for place, text in enumerate(texts)],
    }


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rows = [row_of(number, *each) for number, each in enumerate(zip(SIZES, TEXTS, strict=True))]
    return Dataset.from_list(rows, features=row_features())


class CutOffError(Exception):
    """In the place of what ends a process."""


class LeftHalf(System):
    """Calls the left half of each image what is meant; counts the images that it has seen, and may break off."""

    name = "left half"

    def __init__(self, images_at_once: int = 2, breaks_off_after: int | None = None) -> None:
        self.images_at_once, self.breaks_off_after = images_at_once, breaks_off_after
        self.seen = 0

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        if self.seen == self.breaks_off_after:
            raise CutOffError
        self.seen += 1
        for text in texts:
            mask = np.zeros((image.height, image.width), dtype=bool)
            # Not the same for all: scores that are mixed up would be noticed.
            mask[: image.height - len(text), : image.width // 2] = True
            yield Answer(mask=mask)


def evaluate(system: System, dataset: Dataset, **options):
    return evaluate_system(system, dataset, **{"progress": False, "bootstrap_samples": 20, **options})


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_images_answered_together_are_answered_as_each_by_itself(batch_size):
    """The processor leaves images as they are, so that neighbors alone that are equally large share a pass."""
    model = tiny_lavt()
    processor = RefSegProcessor(RefSegImageProcessor(do_resize=False), tiny_processor().tokenizer)
    pictures = [picture_of(number, size) for number, size in enumerate(SIZES)]
    prepared = [prepare_image(processor, *each) for each in zip(pictures, TEXTS, strict=True)]
    sizes, passes, encoded = [image.size for image in prepared], [], []
    forward, encode = model.forward, model.encode_image
    model.forward = lambda **inputs: passes.append(len(inputs["input_ids"])) or forward(**inputs)
    model.encode_image = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    maps = list(probabilities_of_images(model, processor, prepared, sizes=sizes, batch_size=batch_size))
    assert passes == {1: [1] * 9, 2: [2, 2, 2, 2, 1], 16: [2, 4, 2, 1]}[batch_size]
    # Each image once, also where its texts are parted.
    assert sum(encoded) == len(SIZES)
    alone = [
        each.probabilities
        for image, size in zip(prepared, sizes, strict=True)
        for each in probabilities_of_images(tiny_lavt(), processor, [image], sizes=[size], batch_size=1)
    ]
    for together, single in zip(maps, alone, strict=True):
        torch.testing.assert_close(together.probabilities, single, rtol=1e-4, atol=1e-5)
    assert len(maps) == len(alone) == 9


def numbers_of(result) -> dict:
    """All that is measured but the time."""
    return {name: value for name, value in vars(result).items() if name != "seconds"}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_that_was_cut_off_goes_on_where_it_was(dataset, tmp_path, streaming):
    rows = dataset.to_iterable_dataset() if streaming else dataset
    unfinished, whole_lines, lines_again = tmp_path / "unfinished", [], []
    whole = evaluate(LeftHalf(), dataset, write_lines=whole_lines.extend)
    with pytest.raises(CutOffError):
        evaluate(LeftHalf(breaks_off_after=3), rows, unfinished=unfinished, write_lines=lines_again.extend)
    assert lines_again == []
    # What a kill in the midst of a line leaves.
    (lines,) = unfinished.glob("*.jsonl")
    with lines.open("a") as file:
        file.write('[1, [{"rows": "')
    again = LeftHalf(breaks_off_after=3)
    goes_on = {"unfinished": unfinished, "write_lines": lines_again.extend}
    assert numbers_of(evaluate(again, rows, **goes_on)) == numbers_of(whole)
    # Two images make a portion: the one that was not finished, and the last image.
    assert again.seen == 3
    assert lines_again == whole_lines
    assert [json.loads(line)["text"] for line in lines_again] == [text for texts in TEXTS for text in texts]
    assert numbers_of(evaluate(LeftHalf(breaks_off_after=0), rows, **goes_on)) == numbers_of(whole)
    with pytest.raises(BadInputError, match="'predictions': True"):
        evaluate(LeftHalf(), rows, unfinished=unfinished)
    forget_portions(unfinished)
    assert list(tmp_path.iterdir()) == []
    # Another process may have removed it.
    forget_portions(unfinished)


def test_processes_that_find_the_same_unfinished_run_count_it_once(dataset, tmp_path, monkeypatch):
    """Threads stand for processes here: what they gather is what each of them has brought."""
    lines, lines_again = [], []
    expected = numbers_of(evaluate(LeftHalf(), dataset, write_lines=lines.extend))
    with pytest.raises(CutOffError):
        evaluate(LeftHalf(breaks_off_after=3), dataset, unfinished=tmp_path / "left", write_lines=lines_again.extend)
    brought, meeting, process = {}, Barrier(2), local()

    def gather(objects):
        brought[process.number] = objects
        meeting.wait(timeout=60)
        together = [*brought[0], *brought[1]]
        meeting.wait(timeout=60)
        return together

    def run(number):
        process.number = number
        system, state = LeftHalf(), SimpleNamespace(process_index=number, num_processes=2)
        options = {"unfinished": tmp_path / "left", "write_lines": lines_again.extend, "state": state}
        return numbers_of(evaluate(system, dataset, **options)), system.seen

    monkeypatch.setattr("hf_refseg.evaluation.portions.gather_object", gather)
    with ThreadPoolExecutor(2) as processes:
        # Of three portions one is there.
        assert list(processes.map(run, range(2))) == [(expected, 2), (expected, 1)]
    assert lines_again == lines


def test_an_unfinished_run_goes_on_with_the_same_inputs_alone(dataset, tmp_path):
    unfinished = tmp_path / "unfinished"
    model = tiny_lavt()
    evaluate(ModelSystem(model, tiny_processor(), batch_size=2), dataset, unfinished=unfinished, max_examples=2)
    with torch.no_grad():
        model.decoder.classifier.bias += 1
    with pytest.raises(
        BadInputError, match=r"unfinished holds an unfinished evaluation with \{.weights.: .*\}, not with"
    ):
        evaluate(ModelSystem(model, tiny_processor(), batch_size=2), dataset, unfinished=unfinished, max_examples=2)
    for options, name in (({}, "max_examples"), ({"max_examples": 2, "protocol": "vlt"}, "protocol")):
        with pytest.raises(BadInputError, match=f"'{name}'"):
            evaluate(
                ModelSystem(tiny_lavt(), tiny_processor(), batch_size=2), dataset, unfinished=unfinished, **options
            )

    evaluate(LeftHalf(), dataset, unfinished=tmp_path / "left")
    others = dataset.map(lambda row: {"sentences": row["sentences"][::-1]}, load_from_cache_file=False)
    for rows in (others, others.to_iterable_dataset()):
        with pytest.raises(BadInputError, match="left holds an unfinished evaluation of other rows"):
            evaluate(LeftHalf(), rows, unfinished=tmp_path / "left")
    for rows in (dataset.select([0, 1]), dataset.select([0, 1]).to_iterable_dataset()):
        # What is found about the others is nothing that was asked for.
        with pytest.raises(BadInputError, match="left holds an unfinished evaluation of other rows"):
            evaluate(LeftHalf(), rows, unfinished=tmp_path / "left")
    for line in ("[0, {", "0", '["0", []]', "[NaN, []]", "[0, {}]", "[" * 100_000):
        next(tmp_path.glob("left/*.jsonl")).write_text(f"{line}\n")
        with pytest.raises(BadInputError, match=r"\.jsonl is damaged. Delete the folder"):
            evaluate(LeftHalf(), dataset, unfinished=tmp_path / "left")


@pytest.mark.parametrize("workers", [0, 1])
def test_worker_processes_change_neither_scores_nor_errors(dataset, workers):
    system = ModelSystem(tiny_lavt(), tiny_processor(), batch_size=4)
    result = evaluate(system, dataset, num_workers=workers)
    assert numbers_of(result) == numbers_of(
        evaluate(ModelSystem(tiny_lavt(), tiny_processor(), batch_size=4), dataset)
    )
    rows = [dict(row) for row in dataset]
    rows[3]["image"] = {"bytes": b"no picture", "path": None}
    broken = Dataset.from_list(rows, features=row_features())
    with pytest.raises(InvalidRowError) as error:
        evaluate(system, broken, num_workers=workers)
    # What it still holds waits seconds for its process where garbage is collected.
    clear_frames(error.tb)
    assert str(error.value).startswith("The image of row 3 (embedded in the data set) cannot be read")
    assert "\n" not in str(error.value)


def test_an_answer_that_is_not_finite_names_its_own_image(dataset):
    model = tiny_lavt()
    encode, encoded = model.encode_image, []

    def damage_the_fourth(pixels):
        features = encode(pixels)
        for row in range(len(pixels)):
            encoded.append(row)
            if len(encoded) == 4:
                features.maps[0][row] = torch.nan
        return features

    model.encode_image = damage_the_fourth
    with pytest.raises(NotFiniteError, match=r"^Image 'image3': 100 % of the model's logits are NaN"):
        evaluate(ModelSystem(model, tiny_processor()), dataset)
    assert len(encoded) == 5


class Watched(LeftHalf):
    """Counts how many of the images and masks that went through it are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[weakref.ref] = []
        self.masks: list[weakref.ref] = []
        self.most_images = self.most_masks = 0

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        self.images.append(weakref.ref(image))
        for answer in super().segment(image, texts):
            self.masks.append(weakref.ref(answer.mask))
            self.most_images = max(self.most_images, alive(self.images))
            self.most_masks = max(self.most_masks, alive(self.masks))
            yield answer


def alive(references: list[weakref.ref]) -> int:
    return sum(reference() is not None for reference in references)


def test_neither_images_nor_masks_pile_up(monkeypatch):
    """However many images there are, two portions of them at most are in memory, and of the answers two."""
    rows = [row_of(number, (12, 10), ["left"] * 3) for number in range(20)]
    truths: list[weakref.ref] = []

    def watched(row, image):
        mask = open_mask(row, image)
        truths.append(weakref.ref(mask))
        return mask

    monkeypatch.setattr(examples, "open_mask", watched)
    most_truths = []

    class AlsoTruths(Watched):
        def segment(self, image, texts):
            most_truths.append(alive(truths))
            return super().segment(image, texts)

    system = AlsoTruths()
    result = evaluate(system, Dataset.from_list(rows, features=row_features()))
    assert (result.images, result.sentences, len(truths)) == (20, 60, 20)
    assert (len(system.images), len(system.masks)) == (20, 60)
    assert system.most_images <= 4 and max(most_truths) <= 4 and system.most_masks <= 2


class Items(TorchDataset):
    """Some with texts, some without, and one with another size."""

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> dict:
        texts = TEXTS[index] if index % 2 else []
        return {"image": picture_of(index, SIZES[index]), "texts": texts, "name": f"{index}.png"}


@pytest.mark.parametrize("workers", [0, 2])
def test_any_items_are_answered_in_order(workers):
    found = [
        (item["name"], "image" in item, [answer.mask.shape for answer in answers])
        for item, answers in answer_items(LeftHalf(), Items(), num_workers=workers)
    ]
    assert found == [
        (f"{number}.png", False, [size[::-1]] * (len(texts) if number % 2 else 0))
        for number, (size, texts) in enumerate(zip(SIZES, TEXTS, strict=True))
    ]


def test_frames_of_videos_are_read_ahead(monkeypatch):
    rows = as_dataset(make_row(0, COLORS), make_row(1, COLORS))
    results = [
        evaluate(ModelSystem(ColorModel(takes_clips=takes_clips), color_processor()), rows, num_workers=workers)
        for takes_clips in (False, True)
        for workers in (0, 1)
    ]
    assert numbers_of(results[0]) == numbers_of(results[1]) and numbers_of(results[2]) == numbers_of(results[3])
    with pytest.raises(ValueError, match="num_workers must not be negative, not -1"):
        evaluate(LeftHalf(), rows, num_workers=-1)


def write_prepared(rows: Dataset, folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# Rows")
    rows.to_parquet(folder / "data" / "val-00000-of-00001.parquet")


@pytest.mark.slow_process
def test_one_and_several_processes_write_the_same_files(dataset, tmp_path):
    """Of five images in portions of two, one process has three, the other one two; of two videos each has one."""
    tiny_lavt().save_pretrained(tmp_path / "tiny")
    tiny_processor().save_pretrained(tmp_path / "tiny")
    write_prepared(dataset, tmp_path / "pictures")
    program, command = CHECKOUT / "tests" / "support" / "evaluate_shared.py", ["tiny", "pictures", "--batch-size", "2"]
    (alone,) = run_program(program, "alone", *command, cwd=tmp_path)
    differently = ["--workers", "1", "--streaming"]
    together = run_program(program, "together", *command, *differently, cwd=tmp_path, processes=2)
    for done in (alone, *together):
        assert done.exit_status == 0, done.errors
    written = [{path.name: path for path in (tmp_path / folder).iterdir()} for folder in ("alone", "together")]
    names = ["pictures_val_original.json", "pictures_val_original.png", "predictions.jsonl", "videos.json"]
    assert [sorted(files) for files in written] == [[*names[:3], "times.jsonl", *names[3:]]] * 2
    for name in names:
        assert written[0][name].read_bytes() == written[1][name].read_bytes(), name
    assert "mAP" in json.loads(written[0]["videos.json"].read_text())["metrics"]
    assert "9 sentences, 5 images" in together[0].output and together[1].output == ""
    (line,) = written[1]["times.jsonl"].read_text().splitlines()
    measured = {"measured": "pictures_val_original", "seconds": 0, "processes": 2, "workers": 1}
    assert {**json.loads(line), "seconds": 0} == measured
