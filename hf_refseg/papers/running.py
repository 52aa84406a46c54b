"""Trains and scores the rows of a table, each with each seed in a folder of its own, and keeps what came of it."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from filelock import FileLock, Timeout

from ..data.loading import load_refseg
from ..evaluation import evaluate_model, with_shuffled_sentences
from ..files import require_writable, slug, write_json
from ..hub.saved_models import load_model
from ..modeling.inference_refseg import VideoWindow
from ..modeling.json_files_refseg import read_mapping
from ..modeling.modeling_outputs_refseg import NotFiniteError
from ..training.arguments import RefSegTrainingArguments
from ..training.data_arguments import ImageDataArguments, VideoDataArguments, to_mapping
from ..training.options import MAPPINGS, find_data_class, parse_options
from ..training.recipe_files import dataset_names
from ..training.recipes import load_data, run_recipe
from ..training.run_options import PLACES, without_paths
from .reader import RecipeRun, Row, Table, is_generated, one_of, read_paper
from .results import results_name

# What the run of a row leaves when it is finished, and nothing before.
RESULT = "row.json"
# What the command calls the options of `hf-refseg train` that each row has its own of.
OWN_OPTIONS = {"output_dir": "--output", "seed": "--seeds", "dataset_name": "--dataset"}
# What the same model may be scored by, where files lie, and what is shown.
NOT_TRAINED = {*PLACES, "test_splits", "protocol", "disable_tqdm", "report_to", "pictures", "dataloader_num_workers"}
SPLIT_OF_SCENES = "val"


@dataclass(frozen=True)
class FurtherOptions:
    """Options of `hf-refseg train` for every row.

    Attributes:
        mappings: those that are mappings, of which rows may hold other entries.
        others: all others by name, each as it stands on the command line.
    """

    mappings: dict[str, dict[str, Any]]
    others: dict[str, list[str]]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> FurtherOptions:
        """Raises ValueError for an option that the command has under another name, and for what is no option."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in MAPPINGS:
            parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
        mappings, rest = parser.parse_known_args(list(arguments))
        others: dict[str, list[str]] = {}
        for argument in rest:
            if argument.startswith("--"):
                name = argument.removeprefix("--").partition("=")[0].replace("-", "_")
                others[name] = [argument]
            elif others:
                others[name].append(argument)
            else:
                raise ValueError(f"{argument} is no option: behind the table options of hf-refseg train may follow.")
        for name in OWN_OPTIONS.keys() & others.keys():
            raise ValueError(f"--{name}: each row has its own. Give {OWN_OPTIONS[name]} in its place.")
        given = {name: to_mapping(name, value) for name, value in vars(mappings).items() if value is not None}
        return cls(given, others)

    def over(self, row: Row, run: RecipeRun) -> RecipeRun:
        """The run with the mappings; raises ValueError where an option would replace what the row itself says."""
        replaced = [name for name in self.others if name in run.options]
        for name, given in self.mappings.items():
            said = run.config if name == "config" else run.options.get(name, {})
            replaced += [f"{entry} in {name}" for entry in given if entry in said]
        if replaced:
            raise ValueError(f"The row {row.name!r} has its own {replaced[0]}: leave this option out.")
        return run.with_options(self.mappings)

    def trained(self) -> dict[str, Any]:
        """Those that a trained model depends on."""
        others = {name: value for name, value in self.others.items() if name not in NOT_TRAINED}
        return without_paths({**self.mappings, **others})


