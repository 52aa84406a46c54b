"""`hf-refseg table` shows the tables of papers, and runs their rows."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from places import FIXTURES
from tiny_recipes import UNSCORED, write_recipe, write_video_recipe
from typer.testing import CliRunner
from video_trees import make_youtube_vos

from hf_refseg.modeling.modeling_outputs_refseg import NotFiniteError
from hf_refseg.papers import paper_names, reader, results, running
from hf_refseg.papers.running import TableRun, run_table
from hf_refseg.training import recipe_files
from hf_refseg_cli import app

PAPER = {
    "title": "A tiny paper",
    "url": "https://example.org",
    "left_out": {"table 6": "a list of what table 1 compares", "figure 8": "a drawing"},
    "tables": {
        "1": {
            "title": "What the pathway gives.",
            "dataset": "refcoco",
            "protocol": "lavt",
            "recipes": {"refcoco": "lavt_refcoco", "refshapes": "tiny"},
            "note": "Numbers of others are left out.",
            "rows": [
                {"name": "whole", "published": {"val": {"oIoU": 73.5}, "testA": {"oIoU": 75.25}}},
                {"name": "without", "config": {"language_pathway": False}, "published": {"val": {"oIoU": 72}}},
                {"name": "again", "same_as": "whole", "published": {"val": {"oIoU": 73.5}}},
                {"name": "others", "impossible": "It is another system."},
            ],
        },
        "figure 2": {
            "title": "The same, once more.",
            "recipes": {"refshapes": "tiny"},
            "rows": [{"name": "whole"}, {"name": "wide", "options": {"mask_overlap": "union"}, "generated": {}}],
        },
        "3": {
            "title": "Elsewhere, and longer.",
            "dataset": "grefcoco",
            "protocol": "rela",
            "rows": [
                {
                    "name": "RefCOCO",
                    "elsewhere": True,
                    "recipes": {"refcoco": "tiny_refcoco", "refshapes": "tiny"},
                    "published": {"val": {"cIoU": 22.82}},
                },
                {"name": "finetuned", "recipes": {"refshapes": "tiny"}, "starts_from": {"refshapes": "tiny"}},
            ],
        },
        "5": {
            "title": "After a training on other data.",
            "dataset": "refcoco",
            "protocol": "lavt",
            "recipes": {"refcoco": "tiny_refcoco"},
            "rows": [{"name": "finetuned", "starts_from": {"refcoco": "tiny"}, "published": {"testB": {"oIoU": 70}}}],
        },
        "4": {
            "title": "One training, three data sets.",
            "dataset": "refcoco",
            "protocol": "lavt",
            "recipes": {"refcoco": "lavt_union", "refcocog": "lavt_union"},
            "rows": [
                {"name": "RefCOCO", "published": {"val": {"oIoU": 79.18}}},
                {
                    "name": "RefCOCO+",
                    "dataset": "refcoco+",
                    "same_as": "RefCOCO",
                    "published": {"testA": {"oIoU": 75}},
                },
                {"name": "G-Ref", "dataset": "refcocog", "published": {"val": {"oIoU": 72}}},
            ],
        },
    },
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    tiny = {**UNSCORED, "model_type": "lavt", "max_steps": 1}
    write_recipe(folder, folder / "cache", **tiny, dataset_name="refshapes").rename(folder / "tiny.yaml")
    options = {"dataset_name": "refcoco", "dataset_options": {"cache_dir": str(folder / "cache")}}
    write_recipe(folder, folder / "cache", **tiny, **options).rename(folder / "tiny_refcoco.yaml")
    for path in (recipe_files.RECIPES / f"{name}.yaml" for name in ("lavt_refcoco", "lavt_union")):
        (folder / path.name).write_text(path.read_text())
    (folder / "papers").mkdir()
    (folder / "papers" / "paper.yaml").write_text(yaml.safe_dump(PAPER, sort_keys=False))
    return folder


@pytest.fixture(autouse=True)
def tiny_paper(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library as if the tiny paper were its only one."""
    monkeypatch.setattr(reader, "FOLDER", places / "papers")
    monkeypatch.setattr(recipe_files, "RECIPES", places)


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    result = CliRunner().invoke(app, ["table", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows that were trained; it takes no time, and each comes to the number of its seed."""
    names: list[str] = []

    def train(run: running.RowRun, seed: int) -> dict[str, Any]:
        names.append(f"{run.row.name} {seed}")
        scores = {"original": {"val": {"oIoU": 50.0 + seed, "mIoU": 1.0}}}
        about = {"data_options": {}, "machine": "a machine", "torch": "2", "date": "today"}
        shuffled = {"oIoU": 10.0}
        return {"failed": None, "scores": scores, "shuffled": shuffled, "steps": 5, "seconds": 1.5, **about}

    monkeypatch.setattr(running, "train", train)
    return names


def test_tables_are_listed_and_shown_without_running_anything() -> None:
    status, listed, _ = invoke("--list")
    assert status == 0
    assert [line.split()[:5] for line in listed.splitlines()[1:3]] == [
        ["paper", "1", "3", "of", "4"],
        ["paper", "figure", "2", "2", "of"],
    ]
    assert invoke("paper")[1] == listed
    status, shown, _ = invoke("paper", "1")
    lines = shown.splitlines()
    assert status == 0 and lines[:2] == [
        "Table 1 of paper: What the pathway gives.",
        "Published: refcoco, protocol lavt",
    ]
    assert lines[2].split("  ")[0] == "row" and "val oIoU  testA oIoU" in lines[2]
    assert lines[4].split() == ["without", "72.0", "-", "language_pathway:", "false"]
    assert "others: not run: It is another system." in lines and "again: the same as whole." in lines
    assert lines[-1] == "Run it: hf-refseg table paper 1 --dataset refcoco | refshapes"
    _, shown, _ = invoke("paper", "figure 2")
    assert shown.splitlines()[-1].endswith("paper 'figure 2' --dataset refshapes")
    assert shown.startswith("Figure 2 of paper: ")
    assert invoke("paper", "figure", "2")[1] == shown


def test_rows_are_trained_scored_and_printed_beside_the_published_numbers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(running, "machine_name", lambda: "a machine")
    status, printed, error = invoke("paper", 1, "--dataset", "refshapes", "--rows", "whole", "--output", tmp_path)
    assert status == 0, error
    assert "Run 1 of 1: whole, seed 0" in printed
    content = json.loads((tmp_path / "paper_1_refshapes.json").read_text())
    assert (content["paper"], content["table"], content["dataset"]) == ("paper", "1", "refshapes")
    rows = {row["name"]: row["runs"] for row in content["rows"]}
    assert list(map(len, rows.values())) == [1, 0, 1, 0] and rows["whole"] == rows["again"]
    (run,) = rows["whole"]
    assert (
        (run["seed"], run["steps"], run["failed"]) == (0, 1, None) and run["seconds"] > 0 and run["parameters"] > 1000
    )
    assert str(tmp_path) not in json.dumps(content) and "cache_dir" not in json.dumps(content)
    metrics = run["scores"]["original"]["val"]
    table = printed.partition("Published: refcoco, protocol lavt")[2]
    assert "Ours: refshapes (image_size 64, test_size 2" in table and "protocol original; a machine, torch" in table
    assert "  ours, val oIoU  ours, shuffled oIoU  steps  seeds" in table
    line = next(line for line in table.splitlines() if line.startswith("whole"))
    assert line.split() == [
        "whole",
        "73.5",
        "75.25",
        f"{metrics['oIoU']:.2f}",
        f"{run['shuffled']['oIoU']:.2f}",
        "1",
        "1",
    ]
    # Nothing is trained again, by whatever table, and what was not asked for yet is scored.
    monkeypatch.setattr(running, "run_recipe", None)
    assert invoke("paper", 1, "--dataset", "refshapes", "--rows", "again", "--output", tmp_path)[1].endswith(table)
    split = ("--test_splits", "test")
    status, printed, error = invoke(
        "paper", "figure 2", "--dataset", "refshapes", "--rows", "whole", "--output", tmp_path, *split
    )
    assert status == 0, error
    assert "ours, val oIoU" in printed and "ours, test oIoU" in printed


def test_what_is_finished_is_not_run_again_and_seeds_add_up(tmp_path: Path, trained: list[str], monkeypatch) -> None:
    options = ("--dataset", "refshapes", "--output", tmp_path)
    invoke("paper", 1, *options)
    assert trained == ["whole 0", "without 0"]
    status, printed, error = invoke("paper", 1, *options, "--seeds", 0, 1, 2, "--rows", "whole")
    assert status == 0, error
    assert trained == ["whole 0", "without 0", "whole 1", "whole 2"]
    lines = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    assert lines["whole"] == ["whole", "73.5", "75.25", "51.00", "±", "1.00", "10.00", "5", "3"]
    assert lines["without"] == ["without", "72.0", "-", "50.00", "10.00", "5", "1"]
    assert lines["others"] == ["others", *"-----", "0"]
    # What comes with the library is shown.
    monkeypatch.setattr(results, "MEASURED", tmp_path)
    shown = invoke("paper", 1)[1].splitlines()
    assert "Measured: refshapes, protocol original; a machine, torch 2, today" in shown
    assert shown[-5].split() == ["others", *"---", "0"]
    # Rows of other tables that come to the same run are those.
    invoke("paper", "figure 2", *options)
    assert trained[4:] == []
    # Another number of steps is another run, another place for the data is not.
    invoke("paper", 1, *options, "--rows", "whole", "--max_steps", 7, "--data-dir", "elsewhere")
    invoke("paper", 1, *options, "--rows", "whole", "--max_steps", 7, "--data_dir", "somewhere")
    assert trained[4:] == ["whole 0"]


def test_two_processes_share_the_rows(tmp_path: Path, trained: list[str]) -> None:
    table = TableRun.of("paper", "1", "refshapes", [], tmp_path)
    whole, without = table.runs()
    whole.folder.mkdir(parents=True)
    said: list[str] = []
    waits = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("Another process"):
            waits.set()

    with FileLock(whole.folder / ".seed-0.lock", thread_local=False):
        worker = threading.Thread(target=run_table, args=(table, None, [0], say))
        worker.start()
        assert waits.wait(30)
        assert trained == ["without 0"]
        whole.seed_folder(0).mkdir(exist_ok=True)
        running.write_json(
            whole.seed_folder(0) / "row.json", {"failed": None, "scores": {"original": {"val": {"oIoU": 1}}}}
        )
    worker.join(30)
    assert trained == ["without 0"]
    assert [line.partition(":")[0] for line in said] == [
        "Run 2 of 2",
        "Another process has it in hand, and is waited for",
    ]
    written = json.loads(table.file.read_text())["rows"]
    assert [len(row["runs"]) for row in written] == [1, 1, 1, 0] and without.results()


def test_a_run_that_is_not_finite_is_a_result_and_the_others_follow(tmp_path: Path, monkeypatch) -> None:
    def run_recipe(arguments: list[str]) -> None:
        raise NotFiniteError("Step 3: the loss is NaN.")

    monkeypatch.setattr(running, "run_recipe", run_recipe)
    status, printed, _ = invoke("paper", 1, "--dataset", "refshapes", "--output", tmp_path)
    assert status == 0
    assert ["without", "72.0", "-", "-", "-", "1,", "1", "not", "finite"] in [
        line.split() for line in printed.splitlines()
    ]
    runs = json.loads((tmp_path / "paper_1_refshapes.json").read_text())["rows"][0]["runs"]
    assert runs[0]["failed"] == "Step 3: the loss is NaN."


def test_rows_of_real_data_are_scored_as_published() -> None:
    table = TableRun.of(
        "paper", "1", "refcoco", ["--data_dir", "data", "--config", '{"fusion_norm": "layer"}'], Path("runs")
    )
    whole, without, again = table.runs()
    assert whole.arguments(3) == [
        *(
            "lavt_refcoco",
            "--config",
            '{"fusion_norm": "layer"}',
            "--test_splits",
            "val",
            "testA",
            "--protocol",
            "lavt",
        ),
        *("--data_dir", "data", "--seed", "3", "--output_dir", str(whole.folder / "seed-3")),
    ]
    assert without.scored(0) == ("lavt", ["val"])
    assert again.folder == whole.folder and again.scored(0) == ("lavt", ["val"])


def test_a_model_is_scored_on_data_that_it_was_not_trained_on(tmp_path: Path, places: Path) -> None:
    options = ("--data_dir", FIXTURES / "refer_api", "--output", tmp_path)
    status, printed, error = invoke("paper", 3, "--dataset", "refcoco", *options)
    assert status == 0, error
    content = json.loads((tmp_path / "paper_3_refcoco.json").read_text())
    (run,) = content["rows"][0]["runs"]
    assert list(run["scores"]) == ["rela"] and list(run["scores"]["rela"]) == ["val"] and run["parameters"] > 1000
    assert "Published: grefcoco, protocol rela" in printed and "ours, val cIoU" in printed
    assert (
        "RefCOCO: scored on grefcoco, which its recipe does not train on; on generated scenes on such ones." in printed
    )
    table = reader.read_paper("paper").table("3")
    assert (
        results.explanations(table, table.rows, "refcoco")[1]
        == "finetuned: no recipe for refcoco, only for refshapes."
    )
    # On scenes that are generated it is scored on such scenes.
    run, _ = TableRun.of("paper", "3", "refshapes", [], Path("runs")).runs()
    assert run.scored(0) == ("original", ["val"])


def test_a_row_that_goes_on_from_another_model_trains_that_before(tmp_path: Path, trained: list[str]) -> None:
    options = ("--dataset", "refshapes", "--output", tmp_path, "--seeds", 0, 1)
    assert invoke("paper", 3, *options, "--rows", "finetuned")[0] == 0
    assert trained == ["finetuned 0", "finetuned 0", "finetuned 1", "finetuned 1"]
    first, finetuned = TableRun.of("paper", "3", "refshapes", [], tmp_path).runs()
    assert finetuned.before.folder == first.folder != finetuned.folder
    assert finetuned.arguments(1)[-6:-4] == ["--model_name_or_path", str(first.folder / "seed-1")]
    # The row that is trained the same is finished by that.
    assert invoke("paper", 3, *options)[0] == 0 and len(trained) == 4


def test_what_is_trained_before_on_other_data_is_scored_as_its_recipe_says() -> None:
    (run,) = TableRun.of("paper", "5", "refcoco", [], Path("runs")).runs()
    assert run.scored(0) == ("lavt", ["testB"])
    assert run.before.arguments(0)[:2] == ["tiny", "--seed"]


def test_a_row_whose_split_a_server_scores_is_finished_once_its_file_is_written(tmp_path: Path, monkeypatch) -> None:
    data = {"dataset_name": "ref_youtube_vos", "dataset_options": {"cache_dir": str(tmp_path / "cache")}}
    write_video_recipe(tmp_path, tmp_path, **data, max_steps=1).rename(tmp_path / "tiny_videos.yaml")
    row = {"name": "video", "published": {"valid": {"J&F": 60.45}}}
    about = {"dataset": "ref_youtube_vos", "protocol": "davis", "recipes": {"ref_youtube_vos": "tiny_videos"}}
    tables = {"7": {"title": "Scored by a server.", **about, "rows": [row]}}
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump({**PAPER, "tables": tables}))
    monkeypatch.setattr(reader, "FOLDER", tmp_path)
    monkeypatch.setattr(recipe_files, "RECIPES", tmp_path)
    options = ("--dataset", "ref_youtube_vos", "--data_dir", make_youtube_vos(tmp_path / "data"))
    printed = []
    for _ in range(2):
        status, shown, error = invoke("paper", 7, *options, "--output", tmp_path / "out")
        assert status == 0, error
        printed.append(shown)
    assert "submission.zip" in printed[0] and "Run 1 of 1" not in printed[1]
    assert ["video", "60.45", "-", "1", "1"] in [line.split() for line in printed[1].splitlines()]


def test_one_training_on_several_data_sets_is_a_row_of_each() -> None:
    runs = {name: TableRun.of("paper", "4", name, [], Path("runs")).runs() for name in ("refcoco", "refcocog")}
    ((one,), (other,)) = runs.values()
    assert one.folder == other.folder and one.scored(0) == ("lavt", ["val"])
    assert other.arguments(0)[1:5] == ["--test_splits", "refcocog/val", "--protocol", "lavt"]
    table = TableRun.of("paper", "4", "refcoco", [], Path("runs"))
    (plus,) = replace(table, dataset="refcoco+").runs()
    assert plus.folder == one.folder and "refcoco+/testA" in plus.arguments(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("papre", 1), "Paper 'papre' does not exist; did you mean paper?"),
        (("paper", 9), "Table '9' does not exist: choose one of 1, figure 2, 3, 5, 4."),
        (("paper", "6"), "Of table 6 no row can be run: a list of what table 1 compares."),
        (("paper", "figure", 9), "Table 'figure 9' does not exist; did you mean figure 2?"),
        (("paper", "figure 8"), "Of figure 8 no row can be run: a drawing."),
        (("paper", "--dataset", "refshapes"), "Name a table of paper first"),
        (("paper", 1, "--max_steps", 2), "--max_steps is for rows that are run: name refcoco or refshapes."),
        (("paper", 1, "--rows", "without"), "--rows is for rows that are run: name refcoco or refshapes."),
        (("paper", "figure", "--dataset", "refshapes"), "Table 'figure' does not exist; did you mean figure 2?"),
        (("paper", 1, "--dataset", "refcoco+"), "has no recipe for 'refcoco+'. It has those for refcoco, refshapes."),
        (
            ("paper", 1, "--dataset", "refshapes", "--rows", "withuot"),
            "Row 'withuot' does not exist; did you mean without?",
        ),
        (("paper", 1, "--dataset", "refshapes", "--seed", 1), "--seed: each row has its own. Give --seeds"),
        (
            ("paper", 1, "--dataset", "refshapes", "--output_dir=x"),
            "--output_dir: each row has its own. Give --output ",
        ),
        (("paper", 1, "--dataset", "refshapes", "--max_step", 1), "There is no option --max_step 1; did you mean"),
        (("paper", 1, "--dataset", "refshapes", "--max_steps", "many"), "many"),
        (
            ("paper", 1, "--dataset", "refshapes", "--config", '{"language_pathway": true}'),
            "The row 'without' has its own language_pathway in config: leave this option out.",
        ),
        (("paper", 1, "extra", "--dataset", "refshapes"), "Table '1 extra' does not exist"),
        (("paper", 1, "--dataset", "refshapes", "extra"), "extra is no option"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(
    arguments: tuple, message: str, tmp_path: Path, trained: list[str]
) -> None:
    status, _, error = invoke(*arguments, "--output", tmp_path)
    assert status != 0 and message in error and trained == []


def test_a_paper_has_to_be_named() -> None:
    status, _, error = invoke()
    assert status == 2 and "Name a paper first" in error
    assert paper_names() == ["paper"]
