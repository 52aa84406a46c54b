"""Mappings in JSON files of saved models and of folders that are filled step by step; errors name the file."""

import json
from pathlib import Path
from typing import Any

from .messages_refseg import reason_of

AGAIN = "Save or download it again."


class SavedFileError(ValueError):
    """A file of a saved model or processor is missing, damaged, or does not belong to the others; it is named."""


def read_mapping(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The mapping in a JSON file; SavedFileError, with a remedy, where it is damaged or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SavedFileError(f"{path} is damaged ({reason_of(error)}). {remedy}") from error
    if not isinstance(content, dict):
        raise SavedFileError(f"{path} is damaged: it should hold a mapping, not a {type(content).__name__}. {remedy}")
    return content
