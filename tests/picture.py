"""Makes docs/demo.png, the README's picture: two frames of `make demo` with their masks, and its report.

`make picture`; wants Chromium. Below figures.png of the demo's scores stands the top of its report, as a
window shows it.
"""

import subprocess
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SCORES, PICTURE = ROOT / "demo" / "scores", ROOT / "docs" / "demo.png"
WIDTH_PX, WINDOW_PX = 1200, (1200, 690)
COLOURS = 256
"""Of the picture's palette: enough to look at, in a third of the bytes."""


def photograph(page: Path, out: Path) -> None:
    """Write what a window of WINDOW_PX shows of a page. CalledProcessError: Chromium failed."""
    size = ",".join(map(str, WINDOW_PX))
    shot = f"--screenshot={out}", f"--window-size={size}", "--hide-scrollbars", "--no-sandbox"
    subprocess.run(
        ["chromium", "--headless", *shot, page.resolve().as_uri()], check=True, capture_output=True
    )


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other, all of WIDTH_PX."""
    fitted = [one.convert("RGB").resize((WIDTH_PX, one.height * WIDTH_PX // one.width)) for one in pictures]
    whole = Image.new("RGB", (WIDTH_PX, sum(one.height for one in fitted)), "white")
    top = 0
    for one in fitted:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def main() -> None:
    """Make the picture of the demo's folder as it lies."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        photograph(SCORES / "report.html", shot)
        with Image.open(SCORES / "figures.png") as figures, Image.open(shot) as report:
            stack([figures, report]).quantize(
                COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            ).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
