"""Evaluation on videos: right numbers, frames compared as they are predicted, no more of them read than needed."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from color_videos import ANNOTATED, COLORS, FRAMES, ColorModel, as_dataset, color_processor, make_row, masks_of
from datasets import Dataset
from PIL import Image
from tiny_lavt import tiny_lavt, tiny_processor
from typer.testing import CliRunner, Result

from hf_refseg import RefSegProcessor, VideoWindow
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.data.rows import DataFormatError
from hf_refseg.evaluation import (
    evaluate_model,
    predict_cases,
    score_frames_a2d,
    score_frames_davis,
    scores_from_counts,
    select_worst_and_best,
    video_scores,
    with_shuffled_sentences,
)
from hf_refseg.evaluation.saved_results import read_result
from hf_refseg.evaluation.video import A2D
from hf_refseg.visualization import draw_strips
from hf_refseg_cli import app

DAVIS = ["J&F", "J", "F", "J-recall", "J-decay", "F-recall", "F-decay"]


@pytest.fixture(scope="module")
def processor() -> RefSegProcessor:
    return color_processor()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Three videos; in the third one red and green are mixed up."""
    return as_dataset(make_row(0, COLORS), make_row(1, COLORS), make_row(2, ["green", "red", "blue"]))


def evaluate(dataset: Dataset, processor: RefSegProcessor, protocol: str = "davis", model=None, **options):
    return evaluate_model(
        model or ColorModel(), processor, dataset, protocol, progress=False, bootstrap_samples=0, **options
    )


def test_davis_scores_every_sentence_on_its_annotated_frames(dataset, processor):
    result = evaluate(dataset, processor)
    assert list(result.metrics) == DAVIS
    by_text = {(record["video_id"], record["sent_id"]): record for record in result.records}
    assert len(by_text) == result.sentences == 12
    assert (result.videos, result.frames, result.protocol, result.intervals) == (3, 48, "davis", {})
    red = by_text["video0", "000"]
    assert (red["ref_id"], red["text"], red["annotator"], red["frames"]) == ("0-red", "red", "", 4)
    assert (red["J&F"], red["F-decay"]) == (1, 0)
    # Dim blue is found nowhere, and mixed up colors are elsewhere.
    right = [record for record in result.records if record["J"] == record["F"] == 1]
    wrong = [record for record in result.records if record["J"] == record["F"] == 0]
    assert (len(right), len(wrong)) == (6, 6)
    assert result.metrics["J&F"] == pytest.approx(50)
    assert result.metrics == video_scores(result.records, "davis")


@pytest.mark.parametrize("protocol", ["davis", "a2d"])
def test_a_stream_has_the_scores_and_cases_of_the_same_videos_when_loaded(dataset, processor, protocol):
    stream = dataset.to_iterable_dataset(num_shards=2)
    for options in ({}, {"max_examples": 1}):
        streamed, loaded = (evaluate(rows, processor, protocol, **options) for rows in (stream, dataset))
        assert (streamed.metrics, streamed.records) == (loaded.metrics, loaded.records)
        assert (streamed.videos, streamed.frames) == (loaded.videos, loaded.frames)
    cases = streamed.records[-2:]
    drawn = [predict_cases(ColorModel(), processor, rows, cases, protocol) for rows in (stream, dataset)]
    for first, second in zip(*drawn, strict=True):
        assert first.text == second.text and len(first.frames) == len(second.frames) > 0
        for one, other in zip(first.frames, second.frames, strict=True):
            assert one.image == other.image and (one.prediction == other.prediction).all()
    with pytest.raises(ValueError, match="is not in this data set"):
        predict_cases(ColorModel(), processor, stream.skip(1), cases, protocol)


