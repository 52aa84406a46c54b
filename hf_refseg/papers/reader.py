"""Reads the tables of a paper: its rows as recipes with overrides, and the numbers that were published.

A paper is a file `<name>.yaml` here, which looks so:

    title: LAVT: ...
    url: https://huggingface.co/papers/...
    tables:
      "5":
        title: what the table asks
        dataset: refcoco                 # that the published numbers are of
        protocol: lavt                   # and the protocol
        recipes: {refcoco: lavt_refcoco, refshapes: lavt_refshapes}    # by data set, what each row starts from
        rows:
          - name: LAVT
            published: {val: {oIoU: 73.5}}
          - name: without LP
            config: {language_pathway: false}
    left_out: {"figure 1": a drawing of the model}

`Row` says what else a row may hold.
"""

# Without `from __future__ import annotations`: strict dataclasses check no types that are written as text.
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..data.catalog import DATASETS
from ..evaluation.protocols import PROTOCOLS
from ..evaluation.video import A2D, DAVIS_MEASURES, VIDEO_PROTOCOLS
from ..modeling.messages_refseg import nearest_names, reason_of
from ..training.arguments import ModelArguments, RefSegTrainingArguments
from ..training.data_arguments import ImageDataArguments, VideoDataArguments
from ..training.new_models import check_fields, check_needed, model_class_of
from ..training.options import MAPPINGS
from ..training.recipe_files import dataset_names, find_recipe, read_recipe
from ..yaml_texts import read_yaml

FOLDER = Path(__file__).parent
OPTIONS = tuple(
    option.name
    for group in (ModelArguments, ImageDataArguments, VideoDataArguments, RefSegTrainingArguments)
    for option in fields(group)
    if option.init
)
# What the command that runs a row decides.
NO_OVERRIDES = ("config", "output_dir", "seed")
Part = TypeVar("Part")


@strict
@dataclass
class Overrides:
    """What goes before a recipe: fields of the model's configuration, and options of `hf-refseg train`."""

    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeRun:
    """What is trained for a row on a data set: a recipe, and what goes before it."""

    recipe: str
    config: dict[str, Any]
    options: dict[str, Any]

    def arguments(self) -> list[str]:
        """Recipe and options as they stand behind `hf-refseg train`."""
        options = {**({"config": self.config} if self.config else {}), **self.options}
        return [self.recipe, *(text for name, value in options.items() for text in as_arguments(name, value))]

    def with_options(self, options: Mapping[str, Any]) -> "RecipeRun":
        """The run with further options; of those that are mappings single entries are replaced, as by a recipe."""
        joined = {
            name: {**self.options.get(name, {}), **value} if name in MAPPINGS else value
            for name, value in options.items()
            if name != "config"
        }
        return RecipeRun(self.recipe, {**self.config, **options.get("config", {})}, {**self.options, **joined})

    def merged(self) -> dict[str, Any]:
        """All options, those of the recipe among them."""
        recipe = _options_of(self.recipe)
        given = {**self.options, **({"config": self.config} if self.config else {})}
        joined = {name: {**(recipe.get(name) or {}), **given[name]} for name in MAPPINGS if name in given}
        return {**recipe, **given, **joined}


