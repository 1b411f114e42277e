"""benchmarks.plain_baseline: what its MLP sees, what it learns, and what the command line prints."""

import re

import torch
from sklearn.decomposition import PCA

from benchmarks import plain_baseline
from benchmarks.plain_baseline import answer, main, principal_components, train_mlp


def test_principal_components_are_those_of_a_known_library(monkeypatch):
    monkeypatch.setattr(plain_baseline, "COMPONENTS", 3)
    values = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([5, 4, 3, 2, 1.0])
    fitted = [i < 30 for i in range(40)]
    found = principal_components(values, fitted)
    expected = torch.tensor(PCA(3).fit(values[:30]).transform(values))
    expected /= expected[:30].square().mean().sqrt()
    torch.testing.assert_close(found.abs(), expected.abs().float(), atol=1e-4, rtol=1e-3)  # signs are free


def test_mlp_learns_what_image_and_question_say_together_and_a_seed_decides():
    features = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    labels = (features[:, 0] * features[:, 1] > 0).long()
    mlp = train_mlp(features, labels, 2, seed=1)
    found = answer(mlp, features, {0: "no", 1: "yes"})
    right = [text == ("no", "yes")[label] for text, label in zip(found, labels.tolist(), strict=True)]
    assert sum(right) > 240
    again, other = train_mlp(features, labels, 2, seed=1), train_mlp(features, labels, 2, seed=2)
    assert torch.equal(again[0].weight, mlp[0].weight)
    assert not torch.equal(other[0].weight, mlp[0].weight)


def figures(text: str) -> list[float]:
    """Exact Match of each seed."""
    return [float(value) for value in re.findall(r"^seed \d+: EM ([\d.]+)", text, re.MULTILINE)]


def test_command_line_prints_figures_of_three_seeds_and_their_mean(phantoms, capsys, monkeypatch):
    monkeypatch.setattr(plain_baseline, "EPOCHS", 10)
    main(["--dataset", str(phantoms)])
    plain = capsys.readouterr().out
    found = figures(plain)
    assert len(found) == 3
    assert f"EM, mean and standard deviation: {sum(found) / 3:.2f} ± " in plain
    assert min(found) > 40
    main(["--dataset", str(phantoms), "--box_questions"])
    more = capsys.readouterr().out
    asked, asked_more = (int(re.match(r"[\d,]+", text).group().replace(",", "")) for text in (plain, more))
    assert asked_more > asked
    assert "validation questions" in more
