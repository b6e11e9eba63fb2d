"""Modules of techniques: made once for a model and a setting, and kept with it."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Technique, random_request
from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.modules.kept import drawn, give, module_of


class Mixer(nn.Module):
    """A linear map, a norm and a table."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("table", torch.arange(float(width)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.map(x)) + self.table
        return out


def run_of(lvlm: LVLM) -> Run:
    return lvlm.begin(random_request(lvlm.config))


def test_a_module_is_built_once_for_a_model_and_a_key(device: str) -> None:
    one, other = LVLM.random(device=device), LVLM.random(device=device)
    built = []

    def build() -> Mixer:
        built.append(1)
        return Mixer()

    first = module_of(run_of(one), "a", build)
    assert module_of(run_of(one), "a", build) is first
    assert len(built) == 1
    assert module_of(run_of(one), "b", build) is not first
    assert module_of(run_of(other), "a", build) is not first
    assert len(built) == 3


def test_it_lies_where_the_model_lies_in_the_models_type(device: str) -> None:
    lvlm = LVLM.random(dtype=torch.bfloat16, device=device)
    mixer = module_of(run_of(lvlm), 0, Mixer)
    assert {(tensor.dtype, tensor.device.type) for tensor in mixer.state_dict().values()} == {(torch.bfloat16, device)}
    assert not mixer.training
    assert module_of(run_of(lvlm), 1, Mixer, dtype=torch.float32).map.weight.dtype == torch.float32


def test_the_weights_follow_from_the_seed_alone_and_buffers_stay(device: str) -> None:
    torch.manual_seed(1)
    one = drawn(Mixer, device=device)
    torch.manual_seed(2)
    again, other = drawn(Mixer, device=device), drawn(Mixer, seed=1, device=device)
    assert torch.equal(one.map.weight, again.map.weight)
    assert not torch.equal(one.map.weight, other.map.weight)
    assert one.map.bias.count_nonzero() == 0
    assert one.norm.weight.eq(1).all()
    assert one.table.tolist() == list(range(8))
    on_cpu = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * 8**-0.5
    assert torch.equal(one.map.weight.cpu(), on_cpu)


def test_making_one_leaves_torchs_own_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn(Mixer)
    assert torch.equal(torch.rand(3), expected)


def test_what_was_made_inside_a_run_can_be_used_outside() -> None:
    with torch.inference_mode():
        mixer = drawn(Mixer)
    x = torch.ones(1, 8, requires_grad=True)
    mixer(x).sum().backward()
    assert x.grad is not None


def test_trained_weights_take_the_place_of_random_ones() -> None:
    lvlm, trained = LVLM.random(), Mixer()
    give(lvlm, "a", trained)
    assert module_of(run_of(lvlm), "a", Mixer) is trained
    assert not trained.training


def test_what_a_model_keeps_goes_with_it() -> None:
    lvlm = LVLM.random()
    mixer = weakref.ref(module_of(run_of(lvlm), "a", Mixer))
    assert mixer() is not None
    del lvlm
    gc.collect()
    assert mixer() is None


class Maps(Technique):
    """A trained adapter."""

    acts_at = ("adapter",)

    def begin(self, run: Run) -> "Acting":
        config = run.config
        return Acting(module_of(run, "maps", lambda: nn.Linear(config.vision.hidden_size, config.text.hidden_size)))


class Acting:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def adapt(self, at: Adapter) -> Tensor:
        out: Tensor = self.module(at.hidden_FND)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_technique_answers_alike_in_every_run(dtype: torch.dtype, device: str) -> None:
    lvlm = LVLM.random(dtype=dtype, device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [Maps()]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    assert not torch.equal(one.logits_NC, lvlm.run(request).logits_NC)
