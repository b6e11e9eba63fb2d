"""A run as on a GPU: the same numbers, every fault that a GPU would show, and every wait of the host counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from lvlm_atlas.lab.device import DeviceRun
from lvlm_atlas.lab.device_tensor import DeviceFault, OnDevice
from lvlm_atlas.lab.settings import SHAPES
from lvlm_atlas.reference.lvlm import LVLM, Result, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import LlmInput, LlmLayer
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV

PRESETS = list(dict.fromkeys(shape.preset for shape in SHAPES))


@dataclass(frozen=True)
class Tries(Technique):
    """Does something with the prompt's hidden states, and changes nothing."""

    what: Callable[[torch.Tensor], Any]

    acts_at = ("llm-input",)

    def llm_input(self, at: LlmInput) -> Any:
        self.what(at.sequence.hidden_BND)
        return at.sequence


@dataclass(frozen=True)
class Stops(Technique):
    """Reads the logits after each token."""

    acts_at = ("stop",)

    def stop(self, at: Any) -> bool:
        return bool(at.logits_NC[-1, 0] > torch.inf)


def run(*stack: Any, preset: str = "tiny", dtype: torch.dtype = torch.bfloat16) -> tuple[Result, DeviceRun]:
    """A run as on a GPU."""
    lvlm = LVLM.random(preset, dtype=dtype)
    request = random_request(lvlm.config, frames=2, text_tokens=9, max_new_tokens=4)
    with DeviceRun(stack) as device:
        return device.place(lvlm).run(request, stack), device


def waits(what: Callable[[torch.Tensor], Any]) -> list[str]:
    """Operators by which a technique that does this makes the host wait."""
    return [wait.rpartition(": ")[2] for wait in run(Tries(what))[1].waits_before]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stack", [(), (FastV(layer=1), Kivi(group_size=8, residual_length=16))], ids=["plain", "two"])
def test_the_answer_is_bit_by_bit_that_of_the_cpu(preset: str, stack: tuple[Any, ...]) -> None:
    lvlm = LVLM.random(preset, dtype=torch.bfloat16)
    request = random_request(lvlm.config, frames=2, text_tokens=9, max_new_tokens=4)
    here = lvlm.run(request, stack)
    there, _ = run(*stack, preset=preset)
    assert isinstance(there.logits_NC, OnDevice)
    assert torch.equal(there.logits_NC.host, here.logits_NC)
    assert (there.trace.kv_byte, there.trace.kv_entries) == (here.trace.kv_byte, here.trace.kv_entries)


