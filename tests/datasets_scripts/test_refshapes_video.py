"""RefShapes in motion: what the words of a sentence say, masks in every frame, and that one frame does not tell."""

import hashlib
import re
import statistics
from collections import Counter, defaultdict
from itertools import combinations

import datasets
import numpy as np
import pytest

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.rows import video_features
from hf_refseg.datasets_scripts.refshapes import REFSHAPES_WORDS
from hf_refseg.datasets_scripts.refshapes_meaning import Noun, Quantified, ShapeObject
from hf_refseg.datasets_scripts.refshapes_motion import Behavior, Motion, Moving, Speed
from hf_refseg.datasets_scripts.refshapes_video import (
    REFSHAPES_VIDEO_WORDS,
    RefShapesVideoConfig,
    VideoScene,
    make_row,
    render_frame,
    sample_video,
)

FRAMES = 8


def sampled(videos, seed=0, split="train"):
    """(scene, referents) of many videos, not drawn."""
    return [sample_video(seed, split, index, FRAMES) for index in range(videos)]


@pytest.fixture(scope="module")
def many():
    return sampled(800)


# --- An independent reading of the sentences: text and drawn frames in, objects out ----------------------------------


def track(owners, count):
    """For each object the centers (x, y) of its pixels in each frame, as parts of the side; None where it has none."""
    tracks = [[] for _ in range(count)]
    for owner in owners:
        for index, centers in enumerate(tracks):
            ys, xs = np.nonzero(owner == index)
            centers.append((xs.mean() / len(owner), ys.mean() / len(owner)) if len(xs) else None)
    return tracks


def way(centers):
    """Displacement (x, y) between the first and the last frame with the object, zero when it comes or goes."""
    if None in centers:
        return 0.0, 0.0
    return centers[-1][0] - centers[0][0], centers[-1][1] - centers[0][1]


def does(centers, verb):
    if verb == "appears":
        return centers[0] is None and centers[-1] is not None
    if verb == "disappears":
        return centers[0] is not None and centers[-1] is None
    if verb == "moves":
        return np.hypot(*way(centers)) > 0.07
    if verb == "stands still":
        return None not in centers and np.hypot(*way(centers)) < 0.07
    x, y = way(centers)
    along, across = {"left": (-x, y), "right": (x, y), "up": (-y, x), "down": (y, x)}[verb]
    return along > 0.07 > abs(across)


def named(scene, phrase):
    """Objects that a phrase of attributes fits."""

    def fits(item, word):
        return word == "shape" or word in (
            item.shape,
            item.color,
            item.fill,
            item.size,
            item.size.replace("large", "big"),
        )

    return {i for i, item in enumerate(scene.objects) if all(fits(item, word) for word in phrase.split())}


def split_sentence(text):
    """The phrase of attributes of a sentence and what it says of the motion, "" for nothing."""
    text = text.removeprefix("the ")
    if match := re.fullmatch(r"(faster|slower|fastest) (.+)", text):
        return match[2], match[1]
    if match := re.fullmatch(r"(.+) (?:moving|that) (left|right|up|down|moves|stands still|appears|disappears)", text):
        return match[1], match[2]
    return text, ""


def read(scene, tracks, text):
    """The objects that a sentence denotes, from its words and from where the drawn objects are."""
    phrase, motion = split_sentence(text)
    fitting = named(scene, phrase)
    if motion in ("faster", "slower", "fastest"):
        ways = {i: np.hypot(*way(tracks[i])) for i in fitting if does(tracks[i], "moves")}
        assert len(ways) > 1
        return {min(ways, key=ways.get) if motion == "slower" else max(ways, key=ways.get)}
    return {i for i in fitting if not motion or does(tracks[i], motion)}


def test_masks_are_what_the_words_say():
    checked = Counter()
    for index in range(120):
        scene, _ = sample_video(3, "val", index, FRAMES)
        owners = [render_frame(scene, frame, 64)[1] for frame in range(FRAMES)]
        tracks = track(owners, len(scene.objects))
        for referent in make_row(3, "val", index, 64, FRAMES)["referents"]:
            masks = [decode_mask(mask) for mask in referent["masks"]]
            for sentence in referent["sentences"]:
                (target,) = read(scene, tracks, sentence["raw"])
                assert all(np.array_equal(mask, owner == target) for mask, owner in zip(masks, owners, strict=True)), (
                    sentence
                )
                checked[split_sentence(sentence["raw"])[1]] += 1
    assert len(checked) == 12 and min(checked.values()) >= 2
    assert checked.total() > 400


# --- What expressions mean, on videos made by hand -------------------------------------------------------------------


