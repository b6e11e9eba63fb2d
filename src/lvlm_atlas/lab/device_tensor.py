"""Tensors of a device that is not there; see `lvlm_atlas.lab.device`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("meta")
"""The one device besides the CPU that every build of torch knows."""


class DeviceFault(Exception):  # noqa: N818 - a fault of a reference
    """What a run on a device must not do."""


class OnDevice(Tensor):
    """A tensor on the device."""

    host: Tensor
    """Its numbers."""

    @staticmethod
    def __new__(cls, host: Tensor) -> OnDevice:
        """Wrap a tensor of the CPU."""
        out: OnDevice = Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=DEVICE,
        )  # fmt: skip
        out.host = host
        return out

    def data_ptr(self) -> int:
        """Where its numbers lie."""
        return self.host.data_ptr()

    def tolist(self) -> Any:
        """The numbers, read as from any device; torch itself has it for its own class alone."""
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        """Refuse what is done outside of a run."""
        raise DeviceFault(f"{func} on a tensor of the device, outside of its run")


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments or results of an operator."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def on_host(value: Any) -> Any:
    """An argument with the numbers in place of tensors of the device."""
    if isinstance(value, OnDevice):
        return value.host
    if isinstance(value, list | tuple):
        return type(value)(map(on_host, value))
    return torch.device("cpu") if isinstance(value, torch.device) else value


def placed(result: Any, wrapped: Mapping[int, OnDevice]) -> Any:
    """A result on the device; what was changed in place stays the same tensor."""
    if isinstance(result, Tensor):
        return wrapped[id(result)] if id(result) in wrapped else OnDevice(result)
    return type(result)(placed(each, wrapped) for each in result) if isinstance(result, list | tuple) else result
