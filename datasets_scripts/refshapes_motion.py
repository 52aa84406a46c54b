"""Motion in RefShapes: scenes whose shapes move, come or go, what sentences about that mean, and drawing both."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .refshapes_meaning import REFSHAPES_WORDS, SIZES, Expression, Noun, Quantified, Scene, ShapeObject
from .refshapes_sampling import RADII, Referent, sample_scene

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
COMES_OR_GOES = ("appears", "disappears")
VERBS = ("moves", "stands still", *COMES_OR_GOES)
COMPARATIVES = ("faster", "slower")
SPEED_WORDS = (*COMPARATIVES, "fastest")
ATTRIBUTES = ("size", "fill", "color", "shape")

# How far an object gets over the whole video, in fractions of the image side.
TRAVEL = {"slow": (0.10, 0.14), "fast": (0.28, 0.32)}
FARTHEST = TRAVEL["fast"][1]
# How far the places of what does not move (along one axis) are spread, as a part of what the longest way would spread
# them; set so that, over all frames, places along and across the direction of motion come out equally spread.
SPREAD = 0.4
# Of two objects, one is clearly faster when it gets at least so many times as far.
FASTER = 2.0

# Centers are at least this part of the summed radii apart in every frame: where two meet, the lower one stays visible
# for the most part. Less than in images, as it is for a while only.
SEPARATION = 0.8

MOTION_MIXTURE = {"moves": 72, "stands still": 14, "appears": 7, "disappears": 7}
# How often two objects of a scene are made alike in all attributes, so that only their motions tell them apart.
ALIKE_SHARE = 0.6
# How often an attribute sentence is tried first; set so that 30 % of what comes out is one, as only some objects have
# attributes of their own.
ATTRIBUTE_SHARE = 0.30
# How often a motion sentence compares speeds, where that is possible.
SPEED_SHARE = 0.8

# The center (x, y) of an object in each frame, in fractions of the image side; None where it is absent.
ObjectPath = list[tuple[float, float] | None]


@dataclass(frozen=True)
class Motion:
    """What one object does in a video; `verb` is one of `VERBS`.

    One that moves goes in `direction` with constant speed and covers `travel` (fraction of the image side) from the
    first frame to the last. One that appears is there from frame `change` on, one that disappears until just before
    frame `change`; both stay in one place.
    """

    verb: str
    direction: str | None = None
    travel: float = 0.0
    change: int = 0

    def is_visible(self, frame: int) -> bool:
        """Whether the object is there in a frame (counted from 0)."""
        if self.verb in COMES_OR_GOES:
            return (frame >= self.change) == (self.verb == "appears")
        return True

    @property
    def way(self) -> tuple[float, float]:
        """Displacement (x, y) from the first frame to the last."""
        x, y = DIRECTIONS[self.direction] if self.direction else (0, 0)
        return x * self.travel, y * self.travel


@dataclass(frozen=True)
class VideoScene(Scene):
    """A scene over `num_frames` frames; `objects` are in the middle of their paths, `motions` belong to them in order.

    Attributes hold in all frames, so expressions about attributes mean the same objects as in a scene.
    """

    motions: tuple[Motion, ...]
    num_frames: int

    @cached_property
    def paths(self) -> tuple[ObjectPath, ...]:
        """The path of each object."""
        return tuple(
            trace_path((item.x, item.y), motion, self.num_frames)
            for item, motion in zip(self.objects, self.motions, strict=True)
        )

    def visible_objects(self, frame: int) -> list[int]:
        """Indices of the objects that are there in a frame, in drawing order."""
        return [i for i, path in enumerate(self.paths) if path[frame] is not None]

    def at_frame(self, frame: int) -> Scene:
        """The scene of one frame: `visible_objects(frame)` in their places, over the background of all frames."""
        placed = tuple(
            replace(item, x=center[0], y=center[1])
            for item, path in zip(self.objects, self.paths, strict=True)
            if (center := path[frame]) is not None
        )
        return Scene(placed, self.background_seed)

    def is_mostly_visible(self, index: int) -> bool:
        """Whether an object is there in more than half of the frames."""
        return 2 * sum(center is not None for center in self.paths[index]) > self.num_frames


def trace_path(center: tuple[float, float], motion: Motion, num_frames: int) -> ObjectPath:
    """The path in `num_frames` frames of an object whose path has its middle at `center` (x, y)."""
    (x, y), (dx, dy) = center, motion.way
    moments = [frame / (num_frames - 1) - 0.5 for frame in range(num_frames)]
    return [
        (x + dx * moment, y + dy * moment) if motion.is_visible(frame) else None
        for frame, moment in enumerate(moments)
    ]


# --- Meaning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moving(Expression[VideoScene]):
    """Those of `base` that move in one direction: "red circle moving left"."""

    base: Noun
    direction: str

    @property
    def text(self) -> str:
        return f"{self.base.text} moving {self.direction}"

    def meaning(self, scene: VideoScene) -> frozenset[int]:
        return frozenset(i for i in self.base.meaning(scene) if scene.motions[i].direction == self.direction)

    def is_clear(self, scene: VideoScene) -> bool:
        return True


@dataclass(frozen=True)
class Behavior(Expression[VideoScene]):
    """Those of `base` that do something: "circle that moves", "circle that stands still", "circle that appears".

    Whether what comes or goes stands still is open to debate, so that "moves" and "stands still" are clear only when
    nothing of `base` comes or goes.
    """

    base: Noun
    verb: str

    @property
    def text(self) -> str:
        return f"{self.base.text} that {self.verb}"

    def meaning(self, scene: VideoScene) -> frozenset[int]:
        return frozenset(i for i in self.base.meaning(scene) if scene.motions[i].verb == self.verb)

    def is_clear(self, scene: VideoScene) -> bool:
        verbs = {scene.motions[i].verb for i in self.base.meaning(scene)}
        return self.verb in COMES_OR_GOES or verbs.isdisjoint(COMES_OR_GOES)


@dataclass(frozen=True)
class Speed(Expression[VideoScene]):
    """The one of `base` that moves fastest or slowest: "faster circle", "slower circle", "fastest shape".

    Clear when the fastest gets at least twice as far as the next, and when `base` fits two objects, which both move
    (comparative), or at least three, two of which move (superlative).
    """

    base: Noun
    word: str

    @property
    def text(self) -> str:
        return f"{self.word} {self.base.text}"

    def _ranked(self, scene: VideoScene) -> list[tuple[float, int]]:
        """Way and index of those that move, the fastest first."""
        moving = [i for i in self.base.meaning(scene) if scene.motions[i].verb == "moves"]
        return sorted(((scene.motions[i].travel, i) for i in moving), reverse=True)

    def meaning(self, scene: VideoScene) -> frozenset[int]:
        ranked = self._ranked(scene)
        if len(ranked) < 2:
            return frozenset()
        return frozenset({ranked[-1 if self.word == "slower" else 0][1]})

    def is_clear(self, scene: VideoScene) -> bool:
        ranked, fitting = self._ranked(scene), len(self.base.meaning(scene))
        enough = len(ranked) == fitting == 2 if self.word in COMPARATIVES else len(ranked) >= 2 and fitting >= 3
        return enough and ranked[0][0] >= FASTER * ranked[1][0]


def _motion_words() -> tuple[str, ...]:
    phrases = ("moving", *DIRECTIONS, "that", *VERBS, *SPEED_WORDS)
    return tuple(sorted({word for phrase in phrases for word in phrase.split()} - set(REFSHAPES_WORDS)))


REFSHAPES_VIDEO_WORDS: tuple[str, ...] = (*REFSHAPES_WORDS, *_motion_words())
"""Every word of RefShapes, of images and videos: first `REFSHAPES_WORDS`, then the words of motion, sorted."""


# --- Sampling --------------------------------------------------------------------------------------------------------


def sample_video(seed: int, split: str, index: int, num_frames: int) -> tuple[VideoScene, list[Referent[VideoScene]]]:
    """The video number `index` of a split: 3 or 4 objects, and referents with (kind, expression) pairs about them.

    Kinds are "motion" and "attribute". What a motion sentence calls its object fits at least one other object that is
    mostly visible. Both depend on nothing but the arguments.
    """
    key = f"refshapes_video-{seed}-{split}-{index}"
    rng = random.Random(key)
    objects = sample_scene(seed, split, index).objects
    if rng.random() < ALIKE_SHARE:
        objects = _make_two_alike(objects, rng)
    # Nothing tells objects apart that are alike and move alike: a scene of such objects alone is drawn anew.
    while True:
        scene = _set_in_motion(objects, num_frames, key, rng)
        referents = _sample_referents(scene, rng)
        if referents:
            return scene, referents


def _make_two_alike(objects: tuple[ShapeObject, ...], rng: random.Random) -> tuple[ShapeObject, ...]:
    model, other = rng.sample(range(len(objects)), 2)
    twin = replace(
        objects[model],
        radius=rng.uniform(*RADII[objects[model].size]),
        angle=objects[other].angle,
        pattern_angle=objects[other].pattern_angle,
    )
    return (*objects[:other], twin, *objects[other + 1 :])


def _set_in_motion(
    objects: tuple[ShapeObject, ...], num_frames: int, background_seed: str, rng: random.Random
) -> VideoScene:
    """The first three objects at least, in places where they hardly overlap in any frame."""
    while True:
        motions = tuple(_sample_motion(num_frames, rng) for _ in objects)
        placed = tuple(_place_objects(objects, motions, num_frames, rng))
        if len(placed) >= 3:
            return VideoScene(placed, background_seed, motions[: len(placed)], num_frames)


def _sample_motion(num_frames: int, rng: random.Random) -> Motion:
    (verb,) = rng.choices(list(MOTION_MIXTURE), list(MOTION_MIXTURE.values()))
    if verb == "moves":
        return Motion(verb, rng.choice(tuple(DIRECTIONS)), rng.uniform(*TRAVEL[rng.choice(tuple(TRAVEL))]))
    if verb in COMES_OR_GOES:
        margin = math.ceil(num_frames / 4)
        return Motion(verb, change=rng.randint(margin, num_frames - margin))
    return Motion(verb)


def _place_objects(
    objects: Sequence[ShapeObject], motions: Sequence[Motion], num_frames: int, rng: random.Random
) -> list[ShapeObject]:
    """The objects, in order, until one finds no place in 30 attempts."""
    placed: list[ShapeObject] = []
    paths: list[ObjectPath] = []
    for item, motion in zip(objects, motions, strict=True):
        for _ in range(30):
            center = _sample_center(item, motion, 0, rng), _sample_center(item, motion, 1, rng)
            path = trace_path(center, motion, num_frames)
            if all(
                _stay_apart(path, other_path, SEPARATION * (item.radius + other.radius))
                for other, other_path in zip(placed, paths, strict=True)
            ):
                placed.append(replace(item, x=center[0], y=center[1]))
                paths.append(path)
                break
        else:
            break
    return placed


def _sample_center(item: ShapeObject, motion: Motion, axis: int, rng: random.Random) -> float:
    """The middle of an object's way along one axis, such that places say next to nothing of the motion.

    Every object is given room for the longest way along both axes, with a middle that is equally likely everywhere;
    its own way lies somewhere near the middle of that.
    """
    travel = abs(motion.way[axis])
    margin = item.radius + 0.01 + FARTHEST / 2
    return rng.uniform(margin, 1 - margin) + SPREAD * rng.uniform(-0.5, 0.5) * (FARTHEST - travel)


def _stay_apart(first: ObjectPath, second: ObjectPath, least: float) -> bool:
    return all(
        math.dist(here, there) >= least
        for here, there in zip(first, second, strict=True)
        if here is not None and there is not None
    )


def _sample_referents(scene: VideoScene, rng: random.Random) -> list[Referent[VideoScene]]:
    """Referents, each of one object and with one to three different sentences; no object occurs twice."""
    referents = []
    for index in rng.sample(range(len(scene.objects)), rng.randint(2, len(scene.objects))):
        drawn = [_sample_sentence(scene, index, rng) for _ in range(rng.randint(1, 3))]
        distinct = {expression.text: (kind, expression) for kind, expression in filter(None, drawn)}
        if distinct:
            referents.append(Referent(frozenset({index}), tuple(distinct.values())))
    return referents


def _sample_sentence(scene: VideoScene, index: int, rng: random.Random) -> tuple[str, Expression[VideoScene]] | None:
    """A kind and an expression that denotes just this object; None when neither kind finds one."""
    samplers = {"motion": _sample_motion_sentence, "attribute": _sample_attribute_sentence}
    kinds = ("attribute", "motion") if rng.random() < ATTRIBUTE_SHARE else ("motion", "attribute")
    for kind in kinds:
        expression = samplers[kind](scene, index, rng)
        if expression is not None:
            return kind, Quantified("the", expression) if rng.random() < 0.5 else expression
    return None


def _sample_attribute_sentence(scene: VideoScene, index: int, rng: random.Random) -> Noun | None:
    for attributes in rng.choice(((1, 1, 2, 2, 3, 4), (2, 2, 2, 3, 3, 4), (3, 3, 4))):
        names = set(rng.sample(ATTRIBUTES, attributes))
        noun = _name(scene.objects[index], names, rng)
        if noun.meaning(scene) == {index}:
            return noun
    return None


def _sample_motion_sentence(scene: VideoScene, index: int, rng: random.Random) -> Expression[VideoScene] | None:
    others = [i for i in range(len(scene.objects)) if i != index and scene.is_mostly_visible(i)]
    compares_speeds = rng.random() < SPEED_SHARE
    for attempt in range(20 if others else 0):
        base = _name_alike(scene.objects[index], scene.objects[rng.choice(others)], rng)
        phrases: list[Expression[VideoScene]]
        if compares_speeds and attempt < 10:
            phrases = [Speed(base, word) for word in SPEED_WORDS]
        else:
            phrases = [Moving(base, direction) for direction in DIRECTIONS]
            phrases += [Behavior(base, verb) for verb in VERBS]
        fitting = [phrase for phrase in phrases if phrase.meaning(scene) == {index} and phrase.is_clear(scene)]
        if fitting:
            return rng.choice(fitting)
    return None


def _name_alike(item: ShapeObject, other: ShapeObject, rng: random.Random) -> Noun:
    """A description by attributes that fits both objects."""
    shared = [name for name in ATTRIBUTES if getattr(item, name) == getattr(other, name)]
    return _name(item, {name for name in shared if rng.random() < (0.85 if name == "shape" else 0.4)}, rng)


def _name(item: ShapeObject, attributes: set[str], rng: random.Random) -> Noun:
    """An object's description by some of `ATTRIBUTES`."""
    words = {"size": rng.choice(SIZES[item.size]), "fill": item.fill, "color": item.color}
    adjectives = [word for name, word in words.items() if name in attributes]
    return Noun((*adjectives, item.shape if "shape" in attributes else "shape"))
