"""`hf-refseg info`: about this installation, a model or a prepared data set."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..shipped import find_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..model_costs import PassFlops

# What cannot be done where the packages of an extra are missing.
NEEDED_FOR = {
    "video": "reading video files, and the data sets a2d_sentences and jhmdb_sentences",
    "export": "hf-refseg export, and models in ONNX",
    "demo": "hf-refseg demo",
    "docs": "make docs",
    "dev": "make test",
}


def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Folder of a model, an export or a prepared data set, or a model's id on the Hub; with "
            "--training-memory a method as well, that is its paper's model.",
            parser=find_model,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Count the FLOPs of a model for a square image of so many pixels, and one sentence. With "
            "--training-memory: the size it is trained with, the model's own if absent.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="With --image-size or --training-memory: a clip of so many frames in its place."),
    ] = None,
    training_memory: Annotated[
        bool,
        typer.Option("--training-memory", help="Estimate the memory that a training step takes on each GPU."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="With --training-memory: images on each GPU at once; 1 if absent.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="With --training-memory: GPUs of all machines together; 1 if absent.")
    ] = None,
    strategy: Annotated[
        Literal["ddp", "fsdp", "zero3"] | None,
        typer.Option(
            help="With --training-memory: each GPU has the whole model (ddp, if absent), or a part of parameters, "
            "gradients and optimizer states."
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing", help="With --training-memory: layers are computed again in the backward pass."
        ),
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="With --training-memory: mixed precision, as of hf-refseg train --bf16.")
    ] = False,
    leakage: Annotated[
        bool, typer.Option("--leakage", help="Check that no training image of a prepared data set is on a list.")
    ] = False,
    leakage_list: Annotated[
        Path | None, typer.Option(envvar="HF_REFSEG_LEAKAGE_LIST", help="The list: JSON with ids of COCO images.")
    ] = None,
) -> None:
    """Tell about a model or a prepared data set; without a name about this installation."""
    how = {"batch_size": batch_size, "gpus": gpus, "strategy": strategy}
    how |= {"gradient_checkpointing": gradient_checkpointing, "bf16": bf16}
    given = {option: value for option, value in how.items() if value}
    if training_memory:
        typer.echo(describe_training_memory(name, given, image_size, frames))
        return
    if given:
        option = next(iter(given)).replace("_", "-")
        raise ValueError(f"--{option} says how a model is trained: pass --training-memory as well, or leave it out.")
    typer.echo(check_leakage(name, leakage_list) if leakage else describe(name, image_size, frames))


def describe(name: str | None, image_size: int | None = None, frames: int | None = None) -> str:
    """What is installed, what a folder holds, or what a model on the Hub is; arguments as of `describe_model`.

    Raises:
        ValueError: there is nothing of that name, or no model whose FLOPs could be counted.
    """
    from ..data.prepared import is_prepared
    from ..files import may_be_on_hub, what_is_in
    from ..systems.exported import is_exported
    from ..training.adapters import is_adapter

    if frames is not None and image_size is None:
        raise ValueError("--frames says how long the clip is whose FLOPs --image-size counts: pass that as well.")
    if image_size is not None and (name is None or is_prepared(Path(name)) or is_exported(name)):
        raise ValueError("--image-size counts the FLOPs of a model: name one.")
    if name is None:
        return describe_installation()
    folder = Path(name)
    if is_prepared(folder):
        return describe_dataset(folder)
    if is_exported(name):
        return describe_export(folder)
    if may_be_on_hub(name) or (folder / "config.json").is_file() or is_adapter(name):
        return describe_model(name, image_size, frames)
    raise ValueError(
        f"{folder} is neither a model (config.json, adapter_config.json or export.json) nor a prepared data set "
        f"(README.md and data/*.parquet), nor can it be the id user/name of a model on the Hub: {what_is_in(folder)}."
    )


def describe_installation() -> str:
    """Versions, device, and everything that can be named on the command line."""
    from importlib.metadata import version

    from ..auto import registered_configs
    from ..data.catalog import DATASETS
    from ..evaluation import VIDEO_PROTOCOLS
    from ..evaluation.protocols import PROTOCOLS
    from ..hub.saved_models import find_device
    from ..messages import align

    packages = ("hf_refseg", "torch", "transformers", "datasets", "huggingface_hub")
    lines = {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": find_device(None),
        "methods": ", ".join(registered_configs()),
        "data sets": ", ".join(DATASETS),
        "protocols": ", ".join((*PROTOCOLS, *VIDEO_PROTOCOLS)),
        **{f"extra {extra}": describe_extra(extra, missing) for extra, missing in missing_packages().items()},
    }
    return align(lines.items())


def describe_export(folder: Path) -> str:
    """What `export.json` says of an exported model; raises SavedFileError where it is damaged."""
    from ..export.card import rows_of, tell_agreement
    from ..messages import align
    from ..onnx import ExportSettings

    settings = ExportSettings.read(folder)
    return f"{align(rows_of(settings))}\n{tell_agreement(settings)}"


def missing_packages() -> dict[str, list[str]]:
    """By extra of the library the requirements that the installed packages do not meet."""
    from importlib.metadata import PackageNotFoundError, metadata, requires, version

    from packaging.requirements import Requirement

    missing: dict[str, list[str]] = {extra: [] for extra in metadata("hf_refseg").get_all("Provides-Extra", [])}
    requirements = [Requirement(line) for line in requires("hf_refseg") or []]
    for extra, names in missing.items():
        for requirement in requirements:
            if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
                continue
            try:
                is_met = requirement.specifier.contains(version(requirement.name), prereleases=True)
            except PackageNotFoundError:
                is_met = False
            if not is_met:
                names.append(f"{requirement.name}{requirement.specifier}")
    return missing


def describe_extra(extra: str, missing: list[str]) -> str:
    """Whether it is installed; else what is missing, what for, and the command that brings it."""
    if not missing:
        return "installed"
    return f"missing for {NEEDED_FOR[extra]}: {', '.join(missing)}; pip install 'hf_refseg[{extra}]'"


def describe_model(name: str, image_size: int | None = None, frames: int | None = None) -> str:
    """Method, options that differ from the paper's, parts and what they cost, input size; loads no weights.

    Args:
        name: folder or Hub id of a model or an adapter.
        image_size: height and width of the image whose FLOPs are counted, with a sentence as long as the processor
            permits; None = no FLOPs.
        frames: of a clip in the place of the image.

    Raises:
        ValueError: the model takes no image of that size, or no clips.
    """
    import torch
    from peft import PeftModel

    from ..auto import AutoModelForReferringSegmentation
    from ..hub.saved_models import check_processor, load_config, load_processor, naming_config
    from ..messages import align
    from ..model_costs import count_parameters, count_pass, count_task_flops
    from ..training.adapters import is_adapter, read_adapter_config
    from ..training.run_options import SAVED_WITH_A_MODEL

    adapter = describe_adapter_of(name) if is_adapter(name) else {}
    base = adapter.get("base model", name)
    config, processor = load_config(base), load_processor(name)
    check_processor(processor, config)
    with torch.device("meta"), naming_config(base):
        model = AutoModelForReferringSegmentation.from_config(config)
    encoders = {name: getattr(config, name).model_type for name in config.sub_configs if getattr(config, name)}
    paper = type(config)().to_dict()
    differing = {
        name: value
        for name, value in config.to_dict().items()
        if name in paper and value != paper[name] and not isinstance(value, dict) and name not in SAVED_WITH_A_MODEL
    }
    size = processor.image_processor.size
    if size.longest_edge:
        pixels = f"longer side {size.longest_edge} pixels, padded to a square"
    else:
        pixels = f"{size.height} x {size.width} pixels (height x width)"
    header = {
        "method": f"{config.model_type} ({type(model).__name__})",
        "input": f"{pixels}, {processor.max_text_length} tokens",
        **adapter,
        **encoders,
        **differing,
    }
    if frames is not None and not config.takes_clips:
        raise ValueError(f"{name} takes images, no clips: leave --frames away.")
    flops = task_flops = None
    if image_size is not None:
        asked = ((image_size, image_size), processor.max_text_length, frames)
        flops = count_pass(model.eval(), *asked)
        if model.tasks:
            task_flops = count_task_flops(model, *asked)
    if adapter:
        # What an adapter trains is what it would train further.
        adapter_config = read_adapter_config(name)
        adapter_config.inference_mode = False
        PeftModel(model, adapter_config)
    parameters = count_parameters(model)
    tables = [header.items(), rows_of_costs(parameters, flops)]
    if flops is not None and image_size is not None:
        tables.append(rows_of_steps(flops, image_size, frames))
    if task_flops is not None:
        tables.append(rows_of_tasks(parameters, task_flops))
    return "\n\n".join(map(align, tables))


def describe_training_memory(
    name: str | None, how: Mapping[str, Any], image_size: int | None = None, frames: int | None = None
) -> str:
    """A table of what a training step takes on each GPU; loads no weights.

    Args:
        name: a method, or folder or Hub id of a model.
        how: fields of a `TrainingPlan`.
        image_size: height and width of the images; those of the model's image processor if absent.
        frames: of clips in the place of images.

    Raises:
        ValueError: no model, one of those with an adapter, or one that takes no such images or clips.
    """
    from ..messages import align
    from ..training_memory import NOT_COUNTED, TrainingPlan, estimate_training_memory

    config, size, tokens = model_to_train(name)
    if frames is not None and not config.takes_clips:
        raise ValueError(f"{name} takes images, no clips: leave --frames away.")
    plan = TrainingPlan(**how)
    sides = size if image_size is None else (image_size, image_size)
    parts = estimate_training_memory(config, sides, tokens, plan, frames)
    items = "images" if frames is None else f"clips of {frames} frames"
    header = {
        "trained": f"{plan.batch_size} {items} of {sides[0]} x {sides[1]} pixels on each of {plan.gpus} GPUs, "
        f"{tokens} tokens, {plan.strategy}, {'bfloat16' if plan.bf16 else 'float32'}"
        + (", gradient checkpointing" if plan.gradient_checkpointing else ""),
        "not counted": NOT_COUNTED,
    }
    rows = [("on each GPU", "GB"), *((part, f"{count / 1e9:,.2f}") for part, count in parts.items())]
    return "\n\n".join([align(rows), align(header.items())])


def model_to_train(name: str | None) -> tuple[PreTrainedConfig, tuple[int, int], int]:
    """Configuration, height and width of its images, and tokens: those of a saved model, or of a method's paper."""
    from ..auto import registered_configs
    from ..hub.saved_models import check_processor, load_config, load_processor
    from ..modeling.image_processing_refseg import RefSegImageProcessor
    from ..training.adapters import is_adapter
    from ..training.new_models import sides_of

    methods = registered_configs()
    if name is None:
        raise ValueError(f"--training-memory is that of a model: name one, or a method ({', '.join(methods)}).")
    if name in methods:
        config_class = methods[name]
        images = RefSegImageProcessor(**config_class.image_processor_defaults)
        return config_class(), sides_of(images.size), config_class.max_text_length
    if is_adapter(name):
        raise ValueError(f"{name} is an adapter: name its base model, whose memory bounds that of the adapter.")
    config, processor = load_config(name), load_processor(name)
    check_processor(processor, config)
    return config, sides_of(processor.image_processor.size), processor.max_text_length


