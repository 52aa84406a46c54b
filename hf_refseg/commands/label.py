"""`hf-refseg label`: what a system answers about any number of images, as a data set that models train on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    DataFolder,
    Device,
    Dtype,
    Instances,
    ScoreThreshold,
    SystemName,
    TrustRemoteCode,
    check_data_options,
    with_data_dir,
    with_data_options,
)

if TYPE_CHECKING:
    from ..labeling import LabelReport


@with_data_options
def label(
    system: SystemName,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="Folder of photographs, or name of a data set, or folder or Hub id of a prepared one.",
        ),
    ],
    source: DataFolder = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New or empty folder, or one that this command began.")
    ],
    texts: Annotated[
        list[str] | None,
        typer.Option(
            "--texts",
            "-t",
            help="What each image is asked for; repeat it for several. By default the sentences of a data set.",
        ),
    ] = None,
    texts_file: Annotated[Path | None, typer.Option(help="Text file with one text in each line, for --texts.")] = None,
    data_options: dict[str, Any],
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Foreground probability; by default the system's.")
    ] = None,
    score_threshold: ScoreThreshold = None,
    instances: Instances = None,
    minimum_score: Annotated[float, typer.Option(min=0, max=1, help="Leave masks of lower scores out.")] = 0.0,
    keep_no_target: Annotated[
        bool, typer.Option("--keep-no-target", help="Make rows without a target of answers without a mask.")
    ] = False,
    shard_images: Annotated[int, typer.Option(min=1, help="Images in a file, which is what a kill loses.")] = 100,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images, beside each that answers.")] = 2,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts per forward pass; by default the system's.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a system's masks for any number of images as a data set.

    Start it as often as you like, on as many machines as see the folder: each process takes files that no other one is
    writing, and the last one writes the card. What is wrong with an image is told in the end, the others are labeled
    all the same, and the exit status is 1.
    """
    from ..data.catalog import DATASETS
    from ..files import require_writable
    from ..labeling import Labeling, LabelRules, find_images
    from ..systems import load_system
    from ..systems.identity import identify_system

    require_writable(output)
    data_options = with_data_dir(source, data_options)
    if images in DATASETS:
        check_data_options(images, data_options)
    found = find_images(images, collect_texts(texts, texts_file), **data_options)
    options: dict[str, Any] = {
        "threshold": threshold,
        "score_threshold": score_threshold,
        "instances": instances,
        "dtype": dtype,
    }
    loaded = load_system(system, device=device, batch_size=batch_size, trust_remote_code=trust_remote_code, **options)
    labeling = Labeling(
        found,
        output,
        {**identify_system(system), **options},
        rules=LabelRules(minimum_score=minimum_score, keep_no_target=keep_no_target),
        shard_images=shard_images,
    )
    labeling.begin()
    # Of several processes on a machine one shows how far it is.
    labeling.write_all(loaded, num_workers=workers, progress=os.environ.get("LOCAL_RANK", "0") == "0")
    if unfinished := labeling.unfinished():
        left = f"{len(unfinished)} of {len(labeling.shards())} files are left to other processes"
        typer.echo(f"{left}, the last of which finishes {output}.")
        return
    report = labeling.finish()
    typer.echo(describe_labels(report))
    typer.echo(output)
    for problem in report.problems:
        typer.echo(f"Error: {problem}", err=True)
    if report.problems:
        raise typer.Exit(1)


def collect_texts(texts: Sequence[str] | None, file: Path | None) -> list[str] | None:
    """The texts of the command line or of a file; None where there are none. Raises ValueError for both."""
    from ..labeling.images import read_texts

    if texts and file is not None:
        raise ValueError("Texts are given by --texts and by --texts-file: choose one of them.")
    return read_texts(file) if file is not None else list(texts or ()) or None


def describe_labels(report: LabelReport) -> str:
    """What became of the images of each split, as a table."""
    from ..labeling.card import OUTCOME_TEXTS
    from ..messages import align

    counted = [name for name in OUTCOME_TEXTS if any(counts[name] for counts in report.counts.values())]
    rows = [(OUTCOME_TEXTS[name], *(f"{counts[name]:,}" for counts in report.counts.values())) for name in counted]
    return align([("split", *report.counts), *rows])
