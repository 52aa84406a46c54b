"""The options of a run, kept beside its weights: a run goes on with no others, and its data is found again by them.

They are shared along with the weights, so that they hold no path of the machine. Where the data lies there is in a
file of its own, which is not uploaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import cached_file

from ..data.catalog import data_options
from ..files import may_be_on_hub, public_name, write_json
from ..modeling.json_files_refseg import read_mapping

RUN_OPTIONS = "run_options.json"
# Where the data lies on this machine. Trainer uploads nothing whose name begins like this one.
LOCAL_OPTIONS = "_local_options.json"
# Their entry with the options of `load_refseg` for each data set, by its name.
DATASETS = "datasets"
# In every saved configuration, whatever the model.
SAVED_WITH_A_MODEL = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "transformers_version",
    "use_cache",
)

# Options that say where something lies on this machine, or that are secret.
PLACES = {
    *(option.name for option in data_options().values() if option.is_place),
    *("output_dir", "logging_dir", "resume_from_checkpoint"),
    *("leakage_list", "cache_image_features", "_name_or_path", "hub_token"),
}

# What a run may go on with in another way: how long it is, what is logged, scored and saved, where files lie, on what
# machine it runs. How many referents a step sees is compared as such, however devices share them.
MAY_CHANGE = {
    *("num_train_epochs", "max_steps", "ignore_data_skip"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "total_train_batch_size", "auto_find_batch_size"),
    *("disable_tqdm", "report_to", "run_name", "project", "pictures", "debug", "skip_memory_metrics"),
    *("per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "enable_jit_checkpoint", "push_to_hub"),
    *("restore_callback_states_from_checkpoint", "use_cpu", "local_rank", "deepspeed", "accelerator_config"),
    *("test_splits", "protocol", "max_test_images", "max_test_videos", "window", "overlap", "per_frame"),
    *("val_size", "test_size"),
    *SAVED_WITH_A_MODEL,
    *PLACES,
}
MAY_CHANGE_BEGINNINGS = (
    *("logging_", "log_", "eval_", "save_", "hub_", "trackio_", "include_", "do_"),
    *("dataloader_", "ddp_", "fsdp", "torch_", "gradient_checkpointing", "activation_checkpointing"),
)


def given_options(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that differ from their defaults, so that a new field changes no record."""
    chosen = [option for option in fields(options) if option.init]
    return {
        option.name: getattr(options, option.name)
        for option in chosen
        if getattr(options, option.name) != default_of(option)
    }


def options_of_run(model: Any, data: Any, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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


def given_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a configuration, and of those inside it, that differ from the method's own."""
    return differing_values(config.to_dict(), type(config)().to_dict())


def differing_values(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: differing_values(value, defaults[name])
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        else value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }


def default_of(option: Field) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def without_paths(options: Any) -> Any:
    """Options without those of `PLACES`, at any depth, and with the last part alone of any other path."""
    if isinstance(options, str | PathLike):
        return public_name(os.fspath(options))
    if isinstance(options, Mapping):
        return {without_paths(name): without_paths(value) for name, value in options.items() if name not in PLACES}
    return [without_paths(value) for value in options] if isinstance(options, list | tuple) else options


def write_run_options(folder: str | PathLike[str], options: Mapping[str, Any]) -> None:
    """Writes the options into the folder of a checkpoint or of a model, without paths."""
    write_json(Path(folder) / RUN_OPTIONS, without_paths(options))


def write_local_options(folder: str | PathLike[str], options: Mapping[str, Any]) -> None:
    """Writes where the data sets lie into the output folder of a run; nothing where the options do not say that."""
    places = {
        public_name(name): {option: value for option, value in given.items() if option in PLACES}
        for name, given in options.get(DATASETS, {}).items()
    }
    if any(places.values()):
        write_json(Path(folder) / LOCAL_OPTIONS, {DATASETS: places})


def read_run_options(folder: str | PathLike[str]) -> dict[str, Any] | None:
    """The options that `write_run_options` wrote; None where there are none.

    Raises:
        ValueError: the file is damaged.
    """
    return _read(Path(folder) / RUN_OPTIONS)


def _read(path: Path) -> dict[str, Any] | None:
    return read_mapping(path, "Put it back, or delete it.") if path.is_file() else None


def load_run_options(name: str) -> dict[str, Any]:
    """The options of the run that trained a model, in a folder or on the Hub; none where it holds none.

    Those of a folder say where the data sets lie as well.

    Raises:
        ValueError: a file is damaged.
        OSError: the Hub has no such model, or cannot be reached.
    """
    if not may_be_on_hub(name):
        options = read_run_options(name) or {}
        # Checkpoints may be uploaded, the folder around them says where the data lies.
        places = _read(Path(name) / LOCAL_OPTIONS) or _read(Path(name).parent / LOCAL_OPTIONS) or {}
        datasets = {
            data: {**given, **places.get(DATASETS, {}).get(data, {})}
            for data, given in options.get(DATASETS, {}).items()
        }
        return {**options, DATASETS: datasets} if datasets else options
    path = cached_file(name, RUN_OPTIONS, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else read_run_options(Path(path).parent) or {}


def regime_of_run(options: Mapping[str, Any], dataset_name: str) -> str:
    """Which of `TRAINING_REGIMES` a run was, seen from a data set that its model is scored on.

    One that went on from a saved model counts as trained on other data: what that had seen is not told. What encoders
    were pretrained on does not count.

    Args:
        options: of the run, see `load_run_options`.
        dataset_name: as in `load_refseg`.
    """
    trained_on = options.get(DATASETS, {})
    if not trained_on:
        return "unknown"
    if public_name(dataset_name) not in trained_on or options.get("model", {}).get("model_name_or_path"):
        return "extra"
    return "single" if len(trained_on) == 1 else "mixed"


def check_same_options(checkpoint: str | PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError with a list of the options of a checkpoint that a run would go on with in another way."""
    # Checkpoints of earlier versions hold paths.
    old, new = (dict(flatten(without_paths(json.loads(json.dumps(each, default=str))))) for each in (before, now))
    differing = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    refused = [
        f"{'.'.join(name[1:])} {describe(old, name)}, now {describe(new, name)}"
        for name in differing
        if not (may_change(name[-1]) or (name[0] != DATASETS and may_change(name[1])))
    ]
    if refused:
        raise ValueError(
            f"{checkpoint} was trained with other options: {'; '.join(refused)}. Go on with those of before, or "
            "choose another output_dir, or begin anew with resume_from_checkpoint=never."
        )


def flatten(options: Any, name: Sequence[str] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of nested mappings, with the names that lead to it."""
    if not isinstance(options, Mapping):
        yield tuple(name), options
        return
    for key, value in options.items():
        yield from flatten(value, (*name, key))


def may_change(name: str) -> bool:
    return name in MAY_CHANGE or name.startswith(MAY_CHANGE_BEGINNINGS)


def describe(options: Mapping[tuple[str, ...], Any], name: tuple[str, ...]) -> str:
    return json.dumps(options[name]) if name in options else "the default"
