"""Training gives the same result however it is split, killed or resumed, and its scores are those of all masks."""

import json
import logging
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fresh_process import Finished, run_program
from PIL import Image
from places import CHECKOUT, SUPPORT
from safetensors.torch import load_file, save_file
from tiny_lavt import tiny_lavt
from train_tiny import build_model, build_processor, build_trainer
from transformers import TrainerCallback

from hf_refseg import AutoModelForReferringSegmentation
from hf_refseg.data.examples import SentenceExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.evaluation import evaluate_masks
from hf_refseg.modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from hf_refseg.training import callbacks
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.callbacks import LossWeightSchedule, PredictionPictures
from hf_refseg.training.checkpoints import FSDP_WEIGHTS, find_checkpoint_fault, last_complete_checkpoint
from hf_refseg.training.resuming import load_weights
from hf_refseg.training.sampling import EpochSampler

EIGHT_AT_ONCE = {"per_device_train_batch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the processes that the tests start: the order of a sum may depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def train_elsewhere(
    output_dir: Path, cache: Path, processes: int = 1, options: Sequence[str] = (), **arguments
) -> list[Finished]:
    """Runs `train_tiny.py` in processes of its own, with its `options`."""
    command = (str(output_dir), str(cache), json.dumps(arguments), *options)
    return run_program(SUPPORT / "train_tiny.py", *command, cwd=cache, processes=processes)


def logged(log_history: list[dict], key: str) -> list[float]:
    return [entry[key] for entry in log_history if key in entry]


@pytest.fixture(scope="module")
def reference(cache, tmp_path_factory):
    """One process, one step of eight: the trainer after training and evaluation."""
    trainer = build_trainer(tmp_path_factory.mktemp("reference"), cache, **EIGHT_AT_ONCE)
    trainer.train()
    trainer.evaluate()
    return trainer


def assert_same_training(weights: dict[str, torch.Tensor], log_history: list[dict], reference) -> None:
    initial = build_model().state_dict()
    for name, expected in reference.model.state_dict().items():
        torch.testing.assert_close(weights[name], expected, atol=5e-6, rtol=0, msg=name)
    moved = max((reference.model.state_dict()[name] - value).abs().max() for name, value in initial.items())
    assert moved > 1e-3
    for key in ("loss", "loss_dice", "learning_rate", "eval_oIoU", "eval_mIoU", "eval_Pr@0.5"):
        expected = logged(reference.state.log_history, key)
        assert expected and logged(log_history, key) == pytest.approx(expected, abs=2e-6), key


def test_four_accumulation_steps_of_two_equal_one_step_of_eight(cache, reference, tmp_path) -> None:
    trainer = build_trainer(tmp_path, cache, per_device_train_batch_size=2, total_train_batch_size=8)
    assert trainer.args.gradient_accumulation_steps == 4
    trainer.train()
    trainer.evaluate()
    assert_same_training(trainer.model.state_dict(), trainer.state.log_history, reference)
    assert logged(trainer.state.log_history, "loss_dice") == pytest.approx(logged(trainer.state.log_history, "loss"))


