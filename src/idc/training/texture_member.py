"""Learns the texture member of a fusion from the training patches."""

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from idc.data.images import to_images
from idc.models.networks.texture_member import TextureMember, to_grey_levels
from idc.models.texture.dictionary import fit_regression, learn_dictionary

_CPU = torch.device("cpu")
_ROWS_PER_CHUNK = 8  # what one chunk makes stays in the processor's cache


@torch.no_grad()  # not inference_mode, through whose tensors no gradient can pass
def learn_texture_member(
    pixels: np.ndarray, rows: np.ndarray, labels: np.ndarray, *, size_px: int, seed: int
) -> TextureMember:
    """Learn a dictionary of textures without labels, and a logistic regression on its answers.

    Both see patches as the texture member will: resized for the network and back.

    Args:
        pixels: uint8 (patches, 50, 50, 3) RGB, may be memory-mapped.
        rows: The training patches, in order of case, (train,).
        labels: Their labels, 0 or 1, both there, (train,).
        size_px: Edge length to which the network's images are resized.
        seed: Seed of the dictionary.

    Returns:
        The texture member, on the CPU. The same call on the same machine gives equal bits.
    """

    def look(patches: np.ndarray) -> np.ndarray:
        grey = to_grey_levels(_to_images(patches, size_px), size_px=size_px)
        return grey.permute(0, 2, 3, 1).numpy()

    dictionary = learn_dictionary(pixels, rows, seed, look=look)
    member = TextureMember(size_px, num_atoms=len(dictionary.filters))
    member.filters.copy_(dictionary.filters)
    member.offsets.copy_(dictionary.offsets)
    features = _describe(member, pixels, rows, size_px)
    scaler = StandardScaler(copy=False)
    model = fit_regression(scaler.fit_transform(features), labels)
    learnt = {"mean": scaler.mean_, "scale": scaler.scale_}
    learnt |= {"weight": model.coef_[0], "bias": model.intercept_}
    for name, values in learnt.items():
        member.get_parameter(name).copy_(torch.from_numpy(np.asarray(values)))
    return member


def _describe(
    member: TextureMember, pixels: np.ndarray, rows: np.ndarray, size_px: int
) -> np.ndarray:
    features = np.empty((len(rows), len(member.weight)), np.float32)
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        chunk = slice(start, start + _ROWS_PER_CHUNK)
        features[chunk] = member.describe(_to_images(pixels[rows[chunk]], size_px)).numpy()
    return features


def _to_images(patches: np.ndarray, size_px: int) -> Tensor:
    return to_images(torch.from_numpy(patches), size_px=size_px, device=_CPU)
