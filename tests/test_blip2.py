"""modeling.blip2: exact against the stock class, on tiny models of three kinds made from configs."""

import json
import logging
import sys
from collections import Counter

import pytest
import torch
import transformers

import train
from modeling.blip2.adapter import build_model
from modeling.blip2.answering import Answering, decode_with
from modeling.blip2.candidates import AnswerTrie
from modeling.blip2.family import build_trainer
from modeling.blip2.network import Blip2ForQuestionAnswering
from modeling.training.arguments import Blip2TrainingArguments
from modeling.training.parser import parse_arguments
from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.utils import normalize
from tests.support.tiny_blip2 import QUERIES, tiny_blip2

KINDS = ("opt", "llama", "t5")
EVERYTHING = ["attention", "dense", "projection", "language_model"]


@pytest.fixture(scope="module")
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


@pytest.fixture(scope="module")
def bases(dataset, tmp_path_factory):
    """A folder with a tiny BLIP-2 of each kind, as the Hub's are laid out."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: tiny_blip2(kind, dataset, folder / kind) for kind in KINDS}


def arguments(base, folder, **changes) -> Blip2TrainingArguments:
    options = {
        "fp16": False,
        "questions_per_image": 3,
        "feature_cache_gb": 0,
        "disable_tqdm": True,
        "lora_dropout": 0.0,
    }
    return Blip2TrainingArguments(output_dir=str(folder), model_name_or_path=str(base), **(options | changes))


@pytest.fixture(params=KINDS)
def built(request, bases, dataset, tmp_path):
    """Kind, our model without adapter, the stock one with the same weights, and a trainer for its collator."""
    args = arguments(bases[request.param], tmp_path)
    peft_model, processor = build_model(args, dataset)
    trainer = build_trainer(args, peft_model, processor, dataset)
    model = Blip2ForQuestionAnswering.from_pretrained(bases[request.param]).eval()
    stock = transformers.Blip2ForConditionalGeneration.from_pretrained(bases[request.param]).eval()
    return request.param, model, stock, trainer.data_collator


@pytest.fixture
def rows(dataset):
    return [dataset["train"][i] for i in (0, 1, 2, 3, 20, 21, 22, 40)]  # of three images, 4, 3 and 1


def plain_inputs(kind, stock, collator, row, answer=None):
    """One question as the public notebooks give it to the stock class."""
    image_token = stock.config.image_token_index
    prompt = collator.tokenizer(collator.prompt.replace("{}", row["question"]))["input_ids"]
    ids, answer_ids = (
        [image_token] * QUERIES + prompt,
        collator.answer_ids(row["answer"] if answer is None else answer),
    )
    labels = answer_ids
    if kind != "t5":
        ids, labels = ids + answer_ids, [-100] * len(ids) + answer_ids
    image = normalize(collator.processor.image_processor, [collator.images.resized[row["image"]]])
    ids = torch.tensor([ids])
    return {
        **{"pixel_values": image["pixel_values"], "input_ids": ids, "attention_mask": torch.ones_like(ids)},
        "labels": torch.tensor([labels]),
    }


def test_loss_and_gradients_of_shared_prefixes_equal_one_question_a_sequence(built, rows):
    kind, model, stock, collator = built
    collator.processor.num_query_tokens = 1000  # images so long that sharing them is worth some padding
    batch = collator(rows)
    assert len(batch["pixel_values"]) == 3
    assert len(batch["input_ids"]) == (8 if kind == "t5" else 4)  # three questions a sequence
    loss = model(**batch).loss
    loss.backward()
    tokens = [len(collator.answer_ids(row["answer"])) for row in rows]
    plain = [stock(**plain_inputs(kind, stock, collator, row)).loss for row in rows]
    expected = sum(one * count for one, count in zip(plain, tokens, strict=True)) / sum(tokens)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = dict(stock.named_parameters())
    for name in (
        "query_tokens",
        "language_projection.weight",
        "qformer.encoder.layer.0.attention.attention.query.weight",
    ):
        ours, theirs = dict(model.named_parameters())[name].grad, gradients[name].grad
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("built", ["opt"], indirect=True)
def test_questions_are_shared_out_to_sequences_that_leave_little_padding(built, dataset):
    collator = built[3]
    collator.questions_per_image, collator.processor.num_query_tokens = 16, 4
    row = dataset["train"][0]
    other = next(candidate for candidate in dataset["train"] if candidate["image"] != row["image"])
    words = dataset["train"]["question"]
    many = [row | {"question": f"{number} {words[number]}"} for number in range(6)]
    batch = collator([*many, *(question | {"image": other["image"]} for question in many[:2])])
    assert batch["image_index"].tolist() == [0, 0, 0, 1]
    collator.processor.num_query_tokens = 1000  # an image so long that it is worth the padding
    batch = collator([*many, *(question | {"image": other["image"]} for question in many[:2])])
    assert batch["image_index"].tolist() == [0, 1]


def test_a_batch_over_all_answer_tokens_of_a_step_divides_by_their_number(built, rows):
    _, model, _, collator = built
    batch = collator(rows)
    count = (batch["labels"] != -100).sum()
    assert model(**batch, num_items_in_batch=2 * count).loss.item() == pytest.approx(model(**batch).loss.item() / 2)


@pytest.mark.parametrize(("beams", "returned"), [(1, 1), (3, 1), (4, 3)])
def test_generated_answers_equal_the_stock_class(built, rows, beams, returned):
    kind, model, stock, collator = built
    options = {"max_new_tokens": 6, "num_beams": beams, "pad_token_id": 0, "eos_token_id": 1}
    options["num_return_sequences"] = returned
    batch = collator.prompts(rows)
    batch.pop("row")
    tokens, confidence = model.generate(**batch, **options)
    answers = tokens.unflatten(0, (len(rows), returned)), confidence.unflatten(0, (len(rows), returned))
    for row, own, sure in zip(rows, *answers, strict=True):
        plain = plain_inputs(kind, stock, collator, row, answer="")
        if kind != "t5":
            plain["input_ids"] = plain["input_ids"][:, : -len(collator.answer_ids(""))]
            plain["attention_mask"] = torch.ones_like(plain["input_ids"])
        plain.pop("labels")
        expected = stock.generate(**plain, do_sample=False, **options)
        expected = expected[:, 1:] if kind == "t5" else expected[:, plain["input_ids"].shape[1] :]
        length = expected.shape[1]
        assert own[:, :length].tolist() == expected.tolist()
        assert not own[:, length:].any()
        assert ((sure > 0) & (sure < 1)).all()


@pytest.mark.parametrize("built", ["opt", "llama"], indirect=True)
def test_rows_that_have_ended_leave_the_others_as_they_were(built, rows):
    _, model, _, collator = built
    batch = collator.prompts(rows)
    batch.pop("row")
    endless = model.generate(**batch, max_new_tokens=8, pad_token_id=0, eos_token_id=-1)[0].tolist()
    chosen = Counter(answer[at] for answer in endless for at in (0, 2, 4))
    end = next(token for token, _ in chosen.most_common() if len({token in answer for answer in endless}) == 2)
    tokens, confidence = model.generate(**batch, max_new_tokens=8, pad_token_id=0, eos_token_id=end)
    for answer, whole in zip(tokens.tolist(), endless, strict=True):
        length = whole.index(end) + 1 if end in whole else len(whole)
        assert answer == whole[:length] + [0] * (len(answer) - length)
    assert ((confidence > 0) & (confidence < 1)).all()


def test_candidates_get_the_likelihood_that_the_stock_class_gives_each(built, rows, dataset):
    kind, model, stock, collator = built
    candidates = sorted(set(dataset["train"]["answer"]))[:15]
    trie = AnswerTrie([collator.answer_ids(answer) for answer in candidates])
    batch = collator.prompts(rows)
    batch.pop("row")
    scores = model.score(trie, **batch)
    assert scores.shape == (len(rows), len(candidates))
    for row, row_scores in zip(rows[::3], scores[::3], strict=True):
        for answer, score in zip(candidates, row_scores, strict=True):
            with torch.no_grad():
                loss = stock(**plain_inputs(kind, stock, collator, row, answer)).loss
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


# The adapter ---------------------------------------------------------------------------------------------------------


def adapted(model) -> set[str]:
    names = {name.removeprefix("base_model.model.") for name, _ in model.named_modules()}
    return {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}


def test_adapter_sits_on_the_query_key_and_value_of_the_qformer(bases, dataset, tmp_path):
    model, _ = build_model(arguments(bases["opt"], tmp_path), dataset)
    places = [(0, "attention"), (0, "crossattention"), (1, "attention")]
    layers = [f"qformer.encoder.layer.{i}.{part}.attention" for i, part in places]
    assert adapted(model) == {f"{layer}.{name}" for layer in layers for name in ("query", "key", "value")}
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 32, 0.0)
    assert Blip2TrainingArguments(output_dir=str(tmp_path)).lora_dropout == 0.1


@pytest.mark.parametrize(
    ("kind", "target", "some", "count"),
    [
        ("opt", "dense", "qformer.encoder.layer.1.output_query.dense", 7),
        ("opt", "projection", "language_projection", 1),
        ("opt", "language_model", "language_model.model.decoder.layers.0.self_attn.out_proj", 12),
        ("llama", "language_model", "language_model.model.layers.1.mlp.gate_proj", 14),
        ("t5", "language_model", "language_model.decoder.block.1.layer.1.EncDecAttention.q", 32),
    ],
)
def test_lora_targets_choose_more(bases, dataset, tmp_path, kind, target, some, count):
    names = adapted(build_model(arguments(bases[kind], tmp_path, lora_targets=[target]), dataset)[0])
    assert some in names
    assert len(names) == count


def test_what_is_trained_is_printed_as_a_table(bases, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model, _ = build_model(arguments(bases["opt"], tmp_path), dataset)
    table = {line.split()[0]: line.split()[1:] for line in caplog.text.splitlines() if "%" in line}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert table["vision_model"][1:] == ["0", "0.00%"]
    assert table["language_model"][1:] == ["0", "0.00%"]
    assert table["qformer"][1] == table["all"][1] == f"{trained:,}"
    assert trained == 9 * 8 * (32 + 32)


def test_adapter_is_fp32_over_a_half_precision_base(bases, dataset, tmp_path):
    args = arguments(bases["opt"], tmp_path)
    args.fp16 = True  # as on a GPU
    model, _ = build_model(args, dataset)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.get_base_model().language_model.dtype == torch.float16
    assert model.get_base_model().query_tokens.dtype == torch.float32


def trained(base, folder, dataset, **changes):
    options = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 0.01, "eval_strategy": "no"}
    args = arguments(base, folder, **({"save_strategy": "no"} | options | changes))
    transformers.set_seed(1)
    model, processor = build_model(args, dataset)
    trainer = build_trainer(args, model, processor, dataset)
    trainer.train(resume_from_checkpoint=changes.get("resume_from_checkpoint"))
    return trainer


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_reloads_to_the_same_answers(bases, dataset, tmp_path, kind):
    trainer = trained(bases[kind], tmp_path / "a", dataset, lora_targets=EVERYTHING, learning_rate=0.1)
    trainer.save_model()
    before = trainer.predict(dataset["validation"]).predictions[0]
    args = arguments(tmp_path / "a", tmp_path / "b", do_train=False)
    model, processor = build_model(args, dataset)
    again = build_trainer(args, model, processor, dataset).predict(dataset["validation"]).predictions[0]
    assert (before == again).all()
    base_args = arguments(bases[kind], tmp_path / "c")
    base, processor = build_model(base_args, dataset)
    untrained = build_trainer(base_args, base, processor, dataset).predict(dataset["validation"]).predictions[0]
    assert (before != untrained).any()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_model_is_a_stock_one_with_the_adapters_answers(bases, dataset, tmp_path, kind):
    options = {"lora_targets": EVERYTHING, "learning_rate": 0.1, "merge_adapter": True, "feature_cache_gb": 1}
    trainer = trained(bases[kind], tmp_path / "a", dataset, **options)
    trainer.save_model()
    before = trainer.predict(dataset["validation"]).predictions[0]
    merged = tmp_path / "a" / "merged"
    loaded = transformers.Blip2ForConditionalGeneration.from_pretrained(merged, output_loading_info=True)[1]
    assert not loaded["missing_keys"] | loaded["unexpected_keys"]
    args = arguments(merged, tmp_path / "b", do_train=False)
    again = build_trainer(args, *build_model(args, dataset), dataset).predict(dataset["validation"]).predictions[0]
    assert (before == again).all()


def test_accumulated_batches_give_the_adapter_of_one_large_batch(bases, dataset, tmp_path):
    plain = {"max_steps": 2, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
    one = trained(bases["opt"], tmp_path / "a", dataset, **plain)
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    two = trained(bases["opt"], tmp_path / "b", dataset, **plain, **halves)
    assert any(weight.abs().max() > 1e-3 for name, weight in weights(one).items() if "lora_B" in name)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, atol=1e-6, rtol=1e-4)


def test_gradient_checkpointing_gives_the_same_adapter(bases, dataset, tmp_path):
    plain = trained(bases["llama"], tmp_path / "a", dataset, max_steps=3)
    checkpointed = trained(bases["llama"], tmp_path / "b", dataset, max_steps=3, gradient_checkpointing=True)
    assert any(weight.abs().max() > 0 for name, weight in weights(plain).items() if "lora_B" in name)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(checkpointed)[name], weight, atol=1e-5, rtol=1e-4)


def test_resumed_run_ends_with_the_same_adapter(bases, dataset, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1}
    whole = trained(bases["opt"], tmp_path / "a", dataset, **saving)
    resumed = trained(
        *(bases["opt"], tmp_path / "b", dataset),
        **saving,
        resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"),
    )
    assert resumed.state.global_step == 6
    for name, weight in weights(whole).items():
        assert torch.equal(weights(resumed)[name], weight)


# Kept features -------------------------------------------------------------------------------------------------------


def test_kept_features_give_the_loss_of_pixels_without_the_encoder(bases, dataset, rows, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    losses = []
    for gigabytes in (1, 0):
        args = arguments(bases["opt"], tmp_path, feature_cache_gb=gigabytes)
        model, processor = build_model(args, dataset)
        trainer = build_trainer(args, model, processor, dataset)
        batch = trainer.data_collator(rows)
        assert ("image_embeds" in batch) == ("pixel_values" not in batch) == bool(gigabytes)
        assert (model.get_base_model().vision_model is None) == bool(gigabytes)
        with torch.no_grad():
            losses.append(model.eval()(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert "Image features: 28 computed" in caplog.text or "Image features: 0 computed, 28 read" in caplog.text


# The whole run -------------------------------------------------------------------------------------------------------


def test_train_evaluates_both_ways_and_evaluates_again(bases, phantoms, tmp_path):
    flags = ["--model_type", "blip2", "--dataset", str(phantoms), "--disable_tqdm", "True", "--fp16", "False"]
    flags += ["--answer_candidates", "train", "--do_predict", "True"]
    first = ["--model_name_or_path", str(bases["opt"]), "--output_dir", str(tmp_path / "a"), "--num_train_epochs", "1"]
    train.main([*flags, *first, "--lora_targets", *EVERYTHING, "--prompt", "Asked: {} It is"])
    figures = json.loads((tmp_path / "a" / "all_results.json").read_text())
    assert {"eval_exact_match", "eval_f1", "eval_generated_exact_match", "test_generated_f1"} <= figures.keys()
    second = ["--model_name_or_path", str(tmp_path / "a"), "--do_train", "False", "--output_dir", str(tmp_path / "b")]
    train.main([*flags, *second])
    again = json.loads((tmp_path / "b" / "all_results.json").read_text())
    assert again["eval_exact_match"] == figures["eval_exact_match"]
    for split in ("validation", "test"):
        predictions = [(tmp_path / run / f"predictions_{split}.jsonl").read_text() for run in "ab"]
        assert predictions[0] == predictions[1]
    assert Answering.of(str(tmp_path / "b")) == Answering()  # evaluation alone leaves no model
    answers = set(load_vqa_dataset(str(phantoms))["train"]["answer"])
    assert {json.loads(line)["prediction"] for line in predictions[0].splitlines()} <= answers


def test_a_tiny_model_learns_its_rows_by_heart(bases, dataset, tmp_path):
    few = dataset["train"].select(range(8))
    splits = type(dataset)({"train": few, "validation": few})
    trainer = trained(
        *(bases["llama"], tmp_path, splits),
        **{"max_steps": 150, "lora_targets": EVERYTHING, "learning_rate": 0.01, "lora_alpha": 16},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_exact_match"] == 100.0


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_another_kind_of_model_is_named(dataset, tmp_path):
    transformers.BertConfig(hidden_size=32).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="a bert model, not BLIP-2"):
        build_model(arguments(tmp_path / "bert", tmp_path), dataset)


def test_adapter_for_another_base_is_told_with_the_name_of_the_base(bases, dataset, tmp_path):
    trained(bases["opt"], tmp_path / "a", dataset, max_steps=1, lora_targets=["language_model"]).save_model()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(bases["llama"])
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit its base model .*llama"):
        build_model(arguments(tmp_path / "a", tmp_path, do_train=False), dataset)


def test_missing_base_is_told(dataset, tmp_path, hub):
    with pytest.raises(UserError, match="nobody/nothing: can't be loaded"):
        build_model(arguments("nobody/nothing", tmp_path), dataset)


def test_checkpoint_of_another_adapter_is_told(bases, phantoms, tmp_path):
    flags = ["--model_type", "blip2", "--model_name_or_path", str(bases["opt"]), "--dataset", str(phantoms)]
    flags += ["--disable_tqdm", "True", "--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    flags += ["--output_dir", str(tmp_path / "out"), "--do_eval", "False"]
    train.main(flags)
    train.main(flags)
    with pytest.raises(UserError, match=r"checkpoint-\d is from another run \(its r differs\)"):
        train.main([*flags, "--lora_r", "4"])


def test_several_gpus_in_one_process_are_refused(bases, dataset, tmp_path, monkeypatch):
    args = arguments(bases["opt"], tmp_path)
    built = build_model(args, dataset)
    monkeypatch.setattr(type(args), "n_gpu", 2)
    with pytest.raises(UserError, match="accelerate launch --multi_gpu"):
        build_trainer(args, *built, dataset)


@pytest.mark.parametrize("prompt", ["Question: Answer:", "{} or {}"])
def test_prompt_needs_one_place_for_the_question(prompt):
    with pytest.raises(UserError, match="needs one {}, where the question goes"):
        parse_arguments(["--model_type", "blip2", "--prompt", prompt])


def test_answers_too_long_to_be_met_are_counted(bases, dataset, tmp_path, caplog):
    args = arguments(bases["opt"], tmp_path, max_new_tokens=2)
    build_trainer(args, *build_model(args, dataset), dataset)
    assert "validation answers are longer than --max_new_tokens 2: they can't be met." in caplog.text
    args = arguments(bases["opt"], tmp_path)
    collator = build_trainer(args, *build_model(args, dataset), dataset).data_collator
    assert args.max_new_tokens == max(len(collator.answer_ids(answer)) for answer in dataset["train"]["answer"])


def test_quantization_without_bitsandbytes_says_what_to_install(bases, dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="--quantization 4bit: needs bitsandbytes"):
        build_model(arguments(bases["opt"], tmp_path, quantization="4bit"), dataset)


def test_padding_of_other_processes_is_not_read_as_tokens(bases, dataset, tmp_path):
    _, processor = build_model(arguments(bases["opt"], tmp_path), dataset)
    ids = processor.tokenizer(" Left Lung", add_special_tokens=False)["input_ids"]
    assert decode_with(processor)([[*ids, 1, 0, -100]]) == ["Left Lung"]
