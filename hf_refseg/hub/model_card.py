"""Model cards: README.md with the metadata the Hub reads, written from what really was measured and done."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel
from transformers import PreTrainedModel

from ..auto import registered_configs
from ..evaluation.video import VIDEO_PROTOCOLS
from ..files import public_name, write_whole
from ..yaml_texts import read_yaml
from .markdown import escape, fenced, front_matter, link_target, one_line, quoted, to_table

if TYPE_CHECKING:
    from ..data.leakage import TrainingPart

# Data set, split, protocol.
ScoreKey = tuple[str, str, str]

IMAGE_SNIPPET = """```python
{first_line}from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained({name}{option})
model = AutoModel.from_pretrained({name}{option})
image = processor.image_processor.fetch_images("photo.jpg")
outputs = model(**processor(image, "the left dog", return_tensors="pt"))
sizes = [(image.height, image.width)]
result = processor.post_process_referring_segmentation(outputs, target_sizes=sizes)[0]
mask = result["mask"]  # bool, (height, width)
```"""
CLIP_SNIPPET = """```python
{first_line}from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained({name}{option})
model = AutoModel.from_pretrained({name}{option})
# A short clip: a video file, a folder of frames, or a list of images. Long videos are read in windows by
# hf_refseg's pipeline "referring-video-segmentation" and by `hf-refseg predict --video`.
outputs = model(**processor(videos="clip.mp4", text="the car that turns left", return_tensors="pt"))
height, width = 480, 854  # of the video
result = processor.post_process_referring_video_segmentation(outputs, target_sizes=[(height, width)])[0]
masks = result["masks"]  # bool, (frames, height, width)
```"""


def write_model_card(
    output_dir: str | PathLike[str],
    *,
    model: PreTrainedModel | PeftModel,
    metrics: Mapping[ScoreKey, Mapping[str, float]] | None = None,
    intervals: Mapping[ScoreKey, Mapping[str, tuple[float, float]]] | None = None,
    commands: Mapping[ScoreKey, Sequence[str]] | None = None,
    training: Mapping[str, object] | None = None,
    training_data: Mapping[str, TrainingPart] | None = None,
    training_curve: str | PathLike[str] | None = None,
    emissions: Mapping[str, object] | None = None,
    pictures: Sequence[str | PathLike[str]] = (),
    datasets: Sequence[str] = (),
    base_model: str | Sequence[str] | None = None,
    repo_id: str | None = None,
    license: str = "apache-2.0",
    intended_use: str | None = None,
    limitations: str | None = None,
) -> Path:
    """Writes `output_dir/README.md` for a saved model and returns its path.

    A section appears only if it was given: the card claims nothing that was not measured or done.

    Args:
        output_dir: The folder that holds (or will hold) the model and its processor; made where it is missing.
        model: The model; its class, `config.model_type` and parameter count go into the card. With an adapter, it
            is the adapter that lies in the folder.
        metrics: Scores in percent, `{(data set, split, protocol): {"oIoU": 61.2, ...}}`.
        intervals: Their 95 % intervals, `{(data set, split, protocol): {"oIoU": (58.9, 63.4), ...}}`.
        commands: What `hf-refseg evaluate` is called with behind the model's name to measure them again.
        training: What really happened, name to value: data set, optimizer, steps, seconds, seed ...
        training_data: What of each data set was trained on, by the data set's name.
        training_curve: An image file with loss and scores over the steps, shown with the training.
        emissions: What the training emitted, as the Hub's metadata `co2_eq_emissions` has it: "emissions" in grams of
            CO2, "source", and what else is known.
        pictures: Image files to show; those outside `output_dir` are copied into it.
        datasets: The training data, as ids on the Hub or names.
        base_model: Id or ids on the Hub of the models this one started from; an adapter's own base model goes first.
        repo_id: The name the usage examples load; default: the name of `output_dir`.
        license: License id as on the Hub.
        intended_use: A paragraph.
        limitations: A paragraph; by default what follows from `datasets` and the model's configuration.

    Raises:
        FileNotFoundError: if a picture does not exist (nothing is written then).
    """
    folder = Path(output_dir)
    check_pictures([*pictures, *([] if training_curve is None else [training_curve])])
    name = repo_id or folder.resolve().name
    datasets = [one_line(public_name(each)) for each in datasets]
    model_type = plain_model(model).config.model_type
    takes_clips = "video" in plain_model(model).input_modalities
    tasks = ["referring-image-segmentation", *(["referring-video-segmentation"] if takes_clips else [])]
    data = ModelCardData(
        library_name="hf_refseg",
        pipeline_tag="image-segmentation",
        tags=[*tasks, model_type, *(["peft"] if isinstance(model, PeftModel) else [])],
        license=license,
        datasets=[each for each in datasets if may_be_id(each)] or None,
        model_name=one_line(name.split("/")[-1]),
        eval_results=to_eval_results(metrics or {}) or None,
        co2_eq_emissions=None if emissions is None else dict(emissions),
        **describe_origin(model, base_model),
    )
    folder.mkdir(parents=True, exist_ok=True)
    sections = [
        f"# {escape(name.split('/')[-1])}",
        describe_model(model),
        *(embed_picture(Path(picture), folder) for picture in pictures),
        describe_usage(name, CLIP_SNIPPET if takes_clips else IMAGE_SNIPPET),
        describe_section("Intended use", intended_use),
        describe_section("Limits", limitations or describe_limits(model, datasets)),
        describe_results(metrics or {}, intervals or {}, name, commands or {}),
        describe_training(
            {**(training or {}), **describe_emissions(emissions)},
            datasets,
            training_data or {},
            "" if training_curve is None else embed_picture(Path(training_curve), folder),
        ),
        describe_citation(model_type),
    ]
    body = "\n\n".join(section for section in sections if section)
    card = f"{front_matter(read_yaml(data.to_yaml()))}\n{body}\n"
    path = folder / "README.md"
    write_whole(path, lambda file: file.write_text(card, encoding="utf-8"))
    return path


def may_be_id(name: str) -> bool:
    """Whether a name could be an id on the Hub, which refuses cards whose metadata calls another one a data set."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def to_eval_results(metrics: Mapping[ScoreKey, Mapping[str, float]]) -> list[EvalResult]:
    """The entries of the card's `model-index`: one per score, named by metric, protocol and split."""
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name=f"Referring {'video' if protocol in VIDEO_PROTOCOLS else 'image'} segmentation",
            dataset_type=one_line(public_name(dataset)),
            dataset_name=one_line(public_name(dataset)),
            dataset_split=one_line(split),
            metric_type=metric,
            metric_name=one_line(f"{metric} ({protocol} protocol, {split})"),
            metric_value=round(float(value), 4),
            metric_args={"protocol": protocol},
        )
        for (dataset, split, protocol), scores in metrics.items()
        for metric, value in scores.items()
    ]


