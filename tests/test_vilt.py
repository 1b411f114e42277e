"""modeling.vilt and processing.collators: the model against the stock class, vocabulary, tokenizer, batches."""

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, ViltConfig

from modeling.parts.vocabulary import build_vocabulary, labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.vilt.checkpoints import build_model
from modeling.vilt.family import build_trainer
from modeling.vilt.network import ViltForQuestionAnswering
from modeling.vilt.scratch import SIZES, build_tokenizer
from processing.collators import ViltCollator
from processing.data import load_vqa_dataset
from processing.errors import UserError

QUESTIONS = ["Is this CT?", "Where is the liver?", "这是什么?"]


@pytest.fixture(scope="module")
def dataset(phantoms):
    return load_vqa_dataset(str(phantoms))


def arguments(folder, **changes) -> ViltTrainingArguments:
    return ViltTrainingArguments(
        output_dir=str(folder), **{"model_name_or_path": "scratch:tiny", "fp16": False} | changes
    )


@pytest.fixture
def built(dataset, tmp_path):
    torch.manual_seed(0)
    return build_model(arguments(tmp_path), dataset)


def tiny(num_labels: int = 5, **changes) -> ViltConfig:
    return ViltConfig(**SIZES["tiny"], vocab_size=50, num_labels=num_labels, initializer_range=0.3, **changes)


