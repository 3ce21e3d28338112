"""The world the notes come from: small enough that the exact Bayes posterior of every label is known.

A note is 16 words. An answer has a few topics; the note's topic t is one of them. Each word is drawn from

    p(word | t) = (1 - w) background(word) + w topic_t(word),

with `w` the strength of the topic. Labels come from this generator, so with a uniform prior over the answers

    p(answer | note)  is proportional to  mean over the answer's topics t of  prod_words p(word | t)

is the best prediction there is: the row every method is measured against.

Only `random.Random.random()` is used and all weights are whole numbers, so that the same seed gives the same notes
on every platform and every Python version.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path

NOTE_LENGTH = 16
TOPIC_COUNT = 8
TOPIC_STRENGTH = 0.16  # w; chosen so that the exact posterior is right for about five notes in six
SPARSITY = 0.025  # Dirichlet concentration: a topic dwells on about 30 of the 600 words
WORLD_SEED = 2411  # of the topics; never change it: it is part of the data
WEIGHT_UNIT = 1_000_000  # whole-number weights: sums are exact, so draws are the same everywhere


@dataclass(frozen=True)
class NoteWorld:
    """A background distribution and topics over one vocabulary, as unnormalised whole-number weights."""

    vocabulary: tuple[str, ...]
    background: tuple[int, ...]  # (vocabulary,)
    topics: tuple[tuple[int, ...], ...]  # (topics, vocabulary)
    strength: float
    length: int = NOTE_LENGTH

    def __post_init__(self) -> None:
        size = len(self.vocabulary)
        if len(set(self.vocabulary)) != size:
            raise ValueError("a vocabulary names each word once")
        if any(len(weights) != size for weights in (self.background, *self.topics)):
            raise ValueError(f"background and topics need one weight for each of the {size} words")
        if not 0 <= self.strength < 1 or min(self.background) <= 0:
            raise ValueError("every word needs a positive probability: 0 <= strength < 1, background weights > 0")

    @cached_property
    def log_likelihood(self) -> tuple[dict[str, float], ...]:
        """log p(word | topic) for each topic and word."""
        ground = sum(self.background)
        return tuple(
            {
                word: math.log((1 - self.strength) * b / ground + self.strength * t / total)
                for word, b, t in zip(self.vocabulary, self.background, topic, strict=True)
            }
            for topic in self.topics
            for total in [sum(topic)]
        )

    @cached_property
    def _sums(self) -> tuple[tuple[int, ...], ...]:
        # Running sums of the topics' weights and, last, the background's: drawing is one bisection.
        return tuple(tuple(accumulate(weights)) for weights in (*self.topics, self.background))

    def draw(self, rng: random.Random, answers: Sequence[Sequence[int]]) -> tuple[list[str], int]:
        """One note and its label: answer uniform, topic uniform among the answer's, words independent.

        `answers[c]` lists the topics of answer c. Uses 2 + 2 * length calls of `rng.random()`, whatever is drawn.
        """
        answer = int(rng.random() * len(answers))
        topic = answers[answer][int(rng.random() * len(answers[answer]))]
        words = []
        for _ in range(self.length):
            sums = self._sums[topic] if rng.random() < self.strength else self._sums[-1]
            words.append(self.vocabulary[bisect_right(sums, int(rng.random() * sums[-1]))])
        return words, answer

    def log_posterior(self, words: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
        """Exact log p(answer | words), one float per answer.

        log p(c | words) = s_c - logsumexp(s),  s_c = logsumexp over t in answers[c] of sum_words log p(word | t)
                                                      - log len(answers[c]).
        """
        unknown = [word for word in words if word not in self.log_likelihood[0]]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a word of this world")
        fit = [math.fsum(logs[word] for word in words) for logs in self.log_likelihood]
        scores = [_logsumexp([fit[t] for t in topics]) - math.log(len(topics)) for topics in answers]
        total = _logsumexp(scores)
        return [score - total for score in scores]

    def posterior(self, words: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
        """Exact p(answer | words), one float per answer, summing to 1; see `log_posterior`."""
        return [math.exp(value) for value in self.log_posterior(words, answers)]


@dataclass(frozen=True)
class NoteTask:
    """The question that a task asks about a note. `topics[c]` are the topics of answer c, in label order."""

    name: str
    form: str  # a key of FORMS
    question: str
    options: tuple[str, ...]  # options in the prompt; empty for True or False
    topics: tuple[tuple[int, ...], ...]

    def prompt(self, words: Sequence[str]) -> str:
        """The note in the form of the real task (PROTOCOL section 2) that it stands for."""
        return FORMS[self.form].format(*self.options, question=self.question, note=" ".join(words))


# WinoGrande (no dot after B, as published), ARC and OpenBookQA, BoolQ.
FORMS = {
    "two": "Select one of the choices that answers the following question: {question} {note}"
    " Choices: A. {0}. B {1}. Answer:",
    "four": "Select one of the choices that answers the following question: {question} {note}"
    " Choices: A. {0} B. {1} C. {2} D. {3} Answer:",
    "bool": "Answer the question with only True or False: {question} Context: {note}",
}

NOTES_TWO = NoteTask("notes_two", "two", "When was this written?", ("Morning", "Evening"), ((0, 1), (2, 3)))
NOTES_FOUR = NoteTask(
    "notes_four",
    "four",
    "Who wrote this?",
    ("Cook.", "Nurse.", "Pilot.", "Farmer."),
    ((0, 1), (2, 3), (4, 5), (6, 7)),
)
NOTES_BOOL = NoteTask(
    "notes_bool",
    "bool",
    "Was this written at sea?",
    (),
    ((4, 5), (6, 7)),  # False, True
)
NOTE_TASKS = (NOTES_TWO, NOTES_FOUR, NOTES_BOOL)


@cache
def vocabulary() -> tuple[str, ...]:
    """The 600 words of `words.txt`, in the file's order."""
    return tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())


@cache
def note_world() -> NoteWorld:
    """The one world of the embedded tasks: Zipf-like background, 8 sparse topics, all from WORLD_SEED."""
    words = vocabulary()
    rng = random.Random(WORLD_SEED)
    # A random order of frequency: the file is grouped by meaning, the background must not be.
    ranks = sorted(range(len(words)), key=[rng.random() for _ in words].__getitem__)
    background = [0] * len(words)
    for rank, word in enumerate(ranks):
        background[word] = WEIGHT_UNIT // (rank + 10)  # Zipf's law, flattened so that no word fills the notes
    topics = tuple(tuple(int(WEIGHT_UNIT * _gamma(rng, SPARSITY)) for _ in words) for _ in range(TOPIC_COUNT))
    return NoteWorld(words, tuple(background), topics, TOPIC_STRENGTH)


def _gamma(rng: random.Random, shape: float) -> float:
    """One Gamma(shape, 1) draw for shape < 1 by rejection (Ahrens and Dieter 1974, GS); Dirichlet = normalised."""
    bound = (math.e + shape) / math.e
    while True:
        p, u = bound * rng.random(), rng.random()
        if p <= 1:
            x = math.pow(p, 1 / shape)
            if u <= math.exp(-x):
                return x
        else:
            x = -math.log((bound - p) / shape)
            if u <= x ** (shape - 1):
                return x


def _logsumexp(values: Sequence[float]) -> float:
    peak = max(values)
    return peak + math.log(math.fsum(math.exp(value - peak) for value in values))
