"""Trains a tiny LAVT on a few scenes of RefShapes, as a function or as a program; for tests of the trainer."""

from __future__ import annotations

import argparse
import json
import os
import signal
from functools import cache
from pathlib import Path

import torch
from datasets import DatasetDict
from fresh_process import WITHOUT_ONEDNN
from fsdp_on_cpus import as_on_accelerators, launched_environment
from model_copies import ModelAsBuilt
from transformers import BertConfig, BertTokenizer, SwinConfig, TrainerCallback

from hf_refseg import LavtConfig, LavtForReferringSegmentation, RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.examples import ReferentExamples, SentenceExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.datasets_scripts.refshapes import REFSHAPES_WORDS
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.trainer import RefSegTrainer

# A checkpoint after the last step, as FSDP writes it.
SAVED_IN_THE_END = {"save_strategy": "steps", "save_steps": 4}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *REFSHAPES_WORDS]


def build_processor(mask_threshold: float = 0.5) -> RefSegProcessor:
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    image_processor = RefSegImageProcessor(size={"height": 64, "width": 64}, mask_threshold=mask_threshold)
    return RefSegProcessor(image_processor, tokenizer)


def build_model(dropout: float = 0.0, loss_type: str = "dice") -> LavtForReferringSegmentation:
    """The same random weights each time."""
    return _as_built(dropout, loss_type).copy()


@cache
def _as_built(dropout: float, loss_type: str) -> ModelAsBuilt:
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 1],
        window_size=4,
        drop_path_rate=dropout,
        hidden_dropout_prob=dropout,
    )
    text = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config = LavtConfig(backbone_config=backbone, text_config=text, fusion_num_heads=[1, 1], loss_type=loss_type)
    model = LavtForReferringSegmentation(config)
    with torch.no_grad():
        # Predictions that differ from place to place, so that scores are not all 0.
        model.decoder.classifier.weight.mul_(20)
        model.decoder.classifier.bias[1] += 2
    return ModelAsBuilt(model)


def freeze_batch_statistics(model: torch.nn.Module) -> None:
    """Keeps batch norms in evaluation mode: statistics of a batch depend on its size."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module


class KillItself(TrainerCallback):
    """Ends the process by SIGKILL after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def build_trainer(
    output_dir: str | Path,
    cache_dir: str | Path,
    dropout: float = 0.0,
    loss_type: str = "dice",
    kill_at_step: int | None = None,
    mask_threshold: float = 0.5,
    callbacks: tuple[TrainerCallback, ...] = (),
    data: DatasetDict | None = None,
    **arguments,
) -> RefSegTrainer:
    """On `data`, by default RefShapes; arguments beyond those here are those of `RefSegTrainingArguments`."""
    if data is None:
        data = load_refseg("refshapes", train_size=6, val_size=3, test_size=1, image_size=64, cache_dir=str(cache_dir))
    model = build_model(dropout, loss_type)
    if dropout == 0:
        freeze_batch_statistics(model)
    defaults = {
        "use_cpu": True,
        "learning_rate": 1e-3,
        # A gradient that is zero but for rounding would otherwise become a step as long as any other.
        "adam_epsilon": 1e-2,
        "logging_steps": 1,
        "max_steps": 4,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_eval_batch_size": 4,
        "pictures": 0,
    }
    return RefSegTrainer(
        model=model,
        args=RefSegTrainingArguments(output_dir=str(output_dir), **{**defaults, **arguments}),
        processing_class=build_processor(mask_threshold),
        train_dataset=ReferentExamples(data["train"], seed=3),
        eval_dataset=SentenceExamples(data["val"]),
        callbacks=[*callbacks, *([KillItself(kill_at_step)] if kill_at_step else [])],
    )


def train_and_save(output_dir: Path, cache_dir: str, arguments: dict) -> None:
    """Trains, evaluates, and saves the weights and the log into `output_dir/final`."""
    trainer = build_trainer(output_dir, cache_dir, **arguments)
    trainer.train()
    trainer.evaluate()
    trainer.gather_model()
    if trainer.is_world_process_zero():
        trainer.save_model(output_dir / "final")
        (output_dir / "final" / "log.json").write_text(json.dumps(trainer.state.log_history))


def main() -> None:
    """Trains into OUTPUT; JSON gives further arguments. With `--fsdp` once more, into OUTPUT/fsdp, by FSDP."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("cache_dir")
    parser.add_argument("arguments", type=json.loads)
    parser.add_argument("--fsdp", type=Path, help="the configuration file of accelerate")
    options = parser.parse_args()
    if WITHOUT_ONEDNN in os.environ:
        torch.backends.mkldnn.set_flags(False)
    train_and_save(Path(options.output_dir), options.cache_dir, options.arguments)
    if options.fsdp:
        arguments = {**options.arguments, **SAVED_IN_THE_END}
        os.environ |= launched_environment(options.fsdp)
        with as_on_accelerators():
            train_and_save(Path(options.output_dir, "fsdp"), options.cache_dir, arguments)


if __name__ == "__main__":
    main()
