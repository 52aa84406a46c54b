"""Small trees of files in the official layouts of the video data sets, drawn by the tests.

`make_*` are sound and have every part; `release_*` are what people download, with the defects of the release.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 20
# Of 256 colors: with fewer, a picture cannot hold 255.
PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, *[224] * 3 * 252]


def write_frame(path: Path, number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A frame whose gray value tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (5 * number,) * 3).save(path)


def labels_of(number: int, objects: Sequence[int] = (1, 2)) -> np.ndarray:
    """Object k is a square of 3 pixels in row band k; it moves a pixel to the right with every frame."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for place, value in enumerate(objects):
        labels[1 + 5 * place : 4 + 5 * place, number : number + 3] = value
    return labels


def write_labels(path: Path, labels: np.ndarray) -> None:
    """A picture with a palette, as DAVIS and YouTube-VOS have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(PALETTE)
    picture.save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit_json(path: Path, edit: Callable[[Any], Any]) -> None:
    """Writes what `edit` returns or, where it returns nothing, what it has made of its argument."""
    content = json.loads(path.read_text())
    changed = edit(content)
    write_json(path, content if changed is None else changed)


# --- Refer-YouTube-VOS ---------------------------------------------------------------------------------------------

YOUTUBE_NAMES = ["00000", "00005", "00010", "00015"]


def make_youtube_vos(root: Path) -> Path:
    """Train: two videos with two objects; valid: v1 and v2, of which v2 is the one of test, its frames under valid."""
    train = {}
    for video in ("t1", "t2"):
        train[video] = {
            "expressions": {
                "0": {"exp": "a Red  square", "obj_id": "1"},
                "1": {"exp": "the upper square", "obj_id": "1"},
                "2": {"exp": "a green square", "obj_id": "2"},
            },
            "frames": YOUTUBE_NAMES,
        }
        for number, name in enumerate(YOUTUBE_NAMES):
            write_frame(root / "train/JPEGImages" / video / f"{name}.jpg", number)
            # Object 2 comes with the second frame.
            labels = labels_of(number, (1, 2) if number else (1,))
            write_labels(root / "train/Annotations" / video / f"{name}.png", labels)
    write_json(root / "meta_expressions/train/meta_expressions.json", {"videos": train})
    listed = {
        video: {"expressions": {"0": {"exp": f"first of {video}"}, "1": {"exp": "second"}}, "frames": YOUTUBE_NAMES}
        for video in ("v1", "v2")
    }
    for video in listed:
        for number, name in enumerate(YOUTUBE_NAMES):
            write_frame(root / "valid/JPEGImages" / video / f"{name}.jpg", number)
    write_json(root / "meta_expressions/valid/meta_expressions.json", {"videos": listed})
    write_json(root / "meta_expressions/test/meta_expressions.json", {"videos": {"v2": listed["v2"]}})
    return root


def release_youtube_vos(root: Path) -> Path:
    """The frames of train and valid, and all files of expressions: nobody needs more to train and to be scored."""
    shutil.rmtree(make_youtube_vos(root) / "valid/JPEGImages/v2")
    return root


# --- Ref-DAVIS17 ---------------------------------------------------------------------------------------------------

DAVIS_NAMES = ["00000", "00001", "00002"]
DAVIS_TEXTS = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")


def make_davis(root: Path, form: str) -> Path:
    """Train has `bear`, val has `two`, with two objects; `form` of the expressions: "texts", "meta" or "list"."""
    objects = {"bear": (1,), "two": (1, 2)}
    for video, shown in objects.items():
        for number, name in enumerate(DAVIS_NAMES):
            write_frame(root / "JPEGImages/480p" / video / f"{name}.jpg", number)
            write_labels(root / "Annotations/480p" / video / f"{name}.png", labels_of(number, shown))
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("bear\n")
    (root / "ImageSets/2017/val.txt").write_text("two\n")
    expressions = {
        video: [
            {"exp": f"{video} {number} by {annotator}", "obj_id": str(number), "exp_id": str(4 * place + annotator)}
            for place, number in enumerate(shown)
            for annotator in range(4)
        ]
        for video, shown in objects.items()
    }
    WRITERS[form](root, expressions)
    return root


def _write_texts(root: Path, expressions: dict[str, list[dict[str, str]]]) -> None:
    (root / "davis_text_annotations").mkdir()
    for annotator, name in enumerate(DAVIS_TEXTS):
        lines = [
            f'{video} {listed["obj_id"]} "{listed["exp"]}"'
            for video, of_video in expressions.items()
            for listed in of_video[annotator::4]
        ]
        (root / f"davis_text_annotations/Davis17_{name}.txt").write_text("\n".join(lines) + "\n")


def _write_meta(root: Path, expressions: dict[str, list[dict[str, str]]]) -> None:
    for split, video in (("train", "bear"), ("valid", "two")):
        listed = {e["exp_id"]: {"exp": e["exp"], "obj_id": e["obj_id"]} for e in expressions[video]}
        content = {"videos": {video: {"expressions": listed, "frames": DAVIS_NAMES}}}
        write_json(root / "meta_expressions" / split / "meta_expressions.json", content)


def _write_list(root: Path, expressions: dict[str, list[dict[str, str]]]) -> None:
    records = [
        {"video": video, "frames": DAVIS_NAMES, "rest": [expression]}
        for video, of_video in expressions.items()
        for expression in of_video
    ]
    write_json(root / "ref_davis17_expressions.json", records)


WRITERS = {"texts": _write_texts, "meta": _write_meta, "list": _write_list}

# Of each video of the release the objects that are described, and those that the unsupervised label pictures show.
RELEASED_DAVIS = {
    "classic-car": ((1,), (1,)),
    "dogs-scale": ((1, 2), (1, 2)),
    "motorbike": ((1,), (1,)),
    "gold-fish": ((1, 2), (1,)),
    "india": ((1,), (1, 2)),
}
MISSPELLED_DAVIS = {"classic-car": "clasic-car", "dogs-scale": "dog-scale", "motorbike": "motor-bike"}


def release_davis(root: Path, inside: bool = False) -> Path:
    """`DAVIS/` of the unsupervised release, with the texts beside it or inside; they are about other videos as well.

    Of the videos of train all names are misspelled, a text of the third file is in no encoding that anybody knows.
    """
    davis = root / "DAVIS"
    for video, (_, shown) in RELEASED_DAVIS.items():
        for number, name in enumerate(DAVIS_NAMES):
            write_frame(davis / "JPEGImages/480p" / video / f"{name}.jpg", number)
            write_labels(davis / "Annotations_unsupervised/480p" / video / f"{name}.png", labels_of(number, shown))
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/train.txt").write_text("classic-car\ndogs-scale\nmotorbike\n")
    (davis / "ImageSets/2017/val.txt").write_text("gold-fish\nindia\n")
    objects = {video: described for video, (described, _) in RELEASED_DAVIS.items()} | {"aerobatics": (1,)}
    folder = (davis if inside else root) / "davis_text_annotations"
    folder.mkdir()
    for name in DAVIS_TEXTS:
        lines = [
            f'{MISSPELLED_DAVIS.get(video, video)} {number} "{number} of {video} by {name}"'
            for video, described in objects.items()
            for number in described
        ]
        content = "\n".join(lines).encode()
        if name == "annot2":
            content = content.replace(b"1 of india", b"one\x92s \x81\x85 caf\xe9 of india")
        (folder / f"Davis17_{name}.txt").write_bytes(content + b"\n")
    return root


# --- A2D-Sentences -------------------------------------------------------------------------------------------------

A2D_LENGTH = 30
A2D_INSTANCES = {5: (1, 3), 20: (3,)}


def make_a2d(root: Path) -> Path:
    """Train video `a` and test video `b`, each annotated on the frames 5 (instances 1 and 3) and 20 (3 alone)."""
    text = (
        'video_id,instance_id,query\na,1,"a man, walking"\na,3,a dog runs\na,3,the dog\nb,1,ball\nb,3,cat\nlost,1,x\n'
    )
    (root / "Release").mkdir(parents=True)
    (root / "a2d_annotation.txt").write_text(text)
    (root / "a2d_missed_videos.txt").write_text("video_id\nlost\n")
    rows = [f"{video},21,0:00,0:03,{HEIGHT},{WIDTH},{A2D_LENGTH},2,{usage}" for video, usage in (("a", 0), ("b", 1))]
    (root / "Release/videoset.csv").write_text("\n".join(rows) + "\n")
    for video in ("a", "b"):
        for number in range(1, A2D_LENGTH + 1):
            write_frame(root / "Release/frames" / video / f"{number:05d}.png", number)
        for number, instances in A2D_INSTANCES.items():
            write_h5(root / "a2d_annotation_with_instances" / video / f"{number:05d}.h5", number, instances)
    return root


def a2d_mask(number: int, instance: int) -> np.ndarray:
    return labels_of(number % 15, (1, 3)) == instance


def write_h5(path: Path, number: int, instances: Sequence[int]) -> None:
    """As MATLAB writes it: every mask transposed, without the first axis where there is one mask alone."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    masks = np.stack([a2d_mask(number, instance).T for instance in instances]).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["instance"] = np.array([instances], dtype=np.float64)
        file["reMask"] = masks if len(instances) > 1 else masks[0]