def plain_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def describe_origin(model: PreTrainedModel | PeftModel, given: str | Sequence[str] | None) -> dict[str, object]:
    """The metadata on what the model was made from: an adapter's base model if it lies on the Hub, else `given`."""
    if isinstance(model, PeftModel):
        recorded = model.peft_config["default"].base_model_name_or_path
        if not Path(recorded).is_absolute():
            return {"base_model": recorded, "base_model_relation": "adapter"}
    if given is None or isinstance(given, str):
        return {"base_model": given if given and may_be_id(given) else None}
    return {"base_model": [name for name in given if may_be_id(name)] or None}


def describe_model(model: PreTrainedModel | PeftModel) -> str:
    """The first line of the class's docstring, its name and its size, that of the adapter too."""
    model_class = type(plain_model(model))
    purpose = (model_class.__doc__ or "").strip().partition("\n")[0]
    if isinstance(model, PeftModel):
        held = sum(parameter.numel() for name, parameter in model.named_parameters() if ".default." in name)
        base_model = model.peft_config["default"].base_model_name_or_path
        size = (
            f"An adapter of {held / 1e6:.2f} million parameters for the `{model_class.__name__}` in "
            f"{escape(public_name(base_model))}, "
            "which is loaded along with it; that takes `peft`."
        )
    else:
        size = f"`{model_class.__name__}`, {model.num_parameters() / 1e6:.2f} million parameters."
    return f"{purpose}\n\n{size}" if purpose else size


def check_pictures(pictures: Iterable[str | PathLike[str]]) -> None:
    for picture in pictures:
        if not Path(picture).is_file():
            raise FileNotFoundError(f"picture {picture} does not exist; write it before the model card")


def embed_picture(picture: Path, folder: Path) -> str:
    """Markdown that shows `picture` from within `folder`, where it is copied to if it lies elsewhere."""
    if not picture.resolve().is_relative_to(folder.resolve()):
        copy = folder / picture.name
        write_whole(copy, partial(shutil.copy, picture))
        picture = copy
    relative = picture.resolve().relative_to(folder.resolve()).as_posix()
    return f"![{escape(picture.stem.replace('_', ' '))}]({link_target(relative)})"


