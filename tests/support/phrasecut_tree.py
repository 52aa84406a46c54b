"""A small tree of files as PhraseCut is released, drawn by the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Width and height by id; 6 has no task, as some images of the released list.
SIZES = {1: (37, 24), 2: (61, 45), 3: (24, 31), 4: (40, 40), 5: (33, 50), 6: (20, 20), 7: (29, 18)}
SPLITS = {1: "train", 2: "train", 3: "train", 4: "val", 5: "test", 6: "test", 7: "miniv"}
# Those of the test split are never in COCO.
COCO_IDS = {1: 9, 2: None, 3: 30, 4: 42, 5: None, 6: None, 7: None}


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """The corners of a box as a polygon."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def task(number: int, image_id: int, name: str, phrase: str, *instances: list[list[list[float]]]) -> dict[str, Any]:
    """A phrase that means instances, each of several polygons."""
    ann_ids = [1000 * image_id + 10 * number + place for place in range(len(instances))]
    points = [np.array([point for polygon in instance for point in polygon]) for instance in instances]
    boxes = [[*each.min(axis=0).tolist(), *np.ptp(each, axis=0).tolist()] for each in points]
    return {
        "task_id": f"{image_id}__{'_'.join(map(str, ann_ids))}",
        "image_id": image_id,
        "ann_ids": ann_ids,
        "instance_boxes": boxes,
        "Polygons": [list(instance) for instance in instances],
        "phrase": phrase,
        "phrase_structure": {
            "name": name,
            "attributes": ["Tall"],
            "relation_ids": [],
            "relation_descriptions": [["on", "table"]],
            "type": "attribute",
        },
    }


def all_tasks() -> dict[str, list[dict[str, Any]]]:
    """By split. Those of image 1 are not adjacent, and a polygon of one point belongs to the first."""
    return {
        "train": [
            task(1, 1, "tree", "Tall  tree", [box(2.9, 3.2, 12.7, 15.9), [[30.4, 20.1]]], [box(20, 2, 25.5, 9)]),
            task(2, 2, "people", "people on street", [box(1.5, 1.5, 30.2, 40.8)]),
            task(3, 1, "sky", "blue sky", [[[-0.6, -0.6], [36.9, -0.4], [36.2, 5.7]]]),
            task(4, 3, "window", "window", [[[3.2, 4.9], [18.1, 4.2]]], [box(5, 12, 11, 20)]),
        ],
        "val": [task(1, 4, "dog", "dog", [box(4, 4, 30, 30)]), task(2, 4, "dog", "white dog", [box(4, 4, 9, 9)])],
        "test": [task(1, 5, "car", "Cars on street", [box(1, 1, 12, 12)], [box(15, 30, 31, 48)])],
        "miniv": [task(1, 7, "cat", "cat", [box(5.5, 3, 20, 11)])],
    }


def input_of(each: dict[str, Any]) -> dict[str, Any]:
    """What `refer_input_<split>.json` has of a task."""
    structure = {key: each["phrase_structure"][key] for key in ("name", "attributes", "relation_descriptions")}
    return {**{key: each[key] for key in ("task_id", "image_id", "phrase")}, "phrase_structure": structure}


def make_phrasecut(root: Path, coco_ids: Mapping[int, int | None] = COCO_IDS) -> Path:
    """The folder that holds `VGPhraseCut_v0`."""
    folder = root / "VGPhraseCut_v0"
    (folder / "images").mkdir(parents=True)
    images = [
        {
            "image_id": image_id,
            "width": width,
            "height": height,
            "split": SPLITS[image_id],
            "coco_id": coco_ids[image_id],
            "flickr_id": None if image_id % 2 else 10**10 + image_id,
            "url": f"https://example.org/VG_100K_2/{image_id}.jpg",
        }
        for image_id, (width, height) in SIZES.items()
    ]
    (folder / "image_data_split.json").write_text(json.dumps(images))
    (folder / "name_att_rel_count.json").write_text(json.dumps({"cat": [["tree", 2]], "att": [], "rel": []}))
    for image_id, size in SIZES.items():
        Image.new("RGB", size, (30 * image_id, 90, 200)).save(folder / "images" / f"{image_id}.jpg")
    for split, tasks in all_tasks().items():
        (folder / f"refer_{split}.json").write_text(json.dumps(tasks))
        (folder / f"refer_input_{split}.json").write_text(json.dumps(list(map(input_of, tasks))))
    return root
