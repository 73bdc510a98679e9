"""The architectures by the name that a recipe and a model file give them."""

from seg.models.fcn import FCN
from seg.models.icnet import ICNet
from seg.models.unet import UNet

MODELS = {
    "fcn": FCN,
    "icnet": ICNet,
    "unet": UNet,
}
"""A class takes (num_classes, channels, backbone=None) and carries two constants:

BACKBONES: the names it knows, the default first.
OUTPUT_WEIGHTS: what each output of training counts in the loss, the finest first.
In eval it gives float logits [N, C, H, W] at the input's size; in training a tuple of logits, finest first
and perhaps coarser than the input, where it has several outputs.
"""
