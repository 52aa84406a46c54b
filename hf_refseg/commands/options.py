"""Arguments and options that several commands take, and those of data sets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..data.catalog import DataOption, data_options
from ..shipped import NAME as SHIPPED
from ..shipped import find_model

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"Folder of a saved model, its id on the Hub, or {SHIPPED}, which travels with the library.",
        parser=find_model,
    ),
]
SystemName = Annotated[
    str,
    typer.Argument(
        metavar="SYSTEM",
        help="Folder or Hub id of a model or adapter of ours, of CLIPSeg, SAM 3 or Florence-2, or DETECTOR+SEGMENTER; "
        f"or {SHIPPED}, which travels with the library.",
        parser=find_model,
    ),
]
SystemAndDataset = Annotated[
    list[str],
    typer.Argument(
        metavar="[SYSTEM] DATASET",
        help="SYSTEM: folder or Hub id of a model or adapter of ours, of CLIPSeg, SAM 3 or Florence-2, or "
        f"DETECTOR+SEGMENTER, or {SHIPPED}. DATASET: name of a data set, or folder or Hub id of a prepared one.",
        parser=find_model,
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(help="File (.jsonl, .json) or folder of predictions, which are scored in place of a system."),
]
Missing = Annotated[
    Literal["error", "empty"] | None,
    typer.Option(help="What sentences without a prediction are: an error (the default), or answered by empty masks."),
]
SavePredictions = Annotated[Path | None, typer.Option(help="File (.jsonl) for the answers that are scored.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that lies beside a model of no known kind.")
]
ScoreThreshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Of systems that find instances: the score above which one counts."),
]
Instances = Annotated[
    Literal["all", "best"] | None,
    typer.Option(
        help="Of such systems: a mask of all instances (by default of SAM 3), or of the best one (of detectors)."
    ),
]
DataFolder = Annotated[
    Path | None, typer.Argument(metavar="[DIR]", help="Folder of the original files, the same as --data-dir.")
]
NewFolder = Annotated[Path, typer.Argument(help="New or empty folder for model and processor.")]
PictureFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the pictures; made where it is missing.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; by default the accelerator if there is one.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")]
TrainingRegime = Annotated[
    Literal["single", "mixed", "extra"] | None,
    typer.Option(
        help="What it was trained on: this data set alone, this and others of expressions, or other data; by default "
        "as the run that trained it says."
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(min=0, help="Frames that neighboring windows share; by default 8, or half a smaller window."),
]


def with_data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of all data sets in place of its parameter `data_options`: a dict of those given.

    A command that has a parameter `split` reads that one alone, and takes no `splits`.
    """
    parameters: list[inspect.Parameter] = []
    own = inspect.signature(command, eval_str=True).parameters
    options = {name: option for name, option in data_options().items() if not (name == "splits" and "split" in own)}
    for parameter in own.values():
        taken = {parameter.name: parameter.annotation}
        default = parameter.default
        if parameter.name == "data_options":
            taken, default = {option.name: _annotate(option) for option in options.values()}, None
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, annotation in taken.items()
        ]

    @functools.wraps(command)
    def expanded(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in options}
        # An option that may come several times is an empty list without any.
        command(**arguments, data_options={name: value for name, value in values.items() if value not in (None, [])})

    # Read by `inspect`, and so by typer; the stubs of functools know no such attribute.
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return expanded


def _annotate(option: DataOption) -> Any:
    return Annotated[option.kind | None, typer.Option(min=option.least, help=option.help)]


def with_data_dir(folder: Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The data options, with the folder that a `DataFolder` names; raises ValueError where --data-dir is there too."""
    if folder is None:
        return dict(given)
    if "data_dir" in given:
        raise ValueError(f"The data lies in {folder} or in --data-dir {given['data_dir']}: name one of them.")
    return {**given, "data_dir": folder}


def check_data_options(name: str, given: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that belongs to other data sets than the one of this name."""
    from ..data.loading import option_names

    # `load_refseg` says itself which data sets take those.
    wrong = sorted(given.keys() - {"data_dir", "split_by", *option_names(name)})
    if wrong:
        raise ValueError(f"'{name}' takes no --{wrong[0].replace('_', '-')}. Leave it out.")
