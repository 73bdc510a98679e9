"""The processes that train one network together, where torch.distributed connects some; else one of one."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among `world_size`, its `rank` counted from 0."""

    rank: int = 0
    world_size: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """The value added over all ranks, in place and returned."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def copy_from_first(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Return once every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


def find_ranks() -> Ranks:
    """The ranks that torch.distributed connects now."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()
