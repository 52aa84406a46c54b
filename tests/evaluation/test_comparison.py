"""Differences between systems agree with slow loops over their records, and with what is known without them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from hf_refseg.evaluation import bootstrap_intervals, davis_intervals, davis_scores, scores_from_counts
from hf_refseg.evaluation.comparison import Comparison, compare_groups, compare_records, holm, same_sentences
from hf_refseg.evaluation.record_scores import count_columns, intervals_of_records, scores_of_records
from hf_refseg.evaluation.video import A2D, DAVIS_MEASURES, SequenceScores, frame_counts

PROTOCOLS = ("original", "rela", "cris", "davis", "a2d")


def image_records(seed: int, images: int = 7) -> list[dict]:
    """A system's answers about images of one to three sentences, of which some mean nothing."""
    generator, records = np.random.default_rng(seed), []
    for image in range(images):
        for sentence in range(1 + image % 3):
            union = int(generator.integers(1, 100))
            is_none = (image + sentence) % 4 == 0
            record = {"image_id": str(image), "ref_id": str(image), "sent_id": str(sentence), "text": f"{image}"}
            present = bool(generator.integers(2))
            intersection = 0 if is_none else int(generator.integers(union + 1))
            counts = {"intersection": intersection, "union": union}
            records.append({**record, "no_target": is_none, "present": present, **counts})
    return records


def video_records(seed: int, protocol: str, videos: int = 5) -> list[dict]:
    generator, records = np.random.default_rng(seed), []
    for video in range(videos):
        for annotator in range(1 + video % 2):
            ids = {"video_id": f"v{video}", "ref_id": "0", "sent_id": str(annotator), "annotator": str(annotator)}
            record = {**ids, "text": "a dog", "frames": 3}
            if protocol == "a2d":
                unions = generator.integers(1, 100, 3)
                hits = generator.integers(unions + 1)
                records.append({**record, "intersections": hits.tolist(), "unions": unions.tolist()})
            else:
                records.append({**record, **SequenceScores(*generator.random((2, 3)).tolist()).measures()})
    return records


def records_of(protocol: str, seed: int) -> list[dict]:
    return video_records(seed, protocol) if protocol in ("davis", "a2d") else image_records(seed)


def known_scores(records: list[dict], protocol: str) -> dict[str, float]:
    """By the functions of the protocols, which know no records."""
    if protocol == "davis":
        return davis_scores(records, [record["annotator"] for record in records])
    if protocol == "a2d":
        return scores_from_counts(*frame_counts(records)[:2], A2D)
    return scores_from_counts(**count_columns(records), protocol=protocol)


def group_of(record: dict) -> str:
    return record.get("image_id") or record["video_id"]


def differences(comparison: Comparison, score: str) -> list:
    return [each for each in comparison.differences if each.score == score]