@dataclass(frozen=True)
class RowRun:
    """What is run for a row on a data set.

    Attributes:
        row: the row.
        dataset: the data set.
        run: its recipe with all options.
        further: those of every row.
        folder: holds a folder for each seed.
        before: what is run before, where the run goes on from its model.
    """

    row: Row
    dataset: str
    run: RecipeRun
    further: FurtherOptions
    folder: Path
    before: RowRun | None = None

    def seed_folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def arguments(self, seed: int) -> list[str]:
        """What stands behind `hf-refseg train`."""
        others = [argument for option in self.further.others.values() for argument in option]
        if self.before is not None:
            others += ["--model_name_or_path", str(self.before.seed_folder(seed))]
        return [*self.run.arguments(), *others, "--seed", str(seed), "--output_dir", str(self.seed_folder(seed))]

    def command(self, seed: int) -> str:
        """What trains the same on any machine, without where files lie."""
        run = RecipeRun(self.run.recipe, self.run.config, without_paths(self.run.options))
        kept = (option for name, option in self.further.others.items() if name not in PLACES)
        others = [argument for option in kept for argument in option]
        command = shlex.join(["hf-refseg", "train", *run.arguments(), *others, "--seed", str(seed)])
        return command if self.before is None else f"{self.before.command(seed)}; {command} --model_name_or_path ..."

    def parse(self, seed: int) -> tuple[ImageDataArguments | VideoDataArguments, RefSegTrainingArguments]:
        """Raises ValueError for an option that does not exist, or has no such value."""
        _, data, training = parse_options(self.arguments(seed), find_data_class(self.arguments(seed)), "")
        return data, training

    def scored(self, seed: int) -> tuple[str, list[str] | None]:
        """Protocol and splits of the scores; None = those that training scores."""
        if self.is_elsewhere:
            return self.row.protocol, list(self.row.published)
        data, _ = self.parse(seed)
        images = data.image_arguments() if isinstance(data, VideoDataArguments) else None
        scored = images if images is not None and is_beside(self.dataset, self.run) else data
        splits = scored.test_splits
        return scored.protocol, None if splits is None else [self.own_name(split) for split in splits]

    @property
    def is_elsewhere(self) -> bool:
        """Whether the model is scored on data that it was not trained on."""
        return self.row.elsewhere and not is_generated(self.dataset)

    def own_name(self, split: str) -> str:
        """Of several data sets, splits are told as refcoco/val."""
        return split.removeprefix(f"{self.dataset}/")

    def result(self, seed: int) -> dict[str, Any] | None:
        """What is finished; None as long as nothing is."""
        path = self.seed_folder(seed) / RESULT
        return read_mapping(path, "Delete it, and the row is run again.") if path.is_file() else None

    def results(self) -> list[dict[str, Any]]:
        """What is finished of each seed, in order."""
        seeds = sorted(int(path.parent.name.removeprefix("seed-")) for path in self.folder.glob(f"seed-*/{RESULT}"))
        found = ((seed, self.result(seed)) for seed in seeds)
        return [{"seed": seed, **result} for seed, result in found if result is not None]


@dataclass(frozen=True)
class TableRun:
    """A table of a paper on a data set, with the options for all of its rows."""

    paper: str
    number: str
    table: Table
    dataset: str
    further: FurtherOptions
    output: Path

    @classmethod
    def of(cls, paper: str, number: str, dataset: str, further: Sequence[str], output: Path) -> TableRun:
        """Raises ValueError for a table that does not exist, or has no recipe for the data set."""
        table = read_paper(paper).table(number)
        if dataset not in table.datasets():
            there_are = ", ".join(table.datasets()) or "none, as no row of it can be run"
            raise ValueError(f"Table {number} of {paper} has no recipe for {dataset!r}. It has those for {there_are}.")
        return cls(paper, number, table, dataset, FurtherOptions.parse(further), output)

    @property
    def file(self) -> Path:
        """Where the results of all rows lie."""
        return self.output / results_name(self.paper, self.number, self.dataset)

    def rows(self) -> list[Row]:
        """The rows whose numbers are of this data set, or of a model that it trains; where there are none, all."""
        rows = [row for row in self.table.rows if row.dataset == self.dataset or self.is_trained_for_elsewhere(row)]
        return rows or self.table.rows

    def is_trained_for_elsewhere(self, row: Row) -> bool:
        """Whether a row's model is trained on this data set and scored on another one."""
        return row.elsewhere and self.dataset in row.recipes and not is_generated(self.dataset)

    def row_run(self, row: Row) -> RowRun | None:
        """What is run for a row, or for the one that it repeats; None where nothing can be."""
        source = row if row.same_as is None else self.table.row(row.same_as)
        # Of a training on several data sets there is a row for each, all of them one run.
        trained_on = self.dataset if self.dataset in source.recipes or source is row else source.dataset
        if source.impossible is not None or trained_on not in source.recipes:
            return None
        before = source.run_before(trained_on)
        first = None if before is None else self.run_of(row, before, None)
        return self.run_of(row, source.run_on(trained_on), first)

    def run_of(self, row: Row, run: RecipeRun, before: RowRun | None) -> RowRun:
        """A run for a row, in a folder that it shares with all, of whatever table, that train the same."""
        joined = self.further.over(row, run)
        trained = without_paths({name: value for name, value in joined.merged().items() if name not in NOT_TRAINED})
        goes_on = None if before is None else before.folder.name
        text = json.dumps([run.recipe, trained, self.further.trained(), goes_on], sort_keys=True)
        said = RecipeRun(run.recipe, {}, {}).merged().get("config") or {}
        changed = {name: value for name, value in run.config.items() if said.get(name, ...) != value}
        words = slug(json.dumps(changed)) if changed else ""
        name = "-".join(filter(None, [run.recipe, words, hashlib.sha256(text.encode()).hexdigest()[:8]]))
        scored = joined.with_options(self.scoring(row, joined))
        return RowRun(row, self.dataset, scored, self.further, self.output / name, before)

    def scoring(self, row: Row, run: RecipeRun) -> dict[str, Any]:
        """Splits and protocol: the published ones on their data, `val` on scenes that are generated."""
        options: dict[str, Any] = {}
        beside = is_beside(self.dataset, run)
        if self.dataset not in dataset_names(run.merged()) and not beside:
            # What is run before may train on other data.
            return options
        if row.dataset == self.dataset and row.published:
            options = {"test_splits": list(row.published), "protocol": row.protocol}
        elif is_generated(self.dataset):
            options = {"test_splits": [SPLIT_OF_SCENES]}
        if options and beside:
            return {"image_data": options}
        if options and len(dataset_names(run.merged())) > 1:
            options["test_splits"] = [f"{self.dataset}/{split}" for split in options["test_splits"]]
        said = {*run.options, *self.further.others}
        return {name: value for name, value in options.items() if name not in said}

    def runs(self, names: Iterable[str] | None = None) -> list[RowRun]:
        """What is run for the rows of these names, None = all; once what several rows come to."""
        rows = {row.name: row for row in self.rows()}
        chosen = rows.values() if names is None else [rows[one_of(rows, name, "Row")] for name in names]
        found: dict[tuple[str, ...], RowRun] = {}
        for run in filter(None, map(self.row_run, chosen)):
            # Of rows that train the same one may be scored on more splits.
            found.setdefault(tuple(run.arguments(0)), run)
        return list(found.values())

    def results(self) -> dict[str, Any]:
        """What is finished of each row, that of other processes as well."""
        runs = [(row.name, self.row_run(row)) for row in self.rows()]
        return {
            "paper": self.paper,
            "table": self.number,
            "dataset": self.dataset,
            "options": self.further.trained(),
            "rows": [{"name": name, "runs": [] if run is None else run.results()} for name, run in runs],
        }

    def write_results(self) -> None:
        with FileLock(self.output / f".{self.file.name}.lock"):
            write_json(self.file, self.results())


