"""What RefShapes sentences mean: scenes of shapes, and phrases that denote a set of a scene's shapes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Generic, TypeVar

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 60),
    "green": (50, 165, 70),
    "blue": (45, 95, 220),
    "purple": (150, 60, 185),
    "white": (240, 240, 240),
}
SIZES = {"small": ("small",), "large": ("large", "big")}
FILLS = ("plain", "striped", "dotted")
SIDES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
EXTREMES = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "bottommost"}
ORDINALS = {2: "second", 3: "third"}
RELATIONS = {"left": "left of", "right": "right of", "top": "above", "bottom": "below"}
SAME_ATTRIBUTES = {"color": "color", "size": "size", "pattern": "fill"}
COUNTS = {"both": 2, "the two": 2, "the three": 3, "the four": 4}


@dataclass(frozen=True)
class ShapeObject:
    """One shape of a scene.

    `x`, `y` (center, from the left and from the top) and `radius` (of the enclosing circle) are fractions of the image
    side; `angle` (shape) and `pattern_angle` (stripes, dots) are radians; `tint` is the RGB color drawn (0 to 255).
    """

    shape: str
    color: str
    size: str
    fill: str
    x: float
    y: float
    radius: float
    angle: float
    pattern_angle: float
    tint: tuple[int, int, int]

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word that is true of this object on its own."""
        return frozenset({"shape", self.shape, self.color, self.fill, *SIZES[self.size]})


@dataclass(frozen=True)
class Scene:
    """Objects in drawing order (later ones lie on top) over a background fixed by `background_seed`."""

    objects: tuple[ShapeObject, ...]
    background_seed: str


# What a phrase is about: one about scenes has a meaning in every kind of them, one about videos in videos alone.
SceneType = TypeVar("SceneType", bound=Scene, contravariant=True)


class Expression(ABC, Generic[SceneType]):
    """A phrase with an exact meaning: the set of objects of a scene that it denotes."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The phrase in words."""

    @abstractmethod
    def meaning(self, scene: SceneType) -> frozenset[int]:
        """Indices into `scene.objects` of what the phrase denotes."""

    @abstractmethod
    def is_clear(self, scene: SceneType) -> bool:
        """Whether a person would agree: every presupposition holds and no object is near a border of the meaning."""


@dataclass(frozen=True)
class Noun(Expression[Scene]):
    """Attributes and a noun: "small red circle", plural "small red circles"."""

    words: tuple[str, ...]
    plural: bool = False

    @property
    def text(self) -> str:
        return " ".join((*self.words[:-1], pluralize(self.words[-1]) if self.plural else self.words[-1]))

    def meaning(self, scene: Scene) -> frozenset[int]:
        return frozenset(i for i, item in enumerate(scene.objects) if item.words.issuperset(self.words))

    def is_clear(self, scene: Scene) -> bool:
        return True


@dataclass(frozen=True)
class Negation(Expression[Scene]):
    """Those of `base` for which `word` is not true: "circle that is not red"."""

    base: Noun
    word: str

    @property
    def text(self) -> str:
        if self.base.plural:
            return f"{self.base.text} that are not {pluralize(self.word) if self.word in SHAPES else self.word}"
        return f"{self.base.text} that is not {'a ' if self.word in SHAPES else ''}{self.word}"

    def meaning(self, scene: Scene) -> frozenset[int]:
        return frozenset(i for i in self.base.meaning(scene) if self.word not in scene.objects[i].words)

    def is_clear(self, scene: Scene) -> bool:
        return True


@dataclass(frozen=True)
class Place(Expression[Scene]):
    """Those of `base` in one part of the picture: "star on the left" (center in the left 42 %), "star in the middle".

    Clear when no object of `base` lies between 42 and 56 % (middle: between 0.16 and 0.25 from the center per axis).
    """

    base: Noun
    side: str

    @property
    def text(self) -> str:
        return f"{self.base.text} {'in the middle' if self.side == 'middle' else SIDES[self.side]}"

    def _distance(self, item: ShapeObject) -> float:
        if self.side == "middle":
            return max(abs(item.x - 0.5), abs(item.y - 0.5))
        return distance_from_side(item, self.side)

    def meaning(self, scene: Scene) -> frozenset[int]:
        limit = 0.16 if self.side == "middle" else 0.42
        return frozenset(i for i in self.base.meaning(scene) if self._distance(scene.objects[i]) < limit)

    def is_clear(self, scene: Scene) -> bool:
        low, high = (0.16, 0.25) if self.side == "middle" else (0.42, 0.56)
        return not any(low <= self._distance(scene.objects[i]) <= high for i in self.base.meaning(scene))


