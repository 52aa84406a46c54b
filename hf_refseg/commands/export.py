"""`hf-refseg export`: a model as graphs for onnxruntime or torch.export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import ModelName

if TYPE_CHECKING:
    from PIL import Image


def export(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder for graphs and settings.")],
    format: Annotated[
        Literal["onnx", "torch"], typer.Option(help="onnx for onnxruntime, torch for torch.export.load.")
    ] = "onnx",
    window: Annotated[
        int | None, typer.Option(min=1, help="Of models that take clips: frames of the graph's clips; 8 by default.")
    ] = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Of models that take clips: the graph takes images nevertheless.")
    ] = False,
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Weights of matrix products as integers of 8 bits; of ONNX alone.")
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(help="Where masks with and without --quantize are compared; by default on generated scenes."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="What is segmented in every --picture; repeat it.")
    ] = None,
) -> None:
    """Write a model as graphs of one image size, for any number of expressions of any length within its limit.

    Its graphs are compared with the model before the folder gets its name.
    """
    from ..export import USUAL_FRAMES, export_model, size_of
    from ..export.card import tell_agreement, tell_quantization
    from ..files import require_new_folder
    from ..hub.saved_models import load_model

    require_new_folder(output)
    pictures = read_pictures(picture or [], text or [])
    loaded, processor = load_model(model, "cpu", "float32")
    if not loaded.config.takes_clips and (per_frame or window is not None):
        raise ValueError(f"{model} takes images, no clips: leave out --window and --per-frame.")
    if per_frame and window is not None:
        raise ValueError("A graph takes single images or clips: pass --window or --per-frame.")
    frames = (window or USUAL_FRAMES) if loaded.config.takes_clips and not per_frame else None
    settings = export_model(
        loaded, processor, output, format=format, num_frames=frames, quantize=quantize, pictures=pictures
    )
    height, width = settings.image_size
    clips = "" if frames is None else f"{frames} frames of "
    typer.echo(
        f"{output}  {settings.method}, {', '.join(settings.graphs.values())}, {clips}{height} x {width} pixels, "
        f"{size_of(settings, output) / 1e6:.1f} MB"
    )
    typer.echo(tell_agreement(settings))
    if settings.quantization is not None:
        typer.echo(tell_quantization(settings.quantization))


def read_pictures(paths: Sequence[Path], texts: Sequence[str]) -> list[tuple[Image.Image, Sequence[str]]]:
    """The pictures, each with all of the texts; raises ValueError where there are only pictures, or only texts."""
    from ..modeling.picture_files_refseg import open_image

    if bool(paths) != bool(texts):
        raise ValueError("Masks are those of texts in pictures: pass both --picture and --text, or neither.")
    return [(open_image(path), texts) for path in paths]