def release_a2d(root: Path) -> Path:
    """With the copied line of the release, a video without a split, masks a pixel too large, and an instance twice."""
    import h5py

    make_a2d(root)
    texts = root / "text_annotations"
    texts.mkdir()
    for path in root.glob("a2d_*"):
        path.rename(texts / path.name)
    text = (texts / "a2d_annotation.txt").read_text()
    copied = "T6bNPuKV-wY,1 (copy),bird standing in the beach\nT6bNPuKV-wY,1,a man in black suit\nunlisted,1,a cat\n"
    (texts / "a2d_annotation.txt").write_text(text + copied)
    for folder in (root / "Release/frames", texts / "a2d_annotation_with_instances"):
        shutil.copytree(folder / "b", folder / "T6bNPuKV-wY")
    videoset = root / "Release/videoset.csv"
    rows = [f"{video},21,0:00,0:03,{HEIGHT},{WIDTH},{A2D_LENGTH},2,1\n" for video in ("T6bNPuKV-wY", "lost", "silent")]
    videoset.write_text(videoset.read_text() + "".join(rows))
    with h5py.File(texts / "a2d_annotation_with_instances/b/00005.h5", "w") as file:
        masks = [np.pad(a2d_mask(5, instance), ((0, 1), (0, 0))).T for instance in (1, 3)]
        file["instance"] = np.array([[1, 3, 1]], dtype=np.float64)
        file["reMask"] = np.stack([*masks, np.ones_like(masks[0])]).astype(np.uint8)
    return root


