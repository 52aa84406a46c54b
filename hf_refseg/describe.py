"""What `hf-refseg info` tells: about the installation, a model folder, or a prepared data set, as tables."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers.utils import cached_file

from . import AutoModelForReferringSegmentation
from .auto import MODELS
from .data.catalog import DATASETS
from .data.prepare import count_rows
from .data.prepared import load_prepared, stored_columns
from .evaluation import VIDEO_PROTOCOLS
from .evaluation.protocols import PROTOCOLS
from .inputs import check_processor, find_device, load_config, load_processor, naming_config
from .training.adapters import describe_adapter, find_base_model, is_adapter, read_adapter_config
from .training.run_options import SAVED_WITH_A_MODEL


def describe_installation() -> str:
    """Versions, device, and everything that can be named on the command line."""
    packages = ("hf_refseg", "torch", "transformers", "datasets", "huggingface_hub")
    lines = {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": find_device(None),
        "methods": ", ".join(config_class.model_type for config_class in MODELS),
        "data sets": ", ".join(DATASETS),
        "protocols": ", ".join((*PROTOCOLS, *VIDEO_PROTOCOLS)),
    }
    return align(lines.items())


def describe_model(name: str) -> str:
    """Method, options that differ from the paper's, parts and their parameters, input size; loads no weights.

    Args:
        name: folder or Hub id of a model or an adapter.
    """
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
    sizes = count_parameters(model)
    if adapter:
        # What an adapter trains is what it would train further.
        adapter_config = read_adapter_config(name)
        adapter_config.inference_mode = False
        PeftModel(model, adapter_config)
    trainable = count_parameters(model, trainable=True)
    parameters = [("part", "parameters", "trainable")]
    parameters += [(part, f"{size:,}", f"{trainable[part]:,}") for part, size in sizes.items()]
    return f"{align(header.items())}\n\n{align(parameters)}"


def count_parameters(model: nn.Module, trainable: bool = False) -> dict[str, int]:
    """Numbers of all parameters, or of those that are trained, in each part of a model and in "total"."""
    return {
        name: sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad or not trainable)
        for name, part in (*model.named_children(), ("total", model))
    }


def describe_adapter_of(name: str) -> dict[str, str]:
    """What an adapter trained, how large it is, and its base model."""
    size = Path(cached_file(name, "adapter_model.safetensors")).stat().st_size
    return {
        "adapter": f"{describe_adapter(read_adapter_config(name))} ({size / 1e6:.1f} MB)",
        "base model": find_base_model(name),
    }


def describe_dataset(folder: Path) -> str:
    """A table of the splits of a prepared data set: referents, sentences and images or videos."""
    # Such columns alone: load_refseg would copy every image to the cache.
    columns = ["referents"] if "frames" in stored_columns(folder) else ["image_id", "sentences"]
    dataset = load_prepared(folder, columns=columns)
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
