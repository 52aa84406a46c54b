"""Which state of a saved model a name means."""

from __future__ import annotations

import hashlib
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from ..training.adapters import is_adapter

ADAPTER_CONFIG = "adapter_config.json"
# What models, processors and tokenizers are saved as.
SAVED_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model", ".py")


def find_revision(name: str) -> str:
    """The commit of a model on the Hub; of a folder the beginning of a hash of all files that a model is saved as.

    Raises:
        ValueError: the folder holds no such file.
        OSError: the Hub has no such model, or it cannot be reached.
    """
    folder = Path(name)
    if not folder.is_dir():
        return Path(cached_file(name, ADAPTER_CONFIG if is_adapter(name) else CONFIG_NAME)).parent.name
    paths = sorted(path for path in folder.iterdir() if path.suffix in SAVED_SUFFIXES)
    if not paths:
        raise ValueError(f"{name} holds no model: expected config.json and weights there.")
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:12]
