"""Scores of predicted masks: protocols on pixel counts, and streaming evaluation of a model on a data set."""

from importlib import import_module

from .protocols import (
    Protocol,
    bootstrap_intervals,
    count_answer,
    evaluate_masks,
    get_protocol,
    mask_counts,
    per_sample_iou,
    scores_from_counts,
)

# The evaluator needs torch and datasets; whoever only scores masks does not wait for them.
_EVALUATOR_NAMES = [
    "EvaluationResult",
    "evaluate_model",
    "predict_cases",
    "select_worst_and_best",
    "with_shuffled_sentences",
]

__all__ = [
    "EvaluationResult",
    "Protocol",
    "bootstrap_intervals",
    "count_answer",
    "evaluate_masks",
    "evaluate_model",
    "get_protocol",
    "mask_counts",
    "per_sample_iou",
    "predict_cases",
    "scores_from_counts",
    "select_worst_and_best",
    "with_shuffled_sentences",
]


def __getattr__(name: str):
    if name in _EVALUATOR_NAMES:
        return getattr(import_module(".evaluator", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
