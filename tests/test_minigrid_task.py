"""Tasks: what training sees of an environment, and where evaluation starts."""

from dataclasses import replace

import pytest
import torch

from common.config import Exp3Config
from common.minigrid.task import check_environments, make_task

CONFIG = Exp3Config(seeds=(0, 1), num_walks=60, walk_length=20)


@pytest.fixture(scope="module")
def task():
    return make_task("Empty-6x6", CONFIG)


def test_all_starts_can_reach_the_goal_and_one_is_the_resets(task):
    assert len(task.starts) == (~task.world.terminal).sum() == 4 * 4 * 4 - 4
    assert task.world.start_state in task.starts
    assert task.distance[task.starts].isfinite().all() and (task.distance[task.starts] > 0).all()
    few = make_task("Empty-6x6", replace(CONFIG, num_episodes=7))
    assert len(few.starts) == 7 and few.starts[0] == task.world.start_state
    assert torch.isin(few.starts, task.starts).all()


def test_observations_are_standardised_by_what_the_walks_saw(task):
    for table, walks in zip(task.observations, task.walks, strict=True):
        seen = table[torch.unique(walks.states)]
        torch.testing.assert_close(seen.mean(0), torch.zeros(seen.shape[1]), atol=1e-5, rtol=0)
        spread = seen.std(0, correction=0)
        varies = spread > 1e-4
        torch.testing.assert_close(spread[varies], torch.ones(int(varies.sum())), atol=1e-4, rtol=1e-4)


def test_goals_are_goal_states_that_the_walks_reached(task):
    for goals, walks in zip(task.goals, task.walks, strict=True):
        assert torch.isin(goals, task.world.goal_states).all()
        assert torch.isin(goals, torch.unique(walks.states)).all()


def test_a_seed_sees_the_same_whatever_it_runs_beside(task):
    alone = make_task("Empty-6x6", replace(CONFIG, seeds=(1,)))
    assert torch.equal(alone.walks[0].states, task.walks[1].states)
    torch.testing.assert_close(alone.observations[0], task.observations[1])


def test_drop_is_left_out_where_a_goal_is_reached_without_or_the_configuration_says_so():
    with_drop = make_task("KeyCorridorS3R1", replace(CONFIG, num_walks=200))  # for free hands
    assert "drop" in with_drop.world.action_names
    doors = {choice: replace(CONFIG, num_walks=300, drop_action=choice) for choice in ("auto", "yes")}
    without, everything = (make_task("DoorKey-5x5", config).world for config in doors.values())
    assert "drop" not in without.action_names and len(without.goal_states)
    assert "drop" in everything.action_names and everything.num_states > 2 * without.num_states
    with pytest.raises(ValueError, match="no state of KeyCorridorS3R1"):
        check_environments(replace(CONFIG, environments=("KeyCorridorS3R1",), drop_action="no"))


def test_leaving_drop_out_comes_before_exploring():
    """With drop DoorKey-16x16 has too many states; without, it is small."""
    check_environments(replace(CONFIG, environments=("DoorKey-16x16",), drop_action="no"))


def test_walks_that_reach_no_goal_are_refused_with_what_to_change():
    with pytest.raises(ValueError, match="--num-walks"):
        make_task("FourRooms", replace(CONFIG, num_walks=2))
