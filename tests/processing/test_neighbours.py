"""processing.neighbours: near-identical images, and groups of them."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from processing import neighbours
from processing.data import load_vqa_dataset
from processing.images import open_image
from processing.neighbours import THRESHOLD, clusters, has_neighbour, thumbnail


def picture(seed, size=(96, 96)):
    """Smooth blobs, another picture for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def thumbnails(*pictures):
    return [thumbnail(image) for image in pictures]


def of_correlation(correlation, vector, seed=0):
    """A thumbnail that correlates so with that of a vector, up to the rounding to whole grey values."""
    other = np.random.default_rng(seed).normal(size=vector.shape)
    vector, other = (v - v.mean() for v in (vector, other))
    vector /= np.linalg.norm(vector)
    other -= vector * (vector @ other)
    mixed = correlation * vector + np.sqrt(1 - correlation**2) * other / np.linalg.norm(other)
    return as_thumbnail(mixed)


def as_thumbnail(vector):
    return np.round(128 + 100 * vector / np.abs(vector).max()).astype(np.uint8).tobytes()


def test_a_thumbnail_has_the_mean_grey_of_each_part():
    checks = np.kron(np.arange(32 * 32).reshape(32, 32) % 251, np.ones((3, 2))).astype(np.uint8)
    assert np.frombuffer(thumbnail(Image.fromarray(checks)), np.uint8).tolist() == [i % 251 for i in range(1024)]


def test_another_size_contrast_or_compression_is_near_and_another_picture_is_not(tmp_path):
    image = picture(1)
    image.save(tmp_path / "a.jpg", quality=40)
    near = [image.resize((240, 180)), ImageEnhance.Contrast(image).enhance(0.7), open_image(tmp_path / "a.jpg")]
    assert clusters(thumbnails(image, *near)).tolist() == [0, 0, 0, 0]
    far = [picture(2), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("RGB", (9, 9), (70, 70, 70))]
    assert clusters(thumbnails(image, *far, far[-1])).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("correlation", "near"), [(THRESHOLD - 0.01, False), (THRESHOLD + 0.01, True)])
def test_the_threshold_is_of_the_correlation_of_all_pixels(correlation, near):
    vector = np.random.default_rng(1).normal(size=1024)
    pair = [as_thumbnail(vector - vector.mean()), of_correlation(correlation, vector)]
    measured = np.corrcoef([np.frombuffer(one, np.uint8) for one in pair])[0, 1]
    assert abs(measured - correlation) < 0.002
    assert has_neighbour(pair[:1], pair[1:]).tolist() == [near]


def test_sifting_by_low_frequencies_in_blocks_finds_what_all_pairs_give(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    generator = np.random.default_rng(0)
    bases = [np.asarray(picture(seed, (32, 32)).convert("L"), dtype=float).ravel() for seed in range(5)]
    mixed = [bases[i % 5] + generator.normal(0, 12 * (i // 5), 1024) for i in range(40)]
    small = [np.clip(one, 0, 255).astype(np.uint8).tobytes() for one in mixed]
    correlations = np.corrcoef([np.frombuffer(one, np.uint8) for one in small])
    near = correlations > THRESHOLD
    assert has_neighbour(small[:15], small[15:]).tolist() == near[:15, 15:].any(axis=1).tolist()
    reachable = np.linalg.matrix_power(near.astype(float), 40) > 0
    labels = clusters(small)
    assert (labels[:, None] == labels).tolist() == reachable.tolist()
    assert 5 <= labels.max() < 39


def test_nothing_has_no_neighbours():
    assert clusters([]).tolist() == []
    assert has_neighbour([], thumbnails(picture(1))).tolist() == []
    assert has_neighbour(thumbnails(picture(1)), []).tolist() == [False]


def test_slake_has_39_validation_images_with_a_near_neighbour_in_training(slake):
    dataset = load_vqa_dataset(str(slake))
    train, validation = ([thumbnail(open_image(path)) for path in sorted(set(dataset[split]["image"]))]
                         for split in ("train", "validation"))  # fmt: skip
    assert (len(train), len(validation)) == (450, 96)
    assert has_neighbour(validation, train).sum() == 39
    assert clusters(train).max() + 1 == 313


def test_what_was_found_among_many_images_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path))
    monkeypatch.setattr(neighbours, "REMEMBERED_FROM", 6)
    ones, others = thumbnails(picture(0), picture(1), picture(2)), thumbnails(picture(1), picture(5))
    assert has_neighbour(ones, others).tolist() == [False, True, False]
    monkeypatch.setattr(neighbours, "_near_pairs", lambda *_: pytest.fail("they were compared again"))
    assert has_neighbour(ones, others).tolist() == [False, True, False]
    with pytest.raises(pytest.fail.Exception):
        has_neighbour(ones[::-1], others)
