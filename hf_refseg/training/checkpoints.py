"""Which checkpoints are whole: every file that resuming reads is there, and the same as when it was written."""

from __future__ import annotations

import logging
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..files import hash_file, require_writable, write_whole
from ..modeling.json_files_refseg import SavedFileError, read_mapping

if TYPE_CHECKING:
    from .arguments import RefSegTrainingArguments

logger = logging.getLogger(__name__)

# In the format of the command sha256sum, so that `sha256sum --check SHA256SUMS` tells the same.
CHECKSUMS = "SHA256SUMS"
WITH_CHECKSUMS = ("*.safetensors", "*.pt", "*.pth", "*.bin")
# FSDP goes on from weights of its own, beside those that anyone loads.
FSDP_WEIGHTS = "pytorch_model_fsdp.bin"
# What resuming reads of a state; every step counts, so that none of them is 0.
STATE_NUMBERS = ("global_step", "max_steps", "epoch")
# What reading an archive raises where a byte of its table of contents, or of a file in it, is another one.
ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(OSError, EOFError, ValueError, RuntimeError, LookupError, OverflowError),
)


def last_complete_checkpoint(output_dir: str | PathLike[str]) -> str | None:
    """The newest checkpoint in `output_dir` from which a run can resume; None where there is none.

    A checkpoint that was cut off while it was written, or damaged later, is passed over with a warning.
    """
    found = [
        (int(match[1]), folder)
        for folder in Path(output_dir).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and folder.is_dir()
    ]
    for _, folder in sorted(found, reverse=True):
        fault = find_checkpoint_fault(folder)
        if fault is None:
            return str(folder)
        logger.warning(f"Checkpoint {folder} is not complete and is passed over: {fault}.")
    return None


def checkpoint_to_resume(arguments: RefSegTrainingArguments) -> str | None:
    """The folder of the checkpoint to go on from, if any.

    Raises:
        ValueError: one that is none is named.
        OutputError: the output folder cannot be written.
    """
    if arguments.should_save:
        require_writable(arguments.output_dir)
    named = arguments.resume_from_checkpoint
    if named == "auto":
        return last_complete_checkpoint(arguments.output_dir)
    if named is None or named == "never":
        return None
    if not Path(named, "trainer_state.json").is_file():
        found = "holds no trainer_state.json" if Path(named).is_dir() else "is no folder"
        raise ValueError(
            f"resume_from_checkpoint: {named} {found}. Name a folder checkpoint-<step> of an earlier run, or say auto "
            "or never."
        )
    return named


def find_checkpoint_fault(folder: str | PathLike[str]) -> str | None:
    """What is missing from or broken in a checkpoint of `Trainer`; None for a complete one.

    Trainer writes weights, optimizer, schedule and random states first and `trainer_state.json` last. All bytes of the
    files that `write_checksums` has listed are compared; of checkpoints of earlier versions, which list none, those
    of all but the weights.
    """
    folder = Path(folder)
    weights = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        places = _read_json(index).get("weight_map")
        if not isinstance(places, dict):
            return f"{index.name} is cut off"
        weights += [folder / str(shard) for shard in sorted(set(places.values()))]
    is_adapter = (folder / "adapter_config.json").is_file() or folder / "adapter_model.safetensors" in weights
    fault = find_state_fault(folder / "trainer_state.json")
    if fault is not None:
        return fault
    config, key = ("adapter_config.json", "peft_type") if is_adapter else ("config.json", "model_type")
    if not (folder / config).is_file():
        return f"{config} is missing"
    if key not in _read_json(folder / config):
        return f"{config} is cut off"
    if not weights:
        return f"{'adapter_model' if is_adapter else 'model'}.safetensors is missing"
    random_states = sorted(folder.glob("rng_state*.pth")) or [folder / "rng_state.pth"]
    return _find_file_fault(folder, [*weights, *optimizer_files(folder), folder / "scheduler.pt", *random_states])