def batch_of(sizes: list[tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Images of the given (height, width) padded to the largest, with questions of 7 tokens."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = 1
    pixels = torch.randn(len(sizes), 3, height, width, generator=generator) * mask[:, None]
    ids = torch.randint(5, 50, (len(sizes), 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "pixel_mask": mask}


# The model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [[(64, 64)] * 3, [(64, 96)] * 2, [(64, 96), (96, 64), (32, 48)], [(64, 64), (48, 64)]],
    ids=["square", "wide", "all-different", "one-shorter"],
)
def test_logits_equal_the_stock_class(sizes):
    torch.manual_seed(0)
    ours = ViltForQuestionAnswering(tiny()).eval()
    stock = transformers.ViltForQuestionAnswering(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    batch = batch_of(sizes)
    with torch.no_grad():
        expected, logits = stock(**batch).logits, ours(**batch).logits
    assert logits.std() > 0.1  # else anything would be equal
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_stock_class():
    torch.manual_seed(0)
    ours = ViltForQuestionAnswering(tiny())
    stock = transformers.ViltForQuestionAnswering(ours.config)
    stock.load_state_dict(ours.state_dict())
    batch = batch_of([(64, 96), (96, 64), (64, 64)]) | {"labels": torch.eye(5)[:3]}
    for model in (ours, stock):
        model(**batch).loss.backward()
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_attentions_are_returned_as_the_stock_class_returns_them():
    torch.manual_seed(0)
    ours = ViltForQuestionAnswering(tiny()).eval()
    stock = transformers.ViltForQuestionAnswering(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    batch = batch_of([(64, 64)])
    mine, theirs = (model(**batch, output_attentions=True).attentions for model in (ours, stock))
    assert len(mine) == len(theirs) == 2
    # the stock class shuffles the patches; the weights from [CLS] (token 7) to the text do not move
    torch.testing.assert_close(mine[1][:, :, 7, :8], theirs[1][:, :, 7, :8], atol=1e-5, rtol=1e-4)


def test_forward_consumes_no_random_state_and_repeats_to_the_bit():
    model = ViltForQuestionAnswering(tiny()).eval()
    batch = batch_of([(64, 64), (48, 64)])
    state = torch.random.get_rng_state()
    first = model(**batch).logits
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model(**batch).logits, first)


def test_sampling_of_patches_still_works_where_the_config_asks_for_it():
    model = ViltForQuestionAnswering(tiny(max_image_length=6)).eval()
    hidden = model(**batch_of([(64, 64)] * 2), output_hidden_states=True).hidden_states[-1]
    assert hidden.shape == (2, 7 + 1 + 6, 32)


def test_accumulated_batches_give_the_gradient_of_one_large_batch(dataset, tmp_path):
    gradients = []
    for size, steps in ((8, 1), (4, 2)):
        torch.manual_seed(0)
        args = arguments(
            tmp_path,
            **{"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1},
            **{"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0, "save_strategy": "no"},
            **{"eval_strategy": "no", "lr_scheduler_type": "constant", "disable_tqdm": True},
        )
        model, processor = build_model(args, dataset)
        before = model.classifier[-1].weight.detach().clone()
        build_trainer(args, model, processor, dataset).train()
        gradients.append(before - model.classifier[-1].weight.detach())
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


# Vocabulary and tokenizer --------------------------------------------------------------------------------------------


def test_vocabulary_is_sorted_and_shows_the_most_frequent_spelling():
    answers = ["Spinal cord", "Spinal Cord", "Spinal Cord", "yes", "No", "no", "Lung, Heart", "lung heart", "1"]
    assert build_vocabulary(answers) == ["1", "Lung, Heart", "No", "Spinal Cord", "lung heart", "yes"]


def test_vocabulary_of_slake_merges_spellings(slake):
    dataset = load_vqa_dataset(str(slake))
    vocabulary = build_vocabulary(dataset["train"]["answer"])
    assert len(set(dataset["train"]["answer"])) == 226  # of 228: one is empty, two differ by a space
    assert len(vocabulary) <= 220
    labels = {answer: i for i, answer in enumerate(vocabulary)}
    unknown = [a for a in dataset["validation"]["answer"] if a not in labels_of([a], labels)]
    assert len(unknown) == 3


def test_answers_find_their_label_however_they_are_written():
    labels = {"Left Lung": 0, "A": 1, "": 2}
    assert labels_of(["left lung.", "a", "", "Kidney"], labels) == {"left lung.": 0, "a": 1, "": 2}


def test_tokenizer_knows_the_words_it_was_made_from_and_spells_others():
    tokenizer = build_tokenizer(QUESTIONS)
    assert tokenizer.tokenize("Where is this LIVER?") == ["where", "is", "this", "liver", "?"]
    assert tokenizer.tokenize("test") == ["t", "##e", "##s", "##t"]
    assert tokenizer.tokenize("什么") == ["什", "么"]
    ids = tokenizer("Is this CT?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "is", "this", "ct", "?", "[SEP]"]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)


def test_tokenizer_does_not_depend_on_the_order_of_questions():
    one, two = (build_tokenizer(order).get_vocab() for order in (QUESTIONS, QUESTIONS[::-1]))
    assert one == two


def test_cut_questions_and_answers_out_of_reach_are_counted(dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    longer = dataset["validation"].map(lambda r, i: {"question": "is it " * 50} if i < 2 else r, with_indices=True)
    longer = longer.map(lambda r, i: {"answer": "Never seen"} if i == 0 else r, with_indices=True)
    build_model(arguments(tmp_path), type(dataset)({"train": dataset["train"], "validation": longer}))
    assert "2 validation questions are longer than 40 tokens and are cut." in caplog.text
    known = labels_of(longer["answer"], dict.fromkeys(dataset["train"]["answer"], 0))
    missing = sum(answer not in known for answer in longer["answer"])
    assert missing >= 1
    assert f"{missing} of {len(longer)} validation answers are not among them" in caplog.text
    assert f"can reach {100 * (1 - missing / len(longer)):.2f} %" in caplog.text


# Saving and loading --------------------------------------------------------------------------------------------------


def test_saved_folder_loads_by_the_auto_classes_with_equal_answers(built, dataset, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    assert [f.suffix for f in (tmp_path / "m").iterdir() if f.suffix in (".bin", ".pt")] == []
    again = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "m").eval()
    assert type(again) is transformers.ViltForQuestionAnswering
    assert again.config.id2label == model.config.id2label
    sample = dataset["validation"][0]
    auto = AutoProcessor.from_pretrained(tmp_path / "m")
    inputs = auto(Image.open(sample["image"]).convert("RGB"), sample["question"], return_tensors="pt")
    batch = ViltCollator(processor, {"x": 0}, 1, 40)([sample])
    assert inputs["input_ids"].tolist() == batch["input_ids"].tolist()
    with torch.no_grad():
        logits = model.eval()(**{k: v for k, v in batch.items() if k not in ("labels", "row")}).logits
        torch.testing.assert_close(again(**inputs).logits, logits, atol=1e-5, rtol=1e-5)


def test_hub_checkpoint_in_its_older_layout_is_fine_tuned(built, dataset, tmp_path, hub):
    model, processor = built
    model.save_pretrained(tmp_path / "m")
    processor.tokenizer.save_pretrained(tmp_path / "m")
    processor.image_processor.save_pretrained(tmp_path / "m")  # preprocessor_config.json, as in dandelin/vilt-b32-mlm
    hub.repos["models/user/vilt"] = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}
    assert "preprocessor_config.json" in hub.repos["models/user/vilt"]
    args = arguments(tmp_path, model_name_or_path="user/vilt")
    renamed = dataset.map(lambda r: {"answer": f"new {r['answer']}"})
    loaded, its_processor = build_model(args, renamed)
    assert torch.equal(loaded.vilt.pooler.dense.weight, model.vilt.pooler.dense.weight)
    assert all(answer.startswith("new ") for answer in loaded.config.label2id)
    assert its_processor.image_processor.size == processor.image_processor.size
    assert its_processor.tokenizer("Is this CT?")["input_ids"] == processor.tokenizer("Is this CT?")["input_ids"]


def test_evaluation_keeps_the_vocabulary_of_the_folder(built, dataset, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    shrunk = type(dataset)({"train": dataset["train"].select(range(3)), "validation": dataset["validation"]})
    args = arguments(tmp_path, model_name_or_path=str(tmp_path / "m"), do_train=False)
    assert build_model(args, shrunk)[0].config.label2id == model.config.label2id


def test_training_on_other_answers_starts_a_new_head_even_of_the_same_size(built, dataset, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    args = arguments(tmp_path, model_name_or_path=str(tmp_path / "m"))
    kept, _ = build_model(args, dataset)
    assert torch.equal(kept.classifier[-1].weight, model.classifier[-1].weight)
    renamed = dataset.map(lambda r: {"answer": f"new {r['answer']}"})
    fresh, _ = build_model(args, renamed)
    assert fresh.config.num_labels == model.config.num_labels
    assert not torch.allclose(fresh.classifier[-1].weight, model.classifier[-1].weight)
    assert torch.equal(fresh.vilt.pooler.dense.weight, model.vilt.pooler.dense.weight)


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_checkpoint_of_another_kind_is_named(dataset, tmp_path):
    transformers.BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="a bert model, not ViLT"):
        build_model(arguments(tmp_path, model_name_or_path=str(tmp_path / "bert")), dataset)


def test_checkpoint_that_is_not_there_suggests_scratch(dataset, tmp_path, hub):
    with pytest.raises(UserError, match=r"user/none: can't be loaded.*scratch:small"):
        build_model(arguments(tmp_path, model_name_or_path="user/none"), dataset)


@pytest.mark.parametrize("damage", ["weights", "config", "no-model-type"])
def test_damaged_checkpoint_is_one_sentence(built, dataset, tmp_path, damage):
    model, processor = built
    model.save_pretrained(tmp_path / "d")
    processor.save_pretrained(tmp_path / "d")
    file = tmp_path / "d" / ("model.safetensors" if damage == "weights" else "config.json")
    file.write_bytes({"weights": b"\x10torn", "config": b"{", "no-model-type": b"{}"}[damage])
    with pytest.raises(UserError, match="can't be loaded as a folder or from the Hub"):
        build_model(arguments(tmp_path, model_name_or_path=str(tmp_path / "d")), dataset)


def test_pickled_weights_are_not_read(built, dataset, tmp_path):
    model, processor = built
    model.config.save_pretrained(tmp_path / "p")
    processor.save_pretrained(tmp_path / "p")
    torch.save(model.state_dict(), tmp_path / "p" / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        build_model(arguments(tmp_path, model_name_or_path=str(tmp_path / "p")), dataset)


def test_unknown_scratch_size_names_the_known_ones(dataset, tmp_path):
    with pytest.raises(UserError, match="scratch:huge: unknown size; choose small or tiny"):
        build_model(arguments(tmp_path, model_name_or_path="scratch:huge"), dataset)


def test_untrained_model_can_not_be_evaluated(dataset, tmp_path):
    with pytest.raises(UserError, match="an untrained model has nothing to evaluate"):
        build_model(arguments(tmp_path, do_train=False), dataset)