# --- JHMDB-Sentences -----------------------------------------------------------------------------------------------

JHMDB_LENGTH = 6


def make_jhmdb(root: Path) -> Path:
    """Videos `j1` and `j2` of the action `run` with the frames 2, 4 and 5 listed."""
    samples = []
    for video in ("j1", "j2"):
        frames = f"jhmdb_sentences/Rename_Images/run/{video}"
        mask = f"jhmdb_sentences/puppet_mask/run/{video}/puppet_mask.mat"
        for number in range(1, JHMDB_LENGTH + 1):
            write_frame(root / f"Rename_Images/run/{video}/{number:05d}.png", number)
        masks = np.stack([labels_of(number, (1,)) for number in range(1, JHMDB_LENGTH + 1)], axis=2)
        write_mat(root / f"puppet_mask/run/{video}/puppet_mask.mat", {"part_mask": masks})
        samples += [[video, f"./{frames}/{n:05d}.png", f"./{mask}", JHMDB_LENGTH, f"{video} runs"] for n in (2, 4, 5)]
    write_json(root / "samples_metadata.json", samples)
    return root


def release_jhmdb(root: Path) -> Path:
    """With the authors' sentences and no list of samples, and with the hidden folders of the release."""
    make_jhmdb(root)
    (root / "samples_metadata.json").unlink()
    (root / "jhmdb_annotation.txt").write_text("video_id,query\nj2,j2 runs\nj1,j1 runs\n")
    for folder in ("Rename_Images/.AppleDouble/run", "Rename_Images/run/.AppleDouble"):
        (root / folder).mkdir(parents=True)
    return root


def write_mat(path: Path, content: dict[str, Any], **options: Any) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, **options)
