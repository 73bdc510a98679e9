import base64
import html
import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.ledger import LEDGER_SCHEMA, Ledger
from cluster.report import LEDGER_COLUMNS, Lowest, gather, write_report
from cluster.report_pictures import LONG_SIDE_PX, Picture, draw_error, draw_image, draw_mask
from cluster.scoring import ScoreRequest, score
from cluster.session import Session
from seg.checkpoint import ModelCard, save_model
from seg.files import write_json
from seg.models.build import build
from seg.palette import CONFUSED, IGNORED, INVENTED, MISSED
from seg.recipe import Preprocessing, Tiling

NASTY = "<b>&.png"
HERE = Session(cpus=1, gpus=0, gpus_possible=0, connected=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build("unet", backbone=None, num_classes=2, channels=1).eval()
        logits = network(torch.randn(4, 1, 96, 96))
    *_, (name, bias) = network.named_parameters()
    assert name.endswith("bias")
    with torch.no_grad():  # untrained, but it predicts both classes about as often
        bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    card = ModelCard(
        architecture="unet",
        backbone=None,
        classes=("background", "disc"),
        label_map=(),
        preprocessing=Preprocessing(channels=1),
        statistics=None,
        tiling=Tiling(crop_px=(96, 96), halo_px=16),
    )
    save_model(path, network, card)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve labelled images of 8 and 16 bits, one of them with a name that is HTML, and three bad files."""
    root = tmp_path_factory.mktemp("archive")
    for frame in range(12):
        random = np.random.default_rng(frame)
        mask = np.zeros((96, 120), np.uint8)
        cv2.circle(mask, random.integers(30, 90, 2).tolist(), 20, 1, -1)
        image = 80 + 90 * mask + random.normal(0, 8, mask.shape)
        mask[:4] = 255
        name = NASTY if frame == 11 else f"s{frame % 2}/{frame}.png"
        pixels = image.astype(np.uint8) if frame % 3 else (image * 16).astype(np.uint16)
        for folder, content in (("images", pixels), ("masks", mask)):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / folder / name), content)
    (root / "classes.txt").write_text("background\ndisc\n")
    (root / "images/notes.txt").write_text("ignored\n")
    whole = (root / "images/s0/0.png").read_bytes()
    for name, content in (("cut", whole[:-40]), ("empty", b""), ("<i>text", b"no image")):
        (root / "images" / f"{name}.png").write_bytes(content)
    return root


def run_scoring(archive: Path, model: Path, out: Path, **options: Any) -> Path:
    score(ScoreRequest(archive=archive, model=model, out=out, workers=0, **options), HERE)
    write_report(out)
    return out


@pytest.fixture(scope="module")
def scored(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_scoring(archive, model, tmp_path_factory.mktemp("scored") / "out")


@pytest.fixture(scope="module")
def unlabelled(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    shutil.copytree(archive / "images", folder / "archive")
    return run_scoring(folder / "archive", model, folder / "out")


@pytest.fixture
def copied(scored: Path, archive: Path, tmp_path: Path) -> Path:
    """The scored folder and its archive, to change: tmp_path/archive and what is returned."""
    shutil.copytree(archive, tmp_path / "archive")
    folder = shutil.copytree(scored, tmp_path / "out")
    run = json.loads((folder / "run.json").read_text())
    places = {"archive": str(tmp_path / "archive/images"), "labels": str(tmp_path / "archive/masks")}
    write_json(folder / "run.json", run | places)
    return folder


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def text_of(source: str) -> str:
    """What a reader sees of a piece of HTML, on one line."""
    without = re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", source, flags=re.DOTALL)
    return " ".join(html.unescape(without).split())


def column(source: str, label: str) -> list[str]:
    return [text_of(cell) for cell in re.findall(rf'data-label="{label}">(.*?)</td>', source, re.DOTALL)]


def count_pairs(archive: Path, folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The confusion matrix in all and by image, from the files alone."""
    by_image = {}
    for path in sorted((folder / "masks").rglob("*.png")):
        image = path.relative_to(folder / "masks").as_posix().removesuffix(".png")
        ids, truth = cv2.imread(str(path), 0), cv2.imread(str(archive / "masks" / image), 0)
        by_image[image] = np.array([[((truth == t) & (ids == p)).sum() for p in (0, 1)] for t in (0, 1)])
    return sum(by_image.values()), by_image  # type: ignore[return-value]


def ratios(matrix: np.ndarray) -> tuple[list[float], float]:
    """IoU of the classes that occur, and their mean."""
    unions = [(matrix[c].sum() + matrix[:, c].sum() - matrix[c, c], matrix[c, c]) for c in range(2)]
    values = [hits / union for union, hits in unions if union]
    return values, sum(values) / len(values)


def test_the_figures_are_those_of_masks_and_labels(archive: Path, scored: Path) -> None:
    matrix, _ = count_pairs(archive, scored)
    source = page(scored)
    values, mean = ratios(matrix)
    assert column(source, "IoU") == [f"{value:.4f}" for value in values]
    assert column(source, "true pixels") == [f"{count:,}" for count in matrix.sum(1)]
    assert column(source, "predicted pixels") == [
        f"{sum((cv2.imread(str(path), 0) == c).sum() for path in (scored / 'masks').rglob('*.png')):,}"
        for c in (0, 1)
    ]
    assert column(source, "recall") == [f"{matrix[c, c] / matrix[c].sum():.4f}" for c in (0, 1)]
    assert column(source, "precision") == [f"{matrix[c, c] / matrix[:, c].sum():.4f}" for c in (0, 1)]
    assert f'id="miou">{mean:.4f}' in source.replace("\n", "")
    assert f"Pixel accuracy {np.trace(matrix) / matrix.sum():.4f}" in text_of(source)
    assert f"background → disc: {matrix[0, 1]:,} pixels" in source


def test_the_worst_images_come_first_with_their_own_figures(archive: Path, scored: Path) -> None:
    _, by_image = count_pairs(archive, scored)
    expected = sorted((ratios(matrix)[1], image) for image, matrix in by_image.items())
    report = gather(scored)
    assert [figures.image for figures in report.worst] == [image for _, image in expected[:8]]
    assert [figures.miou for figures in report.listed] == pytest.approx([mean for mean, _ in expected])
    doubts = [figures.confidence for figures in report.least_confident]
    assert doubts == sorted(figures.confidence for figures in report.listed)[:8]
    assert [sum(plot.counts) for plot in report.distributions] == [12, 12]


def test_every_pictured_row_shows_image_truth_prediction_and_error(scored: Path) -> None:
    report = gather(scored)
    for figures in report.worst + report.least_confident:
        assert [picture.caption for picture in figures.pictures] == ["image", "truth", "prediction", "error"]
        assert figures.notes == []


@pytest.mark.parametrize("folder", ["scored", "unlabelled"])
def test_the_file_refers_to_nothing_outside_itself(folder: str, request: pytest.FixtureRequest) -> None:
    source = page(request.getfixturevalue(folder))
    assert not re.search(r"https?://|url\(|@import|<link|srcset", source)
    assert all(link.startswith("data:image/") for link in re.findall(r'src="([^"]*)', source))
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)', source))


