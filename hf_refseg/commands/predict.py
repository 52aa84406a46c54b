"""`hf-refseg predict`: the masks of expressions in images and videos, as files, by any system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    Device,
    Dtype,
    Instances,
    Overlap,
    PictureFolder,
    ScoreThreshold,
    SystemName,
    TrustRemoteCode,
)

if TYPE_CHECKING:
    from ..evaluation.systems import System
    from ..modeling.inference_refseg import FrameMask
    from .sources import Source

Text = Annotated[list[str], typer.Option("--text", "-t", help="What to segment; repeat it for several expressions.")]


def predict(
    context: typer.Context,
    system: SystemName,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Images or videos: files, folders or patterns; with --video a folder holds the frames of one.",
        ),
    ],
    text: Text,
    output: PictureFolder = Path("masks"),
    json: Annotated[
        Path | None,
        typer.Option("--json", help="File for scores, boxes and masks (COCO run lengths) of all of them."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Foreground probability; by default the processor's, or a half."),
    ] = None,
    score_threshold: ScoreThreshold = None,
    instances: Instances = None,
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
    dtype: Dtype = "float32",
    video: Annotated[bool, typer.Option("--video", help="All of them are videos.")] = False,
    window: Annotated[
        int | None, typer.Option(min=0, help="Frames that the model sees at once; 32 by default, 0 = the whole video.")
    ] = None,
    overlap: Overlap = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Segment a video's frames one by one, as image models do anyway.")
    ] = False,
) -> None:
    """Segment every expression in every image: a mask PNG for each, and an overlay of all for each image.

    In every video: an overlay MP4, and a folder with a palette PNG for each frame, whose pixels hold the number of the
    expression, 1 for the first. What is wrong with an image or a video is told, the others are segmented all the same,
    and the exit status is 1.
    """
    from ..files import OutputError, require_no_folder, require_writable, write_json
    from ..messages import message_of
    from ..modeling.inference_refseg import SOME_FRAMES, VideoWindow
    from ..systems import find_kind, load_system
    from .sources import SOURCE_ERRORS, find_sources, keep_readable

    failures = 0

    def report(error: Exception) -> None:
        nonlocal failures
        if context.find_root().params["debug"]:
            raise error
        failures += 1
        typer.echo(f"Error: {message_of(error)}", err=True)

    if not all(each.strip() for each in text):
        raise ValueError("An expression is empty: pass a sentence to every --text.")
    require_writable(output)
    if json is not None:
        require_no_folder(json, "--json")
        require_writable(json.parent)
    found = find_sources(sources, video, report)
    is_given = per_frame or window is not None or overlap is not None
    if is_given and not any(source.is_video for source in found):
        raise ValueError("--window, --overlap and --per-frame go with --video, or with video files.")
    clips = VideoWindow(SOME_FRAMES.frames if window is None else window or None, overlap, per_frame)
    # All images and the beginning of all videos are read before the model is loaded.
    readable = keep_readable(found, report)
    require_place_for_videos(output, [source.name for source in readable if source.is_video], text)
    if not readable:
        raise typer.Exit(1)
    reads_clips = is_given or "window" in find_kind(system, trust_remote_code).options
    loaded = load_system(
        system,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        threshold=threshold,
        window=clips if reads_clips else None,
        # All expressions in one pass.
        batch_size=len(text) if reads_clips else None,
        score_threshold=score_threshold,
        instances=instances,
    )
    output.mkdir(parents=True, exist_ok=True)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
    records = []
    try:
        for source in readable:
            try:
                if source.is_video:
                    record = predict_video(loaded, source, text, output, masks=json is not None)
                else:
                    record = predict_image(loaded, source, text, output)
                records.append(record)
            except OutputError:
                raise
            except SOURCE_ERRORS as error:
                named = str(error).startswith(str(source.path))
                report(error if named else ValueError(f"{source.path}: {error}"))
    finally:
        if json is not None:
            write_json(json, records)
    if failures:
        raise typer.Exit(1)


def predict_image(system: System, source: Source, texts: Sequence[str], output: Path) -> dict[str, Any]:
    """Writes `<image>_overlay.png` and `<image>_<number>_<text>.png` (0 or 255) for each text.

    Prints a line for each mask: path, score and share of pixels, whether there is no target, and the text where the
    overlay's legend shows its number instead. Returns the image's entry of the JSON file.
    """
    from ..evaluation.shown_masks import describe_mask, mask_file_name, shown_masks
    from ..files import write_picture
    from ..modeling.picture_files_refseg import open_image
    from ..modeling.pipeline_refseg import as_picture
    from ..visualization import can_draw, draw_masks

    image = open_image(source.path)
    found = shown_masks(system.segment(image, texts), system.threshold)
    masks = [each.mask.numpy() for each in found]
    record: dict[str, Any] = {"image": str(source.path), "predictions": []}
    for number, (text, each, mask) in enumerate(zip(texts, found, masks, strict=True), start=1):
        mask_path = output / mask_file_name(source.name, number, text)
        write_picture(mask_path, as_picture(mask))
        line = f"{mask_path}  score {each.score:.3f}  {100 * mask.mean():.1f} % of pixels"
        line = line if each.present else f"{line}  no target"
        typer.echo(line if can_draw(text) else f"{line}  {number} is {text}")
        described = describe_mask(mask, each.score, each.present)
        record["predictions"].append({"text": text, **described, "file": str(mask_path)})
    picture = draw_masks(image, masks, texts)
    write_picture(output / f"{source.name}_overlay.png", picture)
    return record


def predict_video(
    system: System,
    source: Source,
    texts: Sequence[str],
    output: Path,
    *,
    masks: bool,
) -> dict[str, Any]:
    """Writes `<video>.mp4` and the folder `<video>/`, as `write_video_masks` does.

    Prints a line for each text: the folder, the number of the text in it, on how many frames there is a mask, and the
    mean score of those. Returns the video's entry of the JSON file; without `masks` its frames are left out.
    """
    import numpy as np

    from ..evaluation.shown_masks import describe_mask, describe_video, shown_masks
    from ..modeling.video_refseg import VideoFrames
    from ..visualization.videos import write_video_masks

    frames, folder = VideoFrames(source.path), output / source.name
    described: list[list[dict[str, Any]]] = [[] for _ in texts]

    def described_along(answers: Iterable[list[FrameMask]]) -> Iterator[list[FrameMask]]:
        for answer in answers:
            for each, of_text in zip(answer, described, strict=True):
                of_text.append(describe_mask(each.mask.numpy(), each.score, each.present))
            yield answer

    answers = (shown_masks(of_frame, system.threshold) for of_frame in system.segment_video(frames, texts))
    all_scores = write_video_masks(frames, described_along(answers) if masks else answers, texts, folder)
    for number, (text, scores) in enumerate(zip(texts, all_scores, strict=True), start=1):
        found = [score for score in scores if score > 0]
        line = f"{folder}  {number} {text}: on {len(found)} of {len(scores)} frames"
        typer.echo(f"{line}, mean score {np.mean(found):.3f}" if found else f"{line}, no target")
    return describe_video(str(source.path), texts, described, str(folder))


def require_place_for_videos(output: Path, names: Sequence[str], texts: Sequence[str]) -> None:
    """Raises ValueError where one of the videos of these names has too many texts, or files in the folder already."""
    from ..visualization.videos import MAX_MASKS

    if names and len(texts) > MAX_MASKS:
        raise ValueError(f"{len(texts)} expressions are too many for one video: pass at most {MAX_MASKS}.")
    for path in (output / f"{name}{suffix}" for name in names for suffix in ("", ".mp4")):
        if path.exists():
            raise ValueError(f"{path} is there already. Choose another folder as output.")
