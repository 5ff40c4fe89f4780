import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.pixel import functional

from idc.core.config import AugmentConfig
from idc.data.batches.augment import stain_presets
from idc.data.batches.device_augment import (
    DeviceAugmentation,
    blend,
    grey,
    jitter_stain,
    shift_hue,
    turn,
)

WHOLE = AugmentConfig(
    d4=True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, he_stain_prob=0.5
)
NUM_PATCHES = 40
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (NUM_PATCHES, 50, 50, 3), dtype=np.uint8)
    patches[0] = 0
    patches[1] = 255
    patches[2, ..., 1:] = patches[2, ..., :1]  # grey: hue and saturation have nothing to turn
    return patches


def to_planes(pixels):
    return torch.from_numpy(pixels).flatten(1, 2).transpose(1, 2).float().contiguous()


def to_pixels(planes):
    return planes.transpose(1, 2).reshape(-1, 50, 50, planes.shape[1]).numpy()


def share_equal(got, wanted):
    return np.mean(got == wanted)


def test_grey_when_compared_with_opencv_then_is_equal(pixels):
    wanted = np.stack([cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY) for patch in pixels])
    np.testing.assert_array_equal(to_pixels(grey(to_planes(pixels)))[..., 0], wanted)


@pytest.mark.parametrize(
    ("step", "reference"),
    [
        (BRIGHTNESS, functional.adjust_brightness_torchvision),
        (CONTRAST, functional.adjust_contrast_torchvision),
        (SATURATION, functional.adjust_saturation_torchvision),
    ],
)
def test_blend_when_compared_with_albumentations_then_is_equal(pixels, step, reference):
    factors = np.random.default_rng(2).uniform(0.5, 1.5, NUM_PATCHES)
    got = blend(
        to_planes(pixels), torch.full((NUM_PATCHES,), float(step)), torch.tensor(factors).float()
    )
    wanted = np.stack([reference(p, float(f)) for p, f in zip(pixels, factors, strict=True)])
    assert share_equal(to_pixels(got), wanted) > 0.9999
    np.testing.assert_allclose(to_pixels(got), wanted, atol=1)


def test_blend_when_the_step_is_hue_then_changes_nothing(pixels):
    planes = to_planes(pixels)
    step = torch.full((NUM_PATCHES,), float(HUE))
    assert torch.equal(blend(planes, step, torch.full((NUM_PATCHES,), 0.1)), planes)


def opencv_hue(patch, shift):
    """Turn in OpenCV's whole numbers, as albumentations does, but back by OpenCV's float path."""
    hsv = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV)
    turned = np.trunc(np.mod(hsv[..., 0] + 180 * shift, 180))
    whole = np.stack([2 * turned, hsv[..., 1] / 255, hsv[..., 2] / 255], axis=-1)
    return np.rint(255 * cv2.cvtColor(whole.astype(np.float32), cv2.COLOR_HSV2RGB))


def test_shift_hue_when_compared_with_opencv_then_is_nearly_equal_and_unbiased(pixels):
    shifts = np.linspace(-0.5, 0.5, NUM_PATCHES)
    got = to_pixels(shift_hue(to_planes(pixels), torch.tensor(shifts).float()))
    wanted = np.stack([opencv_hue(p, s) for p, s in zip(pixels, shifts, strict=True)])
    assert share_equal(got, wanted) > 0.95
    assert abs(np.mean(got - wanted)) < 0.01


def test_shift_hue_when_the_circle_is_turned_by_a_third_then_channels_change_places():
    red = torch.tensor([200.0, 50.0, 50.0]).reshape(1, 3, 1)
    assert shift_hue(red, torch.tensor([1 / 3])).flatten().tolist() == [50, 200, 50]
    assert shift_hue(red, torch.tensor([-1 / 3])).flatten().tolist() == [50, 50, 200]


def test_jitter_stain_when_compared_with_albumentations_then_is_equal(pixels):
    rng = np.random.default_rng(1)
    matrices = stain_presets()[rng.integers(0, 8, NUM_PATCHES)]
    scale, shift = rng.uniform(0.7, 1.3, (40, 2)), rng.uniform(-0.2, 0.2, (40, 2))
    unmix = np.linalg.pinv(matrices)
    got = jitter_stain(
        to_planes(pixels),
        torch.tensor(unmix @ (scale[..., None] * matrices)).float(),
        torch.tensor(np.einsum("ns,nsc->nc", shift, matrices)).float(),
        torch.tensor(unmix @ matrices).float(),
    )
    wanted = np.stack(
        [
            functional.apply_he_stain_augmentation(patch, *how, augment_background=False)
            for patch, *how in zip(pixels, matrices, scale, shift, strict=True)
        ]
    )
    assert share_equal(to_pixels(got), wanted) > 0.999
    np.testing.assert_allclose(to_pixels(got), wanted, atol=1)


def test_turn_when_all_three_bits_vary_then_gives_eight_different_views():
    patch = torch.arange(2500, dtype=torch.int32).reshape(1, 50, 50, 1).repeat(8, 1, 1, 1)
    bits = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)]).float()
    views = turn(patch, bits).flatten(1)
    assert len(torch.unique(views, dim=0)) == 8
    assert torch.equal(views.sort(dim=1).values, patch.flatten(1))


def test_device_augmentation_when_one_step_is_switched_off_then_the_others_draw_the_same(pixels):
    off = WHOLE.model_copy(update={"he_stain_prob": 0.0, "hue": 0.0, "saturation": 0.0})
    turned = off.model_copy(update={"d4": False})
    before = torch.from_numpy(pixels)
    with_d4 = DeviceAugmentation(off, 17)(before, epoch=0, batch=0)
    without = DeviceAugmentation(turned, 17)(before, epoch=0, batch=0)
    # symmetries move pixels about and change none of them
    levels = [torch.sort(changed.flatten(1), dim=1).values for changed in (with_d4, without)]
    assert torch.equal(*levels)


def test_device_augmentation_when_the_batch_is_larger_than_a_block_then_changes_all(pixels):
    many = torch.from_numpy(np.concatenate([pixels] * 7))
    augment = DeviceAugmentation(WHOLE, 17)
    changed = augment(many, epoch=0, batch=0)
    assert changed.shape == many.shape
    last = slice(len(many) - NUM_PATCHES, len(many))
    assert torch.equal(changed[last], augment(many[last], epoch=0, batch=0, positions=last))


def test_device_augmentation_when_within_autocast_then_computes_as_outside(pixels):
    augment = DeviceAugmentation(WHOLE, 17)
    wanted = augment(torch.from_numpy(pixels), epoch=0, batch=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(torch.from_numpy(pixels), epoch=0, batch=0), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_augmentation_when_on_a_gpu_then_agrees_with_the_cpu_and_never_waits(pixels):
    augment = DeviceAugmentation(WHOLE, 17)
    wanted = augment(torch.from_numpy(pixels), epoch=0, batch=0)
    moved = torch.from_numpy(pixels).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = augment(moved, epoch=0, batch=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert share_equal(got.cpu().numpy(), wanted.numpy()) > 0.99
