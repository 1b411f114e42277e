"""The base model of the family vlm: an image-text-to-text model of a folder or the Hub."""

import functools
import inspect
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from modeling.parts.evidence import GRID, EvidenceHead
from modeling.parts.kinds import check_kind
from modeling.parts.loading import load_config, load_pretrained, load_weights, loading_errors, no_report_of_weights
from modeling.parts.model_files import ModelFiles
from modeling.parts.quantization import let_gradients_through, quantization_options
from modeling.vlm.architectures import ARCHITECTURES
from modeling.vlm.separate import make_reader
from modeling.writing.evidence import MODULE, WEIGHTS
from processing.errors import UserError

ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
MAX_PIXELS = 1024 * 1024  # a radiograph of 2,000 x 2,500 would have 4,900 tokens
SUGGESTION = "HuggingFaceTB/SmolVLM-500M-Instruct"
# What sees, what is trained on it, and what scores the vocabulary. Each is matched from the start of a whole name.
UNQUANTIZED = [r".*\.(vision_model|vision_tower|visual|connector|multi_modal_projector)", "lm_head", MODULE]


def check_base_kind(files: ModelFiles) -> None:
    """Refuses by its config.json what this family can't ask, before weights are fetched.

    Raises:
        UserError: it is something else.
    """
    check_kind(files, "vlm", (), SUGGESTION)


def load_base(
    files: ModelFiles,
    dtype: torch.dtype,
    quantization: str | None = None,
    read_pickled: bool = False,
    evidence: dict[str, Any] | None = None,
    max_pixels: int | None = None,
) -> tuple[Any, Any]:
    """Loads a whole model and its processor.

    Its `reader` reads images with it. Its `evidence` is an evidence head in FP32, or None.

    Args:
        files: of the model.
        dtype: of the frozen weights.
        quantization: 4bit or 8bit.
        read_pickled: as in `ModelFiles.weights`.
        evidence: what its config is to say of an evidence head; by default what it says.
        max_pixels: of an image, where its tokens grow with it; by default `MAX_PIXELS`.

    Raises:
        UserError: it can't be loaded, or its tokens don't grow with an image that is to be limited.
    """
    with loading_errors(files.name):
        config = load_config(files.root)
        if config.model_type in ARCHITECTURES:  # of others the places of image tokens are not known
            config.update(evidence or {})
        options = quantization_options(quantization, dtype, UNQUANTIZED) | {"ignored": WEIGHTS}
        with no_report_of_weights():  # those of an evidence head are no news
            model, _ = load_weights(
                AutoModelForImageTextToText, config, files, dtype, read_pickled=read_pickled, **options
            )
        let_gradients_through(model)
        ends = {name: getattr(model.generation_config, name) for name in ENDS}
        model.generation_config = GenerationConfig(**ends)  # a repetition penalty would also hit words of the question
        model.evidence = _evidence_head(model, files)
        processor = load_processor(files, config.model_type)
    _limit_pixels(model, processor, max_pixels)
    model.reader = make_reader(model, processor, files.name)
    if model.reader.shares_prefix:  # by additive masks; PyTorch's attention in bf16 takes three times as long on a CPU
        on_cpu = not torch.accelerator.is_available()
        model.set_attn_implementation("eager" if on_cpu and dtype == torch.bfloat16 else "sdpa")
    return model, processor


def _limit_pixels(model: Any, processor: Any, max_pixels: int | None) -> None:
    if not hasattr(model.model, "get_rope_index"):
        if max_pixels is not None:
            raise UserError(f"--max_pixels: the tokens of a {model.config.model_type} don't grow with its images.")
        return
    size = dict(processor.image_processor.size)  # Qwen's edges are areas
    most = min(size["longest_edge"], max_pixels or MAX_PIXELS)
    processor.image_processor.size = {"shortest_edge": min(size["shortest_edge"], most), "longest_edge": most}


def _evidence_head(model: Any, files: ModelFiles) -> EvidenceHead | None:
    """A model's evidence head: its own where its files have one, else a new one; None where it is to have none."""
    if not getattr(model.config, "evidence_labels", None):
        return None
    width = model.get_input_embeddings().embedding_dim
    head = EvidenceHead(width, width, GRID)
    own: dict[str, torch.Tensor] = {}
    for file in sorted(files.root.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            names = [name for name in weights.keys() if name.startswith(f"{MODULE}.")]  # noqa: SIM118
            own |= {name.removeprefix(f"{MODULE}."): weights.get_tensor(name) for name in names}
    if own:
        head.load_state_dict(own)
    return head


def load_processor(files: ModelFiles, model_type: str) -> Any:
    """The processor of a model, for still images. Images are resized by Pillow, on every machine alike."""
    processor_class = still_images(getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type]))
    tokenizer = load_pretrained(AutoTokenizer, files.root, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    parts = [load_pretrained(AutoImageProcessor, files.root, backend="pil"), tokenizer]
    if "video_processor" in inspect.signature(processor_class.__init__).parameters:
        parts.append(None)
    settings, _ = processor_class.get_processor_dict(files.root)
    settings.pop("video_processor", None)
    return processor_class.from_args_and_dict(parts, settings)


@functools.cache
def still_images(processor_class: Any) -> Any:
    """A processor class without its part for videos, which needs torchvision even where no video is read."""

    class StillImages(processor_class):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in processor_class.get_attributes() if name != "video_processor"]

    StillImages.__name__ = StillImages.__qualname__ = processor_class.__name__  # by which it is saved
    return StillImages
