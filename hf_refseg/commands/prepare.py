"""`hf-refseg prepare`: a data set's original files as a folder of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .info import describe_dataset
from .options import DataFolder, check_data_options, with_data_dir, with_data_options


@with_data_options
def prepare(
    name: Annotated[str, typer.Argument(help="Such as refcoco, refshapes, ref_davis17, or folder for own pictures.")],
    source: DataFolder = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder, or one that a kill cut off.")],
    data_options: dict[str, Any],
    verify: Annotated[bool, typer.Option("--verify", help="Compare counts with the published ones first.")] = False,
    num_proc: Annotated[
        int | None, typer.Option(min=1, help="Processes that check and write; by default one for each processor.")
    ] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="Repository user/name to upload the folder to.")] = None,
) -> None:
    """Write a data set as Parquet files with images or frames and a card.

    `load_refseg` and plain `datasets.load_dataset` read them.
    """
    from ..data.prepare import prepare_dataset, require_dataset_name
    from ..hub.token import require_token

    require_dataset_name(name)
    data_options = with_data_dir(source, data_options)
    check_data_options(name, data_options)
    if push_to_hub is not None:
        require_token("--push-to-hub")
    data_dir = data_options.pop("data_dir", None)
    folder = prepare_dataset(
        name, data_dir, output, verify=verify, push_to_hub=push_to_hub, num_proc=num_proc, **data_options
    )
    typer.echo(describe_dataset(folder))
