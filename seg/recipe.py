"""A recipe: everything that decides a training's result, as frozen data; a field's text is its --help."""

import re
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Annotated, Any, Literal

import tyro

from seg.errors import RequestError

STRIDE_PX = 32
"""Every network here halves its input at most five times; windows fall on this grid."""
Value = bool | int | float | str | tuple["Value", ...] | None
"""What a field of a recipe holds."""
Params = dict[str, Value]
"""Values by the dotted names of a recipe's fields: what one trial of a search tries."""
Tta = Literal["none", "flips", "d4"]
"""Test-time augmentation: which views of a crop are averaged (seg/predict/averaging.py)."""
TTA_VIEWS: dict[Tta, int] = {"none": 1, "flips": 4, "d4": 8}
"""How many they are, for who has no torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What happens to a whole image before it is cut."""

    background_every: int = 0
    """Subtract the mean of every k-th frame of an image's sequence; 0: subtract nothing."""
    background_factor: float = 0.9
    """Share of that mean which is subtracted; its average over the image is added again."""
    channels: Literal[1, 3] = 1
    """Channels the model sees; colour becomes gray by ITU-R BT.601 luma, gray is repeated."""
    blur_px: int = 1
    """Side of a mean filter, an odd number of own pixels; 1: none."""
    shrink: float = 1.0
    """Work at the image's own size divided by this, by area averaging: 3 is a third."""
    size_px: tuple[int, int] | None = None
    """Work at this height and width whatever the image's are, in place of shrink."""
    clahe_clip: float = 0.0
    """Clip limit of contrast-limited adaptive histogram equalisation, for 1 channel; 0: none."""
    clahe_grid: int = 20
    """Its tiles along each side."""
    normalisation: Literal["per_image", "fitted", "percentile", "full_range", "imagenet"] = "per_image"
    """Zero mean, unit variance by each image's own statistics or by the training images'; or to 0..1 from two
    percentiles of each image, or from its bit depth; or as torchvision's pretrained weights want it."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """What percentile normalisation takes to 0 and to 1."""

    def __post_init__(self) -> None:
        self._check_geometry()
        if self.background_every < 0 or not 0 <= self.background_factor < inf:
            raise RequestError(
                f"recipe: preprocessing.background_every is {self.background_every} and background_factor "
                f"{self.background_factor}; neither may be below 0"
            )
        if not 0 <= self.clahe_clip < inf or self.clahe_grid < 1:
            raise RequestError(
                f"recipe: preprocessing.clahe_clip is {self.clahe_clip} on a grid of {self.clahe_grid}; "
                "try `preprocessing.clahe_clip=5` `preprocessing.clahe_grid=20`"
            )
        if self.clahe_clip and self.channels != 1:
            raise RequestError("recipe: preprocessing.clahe_clip is for 1 channel; set it to 0 for colour")
        if self.normalisation == "imagenet" and self.channels != 3:
            raise RequestError("recipe: preprocessing.normalisation imagenet is for 3 channels")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise RequestError(
                f"recipe: preprocessing.percentiles are {low} and {high}, not two rising numbers up to 100"
            )

    def _check_geometry(self) -> None:
        if not 1 <= self.shrink < inf:
            raise RequestError(
                f"recipe: preprocessing.shrink is {self.shrink}, not 1 or more; try `preprocessing.shrink=1`"
            )
        if self.size_px is not None and min(self.size_px) < 1:
            raise RequestError(f"recipe: preprocessing.size_px is {self.size_px}; give height and width")
        if self.size_px is not None and self.shrink != 1:
            raise RequestError(
                f"recipe: preprocessing has both size_px {self.size_px} and shrink {self.shrink}; "
                "choose one: `preprocessing.shrink=1` or `preprocessing.size_px=None`"
            )
        if self.blur_px < 1 or self.blur_px % 2 == 0:
            raise RequestError(
                f"recipe: preprocessing.blur_px is {self.blur_px}, not odd; try `preprocessing.blur_px=3`"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    """Random crops that training reads."""

    size_px: tuple[int, int] = (512, 512)
    """Height and width of a training crop in working pixels, multiples of 32."""
    per_image: int = 1
    """Crops taken from each image in an epoch."""
    on_object_share: float = 0.0
    """Share of crops placed so that they show a pixel of another class than background."""
    flip_rows: bool = False
    """Turn half of the crops upside down."""
    flip_columns: bool = True
    """Mirror half of the crops left to right."""

    def __post_init__(self) -> None:
        _check_grid("crops.size_px", self.size_px)
        _check_positive("crops.per_image", self.per_image)
        if not 0 <= self.on_object_share <= 1:
            raise RequestError(
                f"recipe: crops.on_object_share is {self.on_object_share}, not a share from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What else chance does to a crop of training; flips are the crops' own."""

    rotate_degrees: float = 0.0
    """Turn by up to this many degrees either way; what comes in from beyond the image is ignored."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Enlarge by a factor between these two."""
    brightness: float = 0.0
    """Multiply intensities by up to 1 plus or minus this."""
    contrast: float = 0.0
    """Stretch intensities about their mean by up to 1 plus or minus this."""

    def __post_init__(self) -> None:
        if not 0 <= self.rotate_degrees <= 180:
            raise RequestError(
                f"recipe: augmentation.rotate_degrees is {self.rotate_degrees}, not from 0 to 180"
            )
        if not 0 < self.scale[0] <= self.scale[1] < inf:
            raise RequestError(f"recipe: augmentation.scale is {self.scale}, not two rising factors")
        for name, share in (("brightness", self.brightness), ("contrast", self.contrast)):
            if not 0 <= share <= 1:
                raise RequestError(f"recipe: augmentation.{name} is {share}, not a share from 0 to 1")

    @property
    def moves(self) -> bool:
        """Whether pixels of a crop come from elsewhere than where it lies."""
        return self.rotate_degrees != 0 or self.scale != (1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Windows in which a whole image is predicted."""

    crop_px: tuple[int, int] = (512, 512)
    """Height and width of a window, core and halo, in working pixels: multiples of 32."""
    halo_px: int = 64
    """Context around the core that is predicted and thrown away, in working pixels: a multiple of 16."""

    def __post_init__(self) -> None:
        _check_grid("tiling.crop_px", self.crop_px)
        if self.halo_px < 0 or self.halo_px % 16:
            raise RequestError(
                f"recipe: tiling.halo_px is {self.halo_px}, not a multiple of 16; try `tiling.halo_px=64`"
            )
        if min(self.crop_px) <= 2 * self.halo_px:
            raise RequestError(
                f"recipe: tiling.halo_px {self.halo_px} leaves no core in a crop of {self.crop_px}; lower it"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """Optimiser and schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Rule of the step."""
    lr: float = 1e-3
    """Learning rate; the highest one of the schedule."""
    weight_decay: float = 1e-2
    """Decoupled for adamw, L2 for the others."""
    schedule: Literal["constant", "one_cycle", "step", "cosine", "poly"] = "one_cycle"
    """How the rate moves over the run; one_cycle warms up over the first 30 % (arXiv:1708.07120)."""
    steps: tuple[tuple[int, float], ...] = ()
    """Of the step schedule: pairs of the epoch after which, and the factor at which, lr is taken."""
    poly_power: float = 0.9
    """Of the poly schedule: the exponent of the share of the run that is left."""
    warmup_epochs: float = 0.0
    """Rise to lr in a straight line over so many epochs, then follow the schedule; one_cycle has its own."""
    clip_norm: float = 0.0
    """Scale a step's gradients down to this norm over all of them; 0: never."""
    momentum: float = 0.9
    """Of sgd: share of the step before that each step keeps."""
    nesterov: bool = False
    """Of sgd: look ahead along its momentum."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam and adamw: how much of the gradients' mean and of their squares' each step keeps."""
    eps: float = 1e-8
    """Of adam and adamw: added to the root of the squares' mean."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise RequestError(f"recipe: optimizer.lr is {self.lr}, not above 0; try `optimizer.lr=1e-3`")
        if not 0 <= self.weight_decay < inf:
            raise RequestError(
                f"recipe: optimizer.weight_decay is {self.weight_decay}, not 0 or more; "
                "try `optimizer.weight_decay=0`"
            )
        for name, value in (("warmup_epochs", self.warmup_epochs), ("clip_norm", self.clip_norm)):
            if not 0 <= value < inf:
                raise RequestError(
                    f"recipe: optimizer.{name} is {value}, not 0 or more; try `optimizer.{name}=0`"
                )
        for name, value in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if any(not 0 <= share < 1 for share in value):
                raise RequestError(
                    f"recipe: optimizer.{name} is {getattr(self, name)}, not from 0 to below 1; leave it out"
                )
        if not 0 < self.eps < inf:
            raise RequestError(f"recipe: optimizer.eps is {self.eps}, not above 0; try `optimizer.eps=1e-8`")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise RequestError(
                f"recipe: optimizer.nesterov is for sgd with momentum, not {self.name} with momentum "
                f"{self.momentum}; leave it out"
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if not 0 < self.poly_power < inf:
            raise RequestError(
                f"recipe: optimizer.poly_power is {self.poly_power}, not above 0; "
                "try `optimizer.poly_power=0.9`"
            )
        if self.warmup_epochs and self.schedule == "one_cycle":
            raise RequestError(
                f"recipe: optimizer.warmup_epochs is {self.warmup_epochs}, but one_cycle has one of its "
                "own; set it to 0, or choose `optimizer.schedule=cosine`"
            )
        epochs = [epoch for epoch, _ in self.steps]
        if epochs != sorted(set(epochs)) or any(
            epoch < 1 or not 0 < factor < inf for epoch, factor in self.steps
        ):
            raise RequestError(
                f"recipe: optimizer.steps is {self.steps}; give pairs of rising epochs from 1 and factors "
                "above 0"
            )
        if bool(self.steps) != (self.schedule == "step"):
            raise RequestError(
                f"recipe: optimizer.schedule is {self.schedule} with steps {self.steps}; "
                "the step schedule wants steps, and no other does"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a training's result, but data and seed; a new field belongs into LATER_FIELDS too."""

    name: Annotated[str, tyro.conf.Suppress]
    """Of the recipe that it is, or was before options changed it."""
    dataset: str = "plain"
    """How the data folder is read: plain, camvid, camvid-rgb, pets-binary, pets-trimap, pets-breeds,
    pets-breeds-only or drinks."""
    sequence: str = ""
    """Regular expression on an image's path whose first group names its sequence; empty: its folder."""
    label_map: tuple[tuple[int, int], ...] = ()
    """Pairs: id in the label file, class id (255: ignore)."""
    validation_share: float = 0.2
    """Share of the sequences held out, where the data set gives no split."""
    test_share: float = 0.0
    """Share of all sequences, a test part of the data set's own among them, drawn by the seed as test part in
    place of the given split; 0: the data set's own."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    crops: Crops = field(default_factory=Crops)
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: str = "unet"
    """Architecture: fcn32, fcn, fcn-resnet50, fcn-resnet101, pyramid-fcn, icnet, icnet-gru, unet,
    unet-classic, fpn, or smp/NAME/ENCODER of segmentation-models-pytorch."""
    backbone: str | None = None
    """Its encoder: resnet18, resnet34, resnet50, resnet101, mobilenet_v2, vgg16_bn, resnetv2-56 or
    double-conv, as the architecture takes it; default: its first."""
    model_options: tuple[tuple[str, int], ...] = ()
    """Pairs of name and number for architectures that take some: n_layers of pyramid-fcn."""
    weights: str = "none"
    """What the network starts from: none (chance); torchvision's downloads imagenet (encoder) or coco (all
    of fcn-resnet50 and fcn-resnet101); a file of either; or a model file, or the folder of a run or a search,
    of which what fits is taken."""
    freeze: Literal["none", "encoder"] = "none"
    """What stays as it starts, the running statistics of its batch norm too."""
    encoder_lr_factor: float = 1.0
    """Learning rate of the encoder, as a share of the others': 0.1 to fine-tune."""
    frames: int = 1
    """Frames of a sequence that a model such as icnet-gru sees at once, the one to predict last."""
    loss: str = "cross_entropy"
    """cross_entropy, asymmetric, focal, dice or lovasz, or a sum, with parameters:
    focal(alpha=0.8,gamma=2)+dice."""
    class_weights: tuple[float, ...] | Literal["median_frequency"] = ()
    """Weight of each class in the loss, in id order; empty: all 1; or median_frequency balancing."""
    output_weights: tuple[float, ...] = ()
    """What each output of a model with several counts in the loss, finest first; empty: the model's own."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    batch: int = 8
    """Crops in a step, over all workers."""
    accumulate: int = 1
    """Parts, one after another, in which a worker computes its share of a batch: less memory."""
    epochs: int = 20
    """Passes over the training images."""
    patience: int = 0
    """Stop after so many epochs that were no better on validation; 0: never."""
    monitor: Literal["miou", "loss"] = "miou"
    """What makes an epoch better, for patience and best.safetensors: a higher mIoU, or a lower loss, on
    validation."""
    tta: Tta = "none"
    """How validation sees a crop: as it is; or the mean probability of its mirror images too, or of all eight
    that turning and mirroring make of it; 4 or 8 times the work. The weights kept are the network's own."""
    precision: Literal["float32", "bf16", "fp16"] = "bf16"
    """What forward and backward compute in; weights and losses stay float32; fp16 has a loss scale.

    Where bf16 is not asked for, and no GPU and a CPU without its instructions compute, jobs take float32.
    """
    ema_decay: float = 0.0
    """Keep a moving average of the weights, of which each step leaves this share: 0.999; 0: none."""
    batch_norm: Literal["own", "synchronised", "frozen"] = "own"
    """What batch norm sees: its worker's crops; all workers' (on GPUs alone); or none, kept as it starts."""
    compile: bool = False
    """Compile the network by torch.compile: minutes at the start, faster steps."""
    tiling: Tiling = field(default_factory=Tiling)

    def __post_init__(self) -> None:
        _check_positive("batch", self.batch)
        _check_positive("epochs", self.epochs)
        _check_positive("frames", self.frames)
        _check_positive("accumulate", self.accumulate)
        self._check_start()
        if not 0 <= self.ema_decay < 1:
            raise RequestError(
                f"recipe: ema_decay is {self.ema_decay}, not from 0 to below 1; try `ema_decay=0.999`"
            )
        if self.patience < 0:
            raise RequestError(f"recipe: patience is {self.patience}, below 0; try `patience=0`")
        if not 0 < self.validation_share < 1:
            raise RequestError(
                f"recipe: validation_share is {self.validation_share}, not between 0 and 1; try 0.2"
            )
        if not 0 <= self.test_share < 1:
            raise RequestError(
                f"recipe: test_share is {self.test_share}, not from 0 to below 1; try `test_share=0.05`"
            )
        if any(not 0 <= number <= 255 for pair in self.label_map for number in pair):
            raise RequestError(f"recipe: label_map is {self.label_map}, but ids go from 0 to 255")
        try:
            re.compile(self.sequence)
        except re.error as error:
            raise RequestError(
                f"recipe: sequence {self.sequence!r} is no regular expression: {error}"
            ) from None

    def _check_start(self) -> None:
        if not 0 < self.encoder_lr_factor < inf:
            raise RequestError(
                f"recipe: encoder_lr_factor is {self.encoder_lr_factor}, not above 0; "
                "try `encoder_lr_factor=0.1`, or `freeze=encoder`"
            )
        if self.freeze == "encoder" and self.weights == "none":
            raise RequestError(
                "recipe: freeze is encoder with weights none, which would keep what chance drew; "
                "give `weights=imagenet` or a model file"
            )
        if self.freeze == "encoder" and self.encoder_lr_factor != 1:
            raise RequestError(
                f"recipe: freeze is encoder with encoder_lr_factor {self.encoder_lr_factor}, which "
                "then moves nothing; choose one of them"
            )


