"""Models that several test files read; each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import CPU, GPT2, LLAMA, build, byte_level, save

from bench.model.choice_model import ChoiceModel, load_model
from bench.specs import ModelSpec


@pytest.fixture(scope="session")
def embedded() -> ChoiceModel:
    return load_model(ModelSpec(), None, CPU)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 with strong dropouts of its own, all of which must stay off."""
    options = GPT2 | {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    return save(tmp_path_factory.mktemp("gpt2"), build("gpt2", options), byte_level())


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), build("llama", LLAMA), byte_level("<s>"))
