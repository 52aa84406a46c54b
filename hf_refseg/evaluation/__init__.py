"""Scores of predicted masks: protocols for images and videos, and streaming evaluation of any system on a data set."""

from importlib import import_module
from typing import TYPE_CHECKING

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
)

# The evaluators need torch and datasets; whoever only scores masks does not wait for them.
_EVALUATOR_MODULES = {
    "EvaluationResult": ".results",
    "ImageEvaluationResult": ".image_scoring",
    "VideoEvaluationResult": ".video_scoring",
    "Answer": ".systems",
    "AnswerRecorder": ".prediction_recorder",
    "AnswerSource": ".systems",
    "Comparison": ".comparison",
    "GroupComparison": ".comparison",
    "GroupScores": ".groups",
    "ModelSystem": ".systems",
    "PredictionError": ".prediction_lines",
    "PredictionSource": ".predictions",
    "PredictionsHeader": ".prediction_lines",
    "ProbeScores": ".probes",
    "RecordingSource": ".prediction_recorder",
    "ScoreDifference": ".comparison",
    "System": ".systems",
    "SystemSource": ".systems",
    "break_down": ".groups",
    "compare_groups": ".comparison",
    "compare_records": ".comparison",
    "describe_sentences": ".groups",
    "evaluate_answers": ".evaluator",
    "evaluate_model": ".evaluator",
    "evaluate_predictions": ".predictions",
    "evaluate_probes": ".probes",
    "evaluate_system": ".evaluator",
    "find_cases": ".evaluator",
    "header_for": ".prediction_recorder",
    "intervals_of_records": ".record_scores",
    "open_predictions": ".prediction_files",
    "predict_cases": ".evaluator",
    "same_sentences": ".comparison",
    "scores_of_records": ".record_scores",
    "select_worst_and_best": ".evaluator",
    "video_intervals": ".record_scores",
    "video_scores": ".record_scores",
    "with_mirrored_images": ".probes",
    "with_shuffled_sentences": ".shuffling",
    "with_typos": ".probes",
    "without_head_nouns": ".probes",
    "writing_predictions": ".prediction_files",
}

# What type checkers and editors read.
if TYPE_CHECKING:
    from .comparison import Comparison as Comparison
    from .comparison import GroupComparison as GroupComparison
    from .comparison import ScoreDifference as ScoreDifference
    from .comparison import compare_groups as compare_groups
    from .comparison import compare_records as compare_records
    from .comparison import same_sentences as same_sentences
    from .evaluator import evaluate_answers as evaluate_answers
    from .evaluator import evaluate_model as evaluate_model
    from .evaluator import evaluate_system as evaluate_system
    from .evaluator import find_cases as find_cases
    from .evaluator import predict_cases as predict_cases
    from .evaluator import select_worst_and_best as select_worst_and_best
    from .groups import GroupScores as GroupScores
    from .groups import break_down as break_down
    from .groups import describe_sentences as describe_sentences
    from .image_scoring import ImageEvaluationResult as ImageEvaluationResult
    from .prediction_files import open_predictions as open_predictions
    from .prediction_files import writing_predictions as writing_predictions
    from .prediction_lines import PredictionError as PredictionError
    from .prediction_lines import PredictionsHeader as PredictionsHeader
    from .prediction_recorder import AnswerRecorder as AnswerRecorder
    from .prediction_recorder import RecordingSource as RecordingSource
    from .prediction_recorder import header_for as header_for
    from .predictions import PredictionSource as PredictionSource
    from .predictions import evaluate_predictions as evaluate_predictions
    from .probes import ProbeScores as ProbeScores
    from .probes import evaluate_probes as evaluate_probes
    from .probes import with_mirrored_images as with_mirrored_images
    from .probes import with_typos as with_typos
    from .probes import without_head_nouns as without_head_nouns
    from .record_scores import intervals_of_records as intervals_of_records
    from .record_scores import scores_of_records as scores_of_records
    from .record_scores import video_intervals as video_intervals
    from .record_scores import video_scores as video_scores
    from .results import EvaluationResult as EvaluationResult
    from .shuffling import with_shuffled_sentences as with_shuffled_sentences
    from .systems import Answer as Answer
    from .systems import AnswerSource as AnswerSource
    from .systems import ModelSystem as ModelSystem
    from .systems import System as System
    from .systems import SystemSource as SystemSource
    from .video_scoring import VideoEvaluationResult as VideoEvaluationResult

__all__ = [
    "VIDEO_PROTOCOLS",
    "Answer",
    "AnswerRecorder",
    "AnswerSource",
    "Comparison",
    "EvaluationResult",
    "GroupComparison",
    "GroupScores",
    "ImageEvaluationResult",
    "ModelSystem",
    "ObjectMatcher",
    "PredictionError",
    "PredictionSource",
    "PredictionsHeader",
    "ProbeScores",
    "Protocol",
    "RecordingSource",
    "ScoreDifference",
    "ScoredMask",
    "SequenceScores",
    "System",
    "SystemSource",
    "VideoEvaluationResult",
    "bootstrap_intervals",
    "break_down",
    "coco_statistics",
    "compare_groups",
    "compare_records",
    "contour_accuracy",
    "count_answer",
    "davis_intervals",
    "davis_scores",
    "describe_sentences",
    "evaluate_answers",
    "evaluate_masks",
    "evaluate_model",
    "evaluate_predictions",
    "evaluate_probes",
    "evaluate_system",
    "find_cases",
    "get_protocol",
    "header_for",
    "intervals_of_records",
    "label_pixels",
    "mask_counts",
    "open_predictions",
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
    "with_mirrored_images",
    "with_shuffled_sentences",
    "with_typos",
    "without_head_nouns",
    "writing_predictions",
]


def __getattr__(name: str):
    if name in _EVALUATOR_MODULES:
        return getattr(import_module(_EVALUATOR_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
