"""The one table of attribution methods: a new method is one entry here."""

from dataclasses import dataclass

from pytorch_grad_cam import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
)

from idc.explain.maps.attributions import (
    PixelAttribution,
    input_x_gradient,
    integrated_gradients,
    mean_of_channels,
    occlusion,
    saliency,
    smooth_grad,
    strongest_channel,
    sum_of_channels,
)
from idc.explain.maps.cams import Cam, SignedEigenCAM, ZeroAblationCAM


@dataclass(frozen=True)
class Method:
    """How a map is made, and how it is to be read."""

    name: str
    """Key in `explain.methods`."""
    title: str
    """As people write it."""
    how: PixelAttribution | Cam
    """By captum, for every pixel; or by pytorch-grad-cam, from the feature maps of a layer."""
    signed: bool = False
    """Whether values below 0 stand for evidence against IDC+."""
    class_specific: bool = True
    """Whether the map depends on what is asked; EigenCAM shows what is salient for anything."""
    costly: bool = False
    """Whether a patch takes thousands of forward passes; never on by default."""

    @property
    def hides_opposition(self) -> bool:
        """Whether evidence against IDC+ shows only in the map of the negated logit."""
        return isinstance(self.how, Cam) and self.class_specific

    @property
    def is_signed(self) -> bool:
        """Whether the map says for which class a place speaks, not only that it matters."""
        return self.signed or self.hides_opposition


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("saliency", "Saliency", PixelAttribution(saliency, strongest_channel)),
        Method(
            "input_x_gradient",
            "Input x gradient",
            PixelAttribution(input_x_gradient, sum_of_channels),
            signed=True,
        ),
        Method("smooth_grad", "SmoothGrad", PixelAttribution(smooth_grad, strongest_channel)),
        Method(
            "integrated_gradients",
            "Integrated Gradients",
            PixelAttribution(integrated_gradients, sum_of_channels),
            signed=True,
        ),
        Method(
            "occlusion", "Occlusion", PixelAttribution(occlusion, mean_of_channels), signed=True
        ),
        Method("grad_cam", "Grad-CAM", Cam(GradCAM)),
        Method("grad_cam_pp", "Grad-CAM++", Cam(GradCAMPlusPlus)),
        Method("hires_cam", "HiResCAM", Cam(HiResCAM)),
        Method("layer_cam", "LayerCAM", Cam(LayerCAM)),
        Method("eigen_cam", "EigenCAM", Cam(SignedEigenCAM), class_specific=False),
        Method("score_cam", "Score-CAM", Cam(ScoreCAM), costly=True),
        Method("ablation_cam", "Ablation-CAM", Cam(ZeroAblationCAM), costly=True),
    )
}
"""By name, in the order in which they are best read."""