def shape(words, x, y):
    size, fill, color, kind = words.split()
    return ShapeObject(kind, color, size, fill, x, y, 0.1, 0.0, 0.0, (200, 0, 0))


SCENE = VideoScene(
    (
        shape("small plain red circle", 0.5, 0.2),
        shape("small plain red circle", 0.5, 0.5),
        shape("large striped blue circle", 0.2, 0.8),
        shape("large plain red square", 0.8, 0.8),
        shape("small plain red square", 0.85, 0.5),
    ),
    "by hand",
    (
        Motion("moves", "left", 0.4),
        Motion("moves", "right", 0.15),
        Motion("stands still"),
        Motion("appears", change=3),
        Motion("disappears", change=5),
    ),
    num_frames=8,
)
CIRCLE, RED_CIRCLE, SQUARE, SHAPE = Noun(("circle",)), Noun(("red", "circle")), Noun(("square",)), Noun(("shape",))


@pytest.mark.parametrize(
    ("expression", "text", "objects"),
    [
        (Moving(CIRCLE, "left"), "circle moving left", {0}),
        (Moving(SHAPE, "right"), "shape moving right", {1}),
        (Moving(CIRCLE, "up"), "circle moving up", set()),
        (Moving(CIRCLE, "down"), "circle moving down", set()),
        (Moving(SQUARE, "left"), "square moving left", set()),
        (Behavior(CIRCLE, "moves"), "circle that moves", {0, 1}),
        (Behavior(CIRCLE, "stands still"), "circle that stands still", {2}),
        (Behavior(SHAPE, "appears"), "shape that appears", {3}),
        (Behavior(SQUARE, "disappears"), "square that disappears", {4}),
        (Behavior(CIRCLE, "appears"), "circle that appears", set()),
        (Speed(RED_CIRCLE, "faster"), "faster red circle", {0}),
        (Speed(RED_CIRCLE, "slower"), "slower red circle", {1}),
        (Speed(SHAPE, "fastest"), "fastest shape", {0}),
        (Speed(SQUARE, "faster"), "faster square", set()),
        (Noun(("striped", "circle")), "striped circle", {2}),
        (Quantified("the", Moving(CIRCLE, "left")), "the circle moving left", {0}),
    ],
)
def test_meaning(expression, text, objects):
    assert expression.text == text
    assert expression.meaning(SCENE) == objects


@pytest.mark.parametrize(
    ("unclear", "clear"),
    [
        # What comes or goes may be said to stand still or not.
        (Behavior(SHAPE, "stands still"), Behavior(CIRCLE, "stands still")),
        (Behavior(SHAPE, "moves"), Behavior(CIRCLE, "moves")),
        # The faster of three, the fastest of two.
        (Speed(CIRCLE, "faster"), Speed(RED_CIRCLE, "faster")),
        (Speed(RED_CIRCLE, "fastest"), Speed(CIRCLE, "fastest")),
        (Speed(SQUARE, "slower"), Speed(RED_CIRCLE, "slower")),
    ],
)
def test_only_clear_cases_are_said(unclear, clear):
    assert clear.is_clear(SCENE)
    assert not unclear.is_clear(SCENE)


def test_two_of_nearly_the_same_speed_are_not_compared():
    motions = (Motion("moves", "left", 0.4), Motion("moves", "right", 0.3), *SCENE.motions[2:])
    close = VideoScene(SCENE.objects, "by hand", motions, 8)
    assert not Speed(RED_CIRCLE, "faster").is_clear(close)


def test_frames_show_the_motions():
    tracks = track([render_frame(SCENE, frame, 100)[1] for frame in range(8)], 5)
    xs, ys = np.transpose(tracks[0])
    assert np.abs(xs + 0.005 - np.linspace(0.7, 0.3, 8)).max() < 0.01
    assert np.abs(ys + 0.005 - 0.2).max() < 0.01
    assert way(tracks[1]) == pytest.approx((0.15, 0), abs=0.011)
    assert len(set(tracks[2])) == 1
    assert [center is not None for center in tracks[3]] == [False] * 3 + [True] * 5
    assert [center is not None for center in tracks[4]] == [True] * 5 + [False] * 3


def test_the_background_is_the_same_in_all_frames():
    frames = [render_frame(SCENE, frame, 64) for frame in range(8)]
    empty = np.all([owner == -1 for _, owner in frames], axis=0)
    # Without the half-covered pixels beside a shape.
    around = np.lib.stride_tricks.sliding_window_view(np.pad(empty, 1), (3, 3)).all(axis=(2, 3))
    assert around.mean() > 0.3
    assert all(np.array_equal(image[around], frames[0][0][around]) for image, _ in frames)


