"""`hf-refseg info`: about this installation, a model or a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Folder of a model or of a prepared data set, or a model's id on the Hub."
        ),
    ] = None,
    leakage: Annotated[
        bool, typer.Option("--leakage", help="Check that no training image of a prepared data set is on a list.")
    ] = False,
    leakage_list: Annotated[
        Path | None, typer.Option(envvar="HF_REFSEG_LEAKAGE_LIST", help="The list: JSON with ids of COCO images.")
    ] = None,
) -> None:
    """Tell about a model or a prepared data set; without a name about this installation."""
    typer.echo(check_leakage(name, leakage_list) if leakage else describe(name))


def describe(name: str | None) -> str:
    """What is installed, what a folder holds, or what a model on the Hub is."""
    from ..data.prepared import is_prepared
    from ..describe import describe_dataset, describe_installation, describe_model
    from ..files import may_be_on_hub
    from ..inputs import what_is_in
    from ..training.adapters import is_adapter

    if name is None:
        return describe_installation()
    folder = Path(name)
    if is_prepared(folder):
        return describe_dataset(folder)
    if may_be_on_hub(name) or (folder / "config.json").is_file() or is_adapter(name):
        return describe_model(name)
    raise ValueError(
        f"{folder} is neither a model (config.json, or adapter_config.json) nor a prepared data set (README.md and "
        f"data/*.parquet), nor can it be the id user/name of a model on the Hub: {what_is_in(folder)}."
    )


def check_leakage(name: str | None, leakage_list: Path | None) -> str:
    """A line that says that no training image of a prepared data set is on the list of held out images.

    Raises:
        LeakageError: some are; the message says how many.
        ValueError: folder or list is absent, is something else, or holds ids of other images than the list.
    """
    from ..data.catalog import COCO, collections
    from ..data.leakage import LeakageError, drop_images, image_collection, read_leakage_list
    from ..data.prepared import is_prepared, load_prepared
    from ..inputs import select_split

    if name is None or not is_prepared(folder := Path(name)):
        raise ValueError("--leakage checks a folder that `hf-refseg prepare` wrote: name one.")
    if leakage_list is None:
        raise ValueError(
            "--leakage compares with a list: pass --leakage-list FILE, or name it in HF_REFSEG_LEAKAGE_LIST. It is a "
            f"JSON list of {COCO} image ids, such as the published one of the val and test images of RefCOCO, "
            "RefCOCO+ and RefCOCOg (refcoco_family_val_test_image_ids.json)."
        )
    listed = read_leakage_list(leakage_list)
    collection = image_collection(str(folder))
    if collection not in collections():
        raise ValueError(
            f"{folder}: where its images come from is unknown, so their ids cannot be compared. Prepare it again: "
            "pretty_name in its README.md is no data set of this library."
        )
    dataset = load_prepared(folder, columns=["image_id"])
    _, part = drop_images(select_split(dataset, str(folder), "train"), listed if collection == COCO else frozenset())
    if part.dropped_images:
        raise LeakageError(
            f"{folder}: {part.describe_dropped()} are on the list {leakage_list}. "
            "Train without them: examples/run_ris.py --leakage_list drops them."
        )
    return (
        f"{folder}: none of its {part.images:,} training images ({collection}) is on the list {leakage_list} "
        f"({len(listed):,} ids of {COCO})."
    )
