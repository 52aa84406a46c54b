"""benchmarks/gpu.py: without a GPU it says so; what it measures runs on a processor as well."""

import json
import sys
from unittest.mock import create_autospec

import gpu
import pytest
import torch
from tiny_methods import TinyLavt


@pytest.fixture
def tiny(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "MODELS", {"lavt": (48, 6, 2, 2)})
    monkeypatch.setattr(gpu.AutoConfig, "for_model", lambda name: TinyLavt().build().config)
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, **options: torch.ones(shape, dtype=torch.long))


def test_without_a_gpu_it_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert capsys.readouterr().out == "There is no GPU that PyTorch finds: nothing was measured.\n"


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")
def test_each_figure_is_measured(tiny, monkeypatch, capsys, tmp_path, group_of_one) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    # Takes a while, and has tests of its own.
    expected = create_autospec(gpu.estimate_training_memory, return_value={"total": 2 * 10**9})
    monkeypatch.setattr(gpu, "estimate_training_memory", expected)
    gpu.measure_all(1, 8, torch.device("cpu"), str(tmp_path / "gpu.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    inference, training = rows[:3], rows[3:]
    assert [(row["dtype"], row["compiled"]) for row in inference] == [
        ("float32", False),
        ("bfloat16", False),
        ("bfloat16", True),
    ]
    assert [(row["dtype"], row["fsdp"]) for row in training] == [
        ("float32", False),
        ("bfloat16", False),
        ("bfloat16", True),
    ]
    assert all(row["images_per_second"] > 0 for row in inference)
    assert all(row["seconds_per_step"] > 0 and row["expected_gb"] == 2 for row in training)


def test_what_does_not_fit_into_time_or_memory_is_said(monkeypatch, capsys) -> None:
    def run_out() -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "measurements", lambda name, rounds, device: [({"model": name}, run_out)])
    for minutes, reason in ((8, "out of memory"), (-1, "-1 minutes were over")):
        gpu.measure_all(1, minutes, torch.device("cpu"), None)
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["model"], row["left_out"]) for row in rows] == [("lavt", reason), ("risam", reason)]
