"""The command line `hf-refseg`: arguments, help and errors. Beside the package, whose import is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup


class OneLineErrors(TyperGroup):
    """Turns the errors that bad input is expected to raise into one line on stderr and exit status 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        # Evaluated only when something else was raised: by then the libraries are imported.
        except expected_errors() as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"Error: {message_of(error)}", err=True)
            raise typer.Exit(1) from error


def expected_errors() -> tuple[type[Exception], ...]:
    """What bad input, or a Hub out of reach, is expected to raise; anything else is a fault of the code."""
    from huggingface_hub.errors import HTTPError, StrictDataclassError

    return ValueError, OSError, ImportError, StrictDataclassError, HTTPError


def message_of(error: Exception) -> str:
    """The message in one printable line of at most 500 characters; an error that holds a table keeps its lines."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from hf_refseg.messages import BadInputError, one_line

    if isinstance(error, BadInputError):
        return str(error)
    line = " ".join(str(error).split())
    if isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError):
        line = f"The Hub cannot be reached ({line}): look at the connection, and start the same command again."
    return one_line(line)


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
convert_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Turn released checkpoints into models.")
app.add_typer(convert_app, name="convert")

Checkpoint = Annotated[Path, typer.Argument(help="Released file, such as refcoco.pth.")]
NewFolder = Annotated[Path, typer.Argument(help="New or empty folder for model and processor.")]
Tokenizer = Annotated[str, typer.Option(help="Hub id or folder of a tokenizer, or a vocab.txt.")]
TextHeads = Annotated[int | None, typer.Option(min=1, help="Attention heads of BERT; by default one for 64 channels.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a saved model, or its id on the Hub.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; by default the accelerator if there is one.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the original files: holds <name>/ and images/, or is that of the videos."),
]
MaskOverlap = Annotated[
    str | None, typer.Option(help="Overlapping polygons of RefCOCO and its like: union (default) or background.")
]
ImageDir = Annotated[Path | None, typer.Option(help="Folder of COCO's train2014 images, if not in --data-dir.")]
CacheDir = Annotated[Path | None, typer.Option(help="Folder for the rows that are read; by default that of datasets.")]
TrainSize = Annotated[int | None, typer.Option(help="RefShapes: number of training scenes.")]
ValSize = Annotated[int | None, typer.Option(help="RefShapes: number of validation scenes.")]
TestSize = Annotated[int | None, typer.Option(help="RefShapes: number of test scenes.")]
ImageSize = Annotated[int | None, typer.Option(help="RefShapes: width and height in pixels.")]
NumFrames = Annotated[int | None, typer.Option(help="refshapes_video: frames of a video.")]
Seed = Annotated[int | None, typer.Option(help="RefShapes: of all randomness.")]
ContextFrames = Annotated[
    int | None, typer.Option(min=0, help="a2d_sentences: frames kept on each side of an annotated one.")
]
SplitBy = Annotated[str | None, typer.Option(help="Who split the data set: unc, google, umd or berkeley.")]
OVERLAP_HELP = "Frames that neighboring windows share; by default 8, or half a smaller window."
Text = Annotated[list[str], typer.Option("--text", "-t", help="What to segment; repeat it for several expressions.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hf_refseg {version('hf_refseg')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Referring segmentation: an image or a video and a sentence in, the mask out."""


