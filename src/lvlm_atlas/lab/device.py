"""A device that is not there: tensors that lie on the CPU but count as lying on another device.

Under `DeviceRun` a reference runs as on a GPU, with real numbers, so that what the data decide happens too. What a GPU
would refuse is refused, and what would make the host wait for it is counted.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lvlm_atlas.lab.device_tensor import DEVICE, DeviceFault, OnDevice, on_host, placed, tensors_in
from lvlm_atlas.reference.lvlm.answer import answer

Model = TypeVar("Model", bound=nn.Module)

WAITS = {
    "caches/cache.py": "what a policy keeps is checked",
    "caches/host.py": "entries go to the host and come back",
    "caches/in_cache.py": "where positions have several axes, ids that nobody has any more are counted",
    "drafting/": "drafted tokens are drawn and verified on the host",
    "flow/probe.py": "the scores that a technique reads are counted",
    "flow/states.py": "positions and places in the text are counted on the host",
    "flow/trace.py": "tokens and entries are counted",
    "lvlm/answer.py": "tokens are drawn on the host",
    "lvlm/encode.py": "frames come from the host",
    "lvlm/eviction.py": "the new tokens that one policy leaves to the next are counted",
    "lvlm/model.py": "tokens are counted",
    "lvlm/mrope.py": "positions are counted on the host",
    "lvlm/prompt.py": "the prompt is assembled on the host",
    "lvlm/step.py": "new tokens come from the host",
    "lvlm/windows.py": "patches are sorted into windows by size, once a picture",
    "modules/kept.py": "a technique's modules are drawn on the host, once a model",
    "ops/blocks.py": "blocks are walked through on the host; a kernel reads their mask on the device",
    "ops/sampling.py": "tokens are drawn on the host",
    "ops/places.py": "a mask is checked; who knows how many places it has need not ask the device",
    "ops/verification.py": "drafted tokens are verified on the host",
}
"""Files and folders of `reference` that make the host wait in any run, or only to count or check, and why. What waits
there is no technique's; anywhere else it is that of the technique that called, and a fault if none did."""

_MODEL = ("lvlm/", "drafting/")
"""Where the model itself goes on; what called it from further out has no part in its waits."""
_REFERENCE = f"{Path(inspect.getfile(answer)).parents[1]}/"
_INNER = (f"{Path(torch.__file__).parent}/", __file__, inspect.getfile(OnDevice))
_READS = frozenset({
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "equal",
    "allclose", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount",
})  # fmt: skip
"""Operators whose result, or its size, the host must know before it goes on."""
_COPIES = frozenset({"to", "_to_copy", "copy_"})
"""Operators that may go from one device, or type, to another."""


class DeviceRun:
    """Inside, tensors lie on the device if they were put or made there; nothing is recorded for gradients.

    Args:
        techniques: those of the run, whose waits are counted.

    Raises:
        DeviceFault: an operator mixes devices or floating-point types, a tensor is made on the device in the default
            type, or the model makes the host wait outside of `WAITS`.
    """

    def __init__(self, techniques: Iterable[object] = ()) -> None:
        self.files = {inspect.getfile(type(technique)) for technique in techniques}
        self.waits_before: list[str] = []
        """Where techniques made the host wait before the first step of decoding: file, line and operator."""
        self.waits_decoding: list[str] = []
        """The same from then on."""
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        """Begin."""
        for mode in (torch.inference_mode(), _Making(), _Operators(self)):
            self._modes.enter_context(mode)
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._modes.close()

    def place(self, model: Model) -> Model:
        """The model with its weights on the device, in place."""
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(OnDevice(weight.detach()), requires_grad=False))
        return model

    def wait(self, what: str) -> None:
        """Count for the technique that called it that the host waits."""
        frames = [frame for frame in _frames() if not _is_inner(frame.f_code.co_filename)]
        if _own_file(frames[0]).startswith(tuple(WAITS)):
            return
        for number, frame in enumerate(frames):
            if frame.f_code.co_filename in self.files:
                waits = self.waits_decoding if _is_decoding(frames[number:]) else self.waits_before
                waits.append(f"{_shown(frame)}: {what}")
                return
            if _own_file(frame).startswith(_MODEL):
                break
        raise DeviceFault(
            f"{_shown(frames[0])}: {what} makes the host wait for the device; avoid it, or say why in `WAITS`"
        )


def _is_decoding(frames: Iterable[FrameType]) -> bool:
    """Whether decoding has begun, seen from a technique's frame outwards."""
    for frame in frames:
        if frame.f_code is answer.__code__ or _own_file(frame) == "lvlm/step.py":
            return True
        if frame.f_code.co_name == "begin_decoding" or _own_file(frame) == "lvlm/model.py":
            return False
    return False


