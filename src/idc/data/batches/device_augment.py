"""The policy of `idc.data.batches.augment` on whole batches of uint8 patches, on any torch device.

Random numbers are drawn on the host and travel in one transfer; nothing waits for the device.
Each step means what it means in albumentations 2.0.8 and OpenCV: grey levels between steps are
whole numbers; brightness and contrast cut off the fraction, the others round it; hue lives on a
circle of 180 whole degrees. OpenCV 5 itself rounds HSV to RGB only in the columns that its vector
instructions leave over (18 of 50 with AVX2) and cuts the others off; here all are rounded.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from idc.core.config import AugmentConfig
from idc.data.batches.augment import STAIN_SCALE, STAIN_SHIFT, jitters_colour, span, stain_presets

# columns of the uniform numbers of a patch; the same for every policy, so that switching one step
# off leaves the draws of the others as they were
_SYMMETRY = slice(0, 3)
_STRENGTH = slice(3, 7)  # of brightness, contrast, saturation, hue
_ORDER = slice(7, 11)
_STAINED, _PRESET = 11, 12
_SCALE = slice(13, 15)
_SHIFT = slice(15, 17)
_NUM_UNIFORMS = 17

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_NUM_COLOUR_STEPS = 4
# ITU-R BT.601 in fixed point, as OpenCV rounds it; sums stay below 2^24, exact in float32
_GREY_WEIGHTS = (9798.0, 19235.0, 3735.0)
_GREY_UNIT = 32768.0
_DEGREES = 180.0  # of OpenCV's hue in uint8
_SEXTANT = 30.0
_MIN_INTENSITY = 1e-6
_BACKGROUND = 0.85  # luminance from which a pixel is no tissue
_REGULARISATION = 1e-6
# the float planes of so many patches fit the cache of a CPU core; a GPU takes all at once
_CPU_BLOCK = 128


class DeviceAugmentation:
    """One policy, seeded by (seed, epoch, batch); each position has random numbers of its own."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._presets = stain_presets()

    def __call__(
        self, pixels: Tensor, *, epoch: int, batch: int, positions: slice | None = None
    ) -> Tensor:
        """Change every patch on its own, on the device where the pixels are.

        Args:
            pixels: uint8 (n, 50, 50, 3) RGB.
            epoch: Number of the epoch, from 0.
            batch: Number of the batch within the epoch, from 0.
            positions: Where in the global batch these patches stand; None: from its beginning.

        Returns:
            A new tensor of the same shape and dtype, on the same device.

        Raises:
            ValueError: If `positions` are not as many as the patches.
        """
        where = span(positions, len(pixels))
        rng = np.random.default_rng([self._seed, epoch, batch])
        # row i does not depend on how many are drawn, so a part draws what the whole would
        uniforms = rng.random((where.stop, _NUM_UNIFORMS))[where]
        size = _CPU_BLOCK if pixels.device.type == "cpu" else max(1, len(pixels))
        numbers = np.split(uniforms, range(size, len(uniforms), size))
        blocks = zip(torch.split(pixels, size), numbers, strict=True)
        # within a training step's autocast the stain would be computed in bf16
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            return torch.cat([self._change(*block) for block in blocks])

    def _change(self, pixels: Tensor, uniforms: np.ndarray) -> Tensor:
        plan = _move(self._draw(uniforms), pixels.device)
        if self._config.d4:
            pixels = turn(pixels, plan["symmetry"])
        if "strength" not in plan and "stained" not in plan:
            return pixels
        planes = pixels.flatten(1, 2).transpose(1, 2).float().contiguous()
        if "stained" in plan:
            rows = plan["stained"].long()
            stained = jitter_stain(planes[rows], plan["change"], plan["shift"], plan["keep"])
            planes = planes.index_copy(0, rows, stained)
        if "strength" in plan:
            planes = self._jitter_colour(planes, plan)
        return planes.to(torch.uint8).transpose(1, 2).reshape(pixels.shape).contiguous()

    def _draw(self, uniforms: np.ndarray) -> dict[str, np.ndarray]:
        """Turn uniform numbers (n, 17) into what `_change` does to each patch."""
        plan = {}
        if self._config.d4:
            plan["symmetry"] = uniforms[:, _SYMMETRY] < 0.5
        if self._config.he_stain_prob > 0:
            plan |= self._draw_stain(uniforms)
        if jitters_colour(self._config):
            plan |= self._draw_colour(uniforms)
        return plan

    def _draw_stain(self, uniforms: np.ndarray) -> dict[str, np.ndarray]:
        (rows,) = np.nonzero(uniforms[:, _STAINED] < self._config.he_stain_prob)
        numbers = uniforms[rows]
        presets = self._presets[(numbers[:, _PRESET] * len(self._presets)).astype(int)]
        scale = _between(*STAIN_SCALE, numbers[:, _SCALE])
        shift = _between(*STAIN_SHIFT, numbers[:, _SHIFT])
        unmix = _unmixing(presets)
        return {
            "stained": rows,
            "change": unmix @ (scale[:, :, None] * presets),
            "shift": np.einsum("ns,nsc->nc", shift, presets),
            "keep": unmix @ presets,
        }

    def _draw_colour(self, uniforms: np.ndarray) -> dict[str, np.ndarray]:
        config = self._config
        most = np.array([config.brightness, config.contrast, config.saturation, config.hue])
        strengths = _between(-most, most, uniforms[:, _STRENGTH])
        strengths[:, :_HUE] += 1  # factors; the last one is a shift
        order = np.argsort(uniforms[:, _ORDER], axis=1)
        plan = {"step": order, "strength": np.take_along_axis(strengths, order, axis=1)}
        if config.hue > 0:
            for place in range(_NUM_COLOUR_STEPS):
                (plan[f"hue{place}"],) = np.nonzero(order[:, place] == _HUE)
        return plan

    def _jitter_colour(self, planes: Tensor, plan: Mapping[str, Tensor]) -> Tensor:
        """Apply to each patch its four steps, in its own order."""
        for place in range(_NUM_COLOUR_STEPS):
            step, strength = plan["step"][:, place], plan["strength"][:, place]
            blended = blend(planes, step, strength)
            if f"hue{place}" in plan:
                rows = plan[f"hue{place}"].long()
                blended = blended.index_copy(0, rows, shift_hue(planes[rows], strength[rows]))
            planes = blended
        return planes


