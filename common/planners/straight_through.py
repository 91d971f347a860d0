"""The chain that verified_gradient and helm share: descend on logits, verify, keep the best discrete plan.

Shapes: B problems, G gradient samples, S hard samples, T steps (of a chain on repeated actions: fewer),
A actions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .adam import Adam
from .candidates import (
    BestPlans,
    Noise,
    Rollout,
    gumbel_noise,
    one_hot,
    sample_actions,
    score,
    score_relaxed,
    slopes_at,
)
from .problem import BACKWARD_COST, Plan, PlanningProblem, require


@dataclass(frozen=True)
class StraightThrough:
    """Hyperparameters of a chain that takes gradients at discrete plans and verifies what it returns.

    Each iteration draws G plans from softmax(logits) by the Gumbel-max trick, takes the energy's gradient
    AT each of them, g_{t,k} = dE/da_{t,k}, pulls it back to the logits, averages, and steps. A gradient
    taken at a plan never sees a relaxed action, so it cannot exploit one; the plans' energies come free
    with it. Beside them S plans from softmax(logits) are scored without a gradient.

    pull_back="expected" goes through p = softmax(logits / tau): dL/dlogits = p (g - <p, g>). Where the
    energy is multilinear in the actions, g_{t,k} is the energy with action k at step t, and this is, at
    tau = 1, the exact gradient of the expected energy of plans drawn from softmax(logits), but for the
    average over the G plans (local expectation gradient, Titsias & Lazaro-Gredilla, 2015).
    Less travel and more gradient samples (4 and 2) are better in exact dynamics, worse in a learned model,
    whose gradients foretell less: there the hard samples find what the gradient does not.
    pull_back="gumbel" goes through softmax((logits + noise) / tau), the straight-through Gumbel-softmax
    estimator (Jang et al., 2017), which is biased; with G = 1, S = 4, travel 13.5 (45 steps of .3), betas
    (.5, .9) and init_sigma .3 it is the planner of this repository's first prototype.
    """

    travel: float = 8.0  # rate of Adam times iterations of a stage: how far a logit can move
    betas: tuple[float, float] = (0.5, 0.9)  # of Adam
    tau: float = 1.0  # temperature of the pull-back
    init_sigma: float = 0.0  # of the first logits
    gradient_samples: int = 1  # G
    hard_samples: int = 4  # S
    pull_back: str = "expected"  # or "gumbel"

    def __post_init__(self):
        pull_backs = ("expected", "gumbel")
        require("travel", self.travel, 0 < self.travel < math.inf, "positive and finite")
        two = len(self.betas) == 2
        require(
            "betas", self.betas, two and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
        )
        require("tau", self.tau, 0 < self.tau < math.inf, "positive and finite")
        require("init_sigma", self.init_sigma, 0 <= self.init_sigma < math.inf, "at least 0 and finite")
        require("gradient_samples", self.gradient_samples, self.gradient_samples >= 1, "at least 1")
        require("hard_samples", self.hard_samples, self.hard_samples >= 0, "at least 0")
        require("pull_back", self.pull_back, self.pull_back in pull_backs, "'expected' or 'gumbel'")

    @property
    def iteration_cost(self) -> int:
        """Rollouts that one iteration costs."""
        return (1 + BACKWARD_COST) * self.gradient_samples + self.hard_samples

    @property
    def least_rollouts(self) -> int:
        """The smallest budget, in rollouts a problem: one iteration and the relaxation gap."""
        return self.iteration_cost + 1

    def initial_logits(self, problem: PlanningProblem, steps: int, noise: torch.Generator | Noise) -> Tensor:
        """Normal logits of standard deviation init_sigma: [B, steps, A]."""
        shape = (problem.num_problems, steps, problem.num_actions)
        return self.init_sigma * Noise.of(noise, shape[0]).normal(shape, problem.device)

    def descend(
        self,
        rollout: Rollout,
        chain: "Chain",
        iterations: int,
        energy_scale: Tensor,
        noise: torch.Generator | Noise,
    ) -> None:
        """Run a chain on, in place.

        Args:
            rollout: actions [B, N, T, A] -> energies [B, N].
            chain: logits and the best plans so far.
            iterations: how many.
            energy_scale: [B]; gradients are taken in units of it, so that Adam's epsilon means the same.
            noise: one generator, or one a group of problems.
        """
        noise = Noise.of(noise, len(chain.logits))
        adam = Adam(chain.logits, self.travel / max(iterations, 1), self.betas)
        for _ in range(iterations):
            slope = self._sample_slope(rollout, chain, noise)
            if self.hard_samples:
                samples = sample_actions(chain.logits.softmax(-1), self.hard_samples, noise)
                chain.offer(samples, score(rollout, samples, chain.logits.shape[-1]))
            chain.best.record()
            adam.step(chain.logits, slope / energy_scale[:, None, None])

    def _sample_slope(self, rollout: Rollout, chain: "Chain", noise: torch.Generator | Noise) -> Tensor:
        """The logits' gradient from G sampled plans, which are offered to the chain: [B, T, A]."""
        logits = chain.logits[:, None].expand(-1, self.gradient_samples, -1, -1)  # [B, G, T, A]
        perturbed = logits + gumbel_noise(logits, noise)
        plans = perturbed.argmax(-1)  # [B, G, T]
        energies, slopes = slopes_at(rollout, one_hot(plans, logits.shape[-1]))
        chain.offer(plans, energies)
        through = logits if self.pull_back == "expected" else perturbed
        return _through_softmax(through / self.tau, slopes).mean(1) / self.tau

    def finish(self, problem: PlanningProblem, chain: "Chain") -> Plan:
        """The chain's best plan; one evaluation of softmax(logits) where it was found gives the gap."""
        relaxed = score_relaxed(problem.rollout, chain.best_logits.softmax(-1)[:, None])[:, 0]
        return chain.best.plan(problem, relaxed)


class Chain:
    """Where a chain stands: its logits [B, T, A], its best plans, and the logits where those were found."""

    def __init__(self, logits: Tensor):
        self.logits = logits.clone()
        self.best_logits = logits.clone()
        self.best = BestPlans(logits.shape[0], logits.shape[1], logits.device)

    def offer(self, actions: Tensor, energies: Tensor) -> None:
        """Keep the best of candidates [B, N, T] with energies [B, N], and the logits they came from."""
        improved = self.best.offer(actions, energies)
        self.best_logits = torch.where(improved[:, None, None], self.logits, self.best_logits)


def _through_softmax(logits: Tensor, slope: Tensor) -> Tensor:
    """Gradient of <slope, softmax(logits)> with respect to the logits: [..., A]."""
    soft = logits.softmax(-1)
    return soft * (slope - (soft * slope).sum(-1, keepdim=True))
