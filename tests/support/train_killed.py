"""Trains a tiny LAVT, in a process that is killed at a given moment."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import train_tiny
import transformers.modeling_utils
from transformers import TrainerState

from hf_refseg.training.checkpoints import last_complete_checkpoint

TRAINING = {
    "dropout": 0.3,
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "per_device_train_batch_size": 4,
}


def train(output_dir: Path, cache: Path, moment: str | None) -> None:
    """Trains from the newest complete checkpoint on, and ends at the moment, None = never.

    The moment is "step 2", or a file of the output folder of which half is written, or a folder of which a file is
    removed.
    """
    step = None
    if moment is not None and moment.startswith("step"):
        step = int(moment.split()[1])
    elif moment is not None:
        kill_at(output_dir / moment)
    trainer = train_tiny.build_trainer(output_dir, cache, kill_at_step=step, **TRAINING)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(output_dir))


def kill_at(moment: Path) -> None:
    """Kills this process once half of that file is written, or one file of that folder is removed."""

    def write_half(write: Callable) -> Callable:
        def written(content, path, *arguments, **keywords):
            write(content, path, *arguments, **keywords)
            if Path(path) == moment:
                os.truncate(path, moment.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        return written

    def remove_half(folder, *arguments, **keywords):
        if Path(folder) == moment:
            (moment / "model.safetensors").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        remove(folder, *arguments, **keywords)

    remove, shutil.rmtree = shutil.rmtree, remove_half
    torch.save = write_half(torch.save)
    transformers.modeling_utils.safe_save_file = write_half(transformers.modeling_utils.safe_save_file)
    TrainerState.save_to_json = write_half(TrainerState.save_to_json)


if __name__ == "__main__":
    folder, *moment = sys.argv[1:]
    train(Path(folder), Path(folder).parent / "cache", moment[0] if moment else None)
