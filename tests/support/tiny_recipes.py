"""Recipes that train in seconds."""

from pathlib import Path
from typing import Any

import yaml

TINY = {
    # Two stages and one layer: building, saving and loading takes longer than training, and a time for each weight.
    "config": {
        "loss_type": "dice",
        "fusion_num_heads": [1, 1],
        "backbone_config": {
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 1],
            "window_size": 4,
        },
        "text_config": {
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
    },
    "tokenizer_name_or_path": "refshapes",
    "image_size": 64,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": "1e-3",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "pictures": 0,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
TINY_VIDEO = {
    **TINY,
    "model_type": "video_lavt",
    "config": {
        "loss_type": "dice",
        "fusion_num_heads": [1, 1],
        "backbone_config": {
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 1],
            "window_size": [2, 4, 4],
            "drop_path_rate": 0.0,
        },
        "text_config": TINY["config"]["text_config"],
    },
    "tokenizer_name_or_path": "refshapes_video",
    "dataset_name": "refshapes_video",
    "num_frames": 3,
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "eval_strategy": "no",
    "save_strategy": "no",
}
# Nothing is scored in the end, and no picture drawn.
UNSCORED = {"test_splits": [], "eval_strategy": "no"}


def data_options(cache: Path) -> dict[str, Any]:
    """Options of generated data sets of a few scenes."""
    return {"train_size": 4, "val_size": 2, "test_size": 2, "image_size": 64, "cache_dir": str(cache)}


def write_recipe(folder: Path, cache: Path, **options: Any) -> Path:
    """A recipe that trains on images into `folder`; with options in the place of those of `TINY`."""
    return _write(folder, {**TINY, "dataset_options": data_options(cache), **options})


def write_video_recipe(folder: Path, cache: Path, **options: Any) -> Path:
    """The same on videos, with options in the place of those of `TINY_VIDEO`."""
    return _write(folder, {**TINY_VIDEO, "dataset_options": {**data_options(cache), "num_frames": 4}, **options})


def _write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(folder / "run"), **recipe}))
    return path
