"""Two small tasks whose exact answer distribution is known: which of two biased coins was tossed.

Their rows are pinned, so the data revision is `revision` alone; rows that nothing pins would be hashed into it.
"""

import random

from bench.specs import digest
from bench.task import LETTERS, Example, Task, register_task

TOSSES = 7


class Coins(Task):
    """Coin A shows heads with probability ``heads``, coin B with 1 - ``heads``; either is as likely."""

    source, revision, licence = "generated", "1", "CC0"
    answers = LETTERS[:2]
    rows = {"train": 48, "validation": 16, "test": 40}
    heads = 0.0

    @property
    def exact(self):
        return True

    def generate(self, split):
        rng = random.Random(digest("coins", self.name, split))
        for _ in range(self.rows[split]):
            label = int(rng.random() < 0.5)
            p = (self.heads, 1 - self.heads)[label]
            yield {"heads": [rng.random() < p for _ in range(TOSSES)], "label": label}

    def example(self, row):
        odds = (self.heads / (1 - self.heads)) ** (2 * sum(row["heads"]) - TOSSES)  # p(A | tosses) / p(B | tosses)
        tosses = " ".join("heads" if shown else "tails" for shown in row["heads"])
        truth = (odds / (1 + odds), 1 / (1 + odds))
        return Example(f"Which coin showed {tosses}? A. Heavy B. Light Answer:", row["label"], truth=truth)


@register_task
class Clear(Coins):
    name, title = "coins", "Coins"
    fingerprints = {"train": "601f2e753a9e6a74", "validation": "385bfe7e8f70c5cc", "test": "2d6bc139e9bd4257"}
    heads = 0.7


@register_task
class Faint(Coins):
    name, title = "coins_faint", "Coins, faint"
    fingerprints = {"train": "b4fdb67eb04e552a", "validation": "a15cf54df61dbffd", "test": "cad398f9619bbd93"}
    heads = 0.6
