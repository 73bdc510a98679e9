"""What a data set holds, as one hash: it names packs and runs, and stands in every model file."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seg.data.layout import Sample
from seg.progress import progress


def data_fingerprint(samples: Iterable[Sample], root: Path, others: Iterable[Path] = ()) -> str:
    """Sha256 in hexadecimal over sorted relative path + content hash of images, labels and other files.

    A sample whose label an adapter reads adds its name and its decoder's repr: what a colour or a breed means
    may stand in a file of neither kind.
    """
    samples = tuple(samples)
    given = {file for sample in samples for file in (sample.image, sample.label) if file} | set(others)
    files = sorted((file.relative_to(root).as_posix(), file) for file in given)
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool, progress("reading data", len(files)) as advance:
        digests = pool.map(file_sha256, (file for _, file in files))
        for (name, _), digest in zip(files, digests, strict=True):
            total.update(f"{name}\0{digest}\n".encode())
            advance()
    for name, decoder in sorted((sample.name, repr(sample.decoder)) for sample in samples if sample.decoder):
        total.update(f"{name}\0{decoder}\n".encode())
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
