"""An adapter of the user's as a point posterior, and the methods that start from it: ``<name>_adapter``.

``bench run --method tfb_adapter --task TASK --adapter FOLDER`` applies TFB to a checkpoint that was trained elsewhere.
The suite cannot know what the adapter was trained on: see to it that neither the reported split nor the tuning examples
were among it.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Annotated

from bench.method import FitJob, Method, derive_methods, register_method
from bench.options import Fit
from bench.posterior import Point, Posterior

SUFFIX = "_adapter"


@register_method
@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """Predicts with the adapter that ``--adapter`` names. Nothing is trained; the seed plays no part."""

    name = "adapter"
    title = "Adapter"
    reads_adapter = True

    content: Annotated[str, Fit("hash of the adapter's weights; --adapter sets it")] = ""

    def fit(self, job: FitJob) -> Posterior:
        return Point(job.read_adapter(self.content))


@derive_methods(SUFFIX)
def on_adapter(cls: type[Method]) -> type[Method] | None:
    """NAME on the adapter that --adapter names, in place of AdamW's training.

    There is none of a method that starts from something else, or from several trainings.
    """
    if cls.base != "adamw" or cls.bases is not Method.bases:
        return None
    own = {
        "name": cls.name + SUFFIX,
        "title": f"{cls.title} (adapter)",
        "base": Adapter.name,
        "settings_of": cls.name,
        "__doc__": f"{cls.name} on an adapter of the user's. {cls.__doc__}",
        "__module__": __name__,
    }
    return make_dataclass(f"{cls.__name__}OnAdapter", [], bases=(cls,), namespace=own, frozen=True, kw_only=True)
