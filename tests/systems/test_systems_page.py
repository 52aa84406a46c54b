"""The code of docs/systems.md runs, and the page knows every kind and option."""

import re
from pathlib import Path

import datasets
import pytest
from places import CHECKOUT
from tiny_systems import noise, save, tiny_clipseg

from hf_refseg.systems import KINDS
from hf_refseg.systems.kinds import OURS, PAIR

PAGE = (CHECKOUT / "docs" / "systems.md").read_text(encoding="utf-8")


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The code of the page, with a tiny model and few scenes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    page = PAGE.replace("CIDAS/clipseg-rd64-refined", "clipseg").replace("val_size=20", "val_size=5")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_a_named_system_answers_and_is_scored(blocks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    noise(50, 40).save("photo.jpg")
    save(Path("clipseg"), *tiny_clipseg())
    capsys.readouterr()
    exec(blocks[0], {})
    *answers, scores = capsys.readouterr().out.splitlines()
    assert len(answers) == 2 and all(re.fullmatch(r"0\.\d+ 0\.\d+ None", answer) for answer in answers)
    assert re.fullmatch(r"[\d.]+ \([\d.]+, [\d.]+\)", scores)


def test_a_system_of_ones_own_in_20_lines(blocks: list[str]) -> None:
    lines = [line for line in blocks[1].splitlines() if line]
    assert len(lines) <= 20
    names: dict = {}
    exec(blocks[1], names)
    # Whatever is asked for, something red is some of it.
    assert 0 < names["result"].metrics["oIoU"] < 100 and names["result"].images == 5


def test_the_page_knows_every_kind_and_option() -> None:
    for kind in (*KINDS, PAIR, OURS):
        for option in kind.options:
            assert f"`{option}`" in PAGE, option
    assert all(f"| {kind.title} |" in PAGE for kind in KINDS)
