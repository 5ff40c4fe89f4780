"""The registered model: PNG or JPEG bytes of patches in, probability and prediction out.

MLflow logs this file as code (models-from-code), so nothing of ours is pickled. It also runs it to
log it: torch and timm are imported by `load_context`, for `publish` needs neither.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from idc.core.checksums import require_unchanged
from idc.core.errors import InputError
from idc.data.ingest.decoding import (
    UnreadableError,
    decode_patch,
    is_image_file,
    pad_to_patch,
)
from idc.data.patches import PATCH_SHAPE

_BATCH_SIZE = 256
# a picture of one pixel, 100 bytes of a request, takes 7.5 kB as a patch: 60 MB at a time
_PATCHES_AT_ONCE = 32 * _BATCH_SIZE
_MAX_NAMES, _MAX_SHOWN = 5, 200  # of columns, in a message


class FusionModel(PythonModel):
    """Score patches as the stage predict does, then apply the frozen operating point."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights, spec and operating point from the logged folder.

        Raises:
            InputError: If one of them is missing or damaged, or the point is of another model.
        """
        import torch

        from idc.evaluation.threshold.operating_point import OperatingPoint
        from idc.models.bundle import load_model
        from idc.models.scoring.patches import PatchScorer
        from idc.models.spec import digest_bundle

        bundle = Path(context.artifacts["bundle"])
        require_unchanged(bundle.parent.parent)  # the model's folder, with this code
        model, spec = load_model(bundle)
        self._scorer = PatchScorer(model, spec.size_px, _BATCH_SIZE, torch.device("cpu"))
        self._point = OperatingPoint.load(
            Path(context.artifacts["operating_point"]), model_digest=digest_bundle(bundle)
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  MLflow passes it by name
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002  as above
    ) -> pd.DataFrame:
        """Score patches.

        Args:
            context: Unused; MLflow passes it.
            model_input: Column `image`: bytes of a PNG or JPEG of at most 50x50 px, or the same
                in base64, as text or bytes: MLflow's server hands on either, by the kind of
                request. There may be no rows.
            params: Unused; MLflow passes it.

        Returns:
            `probability` of IDC+ (calibrated, 0-1) and `prediction` (0 or 1), indexed like the
            input.

        Raises:
            InputError: If there is not one such column; naming the first image that cannot be
                read.
        """
        images = _images_of(model_input)
        logits = np.zeros(len(images), np.float32)
        for start in range(0, len(images), _PATCHES_AT_ONCE):
            pixels = _read_patches(start, images[start : start + _PATCHES_AT_ONCE])
            logits[start : start + len(pixels)] = self._scorer.score(
                pixels, np.arange(len(pixels)), d4_average=self._point.d4_average
            )
        return pd.DataFrame(
            {
                "probability": self._point.score(logits).astype(np.float64),
                "prediction": self._point.predict(logits).astype(np.int64),
            },
            index=model_input.index,
        )


def _images_of(table: pd.DataFrame) -> list[object]:
    columns = [" ".join(str(column).split()) for column in table.columns]
    if columns.count("image") != 1:
        number = "no column is" if "image" not in columns else "more than one column is"
        raise InputError(
            f"{number} called image, there are {', '.join(columns[:_MAX_NAMES])[:_MAX_SHOWN]}",
            fix="send a column image with the bytes of a PNG or JPEG each",
        )
    images: list[object] = table.iloc[:, columns.index("image")].tolist()
    return images


def _read_patches(first: int, images: list[object]) -> np.ndarray:
    """Return uint8 (images, 50, 50, 3); the images are numbered from `first` on, for messages."""
    pixels = np.zeros((len(images), *PATCH_SHAPE), np.uint8)
    for i, image in enumerate(images):
        pixels[i] = _read_patch(first + i, image)
    return pixels


def _read_patch(place: int, image: object) -> np.ndarray:
    try:
        return pad_to_patch(decode_patch(_to_bytes(image))[0])
    except UnreadableError as error:
        raise InputError(f"image {place}: {error}") from None


def _to_bytes(image: object) -> bytes:
    """Return the bytes of an image file from them or from base64, as text or bytes.

    Raises:
        UnreadableError: If it is something else.
    """
    if isinstance(image, str):
        image = image.encode(errors="replace")
    if not isinstance(image, bytes | bytearray | memoryview):
        kind = type(image).__name__
        raise UnreadableError(f"is a {kind}, not the bytes of a PNG or JPEG, nor their base64")
    content = bytes(image)
    if is_image_file(content):
        return content
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise UnreadableError("is neither PNG nor JPEG, nor base64 of one") from None


set_model(FusionModel())
