"""Files of results as `hf-refseg evaluate` writes them, made of numbers drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hf_refseg.evaluation import intervals_of_records, scores_of_records
from hf_refseg.evaluation.video import DAVIS_MEASURES, SequenceScores, a2d_mean_iou


def make_records(seed: int, protocol: str = "original", groups: int = 6) -> list[dict[str, Any]]:
    """Two sentences about each image or video."""
    generator, records = np.random.default_rng(seed), []
    for group in range(groups):
        for sentence in range(2):
            ids = {"ref_id": f"{group}", "sent_id": f"{sentence}", "text": f"thing {sentence} in {group}"}
            if protocol == "davis":
                measures = SequenceScores(*generator.random((2, 4)).tolist()).measures()
                video = {"video_id": f"{group}", **ids, "annotator": f"{sentence}", "frames": 4}
                records.append({**video, **{name: measures[name] for name in DAVIS_MEASURES}})
            elif protocol == "a2d":
                unions = generator.integers(1, 100, 3).tolist()
                hits = [int(generator.integers(union + 1)) for union in unions]
                iou = a2d_mean_iou(list(zip(hits, unions, strict=True)))
                video = {"video_id": f"{group}", **ids, "annotator": "", "frames": 3, "iou": iou}
                records.append({**video, "intersections": hits, "unions": unions})
            else:
                hit = int(generator.integers(101))
                counts = {"intersection": hit, "union": 100, "present": True, "iou": hit / 100}
                records.append({"image_id": f"{group}", **ids, "no_target": False, **counts})
    return records


def make_result(seed: int = 0, protocol: str = "original", **changes: Any) -> dict[str, Any]:
    """What the file of a result holds; `changes` replace some of it."""
    records = changes.pop("records", None) or make_records(seed, protocol)
    return {
        **{"model": f"runs/model-{seed}", "dataset": "refcoco", "split": "val", "split_by": "unc"},
        **{"dtype": "float32", "shuffled_sentences": False, "max_images": None},
        "metrics": scores_of_records(records, protocol),
        "intervals": intervals_of_records(records, protocol, samples=20),
        **{"protocol": protocol, "sentences": len(records), "seconds": 1.0, "images": 6, "records": records},
        **changes,
    }


def write_result(path: Path, seed: int = 0, protocol: str = "original", **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_result(seed, protocol, **changes)))
    return path
