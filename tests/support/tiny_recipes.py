"""Recipes that train in seconds, and the script that runs them on images."""

import importlib.util
import sys
from pathlib import Path

import yaml
from places import EXAMPLES

specification = importlib.util.spec_from_file_location("run_ris", EXAMPLES / "run_ris.py")
run_ris = importlib.util.module_from_spec(specification)
sys.modules["run_ris"] = run_ris  # dataclasses look their module up there
specification.loader.exec_module(run_ris)

TINY = {
    "config": {
        "loss_type": "dice",
        "backbone_config": {
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
        },
        "text_config": {
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 2,
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
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}


def write_recipe(folder: Path, cache: Path, **options) -> Path:
    data = {"train_size": 4, "val_size": 2, "test_size": 2, "image_size": 64, "cache_dir": str(cache)}
    recipe = {**TINY, "dataset_options": data, "output_dir": str(folder / "run"), **options}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
