"""What the workers of a training tell each other: features, sums, gradients.

Every worker's loss is its share of the joined batch's, so gradients are added up, not averaged:
workers with rows of any number then compute what one worker with all rows would.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor, nn

BUCKET_NUMBERS = 8 * 2**20  # gradients that travel together


@dataclass(frozen=True)
class Workers:
    """The processes that share a step.

    Args:
        rank: of this one, from 0.
        size: how many; with 1 nothing is sent.
    """

    rank: int = 0
    size: int = 1

    def gather(self, rows: Tensor) -> Tensor:
        """Puts the rows of all workers together, one's own first; only these keep their gradient.

        Shapes: rows (B, …), B differing between workers; returns (sum of B, …).

        Source: ModelScope 1.40 and Chinese-CLIP, `aggregate` without gradients.
        """
        if self.size == 1:
            return rows
        return torch.cat([rows, *self.others(rows.detach())])

    def others(self, rows: Tensor) -> list[Tensor]:
        """The rows of each other worker, in order of rank."""
        counts = self._all(torch.tensor([len(rows)], device=rows.device))
        longest = int(max(int(count) for count in counts))
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        found = self._all(padded)
        return [
            part[: int(count)]
            for rank, (part, count) in enumerate(zip(found, counts, strict=True))
            if rank != self.rank
        ]

    def total(self, number: float) -> float:
        """Adds up a number over all workers."""
        return self.totals([number])[0]

    def totals(self, numbers: Iterable[float]) -> list[float]:
        """Adds up each of some numbers over all workers."""
        summed = torch.tensor(list(numbers), dtype=torch.float64)
        if self.size > 1:
            device = torch.device("cuda") if distributed.get_backend() == "nccl" else None
            summed = summed.to(device)
            distributed.all_reduce(summed)
        values: list[float] = summed.tolist()
        return values

    def add_gradients(self, module: nn.Module) -> None:
        """Adds up the gradients of all workers; where only some have one, the others' is 0.

        What nobody used keeps none, so that it is not decayed either, as with a single worker.
        """
        if self.size == 1:
            return
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        users = self.totals(parameter.grad is not None for parameter in trained)
        used = [parameter for parameter, count in zip(trained, users, strict=True) if count]
        for bucket in _buckets(used):
            gradients = [
                torch.zeros_like(each) if each.grad is None else each.grad for each in bucket
            ]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            distributed.all_reduce(flat)
            chunks = torch.split(flat, [each.numel() for each in bucket])
            for parameter, chunk in zip(bucket, chunks, strict=True):
                parameter.grad = chunk.view_as(parameter)

    def _all(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(found, tensor.contiguous())
        return found


def _buckets(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    numbers = 0
    for parameter in parameters:
        bucket.append(parameter)
        numbers += parameter.numel()
        if numbers >= BUCKET_NUMBERS:
            yield bucket
            bucket, numbers = [], 0
    if bucket:
        yield bucket
