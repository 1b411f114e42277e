"""modeling.blip2.network and decoding: exact against the stock class, on tiny models of three kinds."""

from collections import Counter

import pytest
import torch
from transformers import GenerationConfig

from tests.modeling.blip2.tiny_runs import stock_inputs


def test_loss_and_gradients_of_shared_prefixes_equal_one_question_a_sequence(tiny, rows):
    kind, model, stock, collator = tiny
    collator.processor.num_query_tokens = 1000  # images so long that sharing them is worth some padding
    batch = collator(rows)
    assert len(batch["pixel_values"]) == 3
    assert len(batch["input_ids"]) == (8 if kind == "t5" else 4)  # three questions a sequence
    loss = model(**batch).loss
    loss.backward()
    tokens = [len(collator.answer_ids(row["answer"])) for row in rows]
    losses = [stock(**stock_inputs(tiny, row)).loss for row in rows]
    expected = sum(one * count for one, count in zip(losses, tokens, strict=True)) / sum(tokens)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    parameters, stock_parameters = dict(model.named_parameters()), dict(stock.named_parameters())
    for name in (
        "query_tokens",
        "language_projection.weight",
        "qformer.encoder.layer.0.attention.attention.query.weight",
    ):
        ours, theirs = parameters[name].grad, stock_parameters[name].grad
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("tiny", ["opt"], indirect=True)
def test_questions_are_packed_into_sequences_that_leave_little_padding(tiny, dataset):
    collator = tiny.collator
    collator.questions_per_image, collator.processor.num_query_tokens = 16, 4
    row = dataset["train"][0]
    other = next(candidate for candidate in dataset["train"] if candidate["image"] != row["image"])
    words = dataset["train"]["question"]
    many = [row | {"question": f"{number} {words[number]}"} for number in range(6)]
    few = [question | {"image": other["image"]} for question in many[:2]]
    assert collator([*many, *few])["image_index"].tolist() == [0, 0, 0, 1]
    collator.processor.num_query_tokens = 1000  # an image so long that it is worth the padding
    assert collator([*many, *few])["image_index"].tolist() == [0, 1]


def test_a_batch_over_all_answer_tokens_of_a_step_divides_by_their_number(tiny, rows):
    batch = tiny.collator(rows)
    count = (batch["labels"] != -100).sum()
    alone = tiny.model(**batch).loss.item()
    assert tiny.model(**batch, num_items_in_batch=2 * count).loss.item() == pytest.approx(alone / 2)


@pytest.mark.parametrize(("beams", "returned"), [(1, 1), (3, 1), (4, 3)])
def test_generated_answers_equal_the_stock_class(tiny, rows, beams, returned):
    kind, model, stock, collator = tiny
    config = GenerationConfig(
        max_new_tokens=6,
        num_beams=beams,
        num_return_sequences=returned,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    batch = collator.prompts(rows)
    batch.pop("row")
    tokens, confidence = model.generate(**batch, generation_config=config)
    answers = tokens.unflatten(0, (len(rows), returned))
    confidences = confidence.unflatten(0, (len(rows), returned))
    for row, own, sure in zip(rows, answers, confidences, strict=True):
        inputs = stock_inputs(tiny, row, answer="")
        if kind != "t5":
            inputs["input_ids"] = inputs["input_ids"][:, : -len(collator.answer_ids(""))]
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs.pop("labels")
        expected = stock.generate(**inputs, generation_config=config)
        expected = expected[:, 1:] if kind == "t5" else expected[:, inputs["input_ids"].shape[1] :]
        length = expected.shape[1]
        assert own[:, :length].tolist() == expected.tolist()
        assert not own[:, length:].any()
        assert ((sure > 0) & (sure < 1)).all()


@pytest.mark.parametrize("tiny", ["opt", "llama"], indirect=True)
def test_rows_that_have_ended_leave_the_others_as_they_were(tiny, rows):
    batch = tiny.collator.prompts(rows)
    batch.pop("row")

    def generate(eos_token_id: int) -> tuple[list[list[int]], torch.Tensor]:
        config = GenerationConfig(max_new_tokens=8, num_beams=1, pad_token_id=0, eos_token_id=eos_token_id)
        tokens, confidence = tiny.model.generate(**batch, generation_config=config)
        return tokens.tolist(), confidence

    endless, _ = generate(eos_token_id=-1)
    chosen = Counter(answer[at] for answer in endless for at in (0, 2, 4))
    end = next(token for token, _ in chosen.most_common() if len({token in answer for answer in endless}) == 2)
    answers, confidence = generate(eos_token_id=end)
    for answer, whole in zip(answers, endless, strict=True):
        length = whole.index(end) + 1 if end in whole else len(whole)
        assert answer == whole[:length] + [0] * (len(answer) - length)
    assert ((confidence > 0) & (confidence < 1)).all()
