"""benchmarks.vlm_training: all ways but the conversation train the same model on the same rows to the same losses."""

import pytest
import torch

from benchmarks.vlm_variants import VARIANTS, untrained
from processing.data import load_vqa_dataset
from tests.support.tiny_vlms import MAKERS, TINY


@pytest.mark.parametrize("architecture", MAKERS)
def test_losses_and_answers_are_those_of_the_plain_recipe(phantoms, architecture):
    rows = load_vqa_dataset(str(phantoms))["train"].select([*range(4), *range(20, 23)]).to_list()
    losses, answers = {}, {}
    for name, side_class in VARIANTS.items():
        side = side_class(*untrained(architecture, TINY, rows), rows)
        optimizer = torch.optim.SGD([p for p in side.model.parameters() if p.requires_grad], lr=0.1)
        losses[name] = []
        for _ in range(2):
            loss = side.model(**side.batch(rows)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(loss.item())
        with torch.no_grad():
            answers[name] = [answer[: answer.index(1)] if 1 in answer else answer for answer in side.generate(rows)]
    for name in ("kept", "project"):
        assert losses[name] == pytest.approx(losses["plain"], rel=1e-5)
        assert answers[name] == answers["plain"]
    assert abs(losses["conversation"][0] / losses["plain"][0] - 1) > 1e-3
