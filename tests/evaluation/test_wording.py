"""Sentences as annotators write them: the groups they belong to, and what becomes of them in probes."""

import random
import re

import pytest
import yaml

from hf_refseg.evaluation.wording import (
    LISTS,
    groups_of_text,
    mirror_text,
    misspell,
    split_words,
    without_head_noun,
    wording_groups,
)

GROUPS_OF_TEXTS = {
    "the lady": "",
    "Left guy": "place",
    "girl on the far right": "place",
    "topmost shelf, lft": "place comparison",
    "cat closest to us": "place comparison",
    "bird in the distance": "place",
    "cup closest to the lamp": "relation comparison",
    # Tops that are worn, backs of people and of chairs, and "right" for emphasis are no places.
    "kid w/ a green top": "color",
    "woman in tank top": "",
    "man with his back to us": "",
    "back of chair": "",
    "dog right behind the fence": "relation",
    "dog on right behind the fence": "place relation",
    "boy in front": "place",
    "boy in front of the bus": "relation",
    "boy in front of the camera": "place",
    "man next to the horse": "relation",
    "man on horse": "relation",
    "mug between two plates": "relation",
    "rider in back": "place",
    "dude in white shirt": "color",
    "person in a long winter coat": "",
    "guy looking at the girl": "",
    "towel on top of the fridge": "relation",
    "2nd row": "ordinal",
    "third from left": "place ordinal",
    "2 from left": "place ordinal",
    "player at second base": "relation",
    "lady in the blk dress": "color",
    "guy in orange": "color",
    "orange jacket": "color",
    "orange on left": "place",
    "the orange": "",
    "player not batting": "negation",
    "jacket w/o hood": "negation",
    "the one that isn't cut": "negation",
    "no idea, the dog": "",
    "player no 13": "",
    "bigger bear": "comparison",
    "left most truck": "place comparison",
    "rightmost truck": "place comparison",
    "most of the cake": "",
    "both kids": "plural",
    "two women": "plural",
    "two from the left": "place ordinal",
    "women in red": "color plural",
    "bunch of grapes": "plural",
    "woman in crowd": "relation",
    "all the way left": "place",
    "girls hand": "",
    "71 shirt": "",
    "car rolling several times": "",
    "closest bear": "place comparison",
    "watch worn by a man": "",
    "player in the front row": "place",
    "kid with bananas": "",
    "椅子": "",
}


@pytest.mark.parametrize("text", GROUPS_OF_TEXTS)
def test_a_sentence_belongs_to_the_groups_of_its_words(text):
    assert groups_of_text(text) == tuple(GROUPS_OF_TEXTS[text].split())


def test_every_group_has_a_sentence_here():
    assert set(" ".join(GROUPS_OF_TEXTS.values()).split()) == set(wording_groups())


def test_case_and_apostrophes_do_not_matter():
    assert [word.token for word in split_words("The dog's W/O a toy, isn\u2019t it? (2nd)")] == [
        *("the", "dogs", "w/o", "a", "toy", "isnt", "it", "2nd")
    ]
    assert groups_of_text("ISN\u2019T RED") == groups_of_text("isnt red") == ("color", "negation")


def test_words_lie_where_they_are_in_the_text():
    text = "the İstanbul  mug"
    assert [text[word.start : word.end] for word in split_words(text)] == ["the", "İstanbul", "mug"]


def test_the_lists_hold_words_as_they_are_compared():
    lists = yaml.safe_load(LISTS.read_text(encoding="utf-8"))
    entries = [entry for of_list in lists["lists"].values() for entry in of_list]
    entries += [entry for group in lists["groups"].values() for kind in ("words", "except") for entry in group[kind]]
    entries += [noun for nouns in lists["nouns"].values() for noun in nouns]
    entries += [*lists["opposite_sides"], *lists["opposite_sides"].values(), *lists["without_mirror_image"]]
    for part in (part for entry in entries for part in entry.split()):
        if not re.fullmatch(r"[*#^$]|\{\w+\}", part):
            assert [word.token for word in split_words(part)] == [part]
    assert len(entries) > 900


