"""RefShapes: determinism, splits that share nothing, and masks that are what the words of a sentence say."""

import hashlib
import random
import re
from collections import Counter
from itertools import combinations

import datasets
import numpy as np
import pytest

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask, mask_to_bbox
from hf_refseg.data.rows import row_features
from hf_refseg.datasets_scripts.refshapes import (
    REFSHAPES_WORDS,
    RefShapes,
    RefShapesConfig,
    Scene,
    ShapeObject,
    make_rows,
    render_scene,
    sample_referents,
    sample_scene,
)
from hf_refseg.datasets_scripts.refshapes_meaning import (
    Closest,
    Conjunction,
    Negation,
    Noun,
    Order,
    Place,
    Quantified,
    Relation,
    SameAs,
    SizeComparison,
)

CONFIGS = ("refshapes", "refshapes+", "grefshapes")
PLACE_WORDS = {"left", "right", "top", "bottom", "middle", "above", "below", "second", "third"}
PLACE_WORDS |= {f"{side}most" for side in ("left", "right", "top", "bottom")}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    cache_dir = str(tmp_path_factory.mktemp("refshapes"))
    return lambda config_name, **options: load_refseg(
        config_name, **{"train_size": 60, "val_size": 40, "test_size": 40, "cache_dir": cache_dir, **options}
    )


def rows_of(config_name, scenes=150, image_size=64, seed=3):
    """(scene, rows) of many scenes without the cache in between."""
    for index in range(scenes):
        yield sample_scene(seed, "val", index), make_rows(config_name, seed, "val", index, image_size)


# --- An independent reading of the sentences: text in, objects out ---------------------------------------------------


def fits(item, word):
    singular = {"crosses": "cross"}.get(word, word if word == "cross" else word.removesuffix("s"))
    if singular == "shape":
        return True
    return singular in (item.shape, item.color, item.fill, item.size) or (word == "big" and item.size == "large")


def named(scene, phrase):
    return {i for i, item in enumerate(scene.objects) if all(fits(item, word) for word in phrase.split())}


def only(objects):
    (index,) = objects
    return index


def ranked(scene, objects, side):
    axis = 0 if side in ("left", "right") else 1
    nearest_first = sorted(objects, key=lambda i: (scene.objects[i].x, scene.objects[i].y)[axis])
    return nearest_first if side in ("left", "top") else nearest_first[::-1]


