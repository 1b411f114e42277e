"""processing.sampling: which rows come when."""

from itertools import groupby

import numpy as np
import pytest

from processing.sampling import ImageGroupedSampler

IMAGES = np.arange(50) % 7  # 7 or 8 questions each


@pytest.mark.parametrize("size", [1, 4, 100])
def test_every_row_comes_once_in_groups_of_one_image(size):
    order = list(ImageGroupedSampler(IMAGES, size, seed=0))
    assert sorted(order) == list(range(50))
    assert len(ImageGroupedSampler(IMAGES, size, seed=0)) == 50
    runs = [len(list(run)) for _, run in groupby(order, key=IMAGES.__getitem__)]
    assert len(runs) <= 7 * -(-8 // size)
    if size == 100:
        assert sorted(runs) == [7] * 6 + [8]


def test_order_is_that_of_seed_and_epoch():
    sampler = ImageGroupedSampler(IMAGES, 4, seed=3)
    first = list(sampler)
    assert list(ImageGroupedSampler(IMAGES, 4, seed=3)) == first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(ImageGroupedSampler(IMAGES, 4, seed=9)) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_questions_of_an_image_are_grouped_anew_each_epoch():
    sampler = ImageGroupedSampler(np.zeros(8), 4, seed=0)
    groups = set()
    for epoch in range(5):
        sampler.set_epoch(epoch)
        groups.add(frozenset(list(sampler)[:4]))
    assert len(groups) > 2
