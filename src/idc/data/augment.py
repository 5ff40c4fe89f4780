"""Random changes of uint8 training patches; the only importer of albumentations."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network

import albumentations as A
import numpy as np

from idc.config import AugmentConfig


class Augmentation:
    """One policy, seeded by (seed, epoch, batch): the same result with any number of workers."""

    def __init__(self, config: AugmentConfig, seed: int) -> None:
        steps: list[A.BasicTransform] = []
        if config.d4:
            steps.append(A.D4(p=1.0))
        if config.he_stain_prob > 0:
            steps.append(A.HEStain(method="random_preset", p=config.he_stain_prob))
        if max(config.brightness, config.contrast, config.saturation, config.hue) > 0:
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

    def __call__(self, pixels: np.ndarray, *, epoch: int, batch: int) -> np.ndarray:
        """Change every patch on its own.

        Args:
            pixels: uint8 (batch, 50, 50, 3) RGB.
            epoch: Number of the epoch, from 0.
            batch: Number of the batch within the epoch, from 0.

        Returns:
            A new array of the same shape and dtype.
        """
        state = np.random.SeedSequence([self._seed, epoch, batch]).generate_state(1)[0]
        self._compose.set_random_seed(int(state))
        return np.stack([self._compose(image=patch)["image"] for patch in pixels])
