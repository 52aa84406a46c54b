"""Small trees of files in the format of the REFER collection, with the defects of released ones; drawn by tests."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 12, 20
# As x, y, width and height.
BOX = [3, 2, 6, 4]
POLYGON = [3.0, 2.0, 9.0, 2.0, 9.0, 6.0, 3.0, 6.0]
# Of the EXIF tag 274: turned by a quarter.
ROTATED = 6


def write_picture(path: Path, number: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    """A picture whose color tells its number; `orientation` is that of its EXIF data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, (40 * number % 256, 90, 10))
    exif = picture.getexif()
    if orientation != 1:
        exif[274] = orientation
    picture.save(path, exif=exif)


def encode_box(box: list[int] | None, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    """A box as compressed run lengths, as JSON holds them; None = an empty mask."""
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    if box is not None:
        x, y, across, down = box
        mask[y : y + down, x : x + across] = 1
    encoded = coco_mask.encode(mask)
    return {"counts": encoded["counts"].decode("ascii"), "size": [height, width]}


def sentence_of(number: int, raw: str, sent: str | None = None) -> dict[str, Any]:
    sent = raw.lower() if sent is None else sent
    return {"tokens": sent.split(), "raw": raw, "sent_id": number, "sent": sent}


def write_tree(folder: Path, refs_name: str, refs: list[dict[str, Any]], instances: dict[str, Any]) -> None:
    """The two files of a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(refs, protocol=2) if refs_name.endswith(".p") else json.dumps(refs).encode()
    (folder / refs_name).write_bytes(content)
    (folder / "instances.json").write_text(json.dumps(instances))


def edit_pickle(path: Path, edit: Callable[[Any], Any]) -> None:
    """Writes what `edit` has made of the content of a pickle."""
    content = pickle.loads(path.read_bytes())
    edit(content)
    path.write_bytes(pickle.dumps(content, protocol=2))


# --- RefCOCO -------------------------------------------------------------------------------------------------------


def make_refcoco(root: Path) -> Path:
    """Four images, the second of which EXIF turns; train has two refs, the other splits have one each.

    An annotation has a polygon of two points beside another one, one is a crowd in uncompressed run lengths, and a
    sentence has no letter, so that its `sent` is empty.
    """
    images, annotations, refs = [], [], []
    for number, split in enumerate(("train", "train", "val", "testA", "testB")):
        image_id = 1 + number % 4
        if number < 4:
            file_name = f"COCO_train2014_{image_id:012d}.jpg"
            write_picture(
                root / "images" / "mscoco" / "images" / "train2014" / file_name,
                image_id,
                orientation=ROTATED if image_id == 2 else 1,
            )
            images.append({"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT, "license": 1})
        annotations.append(
            {
                "id": 10 + number,
                "image_id": image_id,
                "category_id": 3,
                "bbox": [float(side) for side in BOX],
                "area": 24.0,
                "iscrowd": 0,
                "segmentation": [POLYGON, [5.0, 5.0, 6.0, 6.0]] if number == 0 else [POLYGON],
            }
        )
        refs.append(
            {
                "sent_ids": [2 * number, 2 * number + 1],
                "file_name": f"COCO_train2014_{image_id:012d}_{number}.jpg",
                "ann_id": 10 + number,
                "ref_id": number,
                "image_id": image_id,
                "split": split,
                "sentences": [sentence_of(2 * number, "The dog"), sentence_of(2 * number + 1, "?", "")],
                "category_id": 3,
            }
        )
    crowd = {"id": 99, "image_id": 1, "category_id": 3, "bbox": [0.0, 0.0, 20.0, 12.0], "area": 240, "iscrowd": 1}
    annotations.append({**crowd, "segmentation": {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}})
    categories = [{"id": 3, "name": "dog", "supercategory": "animal"}]
    instances = {"info": {"version": "2014"}, "images": images, "annotations": annotations, "categories": categories}
    write_tree(root / "refcoco", "refs(unc).p", refs, instances)
    return root


# --- RefCLEF -------------------------------------------------------------------------------------------------------


def make_refclef(root: Path) -> Path:
    """Seven images with a ref in each split of unc's partition, and berkeley's, with refs to the unreleased images."""
    splits = ("train", "val", "testA", "testB", "testC", "testAB", "testBC")
    images, annotations, refs = [], [], []
    for number, split in enumerate(splits):
        image_id = 112 + number
        file_name = f"00/images/{image_id}.jpg"
        write_picture(root / "images" / "saiapr_tc-12" / file_name, number)
        images.append({"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT})
        annotations.append(
            {
                "id": f"{image_id}_1",
                "image_id": image_id,
                "category_id": 3,
                "bbox": BOX,
                "area": 24,
                "mask_name": f"00/segmentation_masks/{image_id}_1.mat",
                # Two parts of the box.
                "segmentation": [encode_box([3, 2, 3, 4]), encode_box([6, 2, 3, 4])],
            }
        )
        refs.append(
            {
                "ref_id": number,
                "ann_id": f"{image_id}_1",
                "image_id": image_id,
                "category_id": 3,
                "split": split,
                "sent_ids": [number],
                "sentences": [sentence_of(number, "Blue sky", "blue sky")],
            }
        )
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "sky"}]}
    write_tree(root / "refclef", "refs(unc).p", refs, instances)
    berkeley = [{**ref, "split": split} for ref, split in zip(refs, ("train", "val", "test"), strict=False)]
    for number, image_id in enumerate((17975, 19575, 19579)):
        absent = {"ref_id": 100 + number, "ann_id": f"{image_id}_1", "image_id": image_id, "split": "train"}
        berkeley.insert(0, {**refs[0], **absent})
    write_tree(root / "refclef", "refs(berkeley).p", berkeley, instances)
    return root


# --- gRefCOCO ------------------------------------------------------------------------------------------------------


def make_grefcoco(root: Path, refs_name: str = "grefs(unc).json") -> Path:
    """Three images in `images/train2014`; in val a ref without a sentence.

    Refs mean one annotation as a number and as a list, two, a crowd beside another one, and nothing.
    """
    images, annotations = [], []
    for image_id in (1, 2, 3):
        file_name = f"COCO_train2014_{image_id:012d}.jpg"
        write_picture(root / "images" / "train2014" / file_name, image_id)
        images.append({"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT})
    for ann_id, x in ((10, 0), (11, 10)):
        box = [float(side) for side in (x, 2, 6, 4)]
        polygon = [x, 2, x + 6, 2, x + 6, 6, x, 6]
        annotations.append(
            {"id": ann_id, "image_id": 1, "category_id": 3, "bbox": box, "iscrowd": 0, "segmentation": [polygon]}
        )
    crowd = {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
    annotations.append(
        {**annotations[0], "id": 12, "bbox": [0.0, 0.0, 20.0, 12.0], "iscrowd": 1, "segmentation": crowd}
    )
    annotations += [
        {**annotations[0], "id": 20, "image_id": 2},
        {**annotations[0], "id": 30, "image_id": 3},
    ]
    meant = (
        *(("train", 1, 10, "A dog"), ("train", 1, [11], "The other dog"), ("train", 1, [10, 11], "Both dogs")),
        *(("train", 1, [10, 12], "Dog of the crowd"), ("train", 1, [-1], "No dog at all"), ("val", 2, [20], "Dog")),
        *(("val", 2, [20], None), ("testA", 3, -1, "Not there"), ("testB", 3, [30], "Small dog")),
    )
    refs = [
        {
            "image_id": image_id,
            "split": split,
            "sentences": [] if raw is None else [sentence_of(number, raw)],
            "file_name": f"COCO_train2014_{image_id:012d}.jpg",
            "category_id": [3],
            "ann_id": ann_id,
            "sent_ids": [] if raw is None else [number],
            "ref_id": number,
        }
        for number, (split, image_id, ann_id, raw) in enumerate(meant)
    ]
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "dog"}]}
    write_tree(root / "grefcoco", refs_name, refs, instances)
    return root


# --- RRSIS-D -------------------------------------------------------------------------------------------------------

SIDE = 16


def make_rrsisd(root: Path) -> Path:
    """Four images with a ref each: as it should be, in train, one of another height, an empty mask, and in test."""
    images, annotations, refs = [], [], []
    for number, split in enumerate(("test", "val", "train", "train")):
        image_id = 5 + number
        size = (SIDE, SIDE + 1) if number == 1 else (SIDE, SIDE)
        write_picture(root / "images" / "rrsisd" / "JPEGImages" / f"{image_id:05d}.jpg", number, size)
        images.append({"id": image_id, "file_name": f"{image_id:05d}.jpg", "width": SIDE, "height": SIDE})
        annotations.append(
            {
                "id": image_id,
                "image_id": image_id,
                "categories_id": 4,
                # The corners.
                "bbox": [3, 2, 9, 6],
                "area": 24,
                "iscrowd": 0,
                "segmentation": [encode_box(None if number == 3 else BOX, SIDE, SIDE)],
            }
        )
        refs.append(
            {
                "image_id": image_id,
                "split": split,
                "sentences": [sentence_of(number, "The red plane")],
                "file_name": f"{image_id:05d}.jpg",
                "category_id": 4,
                "ann_id": image_id,
                "sent_ids": [number],
                "ref_id": number,
            }
        )
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "airplane"}]}
    write_tree(root / "rrsisd", "refs(unc).p", refs, instances)
    return root
