"""The model and the processor of a recipe: a saved model, one on pretrained encoders, or one from random weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoConfig, BertTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import SizeDict

from ..auto import MODELS, AutoModelForReferringSegmentation
from ..data.catalog import DATASETS
from ..data.vocabulary import load_glove, train_word_tokenizer
from ..files import writing_into
from ..hub.saved_models import check_processor, load_config, load_processor, load_tokenizer, load_whole_model
from ..modeling.configuration_refseg import MaskGroundingConfig
from ..modeling.image_processing_refseg import RefSegImageProcessor
from ..modeling.modeling_video_lavt import VideoLavtForReferringSegmentation
from ..modeling.processing_refseg import RefSegProcessor
from ..modeling.recurrent_text_refseg import RecurrentTextEncoder
from .adapters import add_adapter, check_kind, find_base_model, is_adapter
from .arguments import WORDS, ModelArguments, RefSegTrainingArguments
from .resuming import load_weights
from .run_options import SAVED_WITH_A_MODEL

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_model_and_processor(
    arguments: ModelArguments, sentences: Iterable[str] = ()
) -> tuple[PreTrainedModel, RefSegProcessor]:
    """The model and its processor; a tokenizer of words reads the sentences, those of the training split."""
    if arguments.model_name_or_path:
        return load_model_and_processor(arguments, sentences)
    tokenizer = build_tokenizer(arguments, sentences)
    image_processor = build_image_processor(arguments)
    config_class = model_class_of(arguments.model_type).config_class
    max_text_length = arguments.max_text_length or config_class.max_text_length
    processor = RefSegProcessor(image_processor, tokenizer, max_text_length=max_text_length)
    values = dict(arguments.config)
    if values.get("mask_grounding") is not None:
        values["mask_grounding"] = MaskGroundingConfig.for_tokenizer(tokenizer, **values["mask_grounding"])
    if "special_token_ids" in {option.name for option in fields(config_class)}:
        values.setdefault("special_token_ids", sorted(tokenizer.all_special_ids))
    text_config = {"vocab_size": len(tokenizer), **values.get("text_config", {})}
    if arguments.vision_name_or_path:
        model_class = model_class_of(arguments.model_type)
        if arguments.text_name_or_path is None:
            values["text_config"] = text_config
        model = model_class.from_encoders(arguments.vision_name_or_path, arguments.text_name_or_path, **values)
    else:
        config = AutoConfig.for_model(arguments.model_type, **{**values, "text_config": text_config})
        model = AutoModelForReferringSegmentation.from_config(config)
    if arguments.word_vectors:
        if not isinstance(model.text_encoder, RecurrentTextEncoder):
            raise ValueError("word_vectors goes with a recurrent text encoder: leave it out, or change text_config.")
        model.text_encoder.load_word_vectors(load_glove(arguments.word_vectors, tokenizer.get_vocab()))
    return model, processor


def load_model_and_processor(
    arguments: ModelArguments, sentences: Iterable[str]
) -> tuple[PreTrainedModel, RefSegProcessor]:
    """A saved model and its processor, with the sizes of images and texts that are named.

    An image LAVT becomes what `model_type` says, where that is a video LAVT.

    Raises:
        ValueError: an adapter, a tokenizer with other words than the model's, a size that it does not take, or a model
            of another method, which cannot become what `model_type` says.
    """
    name = arguments.model_name_or_path
    check_whole_model(name)
    model, processor = load_whole_model(name, dtype=None), load_processor(name)
    check_processor(processor, model.config)
    if arguments.tokenizer_name_or_path:
        words = build_tokenizer(arguments, sentences).get_vocab()
        if words != processor.tokenizer.get_vocab():
            raise ValueError(
                f"{name} has another tokenizer than {arguments.tokenizer_name_or_path}: leave tokenizer_name_or_path "
                "out, it comes with the saved model."
            )
    set_input_sizes(model, processor, arguments)
    return change_method(model, processor, arguments), processor


def change_method(model: PreTrainedModel, processor: RefSegProcessor, arguments: ModelArguments) -> PreTrainedModel:
    """The saved model, or a video LAVT that starts from its weights."""
    name, saved, wanted = arguments.model_name_or_path, model.config.model_type, arguments.model_type
    if wanted in (None, saved):
        if arguments.config:
            raise ValueError(f"{name} comes with its configuration: leave config out, to go on from it as it is.")
        return model
    model_class = model_class_of(wanted)
    if saved != "lavt" or not issubclass(model_class, VideoLavtForReferringSegmentation):
        raise ValueError(
            f"{name} is a model of type {saved}, not {wanted}: leave model_type out to go on from it as it is."
        )
    processor.max_text_length = arguments.max_text_length or model_class.config_class.max_text_length
    return model_class.from_image_lavt(model, **arguments.config)


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


def adapt(
    model: PreTrainedModel,
    processor: RefSegProcessor,
    arguments: ModelArguments,
    training: RefSegTrainingArguments,
    checkpoint: str | None,
) -> PreTrainedModel | PeftModel:
    """The model with the adapter to train, if any; its base, if new, is saved, or was when the run began."""
    if arguments.adapter == "none":
        return model
    if not arguments.model_name_or_path:
        if checkpoint is None:
            base = Path(training.output_dir, "base_model").resolve()
            check_new_base(base, training)
            if training.process_index == 0:
                with writing_into(base):
                    model.save_pretrained(base)
                    processor.save_pretrained(base)
        else:
            check_kind(checkpoint, adapter=True)
            base = find_base_model(checkpoint)
            check_config(model.config, base)
            load_weights(model, base)
        model.name_or_path = str(base)
    rank = arguments.lora_rank if arguments.adapter == "lora" else None
    return add_adapter(model, lora_rank=rank, lora_alpha=arguments.lora_alpha)


def check_new_base(base: Path, training: RefSegTrainingArguments) -> None:
    """Raises ValueError where a new base model would be written in vain, or in the place of one that is needed."""
    output = Path(training.output_dir)
    check_kind(output, adapter=True)
    if training.push_to_hub:
        raise ValueError(
            "push_to_hub: nobody else could load the adapter of a model that only lies in output_dir. Push the base "
            "model first, and give its id on the Hub as model_name_or_path."
        )
    needed = sorted([*output.glob("checkpoint-*"), *output.glob("adapter_model.*")])
    if base.exists() and needed:
        raise ValueError(
            f"{needed[0]} belongs to the base model {base}, which a new run would replace: choose another output_dir, "
            "or delete both."
        )


def build_image_processor(arguments: ModelArguments) -> RefSegImageProcessor:
    options = dict(model_class_of(arguments.model_type).config_class.image_processor_defaults)
    if arguments.image_size is not None:
        options["size"] = square_of(arguments.image_size, options.get("size", RefSegImageProcessor.size))
    return RefSegImageProcessor(**options)


def square_of(image_size: int, names: Iterable[str]) -> dict[str, int]:
    """A size of an image processor that has these names, such as `height` and `width`."""
    return dict.fromkeys(names, image_size)


def check_config(config: PreTrainedConfig, base_model: str) -> None:
    """Raises ValueError where a base model was made by other options than those of this run."""
    saved = load_config(base_model).to_dict()
    changed = [
        name for name, value in config.to_dict().items() if name not in SAVED_WITH_A_MODEL and value != saved.get(name)
    ]
    if changed:
        raise ValueError(
            f"The base model {base_model} of the run to resume has another {', '.join(changed)}. Give the options of "
            "that run, or choose another output_dir."
        )


def build_tokenizer(arguments: ModelArguments, sentences: Iterable[str]):
    name = arguments.tokenizer_name_or_path or arguments.text_name_or_path
    if name is None:
        raise ValueError("A model from random weights needs tokenizer_name_or_path.")
    if name in DATASETS and (words := DATASETS[name].load_words()) is not None:
        return BertTokenizer(vocab={word: number for number, word in enumerate((*SPECIAL_TOKENS, *words))})
    if name == WORDS:
        return train_word_tokenizer(sentences)
    return load_tokenizer(name)


def model_class_of(model_type: str) -> type[PreTrainedModel]:
    classes = {config_class.model_type: model_class for config_class, model_class in MODELS.items()}
    if model_type not in classes:
        raise ValueError(f"Unknown model_type {model_type!r}. Choose one of: {', '.join(classes)}.")
    return classes[model_type]
