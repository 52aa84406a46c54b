"""Folders of people's own pictures, as small as they can be: what is written down of each, and what it means."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 20
# The masks of all kinds mean these pixels.
TARGET = np.zeros((HEIGHT, WIDTH), dtype=bool)
TARGET[2:6, 3:9] = True
POLYGON = [3.0, 2.0, 9.0, 2.0, 9.0, 6.0, 3.0, 6.0]


def write_picture(path: Path, number: int = 0, **options: Any) -> Path:
    """A picture like no other of another number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (40, number % 256, number // 256)).save(path, **options)
    return path


def write_mask(path: Path, mask: np.ndarray = TARGET, foreground: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * foreground).save(path)
    return path


def write_metadata(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """`metadata.jsonl`, or `.csv` with lists as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in row.items()}
            )
    return path


def make_metadata(root: Path, suffix: str = ".jsonl") -> Path:
    """Five pictures, in train and val, with a mask of each kind, one of them in `masks/`, and one without a target."""
    from hf_refseg.data.masks import encode_mask

    for number in range(5):
        write_picture(root / "images" / f"{number}.png", number)
    write_mask(root / "masks" / "0.png")
    rows = [
        {"text": "The dog", "mask_file_name": "masks/0.png", "category": "dog"},
        {"texts": ["The cat", "a cat"], "polygon": POLYGON},
        {"text": "A hat", "rle": encode_mask(TARGET)},
        {"text": "A bat", "bbox": [3, 2, 6, 4]},
        {"text": "nothing", "no_target": True},
    ]
    write_metadata(
        root / f"metadata{suffix}",
        [
            {"file_name": f"images/{number}.png", **row, "split": "val" if number == 3 else "train"}
            for number, row in enumerate(rows)
        ],
    )
    return root


def make_labels(root: Path, suffix: str = ".csv") -> Path:
    """Two pictures: in the first TARGET is a lake, the rest background; in the second it is a road beside a lake."""
    for split, number, labels in (("train", 0, (0, 1, 255)), ("val", 1, (1, 2, 255))):
        write_picture(root / "images" / split / f"{number}.jpg", number)
        values = np.where(TARGET, *np.uint8((labels[1], labels[0])))
        values[-1] = labels[2]
        path = root / "labels" / split / f"{number}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(values).save(path)
    table = [
        {"value": 1, "texts": ["the lake", "water"], "category": "lake"},
        {"value": 2, "text": "the road"},
        {"value": 255},
    ]
    path = root / f"labels{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(table))
        return root
    path.write_text('value,text,texts,category\n1,,"[""the lake"", ""water""]",lake\n2,the road,,\n255,,,\n')
    return root


def make_phrases(root: Path, images: str = "images", masks: str = "masks", suffix: str = ".tif") -> Path:
    """Two pictures and three phrases, as RefSegRS has them: masks of 0, 50 and 255."""
    for number, split in enumerate(("train", "val")):
        write_picture(root / images / f"{number}{suffix}", number)
        values = np.where(TARGET, 255, 50).astype(np.uint8)
        (root / masks).mkdir(exist_ok=True)
        Image.fromarray(values).save(root / masks / f"{number}{suffix}")
        (root / f"output_phrase_{split}.txt").write_text(f"{number} road {number}\n" + "0 a way\n" * (number == 0))
    (root / "output_phrase_test.txt").write_text("1 road in the test\n")
    return root
