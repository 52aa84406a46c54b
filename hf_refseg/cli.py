"""What the commands of `hf-refseg` do; `hf_refseg_cli.py` beside the package holds their arguments and help."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import (
    PreTrainedModel,
    pipeline,
)

from . import RefSegImageProcessor, RefSegProcessor
from .convert import (
    CheckpointError,
    convert_lavt_checkpoint,
    convert_magnet_checkpoint,
    convert_video_lavt_checkpoint,
    load_checkpoint,
)
from .data.leakage import COCO, IMAGE_COLLECTIONS, LeakageError, drop_images, image_collection, read_leakage_list
from .data.loading import load_refseg, option_names
from .data.masks import encode_mask, mask_to_bbox
from .data.prepare import prepare_dataset, require_dataset_name
from .data.prepared import is_prepared, load_prepared
from .describe import align, describe_dataset, describe_installation, describe_model
from .evaluation import (
    VIDEO_PROTOCOLS,
    EvaluationResult,
    VideoEvaluationResult,
    evaluate_model,
    evaluate_video_model,
    predict_cases,
    predict_video_cases,
    select_worst_and_best,
    with_shuffled_sentences,
    with_shuffled_video_sentences,
)
from .evaluation.protocols import PROTOCOLS
from .evaluation.video import SEQUENCE_MEASURES
from .explain import draw_explanations
from .files import (
    OutputError,
    may_be_on_hub,
    public_name,
    require_writable,
    slug,
    write_json,
    write_picture,
    writing_into,
)
from .hub.token import require_token
from .inputs import load_model, load_tokenizer, select_split, what_is_in
from .modeling.inference_refseg import FrameMask, segment_video
from .modeling.pictures_refseg import open_image
from .modeling.video_refseg import VideoFrames
from .sources import SOURCE_ERRORS, Report, Source, find_sources, keep_readable
from .training.adapters import is_adapter
from .training.run_options import DATASETS, load_run_options, write_local_options, write_run_options
from .video_visualization import MAX_MASKS, write_video_masks
from .visualization import can_draw, draw_comparison, draw_masks, draw_strips

SHOWN_CASES = 5
ALL_PROTOCOLS = (*sorted(PROTOCOLS), *VIDEO_PROTOCOLS)


def predict(
    model_name: str,
    arguments: Sequence[Path],
    texts: Sequence[str],
    output: Path,
    *,
    report: Report,
    all_videos: bool,
    reading: Mapping[str, Any],
    threshold: float | None,
    device: str | None,
    dtype: str,
    json_path: Path | None,
) -> Iterator[str]:
    """Segments every text in every image and video, as `predict_image` and `predict_video` do; yields their lines.

    All images and the beginning of all videos are read before the model is loaded. What is wrong with one of them goes
    to `report`, and the others are segmented.

    Args:
        model_name: folder or Hub id of the model.
        arguments: files, folders and patterns, see `find_sources`.
        texts: the expressions.
        output: the folder that is written to; made where it is missing.
        report: is given what is wrong with an image or a video.
        all_videos: see `find_sources`.
        reading: `window` (0 = the whole video), `overlap` and `per_frame` of `segment_video`, None where not given.
        threshold: foreground probability; the processor's if None.
        device: see `load_model`.
        dtype: see `load_model`.
        json_path: the file for the scores, boxes and masks of all images and videos that were segmented; None = none.

    Raises:
        OutputError: `output` cannot be written, or the disk is full; what was segmented before stays.
    """
    _require_sentences(texts)
    require_writable(output)
    if json_path is not None:
        if json_path.is_dir():
            raise ValueError(f"{json_path} is a folder: pass the name of a file to --json.")
        require_writable(json_path.parent)
    sources = find_sources(arguments, all_videos, report)
    given = {option: value for option, value in reading.items() if value is not None}
    if given and not any(source.is_video for source in sources):
        raise ValueError("--window, --overlap and --per-frame go with --video, or with video files.")
    readable = keep_readable(sources, report)
    _require_place_for_videos(output, [source.name for source in readable if source.is_video], texts)
    if not readable:
        return
    model, processor = load_model(model_name, device, dtype)
    segment_images = partial(
        pipeline("referring-image-segmentation", model=model, processor=processor, device=model.device),
        threshold=threshold,
    )
    if given.get("window") == 0:
        given["window"] = None
    segment_videos = partial(segment_video, model, processor, threshold=threshold, **given)
    output.mkdir(parents=True, exist_ok=True)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
    records = []
    try:
        for source in readable:
            try:
                if source.is_video:
                    masks = json_path is not None
                    record = yield from predict_video(segment_videos, source, texts, output, masks=masks)
                else:
                    record = yield from predict_image(segment_images, source, texts, output)
                records.append(record)
            except OutputError:
                raise
            except SOURCE_ERRORS as error:
                named = str(error).startswith(str(source.path))
                report(error if named else ValueError(f"{source.path}: {error}"))
    finally:
        if json_path is not None:
            write_json(json_path, records)


def predict_image(
    segment: Callable[..., list[dict]], source: Source, texts: Sequence[str], output: Path
) -> Generator[str, None, dict[str, Any]]:
    """Writes `<image>_overlay.png` and `<image>_<number>_<text>.png` (0 or 255) for each text.

    Yields a line for each mask: path, score and share of pixels, whether there is no target, and the text where the
    overlay's legend shows its number instead. Returns the image's entry of the JSON file.
    """
    image = open_image(source.path)
    results = segment(image, text=list(texts))
    masks = [np.asarray(result["mask"]) != 0 for result in results]
    record = {"image": str(source.path), "predictions": []}
    for number, (result, mask) in enumerate(zip(results, masks, strict=True), start=1):
        text = result["label"]
        mask_path = output / ("_".join(filter(None, [source.name, str(number), slug(text)])) + ".png")
        write_picture(mask_path, result["mask"])
        line = f"{mask_path}  score {result['score']:.3f}  {100 * mask.mean():.1f} % of pixels"
        line = line if result["present"] else f"{line}  no target"
        yield line if can_draw(text) else f"{line}  {number} is {text}"
        described = describe_mask(mask, result["score"], result["present"])
        record["predictions"].append({"text": text, **described, "file": str(mask_path)})
    picture = draw_masks(image, masks, [result["label"] for result in results])
    write_picture(output / f"{source.name}_overlay.png", picture)
    return record


def predict_video(
    segment: Callable[..., Iterator[list[FrameMask]]],
    source: Source,
    texts: Sequence[str],
    output: Path,
    *,
    masks: bool,
) -> Generator[str, None, dict[str, Any]]:
    """Writes `<video>.mp4` and the folder `<video>/`, as `write_video_masks` does.

    Yields a line for each text: the folder, the number of the text in it, on how many frames there is a mask, and the
    mean score of those. Returns the video's entry of the JSON file; without `masks` its frames are left out.
    """
    frames, folder = VideoFrames(source.path), output / source.name
    described: list[list[dict[str, Any]]] = [[] for _ in texts]

    def described_along(answers: Iterable[list[FrameMask]]) -> Iterator[list[FrameMask]]:
        for answer in answers:
            for each, of_text in zip(answer, described, strict=True):
                of_text.append(describe_mask(each.mask.numpy(), each.score, each.present))
            yield answer

    answers = segment(frames, texts)
    all_scores = write_video_masks(frames, described_along(answers) if masks else answers, texts, folder)
    for number, (text, scores) in enumerate(zip(texts, all_scores, strict=True), start=1):
        found = [score for score in scores if score > 0]
        line = f"{folder}  {number} {text}: on {len(found)} of {len(scores)} frames"
        yield f"{line}, mean score {np.mean(found):.3f}" if found else f"{line}, no target"
    predictions = [{"text": text, "frames": of_text} for text, of_text in zip(texts, described, strict=True)]
    return {"video": str(source.path), "predictions": predictions, "folder": str(folder)}


def describe_mask(mask: NDArray[np.bool_], score: float, present: bool) -> dict[str, Any]:
    """Score, box (x, y, width, height in pixels) and COCO run lengths of a boolean mask (height, width)."""
    return {"present": bool(present), "score": float(score), "bbox": mask_to_bbox(mask), "mask": encode_mask(mask)}


def explain(
    model_name: str, image_path: Path, text: str, output: Path, *, device: str | None, dtype: str
) -> Iterator[str]:
    """Writes `<image>_<explanation>.png` for each explanation that the model gives, and yields its path."""
    if not text.strip():
        raise ValueError("The expression is empty: pass a sentence.")
    require_writable(output)
    source = Source(image_path, slug(image_path.stem) or "image", is_video=False)
    source.check()
    image = open_image(image_path)
    model, processor = load_model(model_name, device, dtype)
    for name, picture in draw_explanations(model, processor, image, text):
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{source.name}_{name}.png"
        write_picture(path, picture)
        yield str(path)


def evaluate(
    model_name: str,
    dataset_name: str,
    split: str,
    protocol: str | None,
    *,
    data_options: Mapping[str, Any],
    reading: Mapping[str, Any],
    batch_size: int,
    max_images: int | None,
    shuffle_sentences: bool,
    output: Path | None,
    device: str | None,
    dtype: str,
) -> Iterator[str]:
    """Yields a table of the scores, writes `<data set>_<split>_<protocol>.json` and `.png`, and yields their paths.

    `reading` says how a model goes through videos: `window`, `overlap` and `per_frame`, None where not given;
    `batch_size` and `max_images` mean videos where the data set holds these.
    """
    if protocol is not None and protocol not in ALL_PROTOCOLS:
        raise ValueError(f"Unknown protocol '{protocol}': choose one of {', '.join(ALL_PROTOCOLS)}.")
    folder = Path("runs", "evaluate", slug(Path(model_name).name)) if output is None else output
    require_writable(folder)
    given = given_options(dataset_name, data_options)
    of_run = data_options_of_run(model_name, dataset_name)
    options = {**of_run, **given}
    reading = {option: value for option, value in reading.items() if value is not None}
    rows = select_split(load_refseg(dataset_name, **options), dataset_name, split)
    protocol = choose_protocol(protocol, dataset_name, rows)
    on_videos = protocol in VIDEO_PROTOCOLS
    if reading and not on_videos:
        raise ValueError(f"{dataset_name} holds images and takes no --{next(iter(reading)).replace('_', '-')}.")
    if shuffle_sentences:
        rows = (with_shuffled_video_sentences if on_videos else with_shuffled_sentences)(rows)
    model, processor = load_model(model_name, device, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    if on_videos:
        result = evaluate_video_model(
            model, processor, rows, protocol, batch_size=batch_size, max_videos=max_images, **reading
        )
        cases = select_worst_and_best(result.records, SHOWN_CASES, by=SEQUENCE_MEASURES[protocol])
        picture = draw_strips(predict_video_cases(model, processor, rows, cases, **reading))
        scored = f"{result.videos} videos"
    else:
        result = evaluate_model(model, processor, rows, protocol, batch_size=batch_size, max_images=max_images)
        cases = select_worst_and_best(result.records, SHOWN_CASES)
        picture = draw_comparison(predict_cases(model, processor, rows, cases, protocol))
        scored = f"{result.images} images"

    parts = [slug(Path(dataset_name).name), options.get("split_by"), split, protocol]
    name = "_".join(filter(None, [*parts, "shuffled" if shuffle_sentences else None]))
    settings = {"model": model_name, "dataset": dataset_name, "split": split, **options, **reading, "dtype": dtype}
    report = {**settings, "shuffled_sentences": shuffle_sentences, "max_images": max_images, **asdict(result)}
    # Told before they are written: a disk that is full by now does not lose them.
    yield (
        f"{model_name} on {dataset_name} {split}, protocol {protocol}: "
        f"{result.sentences} sentences, {scored}, {result.seconds:.0f} s"
    )
    if taken := ", ".join(f"{option} {value}" for option, value in of_run.items() if option not in given):
        yield f"Data as in the run that trained the model: {taken}"
    yield score_table(result)
    write_json(folder / f"{name}.json", report)
    yield f"{folder / name}.json"
    write_picture(folder / f"{name}.png", picture)
    yield f"{folder / name}.png"


def prepare(
    name: str,
    data_dir: Path | None,
    output: Path,
    *,
    split_by: str | None,
    verify: bool,
    push_to_hub: str | None,
    options: Mapping[str, Any],
) -> str:
    """Writes a data set with `prepare_dataset` and returns a table of what the folder holds."""
    require_dataset_name(name)
    given = given_options(name, options)
    if push_to_hub is not None:
        require_token("--push-to-hub")
    folder = prepare_dataset(
        name,
        data_dir,
        output,
        split_by=split_by,
        verify=verify,
        push_to_hub=push_to_hub,
        **given,
    )
    return describe_dataset(folder)


def convert_lavt(checkpoint_path: Path, output: Path, tokenizer_name: str, **options: Any) -> str:
    """Writes model and processor of a released LAVT checkpoint."""
    return _convert(convert_lavt_checkpoint, checkpoint_path, output, tokenizer_name, **options)


def convert_magnet(checkpoint_path: Path, output: Path, tokenizer_name: str, **options: Any) -> str:
    """Writes model and processor of a released MagNet checkpoint."""
    return _convert(convert_magnet_checkpoint, checkpoint_path, output, tokenizer_name, **options)


def convert_video_lavt(checkpoint_path: Path, output: Path, tokenizer_name: str, **options: Any) -> str:
    """Writes model and processor of a released video LAVT checkpoint."""
    return _convert(convert_video_lavt_checkpoint, checkpoint_path, output, tokenizer_name, **options)


def _convert(
    convert_checkpoint: Callable[..., PreTrainedModel],
    checkpoint_path: Path,
    output: Path,
    tokenizer_name: str,
    *,
    text_heads: int | None,
    **options: Any,
) -> str:
    """Writes model and processor of a released checkpoint; the processor cuts texts as the released one did."""
    _require_new_folder(output)
    checkpoint = load_checkpoint(checkpoint_path)
    tokenizer = load_tokenizer(tokenizer_name)
    try:
        model = convert_checkpoint(checkpoint, **options)
        if text_heads is not None:
            text_config = {**model.config.text_config.to_dict(), "num_attention_heads": text_heads}
            model = convert_checkpoint(checkpoint, text_config=text_config, **options)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint_path}: {error}") from error
    words = model.config.text_config.vocab_size
    if len(tokenizer) != words:
        raise ValueError(
            f"The tokenizer {tokenizer_name} has {len(tokenizer)} words, the checkpoint {checkpoint_path} {words}: "
            "pass the tokenizer that it was trained with to --tokenizer."
        )
    processor = RefSegProcessor(
        RefSegImageProcessor(),
        tokenizer,
        max_text_length=model.config.max_text_length,
        text_truncation="released",
    )
    _write_model(output, model, processor)
    return f"{output}  {model.config.model_type}, {model.num_parameters() / 1e6:.1f} M parameters"


def merge(adapter: str, output: Path) -> str:
    """Writes the base model with the adapter merged into it, and the adapter's processor and options of its run."""
    _require_new_folder(output)
    if not is_adapter(adapter):
        raise ValueError(f"{adapter} is no adapter, so there is nothing to merge.")
    model, processor = load_model(adapter, "cpu", None)
    _write_model(output, model, processor, load_run_options(adapter))
    return f"{output}  {model.config.model_type}, {model.num_parameters() / 1e6:.1f} M parameters"


