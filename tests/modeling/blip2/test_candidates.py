"""modeling.writing.candidates: likelihoods of many answers at once."""

import pytest
import torch

from modeling.writing.candidates import AnswerTrie
from tests.modeling.blip2.tiny_runs import stock_inputs


def test_candidates_get_the_likelihood_that_the_stock_class_gives_each(tiny, rows, dataset):
    collator = tiny.collator
    candidates = sorted(set(dataset["train"]["answer"]))[:15]
    trie = AnswerTrie([collator.answer_ids(answer) for answer in candidates])
    batch = collator.prompts(rows)
    batch.pop("row")
    scores = tiny.model.score([trie] * len(rows), **batch)
    assert scores.shape == (len(rows), len(candidates))
    for row, row_scores in zip(rows[::3], scores[::3], strict=True):
        for answer, score in zip(candidates, row_scores, strict=True):
            with torch.no_grad():
                loss = tiny.stock(**stock_inputs(tiny, row, answer)).loss
            assert score.item() == pytest.approx(-loss.item() * len(collator.answer_ids(answer)), rel=1e-4)


def test_answers_that_begin_alike_share_nodes():
    trie = AnswerTrie([[5, 6, 1], [5, 7, 1], [5, 1]])
    assert trie.tokens.tolist() == [5, 6, 1, 7, 1, 1]
    assert trie.depths.tolist() == [0, 1, 2, 1, 2, 1]
    assert trie.inner.tolist() == [0, 1, 3]
    logits = torch.randn(4, 10)
    log_p = logits.log_softmax(-1)
    expected = [
        log_p[0, 5] + log_p[1, 6] + log_p[2, 1],
        log_p[0, 5] + log_p[1, 7] + log_p[3, 1],
        log_p[0, 5] + log_p[1, 1],
    ]
    torch.testing.assert_close(trie.likelihoods(logits), torch.stack(expected))
