"""What the sizes of an experiment on latent world models ask of the machine's memory."""

from common.config import MiniGridConfig


def memory_needed(config: MiniGridConfig) -> dict[str, float]:
    """Bytes of the largest array that each size shapes, for common.run.memory.

    The environment's states are not counted: they are known once it is tabulated.
    """
    seeds, width = len(config.seeds), config.hidden_dim + config.d_latent
    rollout = max(config.training_rollouts())
    walks = seeds * 3 * 8.0 * config.num_walks * config.walk_length
    # a plan keeps the lowest energy of each round, and rounds may be as many as evaluations a step
    plans = seeds * 4.0 * config.num_episodes * config.evaluations_per_step
    descents = seeds * 4.0 * config.num_episodes * max(*config.planning_horizons, config.gd_steps)
    budgets = max(config.small_budgets) if "budgets" in config.parts else 0
    return {
        "num_walks": walks,
        "walk_length": walks,
        "hidden_dim": seeds * 4 * 4.0 * config.hidden_dim * width,  # with gradient and two moments
        "d_latent": seeds * 4 * 4.0 * config.d_latent * width,
        "batch_size": seeds * 4.0 * config.batch_size * width * rollout,
        "evaluations_per_step": plans,
        "small_budgets": seeds * 4.0 * config.num_episodes * budgets,
        "gd_steps": descents,
        "planning_horizons": descents,
    }