def test_a_model_of_clips_sees_clips(dataset, processor):
    """It blurs what moves: scores are those of the mean over the whole video, or over each window of frames."""

    def expected(video: int, color: int, clips: list[range]) -> dict[str, float]:
        truth = masks_of(color, video + 1)
        mean_of = {number: np.mean([truth[other] for other in clip], axis=0) for clip in clips for number in clip}
        return score_frames_davis(
            (mean_of[number] > 0.5 for number in ANNOTATED), (truth[number] for number in ANNOTATED)
        ).measures()

    for options, clips in (
        ({}, [range(FRAMES)]),
        ({"window": VideoWindow(3, 0)}, [range(3), range(3, 6)]),
        ({"window": VideoWindow(per_frame=True)}, [range(number, number + 1) for number in range(FRAMES)]),
    ):
        result = evaluate(dataset, processor, model=ColorModel(takes_clips=True), **options)
        for record in result.records[:3]:
            wanted = expected(0, COLORS.index(record["text"].split()[0]), clips)
            assert {name: record[name] for name in DAVIS} == pytest.approx(wanted)


def test_a2d_counts_pixels_of_annotated_frames(dataset, processor):
    result = evaluate(dataset, processor, "a2d", model=ColorModel(takes_clips=True))
    counts = [
        pair for record in result.records for pair in zip(record["intersections"], record["unions"], strict=True)
    ]
    assert len(counts) == result.frames == 48
    expected = scores_from_counts(*zip(*counts, strict=True), A2D)
    assert result.metrics == {**expected, "mAP": result.metrics["mAP"]}
    truth = masks_of(0, 1)
    blurred = np.mean(truth, axis=0) > 0.5
    wanted = score_frames_a2d([blurred] * 4, [truth[number] for number in ANNOTATED])
    record = result.records[0]
    assert list(zip(record["intersections"], record["unions"], strict=True)) == wanted
    assert record["iou"] == pytest.approx(np.mean([i / u for i, u in wanted]), abs=1e-6)
    assert video_scores(result.records, "a2d") == expected


def test_average_precision_ranks_answers_by_their_scores(dataset, processor):
    """Half of the answers are right (they are as sure as the wrong ones), a quarter is wrong, a quarter is none."""
    result = evaluate(dataset, processor, "a2d")
    assert result.metrics["mIoU"] == pytest.approx(50, abs=1e-4)
    assert 100 * 24 / 48 / 2 < result.metrics["mAP"] <= 100 * 51 / 101
    right = evaluate(dataset.select([0, 1]), processor, "a2d").records
    only_found = as_dataset(make_row(0, ["red"]), make_row(1, ["red"]))
    assert len(right) == 8
    assert evaluate(only_found, processor, "a2d").metrics["mAP"] == pytest.approx(100)


def test_annotators_are_scored_apart(processor):
    row = make_row(0, COLORS)
    for referent, annotator in zip(row["referents"], ("first", "first", "second"), strict=True):
        for sentence in referent["sentences"]:
            sentence["annotator"] = annotator
    result = evaluate(as_dataset(row), processor)
    assert {record["annotator"] for record in result.records} == {"first", "second"}
    assert result.metrics["J"] == pytest.approx((100 + 0) / 2)


def test_the_batch_size_changes_nothing_but_the_passes(dataset, processor):
    models = {size: ColorModel(takes_clips=True) for size in (1, 3, 16)}
    results = {size: evaluate(dataset, processor, model=model, batch_size=size) for size, model in models.items()}
    assert results[1].records == results[3].records == results[16].records
    assert [model.seen_frames for model in models.values()] == [12 * FRAMES, 6 * FRAMES, 3 * FRAMES]


def test_frames_are_scored_as_they_come_and_no_more_are_read_than_needed(processor):
    """Of forty frames two are annotated: a model of images sees these, one of clips what lies up to the second."""
    row = make_row(0, ["red"], frames=40, annotated=[3, 9])
    model = ColorModel()
    evaluate(as_dataset(row), processor, model=model)
    assert model.seen_frames == 2
    model = ColorModel(takes_clips=True)
    evaluate(as_dataset(row), processor, model=model, window=VideoWindow(4, 0))
    assert 10 <= model.seen_frames <= 16


