"""`hf-refseg demo` and the Space: what they serve, and what they refuse."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from color_systems import ColorSystem, two_squares
from command_line import error_of, run
from places import CHECKOUT, EXAMPLES
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_systems import save, tiny_clipseg

from hf_refseg.demo.segmenting import read_picture
from hf_refseg.modeling.inference_refseg import SOME_FRAMES


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_refseg.demo.page", raising=False)
    assert error_of("demo", "nowhere") == "The demo page needs gradio: pip install 'hf_refseg[demo]'."


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """A list that grows by each page that would be shown, with its options."""
    page = pytest.importorskip("hf_refseg.demo.page", reason="gradio is not installed", exc_type=ImportError)
    found: list[SimpleNamespace] = []

    def build(systems: Any, examples: Any = ()) -> Any:
        found.append(SimpleNamespace(systems=systems, examples=examples))
        return found[-1]

    monkeypatch.setattr(page, "build_page", build)
    monkeypatch.setattr(page, "launch", lambda built, **options: built.__dict__.update(options=options))
    return found


def test_the_command_shows_systems_of_all_kinds_side_by_side(launched: list[SimpleNamespace], tmp_path: Path) -> None:
    names = [save(tmp_path / "lavt", tiny_lavt(), tiny_processor()), save(tmp_path / "clipseg", *tiny_clipseg())]
    result = run("demo", *names, "--port", "8123", "--host", "0.0.0.0", "--device", "cpu")
    assert result.exit_code == 0, result.output
    (shown,) = launched
    assert [system.name for system in shown.systems] == names and shown.systems[0].window == SOME_FRAMES
    assert len(shown.examples) == 3
    assert shown.options == {"server_name": "0.0.0.0", "server_port": 8123, "share": False}


def test_the_code_of_the_documentation_shows_a_page(
    launched: list[SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs" / "demo", tiny_lavt(), tiny_processor())
    (code,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "demo_page.md").read_text(), re.DOTALL)
    exec(code, {})
    assert [system.name for system in launched[0].systems] == ["runs/demo"]
    assert launched[0].options == {"server_port": 7860}


def test_what_is_wrong_is_told_before_a_model_is_loaded(launched: list[SimpleNamespace], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no pictures or videos" in error_of("demo", "nowhere", "--examples", empty)
    assert "nowhere" in error_of("demo", "nowhere")
    named = {"bert": {"model_type": "bert"}, "theirs": {"model_type": "theirs", "auto_map": {"AutoConfig": "a.B"}}}
    for name, config in named.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "x", **config}))
    assert "known methods" in error_of("demo", tmp_path / "bert")
    assert "leave out trust_remote_code" in error_of(
        "demo", save(tmp_path / "clipseg", *tiny_clipseg()), "--trust-remote-code"
    )
    # One that needs trust makes none necessary for others beside it.
    told = error_of("demo", tmp_path / "clipseg", tmp_path / "theirs", "--trust-remote-code")
    assert "trust_remote_code" not in told and "theirs" in told
    assert launched == []


def test_beside_an_error_nothing_of_an_earlier_answer_is_left(tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason="gradio is not installed")
    from hf_refseg.demo.page import PICTURES, Panel, Request

    two_squares().save(tmp_path / "photo.png")
    subject = read_picture(tmp_path / "photo.png")
    with gradio.Blocks():
        panel = Panel(ColorSystem(), "colors", PICTURES)
    *_, (found, drawn, *_) = panel.run(Request(subject, ("red",), ["colors"]), 0.5)
    assert found.texts == ("red",) and drawn.size == subject.size
    # The system knows no such color.
    shown = panel.run(Request(subject, ("mauve",), ["colors"]), 0.5)
    assert next(shown)[:2] == (None, None)
    with pytest.raises(gradio.Error):
        next(shown)


@pytest.mark.slow_process
def test_the_space_serves_the_model_of_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("MODELS", save(tmp_path / "clipseg", *tiny_clipseg()))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    from hf_refseg.demo.page import launch

    page = runpy.run_path(str(EXAMPLES / "space" / "app.py"))["page"]
    _, url, _ = launch(page, prevent_thread_lock=True, quiet=True)
    try:
        config = json.loads(urlopen(f"{url}config").read())
        html = urlopen(url).read().decode()
    finally:
        page.close()
    assert page.delete_cache == (600, 3600)
    labels = [component["props"].get("label") for component in config["components"]]
    assert {"Picture", "Video", "Expressions", "clipseg"} <= set(labels) and "Referring segmentation" in html
    # Nothing but what the user is asked to open comes from elsewhere, and no usage is reported.
    assert not config["analytics_enabled"] and "fonts.googleapis" not in html


def test_the_space_says_what_the_hub_has_to_know() -> None:
    import yaml

    space = EXAMPLES / "space"
    _, header, text = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["sdk"] == "gradio" and (space / told["app_file"]).is_file() and "MODELS" in text
    assert (space / "requirements.txt").read_text().split() == ["hf_refseg[demo]"]
