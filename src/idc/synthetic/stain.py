"""From amounts of two stains to colour, by the Beer-Lambert law."""

from dataclasses import dataclass

import cv2
import numpy as np

from idc.synthetic.fields import white_noise


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned.

    Attributes:
        haematoxylin: Optical density of red, green and blue per unit, (3,).
        eosin: The same for eosin, (3,).
        white: Grey level of a pixel without tissue, 0-255.
        noise: SD of the scanner's noise in grey levels.
    """

    haematoxylin: np.ndarray
    eosin: np.ndarray
    white: float
    noise: float

    def colour(
        self, rng: np.random.Generator, haematoxylin: np.ndarray, eosin: np.ndarray
    ) -> np.ndarray:
        """Turn amounts of stain, float32 (rows, columns), into uint8 RGB (rows, columns, 3)."""
        channels = []
        for per_haematoxylin, per_eosin in zip(self.haematoxylin, self.eosin, strict=True):
            density = haematoxylin * np.float32(per_haematoxylin)
            density += eosin * np.float32(per_eosin)
            light = cv2.exp(-density)
            light *= np.float32(self.white)
            light += np.float32(self.noise) * white_noise(rng, light.shape)
            channels.append(np.clip(light, 0, 255).astype(np.uint8))
        return np.asarray(cv2.merge(channels))
