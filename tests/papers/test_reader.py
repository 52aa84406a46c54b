"""The files of papers are read strictly: what is in them exists."""

from copy import deepcopy
from typing import Any

import pytest

from hf_refseg.papers import paper_names, read_paper
from hf_refseg.papers.reader import metrics_of, parse_paper
from hf_refseg.papers.results import change_cells

RECIPES = {"refcoco": "lavt_refcoco", "refshapes": "lavt_refshapes"}
PAPER = {
    "title": "A paper",
    "url": "https://example.org",
    "tables": {
        "5": {
            "title": "What the pathway gives.",
            "dataset": "refcoco",
            "protocol": "lavt",
            "recipes": RECIPES,
            "rows": [
                {"name": "all", "published": {"val": {"oIoU": 73.5}}},
                {
                    "name": "without",
                    "config": {"language_pathway": False},
                    "options": {"mask_overlap": "union"},
                    "generated": {"config": {"language_pathway": False, "gate_activation": "tanh"}},
                },
                {"name": "all, again", "same_as": "all", "published": {"testA": {"oIoU": 75}}},
                {"name": "others", "impossible": "It is another system."},
            ],
        }
    },
    "left_out": {"figure 1": "a drawing"},
}


def changed(**row: Any) -> dict[str, Any]:
    """The paper with a first row that says other things."""
    paper = deepcopy(PAPER)
    paper["tables"]["5"]["rows"][0] |= row
    return paper


def test_a_row_starts_from_its_recipe_and_says_what_goes_before_it() -> None:
    table = parse_paper(PAPER, "paper.yaml").table("5")
    assert [row.name for row in table.possible_rows()] == ["all", "without"]
    assert table.datasets() == ["refcoco", "refshapes"]
    without = table.row("without")
    assert (without.dataset, without.protocol, without.recipes) == ("refcoco", "lavt", RECIPES)
    assert without.run_on("refcoco").arguments() == [
        *("lavt_refcoco", "--config", '{"language_pathway": false}', "--mask_overlap", "union")
    ]
    assert without.run_on("refshapes").arguments() == [
        *("lavt_refshapes", "--config", '{"language_pathway": false, "gate_activation": "tanh"}')
    ]
    assert table.row("all").run_on("refshapes").arguments() == ["lavt_refshapes"]


def test_a_row_may_go_on_from_the_model_of_another_recipe() -> None:
    row = parse_paper(changed(starts_from={"refshapes": "lavt_refshapes"}), "paper.yaml").table("5").rows[0]
    assert row.run_before("refshapes").arguments() == ["lavt_refshapes"] and row.run_before("refcoco") is None


def test_a_table_in_parts_is_asked_for_by_one_of_them() -> None:
    table = PAPER["tables"]["5"]
    paper = parse_paper(
        {**PAPER, "tables": {"6a": table, "6b": table, "6": table, "7a": table, "7b": table}}, "paper.yaml"
    )
    with pytest.raises(ValueError, match=r"Table 7 is in parts: choose one of 7a, 7b\."):
        paper.table("7")
    assert paper.table("6") is paper.tables["6"] and paper.table("7b") is paper.tables["7b"]


def test_what_a_row_changes_names_the_recipe_that_is_trained_before() -> None:
    before = {"refcoco": "lavt_refcoco+", "refshapes": "lavt_refshapes"}
    table = parse_paper(changed(starts_from=before), "paper.yaml").table("5")
    assert change_cells(table)[1] == ["after lavt_refcoco+", "after lavt_refshapes"]


