"""New models and their processors: on pretrained encoders, or from random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

from transformers import AutoConfig, BertTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..auto import AutoModelForReferringSegmentation, load_model_class, registered_configs
from ..data.catalog import DATASETS
from ..data.vocabulary import load_glove, train_word_tokenizer
from ..hub.saved_models import load_tokenizer
from ..modeling.checks_refseg import names_of
from ..modeling.configuration_refseg import RefSegConfig
from ..modeling.image_processing_refseg import RefSegImageProcessor
from ..modeling.messages_refseg import nearest_names
from ..modeling.processing_refseg import RefSegProcessor
from ..modeling.recurrent_text_refseg import RecurrentTextEncoder
from .arguments import WORDS, ModelArguments

# Options of their own, not fields of the configuration.
ENCODERS = ("vision_name_or_path", "text_name_or_path")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_new_model(arguments: ModelArguments, sentences: Iterable[str]) -> tuple[PreTrainedModel, RefSegProcessor]:
    """A new model and its processor; a tokenizer of words reads the sentences, those of the training split.

    Raises:
        ValueError: options that do not fit each other, such as texts that are longer than the model takes them.
    """
    tokenizer = build_tokenizer(arguments, sentences)
    model_class = model_class_of(arguments.model_type)
    config_class = model_class.config_class
    max_text_length = arguments.max_text_length or config_class.max_text_length
    processor = RefSegProcessor(build_image_processor(arguments), tokenizer, max_text_length=max_text_length)
    values = with_token_ids(config_class, arguments.config_fields, tokenizer)
    if "special_token_ids" in {option.name for option in fields(config_class)}:
        values.setdefault("special_token_ids", sorted(tokenizer.all_special_ids))
    text_config = {"vocab_size": len(tokenizer), **values.get("text_config", {})}
    if arguments.vision_name_or_path:
        if arguments.text_name_or_path is None:
            values["text_config"] = text_config
        check_fields(model_class, values)
        check_needed(model_class, values)
        model = model_class.from_encoders(arguments.vision_name_or_path, arguments.text_name_or_path, **values)
    else:
        config = AutoConfig.for_model(arguments.model_type, **{**values, "text_config": text_config})
        model = AutoModelForReferringSegmentation.from_config(config)
    model.config.check_text_length(max_text_length)
    model.check_image_size(*sides_of(processor.image_processor.size))
    if arguments.word_vectors:
        if not isinstance(model.text_encoder, RecurrentTextEncoder):
            raise ValueError("word_vectors goes with a recurrent text encoder: leave it out, or change text_config.")
        model.text_encoder.load_word_vectors(load_glove(arguments.word_vectors, tokenizer.get_vocab()))
    return model, processor


def check_fields(model_class: type[PreTrainedModel], config: Mapping[str, Any]) -> None:
    """Raises ValueError, before encoders are loaded, for a field that a model does not have, on encoders or new."""
    known = {*options_on_encoders(model_class), *names_of(model_class.config_class)}
    unknown = [name for name in config if name not in known]
    if unknown:
        hint = nearest_names(unknown, sorted(known)) or "."
        raise ValueError(f"config: {model_class.config_class.__name__} has no field {', '.join(unknown)}{hint}")


def check_needed(model_class: type[PreTrainedModel], config: Mapping[str, Any]) -> None:
    """Raises ValueError where something is missing that a model on pretrained encoders needs."""
    options = options_on_encoders(model_class)
    missing = [name for name, each in options.items() if each.default is Parameter.empty and name not in config]
    if missing:
        raise ValueError(
            f"config: {model_class.config_class.model_type} on pretrained encoders needs {', '.join(missing)} as well."
        )


def options_on_encoders(model_class: type[PreTrainedModel]) -> dict[str, Parameter]:
    """What `from_encoders` takes beside the two encoders and the fields of the configuration, by name."""
    parameters = signature(model_class.from_encoders).parameters
    return {
        name: each
        for name, each in parameters.items()
        if each.kind is not Parameter.VAR_KEYWORD and name not in ENCODERS
    }


def with_token_ids(
    config_class: type[RefSegConfig], config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Fields of a configuration; the training tasks among them are told of the tokenizer's tokens."""
    tasks = config_class.task_configs()
    named = {name: value for name, value in config.items() if name in tasks and value is not None}
    return {**config, **{name: tasks[name].for_tokenizer(tokenizer, **value) for name, value in named.items()}}


def build_tokenizer(arguments: ModelArguments, sentences: Iterable[str]) -> PreTrainedTokenizerBase:
    name = arguments.tokenizer_name_or_path or arguments.text_name_or_path
    if name is None:
        raise ValueError("A model from random weights needs tokenizer_name_or_path.")
    if name in DATASETS and (words := DATASETS[name].load_words()) is not None:
        return BertTokenizer(vocab={word: number for number, word in enumerate((*SPECIAL_TOKENS, *words))})
    if name == WORDS:
        return train_word_tokenizer(sentences)
    return load_tokenizer(name)


def build_image_processor(arguments: ModelArguments) -> RefSegImageProcessor:
    options = dict(model_class_of(arguments.model_type).config_class.image_processor_defaults)
    if arguments.image_size is not None:
        options["size"] = square_of(arguments.image_size, options.get("size", RefSegImageProcessor.size))
    return RefSegImageProcessor(**options)


def square_of(image_size: int, names: Iterable[str]) -> dict[str, int]:
    """A size of an image processor that has these names, such as `height` and `width`."""
    return dict.fromkeys(names, image_size)


def sides_of(size: Mapping[str, int]) -> tuple[int, int]:
    """Height and width of what an image processor of this size makes, which fills up to a square."""
    return (size["height"], size["width"]) if "height" in size else (size["longest_edge"], size["longest_edge"])


def model_class_of(model_type: str | None) -> type[PreTrainedModel]:
    configs = registered_configs()
    if model_type not in configs:
        raise ValueError(f"Unknown model_type {model_type!r}. Choose one of: {', '.join(configs)}.")
    return load_model_class(configs[model_type])