@pytest.mark.slow_process
def test_two_processes_equal_one_with_ddp_and_with_fsdp(cache, reference, tmp_path) -> None:
    # 2 processes times 2 accumulation steps of 2; the 19 sentences do not divide among 2 processes of 4.
    batches = {"per_device_train_batch_size": 2, "total_train_batch_size": 8}
    options = ("--fsdp", str(CHECKOUT / "examples" / "accelerate" / "fsdp2.yaml"))
    for done in train_elsewhere(tmp_path, cache, processes=2, options=options, **batches):
        assert done.exit_status == 0, done.errors
    assert len(reference.eval_dataset) % 8 not in (0, 4)
    checkpoint = tmp_path / "fsdp" / "checkpoint-4"
    for folder in (tmp_path / "final", tmp_path / "fsdp" / "final", checkpoint):
        weights = build_model()
        saved = AutoModelForReferringSegmentation.from_pretrained(folder)
        weights.load_state_dict(saved.state_dict(), strict=True)
        log = (checkpoint.with_name("final") if folder == checkpoint else folder) / "log.json"
        assert_same_training(weights.state_dict(), json.loads(log.read_text()), reference)
    # What only FSDP has, and the class of the model all the same, with its code.
    assert (checkpoint / FSDP_WEIGHTS).is_file() and not (tmp_path / "final" / FSDP_WEIGHTS).exists()
    auto_map = json.loads((checkpoint / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_lavt.LavtForReferringSegmentation"
    assert (checkpoint / "modeling_lavt.py").is_file()
    assert last_complete_checkpoint(checkpoint.parent) == str(checkpoint)
    (checkpoint / "optimizer.bin").write_bytes(b"")
    assert find_checkpoint_fault(checkpoint) == "optimizer.bin is cut off"


@torch.no_grad()
def whole_scores(trainer, threshold: float) -> tuple[dict[str, float], ReferringSegmentationOutput]:
    """Scores of all masks of the evaluation at once, and what the model returned."""
    batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(len(trainer.eval_dataset))])
    outputs, labels = trainer.model.eval()(**batch), batch["mask_labels"] != 0
    return evaluate_masks(list(outputs.logits.sigmoid() > threshold), list(labels), protocol="lavt"), outputs


def test_streaming_scores_are_those_of_all_masks(reference) -> None:
    expected, outputs = whole_scores(reference, 0.5)
    assert 0 < expected["oIoU"] < 100
    for name, value in expected.items():
        assert logged(reference.state.log_history, f"eval_{name}") == pytest.approx([value])
    assert logged(reference.state.log_history, "eval_loss_dice") == pytest.approx([outputs.loss.item()], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_the_mask_threshold_is_the_processors(cache, tmp_path, threshold: float) -> None:
    trainer = build_trainer(tmp_path, cache, mask_threshold=threshold)
    classifier = trainer.model.decoder.classifier
    # Probabilities on both sides of each threshold.
    classifier.weight.mul_(20)
    classifier.bias[1] -= whole_scores(trainer, 0.5)[1].logits.median()
    expected, usual = (whole_scores(trainer, each)[0]["oIoU"] for each in (threshold, 0.5))
    assert abs(expected - usual) > 0.01
    assert trainer.evaluate()["eval_oIoU"] == pytest.approx(expected)


def test_pixels_are_not_counted_as_tokens_of_a_language_model(reference) -> None:
    assert reference.state.total_flos == 0


@pytest.fixture(scope="module")
def killed_and_whole(cache, tmp_path_factory):
    """Output folder of a run that was killed after step 6, and the trainer of the same run that was not."""
    arguments = {
        "dropout": 0.3,
        "max_steps": 9,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_total_limit": 9,
        "per_device_train_batch_size": 4,
        "logging_steps": 3,
        "loss_type": "dice_boundary",
        "loss_weight_schedules": {"boundary": {"start": 0.0, "end": 1.0, "end_fraction": 0.8}},
    }
    killed = tmp_path_factory.mktemp("killed")
    (done,) = train_elsewhere(killed, cache, **arguments, kill_at_step=7)
    assert done.exit_status == -signal.SIGKILL, done.errors
    whole = build_trainer(tmp_path_factory.mktemp("whole"), cache, **arguments)
    whole.train()
    return killed, whole, arguments


@pytest.mark.slow_process
def test_a_killed_run_resumes_to_the_same_weights(cache, killed_and_whole, caplog) -> None:
    killed, whole, arguments = killed_and_whole
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in (2, 4, 6)]
    assert not (killed / "final").exists()
    # The newest checkpoint, too, was cut off: it is passed over. Step 4 is the end of an epoch, step 2 its middle.
    weights = killed / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with caplog.at_level(logging.WARNING):
        newest = last_complete_checkpoint(killed)
    assert newest == str(killed / "checkpoint-4")
    assert "checkpoint-6 is not complete" in caplog.text and "model.safetensors is cut off" in caplog.text
    trainer = build_trainer(killed, cache, **arguments)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 9
    for name, expected in whole.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], expected, atol=1e-7, rtol=0, msg=name)
    for key in ("loss", "loss_boundary", "eval_oIoU"):
        assert logged(trainer.state.log_history, key)[-1] == pytest.approx(logged(whole.state.log_history, key)[-1])
    assert trainer.model.loss_weights == {"dice": 1.0, "boundary": 1.0}
    # A checkpoint can be loaded like any model, and carries its processor.
    newest = Path(last_complete_checkpoint(killed))
    assert newest.name == "checkpoint-9" and (newest / "processor_config.json").is_file()
    assert AutoModelForReferringSegmentation.from_pretrained(newest).config.loss_type == "dice_boundary"


