"""What `hf-refseg info` tells: about the installation, a model folder, or a prepared data set, as tables."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from . import AutoModelForReferringSegmentation
from .auto import MODELS
from .data.loading import DATASET_NAMES
from .data.prepare import count_rows
from .data.prepared import load_prepared, stored_columns
from .evaluation import VIDEO_PROTOCOLS
from .evaluation.protocols import PROTOCOLS
from .inputs import find_device, load_config, load_processor, open_dataset
from .training.adapters import describe_adapter, find_base_model, is_adapter, read_adapter_config

# In every saved configuration, whatever the model.
SAVED_WITH_A_MODEL = ("_name_or_path", "architectures", "dtype", "transformers_version")


def describe_installation() -> str:
    """Versions, device, and everything that can be named on the command line."""
    packages = ("hf_refseg", "torch", "transformers", "datasets", "huggingface_hub")
    lines = {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": find_device(None),
        "methods": ", ".join(config_class.model_type for config_class in MODELS),
        "data sets": ", ".join(DATASET_NAMES),
        "protocols": ", ".join((*PROTOCOLS, *VIDEO_PROTOCOLS)),
    }
    return align(lines.items())


def describe_model(folder: Path) -> str:
    """Method, options that differ from the paper's, parts and their parameters, input size; loads no weights."""
    adapter = describe_adapter_of(folder) if is_adapter(folder) else {}
    config = load_config(adapter.get("base model", str(folder)))
    processor = load_processor(str(folder))
    with torch.device("meta"):
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
    parameters = [("part", "parameters", "trainable")]
    for name, part in (*model.named_children(), ("total", model)):
        trainable = sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
        parameters.append((name, f"{sum(parameter.numel() for parameter in part.parameters()):,}", f"{trainable:,}"))
    return f"{align(header.items())}\n\n{align(parameters)}"


def describe_adapter_of(folder: Path) -> dict[str, str]:
    """What an adapter trained, how large it is, and its base model."""
    config = read_adapter_config(folder)
    size = (folder / "adapter_model.safetensors").stat().st_size
    return {
        "adapter": f"{describe_adapter(config)} ({size / 1e6:.1f} MB)",
        "base model": find_base_model(folder),
    }


def describe_dataset(folder: Path) -> str:
    """A table of the splits of a prepared data set: referents, sentences and images or videos."""
    # Such columns alone: load_refseg would copy every image to the cache.
    columns = ["referents"] if "frames" in stored_columns(folder) else ["image_id", "sentences"]
    dataset = open_dataset(folder, partial(load_prepared, folder, columns=columns))
    counts = {split: count_rows(rows) for split, rows in dataset.items()}
    header = ("split", *next(iter(counts.values())))
    return align([header, *((split, *(f"{count:,}" for count in counts[split].values())) for split in counts)])


def align(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines, their columns two spaces apart."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