@app.command()
def predict(
    context: typer.Context,
    model: ModelName,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Images or videos: files, folders or patterns; with --video a folder holds the frames of one.",
        ),
    ],
    text: Text,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures; made where it is missing.")],
    json: Annotated[
        Path | None, typer.Option("--json", help="File for scores, boxes and masks (COCO run lengths) of all of them.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Foreground probability; by default the processor's.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    video: Annotated[bool, typer.Option("--video", help="All of them are videos.")] = False,
    window: Annotated[
        int | None, typer.Option(min=0, help="Frames that the model sees at once; 32 by default, 0 = the whole video.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help=OVERLAP_HELP)] = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Segment a video's frames one by one, as image models do anyway.")
    ] = False,
) -> None:
    """Segment every expression in every image: a mask PNG for each, and an overlay of all for each image.

    In every video: an overlay MP4, and a folder with a palette PNG for each frame, whose pixels hold the number of the
    expression, 1 for the first. What is wrong with an image or a video is told, the others are segmented all the same,
    and the exit status is 1.
    """
    from hf_refseg import cli

    failures = 0

    def report(error: Exception) -> None:
        nonlocal failures
        if context.parent.params["debug"]:
            raise error
        failures += 1
        typer.echo(f"Error: {message_of(error)}", err=True)

    lines = cli.predict(
        model,
        sources,
        text,
        output,
        report=report,
        all_videos=video,
        reading={"window": window, "overlap": overlap, "per_frame": per_frame or None},
        threshold=threshold,
        device=device,
        dtype=dtype,
        json_path=json,
    )
    for line in lines:
        typer.echo(line)
    if failures:
        raise typer.Exit(1)


@app.command()
def explain(
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image file.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to segment.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures; made where it is missing.")],
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Draw how a model came to a mask: attention maps, reconstructions, whatever its method can tell."""
    from hf_refseg import cli

    for path in cli.explain(model, image, text, output, device=device, dtype=dtype):
        typer.echo(path)


@app.command()
def evaluate(
    model: ModelName,
    dataset: Annotated[str, typer.Argument(help="Name of a data set, or folder or Hub id of a prepared one.")],
    split: Annotated[str, typer.Option(help="Such as val, testA or test.")] = "val",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="How masks are scored: original (default), lavt, vlt, cris, rela or rela_area50; of videos davis "
            "(default) or a2d.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    split_by: SplitBy = None,
    mask_overlap: MaskOverlap = None,
    image_dir: ImageDir = None,
    cache_dir: CacheDir = None,
    train_size: TrainSize = None,
    val_size: ValSize = None,
    test_size: TestSize = None,
    image_size: ImageSize = None,
    num_frames: NumFrames = None,
    seed: Seed = None,
    context_frames: ContextFrames = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences per forward pass.")] = 16,
    max_images: Annotated[int | None, typer.Option(min=1, help="Stop after so many images, or videos.")] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Frames of a video that the model sees at once; by default all of them.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help=OVERLAP_HELP)] = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Go through videos frame by frame, as image models do anyway.")
    ] = False,
    shuffle_sentences: Annotated[
        bool, typer.Option("--shuffle-sentences", help="Ask for other images' sentences: shows whether a model reads.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results; by default runs/evaluate/<model>.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Score a model on a split: a table with 95 % intervals, a JSON file, and a picture of worst and best cases.

    A model that a script of this library trained on the data set brings the options of its run along: those of the
    data that are not given here are as they were there.
    """
    from hf_refseg import cli

    lines = cli.evaluate(
        model,
        dataset,
        split,
        protocol,
        data_options={
            "data_dir": data_dir,
            "split_by": split_by,
            "mask_overlap": mask_overlap,
            "image_dir": image_dir,
            "cache_dir": cache_dir,
            "train_size": train_size,
            "val_size": val_size,
            "test_size": test_size,
            "image_size": image_size,
            "num_frames": num_frames,
            "seed": seed,
            "context_frames": context_frames,
        },
        reading={"window": window, "overlap": overlap, "per_frame": per_frame or None},
        batch_size=batch_size,
        max_images=max_images,
        shuffle_sentences=shuffle_sentences,
        output=output,
        device=device,
        dtype=dtype,
    )
    for line in lines:
        typer.echo(line)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="Such as refcoco, grefcoco, refshapes or ref_davis17.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder, or one that a kill cut off.")],
    data_dir: DataDir = None,
    split_by: SplitBy = None,
    mask_overlap: MaskOverlap = None,
    image_dir: ImageDir = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare counts with the published ones first.")] = False,
    push_to_hub: Annotated[str | None, typer.Option(help="Repository user/name to upload the folder to.")] = None,
    cache_dir: CacheDir = None,
    train_size: TrainSize = None,
    val_size: ValSize = None,
    test_size: TestSize = None,
    image_size: ImageSize = None,
    num_frames: NumFrames = None,
    seed: Seed = None,
    context_frames: ContextFrames = None,
) -> None:
    """Write a data set as Parquet files with images or frames and a card.

    `load_refseg` and plain `datasets.load_dataset` read them.
    """
    from hf_refseg import cli

    report = cli.prepare(
        name,
        data_dir,
        output,
        split_by=split_by,
        verify=verify,
        push_to_hub=push_to_hub,
        options={
            "mask_overlap": mask_overlap,
            "image_dir": image_dir,
            "cache_dir": cache_dir,
            "train_size": train_size,
            "val_size": val_size,
            "test_size": test_size,
            "image_size": image_size,
            "num_frames": num_frames,
            "seed": seed,
            "context_frames": context_frames,
        },
    )
    typer.echo(report)


