"""Heat maps are the published formula over the stock classes, in batches too."""

import copy

import numpy as np
import pytest
import torch
import transformers
from transformers.models.vilt.modeling_vilt import ViltLayer

from modeling.vilt.heat import vilt_heat
from processing.collators import ViltCollator
from tests.modeling.asking.conftest import QUESTION
from tests.modeling.published_formula import published_cross_relevance
from tests.support.tiny_blip2 import QUERIES

pytestmark = pytest.mark.xdist_group("heat maps")  # one worker makes the models


def test_map_of_a_vilt_is_the_published_formula_over_the_stock_class(untrained, image):
    predictor = untrained("vilt")
    heat = predictor.heat_map(image, QUESTION, "No")

    model, processor = predictor.model, predictor.processor
    stock = transformers.ViltForQuestionAnswering(model.config).eval()
    own = {name: weight for name, weight in model.state_dict().items() if not name.startswith("evidence.")}
    stock.load_state_dict(own)
    stock.vilt.embeddings = copy.deepcopy(model.vilt.embeddings)  # which keep the patches in their order
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


def test_map_of_the_starter_does_not_need_the_rows_that_its_last_layer_leaves_out(untrained, image, monkeypatch):
    predictor = untrained("starter")
    heat = predictor.heat_map(image, QUESTION, "No")
    layers, config = predictor.model.encoder.layer, predictor.model.config
    stock_layer = ViltLayer(config).eval()
    stock_layer.load_state_dict(layers[-1].state_dict())
    monkeypatch.setitem(layers._modules, str(len(layers) - 1), stock_layer)
    np.testing.assert_allclose(predictor.heat_map(image, QUESTION, "No"), heat, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["vilt", "starter"])
def test_maps_of_a_batch_are_those_of_each_question(untrained, image, tmp_path, kind):
    predictor = untrained(kind)
    rows = []
    sizes_and_questions = [
        ((96, 64), QUESTION),
        ((64, 96), "Is it?"),
        ((64, 64), "Where is/are the abnormality located in this image?"),
    ]
    for number, (size, question) in enumerate(sizes_and_questions):
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


@pytest.mark.parametrize("kind", ["opt", "llama", "t5"])
def test_map_of_a_blip2_is_the_published_formula_over_the_stock_class(untrained, image, kind):
    predictor = untrained(kind)
    heat = predictor.heat_map(image, QUESTION, "Left Lung")

    folder = predictor.model.config._name_or_path
    stock = transformers.Blip2ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer, image_processor = predictor.processor.tokenizer, predictor.processor.image_processor
    states = stock.vision_model(**image_processor(image, return_tensors="pt")).last_hidden_state
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