def read(scene, text):
    """The objects that a sentence denotes, from its words alone."""
    if match := re.fullmatch(r"the (.+) and the (.+)", text):
        return {only(named(scene, match[1])), only(named(scene, match[2]))}
    text = re.sub(r"^(all|both|the two|the three|the four|the) ", "", text)
    if match := re.fullmatch(r"(left|right|top|bottom)most (.+)", text):
        return set(ranked(scene, named(scene, match[2]), match[1])[:1])
    if match := re.fullmatch(r"(second|third) (.+) from the (.+)", text):
        rank = {"second": 1, "third": 2}[match[1]]
        return {ranked(scene, named(scene, match[2]), match[3])[rank]}
    if match := re.fullmatch(r"(.+) that (?:is|are) not (?:a )?(\w+)", text):
        return {i for i in named(scene, match[1]) if not fits(scene.objects[i], match[2])}
    if match := re.fullmatch(r"(.+) with the same (color|size|pattern) as the (.+)", text):
        anchor, field = only(named(scene, match[3])), match[2].replace("pattern", "fill")
        value = getattr(scene.objects[anchor], field)
        return {i for i in named(scene, match[1]) - {anchor} if getattr(scene.objects[i], field) == value}
    if match := re.fullmatch(r"(.+) (bigger|smaller) than the (.+)", text):
        anchor, sign = scene.objects[only(named(scene, match[3]))], 1 if match[2] == "bigger" else -1
        # Sizes are two clearly separate ranges: a difference of radius below 3 % of the image is none.
        return {i for i in named(scene, match[1]) if sign * (scene.objects[i].radius - anchor.radius) > 0.03}
    if match := re.fullmatch(r"(.+) closest to the (.+)", text):
        anchor = only(named(scene, match[2]))
        center = np.array([scene.objects[anchor].x, scene.objects[anchor].y])
        candidates = sorted(named(scene, match[1]) - {anchor})
        distances = [np.hypot(*(center - (scene.objects[i].x, scene.objects[i].y))) for i in candidates]
        return {candidates[int(np.argmin(distances))]}
    if match := re.fullmatch(r"(.+) (left of|right of|above|below) the (.+)", text):
        anchor = only(named(scene, match[3]))
        side = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}[match[2]]
        order = ranked(scene, named(scene, match[1]) | {anchor}, side)
        return set(order[: order.index(anchor)])
    if match := re.fullmatch(r"(.+) in the middle", text):
        inside = {i for i, item in enumerate(scene.objects) if max(abs(item.x - 0.5), abs(item.y - 0.5)) < 0.2}
        return named(scene, match[1]) & inside
    if match := re.fullmatch(r"(.+) (?:on|at) the (left|right|top|bottom)", text):
        x_or_y = "x" if match[2] in ("left", "right") else "y"
        positions = {i: getattr(scene.objects[i], x_or_y) for i in named(scene, match[1])}
        return {i for i, at in positions.items() if (at < 0.5 if match[2] in ("left", "top") else at > 0.5)}
    return named(scene, text)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_masks_are_what_the_words_say(config_name):
    checked = 0
    for scene, rows in rows_of(config_name):
        _, owner = render_scene(scene, 64)
        for row in rows:
            mask = decode_mask(row["mask"])
            for sentence in row["sentences"]:
                wanted = np.isin(owner, sorted(read(scene, sentence["raw"])))
                assert np.array_equal(mask, wanted), (row["ref_id"], sentence["raw"])
                checked += 1
    assert checked > 500


def test_every_row_of_refshapes_denotes_one_object():
    for config_name in ("refshapes", "refshapes+"):
        for scene, rows in rows_of(config_name, scenes=60):
            for row in rows:
                assert len(row["ann_ids"]) == 1 and not row["no_target"]
                assert row["category"] == scene.objects[int(row["ann_ids"][0]) % 10].shape
                assert decode_mask(row["mask"]).any()


def test_rows_of_a_scene_denote_different_objects_and_repeat_no_sentence():
    for config_name in CONFIGS:
        for _, rows in rows_of(config_name, scenes=60):
            assert 1 <= len(rows) <= 4
            targets = [tuple(row["ann_ids"]) for row in rows]
            assert len(set(targets)) == len(targets)
            for row in rows:
                texts = [sentence["raw"] for sentence in row["sentences"]]
                assert 1 <= len(set(texts)) == len(texts) <= 3


def test_refshapes_plus_has_no_place_words():
    words = {
        word
        for _, rows in rows_of("refshapes+")
        for row in rows
        for sentence in row["sentences"]
        for word in sentence["raw"].split()
    }
    assert not words & PLACE_WORDS
    assert {"closest", "same", "not"} <= words


def test_grefshapes_has_plural_and_no_target_rows():
    rows = [row for _, rows in rows_of("grefshapes") for row in rows]
    empty = [row for row in rows if row["no_target"]]
    plural = [row for row in rows if len(row["ann_ids"]) > 1]
    assert 0.05 < len(empty) / len(rows) < 0.25
    assert 0.1 < len(plural) / len(rows) < 0.4
    for row in empty:
        assert row["ann_ids"] == [] and row["bbox"] == [0, 0, 0, 0] and row["category"] == ""
        assert not decode_mask(row["mask"]).any()


