"""The archive's order of images that a ledger names in any order, for a million of them in little memory."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def natural_order(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """Places of strings in natural order, as `seg.data.listing.natural_key` has it.

    A name costs its own bytes and a few more: as lists of parts a million would take a gigabyte.
    """
    keys = [pa.array(map(natural_text, chunk.to_pylist()), pa.string()) for chunk in names.chunks]
    order = pc.call_function("sort_indices", [pa.chunked_array(keys, pa.string())])
    return order.to_numpy().astype(np.int64)


def natural_text(name: str) -> str:
    """A text whose plain order, by code points or by bytes of UTF-8, is the natural order of names.

    A run of digits becomes its number of digits and these without leading zeros, then itself, since 01 comes
    before 1; zero characters, which no file name holds, end the text before it and the run.
    """
    return re.sub(r"\d+", _number_text, name)


def _number_text(run: re.Match[str]) -> str:
    digits = str(int(run[0]))
    return f"\0{chr(len(digits))}{digits}{run[0]}\0"
