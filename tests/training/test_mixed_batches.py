"""Joint training: each step sees images alone or clips alone, in an order that depends on seed and epoch alone."""

from collections import Counter

import pytest
import torch
from torch.utils.data import Dataset

from hf_refseg.training.mixed_batches import MixedCollator, MixedExamples, MixedSampler


class Numbered(Dataset):
    """Items that tell their number, their kind and the epoch."""

    def __init__(self, length: int, kind: str) -> None:
        self.length, self.kind, self.epoch = length, kind, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return {self.kind: index, "epoch": self.epoch}


def mixed(images: int = 7, clips: int = 10, share: float = 0.5) -> MixedExamples:
    return MixedExamples(Numbered(images, "image"), Numbered(clips, "frames"), share)


def batches(sampler: MixedSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return torch.tensor(list(sampler)).view(-1, sampler.batch_size).tolist()


def test_images_come_first_and_both_sets_learn_of_the_epoch() -> None:
    examples = mixed()
    examples.set_epoch(3)
    assert len(examples) == 17
    assert examples[6] == {"image": 6, "epoch": 3} and examples[7] == {"frames": 0, "epoch": 3}
    assert examples[-1] == {"frames": 9, "epoch": 3}
    with pytest.raises(IndexError):
        examples[17]


@pytest.mark.parametrize(
    ("share", "image_batches"), [(0.5, 5), (0.25, 2), (0.8, 20), (0.01, 1)], ids=["half", "quarter", "most", "least"]
)
def test_each_batch_is_of_one_kind_and_the_share_is_that_of_the_steps(share: float, image_batches: int) -> None:
    sampler = MixedSampler(mixed(share=share), batch_size=2, seed=5)
    for epoch in range(3):
        drawn = batches(sampler, epoch)
        kinds = Counter(frozenset(index < 7 for index in batch) for batch in drawn)
        assert kinds == {frozenset([True]): image_batches, frozenset([False]): 5}
        assert len(sampler) == 2 * len(drawn)
        assert sorted(index for batch in drawn for index in batch if index >= 7) == list(range(7, 17))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [batches(MixedSampler(mixed(), 2, seed), epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    sampler = MixedSampler(mixed(), 2, seed=1)
    # Also where epochs were not gone through before, as in a run that resumes.
    assert batches(sampler, 1) == orders[1] and batches(sampler, 0) == orders[0]
    assert orders[0] != orders[1] and orders[0] != orders[2]
    kinds = [[batch[0] < 7 for batch in order] for order in orders]
    assert kinds[0] != kinds[1] or kinds[0] != kinds[2]


def test_no_image_comes_again_before_all_have_come() -> None:
    sampler = MixedSampler(mixed(images=7, clips=4, share=0.5), batch_size=2, seed=0)
    shown = [index for epoch in range(7) for batch in batches(sampler, epoch) for index in batch if index < 7]
    assert len(shown) == 28
    passes = [shown[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(each) == list(range(7)) for each in passes)
    assert passes[0] != passes[1]


def test_clips_that_fill_no_batch_are_left_out() -> None:
    drawn = batches(MixedSampler(mixed(clips=11), batch_size=4, seed=0), epoch=0)
    assert sum(index >= 7 for batch in drawn for index in batch) == 8


@pytest.mark.parametrize(
    ("images", "clips", "kind"), [(3, 10, "3 referents of images"), (7, 3, "3 referents of videos")]
)
def test_less_than_a_batch_of_a_kind_is_an_error(images: int, clips: int, kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind}, fewer than one batch of 4"):
        MixedSampler(mixed(images, clips), batch_size=4, seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="image_share has to lie between 0 and 1"):
        mixed(share=share)


def test_each_kind_has_its_own_collator() -> None:
    collator = MixedCollator(images=lambda items: ("images", len(items)), clips=lambda items: ("clips", len(items)))
    examples = mixed()
    assert collator(examples[index] for index in (0, 1)) == ("images", 2)
    assert collator(examples[index] for index in (7, 8, 9)) == ("clips", 3)