def test_names_that_are_html_are_escaped(scored: Path) -> None:
    source = page(scored)
    assert "<b>&" not in source
    assert "<i>text" not in source
    assert "&lt;b&gt;&amp;.png" in source
    assert "&lt;i&gt;text.png" in source


def test_the_quarantine_is_listed_by_reason_with_its_detail(scored: Path) -> None:
    text = text_of(page(scored))
    assert "3 images could not be scored" in text
    assert "empty 1 empty.png the file has no bytes" in text
    assert "truncated 1 cut.png the file ends" in text
    assert "1 file ignored: 1 .txt" in text


def test_the_same_folder_gives_the_same_bytes(scored: Path) -> None:
    before = (scored / "report.html").read_bytes()
    write_report(scored)
    assert (scored / "report.html").read_bytes() == before
    assert not list(scored.glob(".*"))


def test_without_labels_confidence_leads_and_no_iou_is_shown(unlabelled: Path) -> None:
    source = page(unlabelled)
    text = text_of(source)
    assert "without labels" in text
    assert "Lowest mIoU" not in text
    assert 'id="miou"' not in source
    assert column(source, "IoU") == []
    masks = [cv2.imread(str(path), 0) for path in (unlabelled / "masks").rglob("*.png")]
    assert column(source, "predicted pixels") == [
        f"{sum(int((mask == c).sum()) for mask in masks):,}" for c in (0, 1)
    ]
    captions = [[picture.caption for picture in row.pictures] for row in gather(unlabelled).least_confident]
    assert captions == [["image", "prediction"]] * 8


