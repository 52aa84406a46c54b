"""`hf-refseg evaluate`: the scores of any system on a split of a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .options import (
    Device,
    Dtype,
    Instances,
    Missing,
    Overlap,
    Predictions,
    SavePredictions,
    ScoreThreshold,
    SystemAndDataset,
    TrainingRegime,
    TrustRemoteCode,
    check_data_options,
    with_data_options,
)
from .prediction_files import open_file, saving_predictions, split_names

if TYPE_CHECKING:
    from accelerate import PartialState
    from datasets import Dataset
    from PIL import Image

    from ..evaluation import AnswerSource, EvaluationResult, SystemSource
    from ..evaluation.groups import GroupScores
    from ..evaluation.probes import ProbeScores
    from ..visualization import ComparisonRow, ComparisonStrip

SHOWN_CASES = 5
# Options of a system that results tell where they are given.
SAVED_OPTIONS = ("score_threshold", "instances")
TIMES = "times.jsonl"


@with_data_options
def evaluate(
    names: SystemAndDataset,
    split: Annotated[str, typer.Option(help="Such as val, testA or test.")] = "val",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="How masks are scored: original, lavt, vlt, cris, phrasecut, rela or rela_area50; of videos davis, "
            "davis_unsupervised or a2d. By default as usual for the data set.",
            show_default=False,
        ),
    ] = None,
    *,
    data_options: dict[str, Any],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sentences per forward pass; by default 16, of large systems fewer.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Stop after so many images, or videos.")] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Frames of a video that the model sees at once; by default all of them.")
    ] = None,
    overlap: Overlap = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Go through videos frame by frame, as image models do anyway.")
    ] = False,
    shuffle_sentences: Annotated[
        bool, typer.Option("--shuffle-sentences", help="Ask for other images' sentences: shows whether a model reads.")
    ] = False,
    breakdown: Annotated[
        bool, typer.Option("--breakdown", help="Score groups of sentences too: by words, length, target and category.")
    ] = False,
    probes: Annotated[
        bool, typer.Option("--probes", help="Ask changed sentences too: how far do scores drop on them?")
    ] = False,
    predictions: Predictions = None,
    missing: Missing = None,
    save_predictions: SavePredictions = None,
    training_regime: TrainingRegime = None,
    streaming: Annotated[
        bool,
        typer.Option("--streaming", help="Read a prepared data set as it is scored, without a copy."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images or frames ahead, of each process that scores.")
    ] = 0,
    score_threshold: ScoreThreshold = None,
    instances: Instances = None,
    trust_remote_code: TrustRemoteCode = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for results; by default runs/evaluate/<system>.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Score a system on a split: a table with 95 % intervals, a JSON file, and a picture of worst and best cases.

    Masks of any other program are scored with --predictions FILE DATASET, without a system.

    A model that a script of this library trained on the data set brings the options of its run along: those of the
    data that are not given here are as they were there.

    On several GPUs: torchrun --nproc_per_node N -m hf_refseg_cli evaluate ..., or accelerate launch -m hf_refseg_cli
    evaluate .... A run that was cut off goes on where it was.
    """
    from ..evaluation import (
        PredictionSource,
        break_down,
        describe_sentences,
        evaluate_probes,
        with_shuffled_sentences,
    )
    from ..evaluation.portions import join_processes, leave_processes
    from ..files import require_no_folder, require_writable, slug, write_json
    from ..systems import short_name
    from ..training.run_options import load_run_options, regime_of_run

    system, name = split_names(names, predictions)
    check_protocol(protocol)
    asked = {"batch_size": batch_size, "score_threshold": score_threshold, "instances": instances}
    of_videos = {"window": window, "overlap": overlap, "per_frame": per_frame or None}
    of_videos = {option: value for option, value in of_videos.items() if value is not None}
    changes: dict[str, Any] = {
        "shuffle_sentences": shuffle_sentences,
        "probes": probes,
        "save_predictions": save_predictions,
    }
    loading = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    of_systems = {**asked, **of_videos, **changes, **loading, "dtype": dtype != "float32", "workers": workers}
    file = open_file(predictions, missing, name, split, of_systems)
    shown = system if predictions is None else predictions.stem
    folder = Path("runs", "evaluate", slug(short_name(shown))) if output is None else output
    require_writable(folder)
    if save_predictions is not None:
        require_no_folder(save_predictions, "--save-predictions")
    check_data_options(name, data_options)
    state = join_processes(device)
    regime = training_regime or regime_of_run(load_run_options(system) if system else {}, name)
    of_run = data_options_of_run(system, name) if system else {}
    options = {**of_run, **data_options}
    rows, protocol = load_rows(name, split, options, protocol, streaming=streaming)
    check_videos(name, protocol, of_videos)
    check_changes(rows, protocol, max_images, **changes)
    rows = with_shuffled_sentences(rows) if shuffle_sentences else rows
    source: SystemSource | PredictionSource
    if file is None:
        source = load_source(system, protocol, of_videos, workers, **asked, **loading)
    else:
        source = PredictionSource(file, rows, protocol, missing or "error", max_images)
    folder.mkdir(parents=True, exist_ok=True)
    own_name = options.pop("dataset", None)
    parts = [slug(Path(name).name), slug(own_name or ""), options.get("split_by"), split, protocol]
    evaluation = Evaluation(
        system=system if file is None else file.header.system or file.path.name,
        dataset=" ".join(filter(None, [name, own_name])),
        split=split,
        protocol=protocol,
        source=source,
        state=state,
        folder=folder,
        name="_".join(filter(None, [*parts, "shuffled" if shuffle_sentences else None])),
    )
    saved = {"dataset": name, "split": split, "system": evaluation.system}
    with saving_predictions(save_predictions, protocol, source, state, **saved) as write_lines:
        result = evaluation.score(rows, max_examples=max_images, write_lines=write_lines)
    probed = None
    if probes:
        probed = evaluate_probes(partial(evaluation.score, bootstrap_samples=0), rows, unchanged=result)
    if not leave_processes(state):
        return
    groups = break_down(result.records, protocol, describe_sentences(rows)) if breakdown else None
    picture = draw_cases(evaluation, rows, result)
    settings = {**options, **of_videos}
    if isinstance(source, PredictionSource):
        settings |= {"predictions": str(predictions), "missing": source.left_out}
    else:
        settings |= {
            "dtype": dtype,
            **{option: asked[option] for option in SAVED_OPTIONS if asked[option] is not None},
        }
    settings["training_regime"] = regime
    settings |= {"shuffled_sentences": shuffle_sentences, "max_images": max_images}
    taken = {option: value for option, value in of_run.items() if option not in data_options}
    # Told before they are written: a disk that is full by now does not lose them.
    typer.echo(describe_scores(evaluation, result, taken, groups, probed))
    write_json(evaluation.path(".json"), report_of(evaluation, settings, result, groups, probed))
    evaluation.forget(probes)
    # Apart from the scores, whose file is the same whenever and in however many processes they are measured.
    write_times(folder / TIMES, evaluation.name, result.seconds, state, workers)
    typer.echo(evaluation.path(".json"))
    write_pictures(evaluation, picture, groups, save_predictions)


