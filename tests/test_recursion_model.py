"""The HRM and TRM recursions: published sizes, layers against references, gradients as long as asked for."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from common.recursion.layers import (
    Attention,
    Linear,
    SwiGLU,
    grid_positions,
    inner_width,
    line_positions,
    rms_norm,
    rotate,
    rotations,
)
from common.recursion.model import HRM, PUBLISHED, TRM, Sizes, States
from common.recursion.table import PuzzleTable
from common.run.random import generators

TINY = Sizes(
    vocabulary=6, grid=(2, 3), width=8, heads=2, inner_multiple=8, layers_H=1, layers_L=1, position_axes=2
)
SEEDS = (0, 1)
PARAMETERS = {
    "hrm_sudoku": 27_275_266,
    "trm_attention_sudoku": 6_828_034,
    "trm_mlp_sudoku": 5_028_866,
    "trm_mlp_maze": 18_795_522,
}


def tiny(kind=HRM, seeds=SEEDS, **changes):
    return kind(seeds, dataclasses.replace(TINY, **changes))


def begin(model, batch=3, stream="tokens"):
    """Injected input and initial states of random tokens; in every company the same for a seed."""
    draws = generators(range(model.members), stream)
    tokens = torch.stack([torch.randint(6, (batch, model.sizes.cells), generator=draw) for draw in draws])
    return model.embed(tokens), model.initial(batch)


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_published_models_have_their_published_number_of_parameters(name, expected):
    kind, sizes = PUBLISHED[name]
    with torch.device("meta"):
        model = kind((0,), sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_a_table_adds_no_parameters_to_the_published_count():
    kind, sizes = PUBLISHED["hrm_sudoku"]
    with torch.device("meta"):
        model = kind((0,), dataclasses.replace(sizes, identifiers=1))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS["hrm_sudoku"]


# --- layers ----------------------------------------------------------------------------------------


def test_inner_widths():
    assert inner_width(512, 4, 256) == 1536  # as published
    assert inner_width(32, 4, 256) == 256 and inner_width(32, 4, 32) == 96


def test_rms_norm_has_no_weights_and_rms_one(float64):
    vector = torch.tensor([3.0, 4.0])
    expected = vector / math.sqrt(12.5 + 1e-5)
    torch.testing.assert_close(rms_norm(vector), expected)


def test_positions():
    assert line_positions(2, 3).flatten().tolist() == [-3, -2, -1, 0, 1]
    assert grid_positions(2, 2, 1).tolist() == [[-1, -1], [0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("positions", [line_positions(6, 1), grid_positions(2, 3, 1)])
def test_rotary_positions_turn_pairs_as_complex_numbers_do(float64, positions):
    width, theta = 8, 1e4
    numbers = torch.randn(5, len(positions), 2, width, generator=torch.Generator().manual_seed(0))
    turned = rotate(numbers, rotations(positions, width, theta))
    axes = positions.shape[1]
    for n, place in enumerate(positions.tolist()):
        for pair in range(width // 2):
            axis, index = divmod(pair, width // 2 // axes)
            angle = place[axis] * theta ** (-index * 2 * axes / width)
            real, imaginary = numbers[:, n, :, 2 * pair], numbers[:, n, :, 2 * pair + 1]
            expected = torch.complex(real, imaginary) * complex(math.cos(angle), math.sin(angle))
            torch.testing.assert_close(turned[:, n, :, 2 * pair], expected.real)
            torch.testing.assert_close(turned[:, n, :, 2 * pair + 1], expected.imag)


@pytest.mark.parametrize("place", [line_positions, lambda count: grid_positions(2, count // 2)])
def test_products_of_turned_vectors_know_relative_positions_alone(float64, place):
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 8, generator=draw)
    turns = rotations(place(8), 8)
    at = [rotate(vector.expand(8, 1, 8), turns)[:, 0] for vector in (query, key)]
    torch.testing.assert_close(at[0][1] @ at[1][3], at[0][0] @ at[1][2])
    torch.testing.assert_close(at[0][5] @ at[1][7], at[0][0] @ at[1][2])


def test_a_head_too_narrow_for_its_axes_is_refused():
    with pytest.raises(ValueError, match="width 6"):
        rotations(grid_positions(2, 2), 6)


def test_attention_is_scaled_dot_product_attention(float64):
    draws = generators(SEEDS, "test")
    attention = Attention(draws, 8, 2)
    inputs = torch.randn(2, 3, 5, 8, generator=draws[0])
    turns = rotations(line_positions(5), 4)
    found = attention(inputs, turns)
    for member in range(2):
        parts = [
            (inputs[member] @ part.weight[member]).unflatten(-1, (2, 4))
            for part in (attention.query, attention.key, attention.value)
        ]
        parts = [rotate(parts[0], turns), rotate(parts[1], turns), parts[2]]
        attended = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
        expected = attended.transpose(1, 2).flatten(2) @ attention.out.weight[member]
        torch.testing.assert_close(found[member], expected)


def test_swiglu_is_its_formula(float64):
    draws = generators(SEEDS, "test")
    layer = SwiGLU(draws, 8, 4.0, 8)
    inputs = torch.randn(2, 3, 8, generator=draws[0])
    for member in range(2):
        gate, up, down = (part.weight[member] for part in (layer.gate, layer.up, layer.down))
        hidden = inputs[member] @ gate
        expected = (hidden * torch.sigmoid(hidden) * (inputs[member] @ up)) @ down
        torch.testing.assert_close(layer(inputs)[member], expected)


def test_weights_are_drawn_with_the_standard_deviation_asked_for():
    weight = Linear(generators((0,), "test"), 400, 300).weight
    assert weight.std().item() == pytest.approx(400**-0.5, rel=0.01)
    assert weight.abs().max().item() <= 2 * 400**-0.5 / 0.879


# --- the recursion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HRM, TRM])
def test_a_member_is_the_same_in_any_company(one_thread, kind):
    together, alone = tiny(kind, seeds=(0, 1, 2)), tiny(kind, seeds=(0,))
    ends = []
    for model in (together, alone):
        injected, states = begin(model, batch=16)
        states = model.segment(states, injected, gradient="segment")
        logits, _ = model.read(states)
        logits.square().sum().backward()
        ends.append((states, logits, model.embedding.weight.grad))
    (states, logits, slope), (own_states, own_logits, own_slope) = ends
    for whole, own in zip((*states, logits, slope), (*own_states, own_logits, own_slope), strict=True):
        torch.testing.assert_close(whole[:1], own, rtol=1e-5, atol=1e-6)


def test_hrm_calls_its_levels_in_their_order(float64):
    model = tiny(cycles_H=2, cycles_L=3)
    injected, (z_H, z_L) = begin(model)
    found = model.segment(States(z_H, z_L), injected)
    for _ in range(2):
        for _ in range(3):
            z_L = model.level_L(z_L, z_H + injected, model.turns)
        z_H = model.level_H(z_H, z_L, model.turns)
    torch.testing.assert_close(found.z_H, z_H)
    torch.testing.assert_close(found.z_L, z_L)


def test_trm_is_one_net():
    model = tiny(TRM)
    assert model.level_H is model.level_L
    sizes = [sum(p.numel() for p in m.parameters()) for m in (tiny(HRM), model)]
    assert sizes[0] > sizes[1]


def gradients_of(model, states, injected):
    model.zero_grad()
    logits, q = model.read(states)
    (logits.square().sum() + q.square().sum()).backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_hand(model, states, injected, detach_before):
    """A segment of two cycles with two calls each, its states detached before the call of that number."""
    z_H, z_L = states
    for index, call in enumerate("LLHLLH"):
        if index == detach_before:
            z_H, z_L = z_H.detach(), z_L.detach()
        if call == "L":
            z_L = model.level_L(z_L, z_H + injected, model.turns)
        else:
            z_H = model.level_H(z_H, z_L, model.turns)
        if index < detach_before:
            z_H, z_L = z_H.detach(), z_L.detach()
    return States(z_H, z_L)


@pytest.mark.parametrize("kind", [HRM, TRM])
@pytest.mark.parametrize(
    ("gradient", "detach_before"), [("one_step", 4), ("cycle", 3), (1, 3), ("segment", 0)]
)
def test_gradients_are_as_long_as_asked_for(float64, kind, gradient, detach_before):
    model = tiny(kind)
    injected, states = begin(model)
    found = gradients_of(model, model.segment(states, injected, gradient=gradient), injected)
    expected = gradients_of(model, by_hand(model, states, injected, detach_before), injected)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_gradients_through_all_segments_are_autograds(float64):
    model = tiny()
    injected, states = begin(model)
    through, loop, cut = states, states, states
    for _ in range(3):
        through = model.segment(through, injected, gradient="all")
        loop = by_hand(model, loop, injected, -1)
        cut = model.segment(cut, injected, gradient="segment")
    found, expected = (gradients_of(model, each, injected) for each in (through, loop))
    for name in found:
        torch.testing.assert_close(found[name], expected[name])
    shorter = gradients_of(model, cut, injected)
    name = "level_L.blocks.0.mlp.up.weight"
    assert (shorter[name] - found[name]).norm() > 0.05 * found[name].norm()


def test_a_guide_reaches_both_levels(float64):
    model = tiny()
    injected, states = begin(model)
    guide = torch.zeros(2, 3, 1, 8, requires_grad=True)
    plain, guided = (model.segment(states, injected, given) for given in (None, guide))
    torch.testing.assert_close(plain.z_H, guided.z_H)
    z_L = model.level_L(states.z_L, states.z_H + injected + 1, model.turns)
    one = tiny(cycles_H=1, cycles_L=1)
    found = one.segment(states, injected, torch.ones(2, 3, 1, 8))
    torch.testing.assert_close(found.z_L, z_L)
    torch.testing.assert_close(found.z_H, model.level_H(states.z_H, z_L + 1, model.turns))
    slope = torch.autograd.grad(guided.z_H.square().sum() + guided.z_L[..., 0].sum(), guide)[0]
    assert slope.abs().max() > 0


def test_states_keep_rms_one_over_many_segments():
    model = tiny()
    injected, states = begin(model)
    with torch.no_grad():
        for _ in range(16):
            states = model.segment(states, injected)
    for state in states:
        torch.testing.assert_close(state.square().mean(-1).sqrt(), torch.ones(2, 3, 7), rtol=1e-3, atol=0)


def test_halting_begins_at_its_bias():
    model = tiny()
    injected, states = begin(model)
    _, q = model.read(model.segment(states, injected))
    assert torch.equal(q, torch.full((2, 3, 2), -5.0))


def test_states_as_vectors_and_back():
    model = tiny()
    injected, states = begin(model)
    states = model.segment(states, injected)
    flat = states.flatten()
    assert flat.shape == (2, 3, 2 * 7 * 8)
    assert all(map(torch.equal, States.unflatten(flat, 8), states))


def test_mlp_mixing_takes_numbers_from_place_to_place():
    model = tiny(TRM, mixing="mlp")
    injected, states = begin(model)
    changed = injected.clone()
    changed[:, :, 0] += 1
    ends = [model.segment(states, given).z_H for given in (injected, changed)]
    assert (ends[0] - ends[1])[:, :, 3].abs().max() > 1e-3


# --- the table of puzzle vectors -------------------------------------------------------------------


def test_a_tables_vector_is_the_prefix():
    model = tiny(identifiers=4)
    model.table.rows.copy_(torch.arange(64.0).view(2, 4, 8))
    tokens, identifiers = torch.zeros(2, 3, 6, dtype=torch.long), torch.tensor([[0, 1, 2], [3, 3, 0]])
    embedded = model.embed_puzzles(tokens, identifiers)
    expected = math.sqrt(8) * torch.arange(32.0, 64.0).view(4, 8)[3]
    torch.testing.assert_close(embedded[1, 0, 0], expected)


def test_a_table_moves_the_rows_of_the_batch_alone_and_by_signs():
    table = PuzzleTable(2, 5, 1, 2)
    table.rows.fill_(1.0)
    identifiers = torch.tensor([[0, 3, 3], [4, 4, 4]])
    slopes = torch.tensor([[[2.0, -1.0], [3.0, 1.0], [-5.0, 1.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    (table(identifiers)[:, :, 0] * slopes).sum().backward()
    table.update(0.1, weight_decay=0.5)
    expected = torch.ones(2, 5, 2)
    expected[0, 0] = 0.95 + 0.1 * torch.tensor([-1.0, 1.0])
    expected[0, 3] = 0.95 + 0.1 * torch.tensor([1.0, -1.0])  # of the sums -2 and 2
    expected[1, 4] = 0.95 + 0.1 * torch.tensor([-1.0, 0.0])
    torch.testing.assert_close(table.rows, expected)
    table.update(0.1)
    torch.testing.assert_close(table.rows, expected)  # nothing is left to learn from