# --- What is sampled: one frame must not tell ------------------------------------------------------------------------


def test_what_a_motion_sentence_names_fits_another_object_that_is_mostly_visible(many):
    sentences = Counter()
    for scene, referents in many:
        mostly = {
            i for i in range(len(scene.objects)) if sum(i in scene.visible_objects(f) for f in range(FRAMES)) > 4
        }
        for referent in referents:
            for kind, expression in referent.expressions:
                phrase, motion = split_sentence(expression.text)
                assert (kind == "motion") == bool(motion)
                others = named(scene, phrase) - referent.targets
                assert bool(others & mostly) if motion else not others, expression.text
                sentences[kind] += 1
    assert sentences["attribute"] / sentences.total() == pytest.approx(0.3, abs=0.04)


def test_many_scenes_hold_objects_alike_in_all_attributes(many):
    alike = [any(a.words == b.words for a, b in combinations(scene.objects, 2)) for scene, _ in many]
    assert statistics.mean(alike) > 0.4


def test_places_do_not_tell_motions(many):
    """Over all frames, objects of every motion are spread over the picture in the same way."""
    places, middles = defaultdict(list), defaultdict(list)
    for scene, _ in many:
        for motion, item, path in zip(scene.motions, scene.objects, scene.paths, strict=True):
            places[motion.direction or motion.verb].extend(center for center in path if center is not None)
            middles[motion.direction or motion.verb].append((item.x, item.y))
    assert len(places) == 7
    for motion in places:
        assert np.mean(places[motion], axis=0) == pytest.approx((0.5, 0.5), abs=0.035), motion
        assert np.mean(middles[motion], axis=0) == pytest.approx((0.5, 0.5), abs=0.035), motion
        spread_x, spread_y = np.std(places[motion], axis=0)
        assert abs(spread_x - spread_y) < 0.02 and abs(spread_x - 0.15) < 0.02, motion


def test_targets_of_each_motion_are_in_the_middle_on_average(many):
    """The balance holds for what sentences ask for too, in the middle frame."""
    asked = defaultdict(list)
    for scene, referents in many:
        for referent in referents:
            (target,) = referent.targets
            for motion in {split_sentence(expression.text)[1] for _, expression in referent.expressions}:
                asked[motion].append((scene.objects[target].x, scene.objects[target].y))
    for motion in ("left", "right", "up", "down"):
        assert len(asked[motion]) > 150
        assert np.mean(asked[motion], axis=0) == pytest.approx((0.5, 0.5), abs=0.035), motion


def test_objects_stay_inside_and_apart_in_all_frames(many):
    for scene, _ in many:
        assert 3 <= len(scene.objects) <= 4 and len(scene.motions) == len(scene.objects)
        for frame in range(FRAMES):
            objects = scene.at_frame(frame).objects
            assert len(objects) == len(scene.visible_objects(frame))
            for item in objects:
                assert item.radius <= min(item.x, item.y, 1 - item.x, 1 - item.y)
            for first, second in combinations(objects, 2):
                apart = np.hypot(first.x - second.x, first.y - second.y)
                assert apart >= 0.799 * (first.radius + second.radius)


def test_objects_are_visible_for_the_most_part_in_all_frames():
    for scene, _ in sampled(40):
        for frame in range(FRAMES):
            _, owner = render_frame(scene, frame, 64)
            for index in scene.visible_objects(frame):
                alone = VideoScene(scene.objects[index : index + 1], "alone", scene.motions[index : index + 1], FRAMES)
                assert (owner == index).sum() > 0.6 * (render_frame(alone, frame, 64)[1] == 0).sum()


def test_words_are_exactly_those_that_sentences_use(many):
    texts = [
        expression.text for _, referents in many for referent in referents for _, expression in referent.expressions
    ]
    used = {word for text in texts for word in text.split()}
    assert REFSHAPES_VIDEO_WORDS[: len(REFSHAPES_WORDS)] == REFSHAPES_WORDS
    added = REFSHAPES_VIDEO_WORDS[len(REFSHAPES_WORDS) :]
    assert list(added) == sorted(added) and not set(added) & set(REFSHAPES_WORDS)
    assert set(added) <= used <= set(REFSHAPES_VIDEO_WORDS)