@strict
@dataclass
class Row:
    """A row of a table.

    Attributes:
        name: as in the paper.
        published: by split and metric, as the row's protocol calls it, the number in the paper.
        config: fields of the model's configuration, over those of the recipe.
        options: options of `hf-refseg train`, over those of the recipe.
        generated: what takes the place of `config` and `options` on a data set that is generated, where models are
            small.
        recipes: by data set the recipe that the row starts from; the table's where it names none.
        dataset: that of the published numbers; the table's where it names none.
        protocol: that of the published numbers; the table's where it names none.
        starts_from: by data set the recipe whose model the run goes on from; it is trained before, with the same
            further options.
        elsewhere: whether the model is scored on `dataset`, which its recipe does not train on; on data that is
            generated it has no effect.
        same_as: the name of the row that is run for it, where the paper repeats one.
        note: what a reader has to know.
        impossible: why it cannot be run.
    """

    name: str
    published: dict[str, dict[str, int | float]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    generated: Overrides | None = None
    recipes: dict[str, str] = field(default_factory=dict)
    dataset: str = ""
    protocol: str = ""
    starts_from: dict[str, str] = field(default_factory=dict)
    elsewhere: bool = False
    same_as: str | None = None
    note: str | None = None
    impossible: str | None = None

    def run_on(self, dataset: str) -> RecipeRun:
        """What is trained for the row on one of `recipes`."""
        over = self.generated if self.generated is not None and is_generated(dataset) else self
        return RecipeRun(self.recipes[dataset], over.config, over.options)

    def run_before(self, dataset: str) -> RecipeRun | None:
        """What is trained before, where the run goes on from another one's model."""
        return RecipeRun(self.starts_from[dataset], {}, {}) if dataset in self.starts_from else None


@strict
@dataclass
class Table:
    """A table, or a figure, of a paper.

    Attributes:
        title: what it asks.
        rows: its rows, in order.
        dataset: that of the published numbers.
        protocol: that of the published numbers.
        recipes: by data set the recipe that its rows start from.
        note: what a reader has to know.
    """

    title: str
    rows: list[Row]
    dataset: str = ""
    protocol: str = ""
    recipes: dict[str, str] = field(default_factory=dict)
    note: str | None = None

    def row(self, name: str) -> Row:
        """The row of this name; raises ValueError, with the nearest names, where there is none."""
        rows = {row.name: row for row in self.rows}
        return rows[one_of(rows, name, "Row")]

    def possible_rows(self) -> list[Row]:
        """The rows that can be run by themselves: neither impossible nor the same as another one."""
        return [row for row in self.rows if row.impossible is None and row.same_as is None]

    def datasets(self) -> list[str]:
        """The data sets that some row can be run on."""
        return list(dict.fromkeys(name for row in self.possible_rows() for name in row.recipes))


@strict
@dataclass
class Paper:
    """A paper.

    Attributes:
        title: its title.
        url: where it is.
        tables: by its number, such as "5", "6a", "II" or "figure 7", each table or figure with what a system scores.
        left_out: by its number each other one, with the reason.
    """

    title: str
    url: str
    tables: dict[str, Table]
    left_out: dict[str, str] = field(default_factory=dict)

    def table(self, number: str) -> Table:
        """The table of this number; raises ValueError, with the nearest ones or the reason, where there is none."""
        parts = [name for name in self.tables if name[:-1] == number and name[-1].islower()]
        if parts and number not in self.tables:
            raise ValueError(f"Table {number} is in parts: choose one of {', '.join(parts)}.")
        title = title_of(number)
        if title in self.left_out:
            raise ValueError(f"Of {title} no row can be run: {self.left_out[title]}.")
        return self.tables[one_of(self.tables, number, "Table")]


def title_of(number: str) -> str:
    """What a table is called in a sentence: "table 5", "table IV", "figure 7"."""
    return f"table {number}" if number[:1].isdigit() or number.isupper() else number


def paper_names() -> list[str]:
    """What `read_paper` takes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """The tables of a paper.

    Raises:
        ValueError: there is no such paper; or its file has a key, a metric, a split, a data set, a recipe, an option
            or a field of a configuration that does not exist, or a value of another type.
    """
    path = FOLDER / f"{one_of(paper_names(), name, 'Paper')}.yaml"
    return parse_paper(read_yaml(path.read_text(encoding="utf-8")), path.name)


def parse_paper(content: Any, where: str) -> Paper:
    """As `read_paper`, of what is in its file; `where` is what errors begin with."""
    values = known_keys(Paper, content, where)
    tables = known_mapping(values.get("tables"), f"{where}: tables")
    return build(
        Paper,
        where,
        values,
        tables={number: parse_table(each, f"{where}, table {number}") for number, each in tables.items()},
    )


def parse_table(content: Any, where: str) -> Table:
    values = known_keys(Table, content, where)
    if not isinstance(values.get("rows"), list):
        raise ValueError(f"{where}: rows has to be a list of rows.")
    table = build(Table, where, values, rows=[])
    for number, each in enumerate(values["rows"], start=1):
        row = parse_row(each, table, f"{where}, row {number}")
        if row.name in {other.name for other in table.rows}:
            raise ValueError(f"{where}: two rows are called {row.name!r}.")
        table.rows.append(row)
    for row in table.rows:
        if row.same_as is not None:
            one_of([each.name for each in table.possible_rows()], row.same_as, f"{where} ({row.name}): same_as")
    return table


def parse_row(content: Any, table: Table, where: str) -> Row:
    values = known_keys(Row, content, where)
    where = f"{where} ({values.get('name')})"
    if "generated" in values:
        place = f"{where}, generated"
        values["generated"] = build(Overrides, place, known_keys(Overrides, values["generated"], place))
    inherited = {name: getattr(table, name) for name in ("dataset", "protocol", "recipes") if not values.get(name)}
    row = build(Row, where, values, **inherited)
    check_published(row, where)
    by = ("config", "options", "generated", "recipes", "starts_from", "elsewhere")
    run_by = [name for name in by if values.get(name) is not None]
    not_run = next((name for name in ("impossible", "same_as") if getattr(row, name) is not None), None)
    if not_run is not None and run_by:
        raise ValueError(f"{where}: {run_by[0]} has no effect on a row that is {not_run}: leave it out.")
    if not_run is None:
        check_runs(row, where)
    return row


def check_published(row: Row, where: str) -> None:
    """Raises ValueError for a data set, a split or a metric that does not exist."""
    if not row.published:
        return
    spec = DATASETS[one_of(DATASETS, row.dataset, f"{where}: data set")]
    splits = {split for partition in spec.partitions for split in partition.splits}
    metrics = metrics_of(one_of((*PROTOCOLS, *VIDEO_PROTOCOLS), row.protocol, f"{where}: protocol"))
    for split, scores in row.published.items():
        one_of(splits, split, f"{where}: split of {row.dataset}")
        for metric in scores:
            one_of(metrics, metric, f"{where}: metric of protocol {row.protocol}")


@cache
def _options_of(recipe: str) -> dict[str, Any]:
    """The options of a recipe; rows of many tables start from the same few."""
    return read_recipe(find_recipe(recipe))


def check_runs(row: Row, where: str) -> None:
    """Raises ValueError where a row cannot be run, as an option or a field does not exist, or no recipe is named."""
    if not row.recipes:
        raise ValueError(f"{where}: a row that can be run needs recipes, of its own or its table's.")
    for dataset in row.recipes:
        one_of(DATASETS, dataset, f"{where}: data set")
        check_run(row.run_on(dataset), dataset, f"{where}, on {dataset}")
    for dataset, recipe in row.starts_from.items():
        one_of(row.recipes, dataset, f"{where}, starts_from: recipe for")
        check_run(RecipeRun(recipe, {}, {}), None, f"{where}, on {dataset}, starts_from")
    if row.elsewhere and row.dataset in row.recipes:
        raise ValueError(
            f"{where}: elsewhere: a recipe is for {row.dataset}, on which the row would be scored anyway."
        )


def check_run(run: RecipeRun, dataset: str | None, where: str) -> None:
    """Raises ValueError for a recipe that does not exist or is for other data, an option or a field."""
    try:
        options = run.merged()
    except FileNotFoundError as error:
        raise ValueError(f"{where}: {error}") from error
    for option in run.options:
        one_of([name for name in OPTIONS if name not in NO_OVERRIDES], option, f"{where}: option")
    trained_on = [*dataset_names(options), *dataset_names(options.get("image_data") or {})]
    if dataset not in (None, *trained_on):
        raise ValueError(f"{where}: the recipe {run.recipe} is for {', '.join(trained_on)}.")
    # Without a type the saved model that the run goes on from knows its fields.
    if options.get("model_type") is not None:
        try:
            model_class, config = model_class_of(options["model_type"]), options.get("config") or {}
            check_fields(model_class, config)
            if options.get("vision_name_or_path") is not None:
                check_needed(model_class, config)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def metrics_of(protocol: str) -> tuple[str, ...]:
    """The names of all scores that a protocol has."""
    if protocol in VIDEO_PROTOCOLS and protocol != A2D.name:
        return DAVIS_MEASURES
    how = A2D if protocol == A2D.name else PROTOCOLS[protocol]
    further = ("mAP",) if how is A2D else ("N-acc", "T-acc") if how.no_target != "ignored" else ()
    precision = (f"Pr@{threshold:g}" for threshold in how.precision_thresholds)
    return (how.overall_name, how.mean_name, *precision, *further)


def is_generated(dataset: str) -> bool:
    """Whether a data set is drawn from a seed, for small models."""
    return DATASETS[dataset].words is not None


def as_arguments(name: str, value: Any) -> list[str]:
    """An option as it stands on the command line."""
    if name in MAPPINGS or isinstance(value, Mapping):
        return [f"--{name}", json.dumps(value)]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", value if isinstance(value, str) else json.dumps(value)]


def one_of(known: Iterable[str], name: str, what: str) -> str:
    """The name itself; raises ValueError, with the nearest names, where it is none of those that are known."""
    known = list(known)
    if name not in known:
        hint = nearest_names([str(name)], known) or f": choose one of {', '.join(known)}."
        raise ValueError(f"{what} {name!r} does not exist{hint}")
    return name


def known_mapping(content: Any, where: str) -> dict[str, Any]:
    """A mapping of text to values; raises ValueError where it is none."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: a mapping is expected, not {reason_of(content)}.")
    numbers = [key for key in content if not isinstance(key, str)]
    if numbers:
        raise ValueError(f"{where}: {numbers[0]} is no text: put it into quotes.")
    return dict(content)


def known_keys(part: type, content: Any, where: str) -> dict[str, Any]:
    """What a file says of a part; raises ValueError where a key is no field of it."""
    values, known = known_mapping(content, where), [option.name for option in fields(part)]
    for key in values:
        one_of(known, key, f"{where}: key")
    return values


def build(part: type[Part], where: str, values: Mapping[str, Any], **others: Any) -> Part:
    """A part of these values; raises ValueError where one is missing, or of another type."""
    given = {**values, **others}
    try:
        return part(**given)
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"{where}: {reason_of(error)}") from error