@dataclass(frozen=True)
class Order(Expression[Scene]):
    """One of `base` by its rank from a side: "leftmost circle" (rank 1), "second square from the left".

    Clear when the centers of its neighbors in that order are at least 6 % of the image side away along the axis.
    """

    base: Noun
    rank: int
    side: str

    @property
    def text(self) -> str:
        if self.rank == 1:
            return f"{EXTREMES[self.side]} {self.base.text}"
        return f"{ORDINALS[self.rank]} {self.base.text} from the {self.side}"

    def _ranked(self, scene: Scene) -> list[tuple[float, int]]:
        return sorted((distance_from_side(scene.objects[i], self.side), i) for i in self.base.meaning(scene))

    def meaning(self, scene: Scene) -> frozenset[int]:
        return frozenset(i for _, i in self._ranked(scene)[self.rank - 1 : self.rank])

    def is_clear(self, scene: Scene) -> bool:
        ranked = self._ranked(scene)
        around = ranked[max(self.rank - 2, 0) : self.rank + 1]
        return len(ranked) >= self.rank and all(b[0] - a[0] >= 0.06 for a, b in pairwise(around))


@dataclass(frozen=True)
class Relation(Expression[Scene]):
    """Those of `base` on one side of the anchor's center: "circle left of the blue square", "star above the ring".

    Clear when the anchor is one object, every object of `base` is at least 8 % of the image side to one side of it,
    and what is denoted lies mainly in that direction.
    """

    base: Noun
    side: str
    anchor: Noun

    @property
    def text(self) -> str:
        return f"{self.base.text} {RELATIONS[self.side]} the {self.anchor.text}"

    def _steps(self, scene: Scene) -> dict[int, float]:
        others, (anchor,) = split_anchor(scene, self.base, self.anchor)
        start = distance_from_side(anchor, self.side)
        return {i: start - distance_from_side(scene.objects[i], self.side) for i in others}

    def meaning(self, scene: Scene) -> frozenset[int]:
        if len(self.anchor.meaning(scene)) != 1:
            return frozenset()
        return frozenset(i for i, step in self._steps(scene).items() if step > 0)

    def is_clear(self, scene: Scene) -> bool:
        if len(self.anchor.meaning(scene)) != 1:
            return False
        _, (anchor,) = split_anchor(scene, self.base, self.anchor)
        steps = self._steps(scene)
        mainly = all(steps[i] > 0.7 * distance(scene.objects[i], anchor) for i in self.meaning(scene))
        return mainly and all(abs(step) >= 0.08 for step in steps.values())


@dataclass(frozen=True)
class SameAs(Expression[Scene]):
    """Those of `base`, without the anchor, that share an attribute with it: "star with the same color as the ring"."""

    base: Noun
    attribute: str
    anchor: Noun

    @property
    def text(self) -> str:
        return f"{self.base.text} with the same {self.attribute} as the {self.anchor.text}"

    def meaning(self, scene: Scene) -> frozenset[int]:
        others, anchors = split_anchor(scene, self.base, self.anchor)
        field = SAME_ATTRIBUTES[self.attribute]
        values = {getattr(anchor, field) for anchor in anchors} if len(anchors) == 1 else set()
        return frozenset(i for i in others if getattr(scene.objects[i], field) in values)

    def is_clear(self, scene: Scene) -> bool:
        return len(self.anchor.meaning(scene)) == 1


