"""Our readers against the truths: one verdict a page, and the table over a corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.foreign.reading import Page, Reading, read_file
from tests.foreign.truths import Truth, Truths, tell_file
from tests.watched import Limits, call_each

CORPUS = Path(__file__).parents[2] / "../shared/data/foreign"

EQUAL, REFUSED, DIFFERENT, NOT_JUDGED = "equal", "refused", "different", "not judged"
FAILURES = ("raised", "crashed", "hung")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One page, or a file whose reader failed."""

    file: str
    """Folder and name."""
    format: str
    page: int
    kind: str
    """equal | refused | different | not judged | raised | crashed | hung"""
    detail: str
    """The reason of a refusal; else what is different, or how it failed."""
    broken_promise: str = ""
    """Where header and decoder do not agree: how."""
    is_sound: bool = False
    """Whether it should have been read."""


def files_of(corpus: Path) -> list[Path]:
    """Every file of a corpus but the texts about it."""
    texts = {".md", ".rs", ".readme", ".toml", ".go", ".license", ".build", ".gitignore", ".ppm"}
    found = [path for path in sorted(corpus.glob("*/*")) if path.suffix.lower() not in texts]
    return [path for path in found if not path.name.endswith(("README", "LICENSE"))]


def judge_files(files: Iterable[Path], limits: Limits | None = None) -> Iterator[Verdict]:
    """The verdicts of each file's pages."""
    for (path, *_), answer in call_each(read_and_tell, ((path,) for path in files), limits):
        name = f"{path.parent.name}/{path.name}"
        if answer.kind != "returned":
            yield Verdict(name, path.suffix or "none", 0, answer.kind, answer.detail.strip())
            continue
        yield from judge(name, *answer.value)


def read_and_tell(path: Path) -> tuple[Reading, Truths]:
    """Both sides of one file; ours first, so that a death before its end is ours."""
    return read_file(path), tell_file(path)


def judge(name: str, reading: Reading, truths: Truths) -> Iterator[Verdict]:
    """Verdicts of a file that was read."""
    nothing = Truth((), "damaged: no such page", "the directories")
    for number, page in enumerate(reading.found):
        truth = truths.found[number] if number < len(truths.found) else nothing
        kind, detail = judge_page(page, truth)
        sound = bool(truth.right)
        yield Verdict(name, truths.format, number, kind, detail, broken_promise(page), sound)
    is_read = any(not page.refused for page in reading.found)
    if is_read and truths.pages not in (None, reading.pages):
        detail = f"{reading.pages} pages counted, {truths.pages} there"
        yield Verdict(name, truths.format, len(reading.found), DIFFERENT, detail)


def judge_page(page: Page, truth: Truth) -> tuple[str, str]:
    """Verdict and its detail."""
    if page.refused:
        return REFUSED, page.refused
    if page.digest in truth.right:
        return EQUAL, ""
    if truth.says == "not judged":
        return NOT_JUDGED, page.says
    return DIFFERENT, f"read as {page.says}; by {truth.oracle}: {truth.says} {truth.right[:1]}"


def broken_promise(page: Page) -> str:
    """How header and decoder contradict each other; '' where they agree.

    Damage behind the header is nobody's promise: the decoder may find it unreadable or truncated.
    """
    if page.header is None:
        return f"header refuses ({page.header_says}), decoder reads" if not page.refused else ""
    if page.refused in ("unsupported", "too_large", "empty"):
        return f"header promises {page.header}, decoder refuses: {page.says}"
    if not page.refused and page.kind != page.header:
        return f"header promises {page.header}, decoder gives {page.kind}"
    return ""


def table(verdicts: Iterable[Verdict]) -> str:
    """Lines: folder and format, then pages, equal, refused by reason, different, failed."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for verdict in verdicts:
        row = rows.setdefault((verdict.file.split("/")[0], verdict.format), Counter())
        row["pages"] += 1
        row[verdict.kind] += 1
        row["promises broken"] += bool(verdict.broken_promise)
        if verdict.kind == REFUSED:
            row[verdict.detail] += 1
            reasons[verdict.detail] += 1
            row["of them sound"] += verdict.is_sound
    columns = ["pages", EQUAL, *sorted(reasons), "of them sound", DIFFERENT, NOT_JUDGED, *FAILURES]
    columns += ["promises broken"]
    total = sum(rows.values(), Counter[str]())
    lines = [f"| folder | format | {' | '.join(columns)} |", "|" + " --- |" * (len(columns) + 2)]
    for (folder, form), row in [*sorted(rows.items()), (("all", ""), total)]:
        lines.append(f"| {folder} | {form} | {' | '.join(str(row[column]) for column in columns)} |")
    return "\n".join(lines)