def _write_model(
    output: Path, model: PreTrainedModel, processor: RefSegProcessor, run_options: Mapping[str, Any] | None = None
) -> None:
    """Fills a new or empty folder; what cannot be finished leaves none behind."""
    try:
        with writing_into(output):
            processor.save_pretrained(output)
            model.save_pretrained(output)
            if run_options:
                write_run_options(output, run_options)
                write_local_options(output, run_options)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise


def info(name: str | None) -> str:
    """What is installed, what a folder holds, or what a model on the Hub is."""
    if name is None:
        return describe_installation()
    folder = Path(name)
    if is_prepared(folder):
        return describe_dataset(folder)
    if may_be_on_hub(name) or (folder / "config.json").is_file() or is_adapter(name):
        return describe_model(name)
    raise ValueError(
        f"{folder} is neither a model (config.json, or adapter_config.json) nor a prepared data set (README.md and "
        f"data/*.parquet), nor can it be the id user/name of a model on the Hub: {what_is_in(folder)}."
    )


def check_leakage(name: str | None, leakage_list: Path | None) -> str:
    """A line that says that no training image of a prepared data set is on the list of held out images.

    Raises:
        LeakageError: some are; the message says how many.
        ValueError: folder or list is absent, is something else, or holds ids of other images than the list.
    """
    if name is None or not is_prepared(folder := Path(name)):
        raise ValueError("--leakage checks a folder that `hf-refseg prepare` wrote: name one.")
    if leakage_list is None:
        raise ValueError(
            "--leakage compares with a list: pass --leakage-list FILE, or name it in HF_REFSEG_LEAKAGE_LIST. It is a "
            f"JSON list of {COCO} image ids, such as the published one of the val and test images of RefCOCO, "
            "RefCOCO+ and RefCOCOg (refcoco_family_val_test_image_ids.json)."
        )
    listed = read_leakage_list(leakage_list)
    collection = image_collection(str(folder))
    if collection not in IMAGE_COLLECTIONS.values():
        raise ValueError(
            f"{folder}: where its images come from is unknown, so their ids cannot be compared. Prepare it again: "
            "pretty_name in its README.md is no data set of this library."
        )
    dataset = load_prepared(folder, columns=["image_id"])
    _, part = drop_images(select_split(dataset, str(folder), "train"), listed if collection == COCO else frozenset())
    if part.dropped_images:
        raise LeakageError(
            f"{folder}: {part.describe_dropped()} are on the list {leakage_list}. "
            "Train without them: examples/run_ris.py --leakage_list drops them."
        )
    return (
        f"{folder}: none of its {part.images:,} training images ({collection}) is on the list {leakage_list} "
        f"({len(listed):,} ids of {COCO})."
    )


