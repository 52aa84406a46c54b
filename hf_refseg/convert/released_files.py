"""Reading released checkpoints: safe loading, renaming of tensors by rules, and models that take them over."""

import argparse
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..messages import short_text
from .torch_files import AGAIN, DAMAGE, CheckpointError, check_torch_file, tensor_text

Model = TypeVar("Model", bound=PreTrainedModel)

# Swin-L with BERT has about 800.
MAX_TENSORS = 5000
# Of what is computed from the sizes and is not in the file, as the index of positions in a window: Swin-B's take 4 MB.
MAX_BUFFER_BYTES = 2**30
DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
# What PyTorch raises for a file that is no checkpoint although its pickles are whole.
MEANINGLESS = (pickle.UnpicklingError, SafetensorError, TypeError, AttributeError, AssertionError, MemoryError)


def load_checkpoint(path: str | Path) -> dict:
    """Loads a released checkpoint file, constructing nothing but tensors, containers and `argparse.Namespace`.

    What the file asks for is looked at before any of it is made; it takes no more memory than the file has bytes.

    Raises:
        FileNotFoundError: where there is no such file.
        CheckpointError: where the file is damaged or holds anything else than the above.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint file.")
    if path.suffix != ".safetensors":
        check_torch_file(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, *MEANINGLESS) as error:
        raise CheckpointError(
            f"{path}: this is no checkpoint that can be loaded safely: it is cut off or damaged. {AGAIN}"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f"{path}: expected a dictionary in the checkpoint, found {type(checkpoint).__name__}. {AGAIN}"
        )
    tensors = list(_all_tensors(checkpoint))
    try:
        for name, tensor in tensors:
            check_tensor(name, tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if _stored_bytes(tensor for _, tensor in tensors) > path.stat().st_size:
        raise CheckpointError(f"{path}: its tensors hold more values than the file. {AGAIN}")
    return dict(checkpoint)


def state_dict_of(checkpoint: Mapping, key: str) -> dict[str, Tensor]:
    """The tensors by name under `key` of a checkpoint.

    Raises:
        CheckpointError: where they are missing, or one of them is no plain tensor with a text as its name.
    """
    value = checkpoint.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"the checkpoint has no tensors under '{key}'; its keys are {_some(checkpoint)}. "
            "Pass the dictionary of a released checkpoint, as `load_checkpoint` returns it."
        )
    if len(value) > MAX_TENSORS:
        raise CheckpointError(
            f"the checkpoint has {len(value)} tensors under '{key}', but no method has more than {MAX_TENSORS}: it "
            "belongs to another one."
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"'{key}' of the checkpoint holds {tensor_text(name)} of the type {type(tensor).__name__}, where a "
                "name and a tensor are expected: it belongs to another method or version."
            )
        check_tensor(name, tensor)
    tensors = dict(value)
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * _stored_bytes(tensors.values()):
        raise CheckpointError(f"the tensors under '{key}' of the checkpoint are views of the same values. {AGAIN}")
    return tensors


def check_tensor(name: object, tensor: Tensor) -> None:
    """Raises `CheckpointError` for a tensor that is not plain, or has more values than are stored for it."""
    kinds = {
        "a sparse tensor": tensor.layout != torch.strided,
        "a quantized tensor": tensor.is_quantized,
        "a nested tensor": tensor.is_nested,
        "a meta tensor, without values": tensor.is_meta,
        f"a tensor of {tensor.dtype}": tensor.dtype not in DTYPES,
    }
    for kind, is_so in kinds.items():
        if is_so:
            raise CheckpointError(f"{tensor_text(name)} is {kind}, where checkpoints hold plain ones. {AGAIN}")
    stored = tensor.untyped_storage().nbytes()
    if tensor.nbytes > stored:
        raise CheckpointError(
            f"{tensor_text(name)} of shape {short_text(tuple(tensor.shape))} needs {tensor.nbytes} bytes, but there "
            f"are only {stored} of it. {AGAIN}"
        )


def rename_tensors(names: Iterable[str], rules: Iterable[tuple[str, str]], drop: str) -> dict[str, str]:
    """Released names by those here: each must fully match one rule (a regular expression and its replacement).

    Names that fully match the regular expression `drop` are left out.

    Raises:
        CheckpointError: where a name matches no rule, or two become one, so that nothing is lost in silence.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, str] = {}
    unknown: list[str] = []
    for name in names:
        if re.fullmatch(drop, name):
            continue
        for pattern, replacement in compiled:
            if match := pattern.fullmatch(name):
                ours = match.expand(replacement)
                if ours in renamed:
                    raise CheckpointError(
                        f"{tensor_text(name)} and {tensor_text(renamed[ours])} of the checkpoint are the same tensor "
                        "of this method: it belongs to another method or version."
                    )
                renamed[ours] = name
                break
        else:
            unknown.append(name)
    _refuse_unknown(unknown)
    return renamed


