"""Logits and embeddings of many patches, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from idc.core.config import Precision
from idc.core.progress import track
from idc.data.images import to_images
from idc.models.networks.fusion import FusionCNN
from idc.models.scoring.inference import create_scorer

Network = TypeVar("Network", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class PatchScorer(Generic[Network]):
    """A network and how patches are fed to it.

    Every method puts the network into evaluation mode and leaves it there. Results stay on the
    device until the last batch: fetching those of each would make the CPU wait for a GPU.
    """

    model: Network
    """A `FusionCNN`, or a `MemberLogits` for the logit of every head; on `device`."""
    size_px: int
    """Edge length the network expects."""
    batch_size: int
    """Patches per forward pass."""
    device: torch.device
    """Where to compute."""
    precision: Precision = "fp32"
    """Arithmetic of the backbones where logits are computed; embeddings are fp32."""

    @torch.inference_mode()
    def score(
        self, pixels: np.ndarray, rows: np.ndarray, *, d4_average: bool = False
    ) -> np.ndarray:
        """Return the logit of each patch, float32 (rows,) or (rows, heads).

        On a GPU fp32 is what torch makes of it (TF32 in convolutions, unless switched off). The
        same call twice on the same CPU gives equal bytes.

        Args:
            pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
            rows: Which patches.
            d4_average: Return the mean logit over the eight symmetries of the square, at eight
                times the cost; it does not depend on how a patch is turned or mirrored.
        """
        self.model.eval()
        score = create_scorer(
            self.model,
            self.device,
            self.size_px,
            num_images=len(rows) * (8 if d4_average else 1),
            precision=self.precision,
        )
        logits = [
            torch.stack([score(view) for view in symmetries(images)]).mean(dim=0)
            if d4_average
            else score(images)
            for images in self.images(pixels, rows, "scoring")
        ]
        return torch.cat(logits).cpu().numpy()

    @torch.inference_mode()
    def embed(
        self: "PatchScorer[FusionCNN]", pixels: np.ndarray, rows: np.ndarray
    ) -> list[np.ndarray]:
        """Return the embeddings of some patches, one float32 (rows, features) per member.

        Args:
            pixels: uint8 (patches, 50, 50, 3), may be memory-mapped.
            rows: Which patches; there may be none.
        """
        self.model.eval()
        parts = [
            [torch.zeros(0, member.num_features, device=self.device)]
            for member in self.model.members
        ]
        for images in self.images(pixels, rows, "embedding"):
            for part, embedding in zip(parts, self.model.embed(images), strict=True):
                part.append(embedding.float())
        return [torch.cat(part).cpu().numpy() for part in parts]

    @torch.inference_mode()
    def mean_embedding(
        self: "PatchScorer[FusionCNN]", pixels: np.ndarray, rows: np.ndarray
    ) -> Tensor:
        """Return the mean concatenated embedding of the patches, float32 (num_features,)."""
        self.model.eval()
        total: Tensor | None = None
        for images in self.images(pixels, rows, "embedding"):
            batch_sum = torch.cat(self.model.embed(images), dim=1).double().sum(dim=0)
            total = batch_sum if total is None else total + batch_sum
        assert total is not None, "no patch to embed"
        return (total / len(rows)).float().cpu()

    def images(self, pixels: np.ndarray, rows: np.ndarray, what: str) -> Iterator[Tensor]:
        """Yield the patches as image batches (see `to_images`), with a progress named `what`."""
        starts = range(0, len(rows), self.batch_size)
        for start in track(starts, total=len(starts), what=what):
            batch = torch.from_numpy(pixels[rows[start : start + self.batch_size]])
            yield to_images(batch, size_px=self.size_px, device=self.device)


def symmetries(images: Tensor) -> Iterator[Tensor]:
    """Yield the images (..., edge, edge) in the eight symmetries of the square, unchanged first."""
    for quarter_turns in range(4):
        turned = torch.rot90(images, quarter_turns, dims=(-2, -1))
        yield turned
        yield turned.flip(-1)
