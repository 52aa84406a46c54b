"""The reference numbers of LAVT: tiny models in released parameter names, their inputs and outputs."""

import json
import re

from places import FIXTURES
from safetensors.torch import load_file
from torch import Tensor

from hf_refseg import LavtForReferringSegmentation
from hf_refseg.convert import convert_lavt_checkpoint
from hf_refseg.convert.lavt import RULES

FOLDER = FIXTURES / "lavt"
CASES = ("even", "pad", "odd")
BERT_CONFIG = json.loads((FOLDER / "index.json").read_text())["config"]["bert"]


def released_checkpoint() -> dict:
    return {
        "model": load_file(FOLDER / "model.safetensors"),
        "bert_model": load_file(FOLDER / "bert_model.safetensors"),
    }


def golden_model(**config_overrides) -> LavtForReferringSegmentation:
    return convert_lavt_checkpoint(released_checkpoint(), text_config=BERT_CONFIG, **config_overrides)


def golden_case(name: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors and numbers of a case."""
    return load_file(FOLDER / f"case_{name}.safetensors"), json.loads((FOLDER / f"case_{name}.json").read_text())


def model_inputs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "pixel_values": tensors["image"],
        "input_ids": tensors["input_ids"],
        "attention_mask": tensors["attention_mask"],
    }


def our_name(released: str) -> str:
    """The name here of a parameter of the reference; the names of query, key and value share one there."""
    name = released.removeprefix("model.").replace("bert_model.", "text_encoder.")
    for pattern, replacement in RULES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    raise KeyError(released)
