"""What jobs are asked for: one dataclass a job, whose field texts are its --help."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, Suppress, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from seg.recipe import Recipe, Tta
from seg.recipes import RECIPES

if TYPE_CHECKING:
    from seg.storage import Place
else:
    Place = object  # of which tyro makes none: it asks PLACE

Workers = int | tuple[int, int]
"""How many processes; or the fewest and the most, where a cluster may shrink and grow meanwhile."""
BoxForm = Literal["filled", "ellipse"]
"""What a box that is drawn means: all its pixels, or the ellipse in it."""

COUNT = arg(metavar="N")
FOLDER = arg(metavar="DIR")
PATTERNS = arg(metavar="PATTERN ...")


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """A recipe, the data it reads, and where its results go."""

    recipe: Annotated[Recipe, arg(name="")] = field(default_factory=lambda: RECIPES["interferogram-small"])
    data: Annotated[Path | None, FOLDER] = None
    """Folder of the data set; default: $FRINGE_DATA, else an archive simulated once under data/simulated."""
    labels: Annotated[Path | None, FOLDER] = None
    """Folder of the labels, in the same folders as the images or in none; default: masks/ or boxes/ in
    --data."""
    label_suffix: Annotated[str, arg(metavar="TEXT")] = ""
    """What a label's name has after its image's: _mask, where a.tif has a_mask.png."""
    foreground: Annotated[int | None, arg(metavar="ID")] = None
    """The id in the masks that is class 1, all others being 0: 255 for masks of 0 and 255; in place of
    --label-map."""
    label_colours: Annotated[Path | None, arg(metavar="FILE")] = None
    """What the colours of RGB masks mean: a line a class, R G B NAME, in id order; of the name ignore: not
    counted."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Names of the classes after background, where there is no classes.txt; default: object."""
    follow_links: bool = False
    """Enter linked folders, and read files behind links that leave --data or --labels."""
    out: Annotated[Path | None, FOLDER] = None
    """Folder of the results; default: runs/ or search/RECIPE-HASH, the hash over recipe, data and seed."""
    limit: Annotated[int | None, COUNT] = None
    """Use only the first N images of each part of the split: N to train on, N to validate on."""
    seed: int = 0
    """Of the split, the first weights, the crops."""


def parse_workers(text: str) -> Workers:
    """Workers of a command line: 4, or 2:8 for 2 to 8. ValueError: neither, or no rising range."""
    fewest, colon, most = text.partition(":")
    if not colon:
        return int(fewest)
    if not 1 <= int(fewest) <= int(most):
        raise ValueError(f"{text} is no range like 2:8, from 1 worker up")
    return int(fewest), int(most)


def _open_place(words: list[str]) -> "Place":
    from seg.storage import as_place  # here, so that --help loads no pyarrow

    return as_place(words[0])


def _open_store(words: list[str]) -> "Place":
    from seg.storage import open_place

    return open_place(words[0])


PLACE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="DIR",
    instance_from_str=_open_place,
    is_instance=lambda value: value is not None,
    str_from_instance=lambda place: [str(place)],
)
"""A folder that is opened once, here: what is wrong with its name is refused as by `as_place`."""
STORE = replace(PLACE, instance_from_str=_open_store)
"""The same, which no relative path names: another machine opens it too."""
WORKERS = PrimitiveConstructorSpec(
    nargs=1,
    metavar="N|N:M",
    instance_from_str=lambda words: parse_workers(words[0]),
    is_instance=lambda value: isinstance(value, int | tuple),
    str_from_instance=lambda value: [":".join(map(str, value)) if isinstance(value, tuple) else str(value)],
)