def rows_of_costs(parameters: dict[str, tuple[int, int]], flops: PassFlops | None) -> list[tuple[str, ...]]:
    """The header and a row for each part, of what `model_costs` counted."""
    rows: list[tuple[str, ...]] = [("part", "parameters", "trained", "frozen")]
    rows += [
        (part, f"{trained + frozen:,}", f"{trained:,}", f"{frozen:,}")
        for part, (trained, frozen) in parameters.items()
    ]
    if flops is None:
        return rows
    header, *rows = rows
    counts = flops.by_part()
    # What takes no part in inference has costs in training alone, which stand in a table of their own.
    idle = {task for task in flops.tasks if counts[task] == 0}
    return [(*header, "GFLOPs"), *((*row, "-" if row[0] in idle else in_billions(counts[row[0]])) for row in rows)]


def rows_of_steps(flops: PassFlops, image_size: int, frames: int | None) -> list[tuple[str, ...]]:
    """The header and a row for each step of a method, with its share of the whole."""
    taken = (
        f"an image of {image_size} x {image_size}"
        if frames is None
        else f"{frames} frames of {image_size} x {image_size}"
    )
    return [
        (f"step, for {taken} and one sentence", "GFLOPs", "of all"),
        *((step, in_billions(count), f"{100 * count / flops.total:.1f} %") for step, count in flops.by_step().items()),
    ]


