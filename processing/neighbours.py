"""Near-identical images: the slices of one body beside each other, and one picture cut or compressed in another way.

Two images are near neighbours if their thumbnails, 32 x 32 grey values, correlate above `THRESHOLD`. On SLAKE, this
holds for 39 of the 96 validation images and some training image, mostly slices of the same scan. Of phantom patients,
whose truth is known, 0.95 finds all slices 5 mm apart, 0.98 misses 7 %, and at 0.90 most pairs are of two patients
(docs/neighbours.md).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from processing.storage import cache_dir, write_atomically

SIDE = 32  # of a thumbnail, in pixels
THRESHOLD = 0.95  # of Pearson's correlation
LOW_FREQUENCIES = 8  # of each axis, by which pairs are sifted
BLOCK = 4096  # images compared at once with as many others
ROUNDING = 1e-4  # of correlations in single precision
REMEMBERED_FROM = 10**8  # comparisons, which take a few seconds
PROGRESS_AFTER = 5  # seconds until a progress bar is shown


def thumbnail(image: Image.Image) -> bytes:
    """The grey values of an image, averaged to 32 x 32 and row by row, a byte each."""
    return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def clusters(thumbnails: Sequence[bytes]) -> np.ndarray:
    """The number of each image's cluster, ``(N,)``: near neighbours are in one, and so are their own neighbours."""
    vectors = _unit_vectors(thumbnails)
    count = len(thumbnails)
    pairs = np.zeros((2, 0), dtype=np.int64)
    for block in _near_pairs(vectors, vectors):
        pairs = _spanning_forest(np.hstack([pairs, block]), count)
    return _components(pairs, count)


def has_neighbour(thumbnails: Sequence[bytes], others: Sequence[bytes]) -> np.ndarray:
    """Whether each image has a near neighbour among other images, ``(N,)``. Of many it is remembered on disk."""
    is_long = len(thumbnails) * len(others) >= REMEMBERED_FROM
    digest = hashlib.sha256(b"%d" % len(thumbnails))
    for thumbnail in chain(thumbnails, others) if is_long else ():
        digest.update(thumbnail)
    file = cache_dir() / "neighbours" / f"{THRESHOLD}-{digest.hexdigest()[:32]}"
    with suppress(OSError):
        if is_long and len(kept := file.read_bytes()) == len(thumbnails):
            return np.frombuffer(kept, dtype=bool)
    found = np.zeros(len(thumbnails), dtype=bool)
    blocks = _near_pairs(_unit_vectors(thumbnails), _unit_vectors(others))
    total = -(-len(thumbnails) // BLOCK) * -(-len(others) // BLOCK)
    for pairs in tqdm(blocks, "Near neighbours", total, unit="block", disable=not is_long):
        found[pairs[0]] = True
    with suppress(OSError):
        if is_long:
            write_atomically(file, found.tobytes())
    return found


def near_pairs(thumbnails: Sequence[bytes], others: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """For each image the one among other images that correlates best with it, near or not.

    Returns:
        Its number, ``(N,)``, and the correlation, ``(N,)``; of equally good ones the first.

    Raises:
        ValueError: there are no others.
    """
    if not len(others):
        raise ValueError("There are no images to compare with.")
    ones, vectors = _unit_vectors(thumbnails), _unit_vectors(others)
    best = np.zeros(len(ones), dtype=np.int64)
    correlation = np.full(len(ones), -np.inf, dtype=np.float32)
    blocks = [(i, j) for i in range(0, len(ones), BLOCK) for j in range(0, len(vectors), BLOCK)]
    for i, j in tqdm(blocks, "Comparing images", unit="block", delay=PROGRESS_AFTER):
        rows = slice(i, i + BLOCK)
        products = ones[rows] @ vectors[j : j + BLOCK].T
        found = products.argmax(axis=1)
        values = products[np.arange(len(found)), found]
        better = values > correlation[rows]
        best[rows][better] = j + found[better]
        correlation[rows][better] = values[better]
    return best, correlation.clip(-1, 1)


def _unit_vectors(thumbnails: Sequence[bytes]) -> np.ndarray:
    """Vectors of length 1 whose products are correlations, ``(N, 1024)``; zero for an image of one grey value."""
    grey = np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, SIDE * SIDE).astype(np.float32)
    grey -= grey.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(grey, axis=1, keepdims=True)
    return np.divide(grey, lengths, out=np.zeros_like(grey), where=lengths > 0)


def _sieve(vectors: np.ndarray) -> np.ndarray:
    """The low frequencies of each vector's cosine transform, ``(N, 64)``, which never lie further apart than they do.

    The transform is orthonormal, so leaving out coordinates can only shorten a distance.
    """
    squares = vectors.reshape(-1, SIDE, SIDE)
    low = [
        dctn(squares[start : start + BLOCK], axes=(1, 2), norm="ortho")[:, :LOW_FREQUENCIES, :LOW_FREQUENCIES]
        for start in range(0, len(squares), BLOCK)
    ]
    return np.concatenate(low).reshape(len(vectors), -1) if low else np.zeros((0, LOW_FREQUENCIES**2), np.float32)


def _near_pairs(ones: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of numbers ``(2, pairs)`` whose correlation is above the threshold, block by block.

    Of one set with itself, each pair comes once.
    """
    same = ones is others
    low_ones = _sieve(ones)
    low_others = low_ones if same else _sieve(others)
    # |a - b|^2 = 2 - 2 a.b for vectors of length 1, and the sieve's distance is not above it.
    farthest = 2 - 2 * THRESHOLD + ROUNDING
    squares_ones, squares_others = ((low**2).sum(axis=1) for low in (low_ones, low_others))
    for i in range(0, len(ones), BLOCK):
        for j in range(i if same else 0, len(others), BLOCK):
            rows, columns = slice(i, i + BLOCK), slice(j, j + BLOCK)
            products = low_ones[rows] @ low_others[columns].T
            products -= (squares_ones[rows, None] - farthest) / 2
            near = products >= squares_others[columns] / 2
            maybe_rows, maybe_columns = i + np.flatnonzero(near.any(axis=1)), j + np.flatnonzero(near.any(axis=0))
            correlations = ones[maybe_rows] @ others[maybe_columns].T
            left, right = np.nonzero(correlations > THRESHOLD)
            pairs = np.stack([maybe_rows[left], maybe_columns[right]])
            yield pairs[:, pairs[0] < pairs[1]] if same else pairs


def _components(pairs: np.ndarray, count: int) -> np.ndarray:
    graph = coo_array((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _spanning_forest(pairs: np.ndarray, count: int) -> np.ndarray:
    """As few pairs that connect the same images, so that memory stays in proportion to the images."""
    if pairs.shape[1] <= count:
        return pairs
    labels = _components(pairs, count)
    first = np.full(labels.max() + 1, -1)
    first[labels[::-1]] = np.arange(count)[::-1]
    return np.stack([first[labels], np.arange(count)])
