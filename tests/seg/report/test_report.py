import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cluster.score import score
from cluster.session import Session
from seg.errors import DataWarning, RequestError
from seg.files import write_json
from seg.ledger.ledger import Ledger
from seg.model_card import ModelCard
from seg.model_file import save_model
from seg.models.build import build
from seg.objects import find_objects
from seg.recipe import Preprocessing, Tiling
from seg.report.report import archive_title, gather, write_report
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.cluster.scores import random_rows, write_scores
from tests.small import read_ids

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
    score(
        ScoreRequest(archive=as_place(archive), models=(model,), out=as_place(out), workers=0, **options),
        HERE,
    )
    write_report(as_place(out))
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
        ids, truth = read_ids(path), cv2.imread(str(archive / "masks" / image), 0)
        by_image[image] = np.array([[((truth == t) & (ids == p)).sum() for p in (0, 1)] for t in (0, 1)])
    return sum(by_image.values()), by_image  # type: ignore[return-value]


def ratios(matrix: np.ndarray) -> tuple[list[float], float]:
    """IoU of the classes that occur, and their mean."""
    unions = [(matrix[c].sum() + matrix[:, c].sum() - matrix[c, c], matrix[c, c]) for c in range(2)]
    values = [hits / union for union, hits in unions if union]
    return values, sum(values) / len(values)


def test_the_figures_are_those_of_masks_and_labels(archive: Path, scored: Path) -> None:
    matrix, _ = count_pairs(archive, scored)
    source = page(scored).partition('id="objects"')[0]
    values, mean = ratios(matrix)
    assert column(source, "IoU") == [f"{value:.4f}" for value in values]
    assert column(source, "true pixels") == [f"{count:,}" for count in matrix.sum(1)]
    assert column(source, "predicted pixels") == [
        f"{sum((read_ids(path) == c).sum() for path in (scored / 'masks').rglob('*.png')):,}" for c in (0, 1)
    ]
    assert column(source, "recall") == [f"{matrix[c, c] / matrix[c].sum():.4f}" for c in (0, 1)]
    assert column(source, "precision") == [f"{matrix[c, c] / matrix[:, c].sum():.4f}" for c in (0, 1)]
    assert f'id="miou">{mean:.4f}' in source.replace("\n", "")
    assert f"Pixel accuracy {np.trace(matrix) / matrix.sum():.4f}" in text_of(source)
    assert f"background → disc: {matrix[0, 1]:,} pixels" in source


def test_the_worst_images_come_first_with_their_own_figures(archive: Path, scored: Path) -> None:
    _, by_image = count_pairs(archive, scored)
    expected = sorted((ratios(matrix)[1], image) for image, matrix in by_image.items())
    report = gather(as_place(scored))
    assert [figures.image for figures in report.worst] == [image for _, image in expected[:8]]
    assert [figures.miou for figures in report.listed] == pytest.approx([mean for mean, _ in expected])
    doubts = [figures.confidence for figures in report.least_confident]
    assert doubts == sorted(figures.confidence for figures in report.listed)[:8]
    assert [sum(plot.counts) for plot in report.distributions] == [12, 12]


def test_every_pictured_row_shows_image_overlay_truth_prediction_and_error(scored: Path) -> None:
    report = gather(as_place(scored))
    for figures in report.worst + report.least_confident:
        assert [picture.caption for picture in figures.pictures] == [
            *("image", "overlay", "truth", "prediction", "error")
        ]
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
    assert "empty 1 · no bytes, or no pixels empty.png the file has no bytes" in text
    assert "truncated 1 · the file ends before its image does cut.png the file ends" in text
    assert "1 file ignored: 1 .txt" in text


def test_the_same_folder_gives_the_same_bytes(scored: Path) -> None:
    before = (scored / "report.html").read_bytes()
    write_report(as_place(scored))
    assert (scored / "report.html").read_bytes() == before
    assert not list(scored.glob(".*"))


def test_without_labels_confidence_leads_and_no_iou_is_shown(unlabelled: Path) -> None:
    source = page(unlabelled)
    text = text_of(source)
    assert "without labels" in text
    assert "Lowest mIoU" not in text
    assert 'id="miou"' not in source
    assert column(source, "IoU") == []
    masks = [read_ids(path) for path in (unlabelled / "masks").rglob("*.png")]
    assert column(source, "predicted pixels") == [
        f"{sum(int((mask == c).sum()) for mask in masks):,}" for c in (0, 1)
    ]
    captions = [
        [picture.caption for picture in row.pictures] for row in gather(as_place(unlabelled)).least_confident
    ]
    assert captions == [["image", "overlay", "prediction"]] * 8


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
    with pytest.warns(DataWarning, match="rehearsal"):
        text = text_of(page(run_scoring(tmp_path / "archive", model, tmp_path / "out")))
    assert "No image was scored" in text
    assert "1 image could not be scored" in text
    assert not re.search(r"\bnan\b", text)


