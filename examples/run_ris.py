"""Trains and scores a model for referring image segmentation: run_ris.py [RECIPE.yaml] [--option value ...].

A recipe is a YAML file with the options of this script; options on the command line go before those of the recipe.
`run_ris.py --help` lists them all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import yaml
from datasets import DatasetDict
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertTokenizer,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerState,
    set_seed,
)

from hf_refseg import AutoModelForReferringSegmentation, RefSegImageProcessor, RefSegProcessor, load_refseg
from hf_refseg.auto import MODELS
from hf_refseg.data.examples import ReferentExamples, RefSegCollator, SentenceExamples, open_image
from hf_refseg.datasets_scripts.refshapes import REFSHAPES_WORDS
from hf_refseg.evaluation import (
    EvaluationResult,
    evaluate_model,
    get_protocol,
    predict_cases,
    select_worst_and_best,
)
from hf_refseg.files import write_json
from hf_refseg.training.adapters import add_adapter, check_kind, find_base_model, is_adapter
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.callbacks import PredictionPictures
from hf_refseg.training.feature_cache import EncodedCollator, cache_image_features
from hf_refseg.training.trainer import RefSegTrainer, last_complete_checkpoint, load_weights
from hf_refseg.visualization import draw_comparison

REFSHAPES = "refshapes"
DRAWN_CASES = 8
# In every saved configuration, whatever the model.
SAVED_WITH_A_MODEL = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class ModelArguments:
    """Which model: a saved one, a new one on pretrained encoders, or (with neither) one from random weights."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved model with its processor, on the Hub or on disk, to go on from."}
    )
    model_type: str = field(default="lavt", metadata={"help": "The method of a new model."})
    vision_name_or_path: str | None = field(default=None, metadata={"help": "Pretrained image encoder."})
    text_name_or_path: str | None = field(default=None, metadata={"help": "Pretrained text encoder."})
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": 'Tokenizer; the text encoder\'s if absent. "refshapes": a token for each word of RefShapes.'
        },
    )
    config: dict | str | None = field(
        default=None, metadata={"help": "Fields of the model's configuration, as a mapping (YAML or JSON)."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the square that a new model sees; the method's own if absent."}
    )
    max_text_length: int = field(default=20, metadata={"help": "Tokens per text, special ones included."})
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
        if (self.vision_name_or_path is None) != (self.text_name_or_path is None):
            raise ValueError("Give vision_name_or_path and text_name_or_path, or neither of them.")
        if self.model_name_or_path and (self.vision_name_or_path or self.config):
            raise ValueError("model_name_or_path takes no encoders and no config: they come with the saved model.")


@dataclass
class DataArguments:
    """Which data to train on, and what to score in the end."""

    dataset_name: str = field(
        default=REFSHAPES,
        metadata={"help": "refcoco, refcoco+, refcocog, refshapes ..., a prepared folder, a Hub id."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's original files."})
    split_by: str | None = field(default=None, metadata={"help": "Who split the data set: unc, umd, google ..."})
    mask_overlap: str | None = field(
        default=None, metadata={"help": '"union" or "background", where the polygons of an annotation overlap.'}
    )
    dataset_options: dict | str | None = field(
        default=None, metadata={"help": "Further options of load_refseg, as a mapping (YAML or JSON)."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split that is scored during training."})
    test_splits: list[str] | None = field(
        default=None, metadata={"help": "Splits that are scored in the end; all but train_split if absent."}
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
        if self.mask_overlap is not None:
            self.dataset_options["mask_overlap"] = self.mask_overlap
        if isinstance(self.test_splits, str):
            self.test_splits = [self.test_splits]
        get_protocol(self.protocol)


def read_mapping(name: str, value: dict | str | None) -> dict:
    """A mapping given as such or as YAML or JSON."""
    mapping = yaml.safe_load(value) if isinstance(value, str) else value
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError(f"{name} has to be a mapping of names to values, not {value!r}.")
    return dict(mapping or {})


def parse_arguments(arguments: Sequence[str]) -> tuple[ModelArguments, DataArguments, RefSegTrainingArguments]:
    """Options from the command line, then from the recipe (the first argument, if it is no option), then defaults.

    The mappings `config` and `dataset_options` of the command line replace single entries of the recipe's.

    Raises:
        ValueError: a recipe that is no mapping, or an option that does not exist.
        FileNotFoundError: no such recipe.
    """
    groups = (ModelArguments, DataArguments, RefSegTrainingArguments)
    parser = HfArgumentParser(groups, description=__doc__, allow_abbrev=False)
    recipe: dict = {}
    if arguments and not arguments[0].startswith("-"):
        names = [option.name for group in groups for option in fields(group) if option.init]
        recipe = read_recipe(Path(arguments[0]), names)
        parser.set_defaults(**recipe)
        arguments = arguments[1:]
    model, data, training = parser.parse_args_into_dataclasses(args=list(arguments))
    model.config = {**read_mapping("config", recipe.get("config")), **model.config}
    data.dataset_options = {**read_mapping("dataset_options", recipe.get("dataset_options")), **data.dataset_options}
    return model, data, training


def read_recipe(path: Path, names: Sequence[str]) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}.")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe: a mapping of options to values is expected.")
    unknown = [str(name) for name in recipe if name not in names]
    if unknown:
        close = get_close_matches(unknown[0], names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "run_ris.py --help lists all options."
        raise ValueError(f"{path}: there is no option {', '.join(unknown)}; {hint}")
    return recipe


def build_model_and_processor(arguments: ModelArguments) -> tuple[PreTrainedModel, RefSegProcessor]:
    if arguments.model_name_or_path:
        if is_adapter(arguments.model_name_or_path):
            raise ValueError(
                f"{arguments.model_name_or_path} is an adapter: write a whole model with `hf-refseg merge`, and go on "
                "from that."
            )
        model = AutoModelForReferringSegmentation.from_pretrained(arguments.model_name_or_path)
        return model, RefSegProcessor.from_pretrained(arguments.model_name_or_path)
    tokenizer = build_tokenizer(arguments)
    image_processor = build_image_processor(arguments)
    processor = RefSegProcessor(image_processor, tokenizer, max_text_length=arguments.max_text_length)
    if arguments.vision_name_or_path:
        model_class = model_class_of(arguments.model_type)
        encoders = (arguments.vision_name_or_path, arguments.text_name_or_path)
        return model_class.from_encoders(*encoders, **arguments.config), processor
    text_config = {"vocab_size": len(tokenizer), **arguments.config.get("text_config", {})}
    config = AutoConfig.for_model(arguments.model_type, **{**arguments.config, "text_config": text_config})
    return AutoModelForReferringSegmentation.from_config(config), processor


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
            if training.process_index == 0:
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


def build_image_processor(arguments: ModelArguments) -> RefSegImageProcessor:
    options = dict(model_class_of(arguments.model_type).config_class.image_processor_defaults)
    if arguments.image_size is not None:
        names = options.get("size", RefSegImageProcessor.size)
        options["size"] = dict.fromkeys(names, arguments.image_size)
    return RefSegImageProcessor(**options)


def check_config(config: PreTrainedConfig, base_model: str) -> None:
    """Raises ValueError where a base model was made by other options than those of this run."""
    saved = AutoConfig.from_pretrained(base_model).to_dict()
    changed = [
        name for name, value in config.to_dict().items() if name not in SAVED_WITH_A_MODEL and value != saved.get(name)
    ]
    if changed:
        raise ValueError(
            f"The base model {base_model} of the run to resume has another {', '.join(changed)}. Give the options of "
            "that run, or choose another output_dir."
        )


def build_tokenizer(arguments: ModelArguments):
    name = arguments.tokenizer_name_or_path or arguments.text_name_or_path
    if name is None:
        raise ValueError("A model from random weights needs tokenizer_name_or_path.")
    if name == REFSHAPES:
        return BertTokenizer(vocab={word: number for number, word in enumerate((*SPECIAL_TOKENS, *REFSHAPES_WORDS))})
    return AutoTokenizer.from_pretrained(name)


def model_class_of(model_type: str) -> type[PreTrainedModel]:
    classes = {config_class.model_type: model_class for config_class, model_class in MODELS.items()}
    if model_type not in classes:
        raise ValueError(f"Unknown model_type {model_type!r}. Choose one of: {', '.join(classes)}.")
    return classes[model_type]


def load_splits(arguments: DataArguments) -> tuple[DatasetDict, list[str]]:
    """The data set, and the names of the splits that are scored in the end."""
    data = load_refseg(arguments.dataset_name, arguments.data_dir, arguments.split_by, **arguments.dataset_options)
    tested = arguments.test_splits
    if tested is None:
        tested = [split for split in data if split != arguments.train_split]
    for split in (arguments.train_split, arguments.eval_split, *tested):
        if split not in data:
            raise ValueError(f"{arguments.dataset_name} has no split '{split}', only {', '.join(data)}.")
    return data, tested


def checkpoint_to_resume(arguments: RefSegTrainingArguments) -> str | None:
    if arguments.resume_from_checkpoint == "auto":
        return last_complete_checkpoint(arguments.output_dir)
    return None if arguments.resume_from_checkpoint == "never" else arguments.resume_from_checkpoint


def train(trainer: RefSegTrainer, checkpoint: str | None) -> dict:
    """Trains, unless the checkpoint is already the end of this training; returns the steps and what was measured."""
    if checkpoint is not None and (state := finished_state(trainer.args, checkpoint)) is not None:
        print(f"{checkpoint} is the end of this training: it is loaded, nothing is trained.")
        load_weights(trainer.model, checkpoint)
        trainer.state = state
        return {"steps": state.global_step}
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    return {"steps": trained.global_step, **trained.metrics}


def finished_state(arguments: RefSegTrainingArguments, checkpoint: str) -> TrainerState | None:
    """The state of a checkpoint that was written after the last step of a training as long as this one."""
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    wanted, planned = (
        (arguments.max_steps, state.max_steps)
        if arguments.max_steps > 0
        else (math.ceil(arguments.num_train_epochs), state.num_train_epochs)
    )
    return state if wanted == planned and state.global_step >= state.max_steps else None


def score_splits(
    trainer: RefSegTrainer, data: DatasetDict, splits: Sequence[str], arguments: DataArguments
) -> dict[str, EvaluationResult]:
    return {
        split: evaluate_model(
            trainer.model,
            trainer.processing_class,
            data[split],
            arguments.protocol,
            batch_size=trainer.args.per_device_eval_batch_size,
            max_images=arguments.max_test_images,
            progress=not trainer.args.disable_tqdm,
        )
        for split in splits
    }


def split_label(split: str, result: EvaluationResult, arguments: DataArguments) -> str:
    """The split's name for the model card, which has to say where only a part of it was scored."""
    return split if arguments.max_test_images is None else f"{split} (first {result.images} images)"


def draw_pictures(
    trainer: RefSegTrainer, data: DatasetDict, results: dict[str, EvaluationResult], arguments: DataArguments
) -> list[Path]:
    """Draws cases of the first of the scored splits, one every so many sentences, and the worst and best ones.

    Writes predictions.png and worst_and_best.png; returns the paths.
    """
    if not results:
        return []
    split, result = next(iter(results.items()))
    every = max(1, len(result.records) // DRAWN_CASES)
    cases = {
        "predictions.png": result.records[::every][:DRAWN_CASES],
        "worst_and_best.png": select_worst_and_best(result.records, k=DRAWN_CASES // 2),
    }
    paths = []
    for name, records in cases.items():
        rows = predict_cases(trainer.model, trainer.processing_class, data[split], records, arguments.protocol)
        paths.append(Path(trainer.args.output_dir) / name)
        draw_comparison(rows).save(paths[-1])
    return paths


def describe_results(results: dict[str, EvaluationResult]) -> dict[str, dict]:
    """All of each result but its single sentences."""
    described = {split: asdict(result) for split, result in results.items()}
    for result in described.values():
        del result["records"]
    return described


def main(arguments: Sequence[str] | None = None) -> dict:
    """Runs the script with these arguments; returns what it wrote to metrics.json (nothing in further processes)."""
    model_arguments, data_arguments, training_arguments = parse_arguments(
        sys.argv[1:] if arguments is None else arguments
    )
    data, tested = load_splits(data_arguments)
    set_seed(training_arguments.seed)
    model, processor = build_model_and_processor(model_arguments)
    checkpoint = checkpoint_to_resume(training_arguments)
    if model_arguments.adapter != "none":
        model = adapt(model, processor, model_arguments, training_arguments, checkpoint)
    evaluated = SentenceExamples(data[data_arguments.eval_split])
    drawn = [evaluated[index] for index in range(min(training_arguments.pictures, len(evaluated)))]
    read_image, collator = open_image, RefSegCollator(processor)
    if data_arguments.cache_image_features:
        folder = data_arguments.cache_image_features
        rows = [data[data_arguments.train_split], data[data_arguments.eval_split]]
        read_image = cache_image_features(folder, model, processor, rows, training_arguments).read
        collator = EncodedCollator(processor, model.dtype)
    trainer = RefSegTrainer(
        model=model,
        args=training_arguments,
        processing_class=processor,
        train_dataset=ReferentExamples(data[data_arguments.train_split], training_arguments.seed, read_image),
        eval_dataset=SentenceExamples(data[data_arguments.eval_split], read_image),
        callbacks=[PredictionPictures(processor, drawn)],
        data_collator=collator,
    )
    trained = train(trainer, checkpoint)
    if not trainer.is_world_process_zero():
        return {}

    results = score_splits(trainer, data, tested, data_arguments)
    report = {
        "dataset": data_arguments.dataset_name,
        "protocol": data_arguments.protocol,
        "splits": describe_results(results),
        "training": trained,
    }
    write_json(Path(training_arguments.output_dir) / "metrics.json", report)
    starting_points = (model_arguments.model_name_or_path, model_arguments.vision_name_or_path)
    on_hub = [
        name for name in (*starting_points, model_arguments.text_name_or_path) if name and not Path(name).exists()
    ]
    card = {
        "metrics": {
            (data_arguments.dataset_name, split_label(split, result, data_arguments), data_arguments.protocol): (
                result.metrics
            )
            for split, result in results.items()
        },
        "datasets": [data_arguments.dataset_name],
        "base_model": on_hub or None,
        "pictures": draw_pictures(trainer, data, results, data_arguments),
    }
    if training_arguments.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.save_model()
        trainer.create_model_card(**card)
    return report


if __name__ == "__main__":
    main()
