"""A folder that systems fill with labels, shard by shard, in any number of processes; then it is a data set."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..data.prepared import preview_name
from ..data.rows import DataFormatError, require_literal_name
from ..evaluation.systems import System
from ..files import PARTIAL, begin_folder, require_writable, write_json, write_picture, write_whole
from ..messages import BadInputError, message_of, name_text
from .card import build_label_card, describe_counts
from .images import ImagesToLabel
from .preview import preview_labels
from .rows import LabelRules
from .shards import LabelShard, ShardTally, write_shard

MANIFEST = ".label.json"
# What a finished folder says of how it was made.
FILE = "labels.json"
LOCKS = ".locks"
FORMAT = 1
# A killed run loses the work on one shard of each process.
SHARD_IMAGES = 100


@dataclass(frozen=True)
class LabelReport:
    """What became of all images.

    Attributes:
        folder: the finished data set.
        counts: of each split how many there are of `COUNTED`.
        problems: what was wrong with images, a line for each.
    """

    folder: Path
    counts: Mapping[str, Mapping[str, int]]
    problems: Sequence[str]


class Labeling:
    """Labels of images in a folder: `begin` it, write its shards, `finish` it.

    A shard is a fixed run of images, and its file depends on nothing else: whichever process writes it, it is the
    same, byte by byte. A process takes a shard that is neither there nor claimed by another one, so that any number
    of them may work on a folder, and one that was killed costs its shard alone. Pickled, a labeling goes to other
    processes.

    Args:
        images: what is labeled.
        folder: a new or empty folder, or one that was begun with the same.
        made_by: what answers depend on: the name of the "system", its "revision", its options.
        rules: which answers become rows.
        shard_images: how many images a shard has.

    Raises:
        ValueError: a number out of range, or the folder lies within that of the images.
        DataFormatError: the folder has a name that `datasets` cannot store.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        images: ImagesToLabel,
        folder: str | PathLike[str],
        made_by: Mapping[str, Any],
        *,
        rules: LabelRules | None = None,
        shard_images: int = SHARD_IMAGES,
    ) -> None:
        self.images, self.folder, self.made_by = images, Path(folder).resolve(), dict(made_by)
        self.rules, self.shard_images = rules or LabelRules(), shard_images
        if shard_images < 1:
            raise ValueError(f"A shard has {shard_images} images; choose at least 1.")
        if images.folder is not None and self.folder.is_relative_to(images.folder):
            raise ValueError(
                f"{self.folder} lies within {images.folder}, whose images are labeled: choose another folder."
            )
        require_literal_name(folder)
        require_writable(folder)

    def begin(self) -> None:
        """Makes the folder, or goes on with it; several processes may do so at once.

        Raises:
            DataFormatError: it holds other files, or was begun with other images, texts or options.
            OSError: it cannot be made or written.
        """
        content = {
            "format": FORMAT,
            **self.made_by,
            **asdict(self.rules),
            "images": self.images.name,
            "ids and texts": self.images.fingerprint(),
            "shard_images": self.shard_images,
        }
        before, now = begin_folder(self.folder / MANIFEST, content, DataFormatError)
        if before or now:
            raise DataFormatError(
                f"{self.folder} was begun with other inputs or options (different: "
                f"{', '.join(dict.fromkeys((*now, *before)))}). Choose another output folder, or delete this one."
            )
        (self.folder / "data").mkdir(exist_ok=True)

    def shards(self) -> list[LabelShard]:
        """All shards, in order."""
        found = []
        for split, count in self.images.counts.items():
            starts = range(0, count, self.shard_images)
            for index, start in enumerate(starts):
                path = self.folder / "data" / f"{split}-{index:05d}-of-{len(starts):05d}.parquet"
                found.append(LabelShard(split, range(start, min(start + self.shard_images, count)), path))
        return found

    def is_done(self, shard: LabelShard) -> bool:
        """Whether a shard is there, and what could not be read of its images still cannot.

        Raises:
            DataFormatError: its file is damaged.
        """
        if not shard.path.exists():
            return False
        return all(self._reading_error(shard, place) for place in ShardTally.load(shard.path).unreadable)

    def write(
        self,
        system: System,
        shard: LabelShard,
        *,
        num_workers: int = 0,
        on_image: Callable[[], object] = lambda: None,
    ) -> bool:
        """Writes a shard, unless it is done or another process is writing it; arguments and errors of `write_shard`.

        Returns whether this call wrote it.
        """
        if self.is_done(shard):
            return False
        with self._claiming(shard) as is_mine:
            # Another process may have had it in the meantime.
            if not is_mine or self.is_done(shard):
                return False
            write_shard(system, self.images, shard, self.rules, num_workers=num_workers, on_image=on_image)
            return True

    def write_all(self, system: System, *, num_workers: int = 0, progress: bool = True) -> None:
        """Writes every shard that is not done, and that no other process is writing; errors of `write_shard`."""
        shards, total, passed = self.shards(), sum(self.images.counts.values()), 0
        with tqdm(total=total, desc="label", unit="image", disable=not progress) as bar:
            for shard in shards:
                self.write(system, shard, num_workers=num_workers, on_image=bar.update)
                passed += len(shard.places)
                bar.update(passed - bar.n)
        # What a process had claimed that was ended meanwhile is free by now.
        while any(self.write(system, shard, num_workers=num_workers) for shard in self.unfinished()):
            pass

    def unfinished(self) -> list[LabelShard]:
        """The shards that are not there."""
        return [shard for shard in self.shards() if not shard.path.exists()]

    def finish(self) -> LabelReport:
        """Writes counts, pictures and card once all shards are there; several processes may do so at once.

        Raises:
            ValueError: a shard is not there.
            BadInputError: no answer became a row.
            DataFormatError: a shard is damaged, or was written with another threshold than others.
            OutputError: the disk is full.
        """
        if missing := self.unfinished():
            raise ValueError(f"{missing[0].path} is not there: write all shards of {self.folder} first.")
        tallies = {shard: ShardTally.load(shard.path) for shard in self.shards()}
        counts: dict[str, Counter[str]] = {split: Counter() for split in self.images.counts}
        for shard, tally in tallies.items():
            counts[shard.split].update(tally.counts)
        described = {split: numbers for split, numbers in counts.items() if numbers["labeled"] + numbers["no_target"]}
        if not described:
            raise BadInputError(
                f"No answer became a row of {self.folder}: {describe_counts(sum(counts.values(), Counter()))}. Choose "
                "other texts, a lower threshold or minimum score, or another system, and a new folder."
            )
        made_by = {**self.made_by, "threshold": self._threshold(tallies), **asdict(self.rules)}
        for split in described:
            files = [shard.path for shard in tallies if shard.split == split]
            write_picture(self.folder / preview_name(split), preview_labels(files, f"{self.images.name} {split}"))
        write_json(self.folder / FILE, {"images": self.images.name, **made_by, "counts": counts})
        card = build_label_card(self.images, made_by, described)
        write_whole(self.folder / "README.md", lambda partial: partial.write_text(card, encoding="utf-8"))
        shutil.rmtree(self.folder / LOCKS, ignore_errors=True)
        return LabelReport(self.folder, counts, list(self._problems(tallies)))

    def _threshold(self, tallies: Mapping[LabelShard, ShardTally]) -> float | None:
        first, *others = dict.fromkeys(tally.threshold for tally in tallies.values())
        if others:
            raise DataFormatError(
                f"{self.folder} holds masks of several thresholds ({first} and {others[0]}). Delete it, and start "
                "again with one system."
            )
        return first

    def _problems(self, tallies: Mapping[LabelShard, ShardTally]) -> Iterator[str]:
        """What was wrong with images; where files lie is in no file of the folder, so they are looked at again."""
        for shard, tally in tallies.items():
            for place in tally.unreadable:
                error = self._reading_error(shard, place)
                name = name_text(self.images.image_id(shard.split, place))
                yield message_of(error) if error else f"{name} can be read by now: start the same command again."
            for image_id, reason in tally.failed.items():
                yield f"{name_text(image_id)}: {reason}"

    def _reading_error(self, shard: LabelShard, place: int) -> Exception | None:
        try:
            self.images.read(shard.split, place)
        except (OSError, ValueError) as error:
            return error
        return None

    @contextmanager
    def _claiming(self, shard: LabelShard) -> Iterator[bool]:
        """A context in which a shard is this process's, if no other one has it; what a killed one left is removed."""
        # Where another process has finished the folder meanwhile, it is gone.
        (self.folder / LOCKS).mkdir(exist_ok=True)
        lock = FileLock(self.folder / LOCKS / f"{shard.path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            for partial in shard.path.parent.glob(f"{shard.path.name}.*{PARTIAL}"):
                partial.unlink()
            yield True
        finally:
            lock.release()
