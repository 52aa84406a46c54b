"""Draws sentences of each group of words and of none, and changed ones, to be read: how often the rules are wrong.

    python benchmarks/wording.py SENTENCES.txt... --seed 0 --count 50

A file has one sentence a line. Printed are the share of each group, sentences in it and sentences that are not; then
those that each probe can change, before and after it, and sentences that it cannot change.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from hf_refseg.evaluation.wording import (
    groups_of_text,
    mirror_text,
    misspell,
    split_words,
    without_head_noun,
    wording_groups,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=50, help="sentences to draw of each kind")
    parser.add_argument("--category", default="person", help="what the sentences are about, for their head nouns")
    arguments = parser.parse_args()
    sentences = [line for path in arguments.files for line in path.read_text(encoding="utf-8").splitlines() if line]

    def show(name: str, inside: Sequence[str], outside: Sequence[str]) -> None:
        print(f"{name}: {len(inside)} of {len(sentences)} sentences, {100 * len(inside) / len(sentences):.1f} %")
        for title, drawn_from in (("in", inside), ("not in", outside)):
            generator = random.Random(f"{arguments.seed}-{name}-{title}")
            print(f"-- {title} {name}")
            print("\n".join(generator.sample(drawn_from, min(arguments.count, len(drawn_from)))))

    groups = [groups_of_text(sentence) for sentence in sentences]
    for name in wording_groups():
        show(
            name,
            [sentence for sentence, found in zip(sentences, groups, strict=True) if name in found],
            [sentence for sentence, found in zip(sentences, groups, strict=True) if name not in found],
        )
    known = {word.token for sentence in sentences for word in split_words(sentence)}
    changes = {
        "mirrored": mirror_text,
        "without noun": lambda text: without_head_noun(text, arguments.category),
        "misspelled": lambda text: misspell(text, random.Random(f"{arguments.seed}-{text}"), known),
    }
    for name, change in changes.items():
        changed = [(sentence, change(sentence)) for sentence in sentences]
        show(
            name,
            [f"{before} -> {after}" for before, after in changed if after is not None],
            [before for before, after in changed if after is None],
        )


if __name__ == "__main__":
    main()
