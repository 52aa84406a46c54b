"""`hf-refseg info` says which extras are installed, and of the others what is missing and for what."""

import importlib.metadata

import pytest
from typer.testing import CliRunner

from hf_refseg.commands.info import NEEDED_FOR, missing_packages
from hf_refseg_cli import app


def test_every_extra_is_known() -> None:
    assert missing_packages().keys() == NEEDED_FOR.keys()


def test_missing_and_old_packages_are_named_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "h5py":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "av" else "99" if name == "scipy" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (line,) = (
        line for line in CliRunner().invoke(app, ["info"]).stdout.splitlines() if line.startswith("extra video")
    )
    assert "video files" in line and "av>=" in line and "h5py>=" in line and "scipy" not in line
    assert "pip install 'hf_refseg[video]'" in line
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name in ("av", "h5py") else real(name))
    assert "extra video      installed" in CliRunner().invoke(app, ["info"]).stdout