@dataclass(frozen=True, kw_only=True)
class PackRequest(DataRequest):
    """The packs of a training, built ahead of it."""

    out: Annotated[Path | None, Suppress] = None
    """Not asked for: packs lie in $FRINGE_CACHE."""
    workers: Annotated[int | None, COUNT] = None
    """Tasks at once; default: one a CPU of a running cluster, else threads of this process; 0: threads."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest(DataRequest):
    """A training."""

    demo: bool = False
    """Train on data/simulated, an archive of 32 frames that is simulated where it is not there yet."""
    workers: Annotated[Workers, WORKERS] | None = None
    """Training processes, 2:8 for as many as there are room for; 0: this process, without Ray. Default: one a
    GPU, else $FRINGE_WORKERS, else 1 where a cluster answers, else 0."""
    gpus_per_worker: Annotated[float | None, COUNT] = None
    """GPUs of a worker; default: 1 where there are any; 0: none; 0.5: a single worker leaves half of one."""
    cpus_per_worker: Annotated[int | None, COUNT] = None
    """CPU threads of a worker; default: 1 beside a GPU, else its share of the CPUs."""
    wait_minutes: Annotated[float | None, arg(name="wait", metavar="MINUTES")] = None
    """How long to wait for room for the workers; default: 15 where an autoscaler runs, else 0."""
    batch_per_worker: Annotated[int | None, COUNT] = None
    """Crops in a step of each worker, in place of --batch: other workers then make another batch, so another
    run."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Multiply the learning rate, which is meant for the named recipe's batch, by how many times larger this
    one is, or by the root of that."""
    horizon: Literal["keep", "stretch"] = "keep"
    """Where --epochs grew: the learning rate keeps the schedule that it had, and then its last value; or it
    takes up that of the new number where it is."""
    restarts: Annotated[int, COUNT] = 3
    """How often workers are started again after one of them died."""
    checkpoints: Annotated[Annotated[Place, STORE] | None, arg(metavar="URI")] = None
    """Storage that also gets states and best model files, and that another machine resumes from: s3://...,
    gs://..., or a folder."""
    keep_best: Annotated[int, COUNT] = 1
    """Model files of so many best epochs stay, in best/."""
    keep_states: Annotated[int, COUNT] = 2
    """States of so many last epochs stay, in last/: of each another run can begin."""
    from_epoch: Annotated[int | None, COUNT] = None
    """Begin a new run with the state that another one kept of this epoch, and leave that one as it is."""
    from_run: Annotated[Path | None, FOLDER] = None
    """Folder of that other run; default: that of the same command without --out and --from-epoch."""
    mlflow: Annotated[str | None, arg(metavar="URI")] = None
    """An MLflow server to tell of the run as well: http://host:5000."""
    stall_minutes: Annotated[float, arg(metavar="MINUTES")] = 30.0
    """Workers that wait for another one so long are started again, and the late one is named."""
    dry_run: bool = False
    """Only look: what the data hold, how they split, what is wrong with them; nothing is written."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest(DataRequest):
    """A search over learning rate, loss, backbone and whatever else of the recipe."""

    trials: int = 16
    """Settings to try; the first is the recipe's own. A larger number later goes on with the same search."""
    search: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="FIELD=DISTRIBUTION")] = ()
    """A recipe field to search, and from what: 'optimizer.weight-decay=loguniform(1e-6,1e-2)', uniform(a,b),
    int(a,b) or choice(a,b,...); may be given again. Always searched, from these where given: optimizer.lr,
    loss, backbone."""
    workers_per_trial: Annotated[int, COUNT] = 1
    """Training processes of each trial."""
    gpus_per_trial: Annotated[float | None, COUNT] = None
    """GPUs of each trial; default: one a worker where there are any; 0.5: two trials share one; 0: none."""
    cpus_per_trial: Annotated[int | None, COUNT] = None
    """CPUs of each trial, shared by its workers, each of which computes with so many threads; default: one a
    worker."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Predict every image of an archive and count it against its label; the same command resumes.

    ARCHIVE, --labels and --out are folders, or s3://BUCKET/PATH, gs://BUCKET/PATH.
    """

    COMMON = (
        *("models", "out", "labels", "label_map", "masks", "workers", "limit", "dry_run", "deadline", "tta"),
        *("halo_px", "export"),
    )
    EXAMPLES = (
        "archive --model runs/cells/best.safetensors --out scores/night",
        "archive --model runs/cells/best.safetensors --out scores/night --labels truth --dry-run",
    )

    archive: Positional[Annotated[Place, PLACE, arg(metavar="ARCHIVE")]]
    """Where the images are, or a folder in the plain layout (images/, masks/, classes.txt)."""
    models: Annotated[tuple[Path, ...], arg(name="model", metavar="FILE ...")]
    """Model file, or folder of a run or a search: its best.safetensors; several are an ensemble: the mean of
    their probabilities decides."""
    out: Annotated[Place, PLACE]
    """Where ledger, masks, summary and report go; outside the archive."""
    labels: Annotated[Annotated[Place, PLACE] | None, FOLDER] = None
    """Where the labels are, in the same folders as the images or in none; images without one are predicted
    and not counted."""
    label_suffix: Annotated[str, arg(metavar="TEXT")] = ""
    """What a label's name has after its image's: _mask, where a.tif has a_mask.png."""
    foreground: Annotated[int | None, arg(metavar="ID")] = None
    """The id in the masks that is class 1, all others being 0: 255 for masks of 0 and 255; in place of
    --label-map."""
    label_colours: Annotated[Path | None, arg(metavar="FILE")] = None
    """What the colours of RGB masks mean: a line a class, R G B NAME, of the model's classes in their order;
    of the name ignore: not counted."""
    label_map: tuple[tuple[int, int], ...] | None = None
    """Pairs: id in a mask, class id (255: ignore): 255 1 for masks of 0 and 255; default: the model file's;
    others are another run."""
    require_labels: bool = False
    """Set images without a label aside instead."""
    background: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measured background, an image, in place of the mean of each sequence's frames."""
    masks: Literal["png", "gray", "none"] = "png"
    """Write each prediction as a PNG of class ids, which viewers show in colours; as grays, for readers such
    as OpenCV that give a palette's colours for its ids; or nothing."""
    overlays: Literal["png", "none"] = "none"
    """Write a picture of each image under its prediction as well."""
    workers: Annotated[int | None, COUNT] = None
    """Scoring processes; 0: this process, without Ray, which cannot end an image that takes too long, and
    dies with one that crashes. Default: one a GPU, else $FRINGE_WORKERS, else 1, but 0 for up to 200 images
    where no cluster answers."""
    gpus_per_worker: Annotated[float | None, COUNT] = None
    """GPUs of each worker; default: one where there are any; 0.5: two workers share one; 0: none."""
    limit: Annotated[int | None, COUNT] = None
    """Score only the first N images."""
    rescore_changed: bool = False
    """Score images again that changed, or whose label or mask did, since they were scored; else they are
    refused."""
    verify: bool = False
    """Look for changes in the content of what was scored and of its masks, not in sizes and times alone:
    reads it all again."""
    retry_quarantined: bool = False
    """Try what is in the quarantine once more."""
    dry_run: bool = False
    """Only look: what is there, what is wrong with it, time and disk it takes; nothing is written."""
    deadline: Annotated[str | None, arg(metavar="TIME")] = None
    """Stop in time for all that was begun to end by then, with exit code 4: 07:00, the next one by local
    time, or an ISO time."""
    stall_minutes: Annotated[float, arg(metavar="MINUTES")] = 10.0
    """If nothing moves for so long, workers are started again, once; then the job ends with exit code 1."""
    image_timeout_s: Annotated[float | None, arg(name="per-image-timeout", metavar="SECONDS")] = None
    """An image in work for longer ends its worker; the second time it is set aside. Default: as long as
    --stall-minutes; 0: never. With --workers 0 such an image is named."""
    halo_px: Annotated[int | None, arg(name="halo", metavar="N")] = None
    """Context around a crop's core in working pixels; default: the model file's."""
    blend: Literal["core", "gaussian"] = "core"
    """Of windows that overlap keep each one's core, or average them, weighted towards their centres."""
    tta: Tta = "none"
    """Test-time augmentation: average the probabilities of each crop and its mirror images, or of all eight
    that turning and mirroring make of it; 4 or 8 times the work."""
    batch: int = 4
    """Crops in a forward pass, of whatever images are there; another number is another run."""
    precision: Literal["float32", "bf16"] = "float32"
    """What the model computes in."""
    threads: int = 1
    """CPU threads a worker computes with; another number is another run."""
    shard: Literal["images", "crops"] = "images"
    """Whole images to each worker; or each image's crops over all workers, for a few huge images."""
    stages: Literal["auto", "together", "apart"] = "auto"
    """Reading, predicting and writing in each worker; or apart, so that any CPU of the cluster reads and
    writes for the workers, which predict. auto: apart where there are GPUs."""
    min_object_px: Annotated[int, arg(name="min-object", metavar="N")] = 64
    """Connected pixels of a class that are an object, at least; another number is another run."""
    export: Literal["coco", "yolo", "masks"] | None = None
    """At the end write the objects, or the masks under the images' names, for other tools into exports/."""
    notify: Annotated[str | None, arg(metavar="COMMAND")] = None
    """Run at the end, however it ends, with the path of summary.json as its last word."""
    include: Annotated[tuple[str, ...], PATTERNS] = ()
    """Shell patterns on the relative path: only images that match one."""
    exclude: Annotated[tuple[str, ...], PATTERNS] = ()
    """Shell patterns on the relative path: no image that matches one."""
    follow_links: bool = False
    """Enter linked folders, and read files behind links that leave the archive or --labels; another run."""


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Predict an image, or a handful: mask, overlay picture and objects of each, at once, without Ray.

    Results are those that score gives with the same options; it has a ledger, so it suits an archive.
    """

    COMMON = ("models", "out", "archive", "background", "overlays", "device", "tta", "min_object_px")
    EXAMPLES = (
        "frame.tif --model runs/cells/best.safetensors",
        "'s1/*.png' --model runs/cells/best.safetensors --out looked-at",
    )

    images: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGE ...")]]
    """Files, or patterns in quotes ("s1/*.tif", "**/*.png"); of a TIFF with several pages one, stack.tif#3,
    or all of them."""
    models: Annotated[tuple[Path, ...], arg(name="model", metavar="FILE ...")]
    """Model file, or folder of a run or a search: its best.safetensors; several are an ensemble: the mean of
    their probabilities decides."""
    out: Annotated[Annotated[Place, PLACE] | None, FOLDER] = None
    """Where masks, overlays and tables go; default: predictions/FOLDER-HASH, the hash over model, folder and
    options."""
    archive: Annotated[Path | None, FOLDER] = None
    """Folder from which names and sequences count, as score's ARCHIVE; default: what the images have in
    common. Frames of a background and those before an image are looked for in it."""
    background: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measured background, an image, in place of the mean of each sequence's frames."""
    overlays: Literal["png", "none"] = "png"
    """Write a picture of each image under its prediction, or nothing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the model computes on; auto: a GPU where there is one."""
    halo_px: Annotated[int | None, arg(name="halo", metavar="N")] = None
    """Context around a crop's core in working pixels; default: the model file's."""
    blend: Literal["core", "gaussian"] = "core"
    """Of windows that overlap keep each one's core, or average them, weighted towards their centres."""
    tta: Tta = "none"
    """Test-time augmentation: average the probabilities of each crop and its mirror images, or of all eight
    that turning and mirroring make of it; 4 or 8 times the work."""
    batch: int = 4
    """Crops in a forward pass."""
    precision: Literal["float32", "bf16"] = "float32"
    """What the model computes in."""
    threads: int = 1
    """CPU threads that the model computes with; another number may flip ties, as with score."""
    min_object_px: Annotated[int, arg(name="min-object", metavar="N")] = 64
    """Connected pixels of a class that are an object, at least."""


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Write report.html and review.csv of a scores folder again; compare two of the same labelled images."""

    EXAMPLES = ("scores/night --figures 8", "scores/before scores/after --out change.html")

    folders: Positional[Annotated[tuple[Annotated[Place, PLACE], ...], arg(metavar="DIR [DIR]")]]
    """The --out of a scoring, or of two: A, and B that is compared with it."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The page; default: report.html in the folder, or comparison-B.html in the first. With FILE.html of a
    report come FILE-review.csv and FILE-figures.png."""
    figures: Annotated[int, COUNT] = 0
    """Write figures.png too: image, truth, prediction and error of so many images, drawn by lot from those
    with a label, where there are any."""
    seed: Annotated[int, COUNT] = 0
    """Another seed, other images."""
    images: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Images that figures.png shows first, as the ledger names them, or shell patterns in quotes."""


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """Look at a folder of images and labels: what is there, what is wrong, and the training that fits.

    Exit code 2 where no training would start, or learn anything. Without --out nothing is written.
    """

    data: Positional[Annotated[Path, arg(metavar="DIR")]]
    """Folder of the images, or one that holds them and their labels; up to 200 of them are read."""
    labels: Annotated[Path | None, FOLDER] = None
    """Folder of the labels; default: they are looked for in DIR."""
    label_suffix: Annotated[str, arg(metavar="TEXT")] = ""
    """What a label's name has after its image's: _mask for a_mask.png of a.tif; default: what most have."""
    foreground: Annotated[int | None, arg(metavar="ID")] = None
    """The id in the masks that is class 1, all others being 0; default: what the masks hold decides."""
    label_colours: Annotated[Path | None, arg(metavar="FILE")] = None
    """What the colours of RGB masks mean: a line a class, R G B NAME, in id order; ignore: not counted."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Names of the classes after background, where there is no classes.txt."""
    follow_links: bool = False
    """Enter linked folders, and read files behind links that leave DIR or --labels."""
    out: Annotated[Path | None, FOLDER] = None
    """Write check.json, and check.png with four images under their labels, into this folder."""
    seed: Annotated[int, COUNT] = 0
    """Of the split, as of a training."""


