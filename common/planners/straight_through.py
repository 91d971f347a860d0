"""The chain that verified_gradient and helm share: descend on logits, verify, keep the best discrete plan.

Shapes: B problems, S hard samples, T steps (of a chain on repeated actions: fewer), A actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.planners.candidates import BestPlans, Rollout, gumbel_noise, one_hot, sample_actions, score
from common.planners.problem import BACKWARD_COST, BudgetExceeded, Plan, PlanningProblem


@dataclass(frozen=True)
class StraightThrough:
    """Hyperparameters of a Gumbel straight-through chain that verifies what it returns.

    Each iteration draws a discrete plan by the Gumbel-max trick, takes the energy's gradient AT that plan
    and pulls it back through the relaxation softmax((logits + g) / tau) (straight-through, Bengio et al.,
    2013; Jang et al., 2017). Such a gradient never sees a relaxed action, so it cannot exploit one. Beside
    it `hard_samples` plans from softmax(logits) are scored without a gradient.
    """

    learning_rate: float = 0.3  # of Adam, in logits
    betas: tuple[float, float] = (0.5, 0.9)  # of Adam
    tau: float = 1.0  # temperature of the relaxation
    init_sigma: float = 0.3  # of the first logits
    hard_samples: int = 4  # S

    @property
    def iteration_cost(self) -> int:
        """Rollouts that one iteration costs."""
        return 1 + BACKWARD_COST + self.hard_samples

    def initial_logits(self, problem: PlanningProblem, steps: int, generator: torch.Generator) -> Tensor:
        """Normal logits of standard deviation init_sigma: [B, steps, A]."""
        shape = (problem.num_problems, steps, problem.num_actions)
        return self.init_sigma * torch.randn(shape, generator=generator).to(problem.device)

    def descend(
        self,
        rollout: Rollout,
        chain: "Chain",
        iterations: int,
        energy_scale: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Run a chain on, in place.

        Args:
            rollout: actions [B, N, T, A] -> energies [B, N].
            chain: logits and the best plans so far.
            iterations: how many.
            energy_scale: [B]; gradients are taken in units of it, so that Adam's epsilon means the same.
            generator: of the noise.
        """
        adam = _Adam(chain.logits, self.learning_rate, self.betas)
        num_actions = chain.logits.shape[-1]
        for _ in range(iterations):
            relaxed = chain.logits + gumbel_noise(chain.logits, generator)
            plan = relaxed.argmax(-1)[:, None]  # [B, 1, T]
            energy, slope = _slope_at(rollout, one_hot(plan, num_actions))
            chain.offer(plan, energy)
            if self.hard_samples:
                samples = sample_actions(chain.logits.softmax(-1), self.hard_samples, generator)
                chain.offer(samples, score(rollout, samples, num_actions))
            chain.best.record()
            slope = slope[:, 0] / energy_scale[:, None, None]
            adam.step(chain.logits, _through_softmax(relaxed / self.tau, slope) / self.tau)

    def finish(self, problem: PlanningProblem, chain: "Chain") -> Plan:
        """The chain's best plan; one evaluation of softmax(logits) where it was found gives the gap."""
        with torch.no_grad():
            relaxed = problem.rollout(chain.best_logits.softmax(-1)[:, None])[:, 0]
        best = chain.best
        history = torch.stack(best.history)
        return Plan(best.actions, best.energy, best.energy - relaxed, problem.evaluations, history)


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


def affordable_iterations(rollouts: int, cost: int) -> int:
    """Iterations of a cost that so many rollouts pay for.

    Raises:
        BudgetExceeded: if not one.
    """
    if rollouts < cost:
        raise BudgetExceeded(f"an iteration costs {cost} rollouts, the budget leaves {rollouts}")
    return rollouts // cost


def _slope_at(rollout: Rollout, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Energy [B, 1] of one-hot plans [B, 1, T, A] and its gradient with respect to their entries."""
    with torch.enable_grad():
        plan = plan.requires_grad_()
        energy = rollout(plan)
        (slope,) = torch.autograd.grad(energy.sum(), plan)
    return energy.detach(), slope


def _through_softmax(logits: Tensor, slope: Tensor) -> Tensor:
    """Gradient of <slope, softmax(logits)> with respect to the logits: [..., A]."""
    soft = logits.softmax(-1)
    return soft * (slope - (soft * slope).sum(-1, keepdim=True))


class _Adam:
    """Adam (Kingma & Ba, 2015) on one tensor in place; torch.optim's bookkeeping costs more than its step."""

    def __init__(self, like: Tensor, rate: float, betas: tuple[float, float]):
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.rate, self.betas, self.steps = rate, betas, 0

    def step(self, values: Tensor, gradient: Tensor) -> None:
        self.steps += 1
        beta_1, beta_2 = self.betas
        self.first.lerp_(gradient, 1 - beta_1)
        self.second.lerp_(gradient.square(), 1 - beta_2)
        spread = (self.second / (1 - beta_2**self.steps)).sqrt_().add_(1e-8)
        values.addcdiv_(self.first, spread, value=-self.rate / (1 - beta_1**self.steps))
