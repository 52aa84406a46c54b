"""The card of an exported model: what its graphs are, how far they agree with the model, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_whole
from ..hub.markdown import escape, front_matter, quoted, to_table
from ..onnx import ExportSettings

CARD = "README.md"
RUNS_IN = {"onnx": "onnxruntime", "torch": "torch.export"}
SNIPPET = """```python
from huggingface_hub import snapshot_download
from hf_refseg.onnx import OnnxSegmenter  # needs onnxruntime, numpy, Pillow and tokenizers, not torch

segmenter = OnnxSegmenter(snapshot_download("user/{name}"))  # or its folder
masks = segmenter("photo.jpg", ["the left dog", "the grass"])
```"""


def write_card(settings: ExportSettings, folder: Path, name: str) -> None:
    """Writes README.md into the folder of an export.

    Args:
        settings: what its `export.json` says.
        folder: where the graphs lie.
        name: what the export is called.
    """
    metadata = {
        "library_name": "hf_refseg",
        "pipeline_tag": "image-segmentation",
        "tags": ["referring-image-segmentation", settings.method, settings.format, *quantized(settings)],
    }
    measured = [tell_agreement(settings)]
    if settings.quantization is not None:
        measured.append(tell_quantization(settings.quantization))
    agreement = "\n".join(f"- {line}" for line in measured)
    sections = [f"# {escape(name)}", describe(settings), f"## Agreement\n\n{agreement}"]
    if settings.format == "onnx":
        sections.append(f"## Usage\n\n{SNIPPET.format(name=quoted(name)[1:-1])}")
    card = f"{front_matter(metadata)}\n" + "\n\n".join(sections) + "\n"
    write_whole(folder / CARD, lambda path: path.write_text(card, encoding="utf-8"))


def quantized(settings: ExportSettings) -> list[str]:
    """The kind of its integers, where it has some."""
    return [] if settings.quantization is None else [settings.quantization["kind"]]


def describe(settings: ExportSettings) -> str:
    """What was exported, as Markdown."""
    rows = to_table(["", "value"], rows_of(settings))
    return f"A model for referring segmentation, exported by `hf-refseg export`.\n\n{rows}"


def rows_of(settings: ExportSettings) -> list[tuple[str, object]]:
    """Sizes and limits of an export, each with its name."""
    height, width = settings.image_size
    taken = "images" if settings.num_frames is None else f"clips of {settings.num_frames} frames"
    return [
        ("method", settings.method),
        ("runs in", RUNS_IN[settings.format]),
        ("graphs", ", ".join(settings.graphs.values())),
        ("takes", f"{taken} of {height} x {width} pixels"),
        ("texts", f"any number, of at most {settings.max_text_length} tokens each"),
        ("threshold", settings.mask_threshold),
        ("says whether there is a target", "yes" if settings.has_presence else "no"),
        ("hf_refseg", settings.hf_refseg_version),
    ]


def tell_agreement(settings: ExportSettings) -> str:
    """How far the graphs are from the model, as it was measured."""
    told = settings.agreement
    differences = ", ".join(f"{name} {value:.1g}" for name, value in told["differences"].items())
    return f"Largest difference to the model: {differences} (allowed {told['tolerance']:.1g})"


def tell_quantization(told: Mapping[str, Any]) -> str:
    """What integers of 8 bits change, as it was measured; `told` is the `quantization` of an export."""
    return (
        f"int8: {told['bytes'] / told['float32_bytes']:.0%} of the size in float32; IoU with the masks in float32 "
        f"{told['mean_iou']:.3f} on average, {told['lowest_iou']:.3f} at least, of {told['masks']} masks in "
        f"{told['pictures']} pictures"
    )
