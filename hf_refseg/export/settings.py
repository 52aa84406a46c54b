"""From a processor to what `export.json` says of pictures and texts; what cannot be said there is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ..files import writing_into
from ..modeling.processing_refseg import RefSegProcessor
from ..onnx import TOKENIZER_FILE

Color = tuple[float, float, float]


def describe_images(image_processor: Any) -> dict[str, Any]:
    """What `ExportSettings` says of pictures.

    Raises:
        ValueError: the processor prepares pictures in a way that an export does not know.
    """
    unknown = [name for name in ("do_center_crop", "do_pad") if getattr(image_processor, name)]
    unknown += [f"{name}=False" for name in ("do_resize", "do_convert_rgb") if not getattr(image_processor, name)]
    if not isinstance(image_processor.resample, int):
        unknown.append(f"resample={image_processor.resample!r}")
    if unknown:
        raise ValueError(
            f"The image processor has {', '.join(unknown)}, which an exported model cannot do: save the processor "
            "without, or export a model with another one."
        )
    size = image_processor.size
    side = size.longest_edge
    plain = image_processor.do_normalize
    return {
        "image_size": (side, side) if side else (size.height, size.width),
        "keeps_aspect_ratio": bool(side),
        "resample": int(image_processor.resample),
        "rescale_factor": image_processor.rescale_factor if image_processor.do_rescale else 1.0,
        "mean": _three(image_processor.image_mean if plain else 0.0),
        "std": _three(image_processor.image_std if plain else 1.0),
        "mask_threshold": image_processor.mask_threshold,
    }


def _three(values: float | list[float]) -> Color:
    """A number for each color; alpha, which comes fourth, is left out with the picture's own."""
    several = list(values) if isinstance(values, list | tuple) else [values]
    red, green, blue, *_ = map(float, several * 3 if len(several) == 1 else several)
    return red, green, blue


def describe_texts(processor: RefSegProcessor) -> dict[str, Any]:
    """What `ExportSettings` says of texts."""
    return {
        "max_text_length": processor.max_text_length,
        "text_truncation": processor.text_truncation,
        "vocab_size": len(processor.tokenizer),
    }


def write_tokenizer(processor: RefSegProcessor, folder: Path) -> None:
    """Writes `tokenizer.json`, which pads and cuts texts as the processor does.

    Where the end token is cut off with the rest, the file cuts nothing: a tokenizer always keeps it.

    Raises:
        ValueError: the tokenizer has no such file.
    """
    tokenizer = processor.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"A {type(tokenizer).__name__} has no {TOKENIZER_FILE}, which exported models read: save the processor "
            "with the fast tokenizer of its kind."
        )
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.enable_padding(direction=tokenizer.padding_side, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    if processor.text_truncation == "keep_end_token":
        copy.enable_truncation(processor.max_text_length)
    else:
        copy.no_truncation()
    with writing_into(folder):
        copy.save(str(folder / TOKENIZER_FILE))
