"""A folder for results that cannot be written is told before any work is done."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from small_disk import may_mount
from train_tiny import build_trainer
from typer.testing import CliRunner

from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.files import OutputError, require_writable
from hf_refseg.training.recipes import run_recipe
from hf_refseg_cli import app


@pytest.fixture(params=["file", "read-only disk"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be made: in the place of one in its path there is a file, or its disk is read-only."""
    if request.param == "file":
        (tmp_path / "letter.txt").write_text("dear")
        yield tmp_path / "letter.txt" / "results"
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    if not may_mount(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]):
        pytest.skip("no disk may be mounted here")
    try:
        yield folder / "results"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# None of these models, checkpoints and data sets is there: what is wrong with the output comes first.
COMMANDS = (
    "predict none photo.png -t dog -o OUT",
    "predict none photo.png -t dog -o masks --json OUT/all.json",
    "explain none photo.png dog -o OUT",
    "evaluate none refcoco -o OUT",
    "prepare refcoco --data-dir none -o OUT",
    "convert lavt none.pth OUT",
    "convert magnet none.pth OUT",
    "convert video_lavt none.pth OUT",
    "merge none OUT",
)


@pytest.mark.slow_process
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_look_at_their_output_first(command: str, unwritable: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40)).save("photo.png")
    result = CliRunner().invoke(app, [part.replace("OUT", str(unwritable)) for part in command.split()])
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and "Choose another folder" in line
    assert f"cannot be written ({unwritable.parent}: " in line
    assert not Path("masks").exists()


@pytest.mark.slow_process
@pytest.mark.parametrize("dataset", ["none", "ref_youtube_vos"])
def test_recipes_look_at_their_output_first(dataset: str, unwritable: Path) -> None:
    arguments = ["--output_dir", str(unwritable), "--dataset_name", dataset, "--use_cpu", "true"]
    with pytest.raises(OutputError, match="Choose another folder"):
        run_recipe(arguments)


@pytest.mark.slow_process
def test_the_library_looks_at_its_output_first(unwritable: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Choose another folder"):
        prepare_dataset("refcoco", "none", unwritable)
    with pytest.raises(OutputError, match="Choose another folder"):
        build_trainer(unwritable, tmp_path)


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "runs" / "first")
    require_writable(tmp_path)
    assert not list(tmp_path.iterdir())
