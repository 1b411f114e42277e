"""What an image-text-to-text model reads of images: computed once each, and kept."""

import copy
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from PIL import Image
from torch import nn

from modeling.parts.kept_features import KeptFeatures
from modeling.training.arguments import AnyTrainingArguments
from modeling.vlm import architectures
from modeling.vlm.architectures import image_features
from modeling.vlm.projector import SeenStates, TrainedProjector, has_trained_projector
from processing.images import errors_name_image, open_image
from processing.row_values import counts_of

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
GRID = "image_grid_thw"


@dataclass
class ReadImage:
    """As `processing.chat_collator.ReadImage` says."""

    text: str
    tensors: dict[str, torch.Tensor]


def process_image(processor: Any, image: Image.Image) -> tuple[dict[str, torch.Tensor], str]:
    """What a processor makes of one image: the model's inputs for it, and the text in its place."""
    options = {"return_tensors": "pt", "return_text_replacement_offsets": True}
    inputs = dict(processor(images=[image], text=[processor.image_token], **options))
    [[offsets]] = inputs.pop("text_replacement_offsets")
    return {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}, offsets["replacement"]


class VisionPart(nn.Module):
    """What of a model makes features of images; its language model is left out.

    Args:
        model: of transformers, as a whole.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        inner, decoder = model.model, model.get_decoder()
        self.model = copy.copy(inner)
        self.model._parameters = copy.deepcopy(inner._parameters)  # they move on their own
        self.model._modules = {name: part for name, part in inner._modules.items() if part is not decoder}

    @torch.no_grad()
    def forward(self, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
        """The features of one image, ``(levels, image tokens, width)``.

        Args:
            pixels: as `process_image` gives them.
        """
        return image_features(self, pixels)


def take_vision(model: Any) -> VisionPart:
    """Takes out of a model what makes features of images."""
    vision = VisionPart(model)
    for name in vision.model._modules:
        setattr(model.model, name, None)
    return vision.eval()


class KeptImages(KeptFeatures):
    """What a model reads of images by their path, as `ReadImage`.

    Args:
        vision: makes their features, or what the projector makes them of where that trains.
        processor: of images and text.
        max_gb: as for `KeptFeatures`.
    """

    def __init__(self, vision: VisionPart | SeenStates, processor: Any, max_gb: float) -> None:
        self.processor = processor
        facts = [_config_of_vision(vision), inspect.getsource(architectures), inspect.getsource(sys.modules[__name__])]
        super().__init__(vision, processor, max_gb, next(vision.parameters()).dtype, facts)

    def _compute(self, images: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        entries = []
        for path in images:
            with errors_name_image(path):
                entries.append(self._encode(open_image(path)))
        return entries

    @torch.no_grad()  # in inference mode a projector could not train on what it returns
    def _encode(self, image: Image.Image) -> dict[str, torch.Tensor]:
        pixels, text = process_image(self.processor, image)
        device = next(self.network.parameters()).device
        kept = self.network({name: value.to(device) for name, value in pixels.items()})
        kept = kept.to(self.dtype).cpu().contiguous()
        letters = {"text": torch.tensor(list(text.encode()), dtype=torch.uint8)}
        if isinstance(self.network, SeenStates):
            shape = torch.tensor(pixels.pop("pixel_values").shape)
            pixels.pop("pixel_attention_mask", None)  # for what sees
            return letters | {"vision_states": kept, "pixel_shape": shape} | pixels
        return letters | {"image_features": kept} | ({GRID: pixels[GRID][0].clone()} if GRID in pixels else {})

    def __getitem__(self, image: str) -> ReadImage:
        """What the model reads of the image at a path."""
        return _as_read(super().__getitem__(image))

    def read(self, image: Image.Image) -> ReadImage:
        """What the model reads of an image, which is not kept."""
        return _as_read(self._encode(image))


def _config_of_vision(vision: VisionPart | SeenStates) -> dict[str, Any]:
    """The config of a model without what has no part in what is seen."""
    inner = vision.inner if isinstance(vision, SeenStates) else vision.model
    config = inner.config.to_dict()
    return {name: value for name, value in config.items() if not name.startswith(("_", "text_config", "evidence"))}


def _as_read(kept: dict[str, torch.Tensor]) -> ReadImage:
    text = bytes(kept["text"].tolist()).decode()
    return ReadImage(text, {name: value for name, value in kept.items() if name != "text"})


def keep_images(model: Any, processor: Any, args: AnyTrainingArguments, dataset: datasets.DatasetDict) -> KeptImages:
    """What a model reads of all images of a data set, on disk as far as `feature_cache_gb` allows.

    The part of the model that sees is taken out of it. It computes them on the run's device and ends on the CPU, where
    it computes at each use what does not fit: the workers of a data loader are forks, in which a GPU can't be used.
    Where the projector trains it stays in the model.
    """
    reader, trains = model.reader, has_trained_projector(model)
    vision = SeenStates(model) if trains else take_vision(model)
    reader.projector = TrainedProjector(model) if trains else None
    kept = KeptImages(vision.to(args.device), processor, args.feature_cache_gb)
    if args.feature_cache_gb > 0:
        with args.main_process_first(desc="computing image features"):
            kept.fill(image for split in dataset.values() for image in counts_of(split, "image"))
    if args.feature_cache_gb > 0 or args.dataloader_num_workers > 0:
        kept.network.to("cpu")
    return kept
