"""The base model with its adapters, for scripts: ``load_model(resolve_model(spec, path), path, device)``."""

from bench.model.choice_model import ChoiceModel, load_model
from bench.model.identity import resolve_model

__all__ = ["ChoiceModel", "load_model", "resolve_model"]
