"""Reading released checkpoints: safe loading, and renaming of tensors by rules."""

import argparse
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint is not what a converter can read; says what was expected and what was found."""


def load_checkpoint(path: str | Path) -> dict:
    """Loads a released checkpoint file, constructing nothing but tensors, containers and `argparse.Namespace`.

    Raises:
        FileNotFoundError: where there is no such file.
        CheckpointError: where the file is damaged or holds anything else than the above.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint file.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: this is no checkpoint that can be loaded safely ({reason}). Download it again, from its authors."
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary in the checkpoint, found {type(checkpoint).__name__}.")
    return dict(checkpoint)


def state_dict_of(checkpoint: Mapping, key: str) -> dict[str, Tensor]:
    """The tensors by name under `key` of a checkpoint.

    Raises:
        CheckpointError: where they are missing.
    """
    value = checkpoint.get(key)
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise CheckpointError(
            f"the checkpoint has no tensors under '{key}'; its keys are {_some(checkpoint)}. "
            "Pass the dictionary of a released checkpoint, as `torch.load` returns it."
        )
    return dict(value)


def rename_tensors(tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]], drop: str) -> dict[str, Tensor]:
    """Renames tensors: each name must fully match one rule (a regular expression and its replacement).

    Names that fully match the regular expression `drop` are left out.

    Raises:
        CheckpointError: where a name matches no rule, so that nothing is lost in silence.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if re.fullmatch(drop, name):
            continue
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(name):
                renamed[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"the checkpoint holds {len(unknown)} tensors that this method does not have, such as {_some(unknown)}: "
            "it belongs to another method or version."
        )
    return renamed


def load_converted(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads renamed tensors, all of which must fit and none of which may be missing.

    Raises:
        CheckpointError: naming what does not fit.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    misshapen = sorted(
        f"{name} {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    )
    if missing or misshapen:
        raise CheckpointError(
            f"the checkpoint does not fit the model: {len(missing)} tensors are missing ({_some(missing)}), "
            f"{len(misshapen)} have another shape ({_some(misshapen)}). Check the options passed along with it."
        )
    model.load_state_dict(tensors)


def _some(names: Iterable) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"
