"""How far a method is from the Bayes-optimal predictive, on tasks whose true answer distribution is known.

On each example the two are compared at the same label, so the chance of the labels cancels:

    excess NLL = 1/N sum_n log p_true(y_n | x_n) - log p(y_n | x_n)

Its expectation is KL(p_true || p), averaged over the examples: 0 for the optimum only. The true distribution is stored
with the predictions, so no row of the optimum is needed.
"""

from __future__ import annotations

import dataclasses

from analysis.records.groups import Group
from analysis.records.order import row_order
from analysis.records.published import task_order
from analysis.statistics.bootstrap import Estimate, paired_mean
from analysis.statistics.study import Study


@dataclasses.dataclass(frozen=True)
class Excess:
    """The excess NLL of a group: its mean over seeds and 95 % interval, paired example by example."""

    group: Group
    estimate: Estimate


def excesses(study: Study) -> tuple[list[Excess], list[str]]:
    """The excess NLL of every result whose true answer distribution is known, and a sentence for those left out."""
    found, notes = [], []
    for section in study.sections:
        groups = sorted(study.of(section), key=lambda g: (task_order(g.task), row_order(g, study.baseline)))
        for group in groups:
            measured = [study.measured[record.key] for record in group.records]
            terms = [one.excess for one in measured if one.excess is not None]
            if not terms:
                continue
            if len({one.examples for one in measured}) > 1 or len(terms) < len(measured) or len(terms[0]) < 2:
                notes.append(
                    f"No excess NLL of {group.name} on {group.task} ({section.title}): its seeds do not share at least "
                    "two examples with known answer distributions."
                )
                continue
            found.append(Excess(group, paired_mean(terms)))
    return found, notes
