"""The texture member of a fusion: a texture dictionary and its logistic regression, as a network.

It is learnt apart (`idc.training.texture_member`) and never trained by gradients; but gradients
pass through it to the patch, so that the fusion it belongs to can be explained.
"""

import torch
from torch import Tensor, nn

from idc.data.patches import PATCH_SIZE_PX
from idc.models.networks.atoms import NUM_ATOMS, WINDOW_PX, mean_activity

TEXTURE = "texture"
"""Its name among the members of a fusion."""

_ROOT_FLOOR = 1e-4  # added before the root, whose slope at 0 has no end


class TextureMember(nn.Module):
    """Its embedding is its own logit, the only feature.

    Shape:
        images: (batch, 3, height, width) float32 in 0-1, `size_px` for every 50 px of a patch.
        returns: (batch, 1) logits of IDC+, both classes weighing the same.
    """

    name = TEXTURE
    num_features = 1

    def __init__(self, size_px: int, *, num_atoms: int = NUM_ATOMS) -> None:
        """Make room for what is learnt; as it is, every logit is 0.

        Args:
            size_px: Edge length to which the network's images are resized from 50 px.
            num_atoms: How many atoms.
        """
        super().__init__()
        self._size_px = size_px
        self.filters = _fixed(torch.zeros(num_atoms, 3, WINDOW_PX, WINDOW_PX))
        self.offsets = _fixed(torch.zeros(num_atoms))
        self.mean = _fixed(torch.zeros(2 * num_atoms))
        self.scale = _fixed(torch.ones(2 * num_atoms))
        self.weight = _fixed(torch.zeros(2 * num_atoms))
        self.bias = _fixed(torch.zeros(1))

    def describe(self, images: Tensor) -> Tensor:
        """Return the root of each atom's mean activity, (batch, 2 x atoms), not standardised."""
        grey = to_grey_levels(images, size_px=self._size_px)
        # filters are blind to it, but it would take up most of the few digits a GPU computes with
        centred = grey - grey.mean(dim=(1, 2, 3), keepdim=True)
        return torch.sqrt(mean_activity(centred, self.filters, self.offsets) + _ROOT_FLOOR)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch, 1)."""
        standardised = (self.describe(images) - self.mean) / self.scale
        return standardised @ self.weight[:, None] + self.bias

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Shuffle what was learnt; a filter within itself, so that it still sums to 0."""
        values = self.filters.flatten(1).cpu()
        shuffled = values.gather(1, torch.rand(values.shape).argsort(dim=1))
        self.filters.copy_(shuffled.view_as(self.filters))
        for learnt in (self.offsets, self.weight):
            learnt.copy_(learnt[torch.randperm(len(learnt))])


def to_grey_levels(images: Tensor, *, size_px: int) -> Tensor:
    """Undo the network's resizing as far as that can be done.

    Args:
        images: float32 (batch, 3, height, width) in 0-1, `size_px` for every 50 px of a patch.
        size_px: Edge length to which a 50-px patch was resized.

    Returns:
        float32 (batch, 3, height, width) in 0-255, 50 px for every patch.
    """
    if size_px != PATCH_SIZE_PX:
        edges = [round(int(edge) * PATCH_SIZE_PX / size_px) for edge in images.shape[-2:]]
        images = nn.functional.interpolate(images, size=edges, mode="bilinear", align_corners=False)
    return images * 255.0


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