def right_or_wrong(*right: bool) -> list[dict]:
    """A sentence in each image."""
    ids = ("image_id", "ref_id", "sent_id", "text")
    return [
        {**dict.fromkeys(ids, str(number)), "intersection": 10 * hit, "union": 10, "no_target": False, "present": True}
        for number, hit in enumerate(right)
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_records_of_every_protocol_are_scored_alike(protocol):
    records, options = records_of(protocol, 0), {"samples": 20, "seed": 3}
    assert scores_of_records(records, protocol) == pytest.approx(known_scores(records, protocol))
    groups = [group_of(record) for record in records]
    if protocol == "davis":
        expected = davis_intervals(records, groups, [record["annotator"] for record in records], **options)
    elif protocol == "a2d":
        intersections, unions, of_frames = frame_counts(records)
        expected = bootstrap_intervals(intersections, unions, A2D, groups=of_frames, **options)
    else:
        expected = bootstrap_intervals(**count_columns(records), protocol=protocol, groups=groups, **options)
    assert intervals_of_records(records, protocol, **options) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_comparison_agrees_with_loops_over_images(protocol):
    """Three systems: images are drawn for all of them together, and their answers are exchanged image by image."""
    systems = {name: records_of(protocol, seed) for seed, name in enumerate("abc")}
    groups = list(dict.fromkeys(map(group_of, systems["a"])))
    of_group = {name: {g: [r for r in systems[name] if group_of(r) == g] for g in groups} for name in systems}
    found = compare_records(systems, protocol, samples=40, permutations=60, seed=5)
    assert found.groups == len(groups)
    for name, records in systems.items():
        assert found.metrics[name] == pytest.approx(known_scores(records, protocol))
        for score, interval in intervals_of_records(records, protocol, samples=40, seed=5).items():
            assert found.intervals[name][score] == pytest.approx(interval)

    generator, resampled = np.random.default_rng(5), []
    for _ in range(40):
        drawn = [groups[place] for place in generator.integers(len(groups), size=len(groups))]
        resampled.append(
            {name: known_scores([r for g in drawn for r in of_group[name][g]], protocol) for name in systems}
        )
    swaps = np.random.default_rng(5).integers(0, 2, size=(60, len(groups)), dtype=np.int8)
    for first, second in combinations("abc", 2):
        pair = [each for each in found.differences if (each.first, each.second) == (first, second)]
        assert [each.score for each in pair] == list(found.metrics["a"])
        exchanged = []
        for row in swaps:
            ways = [(second, first) if swap else (first, second) for swap in row]
            exchanged.append(
                [
                    known_scores(
                        [r for g, way in zip(groups, ways, strict=True) for r in of_group[way[place]][g]], protocol
                    )
                    for place in (0, 1)
                ]
            )
        for each in pair:
            score, expected = each.score, found.metrics[second][each.score] - found.metrics[first][each.score]
            assert each.difference == pytest.approx(expected)
            drawn = [of[second][score] - of[first][score] for of in resampled if score in of[first]]
            assert each.interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
            as_large = sum(abs(two[score] - one[score]) >= abs(expected) - 1e-9 for one, two in exchanged)
            assert each.p_value == pytest.approx((1 + as_large) / 61)
    for score in found.metrics["a"]:
        pairs = differences(found, score)
        assert [each.corrected_p_value for each in pairs] == pytest.approx(holm([each.p_value for each in pairs]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_system_does_not_differ_from_itself(protocol):
    found = compare_records({"a": records_of(protocol, 0), "b": records_of(protocol, 0)}, protocol, permutations=50)
    for each in found.differences:
        assert (each.difference, each.interval) == (0, (0, 0))
        assert each.p_value == each.corrected_p_value == 1


def test_better_on_every_image():
    """Of 2**6 ways to exchange answers two come to such a difference: none, and all of them."""
    found = compare_records({"a": right_or_wrong(*[0] * 6), "b": right_or_wrong(*[1] * 6)}, "lavt", seed=1)
    (overall,) = differences(found, "oIoU")
    assert (overall.difference, overall.interval) == (100, (100, 100))
    assert overall.p_value == pytest.approx(2 / 64, rel=0.1)
    # One image proves nothing, though all of its resamples are equal.
    found = compare_records({"a": right_or_wrong(0), "b": right_or_wrong(1)}, "lavt")
    assert {each.p_value for each in found.differences} == {1}
    # Many images do, as far as the permutations reach.
    many = compare_records({"a": right_or_wrong(*[0] * 60), "b": right_or_wrong(*[1] * 60)}, "lavt", permutations=99)
    assert {each.p_value for each in many.differences} == {0.01}


def test_a_paired_interval_is_that_of_theory():
    """Two systems fail on the same half of 400 images, but the second one is right on 40 of them.

    The standard error of the difference is sqrt(0.1 * 0.9 / 400) = 1.5; of independent systems it would be 3.5.
    """
    first, second = ([number >= bound for number in range(400)] for bound in (200, 160))
    found = compare_records(
        {"first": right_or_wrong(*first), "second": right_or_wrong(*second)}, "original", samples=4000
    )
    (mean,) = differences(found, "mIoU")
    low, high = mean.interval
    assert mean.difference == pytest.approx(10) and (low + high) / 2 == pytest.approx(10, abs=0.3)
    assert high - low == pytest.approx(2 * 1.96 * 1.5, rel=0.1)
    assert mean.p_value == 1 / 10_001


def test_holm_corrects_for_the_number_of_pairs():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8]) and holm([0.9, 0.6, 0.7]) == [1, 1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([0.04, 0.001, 0.03, 0.01]) == pytest.approx([0.06, 0.004, 0.06, 0.03])


def test_an_interval_of_what_no_resample_says_anything_of_is_none():
    """One image of two has the only sentence without target."""
    records = right_or_wrong(1, 1)
    records[0] |= {"no_target": True, "present": False, "intersection": 0, "union": 0}
    intervals = {
        differences(compare_records({"a": records, "b": records}, "rela", samples=1, seed=seed), "N-acc")[0].interval
        for seed in range(10)
    }
    assert intervals == {None, (0, 0)}


def test_same_sentences_come_in_one_order():
    records = image_records(0)
    answered = same_sentences({"a": records, "b": image_records(1)[::-1]})
    assert answered["a"] == records
    assert answered["b"] == image_records(1)


def test_sentences_that_differ_are_counted():
    records = image_records(0)
    other = [{**record, "text": "another"} if number < 2 else record for number, record in enumerate(records)][:-1]
    with pytest.raises(ValueError) as caught:
        same_sentences({"a": records, "b": other})
    assert str(caught.value).startswith(
        f"The sentences are not the same ({len(records) - 3} are): a has 3 sentences that others lack, b has 2 "
        "sentences that others lack; 2 of them have the same ids in all, but another text"
    )
    assert "One is Image '0', reference '0', sentence '0'. " in str(caught.value)
    common = same_sentences({"a": records, "b": other}, only_common=True)
    assert common == {"a": records[2:-1], "b": other[2:]}
    with pytest.raises(ValueError, match=r"not the same \(0 are\).*none is in all of them"):
        same_sentences({"a": records[:2], "b": other[2:]}, only_common=True)
    with pytest.raises(ValueError, match="b has two records of Image '0', reference '0', sentence '0'"):
        same_sentences({"a": records, "b": [*records, records[0]]})


def test_what_cannot_be_compared_is_refused():
    records = image_records(0)
    with pytest.raises(ValueError, match="Compare two systems at least"):
        compare_records({"a": records}, "original")
    with pytest.raises(ValueError, match="each with records"):
        compare_records({"a": records, "b": []}, "original")
    for wrong in ({"samples": 0}, {"permutations": 0}, {"confidence": 1}):
        with pytest.raises(ValueError, match="must be at least 1 and confidence in"):
            compare_records({"a": records, "b": records}, "original", **wrong)
    with pytest.raises(ValueError, match="b lacks 1 image of a and has 0 images more"):
        compare_records({"a": records, "b": [record for record in records if record["image_id"] != "3"]}, "original")
    with pytest.raises(ValueError, match="Unknown protocol 'nope'"):
        compare_records({"a": records, "b": records}, "nope")
    measures = dict.fromkeys(DAVIS_MEASURES, 1.0)
    one, other = ([{"video_id": name, "annotator": "", **measures}] for name in "vw")
    with pytest.raises(ValueError, match="b lacks 1 video of a and has 1 video more"):
        compare_records({"a": one, "b": other}, "davis")


def test_groups_are_compared_and_corrected_together():
    """Two groups of the kind "length" and three pairs: six p-values of a score."""
    texts = ["dog", "the dog on the left side of it"]
    systems = {
        name: [{**record, "text": texts[place % 2]} for place, record in enumerate(image_records(seed, images=9))]
        for seed, name in enumerate("abc")
    }
    groups = [group for group in compare_groups(systems, "lavt", permutations=50) if group.kind == "length"]
    assert [group.group for group in groups] == ["1 or 2 words", "6 to 10 words"]
    p_values, corrected = [], []
    for group, text in zip(groups, texts, strict=True):
        of_group = {name: [each for each in of if each["text"] == text] for name, of in systems.items()}
        alone = compare_records(of_group, "lavt", permutations=50)
        assert group.sentences == len(of_group["a"]) and group.compared.metrics == alone.metrics
        p_values += [each.p_value for each in differences(alone, "oIoU")]
        corrected += [each.corrected_p_value for each in differences(group.compared, "oIoU")]
    assert len(p_values) == 6 and corrected == pytest.approx(holm(p_values))
    assert max(corrected) > 3 * min(p_values)
