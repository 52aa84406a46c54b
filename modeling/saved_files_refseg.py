"""What is wrong with the files of a saved model: most errors of the libraries that read them do not name the file."""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import (
    CONFIG_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from .json_files_refseg import AGAIN, SavedFileError, read_mapping
from .messages_refseg import reason_of

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
# In the order in which transformers looks for them.
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
# Options of `from_pretrained` that say where files lie.
PLACE = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
# What says that a file cannot be had, or that a package is missing; nothing is wrong with the files then.
OUT_OF_REACH = (OSError, ImportError, HTTPError)


def may_be_damage(error: Exception, name: str | PathLike[str]) -> bool:
    """Whether files may be at fault; of a folder also where an error speaks of files that cannot be had."""
    return Path(name).is_dir() or not isinstance(error, OUT_OF_REACH)


def find_file(name: str | PathLike[str], file_name: str, options: Mapping[str, Any]) -> Path | None:
    """A file in the folder or repository `name`, None where it is not there; `options` as of `from_pretrained`."""
    found = cached_file(
        name,
        file_name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{option: options[option] for option in PLACE if option in options},
    )
    return None if found is None else Path(found)


def check_mappings(name: str | PathLike[str], file_names: Iterable[str], options: Mapping[str, Any]) -> None:
    """Raises SavedFileError for the first of the JSON files that is there but holds no mapping."""
    for path in (find_file(name, file_name, options) for file_name in file_names):
        if path is not None:
            read_mapping(path)


def check_weights(name: str | PathLike[str], options: Mapping[str, Any]) -> None:
    """Raises SavedFileError where the weights that transformers would load cannot be read."""
    for path in find_weights(name, options):
        read_weights(path)


def find_weights(name: str | PathLike[str], options: Mapping[str, Any]) -> list[Path]:
    """The files of the weights that transformers would load; raises SavedFileError where their list is damaged."""
    path = next(filter(None, (find_file(name, file_name, options) for file_name in WEIGHTS)), None)
    if path is None:
        return []
    if path.suffix != ".json":
        return [path]
    places = read_mapping(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise SavedFileError(f"{path} is damaged: weight_map should say in which file each weight lies. {AGAIN}")
    shards = (find_file(name, file_name, options) for file_name in sorted(set(places.values())))
    return [shard for shard in shards if shard is not None]


def read_weights(path: Path) -> None:
    """Raises SavedFileError where a file of weights is damaged, or could run code when it is loaded."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return
        tensors = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load it all the same.
        raise SavedFileError(
            f"{path} is damaged, or holds more than tensors and could run code: it was not loaded. Save the model as "
            "safetensors, or download it again."
        ) from error
    except Exception as error:
        # What else its bytes make an unpickler raise is not defined.
        raise SavedFileError(f"{path}: the weights are damaged ({reason_of(error)}). {AGAIN}") from error
    if not isinstance(tensors, dict):
        raise SavedFileError(f"{path} should hold tensors by name, not a {type(tensors).__name__}. {AGAIN}")


@contextmanager
def naming_damage(name: str | PathLike[str] | None, options: Mapping[str, Any]) -> Iterator[None]:
    """While a model is loaded: an error becomes a SavedFileError that names the damaged file, where there is one."""
    try:
        yield
    except Exception as error:
        if name is not None and may_be_damage(error, name):
            check_mappings(name, [CONFIG_NAME], options)
            check_weights(name, options)
        raise


def load_saved_tokenizer(name: str | PathLike[str], **options: Any) -> PreTrainedTokenizerBase:
    """As `AutoTokenizer.from_pretrained`.

    Raises:
        SavedFileError: a file is damaged, or there is no vocabulary, or another one than was saved.
        OSError: the Hub has no such tokenizer, or cannot be reached.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:
        # The library of tokenizers raises nothing narrower.
        if may_be_damage(error, name):
            check_mappings(name, TOKENIZER_FILES, options)
        if isinstance(error, OUT_OF_REACH):
            raise
        raise SavedFileError(
            f"{name}: no tokenizer can be made of its tokenizer_config.json and tokenizer.json ({reason_of(error)}). "
            f"{AGAIN}"
        ) from error
    check_vocabulary(tokenizer, name, options)
    return tokenizer


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, name: str | PathLike[str], options: Mapping[str, Any]
) -> None:
    """Raises SavedFileError where a saved tokenizer knows other words than it was saved with.

    Of a folder without words transformers makes, without a word, a tokenizer that knows none, and of a saved processor
    without the settings of its tokenizer one that cannot pad.
    """
    names = tokenizer.vocab_files_names.values()
    is_one_file = Path(name).is_file()
    if names and not is_one_file and not any(find_file(name, file_name, options) for file_name in names):
        raise SavedFileError(
            f"{name} holds no tokenizer.json, so that its tokenizer would know no word: put the file back, or save or "
            "download the processor again."
        )
    path = None if is_one_file else find_file(name, PROCESSOR_NAME, options)
    if path is not None and find_file(name, TOKENIZER_FILES[0], options) is None:
        raise SavedFileError(
            f"{name} holds no {TOKENIZER_FILES[0]}, so that its tokenizer would not know which tokens are special: "
            "put the file back, or save or download the processor again."
        )
    saved = None if path is None else read_mapping(path).get("vocab_size")
    if saved not in (None, len(tokenizer)):
        raise SavedFileError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, but {PROCESSOR_NAME} says {reason_of(saved)}: "
            f"tokenizer.json is not the one that was saved with it. {AGAIN}"
        )