def test_intervals_come_from_drawing_videos(dataset, processor):
    result = evaluate_model(
        ColorModel(), processor, dataset, bootstrap_samples=200, seed=1, progress=False, max_examples=2
    )
    assert result.videos == 2
    assert result.intervals["J"] == pytest.approx((75, 75))
    whole = evaluate_model(ColorModel(), processor, dataset, "a2d", bootstrap_samples=200, progress=False)
    assert list(whole.intervals) == [name for name in whole.metrics if name != "mAP"]
    assert whole.intervals["oIoU"][0] < whole.metrics["oIoU"] < whole.intervals["oIoU"][1]


def test_the_result_can_be_written_and_the_model_is_as_before(dataset, processor, tmp_path):
    model = ColorModel().train()
    model.frozen.eval()
    result = evaluate(dataset, processor, model=model)
    assert model.training and not model.frozen.training
    result.to_json(tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["metrics"] == result.metrics
    assert written["records"] == result.records


def test_shuffled_sentences_go_to_other_videos(dataset, processor):
    shuffled = with_shuffled_sentences(dataset, seed=3)
    assert shuffled.features == dataset.features
    assert shuffled.column_names == dataset.column_names
    moved = 0
    for before, after in zip(dataset, shuffled, strict=True):
        assert after["video_id"] == before["video_id"]
        assert np.array_equal(np.asarray(after["frames"][1]), np.asarray(before["frames"][1]))
        for old, new in zip(before["referents"], after["referents"], strict=True):
            assert (new["ref_id"], new["masks"]) == (old["ref_id"], old["masks"])
            assert all(sentence["sent_id"][0] != before["video_id"][-1] for sentence in new["sentences"])
            moved += len(new["sentences"])
    assert moved == 12
    assert with_shuffled_sentences(dataset, seed=3)["referents"] == shuffled["referents"]
    some = with_shuffled_sentences(dataset.select([2, 0]))
    assert some["video_id"] == ["video2", "video0"]
    assert evaluate(shuffled, processor).metrics["J"] < evaluate(dataset, processor).metrics["J"]
    with pytest.raises(ValueError, match="One video holds 3 of the 3 referents"):
        with_shuffled_sentences(dataset.select([0]))


def test_cases_are_drawn_as_strips(dataset, processor):
    records = evaluate(dataset, processor).records
    cases = select_worst_and_best(records, 2, by="J&F")
    strips = predict_cases(ColorModel(), processor, dataset, cases)
    assert [strip.text for strip in strips] == [record["text"] for record in cases]
    assert [strip.note for strip in strips] == ["J&F 0.0 %"] * 2 + ["J&F 100.0 %"] * 2
    best = strips[-1]
    assert len(best.frames) == 4
    for frame, number in zip(best.frames, ANNOTATED, strict=True):
        assert np.array_equal(frame.truth, frame.prediction)
        row = dataset[int(cases[-1]["video_id"][-1])]
        assert np.array_equal(np.asarray(frame.image), np.asarray(row["frames"][number]))
        color = COLORS.index(cases[-1]["ref_id"].split("-")[1])
        assert np.array_equal(frame.truth, decode_mask(row["referents"][color]["masks"][ANNOTATED.index(number)]))
    picture = draw_strips(strips, cell_width=60)
    # A text and four frames beside each other; truth above prediction in each of four strips.
    assert picture.width >= 5 * 60
    assert picture.height >= 4 * 2 * 60
    with pytest.raises(ValueError, match="Video 'video0', reference '0-red', sentence 'nope' is not in"):
        predict_cases(ColorModel(), processor, dataset, [{**records[0], "sent_id": "nope"}])
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_strips([])


def test_what_cannot_be_evaluated_is_named(dataset, processor):
    with pytest.raises(ValueError, match="Unknown protocol 'lavt' for videos"):
        evaluate(dataset, processor, "lavt")
    with pytest.raises(ValueError, match="no row"):
        evaluate(dataset.select([]), processor)
    for options in ({"batch_size": 0}, {"max_examples": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            evaluate(dataset, processor, **options)
    row = make_row(0, ["red"])
    row["referents"][0]["masks"][1] = encode_mask(np.ones((5, 5), dtype=bool))
    for protocol in ("davis", "a2d"):
        with pytest.raises(ValueError, match=r"'video0', reference '0-red', sentence '000', frame 2: .*\(5, 5\)"):
            evaluate(as_dataset(row), processor, protocol)
    with pytest.raises(DataFormatError, match="'video0', reference '0-red', sentence '000': no frame is annotated"):
        evaluate(as_dataset(make_row(0, ["red"], annotated=[])), processor)
    with pytest.raises(ValueError, match="no video has a sentence"):
        evaluate(as_dataset(make_row(0, [])), processor)


@pytest.mark.parametrize("takes_clips", [False, True])
def test_a_model_that_answers_with_nan_is_not_scored(dataset, processor, takes_clips):
    model = ColorModel(takes_clips)
    model.scale.data.fill_(torch.nan)
    for protocol in ("davis", "a2d"):
        with pytest.raises(ValueError, match=r"^Video 'video0': 100 % of the model's logits are NaN or infinite"):
            evaluate(dataset, processor, protocol, model)


@pytest.fixture
def folders(tmp_path, monkeypatch, dataset) -> None:
    """In a folder of its own: the model `tiny`, and as `videos` the data set as `prepare` writes one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tiny_lavt().save_pretrained("tiny")
    tiny_processor().save_pretrained("tiny")
    Path("videos/data").mkdir(parents=True)
    Path("videos/README.md").write_text("# Videos")
    dataset.to_parquet("videos/data/val-00000-of-00001.parquet")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", "tiny", *map(str, arguments)])


def test_the_command_writes_scores_and_strips(folders, dataset):
    result = run("videos", "--per-frame", "--batch-size", 2, "--output", "results")
    assert result.exit_code == 0, result.output
    written = json.loads(Path("results/videos_val_davis.json").read_text())
    expected = evaluate(dataset, tiny_processor(), model=tiny_lavt())
    assert written["metrics"] == pytest.approx(expected.metrics, abs=1e-6)
    assert (written["videos"], written["sentences"], written["per_frame"]) == (3, 12, True)
    assert read_result(Path("results/videos_val_davis.json")).records == written["records"]
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert lines[2:9] == [[name, f"{written['metrics'][name]:.2f}"] for name in DAVIS]
    assert "12 sentences, 3 videos" in result.stdout
    # Five worst and five best sequences, each as tall as two frames.
    assert Image.open("results/videos_val_davis.png").height > 10 * 2 * 200


def test_the_command_scores_by_other_protocols_and_on_shuffled_sentences(folders):
    options = ["--protocol", "a2d", "--shuffle-sentences", "--window", 4, "--overlap", 1, "--max-images", 1]
    result = run("videos", *options, "--output", "results")
    assert result.exit_code == 0, result.output
    written = json.loads(Path("results/videos_val_a2d_shuffled.json").read_text())
    assert (written["videos"], written["window"], written["overlap"]) == (1, 4, 1)
    assert list(written["metrics"])[0::7] == ["oIoU", "mAP"]
    assert read_result(Path("results/videos_val_a2d_shuffled.json")).metrics == written["metrics"]
    assert all(record["sent_id"][0] != "0" for record in written["records"])


def test_the_command_names_what_is_wrong(folders):
    def error(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        return result.stderr.splitlines()[-1]

    assert "Unknown protocol 'nope': choose one of cris" in error("videos", "--protocol", "nope")
    assert (
        "videos holds videos, which the protocol 'lavt' does not score: choose one of davis, davis_unsupervised, a2d"
        in error("videos", "--protocol", "lavt")
    )
    assert not Path("runs").exists()
