"""Any system under any protocol: what an answer is, what a system has to say, and that both are scored as they say."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from hf_refseg import Answer, System, evaluate_system
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import row_features
from hf_refseg.evaluation import SystemSource, evaluate_masks, find_cases
from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError

TEXTS = ["left", "right", "nothing"]
SIDE = 8


def halves() -> dict[str, np.ndarray]:
    left = np.zeros((SIDE, 2 * SIDE), dtype=bool)
    left[:, :SIDE] = True
    return {"left": left, "right": ~left, "nothing": np.zeros_like(left)}


@pytest.fixture
def dataset() -> Dataset:
    """Two images; of each the left half, the right half, and what is not there."""
    rows = [
        {
            "image": Image.new("RGB", (2 * SIDE, SIDE)),
            "image_id": str(number),
            "ref_id": f"{number}-{text}",
            "ann_ids": [],
            "category": "half",
            "mask": encode_mask(mask),
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "no_target": not mask.any(),
            "sentences": [{"sent_id": f"{number}-{text}", "raw": text, "sent": text}],
        }
        for number in range(2)
        for text, mask in halves().items()
    ]
    return Dataset.from_list(rows, features=row_features())


class Halves(System):
    """Says what the texts say, a little less surely on the right, and "nothing" as a mask that is held back."""

    name = "halves"
    threshold = 0.3

    def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
        assert image.size == (2 * SIDE, SIDE)
        for text in texts:
            if text == "nothing":
                yield Answer(mask=halves()["left"], present=False)
            else:
                yield Answer(np.where(halves()[text], 0.34 if text == "right" else 0.9, 0.1))


class SmallHalves(Halves):
    """The same at half of the size, which is that at which it sees images."""

    def segment_at_model_size(self, image: Image.Image, texts: Sequence[str]) -> list[Answer]:
        return [
            Answer(mask=answer.foreground(0.5)[::2, ::2], present=answer.present)
            for answer in self.segment(image, texts)
        ]


def evaluate(system: System, dataset: Dataset, protocol: str = "original"):
    return evaluate_system(system, dataset, protocol, bootstrap_samples=0, progress=False)


def test_a_system_of_four_lines_is_scored(dataset):
    result = evaluate(Halves(), dataset)
    assert (result.images, result.sentences) == (2, 6)
    assert result.metrics == {**dict.fromkeys(result.metrics, 100.0), "N-acc": 100.0, "T-acc": 100.0}
    assert [record["present"] for record in result.records] == [True, True, False] * 2


def test_the_threshold_is_the_protocols_and_else_the_systems(dataset):
    """VLT's 0.35 leaves nothing of the right half, which the system itself finds above 0.3."""
    seen = [halves()["left"], halves()["nothing"], halves()["nothing"]] * 2
    assert evaluate(Halves(), dataset, "vlt").metrics == evaluate_masks(seen, list(halves().values()) * 2, "vlt")


