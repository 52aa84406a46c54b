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
# What rows are about, as classes that their model has, or with a minus has not.
BUILT = {
    "lavt 5, without LP": "-UngatedPathway PixelWordAttention",
    "lavt 5, without PWAM": "UngatedPathway PooledSentence -PixelWordAttention",
    "lavt 5, without LP and PWAM": "-UngatedPathway PooledSentence -PixelWordAttention",
    "lavt 6a, Tanh": "LanguageGate Tanh -Sigmoid",
    "lavt 6a, Sigmoid": "LanguageGate Sigmoid -Tanh",
    "lavt 6b, InstanceNorm": "InstanceNorm1d",
    "lavt 6b, BatchNorm": "BatchNorm1d",
    "lavt 6b, None": "-InstanceNorm1d -BatchNorm1d",
    "lavt 6c, F_4, F_3, F_2, F_1 (NG)": "UngatedPathway -LanguageGate -VisualStage",
    "lavt 6c, E_4, E_3, E_2, E_1 (G)": "LanguageGate -VisualStage",
    "lavt 6c, E_4, E_3, E_2, E_1 (NG)": "-LanguageGate -VisualStage",
    "lavt 6c, V_4, V_3, V_2 (G)": "LanguageGate VisualStage",
    "lavt 6c, V_4, V_3, V_2 (NG)": "-LanguageGate VisualStage",
    "lavt 6d, BCAM": "BidirectionalAttention -PixelWordAttention",
    "risam 2, #1 w/o FE, RefCOCO": "DeepestFeatures -FeatureEnhancement MutualAwareAttention MutualAwareMaskDecoder",
    "risam 2, #2 r. MA, RefCOCO": "ConvolutionalFusion -MutualAwareAttention MutualAwareMaskDecoder",
    "risam 2, #3 r. DE, RefCOCO": "MutualAwareAttention SamMaskDecoder -MutualAwareMaskDecoder",
    "risam 3, #5 TE (ReSTR), RefCOCO": "JointTransformerEncoder -MutualAwareAttention",
    "risam 3, #6 SDF (VLT), RefCOCO": "SpatialDynamicFusion -MutualAwareAttention",
    "risam 3, #7 BCM (BRINet), RefCOCO": "BidirectionalCrossModal -MutualAwareAttention",
    "risam 3, #8 w/o attn. mask, RefCOCO": "MutualAwareAttention",
    "risam 5, #9 w/ TOI-A, RefCOCO": "TwoWayDecoderBlock GuidedQueryToken -MutualAwareDecoderBlock",
    "risam 5, #10 w/o ELG, RefCOCO": "QueryToken -GuidedQueryToken MutualAwareDecoderBlock",
    "m3att I, 2 layers, shared": "MutualAttention -IndependentMutualAttention -GenericAttention",
    "m3att I, 2 layers, independent": "IndependentMutualAttention -MutualAttention",
    "m3att I, 2 layers, generic (LAV only)": "GenericAttention -MutualAttention",
    "m3att II, #0 Baseline (generic LAV)": "GenericAttention NoInteraction -LanguageReconstruction",
    "m3att II, #1 Baseline (M3Att)": "MutualAttention NoInteraction -LanguageReconstruction",
    "m3att II, #2 Baseline + IMI": "MutualAttention IterativeInteraction -LanguageReconstruction",
    "m3att II, #3 Baseline + IMI*": "MutualAttention PlainInteraction -LanguageReconstruction",
    "m3att II, #4 Ours": "MutualAttention IterativeInteraction LanguageReconstruction",
    "m3att III, VLT": "DecoderOutputMaps -KernelMaps",
    "m3att III, Concate": "ConcatenatedMaps -KernelMaps",
    "btmae 2, (a) LAVT, RefCOCO": "LavtForReferringSegmentation -BTMAE",
    "btmae 2, (b) l->v, RefCOCO": "SimpleDecoder -ImpactTokenDecoder NoRefinement -VocabularyHead",
    "btmae 2, (c) v->l, RefCOCO": "SimpleDecoder -ImpactTokenDecoder VocabularyHead",
    "btmae 2, (d) l->v and v->l, RefCOCO": "SimpleDecoder -ImpactTokenDecoder BTMAE VocabularyHead",
    "btmae 2, (e) ITA, RefCOCO": "ImpactTokenDecoder LanguageAwareEncoding -BTMAE",
    "magnet 3e, None, RefCOCO": "-CrossModalAttention",
    "magnet 3e, {1}, RefCOCO": "CrossModalAttention PyramidLevel",
}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_trains_on_generated_data(row: PaperRow) -> None:
    trained = train_one_step(row.generated())
    assert "loss" in trained.losses and trained.is_finite()
    assert trained.moved()


@pytest.mark.parametrize("name", BUILT)
def test_a_row_has_what_it_says(name: str) -> None:
    (row,) = (row for row in ROWS if str(row) == name)
    trained = train_one_step(row.generated())
    classes = {described.partition("(")[0] for described in trained.modules.values()}
    wanted = {each.lstrip("-"): not each.startswith("-") for each in BUILT[name].split()}
    assert {each: each in classes for each in wanted} == wanted


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