@pytest.mark.parametrize(
    ("text", "category", "rest"),
    [
        ("the left man in red", "person", "the left in red"),
        ("Men in red", "person", "in red"),
        ("man beside the woman", "person", "beside the woman"),
        ("umbrella of the lady", "person", "umbrella of the"),
        ("umbrella of the lady", "umbrella", "of the lady"),
        ("brown teddy bear", "teddy bear", "brown"),
        ("pair of knives on top", "knife", "pair of on top"),
        ("two red ponies", "horse", "two red"),
        ("car or truck", "car, truck", "or truck"),
        ("black giant panda", "giant_panda", "black"),
        ("the red letter y", "letter y", "the red"),
        ("red y", "y", "red"),
        ("two blue triangles", "triangle", "two blue"),
        ("the man", "person", None),
        ("red shirt", "person", None),
        ("left one", "", None),
    ],
)
def test_the_first_word_for_the_category_is_the_head_noun(text, category, rest):
    assert without_head_noun(text, category) == rest


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("left guy", "right guy"),
        ("Man on the RIGHT, left hand up", "Man on the LEFT, right hand up"),
        ("Leftmost of the 2nd row", "Rightmost of the 2nd row"),
        ("rt dog", "lft dog"),
        ("rigth dog", "left dog"),
        ("top right", "top left"),
        ("man in red", None),
        ("the man right behind her", None),
        ("left of number 7", None),
        ("player 12 on the left", None),
        ("left shirt that says stop", None),
        ("right slice at 3 o'clock", None),
    ],
)
def test_a_sentence_is_mirrored_where_it_is_known_how(text, mirrored):
    assert mirror_text(text) == mirrored


@pytest.mark.parametrize("text", ["left guy", "far right kid, left hand up", "leftmost", "bottomright", "lft one"])
def test_mirrored_twice_a_sentence_is_as_it_was(text):
    assert mirror_text(mirror_text(text)) == text


def test_a_typo_changes_one_long_word_and_makes_no_other_known_word():
    text, known = "the form on the wall", {"from", "for", "wal", "the", "on"}
    typos = {misspell(text, random.Random(seed), known) for seed in range(60)}
    assert typos == {
        *("the fom on the wall", "the frm on the wall", "the foorm on the wall", "the forrm on the wall"),
        *("the fomr on the wall", "the fomr on the wall", "the form on the wll", "the form on the walll"),
        *("the form on the waall", "the form on the wlal"),
    } - {"the form on the wal"}
    assert misspell(text, random.Random(3), known) == misspell(text, random.Random(3), known)
    assert misspell("the man", random.Random(0), set()) is None
    assert misspell(f"the {10**6 * 'a'}", random.Random(0), set()) is None


def test_any_text_has_groups_and_changes_in_its_words_alone():
    generator = random.Random(0)
    pieces = [
        "left",
        "Right",
        "the",
        "man",
        "w/o",
        "orange",
        "^",
        "$",
        "#",
        "*",
        "2",
        "\u2019",
        "\u00df",
        "\u0130",
        "\n",
        "\ud800",
    ]
    for _ in range(300):
        text = "".join(generator.choice(pieces) + generator.choice(["", " "]) for _ in range(generator.randrange(9)))
        assert set(groups_of_text(text)) <= set(wording_groups())
        words = split_words(text)
        assert all(0 <= word.start < word.end <= len(text) for word in words)
        mirrored, typo = mirror_text(text), misspell(text, random.Random(0), set())
        for changed in filter(None, (mirrored, typo)):
            tokens = [word.token for word in split_words(changed)]
            assert len(tokens) == len(words) and tokens != [word.token for word in words]
        rest = without_head_noun(text, "person")
        assert rest is None or len(split_words(rest)) == len(words) - 1