def test_kinds_are_mixed_as_documented():
    counts = Counter(
        kind
        for index in range(800)
        for referent in sample_referents("refshapes", sample_scene(0, "train", index), random.Random(f"{index}"))
        for kind, _ in referent.expressions
    )
    share = {kind: count / counts.total() for kind, count in counts.items()}
    assert share["attribute"] == pytest.approx(0.45, abs=0.04)
    assert share["place"] == pytest.approx(0.25, abs=0.04)
    assert share["relation"] + share["comparison"] == pytest.approx(0.12, abs=0.03)
    assert share["order"] == pytest.approx(0.08, abs=0.03)
    assert share["negation"] == pytest.approx(0.10, abs=0.03)


def test_words_are_exactly_those_that_sentences_use():
    used = {
        word
        for config_name in CONFIGS
        for index in range(1500)
        for referent in sample_referents(config_name, sample_scene(1, "train", index), random.Random(f"{index}"))
        for _, expression in referent.expressions
        for word in expression.text.split()
    }
    assert used == set(REFSHAPES_WORDS)
    assert list(REFSHAPES_WORDS) == sorted(REFSHAPES_WORDS) and len(REFSHAPES_WORDS) < 80


# --- What expressions mean, on scenes made by hand -------------------------------------------------------------------


def shape(words, x, y):
    size, fill, color, kind = words.split()
    radius = 0.15 if size == "large" else 0.08
    return ShapeObject(kind, color, size, fill, x, y, radius, 0.0, 0.0, (200, 0, 0))


SCENE = Scene(
    (
        shape("small plain red circle", 0.1, 0.2),
        shape("large plain red square", 0.3, 0.8),
        shape("large striped blue circle", 0.5, 0.5),
        shape("small plain blue circle", 0.9, 0.25),
    ),
    background_seed="by hand",
)
CIRCLE, CIRCLES, SHAPE = Noun(("circle",)), Noun(("circle",), plural=True), Noun(("shape",))
SQUARE = Noun(("square",))


@pytest.mark.parametrize(
    ("expression", "text", "objects"),
    [
        (Noun(("red", "circle")), "red circle", {0}),
        (Noun(("big", "circle")), "big circle", {2}),
        (Noun(("dotted", "circle")), "dotted circle", set()),
        (Negation(CIRCLE, "small"), "circle that is not small", {2}),
        (Negation(SHAPE, "circle"), "shape that is not a circle", {1}),
        (Negation(CIRCLES, "red"), "circles that are not red", {2, 3}),
        (Place(CIRCLE, "left"), "circle on the left", {0}),
        (Place(CIRCLE, "middle"), "circle in the middle", {2}),
        (Place(SHAPE, "bottom"), "shape at the bottom", {1}),
        (Order(SHAPE, 1, "right"), "rightmost shape", {3}),
        (Order(CIRCLE, 2, "left"), "second circle from the left", {2}),
        (Order(SHAPE, 3, "bottom"), "third shape from the bottom", {3}),
        (Order(SQUARE, 2, "left"), "second square from the left", set()),
        (Relation(CIRCLE, "left", SQUARE), "circle left of the square", {0}),
        (Relation(CIRCLE, "right", SQUARE), "circle right of the square", {2, 3}),
        (Relation(SHAPE, "top", SQUARE), "shape above the square", {0, 2, 3}),
        (Relation(SQUARE, "bottom", CIRCLE), "square below the circle", set()),
        (SameAs(SHAPE, "color", SQUARE), "shape with the same color as the square", {0}),
        (SameAs(CIRCLE, "pattern", SQUARE), "circle with the same pattern as the square", {0, 3}),
        (SizeComparison(CIRCLE, "smaller", SQUARE), "circle smaller than the square", {0, 3}),
        (SizeComparison(CIRCLE, "bigger", SQUARE), "circle bigger than the square", set()),
        (Closest(CIRCLE, SQUARE), "circle closest to the square", {2}),
        (Quantified("all", CIRCLES), "all circles", {0, 2, 3}),
        (Conjunction(SQUARE, Noun(("red", "circle"))), "the square and the red circle", {0, 1}),
    ],
)
def test_meaning(expression, text, objects):
    assert expression.text == text
    assert expression.meaning(SCENE) == objects


