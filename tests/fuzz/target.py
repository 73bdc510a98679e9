"""What is fuzzed: where sound inputs come from, who reads them, and what would be wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fuzz.mutators import Mutator, damage

Remake = Mutator
"""A mutator whose results carry checksums that fit: other content is then no fault."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of input."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """Sound inputs, the same in every process."""
    read: Callable[[bytes], str]
    """What a command makes of an input: a digest of what it read. ImageError, RequestError: refused."""
    mutators: tuple[Mutator, ...] = (damage,)
    remakers: tuple[Remake, ...] = ()
    has_checksum: bool = False
    """Whether damage that is read with other content is a fault; else it is counted, as nobody can know."""
    truth: Callable[[bytes], frozenset[str] | None] | None = None
    """Digests that are right for an input, none where it is damaged; None: not judged. By other readers."""
    truth_decides: bool = True
    """Whether reading otherwise than the truth is a fault; else it is counted."""
