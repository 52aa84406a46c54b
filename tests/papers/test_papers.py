"""Every row of every table of the papers trains, differs from the others of its table, and fits its real recipe."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from paper_rows import PaperRow, parse, possible_rows, train_one_step
from train_tiny import build_processor

from hf_refseg.modeling.checks_refseg import names_of
from hf_refseg.papers import RecipeRun
from hf_refseg.papers.reader import is_generated
from hf_refseg.papers.running import TableRun
from hf_refseg.training.new_models import model_class_of, with_token_ids
from hf_refseg.training.recipe_files import find_recipe, read_recipe

ROWS = possible_rows()
TABLES = list(dict.fromkeys((row.paper, row.number) for row in ROWS))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_trains_on_generated_data(row: PaperRow) -> None:
    trained = train_one_step(row.generated())
    assert "loss" in trained.losses and trained.is_finite()
    assert trained.moved()


@pytest.mark.parametrize("recipe", ["lavt_refshapes", "m3att_refshapes", "risam_refshapes"])
def test_a_recipe_with_muon_trains_with_it(recipe: str) -> None:
    rate = read_recipe(find_recipe(recipe))["muon_learning_rate"]
    trained = train_one_step(RecipeRun(recipe, {}, {"muon_learning_rate": rate}))
    without = train_one_step(RecipeRun(recipe, {}, {}))
    assert trained.is_finite() and trained.losses == pytest.approx(without.losses)
    assert trained.moved() == without.moved() and trained.trained != without.trained


@pytest.mark.parametrize(("paper", "number"), TABLES, ids=lambda part: str(part))
def test_rows_of_a_table_differ_in_what_they_are_compute_or_train(paper: str, number: str) -> None:
    """Rows for several data sets come to the same on the one that is generated."""
    rows = [row for row in ROWS if (row.paper, row.number) == (paper, number)]
    pairs = [
        (one, other) for index, one in enumerate(rows) for other in rows[:index] if data_of(one) == data_of(other)
    ]
    trained = {row.row.name: train_one_step(row.generated()) for row in rows}
    names = [(one.row.name, other.row.name) for one, other in pairs]
    assert [(one, other) for one, other in names if trained[one].same_as(trained[other])] == []


def test_a_row_that_says_what_its_recipe_says_is_no_further_training() -> None:
    whole, *_ = TableRun.of("lavt", "5", "refshapes", [], Path("runs")).runs(["LP and PWAM"])
    ungated, *_ = TableRun.of("lavt", "6c", "refshapes", [], Path("runs")).runs(["F_4, F_3, F_2, F_1 (NG)"])
    assert ungated.run.config and ungated.folder == whole.folder


def data_of(row: PaperRow) -> set[tuple[str, ...]]:
    """The published data sets that its recipes train on, and who split them; and where it is scored elsewhere.

    Of images beside videos, who split the images.
    """
    options = {name: row.row.run_on(name).merged() for name in row.row.recipes if not is_generated(name)}
    elsewhere = {(row.row.dataset, "scored")} if row.row.elsewhere else set()
    return elsewhere | {
        (name, str(each.get("split_by")), str((each.get("image_data") or {}).get("split_by")))
        for name, each in options.items()
    }


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_fits_its_real_recipes(row: PaperRow, tmp_path: Path) -> None:
    for dataset in (name for name in row.row.recipes if not is_generated(name)):
        run = row.row.run_on(dataset)
        parse(run, str(tmp_path))
        options = run.merged()
        if options.get("model_type") is not None:
            build_configuration(options["model_type"], options.get("config") or {})


@cache
def tokenizer() -> Any:
    return build_processor().tokenizer


def build_configuration(model_type: str, given: dict[str, Any]) -> None:
    """The configuration of a model on the encoders of its paper; loading those needs the network."""
    config_class = model_class_of(model_type).config_class
    # Others are for `from_encoders`, which hands them on to the encoders.
    fields = {name: value for name, value in given.items() if name in names_of(config_class)}
    config_class(**with_token_ids(config_class, fields, tokenizer()))
