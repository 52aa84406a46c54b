"""`hf-refseg convert`: released checkpoints as models of this library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import NewFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Turn released checkpoints into models.")

Checkpoint = Annotated[Path, typer.Argument(help="Released file, such as refcoco.pth.")]
Tokenizer = Annotated[str, typer.Option(help="Hub id or folder of a tokenizer, or a vocab.txt.")]
TextHeads = Annotated[int | None, typer.Option(min=1, help="Attention heads of BERT; by default one for 64 channels.")]
LossType = Annotated[str, typer.Option(help="Loss of further training.")]
BERT = "google-bert/bert-base-uncased"


@app.command("lavt")
def convert_lavt(
    checkpoint: Checkpoint,
    output: NewFolder,
    tokenizer: Tokenizer = BERT,
    fusion_num_heads: Annotated[
        tuple[int, int, int, int], typer.Option(help="Heads of the pixel-word attention in each stage.")
    ] = (1, 1, 1, 1),
    text_heads: TextHeads = None,
    loss_type: LossType = "cross_entropy",
) -> None:
    """LAVT, both variants: write a folder that AutoModel and AutoProcessor load."""
    from ..convert import convert_lavt_checkpoint

    options = {"fusion_num_heads": fusion_num_heads, "loss_type": loss_type}
    convert(convert_lavt_checkpoint, checkpoint, output, tokenizer, text_heads, options)


@app.command("magnet")
def convert_magnet(
    checkpoint: Checkpoint,
    output: NewFolder,
    tokenizer: Tokenizer = BERT,
    text_stage_layers: Annotated[
        tuple[int, int, int, int], typer.Option(help="The layers of BERT after which the image enters.")
    ] = (3, 6, 9, 12),
    num_attention_heads: Annotated[int, typer.Option(min=1, help="Attention heads of the Mask2Former head.")] = 8,
    text_heads: TextHeads = None,
) -> None:
    """MagNet: write a folder that AutoModel and AutoProcessor load."""
    from ..convert import convert_magnet_checkpoint

    options = {"text_stage_layers": text_stage_layers, "num_attention_heads": num_attention_heads}
    convert(convert_magnet_checkpoint, checkpoint, output, tokenizer, text_heads, options)


@app.command("video_lavt")
def convert_video_lavt(
    checkpoint: Checkpoint,
    output: NewFolder,
    tokenizer: Tokenizer = BERT,
    window_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Frames, height and width of the windows, where the checkpoint does not determine them."),
    ] = None,
    text_heads: TextHeads = None,
    loss_type: LossType = "dice",
) -> None:
    """Video LAVT: write a folder that AutoModel and AutoProcessor load."""
    from ..convert import convert_video_lavt_checkpoint

    options = {"window_size": window_size, "loss_type": loss_type}
    convert(convert_video_lavt_checkpoint, checkpoint, output, tokenizer, text_heads, options)


def convert(
    convert_checkpoint: Callable[..., PreTrainedModel],
    checkpoint_path: Path,
    output: Path,
    tokenizer_name: str,
    text_heads: int | None,
    options: dict[str, Any],
) -> None:
    """Writes model and processor of a released checkpoint; the processor cuts texts as the released one did."""
    from .. import RefSegImageProcessor, RefSegProcessor
    from ..convert import CheckpointError, load_checkpoint
    from ..files import filling_new_folder, require_new_folder
    from ..hub.saved_models import load_tokenizer

    require_new_folder(output)
    checkpoint = load_checkpoint(checkpoint_path)
    tokenizer = load_tokenizer(tokenizer_name)
    try:
        model = convert_checkpoint(checkpoint, **options)
        if text_heads is not None:
            text_config = {**model.config.text_config.to_dict(), "num_attention_heads": text_heads}
            model = convert_checkpoint(checkpoint, text_config=text_config, **options)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint_path}: {error}") from error
    words = model.config.text_config.vocab_size
    if len(tokenizer) != words:
        raise ValueError(
            f"The tokenizer {tokenizer_name} has {len(tokenizer)} words, the checkpoint {checkpoint_path} {words}: "
            "pass the tokenizer that it was trained with to --tokenizer."
        )
    processor = RefSegProcessor(
        RefSegImageProcessor(),
        tokenizer,
        max_text_length=model.config.max_text_length,
        text_truncation="released",
    )
    with filling_new_folder(output):
        processor.save_pretrained(output)
        model.save_pretrained(output)
    typer.echo(f"{output}  {model.config.model_type}, {model.num_parameters() / 1e6:.1f} M parameters")