def test_without_masks_the_report_says_why_there_are_no_pictures(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    source = page(run_scoring(archive, model, tmp_path / "out", masks="none"))
    assert "this run wrote no masks" in text_of(source)
    assert "<img" not in source


def test_a_job_that_found_all_done_says_what_was_skipped(archive: Path, model: Path, tmp_path: Path) -> None:
    run_scoring(archive, model, tmp_path / "out")
    text = text_of(page(run_scoring(archive, model, tmp_path / "out")))
    assert "12 skipped: done before" in text
    assert "this job scored nothing" in text


def test_an_interrupted_run_says_how_many_images_are_left(copied: Path) -> None:
    summary = json.loads((copied / "summary.json").read_text())
    write_json(copied / "summary.json", summary | {"stopped_by": "interrupt", "images_left": 5})
    write_report(as_place(copied))
    assert "Interrupted; the same command goes on from here." in text_of(page(copied))
    assert "5 images are left." in text_of(page(copied))


def test_a_file_that_is_gone_or_changed_is_said_in_its_row(copied: Path) -> None:
    images, masks = copied.parent / "archive/images", copied.parent / "archive/masks"
    first, second, third, fourth = (figures.image for figures in gather(as_place(copied)).worst[:4])
    (images / first).unlink()
    assert cv2.imwrite(str(masks / second), np.ones((96, 120), np.uint8))
    (copied / "masks" / f"{third}.png").write_bytes(b"")
    assert cv2.imwrite(str(images / fourth), np.full((96, 120), 7, np.uint8))
    rows = gather(as_place(copied)).worst[:4]
    assert [row.notes for row in rows] == [
        ["The image can no longer be read: No such file or directory."],
        ["The label is no longer the one that was counted, so it is not shown."],
        ["The mask can no longer be read: the file has no bytes."],
        ["The image has changed since it was scored; this is its present state."],
    ]
    captions = [[picture.caption for picture in row.pictures] for row in rows]
    assert captions[:3] == [
        ["truth", "prediction", "error"],
        ["image", "overlay", "prediction"],
        ["image", "truth"],
    ]
    write_report(as_place(copied))


def test_objects_are_those_of_the_masks_and_what_the_truth_says_of_them(archive: Path, scored: Path) -> None:
    source = page(scored)
    section = source[source.index('id="objects"') :]
    masks = [read_ids(path) for path in (scored / "masks").rglob("*.png")]
    areas = [area for ids in masks if ids is not None for area in find_objects(ids, 2, 64).areas.tolist()]
    assert column(section, "predicted in all") == [f"{len(areas):,}"]
    assert column(section, "mean area") == [f"{np.mean(areas):,.0f} px"]
    rows = [row for part in Ledger(as_place(scored)).rows() for row in part.to_pylist()]
    found, missed, invented = (
        sum(row[f"objects_{kind}"][1] for row in rows) for kind in ("found", "missed", "invented")
    )
    assert column(section, "found") == [f"{found:,}"]
    assert column(section, "recall") == [f"{found / (found + missed):.4f}"]
    assert column(section, "precision") == [f"{found / (found + invented):.4f}"]


def test_drift_shows_every_image_of_a_small_archive_in_its_order(archive: Path, scored: Path) -> None:
    intensity, confidence, miou = gather(as_place(scored)).drifts
    assert [one.title for one in (confidence, miou)] == ["Confidence", "mIoU"]
    names = [NASTY, *(f"s0/{n}.png" for n in range(0, 12, 2)), *(f"s1/{n}.png" for n in range(1, 11, 2))]
    expected = []
    for name in names:
        pixels = cv2.imread(str(archive / "images" / name), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        share = pixels.mean(dtype=np.float64) / np.iinfo(pixels.dtype).max
        expected.append(f"{name}: {share:,.5g}")
    assert [one.title for one in intensity.bins] == expected


def test_a_long_list_is_cut_and_says_how_many_are_left_out(tmp_path: Path) -> None:
    place = write_scores(tmp_path / "out", random_rows(1300, seed=0, unlabelled=200), part=256)
    report = gather(place)
    write_report(place)
    listed = {row.image for row in report.listed}
    assert len(listed) == len(report.listed)
    assert f"{1300 - len(listed):,} images left out" in text_of(page(tmp_path / "out"))
    doubts = sorted(row["confidence"] for row in random_rows(1300, seed=0, unlabelled=200))
    assert sorted(row.confidence for row in report.listed)[:500] == doubts[:500]


def test_a_million_images_stay_a_small_page(tmp_path: Path) -> None:
    """Of what grows with images only the table and the drift are drawn, and both have an end."""
    sizes = []
    for count in (1300, 2600):
        place = write_scores(tmp_path / str(count), random_rows(count, seed=1), part=256)
        write_report(place)
        sizes.append(len(place.read("report.html") or b""))
    assert sizes[1] < 1.1 * sizes[0]


@pytest.mark.parametrize(
    ("archive_uri", "title"),
    [
        ("/data/lab/monday/images", "lab/monday"),
        ("/data", "data"),
        ("s3://bucket/night/7", "night/7"),
        ("s3://bucket", "bucket"),
        ("/", ""),
    ],
)
def test_a_report_is_called_after_the_end_of_its_archives_path(archive_uri: str, title: str) -> None:
    assert archive_title(archive_uri) == title


def test_a_folder_that_is_no_finished_scoring_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is no scores folder, as it holds no run.json; give the `out`"):
        write_report(as_place(tmp_path))
    place = write_scores(tmp_path / "out", random_rows(3, seed=0))
    run = place.read("run.json") or b""
    place.write("run.json", run.replace(b'"archive"', b'"arcjive"'))
    with pytest.raises(RequestError, match=r"is no scores folder, as its run.json names no archive; give"):
        write_report(place)
    place.write("run.json", run.replace(b'"disc"', b'"disk"'))
    said = r"summary.json and run.json beside it name other classes, so that one of them is damaged; if it is"
    with pytest.raises(RequestError, match=said):
        write_report(place)
    place.write("run.json", run)
    place.remove("summary.json")
    with pytest.raises(RequestError, match=r"has no summary.json yet; end its scoring"):
        write_report(place)


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
    assert tab.locator(".drift .median").count() == (3 if folder == "scored" else 2)
    sizes = tab.eval_on_selector_all(
        "img",
        "all => all.filter(one => !one.closest('dialog')).map(one => [one.naturalWidth, one.width])",
    )
    assert sizes
    assert all(natural == 120 and shown > 100 for natural, shown in sizes)
    assert complaints == []
    tab.close()


def shown(tab: Any) -> list[str]:
    """Names in the list of images, as the reader sees them."""
    return tab.eval_on_selector_all(
        "#list tbody tr", "all => all.filter(one => one.offsetParent).map(one => one.cells[0].textContent)"
    )


def test_the_list_of_images_sorts_is_filtered_and_prints(browser: Any, tmp_path: Path) -> None:
    rows = random_rows(40, seed=6, unlabelled=9)
    place = write_scores(tmp_path, rows)
    write_report(place)
    tab = browser.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    tab.click("#list summary")
    mious = {row.image: row.miou for row in gather(place).listed}
    confidences = {row["image"]: row["confidence"] for row in rows}
    known = [name for name in mious if not np.isnan(mious[name])]
    assert len(known) == 30
    tab.click("#list thead th:nth-child(3) button")
    assert shown(tab) == sorted(confidences, key=lambda name: confidences[name])
    for reverse in (False, True):  # what has no mIoU is last both ways
        tab.click("#list thead th:nth-child(2) button")
        assert shown(tab)[:30] == sorted(known, key=lambda name: mious[name], reverse=reverse)
    tab.click("#list thead th:nth-child(1) button")
    assert shown(tab)[:3] == ["s0/0.png", "s0/3.png", "s0/6.png"]

    name, most_miou, most_confidence = tab.query_selector_all("#list form input")
    name.fill("S1 7.png")
    assert shown(tab) == ["s1/7.png", "s1/37.png"]
    assert tab.inner_text("#list output") == "2 of 40 shown"
    name.fill("")
    most_miou.fill("0.2")
    most_confidence.fill("0.5")
    assert set(shown(tab)) == {name for name in known if mious[name] <= 0.2 and confidences[name] <= 0.5}
    tab.keyboard.press("Enter")  # sends nothing
    most_miou.fill("")
    most_confidence.fill("")
    assert (len(shown(tab)), tab.inner_text("#list output")) == (40, "")
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.close()


def test_a_click_enlarges_a_picture_and_arrows_show_its_row_in_the_same_place(
    browser: Any, scored: Path
) -> None:
    tab = browser.new_page(viewport={"width": 1000, "height": 800})
    tab.goto(f"file://{scored}/report.html")
    viewer, small = tab.locator("dialog.viewer img"), tab.locator(".panels").first.locator("img")
    assert not viewer.is_visible()
    before = small.nth(1).bounding_box()
    small.nth(1).click()
    seen = []
    for _ in range(5):
        seen.append((viewer.get_attribute("alt"), viewer.get_attribute("src")))
        assert viewer.bounding_box()["width"] > 3 * before["width"]
        tab.keyboard.press("ArrowRight")
    wanted = [(one.get_attribute("alt"), one.get_attribute("src")) for one in small.all()]
    assert seen == wanted[1:] + wanted[:1]
    tab.keyboard.press("ArrowLeft")
    assert viewer.get_attribute("alt") == wanted[0][0]
    tab.keyboard.press("Escape")
    assert not viewer.is_visible()
    small.first.press("Enter")
    viewer.click()
    assert not viewer.is_visible()
    tab.close()


def test_without_scripts_the_list_is_there_and_asks_for_nothing(browser: Any, scored: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((scored / "report.html").as_uri())
    assert tab.locator("#list tbody tr").count() == 12
    assert tab.locator("input, button").count() == 0
    context.close()
