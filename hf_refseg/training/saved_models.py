"""Saved models to go on from: as they are, or with other sizes, fields of their configuration, or as a video LAVT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_utils import SizeDict

from ..hub.saved_models import load_model
from ..modeling.messages_refseg import reason_of
from ..modeling.modeling_video_lavt import VideoLavtForReferringSegmentation
from ..modeling.processing_refseg import RefSegProcessor
from ..shipped import find_model
from .adapters import is_adapter
from .arguments import ModelArguments
from .new_models import build_tokenizer, model_class_of, square_of, with_token_ids


def load_saved_model(arguments: ModelArguments, sentences: Iterable[str]) -> tuple[PreTrainedModel, RefSegProcessor]:
    """A saved model and its processor, with the sizes and the fields of its configuration that are named.

    An image LAVT becomes what `model_type` says, where that is a video LAVT. Weights are float32, however they were
    saved.

    Raises:
        ValueError: an adapter, a tokenizer with other words than the model's, a size that it does not take, a
            field that its weights do not fit, or a model of another method, which cannot become what `model_type`
            says.
    """
    name = arguments.model_name_or_path
    if name is None:
        raise ValueError("A saved model needs model_name_or_path.")
    found = find_model(name)
    check_whole_model(found)
    # Small updates would be lost in the 8 bits of bfloat16.
    model, processor = load_model(found, device="cpu", dtype="float32")
    if arguments.tokenizer_name_or_path:
        words = build_tokenizer(arguments, sentences).get_vocab()
        if words != processor.tokenizer.get_vocab():
            raise ValueError(
                f"{name} has another tokenizer than {arguments.tokenizer_name_or_path}: leave tokenizer_name_or_path "
                "out, it comes with the saved model."
            )
    model = change_method(model, processor, arguments)
    set_input_sizes(model, processor, arguments)
    return model, processor


def change_method(model: PreTrainedModel, processor: RefSegProcessor, arguments: ModelArguments) -> PreTrainedModel:
    """The saved model with the fields of its configuration that are named, or a video LAVT that starts from it."""
    name, saved, wanted = arguments.model_name_or_path, model.config.model_type, arguments.model_type
    if wanted in (None, saved):
        return change_config(model, processor, arguments) if arguments.config else model
    model_class = model_class_of(wanted)
    if saved != "lavt" or not issubclass(model_class, VideoLavtForReferringSegmentation):
        raise ValueError(
            f"{name} is a model of type {saved}, not {wanted}: leave model_type out to go on from it as it is."
        )
    config_class = model_class.config_class
    processor.max_text_length = config_class.max_text_length
    return model_class.from_image_lavt(
        model, **with_token_ids(config_class, arguments.config_fields, processor.tokenizer)
    )


def change_config(model: PreTrainedModel, processor: RefSegProcessor, arguments: ModelArguments) -> PreTrainedModel:
    """A model of the saved weights with other fields of its configuration; training tasks that it lacks start new.

    Mappings, such as `backbone_config`, change the entries that they name.

    Raises:
        ValueError: a field that does not exist, or with which the model would have other weights.
    """
    given, old = arguments.config_fields, model.config
    own = {each.name for each in fields(old)} - {each.name for each in fields(PreTrainedConfig)}
    kept = {name: getattr(old, name) for name in own}
    values = {
        name: {**as_mapping(kept.get(name)), **value} if isinstance(value, Mapping) else value
        for name, value in given.items()
    }
    changed = type(model)(type(old)(**{**kept, **with_token_ids(type(old), values, processor.tokenizer)}))
    refused = f"{arguments.model_name_or_path} cannot go on with another {', '.join(given)}"
    try:
        report = changed.load_state_dict(model.state_dict(), strict=False)
    except RuntimeError as error:
        raise ValueError(f"{refused}, as its weights have other shapes: {reason_of(error)}") from error
    tasks = tuple(f"{task.name}." for task in model.task_classes)
    others = [name for name in (*report.missing_keys, *report.unexpected_keys) if not name.startswith(tasks)]
    if others:
        raise ValueError(
            f"{refused}, as not all of its weights would fit, such as {others[0]}: leave it out, or train a new model."
        )
    return changed.to(model.dtype).eval()


def as_mapping(value: Any) -> dict[str, Any]:
    """What a field of a configuration holds, as a mapping: a configuration, or that of a task; empty for None."""
    if isinstance(value, PreTrainedConfig):
        return value.to_dict()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else {}


def set_input_sizes(model: PreTrainedModel, processor: RefSegProcessor, arguments: ModelArguments) -> None:
    """Makes the processor of a saved model give it images and texts of other sizes, where those are named.

    Raises:
        ValueError: the model takes no images, or no texts, of that size.
    """
    if arguments.max_text_length is not None:
        model.config.check_text_length(arguments.max_text_length)
        processor.max_text_length = arguments.max_text_length
    if arguments.image_size is not None:
        size = square_of(arguments.image_size, dict(processor.image_processor.size))
        processor.image_processor.size = SizeDict(**size)
        blank = Image.new("RGB", (arguments.image_size, arguments.image_size))
        try:
            with torch.no_grad():
                model(**processor(blank, return_tensors="pt"), input_ids=torch.zeros(1, 2, dtype=torch.long))
        except ValueError as error:
            raise ValueError(f"image_size {arguments.image_size} does not go with this model: {error}") from error


def check_whole_model(name_or_path: str) -> None:
    if is_adapter(name_or_path):
        raise ValueError(
            f"{name_or_path} is an adapter: write a whole model with `hf-refseg merge`, and go on from that."
        )
