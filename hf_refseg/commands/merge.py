"""`hf-refseg merge`: an adapter and its base model as one model."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import NewFolder


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of an adapter and its processor, or its id on the Hub.")],
    output: NewFolder,
) -> None:
    """Merge an adapter into its base model: write a folder that loads without PEFT and without the base model."""
    from ..files import filling_new_folder, require_new_folder
    from ..hub.saved_models import load_model
    from ..training.adapters import is_adapter
    from ..training.run_options import load_run_options, write_local_options, write_run_options

    require_new_folder(output)
    if not is_adapter(adapter):
        raise ValueError(f"{adapter} is no adapter, so there is nothing to merge.")
    model, processor = load_model(adapter, "cpu", None)
    run_options = load_run_options(adapter)
    with filling_new_folder(output):
        processor.save_pretrained(output)
        model.save_pretrained(output)
        if run_options:
            write_run_options(output, run_options)
            write_local_options(output, run_options)
    typer.echo(f"{output}  {model.config.model_type}, {model.num_parameters() / 1e6:.1f} M parameters")
