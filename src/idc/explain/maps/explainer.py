"""Where the evidence for IDC+ lies: one map per backbone and one for the fusion, by any method.

What is explained. The head is linear, so the logit is a constant plus one *contribution* per
member: w_m . (embedding_m - mean training embedding_m), which is Integrated Gradients on the
embedding from the training mean (Sundararajan et al. 2017), and exact. A backbone's map explains
its contribution; the map of `fused` explains the logit. A texture member contributes, but has no
map of its own.

How maps are fused. A captum method is linear in what it explains, so its attributions are summed
over the members before the channels become one: that is the method applied to the logit. A CAM
reads one layer of one backbone and has no common scale: each map is brought to a sum of 1, and the
fused map is their sum weighted by |contribution|. A texture member has no layer for a CAM to read:
the fused CAM is of the backbones alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from idc.core.errors import InputError
from idc.core.progress import track
from idc.data.patches import PATCH_SIZE_PX
from idc.explain.maps.attributions import AttributionBudget, PixelAttribution
from idc.explain.maps.cams import Cam, draw_cam
from idc.explain.maps.methods import METHODS, Method
from idc.explain.panels.panel import FUSED
from idc.models.backbones.backbone import Backbone
from idc.models.networks.fusion import FusionCNN
from idc.models.networks.texture_member import TextureMember


class NotFiniteMapError(InputError):
    """A map holds NaN or infinity."""

    def __init__(self, method: str, source: str, patch: int) -> None:
        super().__init__(
            f"{method} of {source} is not a number for patch {patch}: the network overflows there; "
            "train it again, or leave the method out of explain.methods"
        )
        self.method = method
        self.source = source
        self.patch = patch
        """Position among the explained patches, from 0."""


class Explainer:
    """Maps and contributions of a trained network."""

    def __init__(
        self,
        model: FusionCNN,
        size_px: int,
        mean_embedding: Tensor,
        device: torch.device,
        budget: AttributionBudget,
        cam_layers: Mapping[str, str] | None = None,
    ) -> None:
        """Put the model into evaluation mode, on the device, without in-place activations.

        Args:
            model: Used as it is at every call: weights may change in between.
            size_px: Edge length to which the network wants a 50-px patch resized.
            mean_embedding: Mean training embedding, float32 (num_features,), where contributions
                are 0.
            device: Where to compute.
            budget: Images at once, and the seed of noise.
            cam_layers: timm module path by backbone, whose output CAMs read; others, and None:
                the deepest layer of stride 16.

        Raises:
            InputError: If a backbone or layer of `cam_layers` does not exist.
        """
        self._model = model.to(device).eval()
        _switch_off_in_place(model)
        self._size_px = size_px
        self._device = device
        self._budget = budget
        self._layers = _find_cam_layers(model.branches, cam_layers or {})
        sizes = [member.num_features for member in model.members]
        with _gradients():
            means = mean_embedding.detach().to(device).clone().split(sizes)  # type: ignore[no-untyped-call]
        ends = np.cumsum(sizes)
        self._contributions = [
            _Contribution(member, model.head[-1], slice(end - size, end), mean, size_px)
            for member, size, end, mean in zip(model.members, sizes, ends, means, strict=True)
        ]
        self.sources = [*(backbone.name for backbone in model.branches), FUSED]
        """What has maps: the backbones, then `fused`."""
        self.members = [member.name for member in model.members]
        """What contributes: the backbones, then the texture member, where there is one."""

    def explain(
        self, method: str, pixels: np.ndarray, *, negated: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the maps of some patches, by source.

        Args:
            method: Name in `idc.explain.maps.methods.METHODS`.
            pixels: uint8 (patches, height, width, 3); 50x50, or larger: the network sees
                `size_px` for every 50 px.
            negated: Explain the negated logit: what speaks against IDC+. CAMs show only what
                speaks for something. Signed maps change their sign, others stay as they are.

        Returns:
            For each backbone and `fused` float32 (patches, height, width). Values compare within a
            map; below 0 only if the method is signed.

        Raises:
            InputError: If a CAM layer gives no feature map.
            NotFiniteMapError: If a map holds NaN or infinity.
        """
        chosen = METHODS[method]
        sign = -1 if negated else 1
        with _gradients():
            batches = [
                self._attribute(chosen.how, images, sign)
                if isinstance(chosen.how, PixelAttribution)
                else self._draw_cams(chosen.how, images, sign)
                for images in self._batches(pixels)
            ]
        none = np.zeros((0, *pixels.shape[1:3]), np.float32)
        maps = {
            source: np.concatenate([none, *(batch[source].numpy() for batch in batches)])
            for source in self.sources
        }
        _require_finite(chosen, maps)
        return maps

    def contributions(self, pixels: np.ndarray) -> np.ndarray:
        """Return what each of `members` adds to the logit, float32 (patches, members).

        They sum to the logit of the patch minus the logit of the mean training embedding.
        """
        return self.logits(pixels)[:, 1:]

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the fused logit, then each contribution, float32 (patches, 1 + members)."""
        rows = [np.zeros((0, 1 + len(self.members)), np.float32)]
        with torch.inference_mode():
            for images in self._batches(pixels):
                parts = torch.stack([part(images) for part in self._contributions], dim=1)
                logit = parts.sum(dim=1) + self._logit_of_mean()
                rows.append(torch.cat([logit[:, None], parts], dim=1).cpu().numpy())
        return np.concatenate(rows)

    def _logit_of_mean(self) -> Tensor:
        return self._model.classify([part.mean[None] for part in self._contributions])

    def _batches(self, pixels: np.ndarray) -> Iterator[Tensor]:
        """Yield float32 images (batch, 3, height, width) in 0-1, as large as the patches are."""
        starts = range(0, len(pixels), self._budget.batch_size)
        for start in track(starts, total=len(starts), what="explaining"):
            chunk = np.ascontiguousarray(pixels[start : start + self._budget.batch_size])
            moved = torch.from_numpy(chunk).to(self._device)
            yield moved.permute(0, 3, 1, 2).float() / 255.0

    def _attribute(self, how: PixelAttribution, images: Tensor, sign: int) -> dict[str, Tensor]:
        parts = [
            sign * how.attribute(contribution, images, self._budget).detach()
            for contribution in self._contributions
        ]
        of_backbones = parts[: len(self._layers)]
        fused = torch.stack(parts).sum(dim=0)
        return {
            source: how.reduce(part).float().cpu()
            for source, part in zip(self.sources, [*of_backbones, fused], strict=True)
        }

    def _draw_cams(self, how: Cam, images: Tensor, sign: int) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        fused = torch.zeros(len(images), *images.shape[-2:])
        of_backbones = self._contributions[: len(self._layers)]
        for contribution, layer in zip(of_backbones, self._layers, strict=True):
            cam, output = draw_cam(how.kind, contribution, layer, images, sign=sign)
            maps[contribution.member.name] = cam
            mass = cam.sum(dim=(1, 2), keepdim=True)
            share = torch.where(mass > 0, cam / mass, cam)  # an empty map adds nothing
            fused += output.abs()[:, None, None] * share
        return maps | {FUSED: fused}


class _Contribution(nn.Module):
    """What one member adds to the logit.

    Shape:
        images: float32 (batch, 3, height, width) in 0-1, as large as the patches are.
        returns: (batch,).
    """

    mean: Tensor

    def __init__(
        self,
        member: Backbone | TextureMember,
        linear: nn.Module,
        place: slice,
        mean: Tensor,
        size_px: int,
    ) -> None:
        super().__init__()
        self.member = member
        self.linear = linear
        self._place = place
        self.register_buffer("mean", mean)
        self._scale = size_px / PATCH_SIZE_PX

    def forward(self, images: Tensor) -> Tensor:
        size = [round(edge * self._scale) for edge in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = nn.functional.interpolate(
                images, size=size, mode="bilinear", align_corners=False
            )
        embedding = self.member(images.contiguous(memory_format=torch.channels_last))
        weight: Tensor = self.linear.weight[0, self._place]  # type: ignore[index]
        contribution: Tensor = (embedding - self.mean) @ weight
        return contribution


@contextmanager
def _gradients() -> Iterator[None]:
    """Record gradients, even where the caller has switched that off."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def _switch_off_in_place(model: nn.Module) -> None:
    """DenseNet's in-place activations overwrite what the backward pass needs."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def _find_cam_layers(branches: list[Backbone], named: Mapping[str, str]) -> list[nn.Module]:
    names = [backbone.name for backbone in branches]
    for name in named:
        if name not in names:
            raise InputError(
                f"explain.cam_layers: the model has no backbone {name}; it has {', '.join(names)}"
            )
    return [
        _find_layer(backbone, named[backbone.name])
        if backbone.name in named
        else backbone.cam_layer()
        for backbone in branches
    ]


def _find_layer(backbone: Backbone, path: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(backbone.net.named_modules())
    if not path or path not in layers:
        shallow = [name for name in layers if name and name.count(".") < 2]
        raise InputError(
            f"explain.cam_layers: {backbone.name} has no layer {path!r}; it has "
            f"{', '.join(shallow)}, and those inside them"
        )
    return layers[path]


def _require_finite(method: Method, maps: Mapping[str, np.ndarray]) -> None:
    for source, heat in maps.items():
        wrong = np.flatnonzero(~np.isfinite(heat).all(axis=(1, 2)))
        if len(wrong):
            raise NotFiniteMapError(method.title, source, int(wrong[0]))
