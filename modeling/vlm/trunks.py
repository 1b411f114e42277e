"""What chat models read before the questions: images, each with the text before it."""

from collections.abc import Sequence

import torch


class Trunks:
    """What images are read as, each with the text before it: tokens, padded on the left.

    Args:
        trunk_ids: ``(I, P)``.
        trunk_mask: 1 for real tokens, ``(I, P)``.
        image_features: of each image, ``(levels, image tokens, width)``. Those after the first are added to states
            of the first layers of the language model.
        image_grid_thw: of each image, ``(3,)``, where positions are those of rows and columns.
    """

    def __init__(
        self,
        trunk_ids: torch.Tensor,
        trunk_mask: torch.Tensor,
        image_features: Sequence[torch.Tensor],
        image_grid_thw: Sequence[torch.Tensor] | None = None,
    ) -> None:
        self.ids = trunk_ids
        self.mask = trunk_mask.bool()
        self.features = image_features
        self.grid = image_grid_thw

    def of(self, index: torch.Tensor) -> "Trunks":
        """One a row, for rows about these images ``(S,)``."""
        places = index.tolist()
        grid = None if self.grid is None else [self.grid[i] for i in places]
        return Trunks(self.ids[index], self.mask[index], [self.features[i] for i in places], grid)


def whole_sequences(
    trunks: Trunks, input_ids: torch.Tensor, real: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Trunks with what follows them, all padding on the left, as transformers wants it.

    Args:
        trunks: one a row.
        input_ids: ``(B, L)``.
        real: which of these are no padding, ``(B, L)``.

    Returns:
        The tokens, 1 for real ones, and the place that each had before, all ``(B, P + L)``.
    """
    ids, real = torch.cat([trunks.ids, input_ids], dim=1), torch.cat([trunks.mask, real], dim=1)
    order = real.long().sort(dim=1, stable=True).indices
    return ids.gather(1, order), real.gather(1, order).long(), order