def in_billions(count: int) -> str:
    return f"{count / 1e9:,.2f}"


def rows_of_tasks(parameters: dict[str, tuple[int, int]], flops: dict[str, int]) -> list[tuple[str, ...]]:
    """The header and a row for each training task, of what `model_costs` counted."""
    from ..model_costs import TOTAL

    header = ("training task", "parameters", "GFLOPs in training", "of a pass without tasks")
    rows: list[tuple[str, ...]] = [header]
    rows += [
        (task, f"{sum(parameters[task]):,}", in_billions(count), f"{100 * count / flops[TOTAL]:.2f} %")
        for task, count in flops.items()
        if task != TOTAL
    ]
    return rows


def describe_adapter_of(name: str) -> dict[str, str]:
    """What an adapter trained, how large it is, and its base model."""
    from transformers.utils import cached_file

    from ..training.adapters import describe_adapter, find_base_model, read_adapter_config

    size = Path(cached_file(name, "adapter_model.safetensors")).stat().st_size
    return {
        "adapter": f"{describe_adapter(read_adapter_config(name))} ({size / 1e6:.1f} MB)",
        "base model": find_base_model(name),
    }


def describe_dataset(folder: Path) -> str:
    """A table of the splits of a prepared data set: referents, sentences and images or videos."""
    from ..data.prepare import count_rows
    from ..data.prepared import load_prepared, stored_columns
    from ..messages import align

    # Such columns alone: load_refseg would copy every image to the cache.
    columns = ["referents"] if "frames" in stored_columns(folder) else ["image_id", "sentences"]
    dataset = load_prepared(folder, columns=columns)
    counts = {split: count_rows(rows) for split, rows in dataset.items()}
    header = ("split", *next(iter(counts.values())))
    return align([header, *((split, *(f"{count:,}" for count in counts[split].values())) for split in counts)])