@dataclass(frozen=True)
class Evaluation:
    """What is scored how, and where its results lie.

    Attributes:
        system: how results name what answers.
        dataset, split, protocol: what is scored, and how.
        source: gives the answers.
        state: the processes that share the images; None = this one does all by itself.
        folder: for the results.
        name: what their files are called.
    """

    system: str
    dataset: str
    split: str
    protocol: str
    source: AnswerSource
    state: PartialState | None
    folder: Path
    name: str

    @property
    def data(self) -> str:
        """Data set and split as people read them."""
        return f"{self.dataset} {self.split}"

    def path(self, ending: str) -> Path:
        """That of a result."""
        return self.folder / f"{self.name}{ending}"

    def unfinished(self, probe: str = "") -> Path:
        """Where scores are kept until their result is written, of a probe its own."""
        from ..files import slug

        return self.folder / f"{'_'.join(filter(None, [self.name, slug(probe)]))}.unfinished"

    def score(self, rows: Dataset, probe: str = "", **how: Any) -> EvaluationResult:
        """The scores of rows, as they are or changed by a probe; `how` as of `evaluate_answers`."""
        from ..evaluation import evaluate_answers

        how |= {"state": self.state, "unfinished": self.unfinished(probe), "title": probe or "evaluate"}
        return evaluate_answers(self.source, rows, self.protocol, **how)

    def forget(self, probes: bool) -> None:
        """Removes what was kept of scores that are written, and of the probes where they were asked for."""
        from ..evaluation.portions import forget_portions
        from ..evaluation.probes import PROBES

        for probe in ("", *PROBES) if probes else ("",):
            forget_portions(self.unfinished(probe))


