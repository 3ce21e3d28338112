"""The specs of runs, their keys and random streams. Standard library only, so that ``analysis`` needs no torch."""

from bench.specs.casting import UnknownField, build, cast, hints
from bench.specs.family import Family
from bench.specs.keys import SCHEMA, canonical, digest, key, seed_for, to_json
from bench.specs.spec import MEMBER, DataSpec, FitSpec, LoraSpec, ModelSpec, Option, RunSpec, TrainSpec, member

__all__ = [
    "MEMBER",
    "SCHEMA",
    "DataSpec",
    "Family",
    "FitSpec",
    "LoraSpec",
    "ModelSpec",
    "Option",
    "RunSpec",
    "TrainSpec",
    "UnknownField",
    "build",
    "canonical",
    "cast",
    "digest",
    "hints",
    "key",
    "member",
    "seed_for",
    "to_json",
]
