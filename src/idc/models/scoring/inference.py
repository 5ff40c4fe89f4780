"""Many patches through a trained network, fast: on a CPU by ONNX Runtime, on a GPU by torch.

Batch norms fold into the convolutions and the layout suits the vector units. Arithmetic stays fp32,
and logits agree with those of the plain network within 1e-3; on request torch computes the
backbones in bf16, where they do not. How it was chosen, and what lost: docs/log.md,
`make bench-predict`.
"""

import copy
import io
import logging
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from idc.core.config import Precision
from idc.models.backbones.backbone import Backbone
from idc.models.networks.cpu_convolutions import adapt_convolutions
from idc.models.networks.device import use_bf16

log = logging.getLogger(__name__)

Scorer = Callable[[Tensor], Tensor]
"""Images float32 (batch, 3, size_px, size_px) in 0-1 -> logits float32 (batch,), same device."""

_MAX_DIFFERENCE = 1e-3  # share of the logit, or of 1 where that is larger
_WORTH_CONVERTING = 2000  # images whose gain pays for the seconds of the conversion
_CPU_BATCH = 32  # activations of more images leave the caches: a batch of 128 is a quarter slower
_CPU_BATCH_BF16 = 64  # an activation takes half the bytes; 32 was a tenth slower


@torch.inference_mode()
def create_scorer(
    model: nn.Module,
    device: torch.device,
    size_px: int,
    *,
    num_images: int,
    precision: Precision = "fp32",
) -> Scorer:
    """Return what scores images fastest, as the network is now: later training does not reach it.

    On a CPU, in fp32, with enough images the network is converted to ONNX, which takes seconds. A
    network that cannot be converted, or whose conversion answers differently, is scored by torch,
    with a warning: an added backbone may be slower, but not wrong.

    Args:
        model: (batch, 3, size_px, size_px) images to (batch,) logits; on `device`, in evaluation
            mode, unchanged by this.
        device: Where images will come from and logits will be.
        size_px: Edge length of the images.
        num_images: How many will be scored in all; few are not worth a conversion.
        precision: Arithmetic of the backbones; normalisation, heads and texture member are fp32.

    Returns:
        The scorer. Equal images in equal batches give equal bits, on the same machine with the
        same number of threads.
    """
    on_cpu = device.type == "cpu"
    if use_bf16(precision, device):
        reduced = partial(_score, _reduce_to_bf16(model, on_cpu=on_cpu))
        return _in_pieces(reduced, _CPU_BATCH_BF16) if on_cpu else reduced
    if not on_cpu:
        return partial(_score, model)
    if num_images >= _WORTH_CONVERTING:
        try:
            return _in_pieces(_convert(model, size_px), _CPU_BATCH)
        except _NotConvertibleError as error:
            log.warning("scoring at the speed of plain torch: %s", error)
    return _in_pieces(partial(_score, model), _CPU_BATCH)


class _NotConvertibleError(Exception):
    """A network that ONNX cannot express."""


@torch.inference_mode()
def _score(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


class _BF16Net(nn.Module):
    """A timm network in bf16: images and embeddings stay fp32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        exact = [copy.deepcopy(norm.state_dict()) for norm in norms]
        self.net = net.to(torch.bfloat16).to(memory_format=torch.channels_last)
        # norms stay fp32: the mean they subtract may be far larger than what is left
        for norm, state in zip(norms, exact, strict=True):
            norm.float().load_state_dict(state)

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(torch.bfloat16, memory_format=torch.channels_last)
        embedding: Tensor = self.net(images)
        return embedding.float()


@torch.inference_mode(mode=False)  # a CPU takes four times as long over weights made within
def _reduce_to_bf16(model: nn.Module, *, on_cpu: bool) -> nn.Module:
    """Return a copy whose backbones compute in bf16."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Backbone):
            module.net = _BF16Net(module.net)
            if on_cpu:
                adapt_convolutions(module.net)
    return model


def _in_pieces(scorer: Scorer, num_images: int) -> Scorer:
    def score(images: Tensor) -> Tensor:
        pieces: tuple[Tensor, ...] = images.split(num_images)  # type: ignore[no-untyped-call]
        return torch.cat([scorer(piece) for piece in pieces])

    return score


def _convert(model: nn.Module, size_px: int) -> Scorer:
    """Return the network in ONNX Runtime after comparing it with the plain one.

    Raises:
        _NotConvertibleError: If it cannot be converted, or the two differ.
    """
    probes = _draw_probes(size_px)
    try:
        converted = _open_session(_export(model, probes[0][:2]))
        difference = min(_difference(model, converted, images) for images in probes)
    except Exception as error:  # exporter and runtime raise whatever their layers raise
        first_line = (str(error).splitlines() or [""])[0]
        raise _NotConvertibleError(f"{type(error).__name__}: {first_line}") from error
    if not difference <= _MAX_DIFFERENCE:
        raise _NotConvertibleError(f"logits after conversion to ONNX differ by {difference:.2g}")
    return converted


def _difference(model: nn.Module, converted: Scorer, images: Tensor) -> float:
    """Return the largest difference of a logit, as a share of it, or of 1 where that is larger."""
    plain = _score(model, images)
    return float(((converted(images) - plain) / plain.abs().clamp(min=1.0)).abs().max())


def _draw_probes(size_px: int) -> list[Tensor]:
    """Return three images each of blots in the colours of tissue and of noise, in 0-1.

    A conversion that is wrong is wrong on any images. But on those far from what a network has
    learnt from, logits can reach 70, of which rounding alone moves more than is allowed: so the
    smaller difference counts. Three images after an export with two: tracing may freeze a batch
    size or drop a branch.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 3, size_px, size_px, generator=generator)
    blots = torch.rand(3, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(blots, size=size_px, mode="bilinear", align_corners=False)
    return [0.5 * smooth + torch.tensor([0.5, 0.3, 0.5]).view(1, 3, 1, 1), noise]


def _export(model: nn.Module, images: Tensor) -> bytes:
    network = io.BytesIO()
    with warnings.catch_warnings():
        # it calls itself deprecated; its successor needs two packages more, onnxscript and onnx-ir
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            network,  # type: ignore[arg-type]  # without dynamo it takes a file as well
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
    return network.getvalue()


def _open_session(network: bytes) -> Scorer:
    import onnxruntime  # here, for what scores few images does without it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.use_deterministic_compute = True
    # a waiting thread that spins takes its core from whatever else runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def score(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return score
