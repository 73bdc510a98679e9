"""Rules of the repository (STYLE 1 and 2) that a linter cannot judge."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("seg", "cluster", "jobs", "bench", "tests")
DOOR = ROOT / "fringe.py"
FILES = [DOOR, *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
OURS = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("seg", "cluster", "jobs", DOOR.name)]
DOORS = {"print", "Console", "rich.print", *(f"sys.{stream}.write" for stream in ("stdout", "stderr"))}
"""What writes to a terminal as it stands (seg/screen.py says it so that no name acts there)."""
REGISTRIES = {"seg/models/__init__.py", "seg/data/__init__.py"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_over_600_lines() -> None:
    assert FILES
    assert {name(path): count_lines(path) for path in FILES if count_lines(path) > 600} == {}


SMALL = {
    "seg/process.py": "before torch is loaded",
    "seg/threads.py": "three subjects use it",
    "seg/data/__init__.py": "a registry",
    "seg/data/frames.py": "scoring, labelling and packs share it",
    "seg/models/__init__.py": "a registry",
    "seg/models/fcn.py": "a network",
    "seg/models/fcn32.py": "a network",
    "seg/models/fcn_resnet.py": "a network",
    "seg/predict/counts.py": "who writes outcomes has no torch",
}
"""Why a file has under 60 lines and still does not join its user (HOUSE.md: no fragments)."""


def test_a_file_under_60_lines_has_a_reason() -> None:
    found = {name(path) for path in OURS if path.parent.name != "jobs" and 0 < count_lines(path) < 60}
    assert found == SMALL.keys()


def test_rows_are_types_and_not_dictionaries() -> None:
    """`dict[str, Any]` stands where JSON is read or written, in the codec, and at the border to Ray."""
    found = [line for path in OURS for line in path.read_text().splitlines() if "dict[str, Any]" in line]
    assert len(found) <= 30


def test_a_job_is_under_60_lines() -> None:
    verbs = [path for path in (ROOT / "jobs").glob("*.py") if "def main(" in path.read_text()]
    jobs = {path: count_lines(path) for path in verbs}
    assert len(jobs) >= 4
    assert {name(path): lines for path, lines in jobs.items() if lines >= 60} == {}


def test_init_files_are_empty_save_for_the_registries() -> None:
    found = {name(path) for path in FILES if path.name == "__init__.py" and path.read_text().strip()}
    assert found <= REGISTRIES


@pytest.mark.parametrize("registry", sorted(REGISTRIES))
def test_a_registry_is_a_literal_dict(registry: str) -> None:
    body = ast.parse((ROOT / registry).read_text()).body
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    assert all(isinstance(node, kinds) for node in body)
    values = [node.value for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]
    assert [type(value) for value in values] == [ast.Dict]


def test_no_file_is_named_after_nothing() -> None:
    vague = {"utils.py", "util.py", "common.py", "base.py", "helpers.py", "misc.py"}
    assert [name(path) for path in FILES if path.name in vague] == []


def list_undocumented(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) or not tree.body else [name(path)]
    scopes: list[ast.Module | ast.ClassDef] = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]
    for scope in scopes:
        for node in scope.body:
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            if not isinstance(node, kinds) or node.name.startswith("_") or ast.get_docstring(node):
                continue
            if "overload" not in map(ast.unparse, node.decorator_list):  # of which the last one says it
                missing.append(f"{name(path)}: {node.name}")
    return missing


def test_every_module_class_and_public_function_says_what_it_is() -> None:
    assert [missing for path in OURS for missing in list_undocumented(path)] == []


def test_every_module_of_seg_has_its_tests_at_the_same_path() -> None:
    tested_elsewhere = {
        "seg/errors.py",  # where each error is raised
        "seg/recipe.py",  # with recipes
        "seg/requests.py",  # with the jobs
        "seg/data/formats/header.py",  # with images
        "seg/data/formats/tiff_pixels.py",  # with tiff
        "seg/figures/pages.py",  # with report and search
        "seg/label/folder.py",  # with labelling
        "seg/label/window.py",  # with jobs/label
        "seg/ledger/parts.py",  # with ledger
        "seg/locks/holder.py",  # with folder_lock
        "seg/predict/upsampling.py",  # with predictor
        "seg/report/page.py",  # with report
        "seg/model_card.py",  # with model_file
        "seg/predict/counts.py",  # with predictor
        "seg/score/finish.py",  # with pipeline
        "seg/score/handful.py",  # with jobs/predict
        "seg/score/folder.py",  # with old_reader and cluster's score
        "seg/score/job.py",  # with cluster's score
        "seg/score/plan.py",  # with cluster's plan
        "seg/score/predict.py",  # with pipeline
        "seg/score/read.py",  # with pipeline
        "seg/score/watch.py",  # with cluster's dataset
        "seg/score/work.py",  # with parcels
        "seg/score/screen.py",  # with cluster's score
        "seg/score/summary.py",  # with cluster's score
        "seg/search/study.py",  # with cluster's tune_hooks
        "seg/simulate/cells.py",  # with archive
        "seg/simulate/holograms.py",  # with archive
        "seg/train/adapting.py",  # with jobs/options
        "seg/train/mlflow_run.py",  # with cluster's tracking
        "seg/train/tracking.py",  # with cluster's tracking
    }
    modules = [path for path in OURS if name(path).startswith("seg/") and path.name != "__init__.py"]
    missing = {
        name(path)
        for path in modules
        if path.parent.name != "models"  # one parametrised file tests them all
        and not (ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")).is_file()
    }
    assert missing <= tested_elsewhere


def test_what_one_imports_is_made_of_seg_and_cluster() -> None:
    """As import-linter, which looks at packages alone, would say of it."""
    nodes = list(ast.walk(ast.parse(DOOR.read_text(encoding="utf-8"))))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    assert {name.partition(".")[0] for name in names if name} - sys.stdlib_module_names <= {
        *("seg", "cluster", "numpy", "pyarrow")
    }
    assert (ROOT / "tests/test_fringe.py").is_file()


def test_the_lock_file_has_exact_versions_and_no_address() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+( ; [^;]+)?")
    assert len(lines) > 50
    assert [line for line in lines if not pinned.fullmatch(line) or "://" in line] == []


def test_lines_leave_for_the_screen_through_one_door() -> None:
    allowed = {"seg/screen.py", "jobs/lists.py: print"}  # recipes, a table without a user's name
    found = set()
    for path in OURS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in DOORS:
                found.add(f"{name(path)}: {ast.unparse(node.func)}")
    assert {door for door in found if door not in allowed and door.partition(":")[0] not in allowed} == set()
