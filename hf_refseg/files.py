"""Writing files so that a kill in the middle never damages one that is already there."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_plain_name(name: object) -> bool:
    """Whether a name is one plain part of a path; another one could lead out of the folder that it is meant for."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def may_be_on_hub(name: str | os.PathLike[str]) -> bool:
    """Whether a name is that of nothing on this machine, and could be the id user/name of something on the Hub."""
    return not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) is not None


def slug(text: str) -> str:
    """A text as a safe part of a file name: a to z, digits, "+" and "-", at most 40; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9+]+", "-", plain)[:40].strip("-")


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file of another name (`.partial`), which then takes the place of `path`."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    partial.replace(path)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON as `write_whole` does; what JSON has no type for is written as text."""
    text = json.dumps(content, indent=1, default=str)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
