"""Masks: COCO's codec agrees with pycocotools, overlap counts as asked, and bad input is refused before any C code."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hf_refseg.data.masks import (
    InvalidMaskError,
    annotation_to_mask,
    decode_mask,
    draw_polygons,
    encode_mask,
    mask_to_bbox,
    rasterize_polygons,
)

SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
SHIFTED = [6, 2, 12, 2, 12, 8, 6, 8]
NAN, INFINITE = float("nan"), float("inf")


def random_masks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    noise = [generator.random((height, width)) < 0.5 for height, width in ((1, 1), (7, 300), (61, 40))]
    stripes = np.zeros((500, 700), dtype=bool)
    stripes[:, 100:650] = True
    stripes[3:490:97] ^= True
    return [*noise, stripes, np.zeros((30, 20), dtype=bool), np.ones((30, 20), dtype=bool)]


@pytest.mark.parametrize("mask", random_masks(), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_decoding_undoes_encoding_and_agrees_with_pycocotools(mask):
    rle = encode_mask(mask)
    assert rle["size"] == list(mask.shape) and isinstance(rle["counts"], str)
    assert np.array_equal(decode_mask(rle), mask)
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert decode_mask(rle).dtype == bool


def test_bytes_and_uncompressed_counts_mean_the_same():
    mask = random_masks()[2]
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    uncompressed = {"size": mask.shape, "counts": [0, *runs] if flat[0] else runs}
    assert np.array_equal(decode_mask(uncompressed), mask)
    assert np.array_equal(decode_mask({"size": mask.shape, "counts": encode_mask(mask)["counts"].encode()}), mask)


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4)), np.zeros((4, 4), dtype=np.uint8), np.zeros((1, 4, 4), bool), np.zeros((0, 4), bool)]
)
def test_only_boolean_pictures_are_encoded(mask):
    with pytest.raises(InvalidMaskError, match="boolean mask"):
        encode_mask(mask)


def test_overlap_of_polygons_is_kept_or_becomes_background():
    union = rasterize_polygons([SQUARE, SHIFTED], 12, 16)
    assert union.shape == (12, 16) and union.dtype == bool
    assert union.sum() == 6 * 10
    without = rasterize_polygons([SQUARE, SHIFTED], 12, 16, overlap="background")
    assert without.sum() == 6 * 8
    assert not without[2:8, 6:8].any() and union[2:8, 6:8].all()
    assert not rasterize_polygons([SQUARE, SQUARE, SQUARE], 12, 16, overlap="background").any()
    with pytest.raises(ValueError, match=r"sum.*union, background"):
        rasterize_polygons([SQUARE], 12, 16, overlap="sum")


def test_an_annotation_is_polygons_or_an_rle_or_several_rles():
    mask = rasterize_polygons([SQUARE], 12, 16)
    assert np.array_equal(annotation_to_mask([SQUARE], 12, 16), mask)
    assert np.array_equal(annotation_to_mask(encode_mask(mask), 12, 16), mask)
    parts = [encode_mask(mask), encode_mask(rasterize_polygons([SHIFTED], 12, 16))]
    assert annotation_to_mask(parts, 12, 16).sum() == 60
    assert annotation_to_mask(parts, 12, 16, overlap="background").sum() == 48


def test_polygons_may_reach_over_the_edge_a_little():
    mask = rasterize_polygons([[-5, -5, 20, -5, 20, 20, -5, 20]], 12, 16)
    assert mask.all()


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([2, 2, 8, NAN, 8, 8], "not finite"),
        ([2, 2, 8, 2, INFINITE, 8], "not finite"),
        ([2, 2, 8, 2, 8, -INFINITE], "not finite"),
        ([2, 2, 1e9, 2, 8, 8], "far outside the image of 16 x 12"),
        ([2, 2, 8, 2, 8, 10**400], "far outside"),
        ([2, 2, 8, 2, 8, 8, 2], "7 numbers"),
        ([2, 2, 8, 2], "4 numbers"),
        ([], "0 numbers"),
        ([2, 2, 8, 2, 8, "8"], "list of numbers"),
        ([[2, 2], [8, 2], [8, 8]], "list of numbers"),
        ("polygon", "list of numbers"),
        ([0, 0, 16, 12] * 50_000, "outline is longer"),
    ],
)
def test_bad_polygons_are_refused(polygon, message):
    with pytest.raises(InvalidMaskError, match=message):
        rasterize_polygons([SQUARE, polygon], 12, 16)


@pytest.mark.parametrize("polygons", [None, 5, {"a": 1}, iter([])])
@pytest.mark.parametrize("draw", [rasterize_polygons, draw_polygons])
def test_polygons_come_in_a_list(draw, polygons):
    with pytest.raises(InvalidMaskError, match="Expected a list of polygons, found"):
        draw(polygons, 12, 16)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [4, 4], "counts": [10]}, "cover 10 pixels"),
        ({"size": [4, 4], "counts": [10, 10]}, "cover 20 pixels"),
        ({"size": [4, 4], "counts": [20, -4]}, "cover 16 pixels"),
        ({"size": [4, 4], "counts": [2**39, 2**39]}, "cover"),
        ({"size": [4, 4], "counts": []}, "cover 0 pixels"),
        ({"size": [4, 4], "counts": [16.0]}, "list of integers"),
        ({"size": [4, 4], "counts": [[16]]}, "list of integers"),
        ({"size": [4, 4]}, "found None"),
        ({"size": [4, 4], "counts": ""}, "cover 0 pixels"),
        ({"size": [4, 4], "counts": "é"}, "compressed text"),
        ({"size": [4, 4], "counts": "` "}, "no encoder writes"),
        ({"size": [4, 4], "counts": "oooooooooooooooo0"}, "no encoder writes"),
        ({"size": [4, 4], "counts": "````````@0"}, "no encoder writes"),
        ({"size": [4, 4], "counts": "oooooo0"}, "more than"),
        ({"size": [4, 4], "counts": "`"}, "cut off"),
        ({"size": [0, 4], "counts": [0]}, "two positive integers"),
        ({"size": [4, -4], "counts": [16]}, "two positive integers"),
        ({"size": [4.0, 4], "counts": [16]}, "two positive integers"),
        ({"size": [4], "counts": [4]}, "two positive integers"),
        ({"size": "44", "counts": [16]}, "two positive integers"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "exceeds"),
        ({"size": [10**5000, 1], "counts": [1]}, "exceeds"),
        ({"size": [True, 4], "counts": [4]}, "two positive integers"),
        ({"size": np.array(4), "counts": [4]}, "two positive integers"),
        ({"size": [2, 2], "counts": [True, 3]}, "list of integers"),
        ({"size": [2, 2], "counts": [0] * 40 + [4]}, "41 long, more than a mask of 4 pixels"),
        ({"size": [2, 2], "counts": "0" * 41}, "41 long, more than a mask of 4 pixels"),
        ([2, 2], "Expected an RLE as a mapping"),
    ],
)
def test_bad_rles_are_refused(rle, message):
    with pytest.raises(InvalidMaskError, match=message):
        decode_mask(rle)


def test_a_cut_off_text_is_refused_at_every_length():
    counts = encode_mask(random_masks()[2])["counts"]
    for length in range(len(counts)):
        with pytest.raises(InvalidMaskError):
            decode_mask({"size": [61, 40], "counts": counts[:length]})


@pytest.mark.parametrize("segmentation", [None, [], {}, "text", 5])
def test_an_annotation_without_an_outline_is_refused(segmentation):
    with pytest.raises(InvalidMaskError):
        annotation_to_mask(segmentation, 12, 16)


@pytest.mark.parametrize("size", [(1, 2**31), (2**31, 1), (0, 5), (5, -1), (4.0, 4), (True, 4), ("4", 4)])
def test_an_image_of_an_impossible_size_is_refused(size):
    for draw in (rasterize_polygons, annotation_to_mask, draw_polygons):
        with pytest.raises(InvalidMaskError, match="image's size"):
            draw([SQUARE], *size)


def test_more_outlines_than_a_drawing_has_are_refused():
    """A few bytes each would fill a large picture each."""
    for draw in (rasterize_polygons, annotation_to_mask, draw_polygons):
        with pytest.raises(InvalidMaskError, match="60 outlines are too many for an image of 13000 x 13000"):
            draw([SQUARE] * 60, 13_000, 13_000)
    assert annotation_to_mask([SQUARE] * 60, 12, 16).sum() == 36


PICTURES = [
    # The lower and right edges belong to it, and fractions are cut off.
    ([[[1.9, 1.0], [4.2, 1], [4, 3.99], [1, 3]]], [".......", ".####..", ".####..", ".####..", "......."]),
    # A triangle whose longest edge passes through pixels.
    ([[[0, 0], [4, 0], [0, 4]]], ["#####..", "####...", "###....", "##.....", "#......"]),
    # Two points are a line; one, and none, are left out.
    ([[[1, 1], [4, 4]], [[6, 0]], []], [".......", ".#.....", "..#....", "...#...", "....#.."]),
    # Toward zero: from -0.9 on a coordinate is that of the first row or column.
    ([[[-3.5, -0.9], [2, -0.5], [2, 1], [-3, 1]]], ["###....", "###....", ".......", ".......", "......."]),
    # Several are joined, and nothing is cut out where they overlap.
    (
        [[[0, 0], [3, 0], [3, 3], [0, 3]], [[2, 2], [5, 2], [5, 4], [2, 4]]],
        ["####...", "####...", "######.", "######.", "..####."],
    ),
]


@pytest.mark.parametrize(("polygons", "picture"), PICTURES)
def test_polygons_are_drawn_with_their_outlines(polygons, picture):
    mask = draw_polygons(polygons, 5, 7)
    assert mask.dtype == bool and ["".join(".#"[pixel] for pixel in row) for row in mask.astype(int)] == picture


def distance_to_edge(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    edge = end - start
    along = np.clip((point - start) @ edge / max(edge @ edge, 1), 0, 1)
    return float(np.linalg.norm(point - start - along * edge))


def test_a_drawn_polygon_holds_what_lies_inside_and_its_outline_but_nothing_else():
    """Against a loop over pixels: inside is what a ray to the left crosses an odd number of edges of."""
    generator = np.random.default_rng(3)
    for _ in range(6):
        polygon = generator.uniform(-4, 24, size=(generator.integers(3, 7), 2))
        mask, points = draw_polygons([polygon.tolist()], 18, 20), np.trunc(polygon)
        edges = list(zip(points, np.roll(points, -1, axis=0), strict=True))
        for y in range(18):
            for x in range(20):
                crossings = sum(
                    (start[1] <= y) != (end[1] <= y)
                    and start[0] + (y - start[1]) * (end[0] - start[0]) / (end[1] - start[1]) < x
                    for start, end in edges
                )
                nearest = min(distance_to_edge(np.array([x, y]), start, end) for start, end in edges)
                if nearest < 1e-9 or nearest > 1:
                    assert mask[y, x] == (nearest < 1e-9 or crossings % 2 == 1)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[2, 2], [8, NAN]], "not finite"),
        ([[2, 2], [-INFINITE, 8]], "not finite"),
        ([[2, 2], [1e9, 2], [8, 8]], "far outside the image of 16 x 12"),
        ([[2, 2], [10**400, 2]], "far outside"),
        ([[1e9, 2]], "far outside"),
        ([[2, 2], [8]], "list of points"),
        ([[2, 2], [8, 2, 1]], "list of points"),
        ([2, 2, 8, 2, 8, 8], "list of points"),
        ([[2, 2], [8, "8"]], "list of points"),
        ([[2, 2], [8, True]], "list of points"),
        ([[2, 2], "88"], "list of points"),
        ({"x": 2}, "list of points"),
        ([[0, 0], [16, 12]] * 50_000, "outline is longer"),
    ],
)
def test_bad_outlines_are_not_drawn(polygon, message):
    with pytest.raises(InvalidMaskError, match=message):
        draw_polygons([[[2, 2], [8, 2], [8, 8]], polygon], 12, 16)


def test_more_points_than_a_picture_has_are_not_drawn():
    """Each of them is looked at for each row of the picture."""
    with pytest.raises(InvalidMaskError, match="900 points are too many for an image of 1 x 10000000 pixels"):
        draw_polygons([[[0, 0], [0, 1]] * 450], 10_000_000, 1)


def test_an_rle_of_another_size_is_refused():
    with pytest.raises(InvalidMaskError, match=r"\[16, 12\].*\[12, 16\]"):
        annotation_to_mask({"size": [16, 12], "counts": [192]}, 12, 16)


def test_the_box_is_tight():
    mask = np.zeros((10, 20), dtype=bool)
    assert mask_to_bbox(mask) == [0, 0, 0, 0]
    mask[2, 5] = mask[7, 5] = mask[4, 12] = True
    assert mask_to_bbox(mask) == [5, 2, 8, 6]
