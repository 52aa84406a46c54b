"""`hf-refseg compare` and `hf-refseg leaderboard`: what is set side by side, what never is, and damaged results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pytest
from color_videos import as_dataset, make_row
from command_line import error_of, output_of, run
from PIL import Image
from result_files import make_records, make_result, write_result

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask, encode_mask
from hf_refseg.evaluation import compare_records
from hf_refseg.evaluation.saved_results import ResultError, find_results, read_result


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tables_of(page: str) -> dict[tuple[str, str], list[list[str]]]:
    """Of a leaderboard by both headings of a table what its text, header and rows say."""
    tables: dict[tuple[str, str], list[list[str]]] = {}
    data = heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            data = line.removeprefix("## ")
        elif line.startswith("### "):
            heading = line.removeprefix("### ")
            assert (data, heading) not in tables
        elif line and heading:
            tables.setdefault((data, heading), []).append([cell.strip() for cell in line.strip("|").split("|")])
    return tables


@pytest.mark.parametrize("protocol", ["original", "rela", "davis", "a2d"])
def test_compare_tells_scores_differences_and_cases(protocol):
    paths = [write_result(Path(f"{name}.json"), seed, protocol) for seed, name in enumerate("abc")]
    printed = output_of("compare", *paths, "-o", "out")
    assert printed.splitlines()[-1] == "out/comparison.json"
    (report,) = json.loads(Path("out/comparison.json").read_text())["comparisons"]
    kind, measure = {"davis": ("video", "J&F"), "a2d": ("video", "iou")}.get(protocol, ("image", "iou"))
    assert (report["dataset"], report["split"], report["options"]) == ("refcoco", "val", {"split_by": "unc"})
    assert (report["protocol"], report["sentences"], report[f"{kind}s"]) == (protocol, 12, 6)

    names = [f"runs/model-{seed}" for seed in range(3)]
    records = {name: make_records(seed, protocol) for seed, name in enumerate(names)}
    expected = compare_records(records, protocol)
    assert list(report["systems"]) == names
    for name, path in zip(names, paths, strict=True):
        system = report["systems"][name]
        assert system["metrics"] == pytest.approx(expected.metrics[name]) and system["file"] == str(path)
    for found, wanted in zip(report["differences"], expected.differences, strict=True):
        assert (found["first"], found["second"], found["score"]) == (wanted.first, wanted.second, wanted.score)
        assert found["difference"] == pytest.approx(wanted.difference)
        assert found["corrected_p_value"] == pytest.approx(wanted.corrected_p_value)
    lines = [line.split() for line in printed.splitlines()]
    assert ["runs/model-2", "less", "runs/model-1"] in lines
    last = expected.differences[-1]
    low, high = last.interval
    row = [f"{last.difference:+.2f}", f"{low:+.2f}", "to", f"{high:+.2f}"]
    assert [last.score, *row, f"{last.p_value:.4f}", f"{last.corrected_p_value:.4f}"] in lines
    score = "F" if protocol == "davis" else "Pr@0.9"
    assert [score, f"{expected.metrics[names[0]][score]:.2f}"] in [line[:2] for line in lines]

    spreads = []
    for case in report["cases"]:
        place = 2 * int(case[f"{kind}_id"]) + int(case["sent_id"])
        assert case["text"] == f"thing {case['sent_id']} in {case['ref_id']}" and case["measure"] == measure
        assert case["systems"] == {name: records[name][place][measure] for name in names}
        spreads.append(max(case["systems"].values()) - min(case["systems"].values()))
    assert len(spreads) == 10 and spreads == sorted(spreads, reverse=True)
    of_all = [[record[measure] for record in answers] for answers in zip(*records.values(), strict=True)]
    # Of twelve sentences two are not shown.
    assert spreads[-1] >= sorted(max(of_sentence) - min(of_sentence) for of_sentence in of_all)[1]
    assert f"'{report['cases'][0]['text']}' ({kind} '{report['cases'][0][f'{kind}_id']}')" in printed


def test_of_a_single_pair_nothing_is_corrected():
    write_result(Path("a.json"))
    write_result(Path("b.json"), 0, model="other")
    printed = output_of("compare", "a.json", "b.json")
    assert "p, corrected" not in printed and "other less runs/model-0" in printed
    # The systems answer alike.
    assert "differ most" not in printed and " 1.0000" in printed
    assert Path("runs/compare/a_b/comparison.json").is_file()


def test_compare_refuses_other_sentences_unless_told():
    write_result(Path("a.json"), 0)
    write_result(Path("b.json"), 1, records=make_records(1, groups=4), max_images=4)
    error = error_of("compare", "a.json", "b.json")
    assert error.startswith(
        "The sentences are not the same (8 are): runs/model-0 has 4 sentences that others lack, runs/model-1 has 0 "
    )
    assert "--common compares those in all of them" in error and not Path("runs").exists()
    printed = output_of("compare", "a.json", "b.json", "--common")
    assert printed.splitlines()[:2] == [
        "refcoco val (split_by unc), protocol original: 8 sentences about 4 images",
        "runs/model-0 has 4 more, which are left out",
    ]
    shuffled = [{**record, "text": "another"} for record in make_records(1)]
    write_result(Path("c.json"), 1, records=shuffled)
    assert "12 of them have the same ids in all, but another text" in error_of("compare", "a.json", "c.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "testA"},
        {"dataset": "refcoco+"},
        {"split_by": "google"},
        {"mask_overlap": "background"},
        {"shuffled_sentences": True},
        {"protocol": "lavt"},
    ],
)
def test_compare_refuses_what_was_scored_otherwise(changes):
    write_result(Path("a.json"), 0)
    write_result(Path("b.json"), 1, **changes)
    error = error_of("compare", "a.json", "b.json", "--common")
    assert error.startswith("Nothing was scored in all of them")
    assert "a.json has refcoco val (split_by unc), protocol original, b.json has ref" in error
    told = {"shuffled_sentences": "sentences shuffled"}.get(*changes, str(*changes.values()))
    assert told in error


def test_what_says_the_same_of_the_data_in_another_way_is_compared():
    """A default that is named, where the files lie, and how many scenes other splits have."""
    write_result(Path("a.json"), 0, mask_overlap="union", data_dir="/here", train_size=3)
    write_result(Path("b.json"), 1, data_dir="/there", dataset=str(Path("refcoco").absolute()), train_size=4)
    assert "refcoco val (split_by unc), protocol original: 12 sentences" in output_of("compare", "a.json", "b.json")
    write_result(Path("c.json"), 1, val_size=7)
    assert "val (split_by unc, val_size 7)" in error_of("compare", "a.json", "c.json")


def test_compare_takes_what_folders_have_in_common():
    for seed, folder in enumerate(("one", "two")):
        write_result(Path(folder, "refcoco_val_original.json"), seed)
        write_result(Path(folder, "refcoco_testA_original.json"), seed, split="testA")
    write_result(Path("one", "refcoco_testB_original.json"), split="testB")
    result = run("compare", "one", "two")
    assert result.exit_code == 0
    assert result.stderr == (
        "Left out, as not all have a result of it: refcoco testB (split_by unc), protocol original\n"
    )
    reports = json.loads(Path("runs/compare/one_two/comparison.json").read_text())["comparisons"]
    assert [report["split"] for report in reports] == ["testA", "val"]
    write_result(Path("two", "again.json"), 1)
    error = error_of("compare", "one", "two")
    assert error.startswith("two/again.json and two/refcoco_val_original.json are both about refcoco val")
    assert error_of("compare", "one") == "Name two results at least, of which each is of another system."


def test_leaderboard_never_mixes_what_cannot_be_compared():
    write_result(Path("runs/a/val.json"), 0, model="a")
    write_result(Path("runs/b/val.json"), 1, model="b", training_regime="unknown")
    write_result(Path("runs/c/val.json"), 2, model="c", training_regime="single")
    write_result(Path("runs/d/val.json"), 3, model="d", training_regime="mixed")
    write_result(Path("runs/e/val.json"), 4, model="e", training_regime="extra")
    write_result(Path("runs/a/shuffled.json"), 5, model="a", shuffled_sentences=True)
    write_result(Path("runs/a/lavt.json"), 6, "lavt", model="a")
    write_result(Path("runs/a/testA.json"), 7, model="a", split="testA")
    write_result(Path("runs/a/plus.json"), 8, model="a", dataset="refcoco+")
    write_result(Path("runs/a/google.json"), 9, model="a", split_by="google")
    write_result(Path("runs/a/davis.json"), 10, "davis", model="a", dataset="ref_davis17", split_by=None)
    write_result(Path("runs/b/davis.json"), 11, "davis", model="b", dataset="ref_davis17", split_by=None)
    write_result(Path("runs/f/first.json"), 12, model="f", records=make_records(12, groups=3), max_images=3)
    write_result(Path("runs/g/other.json"), 13, model="g", records=make_records(13, groups=5))
    Path("runs/a/config.json").write_text("{}")
    Path("runs/a/list.json").write_text("[1]")
    printed = output_of("leaderboard", "runs", "-o", "pages/board.md")
    assert printed == "pages/board.md  14 results in 12 tables; 2 other JSON files in the folders\n"
    tables = tables_of(Path("pages/board.md").read_text())
    systems = {heading: {row[0] for row in lines[3:]} for heading, lines in tables.items()}
    unknown, val = "Protocol original, what it was trained on is unknown", "refcoco val (split_by unc)"
    assert systems == {
        (val, unknown): {"a", "b"},
        (val, f"{unknown}, other sentences (2)"): {"g"},
        (val, f"{unknown}, the first 3 images alone"): {"f"},
        (val, "Protocol original, trained on this data set alone"): {"c"},
        (val, "Protocol original, trained on this data set and others of referring expressions"): {"d"},
        (val, "Protocol original, trained on other data as well, or instead"): {"e"},
        (f"{val}, sentences shuffled", unknown): {"a"},
        (val, unknown.replace("original", "lavt")): {"a"},
        ("refcoco testA (split_by unc)", unknown): {"a"},
        ("refcoco+ val (split_by unc)", unknown): {"a"},
        ("refcoco val (split_by google)", unknown): {"a"},
        ("ref_davis17 val", unknown.replace("original", "davis")): {"a", "b"},
    }
    about, header, _, *rows = tables[val, unknown]
    assert about == ["12 sentences about 6 images."] and header[:3] == ["system", "oIoU", "mIoU"]
    results = {"a": make_result(0), "b": make_result(1)}
    best = sorted(results, key=lambda name: -results[name]["metrics"]["oIoU"])
    for name, row in zip(best, rows, strict=True):
        low, high = results[name]["intervals"]["oIoU"]
        assert row[:2] == [name, f"{results[name]['metrics']['oIoU']:.2f} ({low:.2f} to {high:.2f})"]


def test_leaderboard_shows_names_as_text_and_tells_equal_ones_apart():
    write_result(Path("a.json"), 0, model="a|b <script> [x](y)")
    write_result(Path("b.json"), 1, model="a|b <script> [x](y)", dtype="bfloat16")
    write_result(Path("c.json"), 2, model="c*", intervals={}, dataset="<b>_x_", split="*", missing=3)
    output_of("leaderboard", "a.json", "b.json", "c.json")
    page = Path("leaderboard.md").read_text()
    unknown = "Protocol original, what it was trained on is unknown"
    assert {row[0] for row in tables_of(page)["refcoco val (split_by unc)", unknown][3:]} == {"a.json", "b.json"}
    assert "## &lt;b&gt;\\_x\\_ \\* (split_by unc)" in page and "<" not in page
    assert "| c\\* (3 sentences without a prediction, scored as empty masks) |" in page
    write_result(Path("d.json"), 0, model="a|b <script> [x](y)")
    assert error_of("leaderboard", "a.json", "d.json") == (
        "a.json and d.json hold the same result: leave one of them out."
    )
    assert "is a folder: pass the name of a file" in error_of("leaderboard", "a.json", "-o", ".")


def test_a_result_writes_nothing_into_the_terminal_that_cannot_be_seen():
    told = {"dataset": "\x1b[2Jdata", "split": "\x1b]0;split\x07", "split_by": "\x1b[31m"}
    for seed, name in enumerate("ab"):
        write_result(Path(f"{name}.json"), seed, model=f"\x1b[31m{name}", **told)
    printed = output_of("compare", "a.json", "b.json")
    assert printed.startswith("\\x1b[2Jdata \\x1b]0;split\\x07 (split_by '\\x1b[31m'), protocol original: ")
    assert printed.replace("\n", "").isprintable()


def records_with(**changes: object) -> dict:
    return {"records": [{**record, **changes} for record in make_records(0)]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": []}, r"has the records \[\]: expected a list of one record at least"),
        ({"records": ["x"]}, "record 0 has no image_id: expected a text"),
        ({"split": 3}, "has the split 3: expected a text"),
        ({"metrics": {"oIoU": math.nan}}, "expected finite numbers by the names of scores"),
        ({"intervals": {"oIoU": [1, math.inf]}}, "expected two finite numbers by the name of each score"),
        ({"max_images": True}, "has the max_images True: expected null or a whole number"),
        ({"missing": -1}, "has the missing -1: expected a whole number"),
        ({"training_regime": "best"}, "has the training_regime 'best': expected one of single, mixed, extra, unknown"),
        ({"training_regime": []}, r"has the training_regime \[\]: expected one of single"),
        ({"metrics": {"oIoU": 10**400}}, "expected finite numbers by the names of scores"),
        (records_with(iou=math.nan), "record 0 has the iou nan: expected a finite number"),
        (records_with(iou=10**400), "record 0 has the iou .*: expected a finite number"),
        # Where it is of another kind it would name the sentence, or be part of what it is.
        (records_with(video_id=[]), "record 0 has an unknown field video_id: known are image_id"),
        (records_with(annotator={}), "record 0 has an unknown field annotator: known are image_id"),
        (records_with(union=math.nan), "record 0 has the union nan: expected a whole number"),
        (records_with(union=10**400), "record 0 has the union .*: expected a whole number"),
        (records_with(present=1), "record 0 has the present 1: expected true or false"),
        (records_with(text=["a"]), r"record 0 has the text \['a'\]: expected a text"),
        (records_with(intersection=101), "Sample 0: an intersection of 101 in a union of 100"),
        (records_with(sent_id="0"), "two records of Image '0', reference '0', sentence '0'. Evaluate again"),
        ({"records": make_records(0)[:-1]}, "has the oIoU .*, but that of its records is"),
        ({"protocol": "nope"}, "Unknown protocol 'nope'"),
        ({"protocol": "davis"}, "record 0 has no video_id"),
    ],
)
def test_a_damaged_result_is_named(changes, message):
    path = Path("result.json")
    path.write_text(json.dumps({**make_result(), **changes}))
    with pytest.raises(ResultError, match=f"^result.json.*{message}"):
        read_result(path)


def test_a_result_of_videos_has_its_own_records():
    for protocol, changes, message in (
        ("a2d", {"unions": [100]}, "has not as many intersections and unions as frames"),
        ("a2d", {"unions": []}, r"has the unions \[\]: expected whole numbers"),
        ("davis", {"J": None}, "has the J None: expected a finite number"),
    ):
        records = make_records(0, protocol)
        path = write_result(Path("result.json"), 0, protocol)
        assert read_result(path).records == records
        path.write_text(json.dumps({**make_result(0, protocol), "records": [{**records[0], **changes}]}))
        with pytest.raises(ResultError, match=f"result.json, record 0 {message}"):
            read_result(path)


def test_what_is_no_result_is_an_error_where_it_was_named():
    path = write_result(Path("folder/result.json"))
    Path("folder/other.json").write_text('{"metrics": {}}')
    results, others = find_results([Path("folder"), path])
    assert ([result.path for result in results], others) == ([path], 1)
    assert error_of("compare", path, "folder/other.json").startswith("folder/other.json is no result of hf-refseg")
    write_predictions("masks.jsonl", [])
    for command in (["compare", path], ["leaderboard"]):
        assert "masks.jsonl is no result of hf-refseg evaluate" in error_of(*command, "masks.jsonl")
    Path("other").mkdir()
    assert "other holds no result of hf-refseg evaluate: name" in error_of("leaderboard", "other")
    Path("other", "settings.json").write_text("{}")
    assert "other holds no result of hf-refseg evaluate, only 1 other JSON file" in error_of("leaderboard", "other")
    # A file that was cut off may have been a result.
    Path("folder/cut.json").write_text(path.read_text()[:-100])
    for arguments in (["leaderboard", "folder"], ["compare", "folder", "folder/cut.json"]):
        assert error_of(*arguments).startswith("folder/cut.json is damaged (")
    assert error_of("leaderboard", "absent.json").startswith("There is no absent.json: name a JSON file")
    assert not Path("leaderboard.md").exists() and not Path("runs").exists()


SCENES = {"train_size": 1, "val_size": 3, "test_size": 1, "image_size": 64}
OF_SCENES = [word for name, value in SCENES.items() for word in (f"--{name.replace('_', '-')}", value)]


def write_predictions(path: str, lines: Iterable[dict], **header: object) -> None:
    lines = [{"format": "hf_refseg-predictions", "version": 1, **header}, *lines]
    Path(path).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_compare_scores_and_draws_predictions(monkeypatch, tmp_path):
    """One system is right, another one answers with nothing."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = load_refseg("refshapes", **SCENES)["val"]
    answers = [
        {"sent_id": sentence["sent_id"], "ref_id": row["ref_id"], "image_id": row["image_id"], "mask": row["mask"]}
        for row in rows
        for sentence in row["sentences"]
    ]
    empty = encode_mask(np.zeros((64, 64), dtype=bool))
    write_predictions("right.jsonl", answers, system="perfect")
    write_predictions("empty.jsonl", [{**answer, "mask": empty} for answer in answers])
    about = ["--data", "refshapes", *OF_SCENES]
    printed = output_of("compare", "empty.jsonl", "right.jsonl", *about, "--breakdown", "-o", "out")
    assert printed.splitlines()[-2:] == ["out/comparison.json", "out/comparison.png"]
    assert printed.startswith("refshapes val (val_size 3, image_size 64), protocol original: ")
    assert "perfect less empty" in printed and "perfect less empty, in groups of sentences" in printed
    (report,) = json.loads(Path("out/comparison.json").read_text())["comparisons"]
    assert {each["difference"] for each in report["differences"]} == {100}
    # The data set tells groups that texts do not.
    assert {"words", "area", "category"} <= {group["kind"] for group in report["groups"]}
    picture = Image.open("out/comparison.png")
    # Image, sentence, truth and two systems; the masks of one are those of the truth.
    width = (picture.width - 6) // 5
    first = np.asarray(picture)[45:245]
    columns = [first[:, 6 + number * width : number * width + 200] for number in range(5)]
    assert np.array_equal(columns[2], columns[4]) and not np.array_equal(columns[2], columns[3])
    assert np.array_equal(columns[0], columns[3])
    assert picture.height > len(report["cases"]) * 200

    write_predictions("half.jsonl", answers[::2])
    # What is missing is listed on lines of their own.
    failed = run("compare", "half.jsonl", "right.jsonl", *about)
    assert failed.exit_code == 1 and "of 18 sentences have no prediction" in failed.stderr
    printed = output_of("compare", "half.jsonl", "right.jsonl", *about, "--missing", "empty")
    assert printed.splitlines()[1] == "half has no prediction for 9 sentences, scored as empty masks"
    write_predictions("other.jsonl", answers, dataset="refcoco")
    assert "other.jsonl is about the data set refcoco" in error_of("compare", "other.jsonl", "right.jsonl", *about)
    assert "--split goes with --data" in error_of("compare", "a.json", "b.json", "--split", "val")
    assert "--image-size goes with --data" in error_of("compare", "a.json", "b.json", "--image-size", "64")
    assert "--common is for results" in error_of("compare", "empty.jsonl", "right.jsonl", *about, "--common")
    assert "'refshapes' takes no --mask-overlap" in error_of(
        "compare", "empty.jsonl", "right.jsonl", *about, "--mask-overlap", "union"
    )
    assert "Unknown protocol 'nope'" in error_of("compare", "empty.jsonl", "right.jsonl", *about, "--protocol", "nope")