def is_beside(dataset: str, run: RecipeRun) -> bool:
    """Whether a data set is that of the images beside the videos of a run."""
    options = run.merged()
    return dataset not in dataset_names(options) and dataset in dataset_names(options.get("image_data") or {})


def run_table(table: TableRun, names: Iterable[str] | None, seeds: Sequence[int], say: Callable[[str], None]) -> None:
    """Trains and scores the rows of these names (None = all) with each seed, but for what is finished.

    Several processes may share the output: none runs what another one runs. What these still run in the end is waited
    for, and finished if they are killed.

    Args:
        table: the table.
        names: of rows.
        seeds: each is a run of each row.
        say: is told what is run, and how much is left.

    Raises:
        ValueError: options that do not exist or do not fit a row, before anything is trained.
        OutputError: the output cannot be written.
    """
    runs = [(run, seed) for seed in seeds for run in table.runs(names)]
    for run, seed in runs:
        run.parse(seed)
    require_writable(table.output)
    table.output.mkdir(parents=True, exist_ok=True)
    seconds: list[float] = []
    left_to_others = []
    for number, (run, seed) in enumerate(runs, start=1):
        minutes = statistics.mean(seconds) * (len(runs) - number + 1) / 60 if seconds else None
        left = "" if minutes is None else f", about {minutes:.0f} minutes left"
        heading = f"Run {number} of {len(runs)}{left}: {run.row.name}, seed {seed}"
        begun = time.monotonic()
        try:
            if finish(table, run, seed, partial(say, heading), timeout=0):
                seconds.append(time.monotonic() - begun)
        except Timeout:
            left_to_others.append((run, seed, heading))
    for run, seed, heading in left_to_others:
        say(f"Another process has it in hand, and is waited for: {heading}")
        finish(table, run, seed, partial(say, heading), timeout=-1)
    table.write_results()


def finish(table: TableRun, run: RowRun, seed: int, begin: Callable[[], None], timeout: float) -> bool:
    """Trains and scores what is not finished, and says whether there was any; calls `begin` before.

    Raises:
        Timeout: another process has it in hand, after `timeout` seconds still; -1 = it is waited for.
    """
    if run.before is not None:
        finish(table, run.before, seed, begin, timeout)
    run.seed_folder(seed).mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / f".seed-{seed}.lock").acquire(timeout=timeout):
        result = run.result(seed)
        missing = None if result is None else missing_splits(run, seed, result)
        if missing == []:
            return False
        begin()
        if result is None:
            result = train(run, seed)
        else:
            protocol, splits = run.scored(seed)
            scores = evaluate(run, seed, None if splits is None else missing)
            result["scores"].setdefault(protocol, {}).update(scores)
        write_json(run.seed_folder(seed) / RESULT, result)
        table.write_results()
        return True


