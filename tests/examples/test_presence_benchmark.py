"""The benchmark of presence heads tells one that looks at the image from one that reads the sentence alone."""

from pathlib import Path

import datasets
import pytest
import torch
from presence import describe, measure

from hf_refseg import REFSHAPES_DEMO, AutoModelForReferringSegmentation, RefSegProcessor


def test_scores_are_those_of_pairs_and_of_the_threshold_that_keeps_the_t_acc() -> None:
    has_target = torch.tensor([True] * 10 + [False] * 4)
    values = torch.tensor([*range(1, 11), 0.0, 2.0, 1.5, 20.0], dtype=torch.float32)
    # Of the 40 pairs the first absent one wins none, the second one and half of another, the third one, the last all.
    assert describe(values, has_target)["AUC"] == pytest.approx(100 * (40 - 0 - 1.5 - 1 - 10) / 40, abs=0.1)
    # The threshold is 1.9: one of the ten present lies below it, and two absent ones.
    assert describe(values, has_target)["N-acc at T-acc 90"] == 50


@torch.no_grad()
def test_a_head_that_reads_the_text_alone_answers_the_same_whatever_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    torch.manual_seed(0)
    model = AutoModelForReferringSegmentation.from_pretrained(REFSHAPES_DEMO, presence_head=True, dtype=torch.float32)
    head, map_channels = model.presence_head, 256
    head.classifier[0].weight[:, : 2 * map_channels] = 0
    correlations = []
    for weight in (0.0, 1.0):
        head.highest_logit_weight.fill_(weight)
        correlations.append(measure_saved(model, tmp_path / str(weight))["correlation with images of others"])
    # The norm of all that the head reads leaves a trace of the image.
    assert correlations[0] > 99 and correlations[1] < 60


def measure_saved(model: torch.nn.Module, folder: Path) -> dict:
    model.save_pretrained(folder)
    RefSegProcessor.from_pretrained(REFSHAPES_DEMO).save_pretrained(folder)
    return measure(str(folder), scenes=4, batch_size=8)
