"""Copies between the host and a GPU that nothing waits for until they are needed. On a CPU there is nothing to copy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device, where what is begun after this finds them."""
    if device.type == "cpu":
        return values
    pinned = values if values.is_pinned() else values.pin_memory()
    return pinned.to(device, non_blocking=True)


def to_host(values: Tensor) -> Tensor:
    """The values in the host's memory, once everything that was begun before `mark` is done."""
    if values.device.type == "cpu":
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def mark(device: torch.device) -> Callable[[], None]:
    """What waits for all that was begun on a device by now."""
    if device.type == "cpu":
        return lambda: None
    # The waiting thread leaves its core to the decoders.
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.synchronize
