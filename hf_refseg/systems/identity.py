"""Who a system is, for whoever keeps its answers: its name, and which state of its files gave them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from ..files import hash_file, public_name
from ..training.adapters import find_base_model, is_adapter
from .kinds import is_pair, split_pair

ADAPTER_CONFIG = "adapter_config.json"
# What models, exported ones too, processors and tokenizers are saved as.
SAVED_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model", ".onnx", ".data", ".py")


def identify_system(name: str) -> dict[str, str]:
    """The "system" by its name, without any place of this machine, and its "revision".

    That is the commit of a model on the Hub, and the beginning of a hash of all files that one in a folder is saved
    as; of two models both, as of an adapter and its base model.

    Raises:
        ValueError: the folder holds no such file.
        OSError: the Hub has no such model, or it cannot be reached.
    """
    parts = split_pair(name) if is_pair(name) else (name,)
    return {"system": "+".join(map(public_name, parts)), "revision": "+".join(map(_find_revision, parts))}


def _find_revision(name: str) -> str:
    if is_adapter(name):
        return f"{_find_state(find_base_model(name), CONFIG_NAME)}+{_find_state(name, ADAPTER_CONFIG)}"
    return _find_state(name, CONFIG_NAME)


def _find_state(name: str, file_name: str) -> str:
    """The commit or the hash of a model; of one on the Hub there is a file of this name."""
    folder = Path(name)
    if not folder.is_dir():
        return Path(cached_file(name, file_name)).parent.name
    paths = sorted(path for path in folder.iterdir() if path.suffix in SAVED_SUFFIXES)
    if not paths:
        raise ValueError(f"{name} holds no model: expected config.json and weights there.")
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()[:12]