@pytest.mark.slow_process
def test_resuming_in_the_middle_of_an_epoch_gives_the_same_weights(cache, killed_and_whole, tmp_path) -> None:
    _, whole, arguments = killed_and_whole
    middle = Path(whole.args.output_dir) / "checkpoint-6"
    state = json.loads((middle / "trainer_state.json").read_text())
    assert state["epoch"] % 1 != 0 and state["epoch"] > 1
    trainer = build_trainer(tmp_path, cache, **arguments)
    trainer.train(resume_from_checkpoint=str(middle))
    for name, expected in whole.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], expected, atol=1e-7, rtol=0, msg=name)


def test_a_training_with_muon_resumes_to_the_same_weights(cache, tmp_path) -> None:
    arguments = {
        **EIGHT_AT_ONCE,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "muon_learning_rate": 0.01,
        # Muon has no epsilon, so the argument stays at its default.
        "adam_epsilon": 1e-8,
    }
    whole = build_trainer(tmp_path / "whole", cache, **arguments)
    whole.train()
    resumed = build_trainer(tmp_path / "resumed", cache, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, expected in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], expected, atol=1e-7, rtol=0, msg=name)


def test_the_best_checkpoint_is_loaded_in_full(cache, tmp_path) -> None:
    trainer = build_trainer(
        tmp_path,
        cache,
        **EIGHT_AT_ONCE,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        # The loss falls, so the first checkpoint is the best one.
        metric_for_best_model="loss",
        greater_is_better=True,
        save_total_limit=3,
    )
    trainer.train()
    assert trainer.state.best_global_step == 1
    best = AutoModelForReferringSegmentation.from_pretrained(tmp_path / "checkpoint-1").state_dict()
    assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items())
    last = AutoModelForReferringSegmentation.from_pretrained(tmp_path / "checkpoint-3").state_dict()
    assert not all(torch.equal(value, best[name]) for name, value in last.items())


