"""Trains one step of what a row of a paper's table says, on a few scenes, and keeps what tells rows apart."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, set_seed

from hf_refseg.papers import RecipeRun, Row, Table, paper_names, read_paper
from hf_refseg.papers.reader import is_generated
from hf_refseg.training.arguments import ModelArguments, RefSegTrainingArguments
from hf_refseg.training.building import adapt, build_model_and_processor
from hf_refseg.training.data_arguments import ImageDataArguments, VideoDataArguments
from hf_refseg.training.options import find_data_class, parse_options
from hf_refseg.training.recipes import build_trainer, load_data
from hf_refseg.training.run_data import RunData
from hf_refseg.training.run_options import given_options

Parsed = tuple[ModelArguments, ImageDataArguments | VideoDataArguments, RefSegTrainingArguments]
# Scenes are made once, and go with the process.
SCENES = tempfile.TemporaryDirectory(prefix="scenes-")
FEW_SCENES = {"cache_dir": SCENES.name, "train_size": 4, "val_size": 1, "test_size": 1}
FEW_SENTENCES = 8
# A step without rate would move nothing, and what is scored or written takes the time of many steps.
ONE_STEP = {
    **{"max_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": 2, "total_train_batch_size": None},
    **{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "test_splits": "val"},
    **{"bf16": False, "use_cpu": True, "dataloader_num_workers": 0, "pictures": 0, "report_to": "none"},
    **{"disable_tqdm": True, "logging_steps": 1, "resume_from_checkpoint": "never"},
}


@dataclass(frozen=True)
class Trained:
    """What a run is after one step.

    Attributes:
        losses: the loss and its parts in this step, by name.
        modules: the class of each module and what it says of itself, by its name.
        shapes: the shape of each parameter and buffer, by its name.
        trained: the names of what is trained, with the sum of its absolute values before the step and after it.
        options: those of model, data and training that are not the defaults.
        preprocessing: how images and texts reach the model.
    """

    losses: dict[str, float]
    modules: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    trained: dict[str, tuple[float, float]]
    options: dict[str, Any]
    preprocessing: dict[str, Any]

    def is_finite(self) -> bool:
        return all(math.isfinite(loss) for loss in self.losses.values())

    def moved(self) -> list[str]:
        """The names of what the step changed."""
        return [name for name, (before, after) in self.trained.items() if before != after]

    def same_as(self, other: Trained) -> bool:
        """Whether two runs are, compute and train the same."""
        own, others = (vars(each) for each in (self, other))
        numbers = ("losses", "trained")
        return all(own[name] == others[name] for name in own if name not in numbers) and all(
            own[name].keys() == others[name].keys() and is_close(own[name], others[name]) for name in numbers
        )


def is_close(numbers: dict[str, Any], others: dict[str, Any]) -> bool:
    first, second = (torch.tensor(list(each.values()), dtype=torch.float64) for each in (numbers, others))
    return torch.allclose(first, second, rtol=1e-6, atol=1e-9)


@dataclass(frozen=True)
class PaperRow:
    """A row that can be run, with its place."""

    paper: str
    number: str
    table: Table
    row: Row

    def __str__(self) -> str:
        return f"{self.paper} {self.number}, {self.row.name}"

    def generated(self) -> RecipeRun:
        """What is trained for it on generated data, the first of those that it has a recipe for."""
        dataset = next(name for name in self.row.recipes if is_generated(name))
        run, before = self.row.run_on(dataset), self.row.run_before(dataset)
        return run if before is None else run.with_options({"model_name_or_path": saved_model(before.recipe)})


def possible_rows() -> list[PaperRow]:
    """Every row that can be run, of every table of every paper."""
    tables = [(name, *each) for name in paper_names() for each in read_paper(name).tables.items()]
    return [PaperRow(paper, number, table, row) for paper, number, table in tables for row in table.possible_rows()]


@cache
def saved_model(recipe: str) -> str:
    """The folder of a model as a recipe begins with it, for a run that goes on from there."""
    folder = Path(SCENES.name, recipe)
    model_arguments, data_arguments, training = parse(on_few_scenes(RecipeRun(recipe, {}, {})), str(folder))
    data = _load_data(_Options(data_arguments))
    set_seed(training.seed)
    for part in build_model_and_processor(model_arguments, chain(*(each.sentences() for each in data))):
        part.save_pretrained(folder)
    return str(folder)


def parse(run: RecipeRun, folder: str) -> Parsed:
    arguments = [*run.arguments(), "--output_dir", folder, "--use_cpu"]
    return parse_options(arguments, find_data_class(arguments), "")


def on_few_scenes(run: RecipeRun) -> RecipeRun:
    """The run with a step and scenes of a test in the place of its own."""
    options = {**ONE_STEP, "dataset_options": FEW_SCENES}
    # Its step takes longer than those forward and backward; rows are compared by their own options, which keep it.
    if "muon_learning_rate" not in run.options:
        options["muon_learning_rate"] = None
    if run.merged().get("max_train_sentences"):
        options["max_train_sentences"] = FEW_SENTENCES
    if images := run.merged().get("image_data"):
        options["image_data"] = {"dataset_options": {**images.get("dataset_options", {}), **FEW_SCENES}}
    return run.with_options(options)


class KeepLosses(TrainerCallback):
    """Keeps what is logged of the step."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.losses |= {name: value for name, value in logs.items() if name.startswith("loss")}


def train_one_step(run: RecipeRun) -> Trained:
    """The run after one step; equal runs are trained once."""
    return _train(json.dumps([run.recipe, run.config, run.options], sort_keys=True))


@cache
def _train(key: str) -> Trained:
    run = RecipeRun(*json.loads(key))
    with tempfile.TemporaryDirectory() as folder:
        said = parse(run, folder)
        model_arguments, data_arguments, training = parse(on_few_scenes(run), folder)
        data = _load_data(_Options(data_arguments))
        set_seed(training.seed)
        model, processor = build_model_and_processor(model_arguments, chain(*(each.sentences() for each in data)))
        model = adapt(model, processor, model_arguments, training, None)
        kept = KeepLosses()
        trainer = build_trainer(model, processor, data, data_arguments, training, [kept])
        before = sums_of_trained(model)
        trainer.train()
        after = sums_of_trained(model)
    return Trained(
        losses=kept.losses,
        modules={name: f"{type(part).__name__}({part.extra_repr()})" for name, part in model.named_modules()},
        shapes={name: tuple(value.shape) for name, value in model.state_dict().items()},
        trained={name: (value, after[name]) for name, value in before.items()},
        options=dict(chain(*(options_of(each).items() for each in said))),
        preprocessing={**processor.image_processor.to_dict(), "max_text_length": processor.max_text_length},
    )


def options_of(group: Any) -> dict[str, Any]:
    """Options that are not the defaults; what a configuration changes shows in the model."""
    return {name: value for name, value in given_options(group).items() if name not in ("config", "output_dir")}


def sums_of_trained(model: nn.Module) -> dict[str, float]:
    return {
        name: value.detach().abs().sum(dtype=torch.float64).item()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


@dataclass(frozen=True)
class _Options:
    """Options of data, equal to others with the same values."""

    options: ImageDataArguments | VideoDataArguments

    def __hash__(self) -> int:
        return hash(repr(self.options))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and repr(self.options) == repr(other.options)


@cache
def _load_data(options: _Options) -> list[RunData]:
    return load_data(options.options)
