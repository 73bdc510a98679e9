"""What a recipe can name, as data that needs no torch: networks with their sizes, losses, data sets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from seg.errors import RequestError, describe_unknown
from seg.recipe import Recipe

SMP = "smp/"
"""Before the name of a network of segmentation-models-pytorch, which checks it."""


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture, key of seg.models.MODELS."""

    what: str
    parameters: Mapping[str, tuple[int, int]]
    """By backbone, the default first: with two classes, of 1 channel and of 3."""


NETWORKS = {
    "fcn32": Network("FCN-32s on VGG16, arXiv:1411.4038", {"vgg16_bn": (134_292_418, 134_293_570)}),
    "fcn": Network(
        "FCN, one learned upsampling by 8, arXiv:1411.4038",
        {
            "resnet18": (11_466_434, 11_472_706),
            "resnet34": (21_574_594, 21_580_866),
            "resnet50": (24_682_690, 24_688_962),
        },
    ),
    "fcn-resnet50": Network("torchvision's fcn_resnet50", {"resnet50": (32_940_994, 32_947_266)}),
    "fcn-resnet101": Network("torchvision's fcn_resnet101", {"resnet101": (51_933_122, 51_939_394)}),
    "pyramid-fcn": Network(
        "FCN on a map pooled and strided n_layers times", {"resnetv2-56": (15_227_442, 15_227_730)}
    ),
    "icnet": Network(
        "ICNet, three scales at once, arXiv:1704.08545",
        {
            "resnet18": (11_799_014, 11_805_862),
            "resnet34": (21_907_174, 21_914_022),
            "resnet50": (24_572_902, 24_579_750),
            "mobilenet_v2": (3_036_390, 3_037_542),
        },
    ),
    "icnet-gru": Network(
        "ICNet that sees the frames before an image",
        {
            "resnet18": (15_339_494, 15_346_342),
            "resnet34": (25_447_654, 25_454_502),
            "resnet50": (28_113_382, 28_120_230),
            "mobilenet_v2": (6_576_870, 6_578_022),
        },
    ),
    "unet": Network(
        "U-Net with a light decoder, for few cores, arXiv:1505.04597",
        {
            "resnet18": (12_470_786, 12_477_058),
            "resnet34": (22_578_946, 22_585_218),
            "resnet50": (27_732_994, 27_739_266),
            "mobilenet_v2": (4_143_618, 4_144_194),
        },
    ),
    "unet-classic": Network(
        "U-Net of 64 to 1024 channels, arXiv:1505.04597", {"double-conv": (28_946_626, 28_947_778)}
    ),
    "fpn": Network(
        "Semantic FPN, arXiv:1901.02446",
        {
            "mobilenet_v2": (4_214_978, 4_215_554),
            "resnet18": (13_041_090, 13_047_362),
            "resnet34": (23_149_250, 23_155_522),
            "resnet50": (26_109_890, 26_116_162),
        },
    ),
}
LOSSES = {
    "asymmetric": (
        "asymmetric(gamma_neg=4,gamma_pos=0,smoothing=0.1)",
        "cross entropy with a focus of its own on other classes, arXiv:2009.14119",
    ),
    "cross_entropy": ("cross_entropy(smoothing=0)", "negative log-likelihood of the true class"),
    "dice": ("dice", "1 - Dice of each class and crop, arXiv:1707.03237"),
    "focal": ("focal(alpha=1,gamma=2)", "cross entropy on hard pixels above all, arXiv:1708.02002"),
    "lovasz": ("lovasz", "a surrogate of 1 - IoU of each class and crop, arXiv:1705.08790"),
}
"""Key of seg.train.losses.LOSSES; with all that it takes, at its defaults; what it is."""
DATASETS = {
    "plain": "images/ beside masks/ or boxes/, with classes.txt",
    "camvid": "CamVid with train.txt and val.txt, which name images and masks of ids",
    "camvid-rgb": "CamVid in folders train, val and train_labels, val_labels of coloured masks",
    "pets-binary": "Oxford-IIIT Pet: pet and background, the border ignored",
    "pets-trimap": "Oxford-IIIT Pet: pet, background and border",
    "pets-breeds": "Oxford-IIIT Pet: 37 breeds and background, the border ignored",
    "pets-breeds-only": "Oxford-IIIT Pet: 37 breeds, all else ignored",
    "drinks": "drinks: segmentation_train.json beside its images",
}
"""Key of seg.data.DATASETS; the folder that it reads."""
LOSS_NAME = re.compile(r"(?:^|\+)\s*([A-Za-z_][^()+]*?)\s*(?=\(|\+|$)")


def backbone_of(recipe: Recipe) -> str:
    """A recipe's backbone, also where it leaves it to the architecture, one of ours."""
    return recipe.backbone or next(iter(NETWORKS[recipe.model].parameters))


def count_parameters(recipe: Recipe) -> int:
    """Of a recipe's network, one of ours without `model_options`, with two classes."""
    gray, colour = NETWORKS[recipe.model].parameters[backbone_of(recipe)]
    return gray if recipe.preprocessing.channels == 1 else colour


def list_encoders() -> dict[str, list[str]]:
    """The architectures that take each backbone."""
    found: dict[str, list[str]] = {}
    for name, network in NETWORKS.items():
        for backbone in network.parameters:
            found.setdefault(backbone, []).append(name)
    return found


def check_names(recipe: Recipe) -> None:
    """RequestError: a data set, architecture, backbone or loss that nobody knows, with the near names.

    What is in the name of a network of another library, and in a loss's parentheses, is checked where it is
    built.
    """
    if recipe.dataset not in DATASETS:
        raise RequestError(describe_unknown("dataset", recipe.dataset, DATASETS))
    for name in LOSS_NAME.findall(recipe.loss):
        if name not in LOSSES:
            raise RequestError(describe_unknown("loss", name, LOSSES))
    if recipe.model.startswith(SMP):
        return
    if recipe.model not in NETWORKS:
        raise RequestError(describe_unknown("architecture", recipe.model, NETWORKS))
    known = NETWORKS[recipe.model].parameters
    if recipe.backbone is not None and recipe.backbone not in known:
        raise RequestError(describe_unknown(f"backbone of {recipe.model}", recipe.backbone, known))