@contextmanager
def sizes_of_checkpoint() -> Iterator[None]:
    """Turns what configurations and models say of sizes that make no model into a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        raise CheckpointError(
            f"no model can be made with the sizes of the checkpoint's tensors and the options given along with it: "
            f"{' '.join(str(error).split())}"
        ) from error


def load_converted(
    model_class: type[Model], config: PreTrainedConfig, tensors: Mapping[str, Tensor], renamed: Mapping[str, str]
) -> Model:
    """A model, in evaluation mode, with the tensors of a checkpoint, all of which must fit and none may be missing.

    Its size is known from an outline without values before the model itself is made.

    Args:
        model_class: class of the model.
        config: its configuration.
        tensors: those of the checkpoint, by their released names.
        renamed: the released names by those here, see `rename_tensors`.

    Raises:
        CheckpointError: naming what does not fit.
    """
    with sizes_of_checkpoint(), torch.device("meta"):
        outline = model_class(config)
    if sum(buffer.nbytes for buffer in outline.buffers()) > MAX_BUFFER_BYTES:
        raise CheckpointError(
            f"the checkpoint's position tables are of windows so large that indexing them takes more than "
            f"{MAX_BUFFER_BYTES} bytes, which no released checkpoint does. {AGAIN}"
        )
    expected = outline.state_dict()
    _refuse_unknown([released for ours, released in renamed.items() if ours not in expected])
    ready = {ours: _as_linear(tensors[released], expected[ours].ndim) for ours, released in renamed.items()}
    missing = sorted(expected.keys() - ready.keys())
    misshapen = sorted(
        f"{tensor_text(renamed[ours])} {tuple(tensor.shape)} instead of {tuple(expected[ours].shape)}"
        for ours, tensor in ready.items()
        if tensor.shape != expected[ours].shape
    )
    if missing or misshapen:
        raise CheckpointError(
            f"the checkpoint does not fit the model: {len(missing)} tensors are missing ({_some(missing)}), "
            f"{len(misshapen)} have another shape ({_few(misshapen)}). Check the options passed along with it."
        )
    for ours, tensor in ready.items():
        if tensor.is_floating_point() != expected[ours].is_floating_point():
            raise CheckpointError(
                f"{tensor_text(renamed[ours])} of the checkpoint is of {tensor.dtype} instead of "
                f"{expected[ours].dtype}: it belongs to another method or version."
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{tensor_text(renamed[ours])} of the checkpoint is not finite. {AGAIN}")
    model = model_class(config)
    model.load_state_dict(ready)
    return model.eval()


def _as_linear(tensor: Tensor, axes: int) -> Tensor:
    """Convolutions of single positions are linear layers here."""
    return tensor.flatten(1) if tensor.ndim > axes and set(tensor.shape[2:]) == {1} else tensor


def _refuse_unknown(names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"the checkpoint holds {len(names)} tensors that this method does not have, such as {_some(names)}: "
            "it belongs to another method or version."
        )


def _all_tensors(checkpoint: Mapping) -> Iterator[tuple[Any, Tensor]]:
    """All tensors within containers, each with its key."""
    remaining: list[tuple[Any, Any]] = [("", checkpoint)]
    seen: set[int] = set()
    while remaining:
        key, value = remaining.pop()
        if isinstance(value, Tensor):
            yield key, value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, argparse.Namespace):
                remaining += vars(value).items()
            elif isinstance(value, Mapping):
                remaining += value.items()
            elif isinstance(value, list | tuple):
                remaining += enumerate(value)


def _stored_bytes(tensors: Iterable[Tensor]) -> int:
    """What the tensors take, those of one storage together."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _some(names: Iterable) -> str:
    return _few([tensor_text(name) for name in names])


def _few(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "") if texts else "none"
