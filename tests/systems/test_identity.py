"""Which state of a system gave answers: the commit on the Hub, or what the files of a folder hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_refseg.systems.identity import identify_system


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of models, and one without."""
    for name, weights in (("detector", b"one"), ("segmenter", b"two")):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
    (tmp_path / "models" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def test_a_folder_is_known_by_its_files_wherever_it_lies(models: Path) -> None:
    first = identify_system("models/detector")
    assert first["system"] == "detector" and len(first["revision"]) == 12
    (models / "detector" / "training.log").write_text("today")
    moved = models.rename(models.with_name("elsewhere")) / "detector"
    assert identify_system(str(moved)) == first
    (moved / "model.safetensors").write_bytes(b"other")
    assert identify_system(str(moved))["revision"] != first["revision"]
    with pytest.raises(ValueError, match="notes holds no model"):
        identify_system("elsewhere/notes")


def test_a_pair_is_known_by_both(models: Path) -> None:
    parts = [identify_system(f"models/{name}") for name in ("detector", "segmenter")]
    pair = identify_system(f"{models / 'detector'}+models/segmenter")
    assert pair == {key: "+".join(part[key] for part in parts) for key in ("system", "revision")}


def test_an_adapter_is_known_by_its_base_model_as_well(models: Path) -> None:
    adapter = models / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(models / "detector")}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"update")
    first = identify_system(str(adapter))
    assert first["system"] == "adapter"
    assert first["revision"].startswith(f"{identify_system('models/detector')['revision']}+")
    for changed in (adapter / "adapter_model.safetensors", models / "detector" / "model.safetensors"):
        changed.write_bytes(b"other")
        assert identify_system(str(adapter))["revision"] != first["revision"]
        first = identify_system(str(adapter))


def test_a_model_on_the_hub_is_known_by_its_commit(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = models / "hub" / "models--user--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(models / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(models / "hub"))
    assert identify_system("user/model") == {"system": "user/model", "revision": commit}
