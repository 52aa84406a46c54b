"""`hf-refseg demo`: a page in the browser, on which any systems segment pictures and short videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..shipped import NAME as SHIPPED
from ..shipped import find_model
from .options import Device, Dtype, TrustRemoteCode


def demo(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="SYSTEM...",
            help="Folders or Hub ids, each of a model or adapter of ours, of CLIPSeg, SAM 3 or Florence-2, or "
            f"DETECTOR+SEGMENTER, or {SHIPPED}; the first two are shown side by side to begin with.",
            parser=find_model,
        ),
    ],
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures and videos to pick, each beside a .txt file of its name with expressions; by "
            "default generated scenes."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 = other machines may open the page as well.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860 on.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Open the page to whoever knows a link that gradio makes, for a week.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Open a page in the browser: pictures, videos and sentences in, masks out.

    It prints the address and goes on until it is stopped (Ctrl+C). Uploads stay on this machine, for an hour at most.
    """
    from tempfile import TemporaryDirectory

    from ..demo.examples import examples_in, write_scenes
    from ..demo.page import build_page, launch
    from ..modeling.inference_refseg import SOME_FRAMES
    from ..systems import brings_code, find_kind, load_system

    given = None if examples is None else examples_in(examples)
    # Beside one that is trusted others may stand that need no trust; where none needs it, an error says so.
    trusted = [name for name in systems if trust_remote_code and brings_code(name)]
    trusted = trusted or (systems if trust_remote_code else [])
    # All names are looked at before the first model is loaded.
    kinds = [find_kind(name, name in trusted) for name in systems]
    loaded = []
    for name, kind in zip(systems, kinds, strict=True):
        window = SOME_FRAMES if "window" in kind.options else None
        loaded.append(load_system(name, device=device, dtype=dtype, trust_remote_code=name in trusted, window=window))
    with TemporaryDirectory() as folder:
        page = build_page(loaded, write_scenes(Path(folder)) if given is None else given)
        launch(page, server_name=host, server_port=port, share=share)
