"""Small folders of pictures with the files that annotation tools export, drawn by the tests.

Forms are those that the tools document: COCO's data format, CVAT 2 ("COCO 1.0"), Roboflow ("COCO JSON"), labelme 5 and
6, Label Studio 1 (its task format, and its tags RectangleLabels, PolygonLabels, EllipseLabels, BrushLabels, TextArea).
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 20


def box_mask(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """The pixels from a corner up to, but without the other one."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def write_picture(path: Path, gray: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (gray,) * 3).save(path)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def png(array: np.ndarray) -> str:
    """A picture of gray values as a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- COCO's format -------------------------------------------------------------------------------------------------

DOG, CAT = 1, 2
CATEGORIES = [{"id": DOG, "name": "dog", "supercategory": ""}, {"id": CAT, "name": "cat", "supercategory": ""}]


def outline(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco_image(image_id: int, file_name: str) -> dict[str, Any]:
    return {"id": image_id, "width": WIDTH, "height": HEIGHT, "file_name": file_name}


def coco_annotation(number: int, image_id: int, segmentation: Any, category: int = DOG, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": segmentation,
        "area": 1.0,
        "bbox": [2.0, 3.0, 4.0, 5.0],
        "iscrowd": 0,
        **more,
    }


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run lengths, column by column."""
    values = mask.T.ravel()
    changes = np.flatnonzero(np.diff(values)) + 1
    runs = np.diff([0, *changes, values.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if values[0] else runs}


def make_cvat(root: Path) -> Path:
    """An export "COCO 1.0" of CVAT: sentences are attributes, brushed masks crowds, rectangles have no outline."""
    for number in (1, 2, 3):
        write_picture(root / "images" / f"{number}.png", 40 * number)

    def attributes(caption: str) -> dict[str, Any]:
        return {"attributes": {"occluded": False, "rotation": 0.0, "Caption": caption}}

    annotations = [
        coco_annotation(1, 1, [outline(2, 3, 6, 8)], **attributes("the left dog")),
        coco_annotation(2, 1, [outline(10, 1, 13, 4), outline(15, 6, 18, 9)], **attributes("the dog behind a tree")),
        coco_annotation(
            3, 1, run_lengths(box_mask(3, 4, 9, 7)), CAT, iscrowd=1, **attributes("a cat\ncat on the grass")
        ),
        coco_annotation(4, 2, [], **attributes("the small dog")),
        coco_annotation(5, 2, [outline(8, 8, 12, 11)], CAT, **attributes("")),
        coco_annotation(6, 3, [outline(1, 1, 3, 3)], CAT, **attributes("the cat in the corner")),
    ]
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": CATEGORIES,
        "images": [coco_image(number, f"{number}.png") for number in (1, 2, 3)],
        "annotations": annotations,
    }
    write_json(root / "annotations" / "instances_default.json", content)
    return root


def make_roboflow(root: Path) -> Path:
    """An export "COCO JSON" of Roboflow: a file in the folder of each split, whose ids begin at 0 again."""
    for place, split in enumerate(("train", "valid", "test")):
        write_picture(root / split / "photo_jpg.rf.0a1b2c3d.jpg", 50 + 10 * place)
        content = {
            "info": {"year": "2026", "version": "1"},
            "licenses": [],
            "categories": [{"id": 0, "name": "animals", "supercategory": "none"}, *CATEGORIES],
            "images": [coco_image(0, "photo_jpg.rf.0a1b2c3d.jpg")],
            "annotations": [
                coco_annotation(0, 0, [outline(2, 3, 6, 8)], caption=["the dog", "the animal"]),
                coco_annotation(1, 0, [outline(10, 1, 13, 4)], CAT, description="the cat"),
            ],
        }
        write_json(root / split / "_annotations.coco.json", content)
    return root


# --- labelme -------------------------------------------------------------------------------------------------------


def labelme_shape(label: str, points: list[list[float]], shape_type: str = "polygon", **more: Any) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": shape_type,
        "flags": {},
        "mask": None,
        **more,
    }


def labelme_file(image_path: str, shapes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }


def corners(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def make_labelme(root: Path) -> Path:
    """Files beside their pictures, and one of another machine whose pictures lie in a folder of their own."""
    write_picture(root / "a.jpg", 60)
    write_picture(root / "pictures" / "b.jpg", 120)
    write_json(
        root / "a.json",
        labelme_file(
            "a.jpg",
            [
                labelme_shape("dog", corners(2, 3, 6, 8), description="the left dog\nthe dog that sits"),
                labelme_shape("dog", [[10, 1], [13, 4]], "rectangle", description="the parted dog", group_id=1),
                labelme_shape("dog", [[18, 9], [15, 6]], "rectangle", group_id=1),
                labelme_shape(
                    "cat", [[10, 10], [12, 11]], "mask", mask=png(np.array([[1, 0, 1], [1, 1, 0]], np.uint8))
                ),
            ],
        ),
    )
    write_json(
        root / "labels" / "b.json",
        labelme_file(
            "..\\pictures\\b.jpg",
            [
                labelme_shape("ball", [[8, 6], [8, 2]], "circle", description="the ball"),
                labelme_shape("rope", [[2, 6], [18, 6]], "linestrip", description="the rope"),
                labelme_shape("dog", corners(1, 1, 3, 3)),
                labelme_shape("dog", corners(5, 5, 7, 7), group_id=3),
                labelme_shape("nose", [[3, 3]], "point"),
            ],
        ),
    )
    return root


# --- Label Studio --------------------------------------------------------------------------------------------------


def pack_words(words: list[int], run_bits: tuple[int, ...] = (3, 4, 8, 16), word_bits: int = 8) -> list[int]:
    """rle-pack's bytes: runs of three equal words or more as runs, what lies between them as it is."""
    bits = f"{len(words):032b}{word_bits - 1:05b}" + "".join(f"{count - 1:04b}" for count in run_bits)

    def block(is_run: bool, values: list[int]) -> str:
        kind = next(kind for kind, count in enumerate(run_bits) if len(values) <= 2**count)
        head = f"{int(is_run)}{kind:02b}{len(values) - 1:0{run_bits[kind]}b}"
        return head + "".join(f"{value:0{word_bits}b}" for value in (values[:1] if is_run else values))

    place, loose = 0, []
    longest = 2 ** max(run_bits)
    while place < len(words):
        end = place
        while end < len(words) and words[end] == words[place] and end - place < longest:
            end += 1
        if end - place >= 3:
            bits += (block(False, loose) if loose else "") + block(True, words[place:end])
            loose = []
        else:
            loose += words[place:end]
            if len(loose) >= longest - 2:
                bits += block(False, loose)
                loose = []
        place = end
    bits += block(False, loose) if loose else ""
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's brush writes it: alpha in all four channels."""
    return pack_words(np.repeat(mask.astype(int).ravel() * 255, 4).tolist())


def region(region_id: str, kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value,
        "id": region_id,
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
        **more,
    }


def percents(left: float, top: float, right: float, bottom: float) -> dict[str, float]:
    """A rectangle of pixels as Label Studio has it."""
    return {
        "x": 100 * left / WIDTH,
        "y": 100 * top / HEIGHT,
        "width": 100 * (right - left) / WIDTH,
        "height": 100 * (bottom - top) / HEIGHT,
        "rotation": 0,
    }


def text_area(region_id: str, *sentences: str, **more: Any) -> dict[str, Any]:
    return region(region_id, "textarea", {"text": list(sentences)}, from_name="caption", **more)


def task(task_id: int, address: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": task_id,
        "annotations": [
            {"id": 100 + task_id, "completed_by": 1, "result": list(results), "was_cancelled": False, "lead_time": 4.2}
        ],
        "drafts": [],
        "predictions": [],
        "data": {"image": address},
        "meta": {},
        "created_at": "2026-01-01T00:00:00.000000Z",
        "project": 1,
        **more,
    }


def make_label_studio(root: Path) -> Path:
    """A project's export beside its pictures, as it was uploaded, from a local folder, and from the web."""
    write_picture(root / "images" / "a.jpg", 60)
    write_picture(root / "images" / "0a1b2c3d-b.jpg", 90)
    write_picture(root / "images" / "my photo.jpg", 120)
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners(2, 3, 6, 8)]
    turned = {**percents(9, 1, 12, 3), "rotation": 90}
    tasks = [
        task(
            1,
            "/data/upload/1/4c9f3e7a-a.jpg",
            region("p1", "polygonlabels", {"points": points, "closed": True, "polygonlabels": ["dog"]}),
            text_area("p1", "the left dog", "the dog that sits"),
            region("r1", "rectanglelabels", {**turned, "rectanglelabels": ["cat"]}, meta={"text": ["the cat"]}),
            region(
                "b1", "brushlabels", {"format": "rle", "rle": brush(box_mask(13, 5, 18, 10)), "brushlabels": ["dog"]}
            ),
        ),
        task(
            2,
            "/data/local-files/?d=pets/0a1b2c3d-b.jpg",
            region("e1", "ellipse", {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25, "rotation": 0}),
            region("e1", "labels", {"labels": ["ball"]}),
            text_area("x9", "the ball", parentID="e1"),
            {"type": "relation", "from_id": "e1", "to_id": "e1", "direction": "right"},
        ),
        task(
            3,
            "https://example.com/pets/my%20photo.jpg?size=large",
            region("r1", "rectanglelabels", {**percents(2, 2, 4, 4), "rectanglelabels": ["dog"]}),
            region("r2", "rectanglelabels", {**percents(6, 6, 9, 9), "rectanglelabels": ["dog"]}),
        ),
    ]
    write_json(root / "project-1-at-2026-01-01-00-00-0a1b2c3d.json", tasks)
    return root
