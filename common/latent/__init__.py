"""Latent world models: model, training, planning problems, evaluation, comparison, figures."""
