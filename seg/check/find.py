"""Where in a folder the images are, where their labels, and how those are named after them."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from seg.data import DATASETS
from seg.data.images import EXTENSIONS, split_page
from seg.data.layout import DataSet, Sample
from seg.data.listing import ending_of, list_files, list_images, sequence_of
from seg.data.pairing import label_stem
from seg.data.plain import (
    PLAIN,
    LabelRule,
    choose_adapter,
    find_exclusions,
    find_folders,
    label_folder,
    open_plain,
    pair_images,
)
from seg.errors import RequestError
from seg.recipes import RECIPES
from seg.storage import as_place

LABEL_WORDS = ("mask", "label", "annot", "truth", "gt", "seg", "target", "box")
"""What people call folders of labels, or add to the names of labels beside images."""
LABEL_ENDINGS = EXTENSIONS | {".txt", ".json"}
SEPARATOR = re.compile(r"[_\-. ]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A data set as it lies, whatever is wrong with it."""

    data: DataSet
    """Without samples where its labels are refused; its `root` is what a training takes as data."""
    dataset: str = "plain"
    """Key in DATASETS."""
    rule: LabelRule = PLAIN
    """Where its labels are, of a plain one; what a training has to be told."""
    pairing: str = ""
    """How images and labels were paired, in words."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files among the images that are none, by extension."""
    unused: int = 0
    """Files of the label folder that are no image's label."""
    has_names: bool = True
    """Somebody named the classes; else they are those of one foreground."""
    refusal: str = ""
    """Why no training would take it; empty: it would."""


def open_data(root: Path, rule: LabelRule = PLAIN, *, dataset: str = "plain", sequence: str = "") -> Found:
    """The data set of a folder as a training finds it; `dataset`, `sequence`: the recipe's.

    RequestError: `root` is no folder, none of its files is an image, or the adapter refuses it.
    """
    if not root.is_dir():
        raise RequestError(f"data {root} is no folder; give the one that holds the images")
    if dataset != "plain":
        return Found(data=choose_adapter(dataset, DATASETS, rule)(root, sequence), dataset=dataset)
    return _open(root, rule, sequence)


def find_data(root: Path, rule: LabelRule = PLAIN) -> Found:
    """Find the images and labels of a folder, however they lie.

    rule: what it says of the labels holds; where it says nothing of their folder they are looked for: masks/
    or boxes/ beside images/, the data sets that an adapter knows, a folder beside the images', or two side by
    side, whose files have the same names, then labels among the images.
    RequestError: `root` is no folder, or none of its files is an image.
    """
    if not root.is_dir():
        raise RequestError(f"data {root} is no folder; give the one that holds the images")
    own = rule.folder is None and (root / "images").is_dir() and label_folder(root)
    own = own and _names_in(root / own, rule)  # an empty masks/ may lie beside labels/
    if rule.folder is None and not own:
        if known := _recognise(root):
            return known
        root, rule = _look_for_labels(root, rule)
    elif not rule.suffix:
        images, labels = find_folders(as_place(root), rule.folder and as_place(rule.folder))
        assert labels is not None, "given, or beside images/"
        ours, theirs = _names_in(images.local(), rule), _names_in(labels.local(), rule)
        rule = replace(rule, suffix=_find_suffix(ours, theirs, same=images.path == labels.path)[0])
    return _open(root, rule, "")


def _open(root: Path, rule: LabelRule, sequence: str) -> Found:
    try:
        paired = pair_images(root, rule)
        data = open_plain(root, sequence, rule, paired)
    except RequestError as error:
        return _list_bare(root, rule, sequence, str(error))
    return Found(
        data=data,
        rule=rule,
        pairing=str(paired.labels.naming),
        ignored=paired.listing.ignored,
        unused=paired.labels.unused,
        has_names=bool(rule.classes or rule.colours)
        or any((folder / "classes.txt").is_file() for folder in (root, paired.folder)),
    )


