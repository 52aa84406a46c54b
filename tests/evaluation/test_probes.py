"""Probes: what is changed and what is not, and drops that are known for systems that read, half read, and do not."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from places import CHECKOUT
from tiny_lavt import tiny_lavt, tiny_processor

from hf_refseg import Answer, System, evaluate_system, load_refseg
from hf_refseg.data.examples import ImageExamples
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.data.rows import row_features, video_features
from hf_refseg.evaluation import with_shuffled_sentences
from hf_refseg.evaluation.probes import (
    PROBES,
    ProbeScores,
    evaluate_probes,
    probes_table,
    with_mirrored_images,
    with_typos,
    without_head_nouns,
)
from hf_refseg.evaluation.wording import wording_groups

WIDTH, HEIGHT = 24, 10
RED, BLUE = (255, 0, 0), (0, 0, 255)


def square(side: str) -> np.ndarray:
    """Not where the mirror image of the other one is."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:7, slice(2, 8) if side == "left" else slice(14, 21)] = True
    return mask


def picture(left: tuple[int, int, int] = RED) -> Image.Image:
    """A red and a blue square."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[square("left")] = left
    pixels[square("right")] = BLUE if left == RED else RED
    return Image.fromarray(pixels)


def row(number: int, side: str, *texts: str) -> dict:
    mask = square(side)
    return {
        "image": picture(),
        "image_id": str(number),
        "ref_id": f"{number}-{side}",
        "ann_ids": [],
        "category": "square",
        "mask": encode_mask(mask),
        "bbox": [2.0, 2.0, 6.0, 5.0] if side == "left" else [14.0, 2.0, 7.0, 5.0],
        "no_target": False,
        "sentences": [{"sent_id": f"{number}-{text}", "raw": text, "sent": text.lower()} for text in texts],
    }


def rows(*of_rows: dict) -> Dataset:
    return Dataset.from_list(list(of_rows), features=row_features())


def both_sides(images: int = 6) -> Dataset:
    """In each image the square of one side, alternately."""
    return rows(
        *(
            row(number, side, f"{side} square")
            for number, side in zip(range(images), cycle(["left", "right"]), strict=False)
        )
    )


class Reader(System):
    """Knows the words left, right, red and blue, and that a text without them means nothing."""

    name = "reader"

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        pixels = np.asarray(image).astype(bool)
        colors = {"red": pixels[..., 0], "blue": pixels[..., 2]}
        left = np.arange(image.width) < image.width / 2
        sides = {"left": left, "right": ~left}
        for text in texts:
            mask = pixels.any(axis=-1)
            known = [word for word in text.lower().split() if word in (*colors, *sides)]
            for word in known:
                mask = mask & (colors[word] if word in colors else sides[word])
            yield Answer(mask=mask if known else np.zeros_like(mask))


class LeftOnly(Reader):
    """Answers with what is on the left, whatever is asked."""

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        return super().segment(image, ["left"] * len(texts))


def score(system: System, dataset: Dataset, protocol: str | None = None):
    return evaluate_system(system, dataset, protocol, bootstrap_samples=0, progress=False)


def answered_by(system: System):
    return lambda dataset, _: score(system, dataset)


def probe(system: System, dataset: Dataset, **options) -> dict:
    found = evaluate_probes(answered_by(system), dataset, samples=50, **options)
    return {each.probe: each for each in found}


def texts_of(dataset: Dataset) -> list[str]:
    return [sentence["raw"] for sentences in dataset["sentences"] for sentence in sentences]


def test_a_system_that_reads_loses_nothing_in_a_mirror_or_without_the_noun():
    found = probe(Reader(), both_sides())
    assert tuple(found) == PROBES
    for name in ("mirrored", "without noun"):
        assert found[name].unchanged["mIoU"] == found[name].changed["mIoU"] == 100
        assert set(found[name].drops.values()) == {0} and set(found[name].intervals.values()) == {(0, 0)}
        assert (found[name].sentences, found[name].images) == (6, 6)


def test_shuffling_costs_a_reader_what_was_exchanged_and_one_who_does_not_read_nothing():
    dataset = both_sides()
    exchanged = np.mean(np.array(texts_of(dataset)) != texts_of(with_shuffled_sentences(dataset)))
    assert 0 < exchanged < 1
    shuffled = probe(Reader(), dataset)["shuffled"]
    assert shuffled.drops["mIoU"] == pytest.approx(100 * exchanged)
    low, high = shuffled.intervals["mIoU"]
    assert low <= shuffled.drops["mIoU"] <= high and low < high
    assert probe(LeftOnly(), dataset)["shuffled"].drops["mIoU"] == 0


def test_a_typo_costs_a_reader_who_knows_no_typos_those_words():
    found = probe(Reader(), both_sides(), seed=1)["misspelled"]
    changed = texts_of(with_typos(both_sides(), seed=1))
    hit = np.mean([not {"left", "right"} & set(text.split()) for text in changed])
    assert 0 < hit < 1 and found.drops["mIoU"] == pytest.approx(100 * hit)


def test_one_who_always_looks_to_the_left_is_found_out_by_the_mirror():
    dataset = rows(*(row(number, "left", "left square", "the red one") for number in range(4)))
    mirrored = probe(LeftOnly(), dataset)["mirrored"]
    # Sentences without a side are not asked in a mirror, nor counted before.
    assert (mirrored.sentences, mirrored.unchanged["mIoU"], mirrored.drops["mIoU"]) == (4, 100, 100)


def test_only_the_same_sentences_are_compared():
    """Both see one sentence rightly; the other one has no side."""
    dataset = rows(row(0, "left", "left square", "green square"), row(1, "right", "right square", "green square"))
    found = probe(Reader(), dataset)
    assert score(Reader(), dataset).metrics["mIoU"] == 50
    assert (found["mirrored"].unchanged["mIoU"], found["mirrored"].sentences) == (100, 2)
    assert (found["without noun"].unchanged["mIoU"], found["without noun"].sentences) == (50, 4)


def test_what_is_mirrored(tmp_path: Path):
    """Image, mask and box, in which the other square keeps its place; rows of one image share a file."""
    dataset = rows(row(7, "left", "Left one", "red one"), row(7, "right", "right of it"), row(8, "right", "blue one"))
    mirrored = with_mirrored_images(dataset, tmp_path)
    assert mirrored.features == dataset.features
    assert texts_of(mirrored) == ["Right one", "left of it"]
    assert [each[0]["sent"] for each in mirrored["sentences"]] == ["right one", "left of it"]
    assert mirrored["bbox"] == [[16.0, 2.0, 6.0, 5.0], [3.0, 2.0, 7.0, 5.0]]
    assert len(list(tmp_path.iterdir())) == 1
    (item,) = ImageExamples(mirrored)
    np.testing.assert_array_equal(np.asarray(item["image"]), np.asarray(picture())[:, ::-1])
    for mask, side in zip(item["masks"], ("left", "right"), strict=True):
        np.testing.assert_array_equal(mask, square(side)[:, ::-1])
    assert texts_of(dataset) == ["Left one", "red one", "right of it", "blue one"]


def test_what_is_mirrored_of_videos(tmp_path: Path):
    def referent(side: str, *texts: str) -> dict:
        sentences = [{"sent_id": text, "raw": text, "sent": text, "annotator": "1"} for text in texts]
        masks = [encode_mask(square(side))] * 2
        names = {"ref_id": side, "category": "square", "annotated_frames": [0, 2], "masks": masks}
        return {**names, "sentences": sentences}

    frames = [picture(), picture(BLUE), picture()]
    video = {"frame_names": list("abc"), "frames": frames}
    videos = [
        {**video, "video_id": "v", "referents": [referent("left", "left one", "the square"), referent("right")]},
        {**video, "video_id": "w", "referents": [referent("right", "one", "right one")]},
        {**video, "video_id": "x", "referents": [referent("right", "one")]},
    ]
    dataset = Dataset.from_list(videos, features=video_features())
    mirrored = with_mirrored_images(dataset, tmp_path)
    assert mirrored.features == dataset.features and mirrored["video_id"] == ["v", "w"]
    assert [[len(each["sentences"]) for each in referents] for referents in mirrored["referents"]] == [[1, 0], [1]]
    for found, frame in zip(mirrored[0]["frames"], frames, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(frame)[:, ::-1])
    for found, side in zip(mirrored[0]["referents"], ("left", "right"), strict=True):
        np.testing.assert_array_equal(decode_mask(found["masks"][1]), square(side)[:, ::-1])
    probes = evaluate_probes(answered_by(Reader()), dataset, samples=20)
    drops = {each.probe: (each.sentences, each.drops.get("J&F")) for each in probes}
    assert drops["mirrored"] == (2, 0) and drops["shuffled"][0] == 5 and drops["without noun"] == (0, None)
    competing = replace(score(Reader(), dataset), protocol="davis_unsupervised")
    with pytest.raises(ValueError, match="probe under davis"):
        evaluate_probes(answered_by(Reader()), dataset, unchanged=competing)


def test_typos_depend_on_the_seed_and_the_sentence_alone():
    dataset = both_sides()
    first = texts_of(with_typos(dataset, seed=2))
    assert first == texts_of(with_typos(dataset, seed=2)) != texts_of(with_typos(dataset, seed=3))
    assert texts_of(with_typos(dataset.select([3, 1]), seed=2)) == [first[3], first[1]]
    assert not set(first) & set(texts_of(dataset))


def test_rows_that_are_left_without_a_sentence_are_left_out():
    dataset = rows(row(0, "left", "the square"), row(1, "left", "left square", "a square"))
    changed = without_head_nouns(dataset)
    assert texts_of(changed) == ["left"] and changed["ref_id"] == ["1-left"]


def test_what_no_sentence_can_be_asked_is_told_as_such():
    dataset = rows(row(0, "left", "red"), row(1, "left", "red"))
    found = probe(Reader(), dataset)
    assert {name: each.sentences for name, each in found.items()} == {
        **{"shuffled": 2, "mirrored": 0, "without noun": 0},
        "misspelled": 0,
    }
    lines = probes_table(list(found.values())).splitlines()
    assert lines[0].split()[:6] == ["probe", "sentences", "oIoU", "changed", "drop", "95"]
    assert lines[1].split()[:5] == ["shuffled", "2", "100.00", "100.00", "0.00"]
    assert lines[2].split() == ["mirrored", "0"]


def test_a_drop_that_rounds_to_zero_has_no_sign():
    before, after, drop, interval = ({"oIoU": each} for each in (50.0, 50.001, -0.001, (-0.006, -0.004)))
    (_, line) = probes_table([ProbeScores("shuffled", 2, 2, before, after, drop, interval)]).splitlines()
    assert line.split()[4:] == ["0.00", "-0.01", "to", "0.00"]


def test_what_was_evaluated_before_is_not_evaluated_again_and_alone_is_probed():
    dataset, seen = both_sides(), []

    def evaluate(changed: Dataset, name: str):
        seen.append((name, len(changed)))
        return score(Reader(), changed)

    first = evaluate_system(Reader(), dataset, bootstrap_samples=0, progress=False, max_examples=4)
    found = evaluate_probes(evaluate, dataset, unchanged=first, samples=20)
    assert seen == [(name, 4) for name in PROBES]
    assert {each.sentences for each in found} == {4}


def test_streamed_rows_are_refused_by_name():
    for change in (without_head_nouns, with_typos, partial(evaluate_probes, answered_by(Reader()))):
        with pytest.raises(ValueError, match="without streaming"):
            change(both_sides().to_iterable_dataset())


def test_generated_scenes_can_be_probed():
    dataset = load_refseg("refshapes", splits=["val"], val_size=8)["val"]
    found = probe(Reader(), dataset)
    assert found["shuffled"].sentences == len(texts_of(dataset))
    assert min(each.sentences for each in found.values()) > 3


def test_the_page_shows_code_that_runs_and_every_group_and_probe(capsys):
    page = (CHECKOUT / "docs" / "breakdown.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    code = code.replace('splits=["val"]', 'splits=["val"], val_size=3')
    assert code.count("val_size") == 1
    exec(code, {"model": tiny_lavt(), "processor": tiny_processor()})
    printed = capsys.readouterr().out.splitlines()
    names = [*PROBES, *wording_groups()]
    assert [line.split()[0] for line in printed[-len(PROBES) :]] == [name.split()[0] for name in PROBES]
    assert all(f"| {name} |" in page for name in names)
