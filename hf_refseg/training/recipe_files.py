"""The files of recipes: where they lie, what is in them, and what the table of them says."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from datasets import load_dataset_builder

from ..data.catalog import DATASETS
from ..data.prepared import stored_columns
from ..files import may_be_on_hub
from ..modeling.messages_refseg import nearest_names
from ..yaml_texts import read_yaml

# Installed, the recipes lie inside the package; in a checkout beside the scripts that run them.
PACKAGE = Path(__file__).parents[1]
RECIPES = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "examples" / "recipes") if folder.is_dir())


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by its path or, of those that come with the library, by its name.

    Raises:
        FileNotFoundError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = {path.stem: path for path in RECIPES.glob("*.yaml")}
    if name in recipes:
        return recipes[name]
    hint = nearest_names([Path(name).stem], recipes) or "; hf-refseg train --list shows those of the library."
    raise FileNotFoundError(f"There is no recipe {name}{hint}")


def read_recipe(path: Path) -> dict[str, Any]:
    """The options in the file of a recipe; raises ValueError where it is none."""
    try:
        recipe = read_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no recipe, as it is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe: a mapping of options to values is expected.")
    return {str(name): value for name, value in recipe.items()}


def describe_recipe(path: Path) -> tuple[str, str, str]:
    """Method, data, and what a recipe is for: the first sentence of the comment that it begins with."""
    recipe = read_recipe(path)
    method = recipe.get("model_type") or f"that of {recipe['model_name_or_path']}"
    data = [*dataset_names(recipe), *dataset_names(recipe.get("image_data") or {})]
    with path.open(encoding="utf-8") as lines:
        comment = "".join(takewhile(lambda line: line.startswith("#"), lines))
    (purpose, *_) = re.split(r"(?<=\.)\s", re.sub(r"\s*\n?# ", " ", comment).strip())
    return method, ", ".join(data), purpose


def dataset_names(recipe: dict[str, Any]) -> list[str]:
    """The data sets that a recipe, or its `image_data`, names."""
    named = recipe.get("dataset_name")
    return [str(name) for name in (named if isinstance(named, list) else [named] if named else [])]


def holds_videos(name: str) -> bool:
    """Whether a data set is one of videos: by its name, or by the columns of a prepared folder or of the Hub."""
    if name in DATASETS:
        return DATASETS[name].kind == "video"
    if Path(name).is_dir():
        return "frames" in stored_columns(Path(name))
    return may_be_on_hub(name) and "frames" in (load_dataset_builder(name).info.features or {})
