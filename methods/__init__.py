"""The methods. A new one is a file in this folder and a line here."""

from methods import (
    adam_posterior,
    adamw,
    bayes_optimal,
    blob,
    ensemble,
    isotropic,
    ivon,
    laplace,
    last_layer,
    mc_dropout,
    scalabl,
    scaled,
    swa,
    temperature,
    tfb,
    zero_shot,
)

__all__ = [
    "adam_posterior",
    "adamw",
    "bayes_optimal",
    "blob",
    "ensemble",
    "isotropic",
    "ivon",
    "laplace",
    "last_layer",
    "mc_dropout",
    "scalabl",
    "scaled",
    "swa",
    "temperature",
    "tfb",
    "zero_shot",
]
