"""`hf-refseg explain`: pictures of how a model came to a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Dtype, ModelName, PictureFolder


def explain(
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image file.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to segment.")],
    output: PictureFolder,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Draw how a model came to a mask: attention maps, reconstructions, whatever its method can tell."""
    from ..explain import draw_explanations
    from ..files import require_writable, slug, write_picture
    from ..hub.saved_models import load_model
    from ..modeling.pictures_refseg import open_image
    from .sources import Source

    if not text.strip():
        raise ValueError("The expression is empty: pass a sentence.")
    require_writable(output)
    source = Source(image, slug(image.stem) or "image", is_video=False)
    source.check()
    picture = open_image(image)
    loaded, processor = load_model(model, device, dtype)
    for name, drawn in draw_explanations(loaded, processor, picture, text):
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{source.name}_{name}.png"
        write_picture(path, drawn)
        typer.echo(path)
