import pytest
import torch

from tests.random_networks import random_backbone


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_backbone_when_given_images_then_its_embedding_has_num_features(name):
    backbone = random_backbone(name).eval()
    assert backbone(torch.rand(2, 3, 32, 32)).shape == (2, backbone.num_features)


def test_cam_layer_when_asked_then_its_maps_have_stride_16():
    backbone, shapes = random_backbone("test_resnet").eval(), []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(maps.shape[2:]))
    backbone(torch.rand(1, 3, 64, 64))
    assert shapes == [(4, 4)]


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50", "densenet121"])
def test_cam_layer_when_an_image_has_96_px_then_its_maps_have_6x6_cells(name):
    backbone, shapes = random_backbone(name).eval(), []
    backbone.cam_layer().register_forward_hook(lambda _, __, maps: shapes.append(maps.shape[2:]))
    with torch.no_grad():
        backbone(torch.rand(1, 3, 96, 96))
    assert shapes == [(6, 6)]
