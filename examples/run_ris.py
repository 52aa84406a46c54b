"""Trains and scores a model for referring image segmentation: run_ris.py [RECIPE.yaml] [--option value ...].

A recipe is a YAML file with the options of this script; options on the command line go before those of the recipe.
`run_ris.py --help` lists those of this library, `--help_trainer` those of Trainer as well. What is wrong with the
input is told in one line; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from huggingface_hub.constants import ENDPOINT
from peft import PeftModel
from PIL import Image
from transformers import (
    AutoConfig,
    BertTokenizer,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.debug_utils import DebugOption
from transformers.image_utils import SizeDict

from hf_refseg import AutoModelForReferringSegmentation, RefSegImageProcessor, RefSegProcessor, load_refseg
from hf_refseg.auto import MODELS
from hf_refseg.data.examples import ReferentExamples, RefSegCollator, SentenceExamples, open_image
from hf_refseg.data.leakage import TrainingPart, drop_images, join_training_splits, read_leakage_list
from hf_refseg.data.vocabulary import load_glove, train_word_tokenizer
from hf_refseg.datasets_scripts.refshapes import REFSHAPES_WORDS
from hf_refseg.datasets_scripts.refshapes_video import REFSHAPES_VIDEO_WORDS
from hf_refseg.describe import align
from hf_refseg.evaluation import (
    EvaluationResult,
    VideoEvaluationResult,
    evaluate_model,
    get_protocol,
    predict_cases,
    select_worst_and_best,
)
from hf_refseg.files import public_name, require_writable, write_json, write_picture, writing_into
from hf_refseg.inputs import check_processor, load_config, load_processor, load_tokenizer, load_whole_model
from hf_refseg.modeling.configuration_refseg import MaskGroundingConfig
from hf_refseg.modeling.names_refseg import nearest_names
from hf_refseg.modeling.recurrent_text_refseg import RecurrentTextEncoder
from hf_refseg.sources import unique_names
from hf_refseg.training.adapters import add_adapter, check_kind, find_base_model, is_adapter
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.callbacks import PredictionPictures
from hf_refseg.training.checkpoints import last_complete_checkpoint
from hf_refseg.training.feature_cache import EncodedCollator, cache_image_features
from hf_refseg.training.run_options import DATASETS, SAVED_WITH_A_MODEL, given_options
from hf_refseg.training.trainer import RefSegTrainer, load_weights
from hf_refseg.visualization import draw_comparison
from hf_refseg_cli import expected_errors, message_of

REFSHAPES = "refshapes"
WORDS = "words"
# Tokenizers with a token for each word of a generated data set; that of videos knows the words of both.
WORD_LISTS = {REFSHAPES: REFSHAPES_WORDS, "refshapes_video": REFSHAPES_VIDEO_WORDS}
# Options that are mappings: the command line replaces single entries of the recipe's.
MAPPINGS = ("config", "dataset_options", "image_data")
DRAWN_CASES = 8
# Shows Trainer's options as well, which are many.
HELP_TRAINER = "--help_trainer"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class ModelArguments:
    """Which model: a saved one, a new one on pretrained encoders, or (with neither) one from random weights."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved model with its processor, on the Hub or on disk, to go on from."}
    )
    new_model_type: ClassVar[str] = "lavt"

    model_type: str | None = field(
        default=None, metadata={"help": "The method of a new model, lavt if absent; that of a saved model is its own."}
    )
    vision_name_or_path: str | None = field(default=None, metadata={"help": "Pretrained image encoder."})
    text_name_or_path: str | None = field(default=None, metadata={"help": "Pretrained text encoder."})
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": 'Tokenizer; the text encoder\'s if absent. "refshapes" or "refshapes_video": a token for each '
            'word of that data set. "words": one for each word of the training split, for a text encoder from random '
            "weights."
        },
    )
    word_vectors: str | None = field(
        default=None,
        metadata={"help": "GloVe file with vectors of a recurrent text encoder's words, such as glove.6B.300d.txt."},
    )
    config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the model's configuration, as a mapping (YAML or JSON)."}
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the square that the model sees; the method's, or the saved model's own, if absent."
        },
    )
    max_text_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens per text, special ones included; those of the method's paper, or of the saved model, if "
            "absent."
        },
    )
    adapter: Literal["none", "heads", "lora"] = field(
        default="none",
        metadata={
            "help": '"heads": the encoders stay as they are, and an adapter that holds the rest alone is saved; '
            '"lora": as well low-rank updates of their attention. A new model is saved as output_dir/base_model.'
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the low-rank updates."})
    lora_alpha: float = field(default=16, metadata={"help": "The updates are scaled by lora_alpha / lora_rank."})

    def __post_init__(self):
        self.config = read_mapping("config", self.config)
        has_new_words = self.tokenizer_name_or_path == WORDS
        if (self.vision_name_or_path is None) != (self.text_name_or_path is None) and not has_new_words:
            raise ValueError("Give vision_name_or_path and text_name_or_path, or neither of them.")
        if has_new_words and self.text_name_or_path:
            raise ValueError('tokenizer_name_or_path "words" goes with no text_name_or_path, which has other words.')
        if self.model_name_or_path and (self.vision_name_or_path or self.config or self.word_vectors):
            raise ValueError(
                "model_name_or_path takes no encoders and no config, nor word_vectors: they come with the saved model."
            )
        for name in ("image_size", "max_text_length"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} has to be 1 at least, got {getattr(self, name)}.")
        changed = [name for name in ("lora_rank", "lora_alpha") if name in given_options(self)]
        if changed and self.adapter != "lora":
            raise ValueError(f"{changed[0]} goes with adapter lora, not with {self.adapter}: leave it out.")
        if self.model_type is None and self.model_name_or_path is None:
            self.model_type = self.new_model_type


@dataclass
class DataArguments:
    """Which data to train on, and what to score in the end."""

    _argument_group_name = "data"

    dataset_name: list[str] | str = field(
        default_factory=lambda: [REFSHAPES],
        metadata={
            "help": "refcoco, refcoco+, refcocog, refshapes ..., a prepared folder, a Hub id; or several: they are "
            "joined, without any image that is in a val or test split of one of them. They share all options but "
            "split_by; prepare those first that take others."
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's original files."})
    split_by: list[str] | None = field(
        default=None, metadata={"help": "Who split the data set (unc, umd, google ...), or each of several."}
    )
    leakage_list: str | None = field(
        default=None,
        metadata={
            "help": "JSON file of COCO image ids that are dropped from the training data as well, such as the "
            "published list of the val and test images of RefCOCO, RefCOCO+ and RefCOCOg."
        },
    )
    mask_overlap: str | None = field(
        default=None, metadata={"help": '"union" or "background", where the polygons of an annotation overlap.'}
    )
    dataset_options: dict | str | None = field(
        default=None, metadata={"help": "Further options of load_refseg, as a mapping (YAML or JSON)."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split that is scored during training."})
    test_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits that are scored in the end, of several data sets as refcoco/testA; all but train_split if "
            "absent."
        },
    )
    protocol: str = field(default="original", metadata={"help": "Protocol of the scores in the end."})
    max_test_images: int | None = field(default=None, metadata={"help": "Images per split scored in the end."})
    cache_image_features: str | None = field(
        default=None,
        metadata={
            "help": "Folder for what the image encoder, which has to be frozen, makes of each image: it is encoded "
            "once, also if the run is started again. The folder belongs to one encoder and one preprocessing."
        },
    )

    def __post_init__(self):
        self.dataset_options = read_mapping("dataset_options", self.dataset_options)
        if isinstance(self.test_splits, str):
            self.test_splits = [self.test_splits]
        if isinstance(self.split_by, str):
            self.split_by = [self.split_by]
        if isinstance(self.dataset_name, list) and len(self.dataset_name) == 1:
            self.dataset_name = self.dataset_name[0]
        names = self.dataset_names
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"dataset_name names {repeated[0]} more than once.")
        if self.split_by is not None and len(self.split_by) not in (1, len(names)):
            raise ValueError(
                f"split_by has {len(self.split_by)} values for {len(names)} data sets: give one for all, or one each."
            )
        get_protocol(self.protocol)

    @property
    def dataset_names(self) -> list[str]:
        return [self.dataset_name] if isinstance(self.dataset_name, str) else self.dataset_name

    @property
    def shown_names(self) -> dict[str, str]:
        """What results and their readers call each data set: by its name, a folder by its own alone."""
        names = self.dataset_names
        return dict(zip(names, unique_names(map(public_name, names)), strict=True))

    def load_options(self) -> dict[str, dict[str, Any]]:
        """The options of `load_refseg` for each data set, by its name.

        Raises:
            ValueError: one of them is given by itself and in `dataset_options`.
        """
        given = {"data_dir": self.data_dir, "mask_overlap": self.mask_overlap}
        return {
            name: join_options({**given, "split_by": split_by}, self.dataset_options)
            for name, split_by in self.split_by_of_each().items()
        }

    def shown_options(self) -> dict[str, dict[str, Any]]:
        """As `load_options`, by the `shown_names` of the data sets."""
        return {self.shown_names[name]: options for name, options in self.load_options().items()}

    def split_by_of_each(self) -> dict[str, str | None]:
        """Who split each data set, by its name."""
        given = self.split_by or [None]
        return dict(zip(self.dataset_names, given if len(given) > 1 else given * len(self.dataset_names), strict=True))


def join_options(given: dict[str, Any], dataset_options: dict[str, Any]) -> dict[str, Any]:
    """Options of `load_refseg`: those with a name of their own, None = absent, and those in `dataset_options`."""
    named = {option: value for option, value in given.items() if value is not None}
    twice = sorted(named.keys() & dataset_options.keys())
    if twice:
        raise ValueError(f"{twice[0]} is given by itself and in dataset_options: leave one of them out.")
    return {**named, **dataset_options}


def read_mapping(name: str, value: dict | str | None) -> dict:
    """A mapping given as such or as YAML or JSON."""
    try:
        mapping = read_json_or_yaml(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is neither YAML nor JSON: {error}") from error
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError(f"{name} has to be a mapping of names to values, not {value!r}.")
    return dict(mapping or {})


def read_json_or_yaml(text: str) -> object:
    # YAML takes JSON's 1e-4 for a text.
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def parse_arguments(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, RefSegTrainingArguments]:
    """Options from the command line, then from the recipe (the first argument, if it is no option), then defaults.

    Mappings of the command line, such as `config`, replace single entries of the recipe's.

    Raises:
        ValueError: a recipe that is no mapping, or an option that does not exist.
        FileNotFoundError: no such recipe.
    """
    return parse_options(arguments, (ModelArguments, DataArguments, RefSegTrainingArguments), __doc__)


def parse_options(arguments: Sequence[str], groups: tuple[type, ...], description: str) -> tuple:
    """An object of each of the dataclasses `groups`, as `parse_arguments` makes them."""
    parser = build_parser(groups, description, all_options=HELP_TRAINER in arguments)
    recipe: dict = {}
    if arguments and not arguments[0].startswith("-"):
        names = [option.name for group in groups for option in fields(group) if option.init]
        recipe = read_recipe(Path(arguments[0]), names)
        parser.set_defaults(**recipe)
        arguments = arguments[1:]
    *parsed, unknown = parser.parse_args_into_dataclasses(args=list(arguments), return_remaining_strings=True)
    if unknown:
        # Each name once: the parser takes it with hyphens as well.
        known = [name for action in parser._actions for name in action.option_strings if "-" not in name[2:]]
        hint = nearest_names([each.partition("=")[0] for each in unknown], known)
        raise ValueError(f"There is no option {' '.join(unknown)}{hint or f'; --help and {HELP_TRAINER} list all.'}")
    for options in parsed:
        for name in {option.name for option in fields(options)}.intersection(MAPPINGS):
            setattr(options, name, {**read_mapping(name, recipe.get(name)), **getattr(options, name)})
    return tuple(parsed)


def build_parser(groups: tuple[type, ...], description: str, all_options: bool) -> HfArgumentParser:
    """Takes the options of all groups; its help names all of them, or those of this library alone."""
    parser = HfArgumentParser(
        groups,
        usage="%(prog)s [RECIPE.yaml] [--option value ...]",
        description=description,
        epilog=f"{HELP_TRAINER} lists Trainer's own options as well, such as --output_dir, --max_steps, "
        "--per_device_train_batch_size, --use_cpu and --push_to_hub.",
        allow_abbrev=False,
    )
    parser.add_argument(HELP_TRAINER, action="help", help="show all options, those of Trainer as well, and exit")
    if not all_options:
        trainers = {
            option.name for option in fields(TrainingArguments)
        } - RefSegTrainingArguments.__annotations__.keys()
        for action in parser._actions:
            if action.dest in trainers:
                action.help = argparse.SUPPRESS
    return parser


def read_recipe(path: Path, names: Sequence[str]) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}.")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no recipe, as it is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe: a mapping of options to values is expected.")
    unknown = [str(name) for name in recipe if name not in names]
    if unknown:
        hint = nearest_names(unknown, names) or f"; --help and {HELP_TRAINER} list all options."
        raise ValueError(f"{path}: there is no option {', '.join(unknown)}{hint}")
    return recipe


def build_model_and_processor(
    arguments: ModelArguments, sentences: Iterable[str] = ()
) -> tuple[PreTrainedModel, RefSegProcessor]:
    """The model and its processor; a tokenizer of words reads the sentences, those of the training split."""
    if arguments.model_name_or_path:
        model, processor = load_model_and_processor(arguments, sentences)
        if arguments.model_type not in (None, model.config.model_type):
            raise ValueError(
                f"{arguments.model_name_or_path} is a model of type {model.config.model_type}, not "
                f"{arguments.model_type}: leave model_type out to go on from it as it is."
            )
        return model, processor
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

    Raises:
        ValueError: an adapter, a tokenizer with other words than the model's, or a size that it does not take.
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
    return model, processor


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
) -> PeftModel:
    """The model with the adapter to train; a new model is saved first, or was when the run to resume began."""
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
    if name in WORD_LISTS:
        words = (*SPECIAL_TOKENS, *WORD_LISTS[name])
        return BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    if name == WORDS:
        return train_word_tokenizer(sentences)
    return load_tokenizer(name)


def model_class_of(model_type: str) -> type[PreTrainedModel]:
    classes = {config_class.model_type: model_class for config_class, model_class in MODELS.items()}
    if model_type not in classes:
        raise ValueError(f"Unknown model_type {model_type!r}. Choose one of: {', '.join(classes)}.")
    return classes[model_type]


@dataclass(frozen=True)
class Splits:
    """What is trained on, and what is scored.

    Attributes:
        train: the rows to train on.
        trained: what each data set gives to them.
        evaluated: rows that are scored during training, by data set.
        tested: rows that are scored in the end, by split, or "data set/split" where there are several data sets.

    Data sets go by their `shown_names`.
    """

    train: Dataset
    trained: dict[str, TrainingPart]
    evaluated: dict[str, Dataset]
    tested: dict[str, Dataset]


def load_splits(arguments: DataArguments) -> Splits:
    data = {name: load_refseg(name, **options) for name, options in arguments.load_options().items()}
    for name, splits in data.items():
        for split in (arguments.train_split, arguments.eval_split):
            if split not in splits:
                raise ValueError(f"{name} has no split '{split}', only {', '.join(splits)}.")
    several = len(data) > 1
    available = {
        f"{name}/{split}" if several else split: rows
        for name, splits in data.items()
        for split, rows in splits.items()
    }
    tested = arguments.test_splits
    if tested is None:
        tested = [split for split in available if split.rpartition("/")[2] != arguments.train_split]
    for split in tested:
        if split not in available:
            raise ValueError(f"{', '.join(data)}: there is no split '{split}', only {', '.join(available)}.")
    train, trained = select_training_rows(data, arguments)
    shown = arguments.shown_names
    shown_splits = {f"{name}/{split}": f"{shown[name]}/{split}" for name, splits in data.items() for split in splits}
    return Splits(
        train=train,
        trained={shown[name]: part for name, part in trained.items()},
        evaluated={shown[name]: splits[arguments.eval_split] for name, splits in data.items()},
        tested={shown_splits.get(split, split): available[split] for split in tested},
    )


def select_training_rows(
    data: dict[str, DatasetDict], arguments: DataArguments
) -> tuple[Dataset, dict[str, TrainingPart]]:
    """The training split, of several data sets without leakage; and what each data set gives to it."""
    if len(data) > 1 or arguments.leakage_list:
        listed = read_leakage_list(arguments.leakage_list) if arguments.leakage_list else frozenset()
        return join_training_splits(data, train_split=arguments.train_split, listed=listed)
    # The published splits of one data set are trained on as they are.
    ((name, splits),) = data.items()
    train, part = drop_images(splits[arguments.train_split], frozenset())
    return train, {name: part}


def describe_dropped(trained: dict[str, TrainingPart]) -> str:
    """A line for each data set, on what was dropped from its training split."""
    return "\n".join(
        f"{name}: {part.describe_dropped()} are dropped as they are held out." for name, part in trained.items()
    )


def sentences_of(rows: Dataset) -> Iterator[str]:
    """All sentences of a split of images, as they were written."""
    for sentences in rows.select_columns("sentences")[:]["sentences"]:
        yield from (sentence["raw"] for sentence in sentences)


def items_to_draw(evaluated: Sequence[SentenceExamples], number: int) -> list[dict]:
    """So many first items, in equal parts of each data set."""
    of_each = math.ceil(number / len(evaluated))
    return [examples[index] for examples in evaluated for index in range(min(of_each, len(examples)))][:number]


def checkpoint_to_resume(arguments: RefSegTrainingArguments) -> str | None:
    """The folder of the checkpoint to go on from, if any; raises ValueError for one that is none."""
    named = arguments.resume_from_checkpoint
    if named == "auto":
        return last_complete_checkpoint(arguments.output_dir)
    if named == "never":
        return None
    if not Path(named, "trainer_state.json").is_file():
        found = "holds no trainer_state.json" if Path(named).is_dir() else "is no folder"
        raise ValueError(
            f"resume_from_checkpoint: {named} {found}. Name a folder checkpoint-<step> of an earlier run, or say auto "
            "or never."
        )
    return named


def score_splits(
    trainer: RefSegTrainer, tested: dict[str, Dataset], arguments: DataArguments
) -> dict[str, EvaluationResult]:
    return {
        split: evaluate_model(
            trainer.model,
            trainer.processing_class,
            rows,
            arguments.protocol,
            batch_size=trainer.args.per_device_eval_batch_size,
            max_images=arguments.max_test_images,
            progress=not trainer.args.disable_tqdm,
        )
        for split, rows in tested.items()
    }


def card_key(split: str, result: EvaluationResult, arguments: DataArguments) -> tuple[str, str, str]:
    """Data set, split and protocol for the model card, which has to say where only a part of a split was scored."""
    dataset, _, name = split.rpartition("/")
    label = name if arguments.max_test_images is None else f"{name} (first {result.images} images)"
    return dataset or arguments.shown_names[arguments.dataset_name], label, arguments.protocol


def draw_pictures(
    trainer: RefSegTrainer, tested: dict[str, Dataset], results: dict[str, EvaluationResult], arguments: DataArguments
) -> list[Path]:
    """Draws cases of each data set's first scored split, one every so many sentences, and the worst and best ones.

    Writes predictions.png and worst_and_best.png, named after the split as well where there are several data sets, as
    predictions_refcoco_val.png; returns the paths.
    """
    first_splits: dict[str, str] = {}
    for split in results:
        first_splits.setdefault(split.rpartition("/")[0], split)
    paths = []
    for dataset, split in first_splits.items():
        records = results[split].records
        every = max(1, len(records) // DRAWN_CASES)
        cases = {
            "predictions": records[::every][:DRAWN_CASES],
            "worst_and_best": select_worst_and_best(records, k=DRAWN_CASES // 2),
        }
        for title, drawn in cases.items():
            rows = predict_cases(trainer.model, trainer.processing_class, tested[split], drawn, arguments.protocol)
            name = f"{title}_{split.replace('/', '_')}" if dataset else title
            paths.append(Path(trainer.args.output_dir) / f"{name}.png")
            write_picture(paths[-1], draw_comparison(rows))
    return paths


def describe_results(results: dict[str, EvaluationResult]) -> dict[str, dict]:
    """All of each result but its single sentences."""
    described = {split: asdict(result) for split, result in results.items()}
    for result in described.values():
        del result["records"]
    return described


def describe_datasets(arguments: DataArguments) -> str | list[str]:
    """For metrics.json: the name of the data set, or those of several."""
    names = list(arguments.shown_names.values())
    return names if len(names) > 1 else names[0]


def describe_parts(trained: dict[str, TrainingPart], arguments: DataArguments) -> dict[str, TrainingPart]:
    """For the model card: what each data set gave to the training, by its name and who split it."""
    shown = arguments.shown_names
    return {
        f"{shown[name]} ({split_by})" if split_by else shown[name]: trained[shown[name]]
        for name, split_by in arguments.split_by_of_each().items()
    }


def options_of_run(model: ModelArguments, data: Any, datasets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What to keep of the options of a run, beside those of the training; `datasets` are those of `load_refseg`.

    The model's configuration and processor hold the others of the model.
    """
    kept = {name for name in given_options(model) if name not in ("config", "image_size", "max_text_length")}
    in_datasets = ("data_dir", "split_by", "mask_overlap", "dataset_options")
    return {
        "model": {name: getattr(model, name) for name in kept},
        "data": {name: value for name, value in given_options(data).items() if name not in in_datasets},
        DATASETS: datasets,
    }


def starting_points_on_hub(arguments: ModelArguments) -> list[str] | None:
    """The pretrained models that a run starts from and that others can load; None where there is none."""
    names = (arguments.model_name_or_path, arguments.vision_name_or_path, arguments.text_name_or_path)
    return [name for name in names if name and not Path(name).exists()] or None


def save_or_push(trainer: RefSegTrainer, **card: Any) -> None:
    """Saves the model with its card, and uploads both where the arguments say so; `card` as in `write_model_card`."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.save_model()
        trainer.create_model_card(**card)


def describe_scores(results: Mapping[str, EvaluationResult | VideoEvaluationResult]) -> str:
    """A table of the scores of each split in percent."""
    names = list(dict.fromkeys(name for result in results.values() for name in result.metrics))
    rows = [
        (split, *(f"{result.metrics[name]:.2f}" if name in result.metrics else "" for name in names))
        for split, result in results.items()
    ]
    return align([("split", *names), *rows])


def closing_words(
    trainer: RefSegTrainer,
    results: Sequence[Mapping[str, EvaluationResult | VideoEvaluationResult]],
    pictures: Sequence[Path],
    shown: str = "IMAGE.jpg",
) -> str:
    """What a run says in the end: scores, where everything lies, and the command that uses it.

    Args:
        trainer: the trainer.
        results: the scores by split; a table for each item, all of whose splits have one protocol.
        pictures: the pictures that were drawn.
        shown: what the command segments.
    """
    folder = trainer.args.output_dir
    scored = [scores for scores in results if scores]
    lines = [
        f"\nScores in percent, protocol {next(iter(scores.values())).protocol}:\n{describe_scores(scores)}"
        for scores in scored
    ]
    lines.append(f"\nModel, processor and card: {folder}")
    if pictures:
        lines.append(f"Pictures: {', '.join(map(str, pictures))}")
    if trainer.args.push_to_hub:
        lines.append(f"On the Hub: {ENDPOINT}/{trainer.hub_model_id}")
    command = f'hf-refseg predict {shlex.quote(folder)} {shown} --text "what to segment" --output masks'
    return "\n".join([*lines, f"Try it: {command}"])


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict:
    """Runs the script with these arguments; returns what it wrote to metrics.json (nothing in further processes)."""
    model_arguments, data_arguments, training_arguments = parse_arguments(
        sys.argv[1:] if arguments is None else arguments
    )
    if training_arguments.should_save:
        require_writable(training_arguments.output_dir)
    checkpoint = checkpoint_to_resume(training_arguments)
    splits = load_splits(data_arguments)
    if training_arguments.process_index == 0 and (len(splits.trained) > 1 or data_arguments.leakage_list):
        print(describe_dropped(splits.trained))
    set_seed(training_arguments.seed)
    model, processor = build_model_and_processor(model_arguments, sentences_of(splits.train))
    if model_arguments.adapter != "none":
        model = adapt(model, processor, model_arguments, training_arguments, checkpoint)
    drawn = items_to_draw(
        [SentenceExamples(rows) for rows in splits.evaluated.values()], number=training_arguments.pictures
    )
    read_image, collator = open_image, RefSegCollator(processor)
    if data_arguments.cache_image_features:
        folder = data_arguments.cache_image_features
        rows = [splits.train, *splits.evaluated.values()]
        read_image = cache_image_features(folder, model, processor, rows, training_arguments).read
        collator = EncodedCollator(processor, model.dtype)
    evaluated = {name: SentenceExamples(rows, read_image) for name, rows in splits.evaluated.items()}
    trainer = RefSegTrainer(
        model=model,
        args=training_arguments,
        processing_class=processor,
        train_dataset=ReferentExamples(splits.train, training_arguments.seed, read_image),
        eval_dataset=evaluated if len(evaluated) > 1 else next(iter(evaluated.values())),
        callbacks=[PredictionPictures(processor, drawn), *callbacks],
        data_collator=collator,
        run_options=options_of_run(model_arguments, data_arguments, data_arguments.shown_options()),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    if not trainer.is_world_process_zero():
        return {}

    results = score_splits(trainer, splits.tested, data_arguments)
    report = {
        "dataset": describe_datasets(data_arguments),
        "protocol": data_arguments.protocol,
        "splits": describe_results(results),
        "training_data": {name: asdict(part) for name, part in splits.trained.items()},
        "training": {"steps": trained.global_step, **trained.metrics},
    }
    write_json(Path(training_arguments.output_dir) / "metrics.json", report)
    pictures = draw_pictures(trainer, splits.tested, results, data_arguments)
    save_or_push(
        trainer,
        metrics={card_key(split, result, data_arguments): result.metrics for split, result in results.items()},
        datasets=list(data_arguments.shown_names.values()),
        training_data=describe_parts(splits.trained, data_arguments),
        base_model=starting_points_on_hub(model_arguments),
        pictures=pictures,
    )
    print(closing_words(trainer, [results], pictures))
    return report


def run(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> None:
    """Runs a script; what is wrong with its input ends it with exit status 1 and one line on stderr.

    A bare `--debug` among the arguments shows the traceback; with a value it is Trainer's option of this name.
    """
    kept, debug = take_debug(arguments)
    try:
        main(kept)
    except expected_errors() as error:
        if debug:
            raise
        sys.exit(f"Error: {message_of(error)}")
    PartialState().destroy_process_group()  # Its threads may not outlive the interpreter.


def take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without a bare `--debug`, and whether it was among them."""
    values = {option.value for option in DebugOption}
    kept = [
        argument
        for argument, following in zip_longest(arguments, arguments[1:], fillvalue="")
        if argument != "--debug" or values.intersection(following.split())
    ]
    return kept, len(kept) < len(arguments)


if __name__ == "__main__":
    run(main, sys.argv[1:])
