"""What `hf-refseg evaluate` does with files of predictions: those that it scores, and those that it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..evaluation import AnswerSource
    from ..evaluation.prediction_files import PredictionFile


def split_names(names: Sequence[str], predictions: Path | None) -> tuple[str, str]:
    """The system, "" where predictions are scored, and the data set; raises `BadParameter` for other numbers."""
    if predictions is None and len(names) == 2:
        return names[0], names[1]
    if predictions is not None and len(names) == 1:
        return "", names[0]
    wanted = "a system and a data set" if predictions is None else "with --predictions a data set alone"
    raise typer.BadParameter(f"name {wanted}, not {', '.join(names)}", param_hint="[SYSTEM] DATASET")


def open_file(
    predictions: Path | None, missing: str | None, name: str, split: str, of_systems: Mapping[str, Any]
) -> PredictionFile | None:
    """The predictions that are scored on a split of a data set; None where a system is.

    Args:
        predictions, missing: the options of these names.
        name, split: the data set and its split.
        of_systems: options that predictions do not take; one that is not given is None, False or 0.

    Raises:
        ValueError: an option has no effect.
        PredictionError: the predictions are of no known format, or of another data set or split.
    """
    from ..evaluation import open_predictions

    if predictions is None:
        if missing is not None:
            raise ValueError("--missing is about --predictions: leave it out.")
        return None
    for option in (option for option, value in of_systems.items() if value):
        raise ValueError(f"--predictions asks no system: leave --{option.replace('_', '-')} out.")
    file = open_predictions(predictions)
    check_origin(file, name, split)
    return file


def check_origin(file: PredictionFile, name: str, split: str) -> None:
    """Raises `PredictionError` where a file says that it is about another data set, or another split.

    A prepared folder is also known by the name of the data set that it holds.
    """
    from ..evaluation import PredictionError

    dataset, own = file.header.dataset, dataset_names(name)
    if dataset is not None and dataset not in own:
        raise PredictionError(
            f"{file.path} is about the data set {dataset}, not about {own[0]}. Choose that one or, where both are the "
            "same, correct the file's first line."
        )
    if file.header.split not in (None, split):
        raise PredictionError(
            f"{file.path} is about the split {file.header.split}, not about {split}: choose --split "
            f"{file.header.split}."
        )


def dataset_names(name: str) -> list[str]:
    """What a data set is called in a file of predictions, first as it is written there."""
    from ..data.prepared import find_specs
    from ..files import public_name

    specs = [spec.name for spec in find_specs(name)]
    return [*(specs if len(specs) == 1 else []), public_name(name), *specs]


@contextmanager
def saving_predictions(
    path: Path | None, protocol: str, source: AnswerSource, state: PartialState | None, **names: str
) -> Iterator[Callable[[Iterable[str]], None] | None]:
    """A context that gives what takes lines of predictions; None where they are not wanted.

    Args:
        path: the option `save_predictions`.
        protocol, source: what is scored, and how.
        state: several processes, of which the first one writes.
        names: `dataset`, `split` and `system`, as the command has them.
    """
    from ..evaluation import header_for, writing_predictions
    from ..files import public_name

    if path is None:
        yield None
    elif state is not None and not state.is_main_process:
        yield lambda lines: None
    else:
        names |= {"dataset": dataset_names(names["dataset"])[0], "system": public_name(names["system"])}
        threshold = None if source.gives_masks else source.threshold
        with writing_predictions(path, header_for(protocol, threshold, **names)) as write_lines:
            yield write_lines