@dataclass(frozen=True, kw_only=True)
class LabelRequest:
    """Label images in a window: accept what a model proposes, draw boxes; every change is saved at once."""

    EXAMPLES = ("frames --classes cell dust", "frames --model runs/cells/best.safetensors --queue review.csv")

    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """A folder in the plain layout, or one of images."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of masks/, boxes/, boxes-json/, classes.txt: by default FOLDER, or FOLDER-labels beside bare
    images."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Classes that boxes can have, where there is no classes.txt yet: by default the model's, else sample."""
    model: Annotated[Path | None, arg(metavar="FILE")] = None
    """Model file, or a run's folder, that proposes objects; those accepted are saved as masks."""
    boxes: Annotated[BoxForm, arg(name="box")] = "filled"
    """What a box that is drawn means: all its pixels, saved in boxes/; or the ellipse in it, saved in masks/.
    Key e changes it."""
    min_object_px: Annotated[int, arg(metavar="N")] = 64
    """Pixels of the smallest object that it proposes."""
    queue: Annotated[Path | None, arg(metavar="FILE")] = None
    """Show the images that a CSV file names, in its order: review.csv of a scoring; default: all."""
    window_px: Annotated[tuple[int, int], arg(metavar="WIDTH HEIGHT")] = (1000, 860)
    """Size of the window at first; the mouse changes it, and the image with it."""
