"""Saved models, processors and tokenizers, of a folder or the Hub, with one clear error for each that is wrong.

Code that lies beside weights is not run, nor asked about, unless a caller says so: `trust_remote_code=False`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from ..auto import AutoModelForReferringSegmentation, registered_configs
from ..convert.torch_files import check_torch_file
from ..files import may_be_on_hub, what_is_in
from ..messages import name_text, short_text
from ..modeling.messages_refseg import reason_of
from ..modeling.processing_refseg import RefSegProcessor
from ..modeling.saved_files_refseg import (
    SavedFileError,
    check_mappings,
    check_vocabulary,
    find_weights,
    load_saved_tokenizer,
    may_be_damage,
    naming_damage,
    read_mapping,
)
from ..training.adapters import find_base_model, is_adapter, load_with_adapter
from ..training.checkpoints import check_checksums

# Where processors keep their settings, today's and earlier ones.
PROCESSOR_FILES = (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME)
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
    return load_weights(AutoModelForReferringSegmentation, name, load_config(name), dtype)


def load_weights(
    model_class: Any, name: str, config: Any, dtype: str | None, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A model of a class of transformers' or ours, on the CPU, in evaluation mode.

    Args:
        model_class: has `from_pretrained`.
        name: folder or Hub id.
        config: the model's configuration.
        dtype: such as "float32"; None = as the weights were saved.
        trust_remote_code: whether the class of the model may be one that lies beside the weights.

    Raises:
        SavedFileError: the weights are missing, damaged, incomplete, or could run code.
        OSError: the Hub has no such model, or cannot be reached.
    """
    check_checksums(name)
    weights = find_weights(name, {})
    if not weights and Path(name).is_dir():
        raise SavedFileError(f"{name} holds no weights (model.safetensors). Save or download the model again.")
    for path in weights:
        if path.suffix != ".safetensors":
            check_torch_file(path)
    with naming_config(name), naming_damage(name, {}):
        try:
            model, loading = model_class.from_pretrained(
                name,
                config=config,
                dtype="auto" if dtype is None else getattr(torch, dtype),
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
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


def load_with_processor(
    model_class: Any,
    processor_class: Any,
    name: str,
    config: Any,
    *,
    device: str | None,
    dtype: str | None,
    has_tokenizer: bool = True,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model, as `load_weights` makes it, on a device, and its processor, as `load_processor_of` does.

    Arguments and errors are theirs and those of `find_device`.
    """
    model = load_weights(model_class, name, config, dtype, trust_remote_code=trust_remote_code).to(find_device(device))
    processor = load_processor_of(
        processor_class, name, has_tokenizer=has_tokenizer, trust_remote_code=trust_remote_code
    )
    return model, processor


def load_config(name: str) -> Any:
    """The configuration of a model of this library; raises as `load_model`."""
    config = load_any_config(name)
    if config.model_type not in registered_configs():
        known = ", ".join(registered_configs())
        raise ValueError(f"{name} is a model of type {config.model_type}; known methods: {known}.")
    return config


def load_any_config(name: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a model of any kind; raises as `load_model`.

    With `trust_remote_code` its class may be one that lies beside the weights, and attention that of a repository.
    """
    require_model(name)
    with naming_config(name), naming_unreachable(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    repositories = [kernel for kernel in _attention_of(config) if isinstance(kernel, str) and "/" in kernel]
    if repositories and not trust_remote_code:
        raise SavedFileError(
            f"{name}: config.json asks for the attention of a repository, {name_text(repositories[0])}, whose code "
            "was not run: remove attn_implementation from it."
        )
    return config


def _attention_of(config: PreTrainedConfig) -> Iterator[Any]:
    """What a configuration, and those in it, say of how attention is computed."""
    yield config._attn_implementation
    parts = (getattr(config, part, None) for part in config.sub_configs)
    for part in (part for part in parts if isinstance(part, PreTrainedConfig)):
        yield from _attention_of(part)


def read_config(name: str) -> dict[str, Any]:
    """What config.json of a model of any kind says, whether or not its kind is known; raises as `load_model`."""
    require_model(name)
    with naming_config(name), naming_unreachable(name):
        config, _ = PreTrainedConfig.get_config_dict(name)
        # A TypeError of anything but a mapping becomes the error that names the file.
        config = {**config}
    if not isinstance(config.get("model_type", ""), str):
        raise SavedFileError(
            f"{name}: config.json should name its model_type, not {short_text(config['model_type'])}."
        )
    return config


def require_model(name: str) -> None:
    """Raises ValueError where a name is neither that of a folder with a configuration, nor could be on the Hub."""
    folder = Path(name)
    if not (folder / CONFIG_NAME).is_file() and not may_be_on_hub(name):
        raise ValueError(
            f"{name} is no model: expected a folder with config.json, or a Hub id such as user/name; "
            f"{what_is_in(folder)}."
        )


@contextmanager
def naming_unreachable(name: str) -> Iterator[None]:
    """While a config.json is read: an OSError names the model, or the file is damaged, which is a SavedFileError."""
    try:
        yield
    except OSError as error:
        if Path(name).is_dir():
            check_mappings(name, [CONFIG_NAME], {})
        where = "" if Path(name).exists() else ": there is no folder of this name here, and the Hub gave none"
        raise OSError(f"{name} cannot be loaded{where}: {error}") from error


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


def load_processor_of(
    processor_class: Any, name: str, *, has_tokenizer: bool = True, trust_remote_code: bool = False
) -> ProcessorMixin:
    """The processor beside a model of any kind.

    Args:
        processor_class: has `from_pretrained`.
        name: folder or Hub id.
        has_tokenizer: whether the processor is for texts as well, and its tokenizer is looked at.
        trust_remote_code: whether its class may be one that lies beside the model.

    Raises:
        ValueError: the folder holds no processor, or a file is damaged.
        OSError: the Hub has none, or cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in PROCESSOR_FILES):
        raise ValueError(
            f"{folder} holds a model, but no processor ({' or '.join(PROCESSOR_FILES)}): save its processor there "
            "with `processor.save_pretrained`."
        )
    try:
        processor = processor_class.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (*WRONG_VALUES, OSError) as error:
        if not may_be_damage(error, name):
            raise
        check_mappings(name, PROCESSOR_FILES, {})
        if has_tokenizer:
            load_saved_tokenizer(name, trust_remote_code=False)
        raise SavedFileError(f"{name}: no processor can be made of its files: {reason_of(error)}") from error
    if has_tokenizer:
        check_vocabulary(processor.tokenizer, name, {})
    return processor


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
    """The device of this name; where there is no name the accelerator, else the CPU.

    Of the processes that a launcher starts on a machine, each has an accelerator of its own.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        if accelerator is None or "LOCAL_RANK" not in os.environ:
            return accelerator or torch.device("cpu")
        return torch.device(accelerator.type, int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
    available = ["cpu"]
    if accelerator is not None:
        numbers = range(torch.accelerator.device_count())
        available += [accelerator.type, *(f"{accelerator.type}:{number}" for number in numbers)]
    if name not in available:
        raise ValueError(f"There is no device '{name}' here. Choose one of: {', '.join(available)}.")
    return torch.device(name)
