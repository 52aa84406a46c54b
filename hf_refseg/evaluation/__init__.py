"""Scores of predicted masks: protocols for images and videos, and streaming evaluation of any system on a data set."""

from importlib import import_module

from .comparison import Comparison, ScoreDifference, compare_records, same_sentences
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
from .record_scores import intervals_of_records, scores_of_records
from .video import (
    VIDEO_PROTOCOLS,
    ObjectMatcher,
    ScoredMask,
    SequenceScores,
    coco_statistics,
    contour_accuracy,
    davis_intervals,
    davis_scores,
    label_pixels,
    region_similarity,
    score_frames_a2d,
    score_frames_davis,
    sequence_statistics,
    video_intervals,
    video_scores,
)

# The evaluators need torch and datasets; whoever only scores masks does not wait for them.
_EVALUATOR_MODULES = {
    "EvaluationResult": ".results",
    "ImageEvaluationResult": ".image_scoring",
    "VideoEvaluationResult": ".video_scoring",
    "Answer": ".systems",
    "AnswerSource": ".systems",
    "ModelSystem": ".systems",
    "System": ".systems",
    "SystemSource": ".systems",
    "evaluate_answers": ".evaluator",
    "evaluate_model": ".evaluator",
    "evaluate_system": ".evaluator",
    "find_cases": ".evaluator",
    "predict_cases": ".evaluator",
    "select_worst_and_best": ".evaluator",
    "with_shuffled_sentences": ".shuffling",
}

__all__ = [
    "VIDEO_PROTOCOLS",
    "Answer",
    "AnswerSource",
    "Comparison",
    "EvaluationResult",
    "ImageEvaluationResult",
    "ModelSystem",
    "ObjectMatcher",
    "Protocol",
    "ScoreDifference",
    "ScoredMask",
    "SequenceScores",
    "System",
    "SystemSource",
    "VideoEvaluationResult",
    "bootstrap_intervals",
    "coco_statistics",
    "compare_records",
    "contour_accuracy",
    "count_answer",
    "davis_intervals",
    "davis_scores",
    "evaluate_answers",
    "evaluate_masks",
    "evaluate_model",
    "evaluate_system",
    "find_cases",
    "get_protocol",
    "intervals_of_records",
    "label_pixels",
    "mask_counts",
    "per_sample_iou",
    "predict_cases",
    "region_similarity",
    "same_sentences",
    "score_frames_a2d",
    "score_frames_davis",
    "scores_from_counts",
    "scores_of_records",
    "select_worst_and_best",
    "sequence_statistics",
    "video_intervals",
    "video_scores",
    "with_shuffled_sentences",
]


def __getattr__(name: str):
    if name in _EVALUATOR_MODULES:
        return getattr(import_module(_EVALUATOR_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
