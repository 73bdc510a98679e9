"""Data sets by the name a recipe gives: each opens a folder and says what is in it."""

from collections.abc import Callable
from pathlib import Path

from seg.data.camvid import open_camvid, open_camvid_rgb
from seg.data.drinks import open_drinks
from seg.data.layout import DataSet
from seg.data.pets import open_pets_binary, open_pets_breeds, open_pets_breeds_only, open_pets_trimap
from seg.data.plain import open_plain

DATASETS: dict[str, Callable[[Path, str], DataSet]] = {
    "plain": open_plain,
    "camvid": open_camvid,
    "camvid-rgb": open_camvid_rgb,
    "pets-binary": open_pets_binary,
    "pets-trimap": open_pets_trimap,
    "pets-breeds": open_pets_breeds,
    "pets-breeds-only": open_pets_breeds_only,
    "drinks": open_drinks,
}