def write_pictures(
    evaluation: Evaluation, cases: Image.Image, groups: Sequence[GroupScores] | None, predictions: Path | None
) -> None:
    """Writes the picture of cases and that of groups, and tells where they and saved predictions lie."""
    from ..evaluation.groups import draw_breakdown
    from ..files import write_picture

    write_picture(evaluation.path(".png"), cases)
    typer.echo(evaluation.path(".png"))
    if predictions:
        typer.echo(predictions)
    if groups:
        title = f"{evaluation.data}, protocol {evaluation.protocol}"
        write_picture(evaluation.path("_breakdown.png"), draw_breakdown(groups, title))
        typer.echo(evaluation.path("_breakdown.png"))


def load_rows(
    name: str, split: str, options: dict[str, Any], protocol: str | None, *, streaming: bool
) -> tuple[Dataset, str]:
    """The rows of a split and the protocol that scores them; raises as `load_refseg` and `choose_protocol`."""
    from ..data.loading import load_refseg

    how = {"streaming": True} if streaming else {}
    rows = load_refseg(name, **{**options, **how, "splits": [split]})[split]
    return rows, choose_protocol(protocol, name, rows)


def check_videos(name: str, protocol: str, of_videos: Mapping[str, Any]) -> None:
    """Raises ValueError for an option about videos where there are images."""
    from ..evaluation import VIDEO_PROTOCOLS

    if of_videos and protocol not in VIDEO_PROTOCOLS:
        raise ValueError(f"{name} holds images and takes no --{next(iter(of_videos)).replace('_', '-')}.")


def check_changes(
    rows: Dataset,
    protocol: str,
    max_images: int | None,
    *,
    shuffle_sentences: bool,
    probes: bool,
    save_predictions: Path | None,
) -> None:
    """Raises ValueError for sentences that cannot be changed as these options ask, or not with each other."""
    from ..evaluation.probes import check_probes

    if probes:
        check_probes(rows, protocol, max_images)
    if probes and shuffle_sentences:
        raise ValueError("--probes shuffles sentences itself: leave --shuffle-sentences out.")
    if shuffle_sentences and save_predictions:
        raise ValueError("Predictions of shuffled sentences fit no data set: leave --save-predictions out.")


def load_source(
    system: str, protocol: str, of_videos: Mapping[str, Any], workers: int, **options: Any
) -> SystemSource:
    """The answers of a system, which is loaded; options and errors as of `load_system`."""
    from ..evaluation import VIDEO_PROTOCOLS, SystemSource
    from ..modeling.inference_refseg import VideoWindow
    from ..systems import find_kind, load_system

    takes_window = protocol in VIDEO_PROTOCOLS and "window" in find_kind(system, options["trust_remote_code"]).options
    if of_videos or takes_window:
        window, overlap = of_videos.get("window"), of_videos.get("overlap")
        options["window"] = VideoWindow(window, overlap, per_frame="per_frame" in of_videos)
    return SystemSource(load_system(system, **options), workers)


def draw_cases(evaluation: Evaluation, rows: Dataset, result: EvaluationResult) -> Image.Image:
    """The worst and best cases, with the masks that are asked for once more."""
    from ..evaluation import VIDEO_PROTOCOLS, find_cases, select_worst_and_best
    from ..evaluation.video import SEQUENCE_MEASURES
    from ..visualization import draw_comparison, draw_strips

    protocol = evaluation.protocol
    cases = select_worst_and_best(result.records, SHOWN_CASES, by=SEQUENCE_MEASURES.get(protocol, "iou"))
    compared = find_cases(evaluation.source, rows, cases, protocol)
    if protocol in VIDEO_PROTOCOLS:
        return draw_strips(cast("list[ComparisonStrip]", compared))
    return draw_comparison(cast("list[ComparisonRow]", compared))


def report_of(
    evaluation: Evaluation,
    settings: Mapping[str, Any],
    result: EvaluationResult,
    groups: Sequence[GroupScores] | None,
    probed: Sequence[ProbeScores] | None,
) -> dict[str, Any]:
    """What the JSON file tells: all but the time."""
    report = {"model": evaluation.system, "dataset": evaluation.dataset, "split": evaluation.split, **settings}
    report |= {name: value for name, value in asdict(result).items() if name != "seconds"}
    more = {"breakdown": groups, "probes": probed}
    return report | {option: list(map(asdict, found)) for option, found in more.items() if found is not None}