FAULTS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "a tensor made on the host": (lambda x: x + torch.zeros(x.shape, dtype=x.dtype), "mixes tensors of the device"),
    "an index of the host": (lambda x: x[:, torch.arange(3)], "index mixes tensors of the device"),
    "a mask of the host": (lambda x: x[:, torch.ones(x.shape[1], dtype=torch.bool)], "mixes tensors of the device"),
    "the default type": (lambda x: torch.zeros(3, device=x.device), "zeros makes numbers on the device in the default"),
    "numbers in the default type": (lambda x: torch.tensor([0.5], device=x.device), "tensor makes numbers in the defa"),
    "a wider type": (lambda x: x * x.float(), "mixes torch.bfloat16 and torch.float32"),
    "float32 leaking into bfloat16": (lambda x: torch.where(x.float() > 0, x, x.float()), "mixes torch.bfloat16 and"),
    "a generator of the host": (
        lambda x: torch.rand(3, device=x.device, dtype=x.dtype, generator=torch.Generator()),
        "draws on the device with a generator of cpu",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_gpu_would_refuse_or_hide_is_refused(name: str) -> None:
    what, said = FAULTS[name]
    with pytest.raises(DeviceFault, match=re.escape(said)) as error:
        run(Tries(what))
    assert re.match(r".*test_device\.py:\d+: ", str(error.value)), "it names the line"


WAITS: dict[str, tuple[Callable[[torch.Tensor], Any], list[str]]] = {
    "item": (lambda x: x[0, 0, 0].item(), ["item"]),
    "float": (lambda x: float(x.sum()), ["item"]),
    "bool": (lambda x: bool((x > 0).any()), ["is_nonzero"]),
    "tolist": (lambda x: x[0, 0].tolist(), ["to"]),
    "cpu": (lambda x: x.cpu(), ["to"]),
    "a copy into a tensor of the host": (lambda x: torch.empty(x.shape, dtype=x.dtype).copy_(x), ["copy_"]),
    "a copy to the device": (lambda x: torch.arange(3).to(x.device), ["to"]),
    "a tensor made of Python's numbers": (lambda x: torch.tensor([0, 2], device=x.device), ["to"]),
    "nonzero": (lambda x: (x > 0).nonzero(), ["nonzero"]),
    "a mask as index": (lambda x: x[x > 0], ["index by a mask"]),
    "masked_select": (lambda x: x.masked_select(x > 0), ["masked_select"]),
    "unique": (lambda x: x.unique(), ["_unique2"]),
    "equal": (lambda x: torch.equal(x, x), ["equal"]),
    "repeats on the device": (lambda x: x[0, :2].repeat_interleave(x[0, :2, 0].long() * 0, 0), ["repeat_interleave"]),
    "a slice that ends at a number of the device": (lambda x: x[:, : (x > 0).sum()], ["item"]),
}
FREE: dict[str, Callable[[torch.Tensor], Any]] = {
    "a number of the host": lambda x: x * torch.tensor(2.0),
    "an index of the device": lambda x: x[:, torch.arange(3, device=x.device)],
    "a sort, a maximum, a scatter": lambda x: x.argsort(1).scatter(1, x.argmax(1, keepdim=True), 0),
    "filling where a mask says": lambda x: x.clone().masked_fill_(x > 0, 0),
    "another type, said so": lambda x: x.float().softmax(-1).to(x.dtype) * x,
    "so many repeats of each": lambda x: x.repeat_interleave(2, 1),
    "shapes": lambda x: torch.empty(len(x), x.numel(), dtype=x.dtype, device=x.device),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_makes_the_host_wait_is_counted(name: str) -> None:
    what, counted = WAITS[name]
    assert waits(what) == counted


@pytest.mark.parametrize("name", FREE)
def test_what_the_device_does_by_itself_is_free(name: str) -> None:
    assert waits(FREE[name]) == []


def test_waits_count_before_decoding_or_a_step() -> None:
    _, device = run(Tries(torch.Tensor.cpu), Stops())
    assert len(device.waits_before) == 1
    assert len(device.waits_decoding) >= 3  # after each token but the last, at which the answer ends anyway


def test_what_only_counts_or_checks_is_no_techniques_wait() -> None:
    _, device = run(FastV(layer=1, keep_ratio=0.5))
    assert device.waits_before == device.waits_decoding == []


def test_the_model_may_wait_in_files_that_say_why_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from lvlm_atlas.lab import device

    fewer = {file: why for file, why in device.WAITS.items() if file != "lvlm/step.py"}
    monkeypatch.setattr(device, "WAITS", fewer)
    with pytest.raises(DeviceFault, match=r"lvlm/step\.py:\d+: to makes the host wait"):
        run()


@dataclass(frozen=True)
class Replaces(Technique):
    """Adds noise made on the host to the hidden states of a layer: right on a CPU."""

    acts_at = ("llm-layer",)

    def llm_layer(self, at: LlmLayer) -> Any:
        hidden_BND = at.sequence.hidden_BND
        return replace(at.sequence, hidden_BND=hidden_BND + torch.zeros(hidden_BND.shape[-1]))


def test_a_fault_that_a_cpu_never_shows_is_found() -> None:
    lvlm = LVLM.random("tiny")
    lvlm.run(random_request(lvlm.config, frames=2), [Replaces()])
    with pytest.raises(DeviceFault, match="add mixes tensors of the device with one of the host"):
        run(Replaces())


def test_every_place_that_may_wait_is_a_file_or_folder_of_the_reference() -> None:
    from lvlm_atlas.lab import device

    for path in device.WAITS:
        assert (device.Path(device._REFERENCE) / path).exists()
