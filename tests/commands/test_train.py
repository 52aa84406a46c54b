"""`hf-refseg train` lists the recipes of the library, and runs one by its name or path, as the scripts do."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import run_ris
import run_rvs
import torch
from safetensors.torch import load_file
from tiny_recipes import UNSCORED, write_recipe, write_video_recipe
from typer.testing import CliRunner

from hf_refseg.training import recipe_files
from hf_refseg.training.recipe_files import RECIPES
from hf_refseg_cli import app


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and error."""
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_every_recipe_is_listed_with_its_method_data_and_purpose() -> None:
    status, printed, _ = invoke("--list")
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert status == 0 and lines.keys() - {"recipe"} == {path.stem for path in RECIPES.glob("*.yaml")}
    assert lines["lavt_refcoco"].split(maxsplit=3)[:3] == ["lavt", "refcoco", "LAVT"]
    assert "ref_youtube_vos, refcoco " in lines["unified_lavt_joint"]
    # The first sentence of the comment, which may go on over several lines.
    assert lines["unified_lavt_joint"].endswith("mixed in one run (LAVT's journal version, section 3.3).")
    assert lines["magnet_union"].endswith("as LAVT's (https://huggingface.co/papers/2312.12198).")


@pytest.mark.slow_process
@pytest.mark.parametrize(
    ("script", "write", "few"),
    [(run_ris, write_recipe, {"max_test_images": 1}), (run_rvs, write_video_recipe, {"max_test_videos": 1})],
    ids=["images", "videos"],
)
def test_a_recipe_is_run_by_its_name_as_a_script_runs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    script: ModuleType,
    write,
    few: dict,
) -> None:
    """The command knows by itself whether it trains on images or on videos."""
    recipe = write(tmp_path, tmp_path / "cache", **UNSCORED | {"test_splits": ["val"]}, save_strategy="no", **few)
    recipe = recipe.rename(tmp_path / "tiny.yaml")
    monkeypatch.setattr(recipe_files, "RECIPES", tmp_path)
    status, printed, error = invoke("tiny", "--max_steps", 1)
    assert status == 0, error
    script.main([str(recipe), "--max_steps", "1", "--output_dir", str(tmp_path / "again")])
    places = (tmp_path / "run", tmp_path / "again")
    reports = [json.loads((place / "metrics.json").read_text()) for place in places]
    assert reports[0].keys() == reports[1].keys() and reports[0]["training"]["steps"] == 1
    weights, again = (load_file(place / "model.safetensors") for place in places)
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    last_words = capsys.readouterr().out.replace(str(places[1]), str(places[0])).partition("Scores in percent")[2]
    assert f"Model, processor and card: {places[0]}" in last_words and printed.endswith(last_words)


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    status, _, error = invoke("lavt_refcocco", "--max_steps", "1")
    assert status == 1 and error.startswith("Error: There is no recipe lavt_refcocco; did you mean lavt_refcoco")
    status, _, error = invoke("lavt_refcoco", "--max_step", "1")
    assert status == 1 and error.startswith("Error: There is no option --max_step 1; did you mean --max_steps")
    for arguments in ((), ("--max_steps", "1")):
        status, _, error = invoke(*arguments)
        assert status == 2 and "Name a recipe first; --list shows those of the library." in error


def test_help_after_the_recipe_lists_its_options(capsys: pytest.CaptureFixture) -> None:
    status, printed, _ = invoke("video_lavt_refshapes_video", "--help")
    assert status == 0 and printed.startswith("usage: hf-refseg train RECIPE [--option value ...]")
    assert "--num_frames" in printed and "--leakage_list" not in printed
    assert "--leakage_list" in invoke("lavt_refshapes", "--help")[1]
    assert "--help" in invoke("--help")[1] and "--num_frames" not in invoke("--help")[1]
