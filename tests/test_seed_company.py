"""Seed 0 is seed 0 in any company: alone, among others, in another order."""

from dataclasses import replace

import pytest

from common.config import EXP3_PRESETS
from exp3_planning_efficiency.run_experiment import execute

TINY = replace(
    EXP3_PRESETS["quick"], environments=("Empty-5x5",), num_walks=60, walk_length=20, iterations=30,
    hidden_dim=16, d_latent=8, batch_size=16, planning_horizons=(6, 14), study_horizon=6,
    evaluations_per_step=32, budget_sweep=(32,), num_episodes=6, gd_steps=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return execute(replace(TINY, output_dir=folder, cache_dir=folder / "cache")).metrics


@pytest.mark.parametrize("seeds", [(0, 1, 2), (2, 0, 1)])
def test_seed_0_among_others_is_seed_0_alone_to_the_bit(alone, tmp_path, seeds):
    company = execute(replace(TINY, seeds=seeds, output_dir=tmp_path, cache_dir=tmp_path / "cache")).metrics
    assert alone.keys() == company.keys() and len(alone) > 200
    place = seeds.index(0)
    odd = [name for name in alone if company[name]["values"][place] != alone[name]["values"][0]]
    assert odd == []
