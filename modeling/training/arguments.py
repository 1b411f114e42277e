"""The recipe of each model family, with its published defaults."""

import os
from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments
from transformers.utils import is_bitsandbytes_available

from modeling.training.checks import check_adapter
from modeling.training.ranges import check_values, option_text
from modeling.training.shared_arguments import SharedTrainingArguments
from processing.errors import UserError


@dataclass
class ViltTrainingArguments(SharedTrainingArguments):
    """The published ViLT recipe: batch 64, 2e-5, 3 epochs, FP16 on one A100."""

    model_type: str = field(default="vilt", metadata={"help": "Family: vilt, blip2 or vlm.", "choices": ["vilt"]})
    model_name_or_path: str = field(
        default="dandelin/vilt-b32-mlm",
        metadata={
            "help": "ViLT checkpoint to start from or to evaluate: a Hub id, a folder, starter for the one made of "
            "pretrained parts in registry packages, or scratch:small (or scratch:tiny) for a small untrained one."
        },
    )
    learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    vision_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of the starter's image network; by default the same. 0 freezes it, and images "
            "are not augmented then."
        },
    )
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training rows."})
    encoder_layers: int | None = field(
        default=None,
        metadata={
            "help": "Layers of the starter's encoder, which starts untrained; by default 3. Two take half the time "
            "and are enough for easy images."
        },
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["row"],
        metadata={"help": "Must stay row: evaluation finds answers by their row, so that no label matrix piles up."},
    )


@dataclass
class WritingTrainingArguments(SharedTrainingArguments, Seq2SeqTrainingArguments):
    """What families have in common that write their answers and train an adapter."""

    lora_r: int = field(default=8, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scale: updates are multiplied by alpha / r."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout probability on the input of LoRA layers."})
    merge_adapter: bool = field(
        default=False, metadata={"help": "Also write the whole model, adapter merged, into output_dir/merged."}
    )
    prompt: str = field(default="{}", metadata={"help": "What the language model reads, with {} for the question."})
    questions_per_image: int = field(
        default=16,
        metadata={"help": "Questions about an image that stay together in training and share its computation."},
    )
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "Longest answer in tokens; by default the length of the longest training answer."},
    )
    answer_candidates: str | None = field(
        default=None,
        metadata={
            "help": "train: the answer is the likeliest of all training answers; the generated one is scored too.",
            "choices": ["train"],
        },
    )
    quantization: str | None = field(
        default=None,
        metadata={"help": "Load the frozen base in 4bit or 8bit (needs bitsandbytes).", "choices": ["4bit", "8bit"]},
    )
    predict_with_generate: bool = field(default=True, metadata={"help": "Evaluate generated answers."})

    def __post_init__(self) -> None:
        check_values(self)
        if str(self.fsdp or False).lower() != "false" or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            name = "BLIP-2" if self.model_type == "blip2" else "A vision-language model"
            raise ValueError(
                f"{name} can't be spread by FSDP, as its processes write answers of different lengths; its base is "
                "frozen, so use recipes/accelerate/multi_gpu.yaml, and --quantization 4bit for one that is too large."
            )
        if self.prompt.count("{}") != 1:
            raise ValueError(f"--prompt {option_text(repr(self.prompt))}: needs one {{}}, where the question goes.")
        if self.quantization is not None and not is_bitsandbytes_available():
            raise UserError(f"--quantization {self.quantization}: needs bitsandbytes; pip install bitsandbytes.")
        super().__post_init__()


@dataclass
class Blip2TrainingArguments(WritingTrainingArguments):
    """The published BLIP-2 recipe: batch 64, 2e-3, 10 epochs, FP16 on one A100, LoRA on the Q-Former."""

    model_type: str = field(default="blip2", metadata={"help": "Family: vilt, blip2 or vlm.", "choices": ["blip2"]})
    model_name_or_path: str = field(
        default="Salesforce/blip2-opt-2.7b",
        metadata={
            "help": "BLIP-2 checkpoint to start from, or adapter to continue or evaluate: a Hub id, a folder, or "
            "starter for the base made of pretrained parts in registry packages."
        },
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training rows."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["attention"],
        metadata={
            "help": "What the LoRA matrices are added to: the Q-Former's attention, its dense layers, the language "
            "projection, the language_model.",
            "choices": ["attention", "dense", "projection", "language_model"],
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts that are trained whole and saved with the adapter; vision_top is the upper half of the "
            "starter's image network.",
            "choices": ["qformer", "language_projection", "vision_top"],
        },
    )
    qformer_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of the Q-Former and of vision_top if they are trained whole; by default "
            "that of the adapter."
        },
    )
    alignment_epochs: float = field(
        default=0.0,
        metadata={
            "help": "Passes over the training rows, before all others, in which the starter's Q-Former learns without "
            "its language model."
        },
    )
    alignment_batch_size: int | None = field(
        default=None,
        metadata={"help": "Batch size of those passes of one device, in questions; by default that of training."},
    )
    prompt: str = field(
        default="Question: {} Answer:", metadata={"help": "What the language model reads, with {} for the question."}
    )

    def __post_init__(self) -> None:
        check_values(self)
        check_adapter(self)
        super().__post_init__()


@dataclass
class VlmTrainingArguments(WritingTrainingArguments):
    """A recipe for image-text-to-text models: batch 64, 2e-4, 3 epochs, BF16, LoRA on the language model."""

    model_type: str = field(default="vlm", metadata={"help": "Family: vilt, blip2 or vlm.", "choices": ["vlm"]})
    model_name_or_path: str = field(
        default="HuggingFaceTB/SmolVLM-500M-Instruct",
        metadata={
            "help": "Image-text-to-text model to start from, or adapter to continue or evaluate: a Hub id, a folder, "
            "or starter for the base made of pretrained parts in registry packages."
        },
    )
    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training rows."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA matrices."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout probability on the input of LoRA layers."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["attention", "dense"],
        metadata={
            "help": "What the LoRA matrices are added to: the language model's attention, its dense layers, the "
            "projector from what is seen to the language model.",
            "choices": ["attention", "dense", "projector"],
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts that are trained whole and saved with the adapter.",
            "choices": ["projector"],
        },
    )
    prompt: str = field(
        default="{} Answer with one word or a short phrase.",
        metadata={"help": "What the user says, with {} for the question."},
    )
    system_prompt: str | None = field(
        default=None,
        metadata={"help": "What the model is told before the question; by default what its chat template says."},
    )

    max_pixels: int | None = field(
        default=None,
        metadata={
            "help": "Pixels of an image at most, where a model's tokens grow with it, as Qwen's do; by default "
            "1,048,576 (1024 x 1024). Larger images are made smaller."
        },
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.modules_to_save and "projector" in self.lora_targets:
            raise UserError("--lora_targets projector: --modules_to_save projector trains all of it; drop one.")
        super().__post_init__()


TRAINING_ARGUMENTS = {"vilt": ViltTrainingArguments, "blip2": Blip2TrainingArguments, "vlm": VlmTrainingArguments}
AnyTrainingArguments = ViltTrainingArguments | Blip2TrainingArguments | VlmTrainingArguments
