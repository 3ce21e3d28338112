"""ChoiceModel on many architectures: it answers as the model itself would."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from tiny import (
    CPU,
    FAMILIES,
    LETTERS,
    PROMPTS,
    TRUTHS,
    build,
    byte_level,
    check_answers_as_the_model_itself,
    drawn,
    examples,
    lora,
    one_batch,
    same,
    save,
    values,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.model.choice_model import ChoiceModel, load_model
from bench.model.formats import EMBEDDED
from bench.model.identity import resolve_model
from bench.specs import ModelSpec


@pytest.mark.parametrize("name", FAMILIES)
def test_padded_answers_are_those_of_the_untouched_model(name: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[name]
    untouched = build(name, options)
    folder = save(tmp_path / name, untouched, byte_level("<s>"))
    spec = resolve_model(lora(targets), folder)
    model = load_model(spec, folder, CPU)
    embeddings = model._base.get_input_embeddings().weight.detach().clone()
    check_answers_as_the_model_itself(model, untouched, LETTERS[:4])

    head = model._base.get_output_embeddings()
    shapes: list[torch.Size] = []
    hook = head.register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape))
    model.logits(one_batch(model))
    hook.remove()
    assert head.weight.shape[0] == 4 and shapes == [(len(PROMPTS), 1, 4)]
    assert torch.equal(model._base.get_input_embeddings().weight, embeddings)
    assert len(model.params) == 2 * len({n.rsplit(".lora_", 1)[0] for n in model.params})


@pytest.mark.parametrize("answers", [LETTERS[:2], LETTERS[:4], LETTERS, TRUTHS], ids="".join)
def test_the_embedded_base_answers_as_itself(embedded: ChoiceModel, answers: tuple[str, ...]) -> None:
    untouched = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    check_answers_as_the_model_itself(embedded, untouched, answers)


# Encoding


def encoder(llama: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> ChoiceModel:
    shutil.copytree(llama, folder)
    tokenizer.save_pretrained(folder)
    return load_model(lora(), folder, CPU)


@pytest.mark.parametrize(
    ("start", "end"),
    [("", ""), ("<s>", ""), ("<s>", "</s>"), ("", "</s>"), ("<|x|>", "<|x|>")],
    ids=["none", "bos", "bos-eos", "eos", "one-token-for-both"],
)
def test_prompts_keep_their_bos_and_lose_their_eos(llama: Path, start: str, end: str, tmp_path: Path) -> None:
    tokenizer = byte_level(start, end)
    model = encoder(llama, tokenizer, tmp_path / "m")
    encoded = model.encode(examples(), 320)
    first = [tokenizer.convert_tokens_to_ids(start)] if start else []
    for ids, prompt in zip(encoded.tokens, PROMPTS, strict=True):
        assert list(ids) == first + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert encoded.truncated == 0
    lengths = [len(ids) for ids in encoded.tokens]

    batch = encoded.batch(range(4))
    assert batch.input_ids.shape[1] % 8 == 0
    assert batch.attention_mask.sum(1).tolist() == lengths
    for row, length in enumerate(lengths):
        assert batch.input_ids[row, -length:].tolist() == list(encoded.tokens[row])
        assert batch.position_ids[row, -length:].tolist() == list(range(length))

    limit = sorted(lengths)[2]
    cut = model.encode(examples(), limit)
    assert (cut.truncated, cut.cue_lost) == (1, int(PROMPTS[lengths.index(max(lengths))].endswith("Answer:")))
    assert cut.tokens == tuple(ids[:limit] for ids in encoded.tokens), "cut on the right"


def test_a_prompt_that_ends_in_the_eos_as_text_keeps_it(llama: Path, tmp_path: Path) -> None:
    model = encoder(llama, byte_level("<s>", "</s>"), tmp_path / "m")
    ids = model.encode(examples(["Answer:</s>"]), 320).tokens[0]
    assert ids[-1] == model.tokenizer.eos_token_id and ids.count(ids[-1]) == 1


def test_a_prompt_longer_than_the_tokenizer_likes_is_cut_in_silence(
    embedded: ChoiceModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded.tokenizer, "model_max_length", 16)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    encoded = embedded.encode(examples(["A " * 400]), 320)
    assert encoded.truncated == 1 and len(encoded.tokens[0]) == 320
    assert encoded.tokens[0][0] == embedded.tokenizer.bos_token_id
    assert not caplog.records


# Values, modes and dropout


def test_assign_restores_values_also_after_exceptions_and_nested(embedded: ChoiceModel) -> None:
    embedded.prepare(LETTERS[:2], seed=1)
    before, first, second = values(embedded), drawn(embedded, 1), drawn(embedded, 2)
    some = dict(list(second.items())[:3])
    with embedded.assign(first):
        assert same(values(embedded), first)
        with embedded.assign(some):
            assert same(values(embedded), first | some)
        assert same(values(embedded), first)
        with pytest.raises(ZeroDivisionError), embedded.assign(second):
            assert same(values(embedded), second)
            raise ZeroDivisionError
        assert same(values(embedded), first)
    assert same(values(embedded), before)
    wrong = first | {list(first)[-1]: torch.zeros(7, 7)}
    with pytest.raises(ValueError, match=r"has shape \(7, 7\); the adapter has"), embedded.assign(wrong):
        pass
    assert same(values(embedded), before), "a value of another shape leaves the others as they were"
    row = {name: value[:1] for name, value in first.items()}  # copy_ would repeat it
    with pytest.raises(ValueError, match="has shape"), embedded.assign(row):
        pass
    assert same(values(embedded), before)
    with (
        pytest.raises(ValueError, match=r"no adapter 'no\.such'"),
        embedded.assign({"no.such": torch.zeros(1)} | first),
    ):
        pass
    assert same(values(embedded), before)
    with pytest.raises(ZeroDivisionError), embedded.assign(first):
        embedded.load(second)
        raise ZeroDivisionError
    assert same(values(embedded), before)


def test_a_snapshot_is_a_copy(embedded: ChoiceModel) -> None:
    embedded.prepare(LETTERS[:2], seed=1)
    taken = embedded.snapshot()
    embedded.load(drawn(embedded))
    assert not same(taken, values(embedded))
    embedded.load(taken)
    assert same(taken, values(embedded)) and not any(v.requires_grad for v in taken.values())


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_computed_adapters_give_the_same_logits_and_carry_gradients(quantization: str, embedded: ChoiceModel) -> None:
    model = embedded if quantization == "none" else load_model(ModelSpec(quantization=quantization), None, CPU)
    model.prepare(LETTERS[:4], seed=1)
    batch, before = one_batch(model), values(model)
    mean = {name: value.requires_grad_() for name, value in drawn(model, scale=0.1).items()}
    scale = torch.tensor(0.7, requires_grad=True)
    computed = {name: scale * value for name, value in mean.items()}
    logits = model.logits(batch, computed)
    with model.assign({name: value.detach() for name, value in computed.items()}):
        assigned = model.logits(batch)
        direct = torch.autograd.grad(assigned.square().sum(), list(model.params.values()))
    torch.testing.assert_close(logits, assigned, rtol=0, atol=1e-6)
    assert same(values(model), before)
    through = torch.autograd.grad(logits.square().sum(), [*mean.values(), scale])
    for got, expected in zip(through, direct, strict=False):
        torch.testing.assert_close(got, 0.7 * expected, rtol=1e-4, atol=1e-5)
    assert through[-1].abs() > 0
    assert all(p.grad is None for p in model.params.values())
    some = dict(list(computed.items())[:2])
    with model.assign({name: value.detach() for name, value in some.items()}):
        expected = model.logits(batch)
    torch.testing.assert_close(model.logits(batch, some), expected, rtol=0, atol=1e-6)


def test_prepare_starts_afresh_from_its_seed_alone(embedded: ChoiceModel) -> None:
    embedded.prepare(LETTERS[:2], seed=1)
    first = values(embedded)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    for name, value in first.items():
        if "lora_A" in name:
            bound = 1 / math.sqrt(value.shape[1])  # Kaiming-uniform with a = sqrt(5), drawn on the CPU in order
            assert torch.equal(value, torch.empty(value.shape).uniform_(-bound, bound, generator=generator))
        else:
            assert not value.any(), "B = 0"
    embedded.load(drawn(embedded))
    batch = one_batch(embedded)
    embedded.logits(batch).sum().backward()
    embedded.prepare(TRUTHS, seed=1)
    assert same(first, values(embedded)) and all(p.grad is None for p in embedded.params.values())
    embedded.prepare(TRUTHS, seed=2)
    assert not same(first, values(embedded))
    assert torch.equal(state, torch.get_rng_state()), "the global stream is left alone"


def test_prepare_thaws_what_a_fit_froze_and_ends_its_training_mode(embedded: ChoiceModel) -> None:
    embedded.prepare(TRUTHS, seed=1)
    next(iter(embedded.params.values())).requires_grad_(False)
    embedded._module.train()
    embedded.prepare(TRUTHS, seed=1)
    assert all(parameter.requires_grad for parameter in embedded.params.values())
    assert not any(module.training for module in embedded._module.modules())


def test_one_base_serves_tasks_with_other_answers(embedded: ChoiceModel) -> None:
    batch = one_batch(embedded)
    rows = {}
    for answers in (LETTERS[:2], LETTERS, TRUTHS, LETTERS[:4]):
        embedded.prepare(answers, seed=1)
        logits = embedded.logits(batch).detach()
        assert logits.shape == (4, len(answers))
        rows |= {(answers, answer): logits[:, i] for i, answer in enumerate(answers)}
    assert not torch.equal(rows[TRUTHS, "True"], rows[TRUTHS, "False"])
    for answers in (LETTERS[:2], LETTERS[:4]):
        for answer in answers:
            torch.testing.assert_close(rows[answers, answer], rows[LETTERS, answer])


def test_a_refused_answer_leaves_the_model_as_it_was(embedded: ChoiceModel) -> None:
    embedded.prepare(TRUTHS, seed=1)
    before, logits = values(embedded), embedded.logits(one_batch(embedded))
    with pytest.raises(ValueError, match="one distinct token"):
        embedded.prepare(("Unfathomable", "Inscrutable"), seed=2)
    assert same(before, values(embedded)) and torch.equal(logits, embedded.logits(one_batch(embedded)))


def test_logits_before_prepare_are_refused_and_forwards_are_counted(llama: Path) -> None:
    model = load_model(lora(), llama, CPU)
    with pytest.raises(RuntimeError, match="Call prepare"):
        model.logits(one_batch(model))
    assert model.forwards == 0
    model.prepare(TRUTHS, seed=1)
    model.logits(one_batch(model))
    model.logits(one_batch(model, PROMPTS[:1]), drawn(model))
    assert model.forwards == 5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_adapter_dropout_is_on_inside_its_context_only_and_the_bases_own_never(gpt2: Path, rate: float) -> None:
    model = load_model(lora(["c_attn"], dropout=rate), gpt2, CPU)
    model.prepare(LETTERS[:4], seed=1)
    batch = one_batch(model)
    at_zero = model.logits(batch)
    with model.dropout():
        assert torch.equal(model.logits(batch), at_zero), "B = 0: only the base could drop anything"
    model.load(drawn(model))
    still = model.logits(batch)

    def noisy(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model.logits(batch)

    assert torch.equal(noisy(1), noisy(2)) and torch.equal(noisy(1), still)
    with model.dropout():
        assert torch.equal(noisy(1), noisy(1)) and not torch.equal(noisy(1), noisy(2))
        with model.dropout(False):
            assert torch.equal(noisy(1), still)
            with pytest.raises(ZeroDivisionError), model.dropout():
                assert not torch.equal(noisy(1), still)
                raise ZeroDivisionError
            assert torch.equal(noisy(1), still)
        assert not torch.equal(noisy(1), still)
    assert torch.equal(noisy(1), still)

    dropouts = [m for n, m in model._module.named_modules() if isinstance(m, nn.Dropout) and "lora" in n]
    assert len(dropouts) == 2 and all(m.p == rate for m in dropouts)
    kept: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: kept.append((out != 0).float().mean())) for m in dropouts]
    with model.dropout():
        noisy(1)
    assert not any(m.training for m in model._module.modules())
    for hook in hooks:
        hook.remove()
    assert abs(float(torch.stack(kept).mean()) - (1 - rate)) < 0.03


def test_a_model_without_adapter_dropout_has_nothing_to_switch_on(gpt2: Path) -> None:
    model = load_model(lora(["c_attn"], dropout=0.0), gpt2, CPU)
    model.prepare(LETTERS[:4], seed=1)
    model.load(drawn(model))
    batch = one_batch(model)
    still = model.logits(batch)
    with model.dropout():
        assert torch.equal(model.logits(batch), still)