def describe_usage(name: str, snippet: str) -> str:
    installed = snippet.format(name=quoted(name), first_line="import hf_refseg\n", option="")
    remote = snippet.format(name=quoted(name), first_line="", option=", trust_remote_code=True")
    return (
        f"## Usage\n\nWith `hf_refseg` installed:\n\n{installed}\n\n"
        f"Without it, by the code that lies beside the weights:\n\n{remote}"
    )


def describe_section(title: str, text: str | None) -> str:
    return f"## {title}\n\n{text.strip()}" if text else ""


def describe_limits(model: PreTrainedModel | PeftModel, datasets: Sequence[str]) -> str:
    """What follows from how it was trained; nothing where that is not known."""
    if not datasets:
        return ""
    names = escape(", ".join(datasets))
    lines = [f"- It was trained on {names}. Nothing was measured on other pictures, other words or other languages."]
    config = plain_model(model).config
    if config.model_type in registered_configs() and not config.presence_head:
        lines.append(
            "- It has no head that says whether there is a target at all (`presence_head`): asked for what is not in "
            "the picture, it may mark something else."
        )
    return "\n".join(lines)


def describe_results(
    metrics: Mapping[ScoreKey, Mapping[str, float]],
    intervals: Mapping[ScoreKey, Mapping[str, tuple[float, float]]],
    model: str,
    commands: Mapping[ScoreKey, Sequence[str]],
) -> str:
    """One row per data set, split and protocol, one column per metric, in percent; and what measures them again."""
    if not metrics:
        return ""
    names = list(dict.fromkeys(name for scores in metrics.values() for name in scores))
    rows = [
        [public_name(key[0]), *key[1:], *(format_score(name, scores, intervals.get(key, {})) for name in names)]
        for key, scores in metrics.items()
    ]
    table = to_table(["data set", "split", "protocol", *names], rows)
    note = "Scores in percent. Numbers of different protocols cannot be compared; see `hf_refseg.evaluation`."
    if intervals:
        note += " In parentheses 95 % intervals, by drawing the images (of videos, the videos) anew."
    parts = ["## Results", note, table]
    if commands:
        lines = [shlex.join(["hf-refseg", "evaluate", one_line(model), *commands[key]]) for key in commands]
        parts += ["Measured again by:", fenced("bash", "\n".join(lines))]
    return "\n\n".join(parts)


def format_score(name: str, scores: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    """A score with its interval; empty where there is none of that name."""
    if name not in scores:
        return ""
    between = " ({:.2f} to {:.2f})".format(*intervals[name]) if name in intervals else ""
    return f"{scores[name]:.2f}{between}"


def describe_emissions(emissions: Mapping[str, object] | None) -> dict[str, object]:
    """The row on what the training emitted; none where that was not measured."""
    if emissions is None:
        return {}
    return {"emissions": f"{emissions['emissions']:.3g} g of CO2, as told by {emissions['source']}"}


def describe_training(
    training: Mapping[str, object],
    datasets: Sequence[str],
    training_data: Mapping[str, TrainingPart],
    curve: str,
) -> str:
    """What was done to what data; `curve` is the Markdown that shows the picture, or empty."""
    rows = [["data", ", ".join(datasets)]] if datasets else []
    rows += [[key, str(value)] for key, value in training.items()]
    parts = [to_table(["", "value"], rows)] if rows else []
    if training_data:
        parts.append(describe_training_data(training_data))
    if curve:
        parts.append(curve)
    return "\n\n".join(["## Training", *parts]) if parts else ""


def describe_training_data(training_data: Mapping[str, TrainingPart]) -> str:
    """One row per data set: what was trained on, and what was dropped because it is held out."""
    rows = [
        [
            public_name(name),
            *(f"{count:,}" for count in (part.rows, part.images, part.dropped_images, part.dropped_rows)),
        ]
        for name, part in training_data.items()
    ]
    header = ["trained on", "referents", "images", "images dropped for leakage", "their referents"]
    return to_table(header, rows)


def describe_citation(model_type: str) -> str:
    """What to cite; nothing for what is no method of ours."""
    known = registered_configs()
    citation = known[model_type].citation if model_type in known else ""
    return f"## Citation\n\nThe method:\n\n```bibtex\n{citation}\n```" if citation else ""
