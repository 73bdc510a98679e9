"""What a data set holds, as one hash: it names packs and runs, and stands in every model file."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seg.data.layout import Sample
from seg.progress import progress


def data_fingerprint(samples: Iterable[Sample], root: Path) -> str:
    """Sha256 in hexadecimal over sorted relative path + content hash of images and labels."""
    given = {file for sample in samples for file in (sample.image, sample.label)}
    files = sorted((file.relative_to(root).as_posix(), file) for file in given)
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool, progress("reading data", len(files)) as advance:
        digests = pool.map(_file_sha256, (file for _, file in files))
        for (name, _), digest in zip(files, digests, strict=True):
            total.update(f"{name}\0{digest}\n".encode())
            advance()
    return total.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
