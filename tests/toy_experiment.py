"""A toy experiment, whole in a folder of its own: a line fitted to a noisy line, for every seed."""

import textwrap
from pathlib import Path

FILES = {
    "__init__.py": '"""A toy: how well does a line fit a noisy line?"""\n',
    "config.py": '''
        """Its settings; a real experiment's stand in common/config.py."""
        from dataclasses import dataclass
        from common.config import RunConfig
        from common.run.command_line import bounded

        @dataclass(frozen=True)
        class ToyConfig(RunConfig):
            """A toy: how well does a line fit a noisy line?"""
            # optimiser steps
            iterations: int = bounded(40, low=1)
            # standard deviation of the noise
            noise: float = bounded(0.1, low=0.0)

        PRESETS = {"quick": ToyConfig(), "full": ToyConfig(preset="full", seeds=(0, 1, 2))}
        ''',
    "models.py": '''
        """A line for every seed."""
        import torch
        from common.training.ensembles import EnsembleMLP

        def make_model(seeds):
            return EnsembleMLP(seeds, (1, 1), "toy")

        def squared_error(predicted, wanted):
            return (predicted - wanted).square().mean((1, 2))
        ''',
    "train_line.py": '''
        """Train the lines."""
        import torch
        from common.run.cache import reads_settings
        from common.run.run import Training
        from common.training.fit import fit
        from exp9_toy.models import make_model, squared_error

        @reads_settings("seeds", "iterations", "noise")
        def train_line(slope, *, variant, config, device, checkpoint=None, label="line"):
            model = make_model(config.seeds).to(device)

            def loss(iteration, draws):
                x = torch.stack([torch.randn(8, 1, generator=draw) for draw in draws])
                noise = torch.stack([torch.randn(8, 1, generator=draw) for draw in draws])
                return {"loss": squared_error(model(x), slope * x + variant * config.noise * noise)}

            def after_step(iteration):
                return {"largest": model.layers[0].weight.abs().max()} if iteration % 20 == 0 else None

            history = fit(model, loss, seeds=config.seeds, iterations=config.iterations, learning_rate=0.1,
                          label=label, stream="toy", checkpoint=checkpoint, after_step=after_step)
            return model, history

        def line_trainings(slope):
            return Training(train_line, "toy", (slope,), {"clean": 0.0, "noisy": 1.0})
        ''',
    "criteria.py": '''
        """What the toy claims."""
        from common.run.criteria import Criterion

        CRITERIA = (Criterion("toy/fits", "strong", "the line is found", "toy/clean/error", "<", 0.5),)
        ''',
    "figures.py": '''
        """Drawn from saved results alone."""
        from common.viz_utils import new_figure

        def draw_figures(results, arrays):
            figure, axes = new_figure()
            axes[0, 0].plot(arrays["toy/clean/history/iteration"], arrays["toy/clean/history/loss"])
            return {"toy.png": figure}
        ''',
    "run_experiment.py": '''
        """A toy: how well does a line fit a noisy line?"""
        import os
        import sys
        from pathlib import Path

        sys.path[:0] = [str(Path(__file__).resolve().parents[1]), os.environ["HELM_ROOT"]]

        from exp9_toy.config import PRESETS
        from common.run.command_line import parse_command_line

        CONFIG = parse_command_line(PRESETS) if __name__ == "__main__" else None

        import torch
        from common.run.cache import reads_settings
        from common.run.run import Experiment, main
        from exp9_toy.criteria import CRITERIA
        from exp9_toy.figures import draw_figures
        from exp9_toy.models import squared_error
        from exp9_toy.train_line import line_trainings

        @reads_settings("seeds")
        def measure_error(model, slope, *, config, device):
            x = torch.linspace(-1, 1, 11).view(1, -1, 1).expand(len(config.seeds), -1, -1)
            return {"error": squared_error(model(x), slope * x)}

        def compute(run):
            models = run.train(line_trainings(2.0))
            for name, model in models.items():
                measured = run.measure(measure_error, f"error/{name}", model, 2.0)
                run.results.add(f"toy/{name}/error", measured["error"])

        EXPERIMENT = Experiment("exp9_toy", Path(__file__).parent, PRESETS, compute, draw_figures, CRITERIA)
        execute = EXPERIMENT.execute

        if __name__ == "__main__":
            raise SystemExit(main(EXPERIMENT, CONFIG))
        ''',
}


def write_toy(place: Path) -> Path:
    """Its folder, below a place that has to be on sys.path; HELM_ROOT has to name the repository."""
    folder = place / "exp9_toy"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    return folder