@dataclass(frozen=True)
class SizeComparison(Expression[Scene]):
    """Those of `base` of the other size than the anchor: "circle bigger than the red square"."""

    base: Noun
    word: str
    anchor: Noun

    @property
    def text(self) -> str:
        return f"{self.base.text} {self.word} than the {self.anchor.text}"

    def meaning(self, scene: Scene) -> frozenset[int]:
        others, anchors = split_anchor(scene, self.base, self.anchor)
        own, other = ("large", "small") if self.word == "bigger" else ("small", "large")
        if [anchor.size for anchor in anchors] != [other]:
            return frozenset()
        return frozenset(i for i in others if scene.objects[i].size == own)

    def is_clear(self, scene: Scene) -> bool:
        return len(self.anchor.meaning(scene)) == 1


@dataclass(frozen=True)
class Closest(Expression[Scene]):
    """The one of `base`, without the anchor, whose center is closest to the anchor's: "circle closest to the star".

    Clear when the next one is at least 1.25 times as far away.
    """

    base: Noun
    anchor: Noun

    @property
    def text(self) -> str:
        return f"{self.base.text} closest to the {self.anchor.text}"

    def _ranked(self, scene: Scene) -> list[tuple[float, int]]:
        others, anchors = split_anchor(scene, self.base, self.anchor)
        return sorted((distance(scene.objects[i], anchor), i) for anchor in anchors for i in others)

    def meaning(self, scene: Scene) -> frozenset[int]:
        if len(self.anchor.meaning(scene)) != 1:
            return frozenset()
        return frozenset(i for _, i in self._ranked(scene)[:1])

    def is_clear(self, scene: Scene) -> bool:
        if len(self.anchor.meaning(scene)) != 1:
            return False
        return all(b[0] >= 1.25 * a[0] for a, b in pairwise(self._ranked(scene)[:2]))


@dataclass(frozen=True)
class Quantified(Expression[SceneType]):
    """A phrase with its article or quantifier: "the red circle", "all red circles", "the two stars"."""

    quantifier: str
    base: Expression[SceneType]

    @property
    def text(self) -> str:
        return f"{self.quantifier} {self.base.text}"

    def meaning(self, scene: SceneType) -> frozenset[int]:
        return self.base.meaning(scene)

    def is_clear(self, scene: SceneType) -> bool:
        found = len(self.meaning(scene))
        return self.base.is_clear(scene) and COUNTS.get(self.quantifier, found) == found


@dataclass(frozen=True)
class Conjunction(Expression[Scene]):
    """Two single objects: "the red circle and the small star"."""

    first: Noun
    second: Noun

    @property
    def text(self) -> str:
        return f"the {self.first.text} and the {self.second.text}"

    def meaning(self, scene: Scene) -> frozenset[int]:
        return self.first.meaning(scene) | self.second.meaning(scene)

    def is_clear(self, scene: Scene) -> bool:
        return len(self.first.meaning(scene)) == len(self.second.meaning(scene)) == 1 and self.first != self.second


def pluralize(noun: str) -> str:
    """The plural of one of the nouns of this data set."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def distance_from_side(item: ShapeObject, side: str) -> float:
    """Distance of the object's center from a side of the picture, as a fraction of the image side."""
    return {"left": item.x, "right": 1 - item.x, "top": item.y, "bottom": 1 - item.y}[side]


def distance(first: ShapeObject, second: ShapeObject) -> float:
    """Distance between two centers, as a fraction of the image side."""
    return math.hypot(first.x - second.x, first.y - second.y)


def split_anchor(scene: Scene, base: Noun, anchor: Noun) -> tuple[frozenset[int], list[ShapeObject]]:
    """Objects of `base` without the anchor's, and the objects that the anchor denotes."""
    anchors = anchor.meaning(scene)
    return base.meaning(scene) - anchors, [scene.objects[i] for i in sorted(anchors)]


def _every_word() -> tuple[str, ...]:
    nouns = ("shape", *SHAPES)
    phrases = [*nouns, *map(pluralize, nouns), *COLORS, *SIZES["small"], *SIZES["large"], *FILLS]
    phrases += [*SIDES.values(), "in the middle", *EXTREMES.values(), *ORDINALS.values(), "from", *RELATIONS.values()]
    phrases += ["that is not a", "are", "with the same as", *SAME_ATTRIBUTES, "bigger smaller than", "closest to"]
    phrases += ["all", "and", *COUNTS]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


REFSHAPES_WORDS: tuple[str, ...] = _every_word()
"""Every word that a sentence of RefShapes can contain, sorted."""