def check_leakage(name: str | None, leakage_list: Path | None) -> str:
    """A line that says that no training image of a prepared data set is on the list of held out images.

    Raises:
        LeakageError: some are; the message says how many.
        ValueError: folder or list is absent, is something else, or holds ids of other images than the list.
    """
    from ..data.catalog import COCO, collections
    from ..data.leakage import (
        LeakageError,
        drop_images,
        find_held_out,
        image_collections,
        read_leakage_list,
        require_ids,
    )
    from ..data.prepared import is_prepared, load_prepared, stored_columns

    if name is None or not is_prepared(folder := Path(name)):
        raise ValueError("--leakage checks a folder that `hf-refseg prepare` wrote: name one.")
    if leakage_list is None:
        raise ValueError(
            "--leakage compares with a list: pass --leakage-list FILE, or name it in HF_REFSEG_LEAKAGE_LIST. It is a "
            f"JSON list of {COCO} image ids, such as the published one of the val and test images of RefCOCO, "
            "RefCOCO+ and RefCOCOg (refcoco_family_val_test_image_ids.json)."
        )
    listed = read_leakage_list(leakage_list)
    stored = stored_columns(folder)
    if "image_id" not in stored:
        raise ValueError(f"{folder} holds videos: the list is one of images, and says nothing of them.")
    columns = image_collections(str(folder))
    collection = columns["image_id"]
    if collection not in collections():
        raise ValueError(
            f"{folder}: where its images come from is unknown, so their ids cannot be compared. Prepare it again: "
            "pretty_name in its README.md is no data set of this library."
        )
    rows = load_prepared(folder, ["train"], columns=[column for column in columns if column in stored])["train"]
    require_ids(str(folder), rows, columns)
    _, part = drop_images(rows, find_held_out(rows, columns, {COCO: listed}))
    if part.dropped_images:
        raise LeakageError(
            f"{folder}: {part.describe_dropped()} are on the list {leakage_list}. "
            "Train without them: hf-refseg train RECIPE --leakage_list LIST drops them."
        )
    return (
        f"{folder}: none of its {part.images:,} training images ({collection}) is on the list {leakage_list} "
        f"({len(listed):,} ids of {COCO})."
    )