@pytest.mark.parametrize(
    ("unclear", "clear"),
    [
        (Quantified("both", CIRCLES), Quantified("the three", CIRCLES)),
        (Relation(SHAPE, "left", CIRCLE), Relation(SHAPE, "left", Noun(("red", "circle")))),
        (SameAs(SHAPE, "color", CIRCLE), SameAs(SHAPE, "color", SQUARE)),
        (Place(SHAPE, "right"), Place(SQUARE, "right")),
        (Place(SHAPE, "left"), Place(SQUARE, "left")),
        (Order(SHAPE, 1, "top"), Order(SHAPE, 1, "bottom")),
        (Conjunction(SQUARE, SQUARE), Conjunction(SQUARE, Noun(("red", "circle")))),
        # The red circle is as much above as left of the square.
        (Relation(CIRCLE, "left", SQUARE), Relation(Noun(("red", "circle")), "top", SQUARE)),
        (Closest(Noun(("plain", "circle")), Noun(("striped", "circle"))), Closest(CIRCLE, SQUARE)),
    ],
)
def test_only_clear_cases_are_said(unclear, clear):
    assert clear.is_clear(SCENE)
    assert not unclear.is_clear(SCENE)


def test_sentences_keep_their_margins():
    """No leftmost with a runner-up beside it, in the sentences that are really written."""
    checked = 0
    for scene, rows in rows_of("refshapes", scenes=400):
        for row in rows:
            for sentence in row["sentences"]:
                if match := re.search(r"leftmost (.+)", sentence["raw"]):
                    positions = sorted(scene.objects[i].x for i in named(scene, match[1]))
                    assert positions[1] - positions[0] >= 0.06
                    checked += 1
    assert checked > 20


# --- Scenes and pictures ---------------------------------------------------------------------------------------------


def test_objects_are_visible_inside_the_picture_and_not_alike():
    for index in range(150):
        scene = sample_scene(5, "train", index)
        _, owner = render_scene(scene, 64)
        assert 3 <= len(scene.objects) <= 6
        assert all(a.words != b.words for a, b in combinations(scene.objects, 2))
        for number, item in enumerate(scene.objects):
            _, alone = render_scene(Scene((item,), "alone"), 64)
            visible = (owner == number).sum()
            assert visible >= max(20, 0.6 * (alone == 0).sum())
            assert item.radius <= min(item.x, item.y, 1 - item.x, 1 - item.y)


def test_most_objects_share_their_shape_and_their_color_with_another():
    shared_shape = shared_color = total = 0
    for index in range(300):
        objects = sample_scene(0, "train", index).objects
        shapes, colors = Counter(o.shape for o in objects), Counter(o.color for o in objects)
        shared_shape += sum(shapes[o.shape] > 1 for o in objects)
        shared_color += sum(colors[o.color] > 1 for o in objects)
        total += len(objects)
    assert shared_shape / total > 0.6 and shared_color / total > 0.6


@pytest.mark.parametrize(
    ("kind", "area"), [("circle", np.pi), ("ring", np.pi * (1 - 0.55**2)), ("square", 2.0), ("triangle", 1.299)]
)
def test_shapes_have_their_geometric_area_and_color(kind, area):
    item = ShapeObject(kind, "red", "large", "plain", 0.4, 0.55, 0.15, 0.2, 0.0, (214, 40, 40))
    image, owner = render_scene(Scene((item,), "area"), 256)
    radius = 0.15 * 256
    assert (owner == 0).sum() == pytest.approx(area * radius**2, rel=0.03)
    rows, columns = np.nonzero(owner == 0)
    assert np.hypot(rows + 0.5 - 0.55 * 256, columns + 0.5 - 0.4 * 256).max() <= radius + 1
    inside = image[owner == 0].astype(int)
    assert np.median(inside, axis=0).tolist() == [214, 40, 40]
    assert image[owner == -1].max() < 175