@pytest.mark.slow_process
@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("model.safetensors", "cut off"),
        ("optimizer.pt", "cut off"),
        ("scheduler.pt", "cut off"),
        ("rng_state.pth", "cut off"),
        ("trainer_state.json", "cut off"),
        ("model.safetensors", "missing"),
        ("optimizer.pt", "missing"),
        ("scheduler.pt", "missing"),
        ("rng_state.pth", "missing"),
        ("trainer_state.json", "missing"),
    ],
)
def test_each_damaged_file_of_a_checkpoint_is_noticed(killed_and_whole, tmp_path, file, fault) -> None:
    source = Path(killed_and_whole[1].args.output_dir) / "checkpoint-8"
    folder = tmp_path / "checkpoint-8"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert find_checkpoint_fault(folder) is None
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if fault == "cut off":
        (folder / file).write_bytes(content[: len(content) // 2])
    found = find_checkpoint_fault(folder)
    assert file.split(".")[0] in found and fault in found
    assert last_complete_checkpoint(tmp_path) is None


def test_a_folder_without_checkpoints_gives_none_and_resuming_from_it_is_an_error(cache, tmp_path) -> None:
    assert last_complete_checkpoint(tmp_path / "absent") is None
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match="no complete checkpoint"):
        build_trainer(tmp_path, cache, **EIGHT_AT_ONCE).train(resume_from_checkpoint=True)


def sentences_read(cache: Path, output_dir: Path, **arguments) -> list[tuple[int, str, str]]:
    """(epoch, ref_id, sent_id) of every training item, in order of epoch and referent."""
    trainer = build_trainer(output_dir, cache, max_steps=4, **arguments)
    dataset = trainer.train_dataset
    seen = []
    collate = trainer.data_collator

    def spy(items):
        items = list(items)
        if "train" in items[0]["image_id"]:
            seen.extend((int(dataset._epoch), item["ref_id"], item["sent_id"]) for item in items)
        return collate(items)

    trainer.data_collator = spy
    trainer.train()
    return sorted(seen)


def test_sentences_depend_on_seed_epoch_and_index_alone(cache, tmp_path) -> None:
    first = sentences_read(cache, tmp_path / "a", per_device_train_batch_size=8)
    second = sentences_read(cache, tmp_path / "b", per_device_train_batch_size=2, total_train_batch_size=8)
    assert first == second
    by_epoch = [{ref: sent for epoch, ref, sent in first if epoch == number} for number in (0, 1)]
    common = by_epoch[0].keys() & by_epoch[1].keys()
    assert {epoch for epoch, _, _ in first} == {0, 1} and len(first) == 32
    assert any(by_epoch[0][ref] != by_epoch[1][ref] for ref in common)


def test_the_order_of_referents_depends_on_seed_and_epoch_and_drops_the_rest() -> None:
    sampler = EpochSampler(19, batch_size=8, seed=1)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    again = EpochSampler(19, batch_size=8, seed=1)
    assert list(again) == orders[0] != orders[1]
    assert list(EpochSampler(19, batch_size=8, seed=2)) != orders[0]
    assert all(len(set(order)) == len(sampler) == 16 and max(order) < 19 for order in orders)
    with pytest.raises(ValueError, match="19 referents, fewer than one batch of 20"):
        EpochSampler(19, batch_size=20, seed=1)


def test_a_loss_weight_follows_its_schedule() -> None:
    schedule = LossWeightSchedule("boundary", 0.2, 1.0, start_fraction=0.25, end_fraction=0.75)
    fractions = (0, 0.25, 0.5, 0.75, 1)
    assert [schedule.weight_at(fraction) for fraction in fractions] == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    assert LossWeightSchedule("focal", 0.0, 1.0, 0.5, 0.5).weight_at(0.5) == 1.0
    with pytest.raises(ValueError, match="start_fraction <= end_fraction"):
        LossWeightSchedule("boundary", 0.0, 1.0, 0.5, 0.4)


def test_a_schedule_of_a_loss_that_the_model_lacks_is_an_error(cache, tmp_path) -> None:
    trainer = build_trainer(
        tmp_path, cache, **EIGHT_AT_ONCE, loss_weight_schedules={"boundry": {"start": 0, "end": 1}}
    )
    with pytest.raises(ValueError, match="no loss 'boundry', only dice"):
        trainer.train()


def test_a_finished_training_loads_its_best_checkpoint(cache, tmp_path, capsys) -> None:
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "save_total_limit": 5}
    options = {**EIGHT_AT_ONCE, **often, **best, "greater_is_better": True, "max_steps": 3}
    first = build_trainer(tmp_path, cache, **options)
    first.train()
    expected = {name: value.clone() for name, value in first.model.state_dict().items()}
    assert Path(first.state.best_model_checkpoint).name != "checkpoint-3"  # the largest loss is an early one
    again = build_trainer(tmp_path, cache, **options)
    result = again.train(resume_from_checkpoint=True)
    assert result.global_step == 3 and "nothing is trained" in capsys.readouterr().out
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    (Path(first.state.best_model_checkpoint) / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match="the best checkpoint of this training, is not complete"):
        build_trainer(tmp_path, cache, **options).train(resume_from_checkpoint=True)


