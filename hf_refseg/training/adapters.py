"""Adapters through PEFT: heads trained on frozen encoders, and low-rank updates (LoRA) of the encoders' attention."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from ..auto import AutoModelForReferringSegmentation
from ..files import may_be_on_hub
from ..modeling.json_files_refseg import AGAIN, SavedFileError, read_mapping
from ..modeling.messages_refseg import reason_of

ENCODERS = ("backbone", "text_encoder")
# What encoders call the linear layer that their attention ends with. All others in it make queries, keys and values,
# whatever their names.
ATTENTION_OUTPUTS = ("Wo", "dense", "o", "o_proj", "out_lin", "out_proj", "output", "proj")


def add_adapter(
    model: PreTrainedModel, *, lora_rank: int | None = None, lora_alpha: float = 16, lora_dropout: float = 0.0
) -> PeftModel:
    """Freezes the encoders and trains the heads: everything but `backbone` and `text_encoder`.

    `save_pretrained` and `push_to_hub` of the result write what was trained, batch statistics included, and the name
    of the base model. `AutoModel.from_pretrained`, `PeftModel.from_pretrained` and `load_with_adapter` load it;
    `merge_and_unload()` gives a model without adapter.

    Args:
        model: a model that was loaded from a folder or from the Hub, or whose `name_or_path` says where it was saved.
            It is changed in place.
        lora_rank: rank of a low-rank update of all query, key and value projections inside both encoders (LoRA,
            https://huggingface.co/papers/2106.09685), at least 1; None = the encoders stay as they are.
        lora_alpha: the update is scaled by `lora_alpha / lora_rank`.
        lora_dropout: dropout before the update in training, in [0, 1).

    Raises:
        ValueError: the model has no name, has an adapter already or is built in a way that PEFT cannot adapt; an
            encoder without attention where there is a `lora_rank`; a number out of its range.
    """
    if any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in model.modules()):
        raise ValueError(
            "The model has an adapter already: merge it first (`hf-refseg merge`), or load its base model."
        )
    if not model.name_or_path:
        raise ValueError(
            "An adapter records where its base model lies, but this model was never loaded from anywhere. Save it, "
            "and load it from there."
        )
    heads = find_heads(model)
    if lora_rank is None:
        config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=heads)
    else:
        projections = find_attention_projections(model)
        _check_lora(model, lora_rank, lora_alpha, lora_dropout)
        config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=projections,
            modules_to_save=heads,
        )
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = _location(model.name_or_path)
    return adapted


def find_attention_projections(model: nn.Module) -> list[str]:
    """Names of the linear layers that make queries, keys and values inside both encoders.

    Raises:
        ValueError: an encoder has none.
    """
    return [name for encoder in ENCODERS for name in _projections_of(model, encoder)]


def _projections_of(model: nn.Module, encoder: str) -> list[str]:
    found = [
        f"{encoder}.{path}.{name}"
        for path, module in model.get_submodule(encoder).named_modules()
        if "Attention" in type(module).__name__
        for name, child in module.named_children()
        if isinstance(child, nn.Linear) and name not in ATTENTION_OUTPUTS
    ]
    if not found:
        raise ValueError(
            f"The {encoder} of {type(model).__name__} has no attention whose queries, keys and values LoRA could "
            "update: train the heads alone."
        )
    return found


def find_heads(model: nn.Module) -> list[str]:
    """Names of the modules that an adapter trains as a whole: all beside the encoders, members of lists one by one.

    Raises:
        ValueError: a parameter that belongs to none of them, or a name that PEFT would confuse with another one.
    """
    paths = [path for path, _ in model.named_modules()]
    children = [(name, module) for name, module in model.named_children() if name not in ENCODERS]
    heads = [head for name, module in children for head in _wrappable(name, module, paths)]
    covered = tuple(f"{part}." for part in (*ENCODERS, *heads))
    bare = [name for name, _ in model.named_parameters() if not name.startswith(covered)]
    if bare:
        raise ValueError(
            f"{type(model).__name__} holds the bare parameter '{bare[0]}', which PEFT cannot save in an adapter: put "
            "it into a module of its own."
        )
    for head in heads:
        alike = _alike(head, paths)
        if alike:
            raise ValueError(
                f"{type(model).__name__} has modules '{head}' and '{alike[0]}', which PEFT cannot tell apart, as one "
                "name ends like the other: rename the first."
            )
    return heads


def load_with_adapter(adapter: str | PathLike[str], base_model: PreTrainedModel | None = None) -> PeftModel:
    """The base model with an adapter, in evaluation mode and with nothing to train.

    As `PeftModel.from_pretrained`, and it makes sure that base model and adapter belong together.

    Args:
        adapter: folder or Hub id of the adapter.
        base_model: the base model, changed in place; loaded from where the adapter says, if absent.

    Raises:
        ValueError: not an adapter, an adapter for another base model, or one whose weights are damaged.
        OSError: a file of the adapter or the base model is not there.
    """
    adapter = str(adapter)
    config = read_adapter_config(adapter)
    if base_model is None:
        base_model = AutoModelForReferringSegmentation.from_pretrained(find_base_model(adapter))
    _check_base_model(base_model, adapter, config)
    try:
        model = PeftModel(base_model, config)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{_mismatch(adapter, config, base_model)}: {error}") from error
    load_adapter_weights(model, adapter)
    return model.eval()


def load_adapter_weights(model: PeftModel, adapter: str | PathLike[str]) -> None:
    """Puts the weights of a saved adapter into a model with the same kind of adapter.

    Raises:
        ValueError: the adapter was trained on another base model, is of another kind, or is damaged.
        OSError: a file of the adapter is not there.
    """
    adapter = str(adapter)
    saved_config = read_adapter_config(adapter)
    base_model = model.get_base_model()
    _check_base_model(base_model, adapter, saved_config)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    saved = _added_later(base_model, expected) | _read_weights(adapter)
    shapes, wanted = _shapes(saved), _shapes(expected)
    differing = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{_mismatch(adapter, saved_config, base_model)}: {name} has the shape {shapes.get(name, 'none')} in the "
            f"adapter and {wanted.get(name, 'none')} in the model."
        )
    set_peft_model_state_dict(model, saved)


def check_kind(folder: str | PathLike[str], *, adapter: bool) -> None:
    """Raises ValueError where a folder holds a whole model although an adapter is trained, or the other way round."""
    held, trained = ("a whole model", "an adapter") if adapter else ("an adapter", "a whole model")
    if (Path(folder) / ("config.json" if adapter else "adapter_config.json")).is_file():
        raise ValueError(
            f"{folder} holds {held}, but {trained} is trained: choose another output_dir, or another checkpoint."
        )


def is_adapter(name: str | PathLike[str]) -> bool:
    """Whether a folder or a repository on the Hub holds an adapter, not a whole model."""
    # A folder with both is a whole model to transformers.
    return _find_config_file(name) is not None and not Path(name, "config.json").is_file()


def read_adapter_config(adapter: str | PathLike[str]) -> PeftConfig:
    """The configuration of an adapter in a folder or on the Hub; raises ValueError where there is none."""
    path = _find_config_file(adapter)
    if path is None:
        raise ValueError(f"{adapter} is no adapter: it holds no adapter_config.json.")
    read_mapping(Path(path))
    try:
        return PeftConfig.from_pretrained(str(adapter))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SavedFileError(f"{path} describes no adapter ({reason_of(error)}). {AGAIN}") from error


def find_base_model(adapter: str | PathLike[str]) -> str:
    """Folder or Hub id of the base model of an adapter; raises ValueError where it is unknown or gone."""
    name = read_adapter_config(adapter).base_model_name_or_path
    remedy = f"Write where it lies as base_model_name_or_path into adapter_config.json of {adapter}."
    if not isinstance(name, str):
        raise ValueError(f"The adapter {adapter} does not say what its base model is. {remedy}")
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise ValueError(f"The adapter {adapter} was trained on the base model {name}, which is not there. {remedy}")
    return name


def describe_adapter(config: LoraConfig) -> str:
    """What an adapter of `add_adapter` trains, in a few words."""
    if config.target_modules == DUMMY_TARGET_MODULES:
        return "heads alone"
    return f"heads, and LoRA of rank {config.r}, alpha {config.lora_alpha:g}, in the encoders' attention"


def _alike(head: str, paths: Sequence[str]) -> list[str]:
    """The other modules that PEFT would take for `head`: it goes by the end of their paths."""
    return [path for path in paths if path.endswith(head) and path != head]


def _wrappable(name: str, module: nn.Module, paths: Sequence[str]) -> Iterator[str]:
    # PEFT wraps no containers, which have no forward of their own.
    is_container = isinstance(module, nn.ModuleList | nn.ModuleDict)
    own_tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if is_container or (_alike(name, paths) and not own_tensors):
        for child_name, child in module.named_children():
            yield from _wrappable(f"{name}.{child_name}", child, paths)
    elif module.state_dict() and not isinstance(module, nn.ParameterList | nn.ParameterDict):
        yield name


def _check_lora(model: PreTrainedModel, rank: int, alpha: float, dropout: float) -> None:
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"lora_rank has to be at least 1, lora_alpha positive and lora_dropout in [0, 1), not {rank}, {alpha} and "
            f"{dropout}."
        )
    for name, module in model.named_modules():
        has_statistics = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        if has_statistics and name.split(".")[0] in ENCODERS:
            raise ValueError(
                f"LoRA would change the batch statistics of {name}, which the adapter does not hold: train the heads "
                "alone."
            )


def _check_base_model(base_model: PreTrainedModel, adapter: str, config: PeftConfig) -> None:
    recorded = config.base_model_name_or_path
    trained_class = (config.auto_mapping or {}).get("base_model_class", type(base_model).__name__)
    if trained_class != type(base_model).__name__:
        raise ValueError(f"{_mismatch(adapter, config, base_model)}: it is an adapter of {trained_class}.")
    if recorded and base_model.name_or_path and _location(recorded) != _location(base_model.name_or_path):
        raise ValueError(
            f"{_mismatch(adapter, config, base_model)}. If both are the same model, write this name as "
            "base_model_name_or_path into the adapter's adapter_config.json."
        )


def _mismatch(adapter: str, config: PeftConfig, base_model: PreTrainedModel) -> str:
    given = f"{base_model.name_or_path or 'this model'} ({type(base_model).__name__})"
    return (
        f"The adapter {adapter} was trained on the base model {config.base_model_name_or_path} and does not belong to "
        f"{given}; load it with the former"
    )


def _find_config_file(name: str | PathLike[str]) -> str | None:
    if Path(name).is_dir() or may_be_on_hub(name):
        return find_adapter_config_file(str(name))
    return None


def _location(name: str) -> str:
    """The name of a model, a folder's in full: an adapter may be loaded from anywhere."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _read_weights(adapter: str) -> dict[str, Tensor]:
    """An adapter's tensors by name."""
    path = cached_file(adapter, "adapter_model.safetensors")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Save or download the adapter again.") from error


def _added_later(base_model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that adapters of earlier versions lack, as the model says, with the 0 that they start at."""
    patterns = base_model._keys_to_ignore_on_load_missing
    return {
        name: torch.zeros_like(tensor)
        for name, tensor in tensors.items()
        if any(re.search(pattern, name) for pattern in patterns)
    }


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    """By name, that of a single number as that of a vector: some were saved without an axis."""
    return {name: list(torch.atleast_1d(tensor).shape) for name, tensor in tensors.items()}
