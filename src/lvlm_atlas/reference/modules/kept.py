"""Modules that techniques bring along: made once for a model and a setting, and kept as long as the model lives.

Their weights are random, since none are shipped: drawn from a seed on the CPU in float32 by the rule of `LVLM.random`,
so that they are the same on every device, then moved. `give` puts trained ones in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.lvlm.weights import draw

Module = TypeVar("Module", bound=nn.Module)

_KEPT: MutableMapping[Target, dict[Hashable, nn.Module]] = WeakKeyDictionary()
"""The modules of each model that were drawn."""
_GIVEN: MutableMapping[Target, dict[Hashable, nn.Module]] = WeakKeyDictionary()
"""Those that were given to it."""
_TAKEN: MutableMapping[Target, set[Hashable]] = WeakKeyDictionary()
"""Keys of given modules that something asked for."""


def module_of(run: Run, key: Hashable, build: Callable[[], Module], *, dtype: torch.dtype | None = None) -> Module:
    """The module that the model of a run keeps under `key`: the one given to it, else one built once and kept.

    Args:
        run: the run; its model says where the weights lie.
        key: what the module depends on besides the model, such as the technique's setting; techniques that share a
            module use the same key.
        build: makes the module on the CPU. It must not hold the model itself, which could then never be freed.
        dtype: type of the weights; None is that of the model's.
    """
    kept = _KEPT.setdefault(run.target, {})
    if (trained := given(run.target, key)) is not None:
        return trained  # type: ignore[return-value]  # a key stands for one kind of module
    if key not in kept:
        kept[key] = drawn(build, dtype=dtype or run.target.dtype, device=run.target.device)
    return kept[key]  # type: ignore[return-value]  # a key stands for one kind of module


def brought(model: Target) -> Mapping[Hashable, nn.Module]:
    """The modules with random weights that a model keeps, by key, in the order in which they were asked for."""
    return dict(_KEPT.get(model, {}))


def random_weights(model: Target) -> int:
    """How many numbers with random values the modules hold that a model keeps; those that were given do not count."""
    return sum(weight.numel() for module in _KEPT.get(model, {}).values() for weight in module.parameters())


def give(model: Target, key: Hashable, module: nn.Module) -> None:
    """Let a model keep this module under `key`, trained weights and all, in place of a random one; it is frozen."""
    _GIVEN.setdefault(model, {})[key] = module.eval().requires_grad_(requires_grad=False)


def given(model: Target, key: Hashable) -> nn.Module | None:
    """The module that was given to a model under `key`, if there is one; from then on it counts as taken."""
    module = _GIVEN.get(model, {}).get(key)
    if module is not None:
        _TAKEN.setdefault(model, set()).add(key)
    return module


def taken(model: Target) -> frozenset[Hashable]:
    """The keys of given modules that something asked for."""
    return frozenset(_TAKEN.get(model, ()))


def forget(model: Target) -> None:
    """Let a model keep no module any more."""
    for each in (_KEPT, _GIVEN, _TAKEN):
        each.pop(model, None)


def drawn(
    build: Callable[[], Module],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Module:
    """A module with random weights, the same for a seed on every device: matrices from N(0, 1/fan_in), norms 1,
    biases 0. Buffers stay as they were built.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(mode=False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        module = build()
        for name, weight in module.named_parameters():
            draw(name, weight, generator)
    return module.to(device, dtype).eval().requires_grad_(requires_grad=False)