def test_compare_draws_predictions_about_videos(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = as_dataset(make_row(0, ["red"]), make_row(1, ["green"]))
    Path("videos/data").mkdir(parents=True)
    Path("videos/README.md").write_text("# Videos")
    rows.to_parquet("videos/data/val-00000-of-00001.parquet")
    lines = [
        {
            "video_id": row["video_id"],
            "ref_id": referent["ref_id"],
            "sent_id": sentence["sent_id"],
            "frames": [
                {"frame": number, "mask": mask}
                for number, mask in zip(referent["annotated_frames"], referent["masks"], strict=True)
            ],
        }
        for row in rows
        for referent in row["referents"]
        for sentence in referent["sentences"]
    ]
    nothing = [
        {**line, "frames": [{**frame, "mask": encode_mask(~decode_mask(frame["mask"]))} for frame in line["frames"]]}
        for line in lines
    ]
    write_predictions("right.jsonl", lines)
    write_predictions("wrong.jsonl", nothing)
    printed = output_of("compare", "right.jsonl", "wrong.jsonl", "--data", "videos", "-o", "out")
    assert printed.splitlines()[-1] == "out/comparison.png" and "Where they differ most, by J&F" in printed
    (report,) = json.loads(Path("out/comparison.json").read_text())["comparisons"]
    assert report["videos"] == 2 and report["systems"]["right"]["metrics"]["J&F"] == 100
    # The truth above each of two systems.
    assert Image.open("out/comparison.png").height > len(report["cases"]) * 3 * 48


def test_compare_breaks_results_down_by_their_texts():
    for seed, name in enumerate("abc"):
        texts = ["the left dog", "a red cat", "the second man from the right"]
        records = [{**record, "text": texts[place % 3]} for place, record in enumerate(make_records(seed))]
        write_result(Path(f"{name}.json"), seed, records=records)
    printed = output_of("compare", "a.json", "b.json", "c.json", "--breakdown", "-o", "out")
    (report,) = json.loads(Path("out/comparison.json").read_text())["comparisons"]
    counts = {(group["kind"], group["group"]): group["sentences"] for group in report["groups"]}
    assert counts["words", "color"] == 4 and {kind for kind, _ in counts} == {"words", "length"}
    rows = [line.split() for line in printed.splitlines()]
    (color, *_) = [row for row in rows if row[:2] == ["words", "color"] or row[:1] == ["color"]]
    assert "4" in color
    assert printed.count(", in groups of sentences") == 3
