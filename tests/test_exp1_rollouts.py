"""The rollout whose backward sweep is written out, against the steps that autograd differentiates."""

import pytest
import torch

from common.run.random import generator
from common.training.ensembles import EnsembleMLP
from exp1_spectral_cliff.models import FlatModel, HelmModel, rollout
from exp1_spectral_cliff.rollouts import residual_rollout
from exp1_spectral_cliff.train_helm import LEAST_STEPS_ROLLED, all_latents


def _normal(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator(0, f"test/{shape}"), dtype=dtype)


def _step_by_step(network, latents, blocks, bounded):
    found = []
    for block in blocks.unbind(2):
        latents = latents + network(torch.cat((latents, block), -1))
        latents = torch.tanh(latents) if bounded else latents
        found.append(latents)
    return torch.stack(found, 1)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("widths", [(), (16,), (16, 16), (16, 8, 16)], ids=len)
@pytest.mark.parametrize(("members", "steps"), [(1, 1), (1, 7), (3, 4)])
def test_values_and_every_gradient_are_autograds(members, steps, widths, bounded):
    network = EnsembleMLP(range(members), (5 + 2, *widths, 5), "test").double()
    inputs = _normal(members, 6, 5), _normal(members, 6, steps, 2)
    upstream = _normal(members, steps, 6, 5)
    found = []
    for function in (residual_rollout, _step_by_step):
        latents, blocks = (value.clone().requires_grad_() for value in inputs)
        values = function(network, latents, blocks, bounded)
        wanted = (latents, blocks, *network.parameters())
        found.append((values, *torch.autograd.grad((values * upstream).sum(), wanted)))
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_only_what_needs_a_gradient_gets_one():
    network = EnsembleMLP((0,), (5, 8, 3), "test").double().requires_grad_(False)
    latents, blocks = _normal(1, 6, 3), _normal(1, 6, 4, 2).requires_grad_()
    residual_rollout(network, latents, blocks, True).sum().backward()
    assert blocks.grad is not None and latents.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not residual_rollout(network, latents, blocks.detach(), True).requires_grad


def test_a_second_derivative_is_refused_not_wrong():
    network = EnsembleMLP((0,), (5, 8, 3), "test").double()
    blocks = _normal(1, 6, 4, 2).requires_grad_()
    values = residual_rollout(network, _normal(1, 6, 3), blocks, True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(values.sum(), blocks, create_graph=True)


def test_action_gradients_through_a_hierarchy_are_those_of_its_steps():
    """Three levels: what a decoder and the next encoder pass on counts too."""
    flat = FlatModel((0, 1), 3, 1, 16, "flat").double().requires_grad_(False)
    levels = [flat]
    levels += [
        HelmModel((0, 1), 3, 1, 8, 16, n, True, f"{n}").double().requires_grad_(False) for n in (4, 16)
    ]
    starts, actions = _normal(2, 5, 3), _normal(2, 5, 3 + 4 + 32, 1).requires_grad_()
    fused = torch.autograd.grad(rollout(levels, starts, actions).square().sum(), actions)[0]

    class Stepped:
        """The level without its `roll`."""

        def __init__(self, level):
            self.stride, self.encode, self.step, self.decode = (
                level.stride, level.encode, level.step, level.decode,
            )  # fmt: skip

    final = rollout([Stepped(level) for level in levels], starts, actions)
    stepped = torch.autograd.grad(final.square().sum(), actions)[0]
    torch.testing.assert_close(fused, stepped, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [LEAST_STEPS_ROLLED - 1, LEAST_STEPS_ROLLED, 3 * LEAST_STEPS_ROLLED])
def test_latents_of_a_training_rollout_are_the_steps(count):
    model = HelmModel((0, 1), 3, 1, 8, 16, 2, True, "test").double()
    start, blocks = model.encode(_normal(2, 5, 3)), _normal(2, 5, count, 2)
    expected = _step_by_step(model.network, start, blocks, True)
    torch.testing.assert_close(all_latents(model, start, blocks), expected, rtol=1e-10, atol=1e-12)
