"""Saved models, processors and tokenizers, of a folder or the Hub, with one clear error for each that is wrong.

Code that lies beside weights is never run, nor asked about: `trust_remote_code=False`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from ..auto import AutoModelForReferringSegmentation, registered_methods
from ..convert.torch_files import check_torch_file
from ..files import may_be_on_hub, what_is_in
from ..messages import short_text
from ..modeling.messages_refseg import reason_of
from ..modeling.processing_refseg import RefSegProcessor
from ..modeling.saved_files_refseg import (
    SavedFileError,
    check_mappings,
    find_weights,
    load_saved_tokenizer,
    read_mapping,
)
from ..training.adapters import find_base_model, is_adapter, load_with_adapter
from ..training.checkpoints import check_checksums

# What making a configuration or a model of wrong values may raise.
WRONG_VALUES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    StrictDataclassError,
)


def load_model(name: str, device: str | None, dtype: str | None) -> tuple[PreTrainedModel, RefSegProcessor]:
    """The model (in evaluation mode, on the device) and its processor, from a folder or the Hub.

    An adapter is merged into its base model. Without `dtype` the weights keep their type.

    Raises:
        ValueError: where the folder holds no model of this library, its weights are damaged or incomplete, an
            adapter does not belong to its base model, or the processor leaves texts longer than the model takes them.
        OSError: where the Hub has no such model, or it cannot be reached.
    """
    found = find_device(device)
    if not is_adapter(name):
        model, processor = load_whole_model(name, dtype).to(found), load_processor(name)
        check_processor(processor, model.config)
        return model, processor
    check_checksums(name)
    processor = load_processor(name)
    # Merged at the precision of the saved weights, so that small updates are not lost.
    model = load_with_adapter(name, load_whole_model(find_base_model(name), None)).merge_and_unload().to(found)
    check_processor(processor, model.config)
    return model if dtype is None else model.to(getattr(torch, dtype)), processor


def check_processor(processor: RefSegProcessor, config: Any) -> None:
    """Raises ValueError where a processor gives a model of this configuration words or texts that it does not take."""
    config.check_text_length(processor.max_text_length)
    config.check_vocabulary(len(processor.tokenizer))


def load_whole_model(name: str, dtype: str | None) -> PreTrainedModel:
    """A model without adapter; raises as `load_model`."""
    config = load_config(name)
    check_checksums(name)
    weights = find_weights(name, {})
    if not weights and Path(name).is_dir():
        raise SavedFileError(f"{name} holds no weights (model.safetensors). Save or download the model again.")
    for path in weights:
        if path.suffix != ".safetensors":
            check_torch_file(path)
    with naming_config(name):
        try:
            model, loading = AutoModelForReferringSegmentation.from_pretrained(
                name, config=config, dtype="auto" if dtype is None else getattr(torch, dtype), output_loading_info=True
            )
        except RuntimeError as error:
            raise SavedFileError(
                f"{name}: the weights do not fit config.json ({reason_of(error)}). Save the model again."
            ) from error
    if loading["missing_keys"]:
        raise SavedFileError(
            f"{name}: {len(loading['missing_keys'])} weights are missing, such as {min(loading['missing_keys'])}. "
            "Save or download the model again."
        )
    return model


def load_config(name: str) -> Any:
    """The configuration of a model of this library; raises as `load_model`."""
    folder = Path(name)
    if not (folder / CONFIG_NAME).is_file() and not may_be_on_hub(name):
        raise ValueError(
            f"{name} is no model: expected a folder with config.json, or a Hub id such as user/name; "
            f"{what_is_in(folder)}."
        )
    with naming_config(name):
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        except OSError as error:
            if folder.is_dir():
                check_mappings(name, [CONFIG_NAME], {})
            raise OSError(f"{name} cannot be loaded: {error}") from error
    if config.model_type not in registered_methods():
        known = ", ".join(registered_methods())
        raise ValueError(f"{name} is a model of type {config.model_type}; known methods: {known}.")
    return config


@contextmanager
def naming_config(name: str) -> Iterator[None]:
    """While a model is made of its config.json: what its values make libraries raise becomes a SavedFileError."""
    try:
        yield
    except SavedFileError:
        raise
    except WRONG_VALUES as error:
        check_mappings(name, [CONFIG_NAME], {})
        raise SavedFileError(f"{name}: no model can be made of its config.json: {reason_of(error)}") from error


def load_processor(name: str) -> RefSegProcessor:
    """The processor beside a model; raises ValueError where its folder holds none, or a file is damaged."""
    folder = Path(name)
    if folder.is_dir() and not (folder / PROCESSOR_NAME).is_file():
        raise ValueError(
            f"{folder} holds a model, but no processor_config.json: save its processor there with "
            "`processor.save_pretrained`."
        )
    return RefSegProcessor.from_pretrained(name, trust_remote_code=False)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or the Hub, of a tokenizer.json, or BERT's with the words of a vocab.txt.

    Raises:
        ValueError: a file is damaged or holds something else; the message names it.
        OSError: there is no such file, or no such tokenizer on the Hub, or it cannot be reached.
    """
    path = Path(name)
    if name.endswith(".txt"):
        return BertTokenizer(vocab={word: index for index, word in enumerate(read_words(path))})
    if path.is_file():
        read_mapping(path)
    return load_saved_tokenizer(name, trust_remote_code=False)


def read_words(path: Path) -> list[str]:
    """The words of a vocab.txt, one per line; raises ValueError where it is no text, or a word comes twice."""
    try:
        words = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: pass a vocab.txt with one word per line.") from error
    lines: dict[str, int] = {}
    for line, word in enumerate(words, start=1):
        if lines.setdefault(word, line) != line:
            raise ValueError(
                f"{path}, line {line}: {short_text(word)} stands in line {lines[word]} already: pass a vocab.txt with "
                "each word once."
            )
    return words


def find_device(name: str | None) -> torch.device:
    """The device of this name; the accelerator, else the CPU, where there is no name."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    available = ["cpu"]
    if accelerator is not None:
        numbers = range(torch.accelerator.device_count())
        available += [accelerator.type, *(f"{accelerator.type}:{number}" for number in numbers)]
    if name not in available:
        raise ValueError(f"There is no device '{name}' here. Choose one of: {', '.join(available)}.")
    return torch.device(name)
