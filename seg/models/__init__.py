"""The architectures by the name that a recipe and a model file give them."""

from seg.models.fcn import FCN
from seg.models.fcn32 import FCN32
from seg.models.fcn_resnet import FCNResNet50, FCNResNet101
from seg.models.fpn import FPN
from seg.models.icnet import ICNet
from seg.models.icnet_gru import ICNetGRU
from seg.models.pyramid_fcn import PyramidFCN
from seg.models.unet import UNet
from seg.models.unet_classic import UNetClassic

MODELS = {
    "fcn32": FCN32,
    "fcn": FCN,
    "fcn-resnet50": FCNResNet50,
    "fcn-resnet101": FCNResNet101,
    "pyramid-fcn": PyramidFCN,
    "icnet": ICNet,
    "icnet-gru": ICNetGRU,
    "unet": UNet,
    "unet-classic": UNetClassic,
    "fpn": FPN,
}
"""A class takes (num_classes, channels, backbone=None), options of its own as keyword-only integers, and
carries constants:

BACKBONES: the names it knows, the default first.
OUTPUT_WEIGHTS: what each output of training counts in the loss, the finest first; without it there is one.
OLDER_TENSORS: tensors that it once had, each with what changed since; files that hold one are refused.
TORCHVISION: torchvision's name of it, where torchvision has weights of all of it.
TAKES_FRAMES: True in a sequence model alone; its input is [N, K, channels, H, W], and it predicts the last.

In eval it gives float logits [N, C, H, W] at the input's size; in training a tuple of logits, finest first
and perhaps coarser than the input, where it has several outputs. A backbone that pretrained weights can fill
is its attribute `features`, one of seg.models.backbones.
"""
