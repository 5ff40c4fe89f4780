"""Does a map change when the network is destroyed: cascading parameter randomisation.

Adebayo et al. 2018 (arXiv:1810.03292): learnt parameters are replaced by fresh ones from the head
downwards, and the maps of each damaged network are compared with those of the intact one. A method
whose maps stay as they were draws the picture and not the network.

Three steps, each keeping the damage of those before: the `head`; `deep`, the layers behind the ones
whose maps a CAM reads; `all`, a texture member with them. After each, the batch norms measure
their statistics anew on the patches at hand: with the old ones the activations of a random network
vanish or explode, and every map would change for that reason alone. So the last step is also what
an untrained network is.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from idc.explain.scores.similarity import rank_correlation
from idc.models.backbones.backbone import Backbone
from idc.models.networks.fusion import FusionCNN

STEPS = ("head", "deep", "all")

MAX_SIMILARITY = 0.5
"""Mean rank correlation with the intact network's maps above which, with all parameters replaced, a
method fails: half way from unrelated (0) to unchanged (1), nearer to the map that it should not
remember. Edges and dark nuclei, which any network sees, leave some correlation; so 0 cannot be
asked for."""


def randomised(model: FusionCNN, step: str, images: Tensor, *, seed: int) -> FusionCNN:
    """Return a copy with fresh parameters down to this step; the model itself is untouched.

    Args:
        model: The intact network, in evaluation mode.
        step: One of `STEPS`.
        images: float32 (batch, 3, height, width) in 0-1, on the model's device, to measure the
            batch norms on.
        seed: Seed of the fresh parameters.
    """
    damaged = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in _layers_down_to(damaged, step):
            _renew(module)
    _measure_norms(damaged, images)
    return damaged.eval()


def similarity(intact: np.ndarray, damaged: np.ndarray) -> dict[str, np.ndarray]:
    """Return how alike the maps of two networks are, per patch, each -1 to 1.

    `signed` is the rank correlation of the maps as they are shown, on which the verdict rests, and
    `absolute` that of their strengths. Two constant maps are alike.

    Args:
        intact: float (patches, height, width).
        damaged: The same shape.
    """
    first, second = (maps.reshape(len(maps), -1) for maps in (intact, damaged))
    return {
        "signed": rank_correlation(first, second),
        "absolute": rank_correlation(np.abs(first), np.abs(second)),
    }


def changes(mean_similarity: float) -> bool:
    """Say whether a method passes, from its mean `signed` similarity after the step `all`."""
    return mean_similarity <= MAX_SIMILARITY


def _layers_down_to(model: FusionCNN, step: str) -> Iterator[nn.Module]:
    """Yield the modules that hold parameters themselves, each once."""
    yield from _holders(model.head)
    for branch in model.branches:
        if step == "deep":
            yield from _holders_behind_cam_layer(branch)
        elif step == "all":
            yield from _holders(branch)
    if step == "all" and model.texture is not None:
        yield from _holders(model.texture)


def _holders(module: nn.Module) -> Iterator[nn.Module]:
    for each in module.modules():
        if next(each.parameters(recurse=False), None) is not None:
            yield each


def _holders_behind_cam_layer(branch: Backbone) -> Iterator[nn.Module]:
    """Yield what comes after the CAM layer; timm registers layers in the order of use."""
    layers = list(branch.modules())
    last = list(branch.last_mapped_layer().modules())[-1]
    place = next(number for number, each in enumerate(layers) if each is last)
    behind = {id(each) for each in layers[place + 1 :]}
    yield from (each for each in _holders(branch) if id(each) in behind)


def _renew(module: nn.Module) -> None:
    """Draw the parameters again, as torch initialises them; what has no such way is shuffled."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            shuffled = parameter.flatten()[torch.randperm(parameter.numel())]
            parameter.copy_(shuffled.view_as(parameter))


@torch.no_grad()
def _measure_norms(model: FusionCNN, images: Tensor) -> None:
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    model.embed(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
