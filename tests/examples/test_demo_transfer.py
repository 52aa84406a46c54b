"""The demonstration of warm starts: both are treated alike, nothing finished is lost, and words follow numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import demo_transfer
import pytest
import torch
from datasets import Dataset
from demo_transfer import HELD_OUT, KINDS, SHUFFLED, STARTS, TRAINED, Plan
from PIL import Image
from places import REAL_DATA
from tiny_lavt import tiny_lavt, tiny_processor
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_refseg import REFSHAPES_DEMO, AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.messages import BadInputError

PLAN = Plan(steps=2, scored_steps=(0, 2), parts=2, seeds=(3,), batch_size=2, learning_rate=1e-2, warmup_steps=0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four small pictures in the place of photographs, with two referents each and at most two sentences of each."""
    cache = str(tmp_path_factory.mktemp("cache"))
    scenes = load_refseg("refshapes", train_size=4, val_size=1, test_size=1, image_size=64, cache_dir=cache)["train"]
    first = [next(of_image) for _, of_image in groupby(range(len(scenes)), scenes["image_id"].__getitem__)]
    two = scenes.select([number for each in first for number in (each, each + 1)])
    return two.map(lambda row: {"sentences": row["sentences"][:2]}, keep_in_memory=True)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch, rows: Dataset) -> None:
    """The small pictures, and for both starts one tiny model."""

    def build(start: str, rows: Dataset) -> tuple[PreTrainedModel, RefSegProcessor]:
        model, processor = tiny_lavt(), tiny_processor()
        # About half of a picture lies above.
        processor.image_processor.mask_threshold = 0.48
        # Each start draws another number of random numbers.
        torch.rand(1 + STARTS.index(start))
        return model, processor

    monkeypatch.setattr(demo_transfer, "load_photographs", lambda data, cache: rows)
    monkeypatch.setattr(demo_transfer, "build_model_and_processor", build)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is trained: seed, part and start."""
    calls: list[tuple] = []
    original: Callable[..., dict[str, Any]] = demo_transfer.train_and_score

    def recorded(rows: Dataset, plan: Plan, seed: int, part: int, start: str, output: Path, bar: tqdm) -> dict:
        calls.append((seed, part, start))
        return original(rows, plan, seed, part, start, output, bar)

    monkeypatch.setattr(demo_transfer, "train_and_score", recorded)
    return calls


def test_every_picture_is_held_out_once_and_what_is_finished_is_kept(
    alike: None, tmp_path: Path, trained: list[tuple], rows: Dataset, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    demo_transfer.main(tmp_path, output, PLAN)
    assert (
        trained == PLAN.trainings == [(3, 0, "refshapes"), (3, 0, "scratch"), (3, 1, "refshapes"), (3, 1, "scratch")]
    )
    report = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert capsys.readouterr().out.splitlines()[1:-1] == report["words"]
    assert (report["photographs"], report["sentences"]) == (4, sum(map(len, rows["sentences"])))
    for kind in KINDS:
        # Nothing but the weights may make a difference.
        warm, cold = (report["curves"][kind][start] for start in STARTS)
        assert warm == cold and [point["step"] for point in warm] == [0, 2]
    before, after = report["curves"][TRAINED]["scratch"]
    assert before["by_seed"] != after["by_seed"] == [after["mean"]]
    assert report["refshapes_less_scratch"][HELD_OUT]["by_seed"] == [0] and "No difference" in report["words"][5]
    assert "  80 on what it was trained on was reached: from refshapes never, from scratch never." in report["words"]
    files = {each: demo_transfer.path_of(output / "trainings", *each) for each in trained}
    sentences = Counter(dict.fromkeys(rows["image_id"], 0))
    for image_id, of_row in zip(rows["image_id"], rows["sentences"], strict=True):
        sentences[image_id] += len(of_row)
    for start in STARTS:
        scored = [json.loads(files[3, part, start].read_text(encoding="utf-8"))["scores"][-1] for part in (0, 1)]
        held_out = [Counter(record["image_id"] for record in each[HELD_OUT]) for each in scored]
        assert held_out[0] + held_out[1] == sentences and not held_out[0].keys() & held_out[1].keys()
        assert [Counter(record["image_id"] for record in each[TRAINED]) for each in scored] == held_out[::-1]
        for part, each in enumerate(scored):
            own = {(record["image_id"], record["text"]) for record in each[HELD_OUT]}
            assert {record["image_id"] for record in each[SHUFFLED]} == held_out[part].keys()
            assert not own & {(record["image_id"], record["text"]) for record in each[SHUFFLED]}
    with (
        Image.open(output / "learning_curve.png") as curve,
        Image.open(output / "pictures/seed3-part1-scratch.png") as cases,
    ):
        assert curve.width > 1000 and cases.width > 900

    # Cut off in the middle: what is missing alone is trained, and comes out the same.
    files[3, 1, "refshapes"].unlink()
    trained.clear()
    demo_transfer.main(tmp_path, output, PLAN)
    assert trained == [(3, 1, "refshapes")]
    again = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert again["curves"] == report["curves"] and again["held_out_less_shuffled"] == report["held_out_less_shuffled"]
    with pytest.raises(BadInputError, match=r"trainings holds trainings with other steps, scored_steps: delete it"):
        demo_transfer.main(tmp_path, output, Plan(**{**vars(PLAN), "steps": 1, "scored_steps": (0, 1)}))


def test_both_starts_know_all_words_and_one_of_them_what_the_shipped_model_has_learned() -> None:
    rows = Dataset.from_dict({"sentences": [[{"raw": "The LEFT zebra"}], [{"raw": "giraffe, left"}]]})
    built = {start: demo_transfer.build_model_and_processor(start, rows) for start in STARTS}
    (model, processor), (cold, other) = (built[start] for start in ("refshapes", "scratch"))
    numbers, weight = processor.tokenizer.get_vocab(), model.get_input_embeddings().weight
    assert other.tokenizer.get_vocab() == numbers and cold.config.to_dict() == model.config.to_dict()
    shipped = AutoModelForReferringSegmentation.from_pretrained(REFSHAPES_DEMO, dtype=torch.float32)
    known = RefSegProcessor.from_pretrained(REFSHAPES_DEMO).tokenizer.get_vocab()
    assert numbers.keys() - known.keys() == {"zebra", "giraffe", ","} and model.config.text_config.vocab_size == 76
    places = [numbers[word] for word in known]
    assert torch.equal(weight[places], shipped.get_input_embeddings().weight[list(known.values())])
    assert (weight[numbers["zebra"]] - weight[numbers["giraffe"]]).abs().max() > 0.01
    random = cold.state_dict()
    for name, value in model.state_dict().items():
        assert "word_embeddings" in name or torch.equal(value, shipped.state_dict()[name])
        # Norms and biases start as ones and zeros.
        assert value.ndim < 2 or not torch.equal(value, random[name])


def test_parts_have_about_as_many_rows_and_follow_the_seed() -> None:
    image_ids = ["a"] * 4 + ["b"] * 4 + ["c", "c"] + list("defgh")
    dealt = [demo_transfer.deal_out(image_ids, 3, seed) for seed in range(4)]
    for parts in dealt:
        assert sorted(image for part in parts for image in part) == sorted(set(image_ids))
        rows = sorted(sum(image_ids.count(image) for image in part) for part in parts)
        assert rows[-1] <= 7
    assert dealt[0] == demo_transfer.deal_out(image_ids, 3, 0) and any(parts != dealt[0] for parts in dealt)


def test_words_follow_the_numbers() -> None:
    points = [{"step": step, "mean": mean} for step, mean in ((0, 3.0), (10, 79.9), (25, 80.0), (50, 90.0))]
    assert (demo_transfer.first_step(points, 80), demo_transfer.first_step(points, 95)) == (25, None)
    told = demo_transfer.words_on_difference
    clear = {"difference": 4.0, "by_seed": [3.0, 5.0], "interval": [1.0, 6.0], "is_clear": True}
    size = "+4.0, 95 % interval over photographs +1.0 to +6.0"
    assert (
        told(clear, "from refshapes it is", "than from scratch")
        == f"From refshapes it is higher than from scratch ({size})."
    )
    lower = {**clear, "difference": -4.0, "interval": [-6.0, -1.0]}
    assert told(lower, "it is", "than").startswith(
        "It is lower than (-4.0, 95 % interval over photographs -6.0 to -1.0)"
    )
    assert (
        told({**clear, "is_clear": False}, "it is", "than")
        == f"No difference beyond that between seeds and photographs ({size})."
    )


@pytest.mark.parametrize(
    ("second", "is_clear"),
    [
        # Each seed has more, but of one of the photographs alone.
        ([[(70, 100), (40, 100)], [(72, 100), (40, 100)]], False),
        ([[(60, 100), (62, 100)], [(61, 100), (66, 100)]], True),
        # Both photographs have more, but with one of the seeds alone.
        ([[(70, 100), (72, 100)], [(48, 100), (49, 100)]], False),
    ],
)
def test_a_difference_is_clear_where_seeds_and_photographs_agree(second: list, is_clear: bool) -> None:
    plan = Plan(scored_steps=(0,), parts=1, seeds=(0, 1))

    def records(counts: list[tuple[int, int]]) -> list[dict[str, Any]]:
        return [
            {"image_id": str(number), "ref_id": "0", "sent_id": "0", "text": "a", "intersection": intersection}
            | {"union": union, "no_target": False, "present": True, "iou": intersection / union}
            for number, (intersection, union) in enumerate(counts)
        ]

    trainings = {
        (seed, 0, start): {"scores": [{"step": 0, TRAINED: records(counts)}]}
        for seed in plan.seeds
        for start, counts in (("scratch", [(50, 100), (50, 100)]), ("refshapes", second[seed]))
    }
    found = demo_transfer.difference_of(plan, trainings, ("scratch", TRAINED), ("refshapes", TRAINED))
    assert found["is_clear"] is is_clear
    assert found["by_seed"] == pytest.approx([sum(count for count, _ in counts) / 2 - 50 for counts in second])


def test_without_photographs_it_says_where_they_belong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    demo_transfer.main(tmp_path / "absent", tmp_path / "run")
    said = capsys.readouterr().out
    assert f"there is no folder {tmp_path / 'absent'}. Put refcoco_mini" in said and "HF_REFSEG_REAL_DATA" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not (REAL_DATA / "refcoco_mini").is_dir(), reason=f"no photographs in {REAL_DATA}")
def test_the_photographs_are_those_of_both_data_sets(tmp_path: Path) -> None:
    rows = demo_transfer.load_photographs(REAL_DATA / "refcoco_mini", tmp_path)
    assert (len(rows), sum(map(len, rows["sentences"]))) == (29, 68)
    runs = [image_id for image_id, _ in groupby(rows["image_id"])]
    assert len(runs) == len(set(runs)) == 17
    assert demo_transfer.score_of_every_pixel(rows) == pytest.approx(11.97, abs=0.01)
