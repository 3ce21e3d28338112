"""The embedded base and its notes: an exact posterior, draws that never change, a tokenizer without surprises."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.notes.world import NOTE_LENGTH, NOTE_TASKS, NOTES_FOUR, NoteTask, NoteWorld, note_world, vocabulary

BASE = Path(__file__).parents[3] / "bench" / "model" / "embedded"
ANSWERS = {"two": "AB", "four": "ABCD", "bool": ("False", "True")}
TOY = NoteWorld(("tea", "sea", "bee"), (3, 2, 1), ((1, 0, 0), (0, 1, 0), (0, 1, 3)), strength=0.4, length=3)
TOY_ANSWERS = ((0,), (1, 2))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


# The world


def test_the_vocabulary_is_600_distinct_plain_words() -> None:
    words = vocabulary()
    assert len(words) == len(set(words)) == 600
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 9 for word in words)


def test_posterior_is_bayes_rule_over_every_note_of_a_toy_world() -> None:
    """Joint p(answer, note) summed over topic and over each word's source, one note after the other."""
    background = [3 / 6, 2 / 6, 1 / 6]
    topics = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]]
    total = 0.0
    for note in itertools.product(range(3), repeat=3):
        joint = []
        for answer in TOY_ANSWERS:
            p = 0.0
            for topic in answer:
                for from_topic in itertools.product((False, True), repeat=3):  # which words the topic gave
                    p += math.prod(
                        0.4 * topics[topic][w] if its else 0.6 * background[w]
                        for w, its in zip(note, from_topic, strict=True)
                    ) / (len(TOY_ANSWERS) * len(answer))
            joint.append(p)
        total += sum(joint)
        found = TOY.posterior([TOY.vocabulary[w] for w in note], TOY_ANSWERS)
        assert found == pytest.approx([p / sum(joint) for p in joint], rel=1e-12)
    assert total == pytest.approx(1, abs=1e-12)  # the enumeration was complete


def test_posterior_of_a_long_note_does_not_underflow() -> None:
    """5,000 words have a probability far below the smallest float; the log odds stay exact."""
    odds = TOY.log_posterior(["tea", "sea"] * 2500, ((0,), (1,)))
    likelihood = [[0.6 * 3 / 6 + 0.4, 0.6 * 2 / 6], [0.6 * 3 / 6, 0.6 * 2 / 6 + 0.4]]
    expected = 2500 * (math.log(likelihood[0][0] * likelihood[0][1]) - math.log(likelihood[1][0] * likelihood[1][1]))
    assert odds[0] - odds[1] == pytest.approx(expected, rel=1e-9)


def test_draws_follow_the_joint_distribution() -> None:
    rng = random.Random(3)
    n = 20_000
    counts: dict[tuple[str, int], int] = {}
    for _ in range(n):
        words, answer = TOY.draw(rng, TOY_ANSWERS)
        counts[words[-1], answer] = counts.get((words[-1], answer), 0) + 1
    # p(answer) p(last word | answer): background .6 * (3, 2, 1) / 6 plus .4 * the mean of the answer's topics
    expected = {
        ("tea", 0): 0.5 * 0.7, ("sea", 0): 0.5 * 0.2, ("bee", 0): 0.5 * 0.1,
        ("tea", 1): 0.5 * 0.3, ("sea", 1): 0.5 * 0.45, ("bee", 1): 0.5 * 0.25,
    }  # fmt: skip
    for cell, p in expected.items():
        assert counts[cell] / n == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n)), cell


@pytest.mark.parametrize("task", NOTE_TASKS, ids=lambda task: task.name)
def test_posterior_agrees_with_products_of_probabilities(task: NoteTask) -> None:
    """An independent route: products of plain probabilities from the raw weights, no logarithms."""
    world, rng = note_world(), random.Random(5)
    place = {word: i for i, word in enumerate(world.vocabulary)}
    ground, totals = sum(world.background), [sum(topic) for topic in world.topics]
    for _ in range(20):
        words, _ = world.draw(rng, task.topics)
        scores = [
            math.fsum(
                math.prod(
                    (1 - world.strength) * world.background[place[w]] / ground
                    + world.strength * world.topics[t][place[w]] / totals[t]
                    for w in words
                )
                for t in topics
            )
            / len(topics)
            for topics in task.topics
        ]
        found = world.posterior(words, task.topics)
        assert math.fsum(found) == pytest.approx(1, abs=1e-12)
        assert found == pytest.approx([score / math.fsum(scores) for score in scores], rel=1e-9)


@pytest.mark.parametrize(
    ("task", "accuracy"),
    list(zip(NOTE_TASKS, (0.91, 0.825, 0.91), strict=True)),
    ids=[task.name for task in NOTE_TASKS],
)
def test_posterior_is_calibrated_and_as_hard_as_intended(task: NoteTask, accuracy: float) -> None:
    """Given the notes, the hits are independent coins with known means: their sum stays within four deviations."""
    world, rng = note_world(), random.Random(7)
    draws = [world.draw(rng, task.topics) for _ in range(4000)]
    predicted = [(world.posterior(words, task.topics), answer) for words, answer in draws]
    coins = [(max(p), p[answer] == max(p)) for p, answer in predicted]
    assert sum(hit for _, hit in coins) / len(coins) == pytest.approx(accuracy, abs=0.02)
    for low, high in ((0, 0.6), (0.6, 0.9), (0.9, 1.01)):
        cell = [(p, hit) for p, hit in coins if low <= p < high]
        assert len(cell) > 100
        gap = sum(p - hit for p, hit in cell)
        assert abs(gap) < 4 * math.sqrt(sum(p * (1 - p) for p, _ in cell)), (low, high)


