"""One Parquet file of a prepared data set: its pictures verified, then embedded. It imports no torch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole
from ..messages import name_text
from ..modeling.picture_files_refseg import LargePictureError, PictureError, decode_rgb, open_picture, picture_faults
from .rows import DataFormatError, holds_videos

if TYPE_CHECKING:
    from datasets import Dataset

# A row group is what a writer holds in memory and a reader streams at once.
IMAGE_GROUP_ROWS, VIDEO_GROUP_ROWS = 100, 4


def write_shard(shard: Dataset, path: Path) -> int:
    """Checks the images of a shard and writes it; returns the number of its rows."""
    import pyarrow.parquet as parquet
    from datasets.table import embed_table_storage

    previous = None
    for row in stored_rows(shard):
        # Rows of one image follow each other.
        source = None if "frames" in row else (row["image"]["path"], row["mask"]["size"])
        if source is None or source[0] is None or source != previous:
            verify_row(row)
        previous = source
    group_rows = VIDEO_GROUP_ROWS if holds_videos(shard) else IMAGE_GROUP_ROWS

    def write(partial: Path) -> None:
        with parquet.ParquetWriter(partial, shard.features.arrow_schema) as writer:
            for table in shard.with_format("arrow").iter(batch_size=group_rows):
                # The rows hold the paths of the images.
                writer.write_table(embed_table_storage(table))

    write_whole(path, write)
    return len(shard)


def stored_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows with images as `{"path", "bytes"}`: neither decoded nor, as a cast of frames would, copied."""
    for table in rows.with_format("arrow").iter(batch_size=1):
        yield from table.to_pylist()


def verify_row(row: Mapping[str, Any]) -> None:
    """Verify the image, or all frames, of one of `stored_rows`; frames without a mask have any size."""
    if "frames" not in row:
        verify_image(row["image"], row["mask"]["size"], f"ref {name_text(row['ref_id'])}")
        return
    sizes = {
        number: mask["size"]
        for referent in row["referents"]
        for number, mask in zip(referent["annotated_frames"], referent["masks"], strict=True)
    }
    for number, (image, name) in enumerate(zip(row["frames"], row["frame_names"], strict=True)):
        verify_image(image, sizes.get(number), f"video {name_text(row['video_id'])}, frame {name_text(name)}")


def verify_image(image: Mapping[str, Any], size: Sequence[int] | None, where: str) -> None:
    """Decode an image `{"path", "bytes"}` wholly; raises `DataFormatError` unless it is sound and of `size` (H, W)."""
    path = image["path"] if image["bytes"] is None else "the embedded image"
    try:
        file = Path(path) if image["bytes"] is None else io.BytesIO(image["bytes"])
        # As training will need it: the stored pixels, which masks outline, whatever their EXIF orientation.
        with picture_faults(), open_picture(file) as picture:
            decoded = decode_rgb(picture)
    except FileNotFoundError as error:
        raise DataFormatError(f"{path} ({where}) does not exist. Download it.") from error
    except LargePictureError as error:
        raise DataFormatError(f"{path} ({where}) is {error}. Replace it with the original.") from error
    except PictureError as error:
        raise DataFormatError(
            f"{path} ({where}) is {error}. Download it again, then run prepare again: finished shards are kept."
        ) from error
    if size is not None and decoded.size != (size[1], size[0]):
        raise DataFormatError(
            f"{path} ({where}) has {decoded.width} x {decoded.height} pixels, its mask {size[1]} x {size[0]}. "
            "Replace it with the original, not a resized or rotated copy."
        )
