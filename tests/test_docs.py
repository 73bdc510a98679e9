import re
from pathlib import Path

import pytest

from tests.commands import parse_command

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:.*ray job submit .*-- )?(?:fringe|python jobs/(\w+)\.py) (.*)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def find_anchors(page: Path) -> set[str]:
    """Where a link can lead in a page: its headings, as GitHub spells them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def find_commands(page: Path) -> list[str]:
    """Commands of ours in the page's indented blocks, a line that goes on joined to its next."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if COMMAND.fullmatch(line)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not link.startswith("http") and (
            not target.exists() or (anchor and anchor not in find_anchors(target))
        ):
            dead.append(link)
    assert dead == []


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - {index} == linked


@pytest.mark.parametrize("page", [page for page in PAGES if find_commands(page)], ids=name)
def test_every_command_is_one_that_its_job_takes(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in find_commands(page):
        parse_command(line.replace("s3://", "/s3/"))  # of a bucket the parser would ask its server
    assert list(tmp_path.iterdir()) == []
