"""Heat maps are the published formula over the stock classes, in batches too."""

import numpy as np
import pytest
import torch
import transformers
from transformers.models.vilt.modeling_vilt import ViltLayer, ViltSelfAttention

from modeling.asking.predictor import Predictor
from modeling.blip2 import family as blip2
from modeling.training.arguments import Blip2TrainingArguments
from modeling.vilt.heat import vilt_heat
from processing.collators import ViltCollator
from processing.data import load_vqa_dataset
from tests.modeling.published_formula import published_cross_relevance
from tests.support.tiny_blip2 import QUERIES


def test_map_of_a_vilt_is_the_published_formula_over_the_stock_class(predictors, image):
    predictor = predictors("vilt")
    heat = predictor.heat_map(image, QUESTION, "No")

    model, processor = predictor.model, predictor.processor
    stock = transformers.ViltForQuestionAnswering(model.config).eval()
    stock.load_state_dict(model.state_dict())
    stock.vilt.embeddings.__class__ = type(model.vilt.embeddings)  # keeps the patches in their order
    inputs = processor(image, QUESTION, return_tensors="pt")
    output = stock(**inputs, output_attentions=True)
    for attention in output.attentions:
        attention.retain_grad()
    output.logits[0, model.config.label2id["No"]].backward()
    tokens = output.attentions[0].shape[-1]
    relevance = np.eye(tokens)
    for attention in output.attentions:
        heads = (attention.grad * attention)[0].detach().numpy()
        relevance = relevance + np.maximum(heads, 0).mean(0) @ relevance
    words = inputs["input_ids"].shape[1]
    expected = relevance[0, words + 1 :].reshape(4, 6)
    assert expected.max() > 1.5 * expected.mean()
    np.testing.assert_allclose(heat, expected / expected.sum(), rtol=1e-3, atol=1e-6)


def test_map_of_the_starter_does_not_need_the_rows_that_its_last_layer_leaves_out(predictors, image):
    predictor = predictors("starter")
    heat = predictor.heat_map(image, QUESTION, "No")
    last = predictor.model.encoder.layer[-1]
    short = type(last), type(last.attention.attention)
    try:
        last.__class__, last.attention.attention.__class__ = ViltLayer, ViltSelfAttention
        np.testing.assert_allclose(predictor.heat_map(image, QUESTION, "No"), heat, rtol=1e-4, atol=1e-7)
    finally:
        last.__class__, last.attention.attention.__class__ = short


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_maps_of_a_batch_are_those_of_each_question(predictors, image, tmp_path, kind):
    predictor = predictors(kind)
    rows = []
    for number, (size, question) in enumerate(
        [((96, 64), QUESTION), ((64, 96), "Is it?"), ((64, 64), "Where is/are the abnormality located in this image?")]
    ):
        image.resize(size).save(tmp_path / f"{number}.png")
        rows.append({"row": number, "image": str(tmp_path / f"{number}.png"), "question": question, "answer": "No"})
    config = predictor.model.config
    collator = ViltCollator(predictor.processor, {}, config.num_labels, 40, share_images=kind == "starter")
    batch = collator.prompts(rows)
    del batch["row"]
    maps = vilt_heat(predictor.model, batch, [config.label2id["No"]] * 3)
    for row, heat in zip(rows, maps, strict=True):
        alone = predictor.heat_map(row["image"], row["question"], "No")
        np.testing.assert_allclose(heat, alone, rtol=1e-3, atol=1e-6)


def test_maps_of_a_batch_of_a_blip2_are_those_of_each_question(runs, phantoms):
    """Of questions about two images, three of them about one."""
    folder = runs("opt")
    args = Blip2TrainingArguments(output_dir=str(folder), model_name_or_path=str(folder), do_train=False, fp16=False)
    dataset = load_vqa_dataset(str(phantoms))
    trainer = blip2.build_trainer(args, *blip2.build_model(args, dataset), dataset)
    by_image = dataset["validation"].sort("image")
    rows = [*by_image.select(range(3)), by_image[len(by_image) - 1]]
    maps = blip2.heat_maps(trainer, rows)
    assert len({row["image"] for row in rows}) == 2
    for row, heat in zip(rows, maps, strict=True):
        np.testing.assert_allclose(heat, blip2.heat_maps(trainer, [row])[0], rtol=1e-3, atol=1e-6)
    predictor = Predictor.from_pretrained(folder, dtype="float32")
    alone = predictor.heat_map(rows[0]["image"], rows[0]["question"], rows[0]["answer"])
    np.testing.assert_allclose(maps[0], alone, rtol=0.02, atol=1e-4)  # features are kept as halves


@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
def test_map_of_a_blip2_is_the_published_formula_over_the_stock_class(predictors, image, kind):
    predictor = predictors(kind)
    heat = predictor.heat_map(image, QUESTION, "Left Lung")

    folder = predictor.model.config._name_or_path
    stock = transformers.Blip2ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer, pixels = predictor.processor.tokenizer, predictor.processor.image_processor(image, return_tensors="pt")
    states = stock.vision_model(**pixels).last_hidden_state
    output = stock.qformer(
        query_embeds=stock.query_tokens, encoder_hidden_states=states.detach(), output_attentions=True
    )
    prompt = tokenizer(f"Question: {QUESTION} Answer:")["input_ids"]
    answer = tokenizer("Left Lung" if kind == "t5" else " Left Lung", add_special_tokens=False)["input_ids"]
    answer = torch.tensor([*answer, tokenizer.eos_token_id])
    text = torch.tensor(prompt if kind == "t5" else [*prompt, *answer[:-1]])
    embeddings = stock.get_input_embeddings()(text)
    inputs = torch.cat([stock.language_projection(output.last_hidden_state), embeddings[None]], dim=1)
    labels = {"labels": answer[None]} if kind == "t5" else {}
    logits = stock.language_model(inputs_embeds=inputs, **labels).logits[0, -len(answer) :]
    likelihood = logits.log_softmax(-1)[range(len(answer)), answer].sum()
    attention = output.attentions  # the stock class lists those of the cross-attention among them
    assert [part.shape[-1] for part in attention] == [QUERIES, 17, QUERIES]
    gradients = torch.autograd.grad(likelihood, attention)
    first, cross, second = (
        np.maximum((gradient * part)[0].detach().numpy(), 0).mean(0)
        for gradient, part in zip(gradients, attention, strict=True)
    )
    expected = published_cross_relevance([[first, cross], [second]]).sum(0)[1:].reshape(4, 4)
    np.testing.assert_allclose(heat, expected / expected.sum(), rtol=0.02, atol=1e-4)  # features are kept as halves