def test_at_the_size_that_a_system_sees_the_true_mask_is_resized(dataset):
    result = evaluate(SmallHalves(), dataset, "lavt")
    assert [record["union"] for record in result.records] == [SIDE * SIDE // 4, SIDE * SIDE // 4, 0] * 2
    assert [record["intersection"] for record in result.records] == [SIDE * SIDE // 4, 0, 0] * 2
    with pytest.raises(ValueError, match=r"halves answers at the size of the image alone.*such as original"):
        evaluate(Halves(), dataset, "lavt")


def test_held_back_masks_count_where_the_protocol_says_so(dataset):
    """What is held back joins the union of a target that is answered so, and only there."""

    class Silent(SmallHalves):
        def segment(self, image: Image.Image, texts: Sequence[str]) -> Iterator[Answer]:
            return (Answer(mask=halves()["left"], present=False) for _ in texts)

    result = evaluate(Silent(), dataset, "rela")
    assert (result.metrics["N-acc"], result.metrics["T-acc"]) == (100, 0)
    assert result.metrics["gIoU"] == pytest.approx(100 / 3)
    assert [record["union"] for record in result.records[:2]] == [SIDE * SIDE // 4, SIDE * SIDE // 2]


@pytest.mark.parametrize(("given", "number"), [(2, "2"), (4, "4")])
def test_each_text_needs_one_answer(dataset, given, number):
    class Wrong(Halves):
        def segment(self, image: Image.Image, texts: Sequence[str]) -> list[Answer]:
            return [Answer(mask=halves()["left"])] * given

    with pytest.raises(ValueError, match=f"halves gave {number} answers to 3 texts"):
        evaluate(Wrong(), dataset)


def test_a_mask_of_another_size_is_named(dataset):
    class Large(Halves):
        def segment(self, image: Image.Image, texts: Sequence[str]) -> list[Answer]:
            return [Answer(mask=np.ones((SIDE, 2 * SIDE + 1), dtype=bool))] * len(texts)

    with pytest.raises(ValueError, match=r"Image '0', reference '0-left'.*resize the prediction"):
        evaluate(Large(), dataset)


def test_what_is_not_finite_names_its_image(dataset):
    class Broken(Halves):
        def segment(self, image: Image.Image, texts: Sequence[str]) -> list[Answer]:
            return [Answer(np.full((SIDE, 2 * SIDE), np.nan))] * len(texts)

    with pytest.raises(NotFiniteError, match="Image '0': An answer holds NaN or infinity"):
        evaluate(Broken(), dataset)


def test_cases_show_what_a_system_says(dataset):
    records = evaluate(Halves(), dataset).records
    cases = find_cases(SystemSource(Halves()), dataset, records[:3])
    assert [case.text for case in cases] == TEXTS
    for case in cases:
        assert (case.prediction == halves()[case.text]).all()


def test_a_video_is_asked_for_frame_by_frame_unless_a_system_sees_clips():
    frames = [Image.new("RGB", (2 * SIDE, SIDE))] * 3
    answers = list(Halves().segment_video(iter(frames), TEXTS[:2]))
    assert [[answer.size for answer in of_frame] for of_frame in answers] == [[(SIDE, 2 * SIDE)] * 2] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a mask or probabilities"),
        ({"mask": np.ones((2, 2), bool), "probabilities": np.ones((2, 2))}, "either a mask or probabilities"),
        ({"mask": np.ones((2, 2))}, r"bool array \(height, width\), not float64 \(2, 2\)"),
        ({"probabilities": np.ones((1, 2, 2))}, r"floating array \(height, width\), not float64 \(1, 2, 2\)"),
        ({"probabilities": [[0.5]]}, "not list"),
        ({"probabilities": np.full((2, 2), 1.5)}, "between 0 and 1"),
        ({"probabilities": np.full((2, 2), -0.5)}, "between 0 and 1"),
        ({"mask": np.ones((2, 2), bool), "score": 2.0}, "between 0 and 1"),
        ({"mask": np.ones((2, 2), bool), "score": float("nan")}, "NaN or infinity"),
        ({"probabilities": np.array([[0.5, np.inf]])}, "NaN or infinity"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Answer(**arguments)


def test_scores_of_answers():
    map_ = np.array([[0.9, 0.7, 0.2]], dtype=np.float32)
    mask = np.array([[True, False, False]])
    assert Answer(map_).score_at(0.5) == pytest.approx(0.8)
    assert Answer(map_).score_at(0.8) == pytest.approx(0.9)
    assert Answer(map_, score=0.4).score_at(0.8) == 0.4
    assert Answer(map_, present=False).score_at(0.5) == 0
    assert Answer(map_, present=False).foreground(0.5).tolist() == [[True, True, False]]
    assert not Answer(map_, present=False).shown_mask(0.5).any()
    assert (Answer(mask=mask).score_at(0.5), Answer(mask=~mask & mask).score_at(0.5)) == (1, 0)
    assert Answer(mask=mask, score=0.5).competing_probabilities().tolist() == [[0.75, 0, 0]]
    assert Answer(map_, present=False).competing_probabilities().tolist() == [[0, 0, 0]]
    assert Answer(map_).competing_probabilities() is map_
