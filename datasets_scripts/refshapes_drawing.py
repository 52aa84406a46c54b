"""Draws the scenes of RefShapes: the picture and the visible pixels of every shape."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from .refshapes_meaning import SHAPES, Scene, ShapeObject

SUPERSAMPLING = 4


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a polygonal shape inside the unit circle."""
    if shape == "cross":
        half, end = 0.33, 0.94
        quarter = [(half, -end), (half, -half), (end, -half)]
        return [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in quarter]
    corners, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (5, 0.45)}[shape]
    radii = (1.0, inner) if inner < 1 else (1.0,)
    steps = corners * len(radii)
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    turns = [start + 2 * math.pi * k / steps for k in range(steps)]
    return [(radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a)) for k, a in enumerate(turns)]


OUTLINES = {shape: _outline(shape) for shape in SHAPES if shape not in ("circle", "ring")}
RING_HOLE = 0.55


def _draw_coverage(item: ShapeObject, image_size: int, left: int, top: int, side: int) -> np.ndarray:
    """Coverage (side, side) float32 in 0..1 of the object in the window whose corner is (left, top) pixels."""
    canvas = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    x, y = ((item.x * image_size - left) * SUPERSAMPLING, (item.y * image_size - top) * SUPERSAMPLING)
    radius = item.radius * image_size * SUPERSAMPLING
    if item.shape in OUTLINES:
        c, s = radius * math.cos(item.angle), radius * math.sin(item.angle)
        draw.polygon([(x + c * u - s * v, y + s * u + c * v) for u, v in OUTLINES[item.shape]], fill=255)
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if item.shape == "ring":
            hole = RING_HOLE * radius
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _draw_pattern(item: ShapeObject, image_size: int, left: int, top: int, side: int) -> np.ndarray:
    """How dark (side, side) float32 in 0..1 the fill is; stripes and dots have a period of 5 and 6 % of the image."""
    if item.fill == "plain":
        return np.zeros((side, side), dtype=np.float32)
    period = image_size * (0.05 if item.fill == "striped" else 0.06)
    scale = np.float32(2 * math.pi / period)
    x = (np.arange(side, dtype=np.float32) + (left + 0.5 - item.x * image_size)) * scale
    y = (np.arange(side, dtype=np.float32) + (top + 0.5 - item.y * image_size)) * scale
    c, s = math.cos(item.pattern_angle), math.sin(item.pattern_angle)
    across = c * x[None, :] + s * y[:, None]
    if item.fill == "striped":
        return np.clip(0.5 + 1.5 * np.sin(across), 0, 1)
    along = c * y[:, None] - s * x[None, :]
    return np.clip(0.5 + 1.5 * (np.cos(across) + np.cos(along) - 0.5), 0, 1)


def _draw_background(scene: Scene, image_size: int) -> np.ndarray:
    """A dim gray, slightly tinted, with soft blotches, (image_size, image_size, 3) float32 in 0..255."""
    rng = random.Random(f"{scene.background_seed}-background")
    gray = rng.uniform(60, 115)
    base = [gray + rng.uniform(-14, 14) for _ in range(3)]
    cells = np.array([rng.uniform(-14, 14) for _ in range(8 * 8 * 3)]).reshape(8, 8, 3) + base
    blotches = Image.fromarray(cells.round().astype(np.uint8)).resize(
        (image_size, image_size), Image.Resampling.BICUBIC
    )
    return np.asarray(blotches, dtype=np.float32)


def render_scene(scene: Scene, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Returns the image, (image_size, image_size, 3) uint8 RGB, and the owner of every pixel, (image_size, image_size)
    int8: the index of the object that is visible there (it covers at least half of the pixel), -1 = background.
    """
    image = _draw_background(scene, image_size)
    owner = np.full((image_size, image_size), -1, dtype=np.int8)
    for index, item in enumerate(scene.objects):
        radius = item.radius * image_size
        left, top = (max(math.floor(center * image_size - radius), 0) for center in (item.x, item.y))
        side = min(math.ceil(2 * radius) + 2, image_size - max(left, top))
        window = (slice(top, top + side), slice(left, left + side))
        coverage = _draw_coverage(item, image_size, left, top, side)
        shade = 1 - 0.5 * _draw_pattern(item, image_size, left, top, side)
        paint = shade[..., None] * np.array(item.tint, dtype=np.float32)
        image[window] += coverage[..., None] * (paint - image[window])
        owner[window][coverage >= 0.5] = index
    return (image + 0.5).astype(np.uint8), owner


def draw_mask(owner: np.ndarray, targets: frozenset[int]) -> np.ndarray:
    """The visible pixels of some objects, bool (H, W), from the owner map of `render_scene`."""
    return np.isin(owner, sorted(targets))
