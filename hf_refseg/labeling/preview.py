"""Some rows of files of labels as a picture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from PIL import Image

from ..data.preview import preview_dataset
from ..visualization import spread

PREVIEW_ROWS = 12


def preview_labels(files: Sequence[Path], title: str) -> Image.Image:
    """A picture as `preview_dataset` draws it, of rows evenly spread over Parquet files; few others are read."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from datasets import Dataset

    groups = [
        (file, group, metadata.row_group(group).num_rows)
        for file in files
        for metadata in [parquet.read_metadata(file)]
        for group in range(metadata.num_row_groups)
    ]
    ends = list(accumulate(rows for _, _, rows in groups))
    tables = []
    for row in spread(range(ends[-1]), PREVIEW_ROWS):
        index = bisect_right(ends, row)
        file, group, rows = groups[index]
        with parquet.ParquetFile(file) as opened:
            tables.append(opened.read_row_group(group).slice(row - (ends[index] - rows), 1))
    return preview_dataset(Dataset(pa.concat_tables(tables)), PREVIEW_ROWS, title=f"{title}, {ends[-1]:,} rows")