def test_a_note_never_changes() -> None:
    """Pinned: every stored record and every shipped weight depends on these draws."""
    words, answer = note_world().draw(random.Random("pinned"), NOTES_FOUR.topics)
    text = "rule wolf coat talk salad desk future bush read teach beach mud heat door map juice"
    assert (" ".join(words), answer) == (text, 1)
    assert len(words) == NOTE_LENGTH


def test_a_draw_takes_the_same_random_numbers_whatever_it_gives() -> None:
    rng, other = random.Random(1), random.Random(1)
    TOY.draw(rng, TOY_ANSWERS)
    for _ in range(2 + 2 * TOY.length):
        other.random()
    assert rng.random() == other.random()


def test_a_foreign_word_is_named() -> None:
    with pytest.raises(ValueError, match="'zebra' is not a word of this world"):
        note_world().posterior(["tea", "zebra"], NOTES_FOUR.topics)


@pytest.mark.parametrize(
    "fault",
    [
        {"vocabulary": ("tea", "tea", "bee")},
        {"background": (1, 2)},
        {"background": (3, 2, 0)},
        {"topics": ((1, 0),)},
        {"strength": 1.0},
    ],
)
def test_a_world_without_meaning_is_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"word|vocabulary"):
        dataclasses.replace(TOY, **fault)


# The tokenizer


def test_every_word_and_answer_is_one_token(tokenizer: Any) -> None:
    bos = tokenizer.bos_token_id
    for word in (*vocabulary(), *"ABCDE", "True", "False"):
        assert len(tokenizer(word).input_ids) == 2 and tokenizer(word).input_ids[0] == bos, word


@pytest.mark.parametrize("task", NOTE_TASKS, ids=lambda task: task.name)
def test_prompts_are_one_token_a_word_and_answers_one_more(task: NoteTask, tokenizer: Any) -> None:
    words, _ = note_world().draw(random.Random(0), task.topics)
    prompt = task.prompt(words)
    ids = tokenizer(prompt).input_ids
    assert len(ids) == len(prompt.split()) + 1 <= 40
    answers = [tokenizer(f"{prompt} {answer}").input_ids for answer in ANSWERS[task.form]]
    assert all(answer[:-1] == ids for answer in answers)
    assert len({answer[-1] for answer in answers}) == len(answers)


@pytest.mark.parametrize(
    "text",
    [
        "The mitochondrion is the powerhouse of the cell.",
        " leading,  double   and trailing spaces ",
        "tabs\tand\nnew\r\nlines\x00\x01\x7f",
        "emoji \U0001f600\U0001f469\u200d\U0001f52c",
        "\u4f60\u597d, \u4e16\u754c \u0645\u0631\u062d\u0628\u0627",
        "caf\u00e9 cafe\u0301 \ufb01 \u00a0\u3000",
        "<0x41> <unk </ s> {}[]|\\~`^@#$%&*_=+",
        "\n",
        " ",
        "",
    ],
)
def test_any_text_comes_back_as_it_was(text: str, tokenizer: Any) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids


def test_all_bytes_are_tokens(tokenizer: Any) -> None:
    known = tokenizer.get_vocab()
    assert all(f"<0x{byte:02X}>" in known for byte in range(256))


# The weights


def test_shipped_weights_are_small_and_load(tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert (BASE / "model.safetensors").stat().st_size < 1_500_000
    model: Any = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding.data_ptr() != head.data_ptr() and not torch.equal(embedding, head)
    assert len(tokenizer) == embedding.shape[0]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("task", NOTE_TASKS, ids=lambda task: task.name)
def test_the_base_expects_an_answer_and_knows_nothing_about_which(task: NoteTask, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    rng, world = random.Random(11), note_world()
    draws = [world.draw(rng, task.topics) for _ in range(400)]
    ids = torch.tensor([tokenizer(task.prompt(words)).input_ids for words, _ in draws])
    answers = [tokenizer(f"Answer: {answer}").input_ids[-1] for answer in ANSWERS[task.form]]
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[:, -1]
        p = model.lm_head(hidden).softmax(-1)[:, answers]
    hits = (p.argmax(-1) == torch.tensor([answer for _, answer in draws])).double().mean().item()
    chance = 1 / len(answers)
    assert abs(hits - chance) < 4 * math.sqrt(chance * (1 - chance) / len(draws))
    # Prompts are also followed by further words of the note, so an answer is likely, not certain.
    assert p.sum(-1).mean() > 0.1


def test_shipped_files_name_no_machine() -> None:
    for file in BASE.iterdir():
        content = file.read_bytes()
        assert b"/work" not in content and b"/home/" not in content and b"/tmp" not in content, file.name