def test_fills_differ():
    shades = {}
    for fill in ("plain", "striped", "dotted"):
        item = ShapeObject("circle", "white", "large", fill, 0.5, 0.5, 0.16, 0.0, 0.4, (240, 240, 240))
        image, owner = render_scene(Scene((item,), "fill"), 128)
        shades[fill] = (image[owner == 0].mean(axis=1) < 180).mean()
    assert shades["plain"] < 0.05 < shades["dotted"] < shades["striped"] - 0.05


# --- The data set ----------------------------------------------------------------------------------------------------


def test_rows_have_the_documented_features_and_identifiers(build):
    dataset = build("grefshapes")
    assert isinstance(dataset, datasets.DatasetDict) and list(dataset) == ["train", "val", "test"]
    for split, scenes in (("train", 60), ("val", 40), ("test", 40)):
        assert dataset[split].features == row_features()
        image_ids = dataset[split]["image_id"][:]
        assert len(set(image_ids)) == scenes
        assert image_ids == sorted(image_ids), "rows of one image are adjacent"
    every_row = [row for split in dataset.values() for row in split.remove_columns("image")]
    sentence_ids = [sentence["sent_id"] for row in every_row for sentence in row["sentences"]]
    assert len({row["ref_id"] for row in every_row}) == len(every_row)
    assert len(set(sentence_ids)) == len(sentence_ids)
    for row in every_row:
        assert row["bbox"] == mask_to_bbox(decode_mask(row["mask"]))
        assert row["no_target"] == (len(row["ann_ids"]) == 0)


def test_images_are_png_of_the_asked_size(build):
    row = build("refshapes", image_size=96)["val"][0]
    assert row["image"].size == (96, 96) and row["image"].mode == "RGB" and row["image"].format == "PNG"
    assert row["mask"]["size"] == [96, 96]


def test_splits_and_seeds_share_no_picture(build):
    pictures = [
        {hashlib.sha256(image["bytes"]).hexdigest() for image in split.cast_column("image", undecoded)["image"]}
        for dataset in (build("refshapes"), build("refshapes", seed=1))
        for split in dataset.values()
    ]
    assert [len(split) for split in pictures] == [60, 40, 40] * 2
    assert len(set.union(*pictures)) == 280


undecoded = datasets.Image(decode=False)


def test_the_configs_describe_the_same_pictures():
    first, second = (make_rows(name, 0, "train", 7, 64)[0]["image"]["bytes"] for name in ("refshapes", "refshapes+"))
    assert first == second


def test_a_build_is_read_from_the_cache_the_second_time(build):
    first, second = build("refshapes"), build("refshapes")
    assert first["val"].cache_files == second["val"].cache_files
    assert build("refshapes", seed=9)["val"].cache_files != first["val"].cache_files


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["refshapes_video", "refcoco"])
def test_the_builder_refuses_an_unknown_config_naming_the_known_ones(name, tmp_path):
    with pytest.raises(ValueError, match=r"'refshapes', 'refshapes\+', 'grefshapes'"):
        RefShapes(config_name=name, cache_dir=str(tmp_path), train_size=2)


@pytest.mark.parametrize(
    "options",
    [
        {"train_size": 0},
        {"val_size": -1},
        {"test_size": 2.5},
        {"train_size": True},
        {"image_size": 63},
        {"seed": "a"},
        {"seed": -1},
    ],
)
def test_sizes_and_seed_are_checked(build, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"RefShapes: {name} must be a whole number"):
        build("refshapes", **options)


@pytest.mark.parametrize("options", [{"train_size": 10**12}, {"image_size": 10**6}, {"seed": 10**5000}])
def test_sizes_and_seed_have_an_end(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"RefShapes: {name} must be a whole number .* and at most"):
        RefShapesConfig(**options).check()
