"""The fused logit and each member's contribution, as fast as patches can be scored."""

import numpy as np
import torch
from torch import Tensor, nn

from idc.data.images import to_images
from idc.explain.scores.faithfulness import Score
from idc.models.networks.fusion import FusionCNN
from idc.models.scoring.inference import create_scorer

_BATCH = 256


class MemberScores(nn.Module):
    """The network as it is, with the logit taken apart.

    The head is linear, so the logit is its value at the mean training embedding plus one
    contribution per member (see `idc.explain.maps.explainer`).

    Shape:
        images: float32 (batch, 3, size_px, size_px) in 0-1.
        returns: (batch, 1 + members), the fused logit first.
    """

    mean: Tensor

    def __init__(self, model: FusionCNN, mean_embedding: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean_embedding.detach().clone())
        self._last: nn.Linear = model.head[-1]  # type: ignore[assignment]
        self._sizes = [member.num_features for member in model.members]

    def forward(self, images: Tensor) -> Tensor:
        """Return the fused logit, then each contribution."""
        embeddings = self.model.embed(images)
        means: tuple[Tensor, ...] = self.mean.split(self._sizes)  # type: ignore[no-untyped-call]
        weights: tuple[Tensor, ...] = self._last.weight[0].split(self._sizes)  # type: ignore[no-untyped-call]
        parts = [
            ((embedding - mean) * part).sum(dim=1)
            for embedding, mean, part in zip(embeddings, means, weights, strict=True)
        ]
        return torch.stack([self.model.classify(embeddings), *parts], dim=1)


def create_score(
    model: FusionCNN,
    mean_embedding: Tensor,
    *,
    size_px: int,
    device: torch.device,
    num_patches: int,
) -> Score:
    """Return what scores patches: uint8 (n, 50, 50, 3) to float32 (n, 1 + members).

    Args:
        model: In evaluation mode, on `device`.
        mean_embedding: Mean training embedding, float32 (features,).
        size_px: Edge length the network expects.
        device: Where to compute.
        num_patches: How many will be scored in all; many are worth a conversion to ONNX.
    """
    each = MemberScores(model, mean_embedding).to(device).eval()
    scorer = create_scorer(each, device, size_px, num_images=num_patches)

    @torch.inference_mode()
    def score(pixels: np.ndarray) -> np.ndarray:
        batches = [
            scorer(to_images(torch.from_numpy(part), size_px=size_px, device=device))
            for part in np.split(pixels, range(_BATCH, len(pixels), _BATCH))
        ]
        return torch.cat(batches).cpu().numpy()

    return score