def describe_scores(
    evaluation: Evaluation,
    result: EvaluationResult,
    taken: Mapping[str, Any],
    groups: Sequence[GroupScores] | None,
    probed: Sequence[ProbeScores] | None,
) -> str:
    """What is printed: the scores, those of groups and probes, and the data options that a run brought along."""
    from ..evaluation import VIDEO_PROTOCOLS
    from ..evaluation.groups import breakdown_table
    from ..evaluation.probes import probes_table
    from ..messages import counted, one_line

    scored = counted(result.examples, "video" if evaluation.protocol in VIDEO_PROTOCOLS else "image")
    lines = [
        f"{one_line(evaluation.system)} on {evaluation.data}, protocol {evaluation.protocol}: "
        f"{counted(result.sentences, 'sentence')}, {scored}, {result.seconds:.0f} s"
    ]
    if taken:
        told = ", ".join(f"{option} {value}" for option, value in taken.items())
        lines.append(f"Data as in the run that trained the model: {told}")
    lines.append(score_table(result))
    if groups:
        lines.append(f"\n{breakdown_table(groups)}")
    if probed:
        lines.append(f"\n{probes_table(probed)}")
    return "\n".join(lines)


def write_times(path: Path, measured: str, seconds: float, state: PartialState | None, workers: int) -> None:
    """Appends a line about the time that an evaluation took, of a run that went on with another one its own alone."""
    from ..files import writing_into

    processes = 1 if state is None else state.num_processes
    line = {"measured": measured, "seconds": round(seconds, 1), "processes": processes, "workers": workers}
    with writing_into(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def check_protocol(protocol: str | None) -> None:
    """Raises ValueError for a protocol that there is not."""
    from ..evaluation import VIDEO_PROTOCOLS
    from ..evaluation.protocols import PROTOCOLS

    known = (*sorted(PROTOCOLS), *VIDEO_PROTOCOLS)
    if protocol is not None and protocol not in known:
        raise ValueError(f"Unknown protocol '{protocol}': choose one of {', '.join(known)}.")


def choose_protocol(protocol: str | None, name: str, rows: Dataset) -> str:
    """The protocol, by default that of the data set's record, of one from elsewhere the first for such rows.

    Raises:
        ValueError: the protocol is for other rows.
    """
    from ..data.prepared import find_specs
    from ..data.rows import holds_videos
    from ..evaluation import VIDEO_PROTOCOLS
    from ..evaluation.protocols import PROTOCOLS

    kind, fitting = ("video", VIDEO_PROTOCOLS) if holds_videos(rows) else ("image", tuple(PROTOCOLS))
    if protocol is None:
        return next((spec.protocol for spec in find_specs(name) if spec.kind == kind), fitting[0])
    if protocol not in fitting:
        raise ValueError(
            f"{name} holds {kind}s, which the protocol '{protocol}' does not score: choose one of "
            f"{', '.join(fitting)}."
        )
    return protocol


def data_options_of_run(model_name: str, dataset_name: str) -> dict[str, Any]:
    """The options of a data set in the run that trained a model; none where that is unknown.

    Of a model on the Hub they say what the data is, not where it lies.
    """
    from ..data.catalog import data_options
    from ..data.loading import option_names
    from ..files import may_be_on_hub, public_name
    from ..training.run_options import DATASETS, load_run_options

    options = load_run_options(model_name).get(DATASETS, {}).get(public_name(dataset_name), {})
    # Which split is scored, and how it is read, is for the command to say.
    known = set(option_names(dataset_name)) - {"splits", "streaming"}
    if may_be_on_hub(model_name):
        known -= {option.name for option in data_options().values() if option.is_place}
    return {option: value for option, value in options.items() if option in known}


def score_table(result: EvaluationResult) -> str:
    """Scores in percent with their 95 % intervals."""
    from ..messages import align

    rows = [("score", "percent", "95 % interval")]
    for name, value in result.metrics.items():
        interval = "{:.2f} to {:.2f}".format(*result.intervals[name]) if name in result.intervals else "unknown"
        rows.append((name, f"{value:.2f}", interval))
    return align(rows)
