"""Recipes that train in seconds."""

from pathlib import Path

import yaml

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