def turn(pixels: Tensor, symmetry: Tensor) -> Tensor:
    """Show each patch in one of the eight symmetries of the square.

    Args:
        pixels: (n, size, size, channels).
        symmetry: (n, 3), above 0 where to transpose, to flip rows, to flip columns, in this order.

    Returns:
        A new tensor of the same shape and dtype.
    """
    transpose, rows, columns = (symmetry > 0).T[..., None, None, None]
    pixels = torch.where(transpose, pixels.transpose(1, 2), pixels)
    pixels = torch.where(rows, pixels.flip(1), pixels)
    return torch.where(columns, pixels.flip(2), pixels)


def grey(planes: Tensor) -> Tensor:
    """Return the grey levels, whole numbers float32 (n, 1, pixels), of RGB (n, 3, pixels)."""
    red, green, blue = planes.unbind(1)
    weights = _GREY_WEIGHTS
    weighted = weights[0] * red + weights[1] * green + weights[2] * blue
    return torch.floor(weighted / _GREY_UNIT + 0.5)[:, None]


def blend(planes: Tensor, step: Tensor, factor: Tensor) -> Tensor:
    """Scale each patch's distance from black, from its mean grey, or from each pixel's grey.

    Args:
        planes: Whole numbers 0-255, float32 (n, 3, pixels).
        step: (n,), 0 brightness, 1 contrast, 2 saturation; any other leaves the patch as it is.
        factor: (n,), 1 changes nothing.

    Returns:
        Whole numbers 0-255, float32 (n, 3, pixels).
    """
    step, factor = step[:, None, None], factor[:, None, None]
    factor = torch.where(step < _HUE, factor, 1.0)
    levels = grey(planes)
    mean = torch.where(step == _CONTRAST, levels.mean(dim=2, keepdim=True), 0.0)
    origin = torch.where(step == _SATURATION, levels, mean)
    moved = planes * factor + origin * (1 - factor)
    # brightness and contrast cut off the fraction, saturation rounds it
    return torch.where(step == _SATURATION, moved.round(), moved.floor()).clamp(0, 255)