class StopAfter(TrainerCallback):
    """Ends the training after a step, as if it had been killed once its checkpoint was written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop = state.global_step == self.step


def test_a_moved_run_goes_on_and_finds_its_best_checkpoint(cache, tmp_path) -> None:
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "save_total_limit": 2}
    options = {**EIGHT_AT_ONCE, **often, **best, "greater_is_better": True, "max_steps": 4}
    before, after = tmp_path / "before", tmp_path / "after"
    build_trainer(before, cache, **options, callbacks=(StopAfter(2),)).train()
    before.rename(after)
    state = json.loads((after / "checkpoint-2" / "trainer_state.json").read_text())
    assert (state["best_global_step"], state["best_model_checkpoint"]) == (1, None)
    trainer = build_trainer(after, cache, **options)
    trainer.train(resume_from_checkpoint=True)
    assert {path.name for path in after.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-4"}
    expected = AutoModelForReferringSegmentation.from_pretrained(after / "checkpoint-1").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


def test_weights_with_a_hole_are_not_loaded(tmp_path) -> None:
    model = tiny_lavt()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decoder.classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"lacks the weight decoder\.classifier\.weight"):
        load_weights(model, tmp_path)


def test_the_learning_rate_drops_at_its_epochs(cache, tmp_path) -> None:
    drops = {"learning_rate_drops": [1, 1.5], "lr_scheduler_type": "constant"}
    trainer = build_trainer(tmp_path, cache, per_device_train_batch_size=4, max_steps=12, **drops)
    trainer.train()
    steps = len(trainer.train_dataset) // 4
    rates = {entry["step"]: entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry}
    for step, rate in rates.items():
        passed = (step - 1 >= steps) + (step - 1 >= round(1.5 * steps))
        assert rate == pytest.approx(1e-3 * 0.1**passed)
    assert trainer.describe_training()["optimizer"].endswith("a tenth after epochs [1, 1.5]")
    with pytest.raises(ValueError, match="knows no warm-up"):
        RefSegTrainingArguments(str(tmp_path), use_cpu=True, learning_rate_drops=[1], warmup_steps=5)


def test_an_absent_target_is_an_empty_prediction(cache, tmp_path) -> None:
    trainer = build_trainer(tmp_path, cache)
    labels = torch.ones(4, 64, 64, dtype=torch.long)
    logits = torch.ones(4, 64, 64)
    output = ReferringSegmentationOutput(
        loss=torch.tensor(0.0),
        loss_components={"dice": torch.tensor(0.0)},
        logits=logits,
        presence_logits=torch.tensor([1.0, -1.0, 0.0, 2.0]),
    )
    trainer.model.forward = lambda **inputs: output
    trainer.prediction_step(trainer.model, {"mask_labels": labels}, prediction_loss_only=False)
    assert trainer.eval_counts[0].tolist() == [[4096, 4096], [0, 4096], [0, 4096], [4096, 4096]]


class Damage(TrainerCallback):
    """Does something to the model before a step."""

    def __init__(self, step: int, damage: Callable[[torch.nn.Module], object]) -> None:
        self.step, self.damage = step, damage

    def on_step_begin(self, args, state, control, model, **kwargs) -> None:
        if state.global_step == self.step - 1:
            self.damage(model)


def forget(model: torch.nn.Module) -> None:
    model.decoder.classifier.bias.data[1] = torch.nan


def be_certain(model: torch.nn.Module) -> None:
    """Infinite logits, but a loss as before."""
    model.register_forward_hook(lambda module, inputs, outputs: setattr(outputs, "logits", outputs.logits + torch.inf))


@pytest.mark.parametrize(
    ("damage", "losses"), [(forget, "loss nan, dice nan"), (be_certain, r"loss 0\.\d+, dice 0\.\d+")]
)
def test_training_stops_at_the_step_whose_answers_are_not_finite(cache, tmp_path, damage, losses) -> None:
    trainer = build_trainer(
        tmp_path, cache, callbacks=(Damage(3, damage),), save_strategy="steps", save_steps=1, save_total_limit=9
    )
    with pytest.raises(ValueError, match=rf"Step 3: the loss or the logits are NaN or infinite \({losses}\)"):
        trainer.train()
    assert [path.name for path in sorted(tmp_path.glob("checkpoint-*"))] == ["checkpoint-1", "checkpoint-2"]
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


def test_an_evaluation_in_training_stops_where_answers_are_not_finite(cache, tmp_path) -> None:
    trainer = build_trainer(tmp_path, cache)
    trainer.model.decoder.classifier.bias.data[1] = torch.nan
    trainer.state.global_step = 7
    with pytest.raises(ValueError, match=r"^Evaluation after step 7: .* of the model's logits are NaN or infinite"):
        trainer.evaluate()


@pytest.mark.parametrize(("seconds", "early"), [(math.inf, []), (0.0, ["step-1.png"])])
def test_pictures_show_truth_and_prediction_soon_and_at_evaluations_and_checkpoints(
    cache, tmp_path, monkeypatch, seconds: float, early: list[str]
) -> None:
    monkeypatch.setattr(callbacks, "FIRST_PICTURES", seconds)
    dataset = SentenceExamples(
        load_refseg("refshapes", train_size=6, val_size=3, test_size=1, image_size=64, cache_dir=str(cache))["val"]
    )
    pictures = PredictionPictures(build_processor(), [dataset[0], dataset[7]])
    trainer = build_trainer(
        tmp_path,
        cache,
        **EIGHT_AT_ONCE,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=3,
        callbacks=(pictures,),
    )
    trainer.train()
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in drawn] == [*early, "step-2.png", "step-3.png"]
    with Image.open(drawn[0]) as two_rows:
        assert two_rows.height > 2 * 240 and two_rows.width > 4 * 240


def test_the_batch_of_all_processes_sets_the_accumulation(tmp_path) -> None:
    common = {"output_dir": str(tmp_path), "use_cpu": True, "per_device_train_batch_size": 8}
    assert RefSegTrainingArguments(**common, total_train_batch_size=32).gradient_accumulation_steps == 4
    for total in (4, 20):
        with pytest.raises(ValueError, match=f"total_train_batch_size is {total}, which is no multiple of the 8"):
            RefSegTrainingArguments(**common, total_train_batch_size=total)


@pytest.mark.parametrize(
    "name", ["learning_rate", "max_grad_norm", "num_train_epochs", "weight_decay", "warmup_steps"]
)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_before_training(tmp_path, name: str, number: float) -> None:
    with pytest.raises(ValueError, match=f"{name} has to be a finite number, got {number}"):
        RefSegTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: number})


def test_a_negative_number_of_steps_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="max_steps is -5"):
        RefSegTrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=-5)


def test_arguments_that_would_change_the_evaluation_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="dataloader_drop_last would drop sentences"):
        RefSegTrainingArguments(output_dir=str(tmp_path), dataloader_drop_last=True)
    with pytest.raises(ValueError, match="drawn from seed and epoch"):
        RefSegTrainingArguments(output_dir=str(tmp_path), train_sampling_strategy="sequential")


def test_the_defaults_are_the_papers_recipe_and_another_schedule_keeps_its_own_options(tmp_path) -> None:
    arguments = RefSegTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (arguments.learning_rate, arguments.weight_decay, arguments.num_train_epochs) == (5e-5, 0.01, 40)
    assert arguments.lr_scheduler_kwargs == {"lr_end": 0.0, "power": 0.9}
    assert (arguments.max_grad_norm, arguments.warmup_steps) == (0, 0)
    cosine = RefSegTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_type="cosine")
    assert not cosine.lr_scheduler_kwargs


@pytest.mark.parametrize("name", ["per_device_train_batch_size", "per_device_eval_batch_size"])
def test_a_batch_holds_something(name: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"{name} has to be 1 at least, got 0"):
        RefSegTrainingArguments(str(tmp_path), use_cpu=True, **{name: 0})