def _require_sentences(texts: Sequence[str]) -> None:
    if not all(text.strip() for text in texts):
        raise ValueError("An expression is empty: pass a sentence to every --text.")


def _require_place_for_videos(output: Path, names: Sequence[str], texts: Sequence[str]) -> None:
    if names and len(texts) > MAX_MASKS:
        raise ValueError(f"{len(texts)} expressions are too many for one video: pass at most {MAX_MASKS}.")
    for path in (output / f"{name}{suffix}" for name in names for suffix in ("", ".mp4")):
        if path.exists():
            raise ValueError(f"{path} is there already. Choose another folder as output.")


def _require_new_folder(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds other files. Choose a new or an empty folder as output.")
    require_writable(output)


def choose_protocol(protocol: str | None, name: str, rows: Dataset) -> str:
    """The protocol, by default the usual one for such rows; raises ValueError for one that is for other rows."""
    kind, fitting = ("videos", VIDEO_PROTOCOLS) if "frames" in rows.column_names else ("images", tuple(PROTOCOLS))
    if protocol is None:
        return fitting[0]
    if protocol not in fitting:
        raise ValueError(
            f"{name} holds {kind}, which the protocol '{protocol}' does not score: choose one of {', '.join(fitting)}."
        )
    return protocol


def given_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a data set that were given; raises ValueError for one that belongs to other data sets."""
    given = {option: value for option, value in options.items() if value is not None}
    # `load_refseg` says itself which data sets take those.
    wrong = sorted(given.keys() - {"data_dir", "split_by", *option_names(name)})
    if wrong:
        raise ValueError(f"'{name}' takes no --{wrong[0].replace('_', '-')}. Leave it out.")
    return given


def data_options_of_run(model_name: str, dataset_name: str) -> dict[str, Any]:
    """The options of a data set in the run that trained a model; none where that is unknown.

    Of a model on the Hub they say what the data is, not where it lies.
    """
    options = load_run_options(model_name).get(DATASETS, {}).get(public_name(dataset_name), {})
    known = set(option_names(dataset_name))
    if may_be_on_hub(model_name):
        known -= {"data_dir", "image_dir", "cache_dir"}
    return {option: value for option, value in options.items() if option in known}


def score_table(result: EvaluationResult | VideoEvaluationResult) -> str:
    """Scores in percent with their 95 % intervals."""
    rows = [("score", "percent", "95 % interval")]
    for name, value in result.metrics.items():
        interval = "{:.2f} to {:.2f}".format(*result.intervals[name]) if name in result.intervals else "unknown"
        rows.append((name, f"{value:.2f}", interval))
    return align(rows)