@pytest.mark.parametrize("num_frames", [4, 5, 30])
def test_things_come_and_go_within_the_video(num_frames):
    """Also the shortest video shows something before it goes and after it came."""
    seen = Counter()
    for index in range(100):
        scene, _ = sample_video(1, "test", index, num_frames)
        for motion, path in zip(scene.motions, scene.paths, strict=True):
            assert len(path) == num_frames
            if motion.verb in ("appears", "disappears"):
                assert (path[0] is None, path[-1] is None) == (motion.verb == "appears", motion.verb == "disappears")
                seen[motion.verb] += 1
    assert len(seen) == 2


# --- The data set ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    cache_dir = str(tmp_path_factory.mktemp("refshapes_video"))
    sizes = {"train_size": 24, "val_size": 12, "test_size": 10, "image_size": 64, "cache_dir": cache_dir}
    return lambda **options: load_refseg("refshapes_video", **{**sizes, **options})


def test_rows_have_the_documented_features_and_identifiers(build):
    dataset = build()
    assert isinstance(dataset, datasets.DatasetDict)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 24, "val": 12, "test": 10}
    identifiers = Counter()
    for split, videos in dataset.items():
        assert videos.features == video_features()
        for video in videos.remove_columns("frames"):
            assert video["video_id"].startswith(split) and len(video["frame_names"]) == FRAMES
            assert 1 <= len(video["referents"]) <= 4
            identifiers[video["video_id"]] += 1
            for referent in video["referents"]:
                identifiers[referent["ref_id"]] += 1
                assert referent["annotated_frames"] == list(range(FRAMES))
                assert len(referent["masks"]) == FRAMES
                texts = [sentence["raw"] for sentence in referent["sentences"]]
                assert 1 <= len(set(texts)) == len(texts) <= 3
                for sentence in referent["sentences"]:
                    identifiers[sentence["sent_id"]] += 1
                    assert sentence["sent"] == sentence["raw"] and sentence["annotator"] == ""
                    kind = "motion" if split_sentence(sentence["raw"])[1] else "attribute"
                    assert sentence["sent_id"].endswith(f"-{kind}")
    assert set(identifiers.values()) == {1}


def test_the_category_is_the_shape_and_masks_are_empty_where_it_is_absent():
    empty = 0
    for index in range(40):
        scene, referents = sample_video(0, "val", index, FRAMES)
        rows = make_row(0, "val", index, 64, FRAMES)["referents"]
        for referent, row in zip(referents, rows, strict=True):
            (target,) = referent.targets
            assert row["category"] == scene.objects[target].shape
            for frame, mask in enumerate(map(decode_mask, row["masks"])):
                assert mask.any() == (target in scene.visible_objects(frame))
                empty += not mask.any()
    assert empty > 10


def test_frames_are_png_of_the_asked_size_and_number(build):
    row = build(image_size=72, num_frames=5)["val"][0]
    assert len(row["frames"]) == len(row["frame_names"]) == 5
    for frame in row["frames"]:
        assert frame.size == (72, 72) and frame.mode == "RGB" and frame.format == "PNG"
    assert all(mask["size"] == [72, 72] for mask in row["referents"][0]["masks"])


def test_load_refseg_builds_it_by_name(tmp_path):
    options = {"train_size": 2, "val_size": 1, "test_size": 1, "image_size": 64, "num_frames": 4, "seed": 5}
    loaded = load_refseg("refshapes_video", **options, cache_dir=str(tmp_path))
    assert loaded["train"][1]["referents"] == make_row(5, "train", 1, 64, 4)["referents"]
    with pytest.raises(ValueError, match="takes no data_dir"):
        load_refseg("refshapes_video", data_dir=tmp_path)


def test_splits_and_seeds_share_no_frame(build):
    undecoded = datasets.List(datasets.Image(decode=False))
    pictures = [
        {
            hashlib.sha256(frame["bytes"]).hexdigest()
            for frames in videos.cast_column("frames", undecoded)["frames"]
            for frame in frames
        }
        for dataset in (build(), build(seed=1))
        for videos in dataset.values()
    ]
    assert all(len(frames) > 10 for frames in pictures)
    assert len(set.union(*pictures)) == sum(map(len, pictures))


@pytest.mark.parametrize(
    "options",
    [
        {"train_size": 0},
        {"val_size": 2.5},
        {"image_size": 63},
        {"num_frames": 3},
        {"num_frames": True},
        {"num_frames": "8"},
        {"seed": -1},
    ],
)
def test_options_are_checked(build, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"RefShapes: {name} must be a whole number of at least"):
        build(**options)


@pytest.mark.parametrize("options", [{"num_frames": 10**6}, {"num_frames": 11, "image_size": 4096}])
def test_no_video_is_endless(options):
    with pytest.raises(ValueError, match=r"RefShapes: num_frames must be a whole number .* and at most"):
        RefShapesVideoConfig(**options).check()
