"""What a data set holds, as one hash: it names packs and runs, and stands in every model file."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seg.data.layout import Sample
from seg.progress import progress


def data_fingerprint(samples: Iterable[Sample], root: Path) -> str:
    """Sha256 in hexadecimal over sorted relative path + content hash of images and labels (DESIGN 3.3)."""
    files = sorted({file for sample in samples for file in (sample.image, sample.label)})
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool, progress("reading data", len(files)) as advance:
        for file, digest in zip(files, pool.map(_file_sha256, files), strict=True):
            total.update(f"{file.relative_to(root).as_posix()}\0{digest}\n".encode())
            advance()
    return total.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
