"""Data sets by the name a recipe gives: each opens a folder and says what is in it."""

from collections.abc import Callable
from pathlib import Path

from seg.data.camvid import open_camvid
from seg.data.layout import DataSet, open_plain

DATASETS: dict[str, Callable[[Path, str], DataSet]] = {
    "plain": open_plain,
    "camvid": open_camvid,
}
