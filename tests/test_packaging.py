"""What `pip install .` brings: the wheel of this checkout, looked into and imported from."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs.command import list_commands
from tests.small import ROOT

OURS = ("seg", "cluster", "jobs")
SOURCES = (*OURS, "fringe.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, as setuptools leaves folders of its own among what it builds of."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    program = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, check=True)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_a_wheel_holds_every_file_of_ours_and_nothing_else(wheel: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for name in OURS
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = zipfile.ZipFile(wheel).namelist()
    about = re.compile(r"fringe-[^/]+\.dist-info/.+")
    assert {name for name in packed if not about.fullmatch(name)} == files | {"fringe.py"}
    assert any(name.endswith(".jinja") for name in packed)


def test_a_wheel_gives_the_command_and_imports_without_this_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        (points,) = (name for name in packed.namelist() if name.endswith("entry_points.txt"))
        scripts = packed.read(points).decode()
        packed.extractall(tmp_path / "site")
    assert "[console_scripts]\nfringe = jobs.command:main\n" in scripts
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import fringe, jobs.command, seg.screen, cluster\n"
        "print(fringe.__file__, jobs.command.__file__, seg.screen.__file__, cluster.__file__)\n"
        "sys.exit(jobs.command.main(['--help']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    files, *lines = done.stdout.splitlines()
    assert all(file.startswith(str(tmp_path / "site")) for file in files.split())
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list_commands()
