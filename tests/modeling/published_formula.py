"""The relevance of Chefer, Gur, Wolf 2021 (https://arxiv.org/abs/2103.15679) in plain NumPy."""

import numpy as np


def published_cross_relevance(layers: list[list[np.ndarray]]) -> np.ndarray:
    """Relevance of image tokens to queries by eqs. 6 to 10.

    Args:
        layers: A_bar of each to the queries and, where it has one, to the image.
    """
    queries = len(layers[0][0])
    own, image = np.eye(queries), np.zeros(layers[0][1].shape)
    for to_queries, *crossing in layers:
        own, image = own + to_queries @ own, image + to_queries @ image
        if crossing:
            normalized = np.eye(queries) + (own - np.eye(queries)) / (own - np.eye(queries)).sum(1, keepdims=True)
            image = image + normalized.T @ crossing[0] @ np.eye(len(image[0]))
    return image
