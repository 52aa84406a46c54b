"""A model and its processor as a folder of graphs that run without this library's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ..files import in_place_of, require_new_folder, write_json
from ..modeling.configuration_refseg import HF_REFSEG_VERSION
from ..modeling.inference_refseg import evaluation_mode
from ..modeling.modeling_refseg import RefSegPreTrainedModel
from ..modeling.processing_refseg import RefSegProcessor
from ..onnx import SETTINGS_FILE, ExportSettings, OnnxSegmenter
from .agreement import compare_masks, generated_scenes, measure_agreement
from .card import write_card
from .graphs import graphs_of, texts_of_at_most, trace, written_out_attention
from .onnx_files import QUANTIZED_OPERATORS, quantize_weights, require_packages, write_onnx
from .settings import describe_images, describe_texts, write_tokenizer

# What a model that takes clips is exported with where nothing says how many frames.
USUAL_FRAMES = 8
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
# A picture with what is asked of it.
AskedPicture = tuple[Image.Image, Sequence[str]]


def export_model(
    model: RefSegPreTrainedModel,
    processor: RefSegProcessor,
    output: Path,
    *,
    format: Literal["onnx", "torch"] = "onnx",
    num_frames: int | None = None,
    quantize: Literal["int8"] | None = None,
    pictures: Sequence[AskedPicture] = (),
) -> ExportSettings:
    """Writes a model as graphs of one image size, for any number of texts of any length within the processor's limit.

    A folder of this name is there once its graphs have been compared with the model, on numbers of texts and tokens
    other than those that were traced; nothing of it where they disagree.

    Args:
        model: on the CPU, in float32.
        processor: its processor, whose size the images have.
        output: a new or empty folder.
        format: "onnx" for onnxruntime, "torch" for `torch.export.load`.
        num_frames: frames of the clips that the graph takes; None = it takes images.
        quantize: "int8" = the weights of matrix products become integers of 8 bits; of ONNX alone.
        pictures: on which the masks with and without `quantize` are compared; by default generated scenes.

    Returns:
        What `export.json` says.

    Raises:
        ValueError: a model or processor that cannot be exported, or options that have no effect.
        DisagreementError: the graphs say something else than the model.
        ImportError: a package that writes ONNX is missing.
        OutputError: the folder cannot be written.
    """
    _check(model, processor, format, num_frames, quantize, pictures)
    if format == "onnx":
        require_packages()
    require_new_folder(output)
    described = {**describe_images(processor.image_processor), **describe_texts(processor)}
    model.config.check_text_length(processor.max_text_length)
    with in_place_of(output) as folder:
        folder.mkdir(parents=True)
        write_tokenizer(processor, folder)
        shape = described["image_size"] if num_frames is None else (num_frames, *described["image_size"])
        paths, opset = write_graphs(model, folder, _draw_pixels(shape, seed=0), processor.max_text_length, format)
        settings = ExportSettings(
            method=model.config.model_type,
            format=format,
            graphs={name: path.name for name, path in paths.items()},
            opset=opset,
            num_frames=num_frames,
            has_presence=model.config.presence_head,
            agreement=measure_agreement(model, paths, _draw_pixels(shape, seed=1), processor.max_text_length),
            quantization=None,
            hf_refseg_version=HF_REFSEG_VERSION,
            **described,
        )
        write_json(folder / SETTINGS_FILE, settings.to_dict())
        if quantize is not None:
            settings = quantize_export(folder, pictures)
        write_card(settings, folder, output.resolve().name)
    return settings


def _check(
    model: RefSegPreTrainedModel,
    processor: RefSegProcessor,
    format: str,
    num_frames: int | None,
    quantize: str | None,
    pictures: Sequence[AskedPicture],
) -> None:
    if format not in SUFFIXES:
        raise ValueError(f"The format is one of {', '.join(SUFFIXES)}, not {format!r}.")
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize is int8 or None, not {quantize!r}.")
    if quantize is not None and format != "onnx":
        raise ValueError("Integers of 8 bits are for --format onnx alone: leave out --quantize.")
    if pictures and quantize is None:
        raise ValueError("Pictures say how far integers change the masks: pass --quantize int8, or leave them out.")
    if num_frames is not None and not model.config.takes_clips:
        raise ValueError(f"A {model.config.model_type} takes images, no clips: leave out the number of frames.")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"A clip has 1 frame at least, not {num_frames}.")
    if processor.max_text_length < 2:
        raise ValueError("The processor leaves 1 token of a text: raise its max_text_length to 2 at least.")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(f"Models are exported in float32 on the CPU, not in {model.dtype} on {model.device}.")


def _draw_pixels(shape: tuple[int, ...], seed: int) -> Tensor:
    """One normalized image (1, 3, height, width) of these sides, or one clip; the same one each time."""
    *frames, height, width = shape
    return torch.randn(1, *frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def write_graphs(
    model: RefSegPreTrainedModel, folder: Path, pixel_values: Tensor, longest_text: int, format: str
) -> tuple[dict[str, Path], int | None]:
    """Traces a model and writes its graphs, each a file of its name.

    Args:
        model: on the CPU, in float32.
        folder: where the files go.
        pixel_values: an image, or a clip, in a batch of one; all others have its size.
        longest_text: tokens of the longest text.
        format: as of `export_model`.

    Returns:
        The files by the names of the graphs, and the version of ONNX's operators, None in another format.
    """
    paths, opset = {}, None
    with evaluation_mode(model), written_out_attention(model), texts_of_at_most(model, longest_text):
        for graph in graphs_of(model, pixel_values, longest_text):
            paths[graph.name] = folder / f"{graph.name}{SUFFIXES[format]}"
            program = trace(graph, longest_text)
            if format == "onnx":
                opset = write_onnx(graph, program, paths[graph.name])
            else:
                torch.export.save(program, paths[graph.name])
    return paths, opset


def quantize_export(folder: Path, pictures: Sequence[AskedPicture] = ()) -> ExportSettings:
    """Puts graphs of integers into the place of those in float32; of a folder that nothing reads meanwhile.

    Args:
        folder: what `export_model` wrote, of ONNX.
        pictures: as of `export_model`.

    Returns:
        What `export.json` says then.
    """
    settings = ExportSettings.read(folder)
    exact = OnnxSegmenter(folder)
    before = size_of(settings, folder)
    # Under the same names, which a graph holds of the file of its weights.
    quantized = folder / "int8"
    quantized.mkdir()
    for file in settings.graphs.values():
        quantize_weights(folder / file, quantized / file)
        for part in folder.glob(f"{file}*"):
            part.unlink()
    for part in list(quantized.iterdir()):
        part.replace(folder / part.name)
    quantized.rmdir()
    agreement = compare_masks(exact, OnnxSegmenter(folder), pictures or generated_scenes())
    settings = replace(
        settings,
        quantization={
            "kind": "int8",
            "operators": list(QUANTIZED_OPERATORS),
            "bytes": size_of(settings, folder),
            "float32_bytes": before,
            **agreement,
        },
    )
    write_json(folder / SETTINGS_FILE, settings.to_dict())
    return settings


def size_of(settings: ExportSettings, folder: Path) -> int:
    """Bytes of the graphs of an export, weights beside them included."""
    return sum(path.stat().st_size for file in settings.graphs.values() for path in folder.glob(f"{file}*"))