def missing_splits(run: RowRun, seed: int, result: dict[str, Any]) -> list[str]:
    """What a finished run was not scored on, as another table asked for it."""
    protocol, splits = run.scored(seed)
    scored = result["scores"].get(protocol, {})
    if result["failed"]:
        return []
    if splits is None:
        return [] if scored else ["all"]
    return [split for split in splits if split not in scored]


def train(run: RowRun, seed: int) -> dict[str, Any]:
    """What came of a run: scores by protocol and split, and of what steps, in what time, on what machine."""
    folder = run.seed_folder(seed)
    # Of a run that goes on from a checkpoint the time of its last part alone is known.
    goes_on = any(folder.glob("checkpoint-*"))
    about = {
        "command": run.command(seed),
        "data_options": without_paths(run.run.merged().get("dataset_options") or {}),
        "torch": torch.__version__,
        "machine": machine_name(),
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }
    try:
        report = run_recipe(run.arguments(seed))
    except NotFiniteError as error:
        return {"failed": str(error), "scores": {}, **about}
    scored = report["images"] if is_beside(run.dataset, run.run) else report
    scores = {run.own_name(split): each["metrics"] for split, each in scored["splits"].items()}
    # Splits without public masks, which a server scores: nothing is missing of them here.
    scores |= {split: {} for split in scored.get("submissions", {})}
    return {
        "failed": None,
        "scores": {run.row.protocol: evaluate(run, seed, None)} if run.is_elsewhere else {scored["protocol"]: scores},
        "shuffled": evaluate_shuffled(run, seed),
        "steps": report["training"]["steps"],
        "seconds": None if goes_on else report["training"]["train_runtime"],
        "parameters": load_model(str(folder), "cpu", None)[0].num_parameters(),
        **about,
    }


@dataclass(frozen=True)
class Scoring:
    """How the model of a finished run is scored: as training does."""

    rows: dict[str, Dataset]
    protocol: str
    window: VideoWindow | None
    most_examples: int | None
    batch_size: int

    @classmethod
    def of(cls, run: RowRun, seed: int) -> Scoring:
        data, training = run.parse(seed)
        batch_size = training.per_device_eval_batch_size
        if run.is_elsewhere:
            protocol, splits = run.scored(seed)
            options = next(iter(data.load_options().values()))
            places = {name: value for name, value in options.items() if name in PLACES}
            rows = load_refseg(run.row.dataset, **places, splits=splits)
            return cls(rows, protocol, None, None, batch_size)
        loaded = load_data(data)[1 if is_beside(run.dataset, run.run) else 0]
        rows = {run.own_name(split): rows for split, rows in loaded.tested.items()}
        return cls(rows, loaded.arguments.protocol, loaded.window, loaded.most_tested, batch_size)

    def score(self, folder: Path, rows: Dataset) -> dict[str, float]:
        """The scores of a saved model on some rows."""
        model, processor = load_model(str(folder), None, None)
        result = evaluate_model(
            model,
            processor,
            rows,
            self.protocol,
            window=self.window,
            batch_size=self.batch_size,
            bootstrap_samples=0,
            max_examples=self.most_examples,
        )
        return result.metrics


def evaluate(run: RowRun, seed: int, splits: Sequence[str] | None) -> dict[str, dict[str, float]]:
    """The scores of a finished run on these splits; None = on all that it is scored on."""
    scoring = Scoring.of(run, seed)
    chosen = scoring.rows if splits is None else splits
    return {split: scoring.score(run.seed_folder(seed), scoring.rows[split]) for split in chosen}


def evaluate_shuffled(run: RowRun, seed: int) -> dict[str, float] | None:
    """The scores of the first split with the sentences of other images or videos; None where it has too few."""
    scoring = Scoring.of(run, seed)
    rows = next(iter(scoring.rows.values()), None)
    if rows is None:
        return None
    if "no_target" in rows.column_names:
        # Where nothing is meant, other sentences say nothing about reading.
        rows = rows.filter(lambda no_target: not no_target, input_columns="no_target").flatten_indices()
    try:
        shuffled = with_shuffled_sentences(rows)
    except ValueError:
        # One image holds more than half of the sentences.
        return None
    return scoring.score(run.seed_folder(seed), shuffled)


def machine_name() -> str:
    """The processor, and the accelerator where there is one, by the names of their makers."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