def shift_hue(planes: Tensor, shift: Tensor) -> Tensor:
    """Turn hues through HSV with OpenCV's whole numbers: hue 0-179, saturation and value 0-255.

    Args:
        planes: Whole numbers 0-255, float32 (n, 3, pixels).
        shift: (n,), share of the circle.

    Returns:
        Whole numbers 0-255, float32 (n, 3, pixels).
    """
    red, green, blue = planes.unbind(1)
    value = planes.amax(1)
    chroma = value - planes.amin(1)
    divisor = chroma.clamp(min=1)
    saturation = torch.floor(255 * chroma / value.clamp(min=1) + 0.5)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue = torch.floor(sixth * _SEXTANT + 0.5)
    hue = torch.where(hue < 0, hue + _DEGREES, hue)
    turned = torch.floor(torch.remainder(hue + _DEGREES * shift[:, None], _DEGREES))
    depth = value * saturation / 255
    channels = [value - depth * _distance(turned / _SEXTANT, place) for place in (5, 3, 1)]
    return torch.stack(channels, dim=1).round()


def _distance(sextant: Tensor, place: int) -> Tensor:
    """Return how far (0-1) a channel is from a hue: Smith 1978 in closed form."""
    around = torch.remainder(sextant + place, 6)
    return torch.minimum(around, 4 - around).clamp(0, 1)


def jitter_stain(planes: Tensor, change: Tensor, shift: Tensor, keep: Tensor) -> Tensor:
    """Change the optical density (Beer-Lambert) of tissue; white background is only unmixed.

    Args:
        planes: Whole numbers 0-255, float32 (n, 3, pixels).
        change: (n, 3, 3), density of a tissue pixel to its changed density, from the right.
        shift: (n, 3), density added to tissue pixels.
        keep: (n, 3, 3), as `change` for background.

    Returns:
        Whole numbers 0-255, float32 (n, 3, pixels).
    """
    intensity = (planes / 255).clamp(min=_MIN_INTENSITY)
    red, green, blue = intensity.unbind(1)
    tissue = 0.299 * red + 0.587 * green + 0.114 * blue < _BACKGROUND
    density = -intensity.log()
    changed = torch.baddbmm(shift[:, :, None], change.transpose(1, 2), density)
    kept = keep.transpose(1, 2) @ density
    return torch.round(255 * torch.exp(-torch.where(tissue[:, None], changed, kept)).clamp(0, 1))


def _unmixing(presets: np.ndarray) -> np.ndarray:
    """Return the matrices (n, 3, 2) from optical density to concentrations of two stains."""
    transposed = presets.transpose(0, 2, 1)
    return transposed @ np.linalg.inv(presets @ transposed + _REGULARISATION * np.eye(2))


def _between(low: float | np.ndarray, high: float | np.ndarray, share: np.ndarray) -> np.ndarray:
    return low + (high - low) * share


def _move(plan: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Bring all arrays to the device as float32, in one transfer that nobody waits for."""
    if not plan:
        return {}
    joined = np.concatenate([array.ravel() for array in plan.values()]).astype(np.float32)
    flat = torch.from_numpy(joined)
    if device.type == "cuda":
        flat = flat.pin_memory()
    moved = flat.to(device, non_blocking=True)
    parts = torch.split(moved, [array.size for array in plan.values()])
    return {
        name: part.view(array.shape)
        for (name, array), part in zip(plan.items(), parts, strict=True)
    }