def test_some_images_without_a_label_are_predicted_and_not_counted(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(archive, tmp_path / "archive")
    (tmp_path / "archive/masks/s0/2.png").unlink()
    folder = run_scoring(tmp_path / "archive", model, tmp_path / "out")
    assert "12 images scored" in text_of(page(folder))
    assert "11 of them with a label" in text_of(page(folder))


def test_a_run_in_which_nothing_could_be_scored_still_has_a_report(model: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/a.png").write_bytes(b"")
    text = text_of(page(run_scoring(tmp_path / "archive", model, tmp_path / "out")))
    assert "No image was scored" in text
    assert "1 image could not be scored" in text
    assert not re.search(r"\bnan\b", text)


def test_without_masks_the_report_says_why_there_are_no_pictures(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    source = page(run_scoring(archive, model, tmp_path / "out", masks=False))
    assert "this run wrote no masks" in text_of(source)
    assert "<img" not in source


def test_a_job_that_found_all_done_says_what_was_skipped(archive: Path, model: Path, tmp_path: Path) -> None:
    run_scoring(archive, model, tmp_path / "out")
    text = text_of(page(run_scoring(archive, model, tmp_path / "out")))
    assert "12 skipped: done before" in text
    assert "this job scored nothing" in text


def test_an_interrupted_run_says_how_many_images_are_left(copied: Path) -> None:
    summary = json.loads((copied / "summary.json").read_text())
    write_json(copied / "summary.json", summary | {"stopped_by": "interrupt", "images_found": 20})
    write_report(copied)
    assert "Interrupted; the same command goes on from there." in text_of(page(copied))
    assert "5 images are left." in text_of(page(copied))


def test_a_file_that_is_gone_or_changed_is_said_in_its_row(copied: Path) -> None:
    images, masks = copied.parent / "archive/images", copied.parent / "archive/masks"
    first, second, third, fourth = (figures.image for figures in gather(copied).worst[:4])
    (images / first).unlink()
    assert cv2.imwrite(str(masks / second), np.ones((96, 120), np.uint8))
    (copied / "masks" / f"{third}.png").write_bytes(b"")
    assert cv2.imwrite(str(images / fourth), np.full((96, 120), 7, np.uint8))
    rows = gather(copied).worst[:4]
    assert [row.notes for row in rows] == [
        ["The image can no longer be read: No such file or directory."],
        ["The label is no longer the one that was counted, so it is not shown."],
        ["The mask can no longer be read: the file has no bytes."],
        ["The image has changed since it was scored; this is its present state."],
    ]
    captions = [[picture.caption for picture in row.pictures] for row in rows]
    assert captions[:3] == [["truth", "prediction", "error"], ["image", "prediction"], ["image", "truth"]]
    write_report(copied)


def write_rows(folder: Path, count: int, model: Path, archive: Path) -> Path:
    """A scores folder of one scored image, with more rows than the table of its report lists."""
    run_scoring(archive, model, folder, masks=False, include=("s0/0.png",))
    row = next(Ledger(folder).rows()).to_pylist()[0]
    shutil.rmtree(folder / "ledger")
    ledger = Ledger(folder)
    stamp = {"reason": None, "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}
    ledger.add([row | stamp | {"image": f"{n}.png", "confidence": 0.5 + n / 1000} for n in range(count)])
    ledger.commit()
    write_report(folder)
    return folder


def test_a_long_list_is_cut_and_says_how_many_are_left_out(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    folder = write_rows(tmp_path / "out", 300, model, archive)
    assert "100 images left out" in text_of(page(folder))
    assert [figures.image for figures in gather(folder).least_confident[:3]] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("part", [1, 7, 64])
def test_the_lowest_of_a_stream_are_those_of_the_whole(part: int) -> None:
    values = np.random.default_rng(part).integers(0, 9, 64).astype(float)
    values[::5] = np.nan
    names = [f"{n:02}" for n in range(64)]
    lowest = Lowest(10)
    for first in range(0, 64, part):
        chosen = slice(first, first + part)
        lowest.add(values[chosen], pa.table({"image": names[chosen]}))
    expected = sorted((value, name) for value, name in zip(values, names, strict=True) if value >= 0)
    assert [row["image"] for row in lowest.rows] == [name for _, name in expected[:10]]


def decode(picture: Picture, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    data = base64.b64decode(picture.uri.partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None
    return pixels


def rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(700, 300), (300, 700, 3)])
def test_an_image_of_any_depth_is_shown_over_the_whole_range(
    dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    ramp = np.linspace(40, 90, 300 * 700).reshape(shape[:2])
    pixels = (ramp if len(shape) == 2 else np.repeat(ramp[:, :, None], 3, 2)).astype(dtype)
    picture = draw_image("image", pixels)  # type: ignore[arg-type]
    shown = decode(picture)
    assert max(picture.width, picture.height) == LONG_SIDE_PX
    assert shown.shape == (picture.height, picture.width, *shape[2:])
    assert shown.dtype == np.uint8
    assert shown.min() < 12  # JPEG: not exactly 0 and 255
    assert shown.max() > 243


def test_a_flat_image_is_shown_and_warns_of_nothing() -> None:
    assert decode(draw_image("image", np.full((20, 20), 900, np.uint16))).max() == 0


def test_a_mask_is_drawn_in_its_classes_colours() -> None:
    mask = np.random.default_rng(0).integers(0, 3, (9, 13), dtype=np.uint8)
    mask[0] = 255
    shown = decode(draw_mask("truth", mask, ["#102030", "#405060", "#708090"]), cv2.IMREAD_COLOR_RGB)
    palette = {0: "#102030", 1: "#405060", 2: "#708090", 255: IGNORED}
    assert shown.tolist() == [[rgb(palette[number]) for number in row] for row in mask.tolist()]


@pytest.mark.parametrize("classes", [("background", "cell", "debris"), ("sky", "road", "tree")])
def test_the_error_panel_marks_what_differs_and_nothing_else(classes: tuple[str, ...]) -> None:
    truth, ids = np.random.default_rng(0).integers(0, 3, (2, 17, 11), dtype=np.uint8)
    truth[0] = 255
    shown = cv2.cvtColor(decode(draw_error(truth, ids, classes)), cv2.COLOR_BGRA2RGBA)
    for place in np.ndindex(truth.shape):
        true, predicted, pixel = truth[place], ids[place], shown[place].tolist()
        if true == predicted:
            assert pixel[3] == 0
        elif true == 255:
            assert pixel == [*rgb(IGNORED), 255]
        elif classes[0] != "background":
            assert pixel == [*rgb(MISSED), 255]
        else:
            colour = MISSED if predicted == 0 else INVENTED if true == 0 else CONFUSED
            assert pixel == [*rgb(colour), 255]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium here: the report is not opened in a browser (apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 400])
@pytest.mark.parametrize("folder", ["scored", "unlabelled"])
def test_a_browser_shows_it_all_without_scrolling_sideways(
    browser: Any, request: pytest.FixtureRequest, folder: str, width: int, scheme: str
) -> None:
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: complaints.extend([asked.url] * asked.url.startswith("http")))
    tab.goto((request.getfixturevalue(folder) / "report.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    sizes = tab.eval_on_selector_all("img", "all => all.map(one => [one.naturalWidth, one.width])")
    assert sizes
    assert all(natural == 120 and shown > 100 for natural, shown in sizes)
    assert complaints == []
    tab.close()


def test_the_list_of_images_sorts_by_a_click_and_prints(browser: Any, scored: Path) -> None:
    tab = browser.new_page()
    tab.goto((scored / "report.html").as_uri())
    tab.click("#list summary")
    read = "all => all.map(one => Number(one.dataset.value))"
    places = "#list tbody td:nth-of-type(2)"
    before = tab.eval_on_selector_all(places, read)
    tab.click("#list thead th:nth-child(3) button")
    assert tab.eval_on_selector_all(places, read) == sorted(before)
    tab.click("#list thead th:nth-child(3) button")
    assert tab.eval_on_selector_all(places, read) == sorted(before, reverse=True)
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.close()


def test_the_ledger_gives_every_column_the_report_reads() -> None:
    assert set(LEDGER_COLUMNS) <= set(LEDGER_SCHEMA.names)