def test_options_of_every_kind_are_written_as_on_the_command_line() -> None:
    options = {
        **{"dataset_options": {"train_size": 10}, "learning_rate_drops": [1, 2.5], "vision_name_or_path": None},
        **{"bf16": True, "learning_rate": 5e-05, "lr_scheduler_kwargs": {"power": 1}, "optim": "sgd"},
    }
    run = parse_paper(changed(options=options), "paper.yaml").table("5").rows[0].run_on("refshapes")
    assert run.arguments() == [
        *("lavt_refshapes", "--dataset_options", '{"train_size": 10}', "--learning_rate_drops", "1", "2.5"),
        *("--vision_name_or_path", "null", "--bf16", "true", "--learning_rate", "5e-05"),
        *("--lr_scheduler_kwargs", '{"power": 1}', "--optim", "sgd"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"publishd": {}}, r"row 1: key 'publishd' does not exist; did you mean published\?"),
        ({"published": {"vall": {"oIoU": 1}}}, r"row 1 \(all\): split of refcoco 'vall' .* did you mean val\?"),
        ({"published": {"val": {"mIou": 1}}}, r"metric of protocol lavt 'mIou' .* did you mean mIoU"),
        ({"published": {"val": {"oIoU": "73"}}}, r"row 1 \(all\): .*published"),
        ({"dataset": "refcocoo"}, "data set 'refcocoo' does not exist; did you mean refcoco"),
        ({"protocol": "lvat"}, "protocol 'lvat' does not exist; did you mean lavt"),
        ({"recipes": {"refcoco": "lavt_refcocoo"}}, "on refcoco: There is no recipe lavt_refcocoo; did you mean"),
        ({"recipes": {"refcoco": "lavt_refshapes"}}, "on refcoco: the recipe lavt_refshapes is for refshapes"),
        ({"config": {"language_path": True}}, "on refcoco: config: LavtConfig has no field language_path; did you"),
        ({"generated": {"config": {"gate": 1}}}, "on refshapes: config: LavtConfig has no field gate"),
        ({"generated": {"fields": {}}}, "generated: key 'fields' does not exist"),
        ({"options": {"learning_rates": 1}}, "option 'learning_rates' does not exist; did you mean learning_rate"),
        ({"options": {"seed": 1}}, "option 'seed' does not exist"),
        ({"starts_from": {"refcoco+": "lavt_refcoco"}}, r"starts_from: recipe for 'refcoco\+' does not exist"),
        ({"starts_from": {"refcoco": "lavt_refcooc"}}, "on refcoco, starts_from: There is no recipe lavt_refcooc"),
        ({"elsewhere": True}, "elsewhere: a recipe is for refcoco, on which the row would be scored anyway"),
        ({"same_as": "others", "elsewhere": True}, "elsewhere has no effect on a row that is same_as"),
        ({"same_as": "nobody"}, r"\(all\): same_as 'nobody' does not exist: choose one of without"),
        ({"same_as": "others"}, r"\(all\): same_as 'others' does not exist"),
        (
            {"impossible": "why", "config": {"language_pathway": True}},
            "config has no effect on a row that is impossible",
        ),
        ({"name": "without"}, "two rows are called 'without'"),
        ({"name": None}, r"row 1 \(None\): .*name"),
    ],
)
def test_what_does_not_exist_is_an_error_that_says_where(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^paper.yaml, table 5.*{message}"):
        parse_paper(changed(**row), "paper.yaml")


def test_a_row_that_can_be_run_needs_a_recipe_and_a_number_is_written_in_quotes() -> None:
    paper = deepcopy(PAPER)
    del paper["tables"]["5"]["recipes"]
    with pytest.raises(ValueError, match="a row that can be run needs recipes"):
        parse_paper(paper, "paper.yaml")
    with pytest.raises(ValueError, match="tables: 5 is no text: put it into quotes"):
        parse_paper({**PAPER, "tables": {5: PAPER["tables"]["5"]}}, "paper.yaml")
    with pytest.raises(ValueError, match="Table '6' does not exist: choose one of 5"):
        parse_paper(PAPER, "paper.yaml").table("6")
    with pytest.raises(ValueError, match="Paper 'lavd' does not exist; did you mean lavt"):
        read_paper("lavd")


@pytest.mark.parametrize("name", paper_names())
def test_every_paper_is_read_with_whole_sentences(name: str) -> None:
    """Behind a space YAML takes a "#" for the beginning of a comment."""
    tables = read_paper(name).tables.values()
    assert tables
    rows = [row for table in tables for row in table.rows]
    said = [
        *(table.title for table in tables),
        *(each.note for each in [*tables, *rows]),
        *(row.impossible for row in rows),
    ]
    assert [text for text in said if text is not None and not text.endswith(".")] == []


def test_metrics_go_by_the_names_of_their_protocol() -> None:
    assert metrics_of("lavt") == ("oIoU", "mIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9")
    assert metrics_of("rela") == ("cIoU", "gIoU", "Pr@0.7", "Pr@0.8", "Pr@0.9", "N-acc", "T-acc")
    assert metrics_of("davis")[:3] == ("J&F", "J", "F") and metrics_of("a2d")[-1] == "mAP"