LATER_FIELDS = (
    "monitor",
    "tta",
    "test_share",
    "freeze",
    "encoder_lr_factor",
    "optimizer.momentum",
    "optimizer.nesterov",
    "optimizer.betas",
    "optimizer.eps",
)
"""Fields that came later, and whose default is what recipes did before."""


def recipe_identity(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields as plain data, but for later ones at their default: runs from before keep theirs."""
    values, usual = asdict(recipe), asdict(Recipe(name=recipe.name))
    for name in LATER_FIELDS:
        group, _, entry = name.rpartition(".")
        own, default = (values[group], usual[group]) if group else (values, usual)
        if own[entry] == default[entry]:
            del own[entry]
    return values


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise RequestError(f"recipe: {name} is {value}, not a positive whole number; try `{name}=1`")


def _check_grid(name: str, size: tuple[int, int]) -> None:
    if any(side < STRIDE_PX or side % STRIDE_PX for side in size):
        raise RequestError(f"recipe: {name} is {size}, not multiples of {STRIDE_PX}; try `{name}=512 512`")


def as_tuples(value: Any) -> Any:
    """A value from JSON, which has lists alone, with tuples in their place, at every depth."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value


def short_value(value: Value) -> str:
    """A field's value where there is little room."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def apply_params(recipe: Recipe, params: Params) -> Recipe:
    """The recipe with other values, all set at once. RequestError: they do not go together."""
    groups: dict[str, Params] = {}
    for name, value in params.items():
        group, _, entry = name.rpartition(".")
        groups.setdefault(group, {})[entry] = value
    own = groups.pop("", {})
    inner = {group: replace(getattr(recipe, group), **values) for group, values in groups.items()}
    return replace(recipe, **own, **inner)