class _Making(TorchFunctionMode):
    """Makes a tensor of Python's numbers as torch does, on the host first: only that way an operator shows it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs = kwargs or {}
        makes = func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(args[0], Tensor)
        if not makes or torch.device(kwargs.get("device") or "cpu") != DEVICE:
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": "cpu"})
        if made.is_floating_point() and kwargs.get("dtype") is None:
            raise DeviceFault(f"{_here()}: {func.__name__} makes numbers in the default type; give it the run's dtype")
        return made.to(DEVICE)


class _Operators(TorchDispatchMode):
    """Runs each operator on the numbers of its tensors and judges it."""

    def __init__(self, run: DeviceRun) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on the numbers, and judge it."""
        kwargs = kwargs or {}
        given = (*args, *kwargs.values())
        tensors = list(tensors_in(given))
        wrapped = {id(tensor.host): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
        devices = [value for value in given if isinstance(value, torch.device)]
        if not wrapped and DEVICE not in devices:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name == "_has_compatible_shallow_copy_type":  # may a module that moves put new numbers into its weights?
            return False
        there = _lands_there(name, tensors, devices)
        result = func(*on_host(args), **{key: on_host(value) for key, value in kwargs.items()})
        if name in _COPIES:
            if isinstance(tensors[-1 if name == "copy_" else 0], OnDevice) != there:
                self.run.wait(name)
        else:
            _judge(name, tensors, kwargs, result)
            if name in _READS or _reads(name, tensors, kwargs):
                self.run.wait(f"{name} by a mask" if name.startswith("index") else name)
        return placed(result, wrapped) if there else result


def _lands_there(name: str, tensors: Sequence[Tensor], devices: Sequence[torch.device]) -> bool:
    """Whether the result of an operator lies on the device."""
    if devices:
        return devices[-1] == DEVICE
    if len(tensors) == 2 and name in ("to", "copy_"):  # like the other tensor, into the first one
        return isinstance(tensors[1 if name == "to" else 0], OnDevice)
    return any(isinstance(tensor, OnDevice) for tensor in tensors)


def _judge(name: str, tensors: Sequence[Tensor], kwargs: Mapping[str, Any], result: Any) -> None:
    """Refuse what mixes devices or types, and what is made in the default type.

    A tensor of the host without axes is a number, which may go anywhere.
    """
    for tensor in tensors:
        if tensor.dim() and not isinstance(tensor, OnDevice):
            raise DeviceFault(
                f"{_here()}: {name} mixes tensors of the device with one of the host, {tuple(tensor.shape)}; "
                f"make it on the device of the others"
            )
    types = {tensor.dtype for tensor in tensors if tensor.dim() and tensor.is_floating_point()}
    if len(types) > 1:
        raise DeviceFault(f"{_here()}: {name} mixes {' and '.join(sorted(map(str, types)))}; convert one of them")
    made = next(tensors_in([result]), None)
    if not tensors and made is not None and made.is_floating_point() and kwargs.get("dtype") is None:
        raise DeviceFault(f"{_here()}: {name} makes numbers on the device in the default type; give it the run's dtype")
    if (generator := kwargs.get("generator")) is not None and generator.device != DEVICE:
        raise DeviceFault(f"{_here()}: {name} draws on the device with a generator of {generator.device}")


def _reads(name: str, tensors: Sequence[Tensor], kwargs: Mapping[str, Any]) -> bool:
    """Whether the size of an operator's result depends on what some of its tensors hold."""
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None and not tensors[-1].is_floating_point() and len(tensors) != 1
    masks = [tensor for tensor in tensors[1:] if tensor.dtype in (torch.bool, torch.uint8)]
    if name == "index":
        return bool(masks)
    # A single number goes where the mask says without anyone counting.
    return name in ("index_put", "index_put_") and bool(masks) and tensors[-1].numel() > 1


def _frames() -> Iterator[FrameType]:
    """Frames of the call, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _here() -> str:
    """The line that called an operator, outside of torch and this module."""
    outside = (frame for frame in _frames() if not _is_inner(frame.f_code.co_filename))
    return _shown(next(outside))


def _is_inner(file: str) -> bool:
    return file.startswith(_INNER)


def _own_file(frame: FrameType) -> str:
    """The path of a frame's file inside `reference`; elsewhere the whole path."""
    return frame.f_code.co_filename.removeprefix(_REFERENCE)


def _shown(frame: FrameType) -> str:
    return f"{_own_file(frame)}:{frame.f_lineno}"
