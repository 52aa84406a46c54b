"""Fine-tunes a small LAVT on 17 real photographs until it knows them; what `make demo-real` runs.

It shows that the path of real data is right: original annotations, preparation, training, evaluation, pictures. It
does not show a good model: what is scored are the very sentences it was trained on.

The photographs are a small copy of RefCOCO and RefCOCOg in the layout of the originals: the folder `refcoco_mini` in
the one that the environment variable HF_REFSEG_REAL_DATA names.
"""

from __future__ import annotations

import os
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import BertConfig, BertTokenizer, SwinConfig, TrainerCallback, set_seed

from hf_refseg import LavtConfig, LavtForReferringSegmentation, RefSegImageProcessor, RefSegProcessor, load_refseg
from hf_refseg.data.examples import ReferentExamples, SentenceExamples
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.vocabulary import with_words_of
from hf_refseg.evaluation import evaluate_model, predict_cases
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.new_models import SPECIAL_TOKENS
from hf_refseg.training.trainer import RefSegTrainer
from hf_refseg.visualization import draw_comparison

DATA = Path(os.environ.get("HF_REFSEG_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "refcoco_mini"
OUTPUT = Path("runs/demo-real")
IMAGE_SIZE = 160
GOAL = 85.0


class StopAtGoal(TrainerCallback):
    """Ends the training once the oIoU of an evaluation reaches `goal` percent."""

    def __init__(self, goal: float) -> None:
        self.goal = goal

    def on_evaluate(self, args, state, control, metrics: dict[str, float], **kwargs) -> None:
        control.should_training_stop = metrics["eval_oIoU"] >= self.goal


def prepare_photographs() -> Dataset:
    """All rows of both data sets, prepared as Parquet and read back."""
    parts = []
    for name, split_by in (("refcoco", "unc"), ("refcocog", "google")):
        folder = prepare_dataset(name, DATA, OUTPUT / "data" / name, split_by=split_by)
        for rows in load_refseg(str(folder)).values():
            # Both data sets count their referents from 0.
            ref_ids = [f"{name}-{ref_id}" for ref_id in rows["ref_id"]]
            numbered = rows.remove_columns("ref_id").add_column("ref_id", ref_ids)
            parts.append(numbered.select_columns(rows.column_names))
    return concatenate_datasets(parts)


def build_model_and_processor(rows: Dataset) -> tuple[LavtForReferringSegmentation, RefSegProcessor]:
    """A small model from random weights, with a token for each word of the sentences."""
    sentences = (sentence["raw"] for row in rows["sentences"] for sentence in row)
    special = BertTokenizer(vocab={token: index for index, token in enumerate(SPECIAL_TOKENS)})
    tokenizer = with_words_of(special, sentences)
    config = LavtConfig(
        backbone_config=SwinConfig(
            image_size=IMAGE_SIZE,
            embed_dim=32,
            depths=[2, 2, 4, 2],
            num_heads=[2, 4, 4, 8],
            window_size=5,
            drop_path_rate=0.0,
            use_absolute_embeddings=True,
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        decoder_hidden_size=64,
        loss_type="dice_focal",
    )
    image_processor = RefSegImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return LavtForReferringSegmentation(config), RefSegProcessor(image_processor, tokenizer)


def main() -> None:
    if not DATA.is_dir():
        print(
            f"Skipped: there is no folder {DATA}. Put refcoco_mini (RefCOCO's layout, 17 photographs) there, or name "
            "the folder that holds it in HF_REFSEG_REAL_DATA."
        )
        return
    rows = prepare_photographs()
    set_seed(0)
    model, processor = build_model_and_processor(rows)
    arguments = RefSegTrainingArguments(
        output_dir=str(OUTPUT),
        num_train_epochs=400,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        warmup_steps=50,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=50,
        save_strategy="no",
        logging_steps=50,
        report_to="none",
        seed=0,
    )
    trainer = RefSegTrainer(
        model=model,
        args=arguments,
        processing_class=processor,
        train_dataset=ReferentExamples(rows, seed=0),
        eval_dataset=SentenceExamples(rows),
        callbacks=[StopAtGoal(GOAL)],
    )
    trained = trainer.train()
    trainer.save_model()
    result = evaluate_model(model, processor, rows, "original")
    result.to_json(OUTPUT / "metrics.json")
    chosen = result.records[:: max(1, len(result.records) // 10)]
    draw_comparison(predict_cases(model, processor, rows, chosen)).save(OUTPUT / "predictions.png")
    trainer.create_model_card(
        metrics={("refcoco_mini", "train", "original"): result.metrics},
        datasets=["refcoco_mini"],
        pictures=[OUTPUT / "predictions.png"],
        limitations="It knows the 17 photographs it was trained on and nothing else: an example of the path from "
        "original annotations to a saved model, not a useful one.",
    )
    print(
        f"{result.sentences} sentences of {result.images} photographs, after {trained.global_step} steps and "
        f"{trained.metrics['train_runtime']:.0f} s: oIoU {result.metrics['oIoU']:.2f} on the training sentences "
        "themselves. This shows that the path of real data is right, not that the model is good."
    )
    print(f"Pictures: {OUTPUT / 'predictions.png'}")


if __name__ == "__main__":
    main()
