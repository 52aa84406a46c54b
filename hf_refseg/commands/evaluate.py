"""`hf-refseg evaluate`: the scores of any system on a split of a data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

    from ..evaluation import EvaluationResult

SHOWN_CASES = 5
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
    from ..data.loading import load_refseg
    from ..evaluation import (
        VIDEO_PROTOCOLS,
        PredictionSource,
        SystemSource,
        break_down,
        describe_sentences,
        evaluate_answers,
        evaluate_probes,
        find_cases,
        select_worst_and_best,
        with_shuffled_sentences,
    )
    from ..evaluation.groups import breakdown_table, draw_breakdown
    from ..evaluation.portions import forget_portions, join_processes, leave_processes
    from ..evaluation.probes import check_probes, probes_table
    from ..evaluation.video import SEQUENCE_MEASURES
    from ..files import require_writable, slug, write_json, write_picture
    from ..modeling.inference_refseg import VideoWindow
    from ..systems import find_kind, load_system, short_name
    from ..training.run_options import load_run_options, regime_of_run
    from ..visualization import draw_comparison, draw_strips

    system, name = split_names(names, predictions)
    check_protocol(protocol)
    of_system = {"batch_size": batch_size, "score_threshold": score_threshold, "instances": instances}
    given = {"window": window, "overlap": overlap, "per_frame": per_frame or None}
    given = {option: value for option, value in given.items() if value is not None}
    changes = {"shuffle_sentences": shuffle_sentences, "probes": probes, "save_predictions": save_predictions}
    loading = {"device": device, "dtype": dtype != "float32", "trust_remote_code": trust_remote_code}
    of_systems = {**of_system, **given, **changes, **loading, "workers": workers}
    file = open_file(predictions, missing, name, split, of_systems)
    scored_name = system or file.header.system or predictions.name
    folder = Path("runs", "evaluate", slug(short_name(system or predictions.stem))) if output is None else output
    require_writable(folder)
    check_data_options(name, data_options)
    # Whatever is wrong with a name is said before data is read, which may take long.
    kind = None if system is None else find_kind(system, trust_remote_code)
    state = join_processes(device)
    run_options = {} if system is None else load_run_options(system)
    of_run = data_options_of_run(system, name) if system else {}
    options = {**of_run, **data_options}
    how = {"streaming": True} if streaming else {}
    rows = load_refseg(name, **{**options, **how, "splits": [split]})[split]
    protocol = choose_protocol(protocol, name, rows)
    on_videos = protocol in VIDEO_PROTOCOLS
    if given and not on_videos:
        raise ValueError(f"{name} holds images and takes no --{next(iter(given)).replace('_', '-')}.")
    if probes:
        check_probes(rows, protocol, max_images)
    if probes and shuffle_sentences:
        raise ValueError("--probes shuffles sentences itself: leave --shuffle-sentences out.")
    if shuffle_sentences and save_predictions:
        raise ValueError("Predictions of shuffled sentences fit no data set: leave --save-predictions out.")
    if shuffle_sentences:
        rows = with_shuffled_sentences(rows)
    if file is not None:
        source = PredictionSource(file, rows, protocol, missing or "error", max_images)
    else:
        if given or (on_videos and "window" in kind.options):
            of_system["window"] = VideoWindow(window, overlap, per_frame)
        loaded = load_system(system, device=device, dtype=dtype, trust_remote_code=trust_remote_code, **of_system)
        source = SystemSource(loaded, workers)
    folder.mkdir(parents=True, exist_ok=True)
    own_name = options.pop("dataset", None)
    parts = [slug(Path(name).name), slug(own_name or ""), options.get("split_by"), split, protocol]
    file_name = "_".join(filter(None, [*parts, "shuffled" if shuffle_sentences else None]))
    begun: list[Path] = []

    def score(scored_rows: Dataset, probe: str = "", **how: Any) -> EvaluationResult:
        begun.append(folder / f"{'_'.join(filter(None, [file_name, slug(probe)]))}.unfinished")
        return evaluate_answers(source, scored_rows, protocol, state=state, unfinished=begun[-1], **how)

    saved = {"dataset": name, "split": split, "system": scored_name}
    with saving_predictions(save_predictions, protocol, source, state, **saved) as write_lines:
        result = score(rows, max_examples=max_images, write_lines=write_lines)
    probed = evaluate_probes(partial(score, bootstrap_samples=0), rows, unchanged=result) if probes else None
    if not leave_processes(state):
        return
    groups = break_down(result.records, protocol, describe_sentences(rows)) if breakdown else None
    cases = select_worst_and_best(result.records, SHOWN_CASES, by=SEQUENCE_MEASURES.get(protocol, "iou"))
    compared = find_cases(source, rows, cases, protocol)
    picture = draw_strips(compared) if on_videos else draw_comparison(compared)
    scored = f"{result.videos} videos" if on_videos else f"{result.images} images"

    dataset = " ".join(filter(None, [name, own_name]))
    settings = {"model": scored_name, "dataset": dataset, "split": split, **options, **given}
    if file is None:
        settings["dtype"] = dtype
        settings |= {name: of_system[name] for name in ("score_threshold", "instances") if of_system[name] is not None}
    else:
        settings |= {"predictions": str(predictions), "missing": source.left_out}
    settings["training_regime"] = training_regime or regime_of_run(run_options, name)
    report = {**settings, "shuffled_sentences": shuffle_sentences, "max_images": max_images, **asdict(result)}
    more = {"breakdown": groups, "probes": probed}
    report |= {option: list(map(asdict, found)) for option, found in more.items() if found is not None}
    # Told before they are written: a disk that is full by now does not lose them.
    typer.echo(
        f"{scored_name} on {dataset} {split}, protocol {protocol}: "
        f"{result.sentences} sentences, {scored}, {result.seconds:.0f} s"
    )
    if taken := ", ".join(f"{option} {value}" for option, value in of_run.items() if option not in data_options):
        typer.echo(f"Data as in the run that trained the model: {taken}")
    typer.echo(score_table(result))
    seconds = report.pop("seconds")
    if groups:
        typer.echo(f"\n{breakdown_table(groups)}")
    if probed:
        typer.echo(f"\n{probes_table(probed)}")
    write_json(folder / f"{file_name}.json", report)
    for unfinished in begun:
        forget_portions(unfinished)
    # Apart from the scores, whose file is the same whenever and in however many processes they are measured.
    write_times(folder / TIMES, file_name, seconds, state, workers)
    typer.echo(f"{folder / file_name}.json")
    write_picture(folder / f"{file_name}.png", picture)
    typer.echo(f"{folder / file_name}.png")
    if save_predictions:
        typer.echo(save_predictions)
    if groups:
        path = folder / f"{file_name}_breakdown.png"
        write_picture(path, draw_breakdown(groups, f"{dataset} {split}, protocol {protocol}"))
        typer.echo(path)


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
    from ..evaluation import VIDEO_PROTOCOLS
    from ..evaluation.protocols import PROTOCOLS

    kind, fitting = ("video", VIDEO_PROTOCOLS) if "frames" in rows.column_names else ("image", tuple(PROTOCOLS))
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
