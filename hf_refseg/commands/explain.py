"""`hf-refseg explain`: pictures of how a model came to a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Dtype, ModelName, PictureFolder


def explain(
    model: ModelName,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", help="Image; or a video, where the model takes clips: a file, or a folder of frames."
        ),
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to segment.")],
    output: PictureFolder,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Draw how a model came to a mask: attention maps, reconstructions, whatever its method can tell.

    Of a video the model sees the first frames at once, of which some are drawn below each other.
    """
    from itertools import islice

    from ..explain import draw_explanations
    from ..files import require_writable, write_picture
    from ..hub.saved_models import load_model
    from ..modeling.inference_refseg import SOME_FRAMES
    from ..modeling.picture_files_refseg import open_image
    from ..modeling.video_refseg import VideoFrames, is_video_file
    from .sources import name_of_pictures

    if not text.strip():
        raise ValueError("The expression is empty: pass a sentence.")
    require_writable(output)
    is_video = image.is_dir() or is_video_file(image)
    picture = list(islice(VideoFrames(image), SOME_FRAMES.frames)) if is_video else open_image(image)
    loaded, processor = load_model(model, device, dtype)
    for name, drawn in draw_explanations(loaded, processor, picture, text):
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{name_of_pictures(image, is_video)}_{name}.png"
        write_picture(path, drawn)
        typer.echo(path)
