"""Draws the scenes of RefShapes and sentences about them, determined by a seed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

from .refshapes_meaning import (
    COLORS,
    COUNTS,
    EXTREMES,
    FILLS,
    RELATIONS,
    SAME_ATTRIBUTES,
    SHAPES,
    SIDES,
    SIZES,
    Closest,
    Conjunction,
    Expression,
    Negation,
    Noun,
    Order,
    Place,
    Quantified,
    Relation,
    SameAs,
    Scene,
    SceneType,
    ShapeObject,
    SizeComparison,
    distance,
)

RADII = {"small": (0.095, 0.110), "large": (0.155, 0.180)}
# Centers are at least this part of the summed radii apart, which leaves over 70 % of every shape visible.
SEPARATION = 0.95

# How often each kind of sentence is tried first; a kind that cannot denote the target gives way to another one, which
# favors "attribute" (it always can). The values are set so that what comes out is near 45 % attribute, 25 % place,
# 12 % relation and comparison, 8 % order and 10 % negation.
SINGLE_MIXTURE = {"attribute": 38, "place": 26, "relation": 15, "comparison": 5, "order": 8, "negation": 8}
MIXTURES = {
    "refshapes": SINGLE_MIXTURE,
    "refshapes+": {"attribute": 54, "comparison": 24, "negation": 22},
    "grefshapes": SINGLE_MIXTURE,
}
GENERALIZED_ROWS = {"single": 60, "plural": 25, "none": 15}


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """The scene number `index` of a split: 3 or 4 objects, no two alike in all attributes, hardly overlapping.

    Few shapes, colors and fills per scene, so that most objects share attributes and the sentence has to be read.
    The scene depends on nothing but the arguments; the configs share the scenes of a split.
    """
    key = f"refshapes-{seed}-{split}-{index}"
    rng = random.Random(key)
    shapes = rng.sample(SHAPES, rng.choice((2, 2, 3)))
    colors = rng.sample(list(COLORS), rng.choice((2, 3, 3)))
    fills = rng.sample(FILLS, 2)
    wanted = rng.choice((3, 3, 4))
    objects: list[ShapeObject] = []
    attempts = 0
    while len(objects) < (wanted if attempts < 100 else 3):
        attempts += 1
        candidate = _sample_object(rng, shapes, colors, fills)
        alike = any(candidate.words == other.words for other in objects)
        if not alike and all(
            distance(candidate, other) >= SEPARATION * (candidate.radius + other.radius) for other in objects
        ):
            objects.append(candidate)
    return Scene(tuple(objects), background_seed=key)


def _sample_object(rng: random.Random, shapes: list[str], colors: list[str], fills: list[str]) -> ShapeObject:
    size = rng.choice(("small", "large"))
    color = rng.choice(colors)
    radius = rng.uniform(*RADII[size])
    return ShapeObject(
        shape=rng.choice(shapes),
        color=color,
        size=size,
        fill=rng.choice(fills),
        x=rng.uniform(radius + 0.01, 0.99 - radius),
        y=rng.uniform(radius + 0.01, 0.99 - radius),
        radius=radius,
        angle=rng.uniform(-0.25, 0.25),
        pattern_angle=rng.uniform(0, math.pi),
        tint=_sample_tint(color, rng),
    )


def _sample_tint(color: str, rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, channel + rng.randint(-12, 12))) for channel in COLORS[color])
    return red, green, blue


def _describe(item: ShapeObject, rng: random.Random, attributes: int, plural: bool = False) -> Noun:
    """A true description of the object with so many of its four attributes, drawn at random, the shape most often."""
    named_shape = attributes == 4 or rng.random() < 0.75
    others = (rng.choice(SIZES[item.size]), item.fill, item.color)
    chosen = sorted(rng.sample(range(3), attributes - named_shape))
    return Noun((*(others[k] for k in chosen), item.shape if named_shape else "shape"), plural)


def _describe_uniquely(scene: Scene, index: int, rng: random.Random) -> Noun:
    """A description by attributes alone that no other object of the scene fits."""
    for attributes in rng.choice(((1, 1, 2, 2, 3), (2, 2, 2, 3, 3), (3, 3))):
        noun = _describe(scene.objects[index], rng, attributes)
        if len(noun.meaning(scene)) == 1:
            return noun
    return _describe(scene.objects[index], rng, attributes=4)


def _sample_base(scene: Scene, index: int, rng: random.Random, plural: bool = False) -> Noun:
    """A description that fits the object and at least one other, so that the rest of the sentence is needed."""
    for attributes in (rng.choice((1, 1, 1, 2)), 1, 1):
        noun = _describe(scene.objects[index], rng, attributes, plural)
        if len(noun.meaning(scene)) > 1:
            return noun
    return Noun(("shape",), plural)


def _sample_anchor(scene: Scene, index: int, rng: random.Random) -> Noun:
    other = rng.choice([i for i in range(len(scene.objects)) if i != index])
    return _describe_uniquely(scene, other, rng)


def _sample_place(scene: Scene, index: int, rng: random.Random) -> Expression[Scene]:
    base = _sample_base(scene, index, rng)
    if rng.random() < 0.4:
        return Order(base, 1, rng.choice(tuple(EXTREMES)))
    return Place(base, rng.choice((*SIDES, "middle")))


def _sample_order(scene: Scene, index: int, rng: random.Random) -> Expression[Scene]:
    return Order(_sample_base(scene, index, rng), rng.choice((2, 2, 3)), rng.choice(tuple(SIDES)))


def _sample_relation(scene: Scene, index: int, rng: random.Random) -> Expression[Scene]:
    anchor = _sample_anchor(scene, index, rng)
    return Relation(_sample_base(scene, index, rng), rng.choice(tuple(RELATIONS)), anchor)


def _sample_comparison(scene: Scene, index: int, rng: random.Random) -> Expression[Scene]:
    base, anchor = _sample_base(scene, index, rng), _sample_anchor(scene, index, rng)
    draw = rng.random()
    if draw < 0.4:
        return SameAs(base, rng.choice(tuple(SAME_ATTRIBUTES)), anchor)
    if draw < 0.7:
        return SizeComparison(base, "bigger" if scene.objects[index].size == "large" else "smaller", anchor)
    return Closest(base, anchor)


def _sample_negation(scene: Scene, index: int, rng: random.Random, plural: bool = False) -> Expression[Scene]:
    base = _sample_base(scene, index, rng, plural)
    false_words = {word for i in base.meaning(scene) for word in scene.objects[i].words} - scene.objects[index].words
    return Negation(base, rng.choice(sorted(false_words))) if false_words else base


SINGLE_SAMPLERS: dict[str, Callable[[Scene, int, random.Random], Expression[Scene]]] = {
    "attribute": _describe_uniquely,
    "place": _sample_place,
    "relation": _sample_relation,
    "comparison": _sample_comparison,
    "order": _sample_order,
    "negation": _sample_negation,
}


def _sample_plural(scene: Scene, index: int, rng: random.Random) -> Expression[Scene]:
    draw = rng.random()
    if draw < 0.25:
        return Conjunction(_describe_uniquely(scene, index, rng), _sample_anchor(scene, index, rng))
    quantifier = rng.choice(("all", "the", *COUNTS))
    if draw < 0.65:
        return Quantified(quantifier, _sample_base(scene, index, rng, plural=True))
    if draw < 0.8:
        return Quantified(quantifier, _sample_negation(scene, index, rng, plural=True))
    return Quantified(quantifier, Place(_sample_base(scene, index, rng, plural=True), rng.choice(tuple(SIDES))))


def _sample_none(scene: Scene, index: int, rng: random.Random) -> Expression[Scene]:
    """A sentence close to what is in the scene: attributes of two objects mixed, or a single-target kind at random."""
    if rng.random() < 0.6:
        own, other = rng.sample(scene.objects, 2)
        mixed = {name: getattr(rng.choice((own, other)), name) for name in ("shape", "color", "size", "fill")}
        return _describe(replace(own, **mixed), rng, rng.choice((2, 2, 3)))
    return SINGLE_SAMPLERS[rng.choice(("place", "relation", "comparison", "negation"))](scene, index, rng)


def _search(
    sampler: Callable[[Scene, int, random.Random], Expression[Scene]],
    scene: Scene,
    index: int,
    rng: random.Random,
    accepts: Callable[[frozenset[int]], bool],
    attempts: int = 10,
) -> Expression[Scene] | None:
    for _ in range(attempts):
        expression = sampler(scene, index, rng)
        if accepts(expression.meaning(scene)) and expression.is_clear(scene):
            return expression
    return None


def _sample_single(
    scene: Scene, index: int, rng: random.Random, mixture: dict[str, int]
) -> tuple[str, Expression[Scene]]:
    kinds = dict(mixture)
    while True:
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        found = _search(SINGLE_SAMPLERS[kind], scene, index, rng, lambda meaning: meaning == {index})
        if found is not None:
            return kind, found
        if kind != "attribute":
            del kinds[kind]


def _with_article(expression: Expression[Scene], rng: random.Random) -> Expression[Scene]:
    return Quantified("the", expression) if rng.random() < 0.5 else expression


@dataclass(frozen=True)
class Referent(Generic[SceneType]):
    """What a row of the data set is about: a set of objects and (kind, expression) pairs that all denote it."""

    targets: frozenset[int]
    expressions: tuple[tuple[str, Expression[SceneType]], ...]


def sample_referents(config_name: str, scene: Scene, rng: random.Random) -> list[Referent[Scene]]:
    """One to four referents of a scene, one to three sentences each; no set of objects occurs twice."""
    referents: dict[frozenset[int], Referent[Scene]] = {}
    for index in rng.sample(range(len(scene.objects)), rng.randint(2, min(4, len(scene.objects)))):
        kind = "single"
        if config_name == "grefshapes":
            (kind,) = rng.choices(list(GENERALIZED_ROWS), list(GENERALIZED_ROWS.values()))
        found = _sample_sentences(kind, scene, index, rng, MIXTURES[config_name])
        distinct = {expression.text: (name, expression) for name, expression in found}
        if distinct:
            targets = found[0][1].meaning(scene)
            referents.setdefault(targets, Referent(targets, tuple(distinct.values())))
    return list(referents.values())


def _sample_sentences(
    kind: str, scene: Scene, index: int, rng: random.Random, mixture: dict[str, int]
) -> list[tuple[str, Expression[Scene]]]:
    """One to three (kind, expression) that denote the same objects; a single object where the kind finds nothing."""
    wanted = rng.randint(1, 3)
    if kind == "plural":
        first = _search(_sample_plural, scene, index, rng, lambda meaning: len(meaning) > 1)
        if first is not None:
            targets = first.meaning(scene)
            rest = [_search(_sample_plural, scene, index, rng, targets.__eq__) for _ in range(1, wanted)]
            return [("plural", expression) for expression in (first, *rest) if expression is not None]
    if kind == "none":
        drawn = [_search(_sample_none, scene, index, rng, lambda meaning: not meaning) for _ in range(wanted)]
        if any(drawn):
            return [("none", _with_article(expression, rng)) for expression in drawn if expression is not None]
    singles = [_sample_single(scene, index, rng, mixture) for _ in range(wanted)]
    return [(name, _with_article(expression, rng)) for name, expression in singles]
