"""Labels images with Ray Data, on all machines of a cluster: label_with_ray.py SYSTEM IMAGES OUTPUT --texts TEXT ...

The folder is that of `hf-refseg label`, which see: the same rows, and a run that was cut off goes on. It, the images
and a system in a folder lie where all machines see them. Needs Ray: pip install "ray[data]".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import ray

from hf_refseg.labeling import Labeling, LabelReport, find_images
from hf_refseg.systems import load_system
from hf_refseg.systems.identity import identify_system


class Labeler:
    """An actor: loads the system once, and writes one file of labels after the other.

    Args:
        system: folder or Hub id of a system.
        labeling: the folder that is filled.
    """

    def __init__(self, system: str, labeling: Labeling) -> None:
        self.system, self.labeling = load_system(system), labeling
        self.shards = labeling.shards()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = self.shards[row["id"]]
        return {"file": shard.path.name, "written": self.labeling.write(self.system, shard)}


def label(
    system: str, images: str, output: str, texts: Sequence[str] | None, *, actors: int, gpus: float
) -> LabelReport:
    """Labels what `IMAGES` of `hf-refseg label` means.

    Args:
        system: folder or Hub id of a system.
        images: folder of photographs, or a data set.
        output: a new or empty folder, or one that was cut off.
        texts: what each image is asked for; None = the sentences of a data set.
        actors: how many processes answer.
        gpus: of each of them; two may share one.
    """
    labeling = Labeling(find_images(images, texts), output, identify_system(system))
    labeling.begin()
    shards = ray.data.range(len(labeling.shards()), override_num_blocks=len(labeling.shards()))
    written = shards.map(
        Labeler,
        fn_constructor_args=(system, labeling),
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    for row in written.iter_rows():
        print(f"{row['file']}  {'written' if row['written'] else 'was there'}")
    return labeling.finish()


def main(arguments: Sequence[str]) -> int:
    """Runs the script with these arguments; returns 1 where images could not be read."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("system")
    parser.add_argument("images")
    parser.add_argument("output")
    parser.add_argument("--texts", nargs="+")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=1, help="of each actor; 0 = none")
    given = parser.parse_args(arguments)
    report = label(given.system, given.images, given.output, given.texts, actors=given.actors, gpus=given.gpus)
    print(report.folder)
    for problem in report.problems:
        print(f"Error: {problem}", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
