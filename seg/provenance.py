"""Which code and which packages made a result."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "numpy", "opencv-python", "pyarrow", "safetensors")


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result; those not installed are left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # ray: seg runs without it
            continue
    return versions


@cache
def code_version() -> str:
    """Version of fringe, and the commit of the checkout it runs from ('+' where files have changed)."""
    try:
        installed = version("fringe")
    except PackageNotFoundError:  # run from a bare checkout
        installed = "uninstalled"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except OSError:  # no git on this machine: a finished epoch is worth more than its commit
        described = ""
    return f"{installed} {described.strip()}".strip()
