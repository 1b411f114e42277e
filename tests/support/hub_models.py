"""Small imitations of the base models on the Hub: the same files, configs, vocabularies and names of weights."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save as save_tensors
from tokenizers import pre_tokenizers
from transformers import Blip2Config, OPTConfig, T5Config, ViltConfig

from modeling.vilt.scratch import build_tokenizer
from tests.support.hub.repo import Commit, File
from tests.support.hub.server import HubServer
from tests.support.tiny_blip2 import make_tokenizer

NEW_LINE, IMAGE_TOKEN, OPT_WORDS = 50118, 50265, 50265
IMAGENET = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def pickled(state: dict[str, Any]) -> bytes:
    """A state dict as a `.bin` file."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def to_json(content: Any) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def vilt_files(
    questions: Iterable[str], answers: tuple[str, ...] = (), tokenizer_json: bool = True
) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """The files of `dandelin/vilt-b32-mlm`, or with answers of `-finetuned-vqa`, and its weights.

    Its weights are a pickle, where two names share the word embeddings and old versions kept `position_ids`.
    """
    torch.manual_seed(3)
    tokenizer = build_tokenizer(questions)
    labels = {"id2label": dict(enumerate(answers)), "label2id": {a: i for i, a in enumerate(answers)}}
    config = ViltConfig(**TINY, vocab_size=len(tokenizer), **(labels if answers else {}))
    model_class = transformers.ViltForQuestionAnswering if answers else transformers.ViltForMaskedLM
    state = model_class(config).state_dict()
    embeddings = "vilt.embeddings.text_embeddings."
    if not answers:
        state["mlm_score.decoder.weight"] = state[f"{embeddings}word_embeddings.weight"]
    state[f"{embeddings}position_ids"] = torch.arange(40)[None]
    # As of 2022: no `dtype`, and a single number for the size of an image.
    settings = config.to_dict() | {"architectures": [model_class.__name__], "transformers_version": "4.16.0.dev0"}
    preprocessor = {"feature_extractor_type": "ViltFeatureExtractor", "size": 384, "size_divisor": 32, "resample": 3}
    preprocessor |= {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    names = {f"{name}_token": token for name, token in special.items()}
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    files = {
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "config.json": to_json({key: value for key, value in settings.items() if key != "dtype"}),
        "preprocessor_config.json": to_json(preprocessor),
        "pytorch_model.bin": pickled(state),
        "special_tokens_map.json": to_json(names),
        "tokenizer_config.json": to_json(
            names | {"do_lower_case": True, "model_max_length": 40, "tokenizer_class": "BertTokenizer"}
        ),
        "vocab.txt": "".join(f"{word}\n" for word, _ in words).encode(),
    }
    if tokenizer_json:
        files["tokenizer.json"] = tokenizer.backend_tokenizer.to_str().encode()
    return files, state


def add_conversion_request(hub: HubServer, name: str, number: int, state: dict[str, torch.Tensor]) -> None:
    """Opens the pull request of a conversion bot: main, and other weights as safetensors."""
    repo = hub.history(f"models/{name}")
    assert repo is not None
    head = repo.find("main")
    weights = {key: torch.zeros_like(value) for key, value in state.items()}
    file = File(save_tensors(weights, {"format": "pt"}), lfs=True)
    commit = Commit("Adding `safetensors` variant", "", "bot", head.files | {"model.safetensors": file}, head)
    repo.commit(f"refs/pr/{number}", commit)


def opt_tokenizer_files(texts: Iterable[str]) -> dict[str, bytes]:
    """`vocab.json` and `merges.txt` of OPT: its numbers of special tokens and of the new line, its 50,265 entries."""
    trained = json.loads(make_tokenizer("opt", texts).backend_tokenizer.to_str())["model"]
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [word for word in trained["vocab"] if word not in words]
    words.remove("Ċ")
    words += [f"madeupword{number:05}" for number in range(OPT_WORDS - 1 - len(words))]
    words.insert(NEW_LINE, "Ċ")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in trained["merges"]]
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False}
    return {
        "vocab.json": to_json({word: number for number, word in enumerate(words)}),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
        "special_tokens_map.json": to_json(names),
        "tokenizer_config.json": to_json(names | settings | {"model_max_length": 1000000000000000019884624838656}),
    }


