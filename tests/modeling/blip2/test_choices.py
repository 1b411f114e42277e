"""BLIP-2 answers among a row's own choices, beside rows without choices, as each option alone is scored."""

import datasets
import pytest
import torch

from modeling.asking.predictor import Predictor
from modeling.blip2.family import load_predictor, read_answers
from modeling.parts.model_files import ModelFiles
from modeling.writing.candidates import AnswerTrie, trie_of_choices
from tests.modeling.blip2.tiny_runs import stock_inputs, untrained

OPTIONS = {  # by the number of the row; two begin alike, and some are of one token more
    0: ["lung", "lungs and heart", "liver", "left lung"],
    2: ["yes", "no"],
    3: ["MRI", "CT", "X-ray"],
    5: ["a heart of more words than the others have", "x"],
}


def stock_likelihood(tiny, row, option):
    with torch.no_grad():
        loss = tiny.stock(**stock_inputs(tiny, row, option)).loss
    return -loss.item() * len(tiny.collator.answer_ids(option))


def test_each_option_of_each_row_has_the_likelihood_of_a_plain_forward_of_its_own(tiny, rows):
    """All rows in one pass, of different numbers and lengths of options."""
    asked = [row | {"choices": OPTIONS[i]} for i, row in enumerate(rows) if i in OPTIONS]
    batch = tiny.collator.prompts(asked)
    batch.pop("row")
    tries = [trie_of_choices(tiny.collator, row, 0, None) for row in asked]
    scores = tiny.model.score(tries, **batch)
    assert scores.shape == (4, 4)
    for row, found in zip(asked, scores, strict=True):
        expected = [stock_likelihood(tiny, row, option) for option in row["choices"]]
        assert found[: len(expected)].tolist() == pytest.approx(expected, rel=1e-5)
        assert found[len(expected) :].tolist() == [-torch.inf] * (4 - len(expected))


def test_options_beyond_the_places_of_the_language_model_are_cut(tiny):
    collator = tiny.collator
    whole = len(collator.answer_ids("lungs and heart"))
    collator.max_length = 10
    row = {"choices": ["lungs and heart", "x"]}
    assert trie_of_choices(collator, row, 7, None).sequences.shape == (2, min(3, whole))
    assert trie_of_choices(collator, row, 12, None).sequences.shape == (2, 1)
    assert trie_of_choices(collator, {"choices": None}, 7, None) is None


def with_choices(dataset: datasets.DatasetDict) -> datasets.DatasetDict:
    """Sixteen rows of each split; of those of validation, every other has choices, its answer among them."""
    made = {}
    for split in ("train", "validation"):
        rows = dataset[split].select(range(16)).to_list()
        for i, row in enumerate(rows):
            row["choices"] = [row["answer"], f"no {row['answer']}", "kidney"][: 2 + i % 3] if i % 2 else None
        features = dataset[split].features | {"choices": datasets.List(datasets.Value("string"))}
        made[split] = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    return datasets.DatasetDict(made)


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("candidates", [None, "train"])
def test_an_evaluation_mixes_rows_with_and_without_choices(bases, dataset, tmp_path, kind, candidates):
    """Rows without choices are answered as without any, and the Predictor answers all as the evaluation does."""
    mixed = with_choices(dataset)
    batch = 1 if kind == "t5" else 5  # batches of one kind of row alone bring what mixed ones do
    options = {"answer_candidates": candidates, "max_new_tokens": 6, "per_device_eval_batch_size": batch}
    trainer = untrained(bases[kind], tmp_path, mixed, **options)
    output = trainer.predict(mixed["validation"])
    tokens, _, numbers, probabilities = output.predictions
    assert (tokens.shape, numbers.shape, probabilities.shape) == ((16, 6), (16,), (16,))
    answers = read_answers(output, trainer)
    plain = untrained(bases[kind], tmp_path, mixed.remove_columns("choices"), **options)
    free = read_answers(plain.predict(mixed["validation"].remove_columns("choices")), plain)
    right = 0
    for row in mixed["validation"]:
        answer, confidence = answers[row["row"]]
        if row["choices"]:
            assert answer in row["choices"]
            assert 1 / len(row["choices"]) <= confidence <= 1
            right += answer == row["answer"]
        else:
            assert (answer, confidence) == (free[row["row"]][0], pytest.approx(free[row["row"]][1], rel=1e-4))
    assert output.metrics["test_choice_accuracy"] == pytest.approx(100 * right / 8)
    assert output.metrics["test_choice_total"] == 8
    assert ("test_generated_exact_match" in output.metrics) == (candidates is not None)

    trainer.save_model()
    predictor = load_predictor(ModelFiles(str(tmp_path), tmp_path), torch.device("cpu"), torch.float32)
    rows = mixed["validation"]
    asked = Predictor(predictor).answer_batch(list(rows["image"]), list(rows["question"]), 3, list(rows["choices"]))
    assert [answer.answer for answer in asked] == [answers[row["row"]][0] for row in rows]
    expected = [answers[row["row"]][1] for row in rows]
    assert [answer.confidence for answer in asked] == pytest.approx(expected, rel=1e-3)
    for answer, row in zip(asked, rows, strict=True):
        if row["choices"]:
            ranked = {answer.answer: answer.confidence} | {o.answer: o.confidence for o in answer.alternatives}
            assert sorted(ranked) == sorted(row["choices"])
            assert sum(ranked.values()) == pytest.approx(1, abs=1e-5)


def test_options_cut_to_one_token_have_its_likelihood(tiny, rows):
    batch = tiny.collator.prompts(rows[:1])
    batch.pop("row")
    inputs = stock_inputs(tiny, rows[0])
    if tiny.kind == "t5":
        inputs["labels"] = torch.tensor([[5]])
    else:
        prompt = int((inputs["labels"] == -100).sum())
        inputs = {name: tensor[:, : prompt + 1] if tensor.ndim == 2 else tensor for name, tensor in inputs.items()}
        inputs["input_ids"][0, -1] = inputs["labels"][0, -1] = 5
    with torch.no_grad():
        expected = -tiny.stock(**inputs).loss.item()
    assert tiny.model.score([AnswerTrie([[5], [7]])], **batch)[0, 0].item() == pytest.approx(expected, rel=1e-5)
