"""Random changes of uint8 training patches, patch by patch; the only importer of albumentations."""

import random

import albumentations as A
import numpy as np
from albumentations.augmentations.pixel import functional

from idc.core.config import AugmentConfig

_STAIN_SCALE = (0.7, 1.3)
_STAIN_SHIFT = (-0.2, 0.2)


class Augmentation:
    """One policy, seeded by (seed, epoch, batch, position in the batch).

    So the result is the same with any number of workers, and however a batch is divided.
    """

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        steps: list[A.BasicTransform] = []
        if config.d4:
            steps.append(A.D4(p=1.0))
        if config.he_stain_prob > 0:
            steps.append(
                A.HEStain(
                    method="random_preset",
                    intensity_scale_range=_STAIN_SCALE,
                    intensity_shift_range=_STAIN_SHIFT,
                    augment_background=False,
                    p=config.he_stain_prob,
                )
            )
        if _jitters_colour(config):
            steps.append(
                A.ColorJitter(
                    brightness=(1 - config.brightness, 1 + config.brightness),
                    contrast=(1 - config.contrast, 1 + config.contrast),
                    saturation=(1 - config.saturation, 1 + config.saturation),
                    hue=(-config.hue, config.hue),
                    p=1.0,
                )
            )
        self._seed = seed
        self._compose = A.Compose(steps)

    def __call__(
        self, pixels: np.ndarray, *, epoch: int, batch: int, positions: slice | None = None
    ) -> np.ndarray:
        """Change every patch on its own.

        Args:
            pixels: uint8 (n, 50, 50, 3) RGB.
            epoch: Number of the epoch, from 0.
            batch: Number of the batch within the epoch, from 0.
            positions: Where in the global batch these patches stand; None: from its beginning.

        Returns:
            A new array of the same shape and dtype.

        Raises:
            ValueError: If `positions` are not as many as the patches.
        """
        where = _span(positions, len(pixels))
        sequence = np.random.SeedSequence([self._seed, epoch, batch])
        # word i does not depend on how many are drawn, so a part draws what the whole would
        seeds = sequence.generate_state(where.stop, np.uint64)[where].tolist()
        return np.stack([self._change(patch, s) for patch, s in zip(pixels, seeds, strict=True)])

    def _change(self, patch: np.ndarray, seed: int) -> np.ndarray:
        # one pair of generators for all steps: `set_random_seed` would let every step draw the same
        # numbers (only patches that become darker would be stained), and takes three times as long
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed: np.ndarray = self._compose(image=patch)["image"]
        return changed


def _span(positions: slice | None, num_patches: int) -> slice:
    """Return the positions with start and stop; raise if they are not `num_patches`."""
    if positions is None:
        return slice(0, num_patches)
    start, stop = positions.start or 0, positions.stop
    if positions.step not in (None, 1) or start < 0 or stop is None or stop - start != num_patches:
        raise ValueError(f"{positions} are not {num_patches} contiguous positions in a batch")
    return slice(start, stop)


def _jitters_colour(config: AugmentConfig) -> bool:
    return max(config.brightness, config.contrast, config.saturation, config.hue) > 0


def stain_presets() -> np.ndarray:
    """Return the optical density of haematoxylin and eosin in RGB, float64 (8, 2, 3).

    The presets of albumentations 2.0.8: Ruifrok & Johnston 2001, Macenko 2009, and variants.
    """
    return np.stack(list(functional.STAIN_MATRICES.values()))
