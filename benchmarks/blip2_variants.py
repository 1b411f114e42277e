"""The two sides of `benchmarks.blip2_training`: the plain recipe and this project, over the same small BLIP-2.

`benchmarks.gpu` has the plain side too, over large ones."""

from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Blip2Processor, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from modeling.blip2.adapter import LORA_TARGETS
from modeling.blip2.network import Blip2ForQuestionAnswering
from processing.collators import Blip2Collator

PROMPT = "Question: {} Answer:"
VOCABULARY = 5400
QUERY_TOKENS = 32
CONFIG: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 10,
        "num_attention_heads": 8,
        "image_size": 224,
        "patch_size": 14,
    },
    "qformer_config": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "vocab_size": 10,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "text_config": {
        "model_type": "opt",
        "vocab_size": VOCABULARY,
        "hidden_size": 768,
        "word_embed_proj_dim": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "dropout": 0.0,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
    "num_query_tokens": QUERY_TOKENS,
    "image_token_index": VOCABULARY - 1,
}
GREEDY = GenerationConfig(max_new_tokens=8, pad_token_id=0, eos_token_id=1, num_beams=1, do_sample=False)


def make_processor(rows: list[dict], image_size: int = 224, decoder_only: bool = True) -> Blip2Processor:
    """Images of a size in pixels, and a byte-level tokenizer of the words of the rows, with OPT's start token or T5's
    end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for row in rows for text in (row["question"], row["answer"])], trainer)
    template = "</s> $A" if decoder_only else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1)])
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="</s>", padding_side="left"
    )
    image_processor = BlipImageProcessorPil(size={"height": image_size, "width": image_size})
    return Blip2Processor(image_processor, fast_tokenizer, QUERY_TOKENS)


def add_lora(model: Any, dropout: float = 0.0) -> PeftModel:
    """The model with LoRA on the attention of its Q-Former."""
    config = LoraConfig(r=8, lora_alpha=32, lora_dropout=dropout, target_modules=".*" + LORA_TARGETS["attention"])
    return get_peft_model(model, config)


def pixels_of(collator: Blip2Collator, images: list[str]) -> torch.Tensor:
    """The pixels of images, ``(images, 3, 224, 224)``."""
    resized = [collator.images.resized[image] for image in images]
    return collator.processor.image_processor(resized, do_resize=False, return_tensors="pt")["pixel_values"]


class Plain:
    """The public recipe: the image is encoded for each of its questions, and each question is padded to the longest.

    Args:
        collator: for its tokenizer and image processor.
        model: with LoRA, of `model_class`.
        rows: all that are trained on.
    """

    model_class = transformers.Blip2ForConditionalGeneration

    def __init__(self, collator: Blip2Collator, model: Any, rows: list[dict]) -> None:
        self.collator, self.model = collator, model
        self.image_tokens = [model.config.image_token_index] * model.config.num_query_tokens
        lengths = [tuple(map(len, self._prompt_and_answer(row))) for row in rows]
        self.length = max(map(sum, lengths))  # tokens of each sequence
        self.prompt_length, self.answer_length = (max(part) for part in zip(*lengths, strict=True))

    def _prompt_and_answer(self, row: dict) -> tuple[list[int], list[int]]:
        """The tokens of the image's places and the prompt, and those of the answer."""
        prompt = self.collator.tokenizer(PROMPT.replace("{}", row["question"]))["input_ids"]
        return self.image_tokens + prompt, self.collator.answer_ids(row["answer"])

    def batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """A training batch."""
        ids, labels = [], []
        for row in rows:
            prompt, answer = self._prompt_and_answer(row)
            if self.collator.decoder_only:
                fill = self.length - len(prompt) - len(answer)
                ids.append(prompt + answer + [0] * fill)
                labels.append([-100] * len(prompt) + answer + [-100] * fill)
            else:
                ids.append(prompt + [0] * (self.prompt_length - len(prompt)))
                labels.append(answer + [-100] * (self.answer_length - len(answer)))
        input_ids, label_ids = torch.tensor(ids), torch.tensor(labels)
        answers = label_ids != -100 if self.collator.decoder_only else torch.zeros_like(input_ids, dtype=torch.bool)
        return {
            "pixel_values": pixels_of(self.collator, [row["image"] for row in rows]),
            "input_ids": input_ids,
            "attention_mask": (answers | (input_ids != 0)).long(),
            "labels": label_ids,
        }

    def generate(self, rows: list[dict], config: GenerationConfig = GREEDY) -> list[list[int]]:
        """The tokens of answers, by the stock class. Prompts are padded on the left."""
        prompts = [self._prompt_and_answer(row)[0] for row in rows]
        longest = max(map(len, prompts))
        batch = {
            "pixel_values": pixels_of(self.collator, [row["image"] for row in rows]),
            "input_ids": torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        }
        inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        tokens = self.model.generate(**inputs, generation_config=config)
        return tokens[:, longest if self.collator.decoder_only else 1 :].tolist()


class Project:
    """This project: features of images are kept, and questions of one image share its tokens.

    Args:
        collator: gets the features.
        model: with LoRA, of `model_class`. It loses its vision encoder.
        rows: all that are trained on.
    """

    model_class = Blip2ForQuestionAnswering

    def __init__(self, collator: Blip2Collator, model: Any, rows: list[dict]) -> None:
        self.collator, self.model = collator, model
        base = model.get_base_model()
        self.features: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for image in dict.fromkeys(row["image"] for row in rows):
                pixels = pixels_of(collator, [image])
                self.features[image] = base.vision_model(pixels).last_hidden_state[0].half()
        base.vision_model = None
        collator.images.features = self.features

    def batch(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """A training batch."""
        return self.collator(rows)

    def generate(self, rows: list[dict]) -> list[list[int]]:
        """The tokens of answers. Each image is read once."""
        batch = self.collator.prompts(rows)
        batch.pop("row")
        return self.model.get_base_model().generate(**batch, generation_config=GREEDY)[0].tolist()


VARIANTS = {"plain": Plain, "project": Project}