def _list_bare(root: Path, rule: LabelRule, sequence: str, refusal: str) -> Found:
    """The images alone, where their labels are refused. RequestError: there are none."""
    images, labels = find_folders(as_place(root), rule.folder and as_place(rule.folder))
    listing = list_images(
        images, exclude=find_exclusions(images, labels, rule.suffix), follow_links=rule.follow_links
    )
    if not listing.images:
        raise RequestError(refusal)
    folder = images.local()
    frames = (
        Sample(name, folder / split_page(name)[0], None, sequence_of(name, sequence))
        for name in listing.images
    )
    data = DataSet(root, (), (), unlabelled=tuple(frames))
    return Found(data=data, rule=rule, ignored=listing.ignored, refusal=refusal, has_names=False)


def _look_for_labels(root: Path, rule: LabelRule) -> tuple[Path, LabelRule]:
    """The folder of images, and the rule that finds most labels of theirs: none where there are no labels."""
    images = root / "images"
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = {folder: _names_in(folder, rule) for folder in folders}
    found, most = (root, rule), 0
    for other in folders if images in folders else filter(lambda folder: _says_label(folder.name), folders):
        names[root] = [name for name in _names_in(root, rule) if not name.startswith(f"{other.name}/")]
        for folder in [images] if images in folders else [*folders, root]:
            if folder == other or (folder not in (root, images) and _says_label(folder.name)):
                continue
            suffix, count = _find_suffix(names[folder], names[other])
            if count > most:
                beside = root if folder == images and len(folders) == 2 else folder
                found, most = (beside, replace(rule, folder=other, suffix=rule.suffix or suffix)), count
    if not most:
        inside = images if images in folders else root
        suffix, most = _find_suffix(_names_in(inside, rule), _names_in(inside, rule), same=True)
        if most:
            found = inside, replace(rule, folder=inside, suffix=rule.suffix or suffix)
    return found


def _says_label(name: str) -> bool:
    return any(word in name.lower() for word in LABEL_WORDS)


def _names_in(folder: Path, rule: LabelRule) -> list[str]:
    """The files of a folder, and of those in it, that may be images or labels. RequestError: no folder."""
    if not folder.is_dir():
        raise RequestError(f"labels {folder} is no folder; give the folder that holds the masks or boxes")
    names = list_files(as_place(folder), [], follow_links=rule.follow_links)[0].to_pylist()
    return [name for name in names if ending_of(name) in LABEL_ENDINGS and not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _find_suffix(images: Collection[str], labels: Iterable[str], *, same: bool = False) -> tuple[str, int]:
    """What most labels' names have beyond an image's, and how many have it; same: both are in one folder."""
    stems = {_stem(name) for name in images if ending_of(name) in EXTENSIONS}
    counts = Counter[str]()
    for stem in map(_stem, labels):
        if stem in stems and not same:
            counts[""] += 1
            continue
        cuts = (match.start() for match in SEPARATOR.finditer(stem))
        suffixes = [stem[cut:] for cut in cuts if stem[:cut] in stems]
        counts.update(suffix for suffix in suffixes if not same or _says_label(suffix))
    return max(counts.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))


def _stem(name: str) -> str:
    """A file's name without folder and endings: frame of a/frame.tif, and of a/frame.tif.png."""
    stem = label_stem(PurePosixPath(name).name)
    return label_stem(stem) if ending_of(stem) in EXTENSIONS else stem


def _recognise(root: Path) -> Found | None:
    """The folder as the first of the adapters that recipes name reads it and finds its own files in it."""
    for dataset in dict.fromkeys(recipe.dataset for recipe in RECIPES.values()):
        if dataset == "plain":
            continue
        try:
            return Found(data=DATASETS[dataset](root, ""), dataset=dataset)
        except RequestError:  # of another data set; what is there is told as plain images
            continue
    return None
