"""A task with five choices that makes its own rows."""

from bench.task import LETTERS, Example, Task, lettered, register_task

NAMES = ("red", "green", "blue", "white", "black")


@register_task
class Colours(Task):
    name, title = "colours", "Colours"
    source, revision, licence = "generated", "1", "CC0"
    answers = LETTERS[:5]
    rows = {"train": 40, "validation": 23}

    def generate(self, split):
        return ({"name": NAMES[i * 7 % 5], "count": i} for i in range(self.rows[split]))

    def example(self, row):
        listed = " ".join(f"{letter}. {name}." for letter, name in lettered(self.answers, NAMES))
        return Example(f"Which is {row.text('name')} ({row['count']})? {listed} Answer:", row.position("name", NAMES))