def optimizer_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that its optimizer goes on from: Trainer's own, those of FSDP or those of DeepSpeed.

    DeepSpeed writes a folder for the step, with a file for each process, and its name into `latest`.
    """
    if (folder / "latest").is_file():
        step = folder / (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
        # Its number of processes is in none of them: whole are those that are there, and there is one at least.
        return sorted(step.glob("*optim_states.pt")) or [step / "optim_states.pt"]
    if (folder / FSDP_WEIGHTS).is_file():
        return [folder / FSDP_WEIGHTS, folder / "optimizer.bin"]
    return [folder / "optimizer.pt"]


def check_strategy(folder: str | PathLike[str], strategy: str) -> None:
    """Raises ValueError where a checkpoint's optimizer is of another strategy than "DDP", "FSDP" or "DeepSpeed".

    Trainer would take the weights, and begin with a new optimizer without a word. "DDP" is one process as well.
    """
    folder = Path(folder)
    marks = {"DeepSpeed": folder / "latest", "FSDP": folder / FSDP_WEIGHTS}
    found = next((name for name, mark in marks.items() if mark.is_file()), "DDP")
    if found != strategy:
        raise ValueError(
            f"{folder} was written by a training with {found}, this one is with {strategy}: go on as it began, or "
            "begin anew with resume_from_checkpoint=never."
        )


def find_state_fault(path: Path) -> str | None:
    """What is missing from or broken in a `trainer_state.json`, which is written last; None for a whole one."""
    if not path.is_file():
        return f"{path.name} is missing"
    state = _read_json(path)
    if not state:
        return f"{path.name} is cut off"
    for name in STATE_NUMBERS:
        value = state.get(name)
        if not isinstance(value, int | float) or not value > 0:
            return f"{path.name} holds no {name}"
    return None


def check_checksums(folder: str | PathLike[str]) -> None:
    """Compares the weights in a folder with their checksums, where it has any.

    Raises:
        SavedFileError: they are not those that were written.
    """
    folder = Path(folder)
    sums = read_checksums(folder)
    for path in folder.glob("*.safetensors"):
        if path.name in sums and hash_file(path) != sums[path.name]:
            raise SavedFileError(
                f"{path} is damaged: its checksum is not the one in {CHECKSUMS}. Take another checkpoint, or delete "
                f"{CHECKSUMS} if the weights were changed on purpose."
            )


def write_checksums(folder: str | PathLike[str]) -> None:
    """Lists the checksums of all weights and states in a folder, as they are now, in `SHA256SUMS`."""
    folder = Path(folder)
    paths = sorted(path for pattern in WITH_CHECKSUMS for path in folder.glob(pattern))
    text = "".join(f"{hash_file(path)}  {path.name}\n" for path in paths)
    write_whole(folder / CHECKSUMS, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_checksums(folder: Path) -> dict[str, str]:
    """The checksums of files by their names; none where no file lists them."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    lines = path.read_bytes().decode(errors="replace").splitlines()
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def _find_file_fault(folder: Path, needed: Iterable[Path]) -> str | None:
    sums = read_checksums(folder)
    for path in dict.fromkeys([*needed, *(folder / name for name in sums)]):
        if not path.is_file():
            return f"{path.name} is missing"
        if not _is_whole(path):
            return f"{path.name} is cut off"
        if not (hash_file(path) == sums[path.name] if path.name in sums else _is_sound(path)):
            return f"{path.name} is damaged"
    return None


def _is_whole(path: Path) -> bool:
    if path.suffix != ".safetensors":
        # torch.save writes a ZIP archive, whose table of contents lies at its end.
        return zipfile.is_zipfile(path)
    try:
        # Checks the header and that the tensors it lists fill the file exactly; reads none of them.
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False


def _is_sound(path: Path) -> bool:
    """Whether an archive holds what was put into it, by its own checksums; weights have none."""
    if path.suffix == ".safetensors":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except ARCHIVE_ERRORS:
        return False


def _read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where the file is cut off."""
    try:
        return read_mapping(path)
    except SavedFileError:
        return {}
