"""Experiment 6's encoders: what masks hide, what the interface costs, what is planted and caught."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config import EXP6_PRESETS
from common.recursion.model import TRM, Sizes
from common.recursion.puzzles.arc import ArcTask
from common.run.cache import Checkpoint
from common.run.random import generator, generators
from exp6_encoder_trm.contextual import ContextTRM, make_model, stacked_positions
from exp6_encoder_trm.dataset import OUTSIDE, Setting, ask, group_means, left_out, make_groups
from exp6_encoder_trm.diagnostics import (
    QUERIES,
    context_statistics,
    is_collapsed,
    one_cycle,
    shared_squared_norm,
    some_queries,
)
from exp6_encoder_trm.encoders import Encoded, kl_divergence, make_encoder, masked_mean
from exp6_encoder_trm.evaluate import answer, moved, two_most_frequent, vote
from exp6_encoder_trm.jobs import JOBS, Variant
from exp6_encoder_trm.pretrain import pretrain
from exp6_encoder_trm.pretrain_encoder import pretrain_encoder
from exp6_encoder_trm.search import left_out_loss, search, shifted, spread, tune, tuned_answers
from exp6_encoder_trm.training import warm_up_and_decay

READING = ("standard", "attention", "cls", "lpn_standard", "lpn_variational", "tokens")
TINY = replace(
    EXP6_PRESETS["quick"], seeds=(0, 1), width=16, heads=2, layers=1, inner_multiple=8, batch_size=8,
    iterations=4, eval_interval=2, warmup=1, early_stop_exact=0.0,
)  # fmt: skip
CPU = torch.device("cpu")


def toy_setting(tasks=4, pairs=4):
    made = []
    for number in range(tasks):
        grids = np.random.default_rng(number).integers(0, 10, (pairs + 1, 3, 3))
        both = tuple((grid, (grid + number) % 10) for grid in grids)
        made.append(ArcTask(str(number), both[:pairs], both[pairs:]))
    groups = make_groups(made, 3, pairs)
    return Setting("toy", groups, groups, 3)


def encoder_of(context, demos=3, canvas=3):
    prefix = demos * canvas**2 if context == "tokens" else 2
    sizes = Sizes(11, (canvas, canvas), prefix, width=16, heads=2, inner_multiple=8, position_axes=2)
    return make_encoder(context, (0, 1), sizes, groups=4)


def toy_queries():
    setting = toy_setting()
    return ask(setting.train, setting.train.queries()[:6], 3).for_members(2)


def context_of(encoder, queries):
    with torch.no_grad():
        return encoder(queries.demos, queries.shown, queries.groups).context


# ----------------------------------------------------------------------------------------------
# Masks
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", READING)
def test_demonstrations_that_are_not_shown_change_nothing(context):
    encoder, queries = encoder_of(context, demos=5), toy_queries()
    expected = context_of(encoder, queries)
    shape = (2, 6, 2, 2, 9)
    more = torch.randint(1, 11, shape, generator=generator(0, "padding"))
    hidden = torch.zeros(2, 6, 2, dtype=torch.bool)
    padded = replace(
        queries, demos=torch.cat([queries.demos, more], 2), shown=torch.cat([queries.shown, hidden], 2)
    )
    torch.testing.assert_close(context_of(encoder, padded), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("context", [name for name in READING if name != "tokens"])
def test_cells_outside_the_grids_change_nothing(context):
    """The same grids on a larger canvas; rotary places go by row and column, so they are shared."""
    small, large = encoder_of(context), encoder_of(context, canvas=5)
    large.load_state_dict(small.state_dict())
    queries = toy_queries()
    square = queries.demos.unflatten(-1, (3, 3))
    wide = torch.nn.functional.pad(square, (0, 2, 0, 2), value=OUTSIDE).flatten(-2)
    torch.testing.assert_close(
        context_of(large, replace(queries, demos=wide)), context_of(small, queries), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("context", READING)
def test_no_demonstration_at_all_is_finite(context):
    queries = toy_queries()
    nothing = replace(queries, shown=torch.zeros_like(queries.shown))
    said = context_of(encoder_of(context), nothing)
    assert torch.isfinite(said).all() and (said == said[:, :1]).all()


@pytest.mark.parametrize("context", READING)
def test_a_demonstration_is_read_and_members_differ(context):
    encoder, queries = encoder_of(context), toy_queries()
    said = context_of(encoder, queries)
    other = queries.demos.clone()
    other[:, 0, 0, 1] = 1 + other[:, 0, 0, 1] % 10
    changed = context_of(encoder, replace(queries, demos=other))
    assert (changed[:, 0] != said[:, 0]).any() and torch.equal(changed[:, 1:], said[:, 1:])
    assert not torch.allclose(said[0], said[1])


@pytest.mark.parametrize("context", ["standard", "attention", "cls", "lpn_standard", "lpn_variational"])
def test_order_of_demonstrations_does_not_matter_to_a_set(context):
    encoder, queries = encoder_of(context), toy_queries()
    turned = replace(queries, demos=queries.demos.flip(2), shown=queries.shown.flip(2))
    torch.testing.assert_close(context_of(encoder, turned), context_of(encoder, queries), rtol=0, atol=1e-5)


def test_masked_mean_of_nothing_is_zero():
    items = torch.full((1, 1, 2, 3), 7.0)
    assert masked_mean(items, torch.zeros(1, 1, 2, dtype=torch.bool)).tolist() == [[[0.0] * 3]]


def test_tokens_stack_the_demonstrations_above_the_query():
    places = stacked_positions(2, 2).tolist()
    assert places[:4] == [[-4, 0], [-4, 1], [-3, 0], [-3, 1]] and places[4:8][0] == [-2, 0]
    assert places[8:] == [[0, 0], [0, 1], [1, 0], [1, 1]]


# ----------------------------------------------------------------------------------------------
# The variational encoder
# ----------------------------------------------------------------------------------------------


def test_kl_is_that_of_torch_and_counts_shown_demonstrations_alone(float64):
    draw = generator(0, "kl")
    mean, log_variance = (torch.randn(1, 2, 3, 4, generator=draw) for _ in range(2))
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    each = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    shown = torch.tensor([[[True, True, False], [True, False, False]]])
    torch.testing.assert_close(kl_divergence(mean, log_variance, shown), each[shown].mean()[None])


def test_log_variances_beyond_the_limit_stay_finite():
    encoder, queries = encoder_of("lpn_variational"), toy_queries()
    for sign in (1.0, -1.0):
        with torch.no_grad():
            encoder.log_variance.weight.fill_(sign * 100.0)
        encoded = encoder(queries.demos, queries.shown, queries.groups, generators((0, 1), "noise"))
        assert torch.isfinite(encoded.context).all() and torch.isfinite(encoded.kl).all()


def test_it_samples_in_training_and_says_its_mean_in_evaluation():
    encoder, queries = encoder_of("lpn_variational"), toy_queries()
    samples = [encoder(queries.demos, queries.shown, queries.groups, generators((0, 1), name)).context
               for name in ("a", "a", "b")]  # fmt: skip
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
    assert torch.equal(context_of(encoder, queries), context_of(encoder, queries))


# ----------------------------------------------------------------------------------------------
# Trainings
# ----------------------------------------------------------------------------------------------


def test_the_identity_encoder_equals_the_table_at_every_step(one_thread):
    setting = toy_setting()
    table, expected = pretrain(setting, variant=JOBS["E0"].changes, config=TINY, device=CPU)
    identity, history = pretrain_encoder(setting, variant=JOBS["E_identity"].changes, config=TINY, device=CPU)
    assert torch.equal(history["loss"], expected["loss"]) and history["loss"].shape == (4, 2)
    assert torch.equal(identity.encoder.table.rows, table.trm.table.rows) and table.trm.table.rows.any()


def test_seed_0_is_seed_0_in_any_company(one_thread):
    variant = JOBS["E6"].changes
    alone = pretrain_encoder(toy_setting(), variant=variant, config=replace(TINY, seeds=(0,)), device=CPU)
    both = pretrain_encoder(toy_setting(), variant=variant, config=TINY, device=CPU)
    torch.testing.assert_close(both[1]["loss"][:, :1], alone[1]["loss"])
    assert (both[1]["loss"][:, 0] != both[1]["loss"][:, 1]).all()


def test_variants_share_the_trms_first_weights_and_the_batches():
    table, cls = (make_model(3, Variant(context=context), 4, TINY) for context in ("table", "cls"))
    assert torch.equal(table.trm.answer.weight, cls.trm.answer.weight)


def test_the_encoder_gets_a_gradient_at_every_step_though_nothing_halts():
    config = replace(TINY, segments=8, eval_interval=1)
    _, history = pretrain_encoder(toy_setting(), variant=JOBS["E1"].changes, config=config, device=CPU)
    assert history["train/steps"].eq(0).all()  # nothing has halted
    assert (history["encoder_grad_norm"] > 0).all() and (history["trm_grad_norm"] > 0).all()


def test_planted_a_cached_context_is_said(monkeypatch, caplog):
    honest, cache = ContextTRM.encode, []

    def cached(self, queries, draws=None):
        if draws is None:  # an evaluation
            return honest(self, queries)
        cache.append(honest(self, queries, draws) if not cache else Encoded(cache[0].context.detach()))
        return cache[-1]

    monkeypatch.setattr(ContextTRM, "encode", cached)
    config = replace(TINY, segments=8, eval_interval=1)
    with caplog.at_level(logging.WARNING):
        _, history = pretrain_encoder(toy_setting(), variant=JOBS["E1"].changes, config=config, device=CPU)
    assert (history["encoder_grad_norm"][0] > 0).all() and not history["encoder_grad_norm"][1:].any()
    assert "E1: the encoder of member 1 gets no gradient: is its context cached?" in caplog.messages


def test_planted_a_collapsed_encoder_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        pretrain_encoder(
            toy_setting(), variant=JOBS["E_collapsed"].changes, config=TINY, device=CPU, label="planted"
        )
    assert [line for line in caplog.messages if line.startswith("planted: the encoder of member 0 has coll")]


def test_a_frozen_encoder_stays_as_it_was_drawn():
    variant = JOBS["E_diag1"].changes
    model, history = pretrain_encoder(toy_setting(), variant=variant, config=TINY, device=CPU)
    drawn = make_model(3, variant, 4, TINY)
    for own, first in zip(model.encoder.parameters(), drawn.encoder.parameters(), strict=True):
        assert torch.allclose(own, first, rtol=1e-5)  # an average of equal weights
    assert not history["encoder_grad_norm"].any() and (history["trm_grad_norm"] > 0).all()


def test_clipping_is_by_member_and_counted_before():
    variant = replace(JOBS["E1"].changes, grad_clip_norm=1e-3)
    _, history = pretrain_encoder(toy_setting(), variant=variant, config=TINY, device=CPU)
    assert (history["clip_fraction"] == 1).all() and (history["trm_grad_norm"] > 1e-3).all()


def test_the_encoders_own_rate_is_its_own():
    config = replace(TINY, average_decay=0.0)
    fast, slow = (
        pretrain_encoder(toy_setting(), variant=variant, config=config, device=CPU)[0]
        for variant in (JOBS["E1"].changes, replace(JOBS["E1"].changes, encoder_lr_scale=1e-9))
    )
    drawn = make_model(3, JOBS["E1"].changes, 4, TINY)
    moved_by = [
        float((model.encoder.queries.queries - drawn.encoder.queries.queries).detach().abs().max())
        for model in (fast, slow)
    ]
    assert moved_by[0] > 1e-4 > 1e-6 > moved_by[1]
    assert (slow.trm.answer.weight - drawn.trm.answer.weight).abs().max() > 1e-4


def test_what_is_hopeless_is_stopped_at_half_time_and_a_control_is_not():
    config = replace(TINY, iterations=8, early_stop_exact=1.0)
    _, stopped = pretrain_encoder(toy_setting(), variant=JOBS["E1"].changes, config=config, device=CPU)
    _, patient = pretrain_encoder(toy_setting(), variant=JOBS["E_zero"].changes, config=config, device=CPU)
    assert stopped["iteration"][-1] == 4 and patient["iteration"][-1] == 8


def test_an_interrupted_training_goes_on_to_the_bit(tmp_path, one_thread):
    def train(**changes):
        checkpoint = Checkpoint(tmp_path / "x.pt", "mark", every=2)
        config = replace(TINY, segments=3, **changes)
        return pretrain_encoder(
            toy_setting(), variant=JOBS["E3"].changes, config=config, device=CPU, checkpoint=checkpoint
        )

    class Interrupt(Exception):
        pass

    whole, expected = train()
    (tmp_path / "x.pt").unlink()
    saved = Checkpoint.save

    def once(self, payload):
        saved(self, payload)
        raise Interrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", once)
        with pytest.raises(Interrupt):
            train()
    again, history = train()
    for name in ("loss", "encoder_grad_norm", "eval/exact_accuracy", "train/steps"):
        assert torch.equal(history[name], expected[name]), name
    assert torch.equal(again.encoder.out.weight, whole.encoder.out.weight)


def test_rates_rise_stay_and_fall_to_zero():
    factor = warm_up_and_decay(10, iterations=100, decay_from=0.5)
    assert [factor(step) for step in (0, 9, 50, 75, 100)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])
    assert warm_up_and_decay(0, 100, 1.0)(99) == 1.0


# ----------------------------------------------------------------------------------------------
# Diagnostics
# ----------------------------------------------------------------------------------------------


def test_context_statistics_are_their_definitions(float64):
    contexts = torch.randn(1, 6, 5, generator=generator(0, "contexts"))
    groups = torch.tensor([3, 1, 3, 1, 1, 7])
    found = context_statistics(contexts, groups)
    means = torch.stack([contexts[0, groups == group].mean(0) for group in (1, 3, 7)])
    torch.testing.assert_close(group_means(contexts, groups)[0], means)
    pairs = [torch.cosine_similarity(means[i], means[j], 0) for i in range(3) for j in range(3) if i != j]
    own = means[torch.tensor([1, 0, 1, 0, 0, 2])]
    expected = {
        "context_rms": contexts.square().mean().sqrt(),
        "context_cross_variance": ((means - means.mean(0)) ** 2).mean(),
        "context_within_variance": ((contexts[0] - own) ** 2).mean(),
        "context_cosine": torch.stack(pairs).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value[None])


def test_collapse_is_one_direction_and_no_variance():
    cosine, variance = torch.tensor([0.99, 0.99, 0.1, 0.0]), torch.tensor([0.001, 0.5, 0.001, 0.0])
    assert is_collapsed(cosine, variance).tolist() == [True, False, False, True]


def test_cycles_one_after_another_are_a_segment():
    sizes = Sizes(11, (3, 3), 2, width=16, heads=2, inner_multiple=8, cycles_H=3, cycles_L=2, layers_L=1)
    model = ContextTRM(TRM((0, 1), sizes))
    injected = torch.randn(2, 4, 11, 16, generator=generator(0, "x"))
    states = model.trm.initial(4)
    expected = model.trm.segment(states, injected, gradient="segment")
    for _ in range(3):
        states = one_cycle(model, states, injected)
    torch.testing.assert_close(states.z_H, expected.z_H)
    torch.testing.assert_close(states.z_L, expected.z_L)


# ----------------------------------------------------------------------------------------------
# Evaluation and search
# ----------------------------------------------------------------------------------------------


def tokens_model():
    return make_model(3, Variant(context="tokens"), 4, TINY).requires_grad_(False)


def test_a_query_turned_there_and_back_is_itself():
    queries, cells = toy_queries(), torch.tensor([6, 3, 0, 7, 4, 1, 8, 5, 2])
    tokens = torch.tensor([0, 1, 3, 2, *range(4, 11)])
    back = moved(moved(queries, cells, tokens), cells.argsort(), tokens.argsort())
    assert all(torch.equal(back.tensors()[name], value) for name, value in queries.tensors().items())


def test_votes_are_counted_and_ties_go_to_the_first():
    answers = torch.tensor([[1, 1], [2, 2], [3, 3], [2, 2], [1, 1], [1, 1]])
    assert two_most_frequent(answers).tolist() == [[1, 1], [2, 2]]
    assert two_most_frequent(answers[:1]).tolist() == [[1, 1], [1, 1]]


def test_a_vote_finds_what_every_augmentation_agrees_on(monkeypatch):
    """A model that copies its query is unanimous, whatever way its world is turned."""
    queries = toy_queries()
    copies = replace(queries, labels=queries.inputs)

    def copying(model, asked, segments):
        shape = (*asked.inputs.shape[:2], 1)
        return type("Copies", (), {"tokens": asked.inputs[:, :, None].expand(*shape, -1)})

    monkeypatch.setattr("exp6_encoder_trm.evaluate.answer", copying)
    assert torch.equal(vote(None, copies, 1, generator(0, "votes"))[:, :, 0], copies.labels)


def test_answers_in_blocks_are_the_same(monkeypatch):
    model, queries = tokens_model(), toy_queries()
    whole = answer(model, queries, 2)
    monkeypatch.setattr("exp6_encoder_trm.evaluate.AT_ONCE", 1)
    blocks = answer(model, queries, 2)
    assert torch.equal(whole.tokens, blocks.tokens) and whole.tokens.shape == (2, 6, 2, 9)
    torch.testing.assert_close(whole.q, blocks.q)


def test_each_demonstration_is_left_out_of_its_own_context():
    queries = toy_queries()
    asked, counts = left_out(queries)
    assert asked.inputs.shape == (2, 18, 9) and counts.all()
    for place in range(18):
        before, after = queries.demos[:, place // 3, place % 3].unbind(1)
        assert torch.equal(asked.inputs[:, place], before) and torch.equal(asked.labels[:, place], after)
        assert asked.shown[0, place].tolist() == [number != place % 3 for number in range(3)]
    single = replace(queries, shown=queries.shown & (torch.arange(3) < 1))
    assert not left_out(single)[1].any()


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_an_action_that_every_step_reads_counts_as_one(steps):
    """z + a, T times: the Jacobian in a is T times the identity."""
    probes = torch.randn(400, 2, 3, generator=generator(0, "probes"))
    state, action = torch.zeros(2, 3), torch.ones(2, 3)
    found = shared_squared_norm(lambda z, a: z + a, state, action, steps, probes)
    assert found == pytest.approx(3 * steps**2, rel=0.2)


def test_jacobians_are_taken_at_queries_of_every_kind():
    setting = toy_setting(tasks=40)
    groups = some_queries(setting).groups
    assert len(groups) == QUERIES and groups.max() > 30 and len(groups.unique()) > 20


def test_a_search_does_not_depend_on_who_is_searched_beside():
    model = make_model(3, Variant(), 4, TINY).requires_grad_(False)
    queries = toy_queries()
    config = replace(TINY, search_steps=3, search_rate=0.3)
    one = queries.map(lambda value: value[:, 2:3])
    beside, alone = search(model, queries, config)[:, 2:3], search(model, one, config)
    torch.testing.assert_close(beside, alone, atol=1e-3, rtol=0)  # Adam passes on the last digits


def test_the_search_lowers_the_left_out_loss_and_leaves_the_model_alone():
    model, queries = tokens_model(), toy_queries()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    encoded = model.encode(queries).context
    config = replace(TINY, search_steps=8, search_rate=0.3)
    found = search(model, queries, config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    asked, _ = left_out(queries)
    partial = model.encode(asked).context
    shift = (found - encoded).repeat_interleave(3, 1)
    with torch.no_grad():
        first, last = (
            float(left_out_loss(model, context, asked, config).mean())
            for context in (partial, shifted(partial, shift))
        )
    assert last < 0.98 * first


def test_copies_of_a_member_answer_as_it_does():
    model, queries = tokens_model(), toy_queries()
    alone = queries.map(lambda value: value.flatten(0, 1)[:, None])
    copies = spread(model, 6)
    assert copies.trm.members == 12 and copies.encoder.embedding.before.weight.shape[0] == 12
    found = answer(copies, alone, 2).q.view(2, 6, 2, 2)
    torch.testing.assert_close(found, answer(model, queries, 2).q)


def test_tuning_lowers_the_left_out_loss_of_each_query_alone():
    model, queries = tokens_model(), toy_queries()
    alone = queries.map(lambda value: value.flatten(0, 1)[:, None])
    config = replace(TINY, tuning_steps=6, tuning_rate=3e-3)
    copies = spread(model, 6)
    asked, _ = left_out(alone)

    def losses(tuned):
        with torch.no_grad():
            return left_out_loss(tuned, tuned.encode(asked).context, asked, config).mean(1)

    before = losses(copies)
    tune(copies, alone, config)
    assert (losses(copies) < 0.98 * before).all()
    single = spread(model, 1)
    tune(single, alone.map(lambda value: value[[0, 6]]), config)  # the first query of each member
    torch.testing.assert_close(single.trm.answer.weight, copies.trm.answer.weight[[0, 6]])
    assert tuned_answers(model, queries, replace(config, tuning_steps=1)).shape == (2, 6)
