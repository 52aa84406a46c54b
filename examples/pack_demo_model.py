"""Packs a run of the recipe lavt_refshapes as the small model that travels with the library.

    hf-refseg train lavt_refshapes --output_dir runs/refshapes-demo
    python examples/pack_demo_model.py runs/refshapes-demo hf_refseg/refshapes_demo

The weights become bfloat16; the card with its pictures, the scores, the log and one scene to try are those of the run.
Code does not lie beside them: the library that they come with has it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import TrainerState

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.files import write_json, write_picture
from hf_refseg.training.checkpoints import last_complete_checkpoint
from hf_refseg.training.run_options import load_run_options

LARGEST = 6_000_000
# The largest of its pictures, which only the card shows, with so many colors is a quarter as large.
WITH_FEW_COLORS, COLORS = "worst_and_best.png", 256
USAGE = """## Usage

It travels with `hf_refseg`, so that nothing has to be downloaded:

```python
import hf_refseg
from transformers import pipeline

segment = pipeline("referring-image-segmentation", model=hf_refseg.REFSHAPES_DEMO)
segment(f"{hf_refseg.REFSHAPES_DEMO}/example.png", text="the leftmost shape")
```

"""
COPIED = ("README.md", "metrics.json", "run_options.json")
# What tells other programs which code beside the weights to run.
OF_CODE = ("auto_map", "custom_pipelines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a finished run")
    parser.add_argument("output", type=Path, help="new folder")
    arguments = parser.parse_args()
    pack(arguments.run, arguments.output)
    print(f"{arguments.output}: {size_of(arguments.output) / 1e6:.2f} MB")


def pack(run: Path, output: Path) -> None:
    """Writes the folder.

    Raises:
        FileExistsError: there is one.
        FileNotFoundError: the run has no checkpoint.
        ValueError: what was packed is larger than 6 MB.
    """
    output.mkdir(parents=True)
    AutoModelForReferringSegmentation.from_pretrained(run, dtype=torch.bfloat16).save_pretrained(output)
    RefSegProcessor.from_pretrained(run).save_pretrained(output)
    drop_code(output)
    for path in (*(run / name for name in COPIED), *run.glob("*.png")):
        shutil.copy(path, output)
    with Image.open(output / WITH_FEW_COLORS) as picture:
        few = picture.convert("RGB").quantize(COLORS, method=Image.Quantize.MAXCOVERAGE)
    write_picture(output / WITH_FEW_COLORS, few)
    card = (output / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"^## Usage\n.*?(?=^## )", lambda match: USAGE, card, flags=re.DOTALL | re.MULTILINE)
    (output / "README.md").write_text(card, encoding="utf-8")
    write_json(output / "training_log.json", log_of(run))
    data = load_refseg("refshapes", **load_run_options(str(run))["datasets"]["refshapes"])
    write_picture(output / "example.png", data["val"][0]["image"])
    if size_of(output) > LARGEST:
        raise ValueError(f"{output} has {size_of(output)} bytes, more than {LARGEST}: train a smaller model.")


def log_of(run: Path) -> list[dict]:
    """Raises FileNotFoundError where no checkpoint is left of the run."""
    newest = last_complete_checkpoint(run)
    if newest is None:
        raise FileNotFoundError(f"{run} has no checkpoint, which holds the log.")
    return TrainerState.load_from_json(str(Path(newest) / "trainer_state.json")).log_history


def drop_code(folder: Path) -> None:
    for path in folder.glob("*.py"):
        path.unlink()
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, without_code(content))


def without_code(content: dict) -> dict:
    return {
        name: without_code(value) if isinstance(value, dict) else value
        for name, value in content.items()
        if name not in OF_CODE
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


if __name__ == "__main__":
    main()
