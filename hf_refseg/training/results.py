"""What a run leaves in the end: its scores as a table, the model with its card, and what to do with them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.constants import ENDPOINT

from ..hub.uploads import upload
from ..messages import align
from ..shipped import find_model
from .arguments import ModelArguments
from .run_data import Results
from .trainer import RefSegTrainer


def save_or_push(trainer: RefSegTrainer, **card: Any) -> None:
    """Saves the model with its card, and uploads both where the arguments say so; `card` as in `write_model_card`."""
    if trainer.args.push_to_hub:
        upload(partial(trainer.push_to_hub, **card), trainer.args.output_dir, trainer.hub_model_id, "model")
    else:
        trainer.save_model()
        trainer.create_model_card(**card)


def describe_scores(results: Results) -> str:
    """A table of the scores of each split in percent."""
    names = list(dict.fromkeys(name for result in results.values() for name in result.metrics))
    rows = [
        (split, *(f"{result.metrics[name]:.2f}" if name in result.metrics else "" for name in names))
        for split, result in results.items()
    ]
    return align([("split", *names), *rows])


def closing_words(
    trainer: RefSegTrainer,
    results: Sequence[Results],
    pictures: Sequence[Path],
    shown: str = "IMAGE.jpg",
) -> str:
    """What a run says in the end: scores, where everything lies, and the command that uses it.

    Args:
        trainer: the trainer.
        results: the scores by split; a table for each item, all of whose splits have one protocol.
        pictures: the pictures that were drawn.
        shown: what the command segments.
    """
    folder = trainer.args.output_dir
    scored = [scores for scores in results if scores]
    lines = [
        f"\nScores in percent, protocol {next(iter(scores.values())).protocol}:\n{describe_scores(scores)}"
        for scores in scored
    ]
    lines.append(f"\nModel, processor and card: {folder}")
    if pictures:
        lines.append(f"Pictures: {', '.join(map(str, pictures))}")
    if trainer.args.push_to_hub:
        lines.append(f"On the Hub: {ENDPOINT}/{trainer.hub_model_id}")
    command = f'hf-refseg predict {shlex.quote(folder)} {shown} --text "what to segment" --output masks'
    return "\n".join([*lines, f"Try it: {command}"])


def starting_points_on_hub(arguments: ModelArguments) -> list[str] | None:
    """The pretrained models that a run starts from and that others can load; None where there is none."""
    names = (arguments.model_name_or_path, arguments.vision_name_or_path, arguments.text_name_or_path)
    return [name for name in names if name and not Path(find_model(name)).exists()] or None
