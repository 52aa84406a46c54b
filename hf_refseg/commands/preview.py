"""`hf-refseg preview`: some rows of a data set as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import DataFolder, check_data_options, with_data_dir, with_data_options


@with_data_options
def preview(
    name: Annotated[
        str, typer.Argument(metavar="DATASET", help="Name of a data set, or folder or Hub id of a prepared one.")
    ],
    source: DataFolder = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file, such as sheet.png.")],
    split: Annotated[
        str | None, typer.Option(help="Such as val, testA or test; by default the first one.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=100, help="How many referents to draw.")] = 12,
    sample_seed: Annotated[
        int | None,
        typer.Option(
            help="Draw referents by chance, with this seed; by default they are spread evenly over the split."
        ),
    ] = None,
    data_options: dict[str, Any],
) -> None:
    """Draw rows of a data set with masks and sentences, to see at once whether it is read right."""
    from ..data.loading import load_refseg
    from ..data.preview import preview_dataset
    from ..files import require_no_folder, require_writable, write_picture

    data_options = with_data_dir(source, data_options)
    check_data_options(name, data_options)
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} is to be a PNG file: give it a name that ends in .png.")
    require_no_folder(output, "--output")
    require_writable(output.parent)
    wanted: dict[str, Any] = {} if split is None else {"splits": [split]}
    loaded = load_refseg(name, **data_options, **wanted)
    split = next(iter(loaded)) if split is None else split
    picture = preview_dataset(loaded[split], rows, seed=sample_seed, title=f"{name} {split}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_picture(output, picture)
    typer.echo(output)
