"""A whole rollout of a residual model as one differentiable operation.

Autograd records every product of every step. Here the backward sweep is written out, so that nothing but
the steps' own products is left, and each weight's gradient is one product over all steps:

    u_k = [z_{k-1}, a_k]                       what enters the network at step k
    h_1 = W_1 u_k + b_1,  h_l = W_l silu(h_{l-1}) + b_l
    z_k = f(z_{k-1} + h_L)                     f = tanh where the latent is bounded, else the identity

    backward, k = K .. 1, with g the gradient of z_k (the loss's own, and what step k + 1 sent back):
    e_L = f'(z_k) g,  e_{l-1} = silu'(h_{l-1}) W_l^T e_l
    g <- e_L + (W_1^T e_1)[z part],  dE/da_k = (W_1^T e_1)[a part],  dE/dW_l = sum_k e_l silu(h_{l-1})^T

Shapes: S members, B batch, K steps, D latent, N d_a a block of actions, H width of a hidden layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from common.training.ensembles import EnsembleMLP


def residual_rollout(network: EnsembleMLP, latents: Tensor, blocks: Tensor, bounded: bool) -> Tensor:
    """Latents after each step of z_k = f(z_{k-1} + network([z_{k-1}, a_k])), f = tanh where bounded.

    Args:
        network: an MLP with SiLU activations, D + N d_a inputs and D outputs.
        latents: z_0, [S, B, D].
        blocks: the actions of each step, [S, B, K, N d_a], K >= 1.
        bounded: whether f is tanh.

    Returns:
        z_1 .. z_K: [S, K, B, D].

    Raises:
        RuntimeError: it is differentiated with create_graph=True; there is no second derivative.
    """
    weights = [parameter for layer in network.layers for parameter in (layer.weight, layer.bias)]
    return _ResidualRollout.apply(latents, blocks.transpose(1, 2), bounded, *weights)


class _ResidualRollout(torch.autograd.Function):
    """See `residual_rollout`; blocks come as [S, K, B, N d_a], weights as W_1, b_1, .. W_L, b_L."""

    @staticmethod
    def forward(ctx: FunctionCtx, latents: Tensor, blocks: Tensor, bounded: bool, *weights: Tensor) -> Tensor:
        matrices, biases = weights[::2], weights[1::2]
        into, push = matrices[0].split((latents.shape[-1], blocks.shape[-1]), 1)
        pushed = _product(blocks, push) + biases[0][:, None]  # what the actions add to h_1, all steps at once
        found = [latents]  # z_0 .. z_K
        hidden = [[] for _ in matrices[1:]]  # h_1 .. h_{L-1}, each of every step
        active = [[] for _ in matrices[1:]]  # silu of them
        for added in pushed.unbind(1):
            value = torch.baddbmm(added, found[-1], into)
            for layer, (matrix, bias) in enumerate(zip(matrices[1:], biases[1:], strict=True)):
                hidden[layer].append(value)
                active[layer].append(F.silu(value))
                value = torch.baddbmm(bias, active[layer][-1], matrix)
            value += found[-1]
            found.append(value.tanh_() if bounded else value)
        ctx.save_for_backward(blocks, *matrices)
        ctx.bounded, ctx.found, ctx.hidden = bounded, found, hidden
        ctx.active = active if any(ctx.needs_input_grad[3:]) else None
        return torch.stack(found[1:], 1)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: the graph would end here without a word
            raise RuntimeError("residual_rollout is differentiable once: for more take the level's steps")
        blocks, *matrices = ctx.saved_tensors
        wide, back = ctx.found[0].shape[-1], [matrix.mT for matrix in matrices]
        carried = torch.zeros_like(ctx.found[0])  # what step k + 1 sends back to z_k
        to_blocks: list[Tensor] = []  # the last step first
        errors: list[list[Tensor]] = [[] for _ in matrices]  # e_1 .. e_L, each of every step, the last first
        for k, slope in zip(reversed(range(blocks.shape[1])), reversed(gradient.unbind(1)), strict=True):
            error = slope + carried
            if ctx.bounded:
                error = torch.ops.aten.tanh_backward(error, ctx.found[k + 1])
            passed = error
            for layer in reversed(range(len(ctx.hidden))):
                errors[layer + 1].append(passed)
                passed = torch.bmm(passed, back[layer + 1])
                passed = torch.ops.aten.silu_backward(passed, ctx.hidden[layer][k])
            errors[0].append(passed)
            entered = torch.bmm(passed, back[0])
            carried = error + entered[..., :wide]
            to_blocks.append(entered[..., wide:])
        weights: list[Tensor | None] = [None] * (2 * len(matrices))
        if ctx.active is not None:
            inputs = [torch.cat((torch.stack(ctx.found[:-1], 1), blocks), -1)]
            inputs += [torch.stack(values, 1) for values in ctx.active]
            weights = _weight_gradients(inputs, errors)
        return carried, torch.stack(to_blocks[::-1], 1), None, *weights


def _weight_gradients(inputs: list[Tensor], errors: list[list[Tensor]]) -> list[Tensor]:
    """dE/dW_1, dE/db_1, .. dE/db_L, each one product over all steps.

    Args:
        inputs: what entered each layer, [S, K, B, n].
        errors: e_1 .. e_L, each of every step, the last first.
    """
    gradients = []
    for values, error in zip(inputs, errors, strict=True):
        flat = torch.stack(error[::-1], 1).flatten(1, 2)  # [S, K B, m]
        gradients += [torch.bmm(values.flatten(1, 2).mT, flat), flat.sum(1, keepdim=True)]
    return gradients


def _product(values: Tensor, matrix: Tensor) -> Tensor:
    """values @ matrix over all steps: [S, K, B, n], [S, n, m] -> [S, K, B, m]."""
    return torch.bmm(values.flatten(1, 2), matrix).unflatten(1, values.shape[1:3])