@convert_app.command("lavt")
def convert_lavt(
    checkpoint: Checkpoint,
    output: NewFolder,
    tokenizer: Tokenizer = "google-bert/bert-base-uncased",
    fusion_num_heads: Annotated[
        tuple[int, int, int, int], typer.Option(help="Heads of the pixel-word attention in each stage.")
    ] = (1, 1, 1, 1),
    text_heads: TextHeads = None,
    loss_type: Annotated[str, typer.Option(help="Loss of further training.")] = "cross_entropy",
) -> None:
    """LAVT, both variants: write a folder that AutoModel and AutoProcessor load."""
    from hf_refseg import cli

    report = cli.convert_lavt(
        checkpoint, output, tokenizer, text_heads=text_heads, fusion_num_heads=fusion_num_heads, loss_type=loss_type
    )
    typer.echo(report)


@convert_app.command("magnet")
def convert_magnet(
    checkpoint: Checkpoint,
    output: NewFolder,
    tokenizer: Tokenizer = "google-bert/bert-base-uncased",
    text_stage_layers: Annotated[
        tuple[int, int, int, int], typer.Option(help="The layers of BERT after which the image enters.")
    ] = (3, 6, 9, 12),
    num_attention_heads: Annotated[int, typer.Option(min=1, help="Attention heads of the Mask2Former head.")] = 8,
    text_heads: TextHeads = None,
) -> None:
    """MagNet: write a folder that AutoModel and AutoProcessor load."""
    from hf_refseg import cli

    report = cli.convert_magnet(
        checkpoint,
        output,
        tokenizer,
        text_heads=text_heads,
        text_stage_layers=text_stage_layers,
        num_attention_heads=num_attention_heads,
    )
    typer.echo(report)


@convert_app.command("video_lavt")
def convert_video_lavt(
    checkpoint: Checkpoint,
    output: NewFolder,
    tokenizer: Tokenizer = "google-bert/bert-base-uncased",
    window_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Frames, height and width of the windows, where the checkpoint does not determine them."),
    ] = None,
    text_heads: TextHeads = None,
    loss_type: Annotated[str, typer.Option(help="Loss of further training.")] = "dice",
) -> None:
    """Video LAVT: write a folder that AutoModel and AutoProcessor load."""
    from hf_refseg import cli

    report = cli.convert_video_lavt(
        checkpoint, output, tokenizer, text_heads=text_heads, window_size=window_size, loss_type=loss_type
    )
    typer.echo(report)


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of an adapter and its processor, or its id on the Hub.")],
    output: NewFolder,
) -> None:
    """Merge an adapter into its base model: write a folder that loads without PEFT and without the base model."""
    from hf_refseg import cli

    typer.echo(cli.merge(adapter, output))


@app.command()
def info(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Folder of a model or of a prepared data set, or a model's id on the Hub."
        ),
    ] = None,
    leakage: Annotated[
        bool, typer.Option("--leakage", help="Check that no training image of a prepared data set is on a list.")
    ] = False,
    leakage_list: Annotated[
        Path | None, typer.Option(envvar="HF_REFSEG_LEAKAGE_LIST", help="The list: JSON with ids of COCO images.")
    ] = None,
) -> None:
    """Tell about a model or a prepared data set; without a name about this installation."""
    from hf_refseg import cli

    typer.echo(cli.check_leakage(name, leakage_list) if leakage else cli.info(name))


if __name__ == "__main__":
    app(prog_name="hf-refseg")
