"""The demonstration: the quickest number format and attention are chosen, said, and kept by a run that goes on."""

import json
from pathlib import Path

import demo
import pytest
import yaml
from huggingface_hub import ModelCard

from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.options import parse_options

TINY = {
    "config": {
        "decoder_hidden_size": 8,
        "fusion_num_heads": [1, 1],
        "backbone_config": {
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 1],
            "window_size": 4,
        },
        "text_config": {
            "model_type": "bert",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
    },
    "image_size": 64,
    "dataset_options": {"train_size": 20, "val_size": 3, "test_size": 3, "image_size": 64},
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "pictures": 0,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The demonstration's own recipe, with little data and a tiny model."""
    options = yaml.safe_load(demo.RECIPE.read_text(encoding="utf-8")) | TINY
    options["dataset_options"] |= {"cache_dir": str(tmp_path / "cache")}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return path


@pytest.mark.parametrize("fastest", demo.VARIANTS, ids=", ".join)
def test_the_fastest_variant_is_trained_for_as_many_steps_as_fit(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fastest: tuple[str, str]
) -> None:
    # Each is disturbed once: what counts is the quicker time.
    times = {variant: [40.0, 3.0] if variant == fastest else [4.0, 40.0] for variant in demo.VARIANTS}
    monkeypatch.setattr(demo, "time_steps", lambda recipe, *variant: times[variant].pop())
    plan = demo.read_or_make_plan(recipe, tmp_path / "run", seconds=610)
    assert (plan.precision, plan.attention) == fastest
    assert plan.steps == 172  # of 3 seconds each, in 0.85 of the time; an even number
    assert plan.seconds_per_step == {", ".join(each): 3.0 if each == fastest else 4.0 for each in demo.VARIANTS}
    assert f"So 172 steps are trained in {fastest[0]} with {fastest[1]} attention." in plan.describe()
    model, _, training = parse_options([str(recipe), *plan.arguments], ImageDataArguments, "")
    assert (training.bf16, training.max_steps, training.eval_steps) == (fastest[0] == "bfloat16", 172, 86)
    assert model.config == TINY["config"] | {"attn_implementation": fastest[1]}


def test_a_run_goes_on_as_it_was_planned(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1, 100))
    monkeypatch.setattr(demo, "time_steps", lambda *arguments: float(next(times)))
    plan = demo.read_or_make_plan(recipe, tmp_path / "run", seconds=600)
    timed = next(times)
    assert demo.read_or_make_plan(recipe, tmp_path / "run", seconds=60) == plan
    assert next(times) == timed + 1 == len(demo.VARIANTS) * demo.ROUNDS + 2


@pytest.mark.slow_process
def test_a_demonstration_says_what_it_chose(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(demo, "TIMED_STEPS", 2)
    monkeypatch.setattr(demo, "ROUNDS", 1)
    monkeypatch.setattr(demo, "VARIANTS", [("float32", "sdpa"), ("bfloat16", "eager")])
    folder = tmp_path / "run"
    demo.main(recipe, folder, minutes=0.001)
    report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    plan = report["plan"]
    assert plan["steps"] == report["training"]["steps"] == 2
    times = plan["seconds_per_step"]
    assert list(times) == ["float32, sdpa", "bfloat16, eager"]
    chosen = f"{plan['precision']}, {plan['attention']}"
    assert 0 < times[chosen] == min(times.values())
    card = ModelCard.load(folder / "README.md").text
    assert f"| precision | {plan['precision']} |" in card and f"| attention | {plan['attention']} |" in card
    assert (folder / "scenes.png").stat().st_size > 10_000
    assert f"So 2 steps are trained in {plan['precision']} with {plan['attention']}" in capsys.readouterr().out


@pytest.mark.slow_process
@pytest.mark.parametrize(("seconds_per_step", "trained"), [(1e-4, 11), (10.0, 14)])
def test_a_training_slower_than_it_was_timed_is_shortened(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, seconds_per_step: float, trained: int
) -> None:
    monkeypatch.setattr(demo, "time_steps", lambda *arguments: seconds_per_step)
    monkeypatch.setattr(demo, "SHARE_OF_TRAINING", 14.5 * seconds_per_step / 600)
    folder = tmp_path / "run"
    for _ in range(2):  # the second finds it finished
        demo.main(recipe, folder)
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        state = json.loads((folder / f"checkpoint-{trained}" / "trainer_state.json").read_text(encoding="utf-8"))
        assert plan["steps"] == state["global_step"] == state["max_steps"] == trained
        assert state["log_history"][-1]["step"] == trained and "eval_loss" in state["log_history"][-1]
    assert "is the end of this training" in capsys.readouterr().out