def blip2_files(kind: str, texts: Iterable[str], year: int) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """The files of `Salesforce/blip2-opt-2.7b` (`opt`) or `-flan-t5-xl` (`t5`), and its weights.

    Those of 2023 know no image token, their vocabulary has no place for it, and their processor no number of queries.
    """
    torch.manual_seed(4)
    texts = list(texts)
    if kind == "opt":
        vocab_size = 50304 if year > 2023 else 50272
        special = {"bos_token_id": 2, "eos_token_id": NEW_LINE, "pad_token_id": 1}
        text = OPTConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=2,
            dropout=0.0,
            num_attention_heads=2,
            word_embed_proj_dim=16,
            **special,
        )
        tokenizer, image_token = opt_tokenizer_files(texts), IMAGE_TOKEN
        generation = special
    else:
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
        text = T5Config(
            vocab_size=32128,
            **sizes,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        )
        made = make_tokenizer("t5", texts)
        names = {"eos_token": "</s>", "pad_token": "<pad>"}
        tokenizer = {
            "tokenizer.json": made.backend_tokenizer.to_str().encode(),
            "special_tokens_map.json": to_json(names),
            "tokenizer_config.json": to_json(names | {"tokenizer_class": "PreTrainedTokenizerFast"}),
        }
        image_token = 32100
        generation = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    config = Blip2Config(
        vision_config=TINY | {"image_size": 224, "patch_size": 56, "qkv_bias": True},
        qformer_config=TINY | {"encoder_hidden_size": 16, "cross_attention_frequency": 2},
        text_config=text,
        num_query_tokens=8,
        image_token_index=image_token,
    )
    model = transformers.Blip2ForConditionalGeneration(config)
    for parameter in [p for p in model.parameters() if p.ndim > 1]:
        torch.nn.init.normal_(parameter, std=0.15)  # far from uniform answers
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for tied in (
        "language_model.lm_head.weight",
        "language_model.encoder.embed_tokens.weight",
        "language_model.decoder.embed_tokens.weight",
    ):
        if kind == "opt" or "embed" in tied:
            state.pop(tied, None)
    settings = config.to_dict() | {"architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2"}
    preprocessor: dict[str, Any] = {"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3}
    preprocessor |= {"image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor"} | IMAGENET
    preprocessor |= {"rescale_factor": 1 / 255, "size": {"height": 224, "width": 224} if year > 2023 else 224}
    files = {"README.md": b"---\nlicense: mit\n---\n", "preprocessor_config.json": to_json(preprocessor), **tokenizer}
    if year > 2023:
        files["processor_config.json"] = to_json({"num_query_tokens": 8, "processor_class": "Blip2Processor"})
        files["generation_config.json"] = to_json({"_from_model_config": True} | generation)
    else:
        del settings["image_token_index"]
        settings |= {"torch_dtype": "float32", "transformers_version": "4.27.0.dev0"}
    files["config.json"] = to_json(settings)
    keys = sorted(state)
    shards = {1: keys[: len(keys) // 2], 2: keys[len(keys) // 2 :]}
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        places = {}
        for number, part in shards.items():
            shard = f"{stem}-{number:05}-of-00002.{suffix}"
            tensors = {key: state[key] for key in part}
            files[shard] = save_tensors(tensors, {"format": "pt"}) if suffix == "safetensors" else pickled(tensors)
            places |= dict.fromkeys(part, shard)
        size = sum(value.nbytes for value in state.values())
        files[f"{stem}.{suffix}.index.json"] = to_json({"metadata": {"total_size": size}, "weight_map": places})
    return files, state


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes the files of a repo into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
