"""Specs: canonical text, keys, casts, the way back from JSON, and the random streams."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import pytest
from support import plan

from bench import specs
from bench.method import Method
from bench.options import Fit, Predict
from bench.specs import (
    DataSpec,
    FitSpec,
    LoraSpec,
    ModelSpec,
    RunSpec,
    TrainSpec,
    UnknownField,
    build,
    canonical,
    cast,
    digest,
    key,
    seed_for,
    to_json,
)
from bench.specs.spec import SINCE
from bench.store.records import RunRecord

DATA = DataSpec(task="arc_e", version=1, revision="abc")
LORA = LoraSpec(r=8, alpha=16.0, dropout=0.1, targets=("q_proj", "v_proj"))
MODEL = ModelSpec(id="embedded", revision="f00d", quantization="none", dtype="float32", lora=LORA)
TRAIN = TrainSpec(steps=200, batch_size=4, micro_batches=1, max_length=320, clip_norm=0.0)
FIT = FitSpec(
    method="ivon",
    version=1,
    options={"ess": 1e6, "lr": 0.03, "rescale_lr": False, "train_draws": 1},
    data=DATA,
    holdout=0.0,
    model=MODEL,
    train=TRAIN,
    seed=21,
    bases=(),
)
RUN = RunSpec(
    fit=FIT,
    method="ivon",
    version=1,
    options={"draws": 10, "tau": 1.0},
    data=DATA,
    split="validation",
    batch_size=32,
    protocol="paper",
    variant="",
    purpose="result",
)

# Written by hand: names sorted, no blanks, every field there.
FIT_TEXT = (
    '{"bases":[],"data":{"revision":"abc","task":"arc_e","version":1},"holdout":0.0,"method":"ivon",'
    '"model":{"dtype":"float32","id":"embedded","lora":{"alpha":16.0,"dropout":0.1,"r":8,'
    '"targets":["q_proj","v_proj"]},"quantization":"none","revision":"f00d"},'
    '"options":{"ess":1000000.0,"lr":0.03,"rescale_lr":false,"train_draws":1},"seed":21,'
    '"train":{"batch_size":4,"clip_norm":0.0,"max_length":320,"micro_batches":1,"steps":200},"version":1}'
)
RUN_TEXT = (
    '{"batch_size":32,"data":{"revision":"abc","task":"arc_e","version":1},"fit":' + FIT_TEXT + ',"method":"ivon",'
    '"options":{"draws":10,"tau":1.0},"protocol":"paper","purpose":"result","split":"validation","variant":"",'
    '"version":1}'
)


# --- canonical text and keys ------------------------------------------------------------------------------------------


def test_canonical_text_is_sorted_and_without_blanks() -> None:
    assert canonical({"b": [1, 2.5, None, True], "a": {"d": "x", "c": ()}}) == (
        '{"a":{"c":[],"d":"x"},"b":[1,2.5,null,true]}'
    )


def test_canonical_text_is_ascii() -> None:
    assert canonical({"é": "λ"}) == '{"\\u00e9":"\\u03bb"}'


def test_canonical_text_of_a_spec_is_the_one_written_by_hand() -> None:
    assert canonical(FIT) == FIT_TEXT
    assert canonical(RUN) == RUN_TEXT


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_canonical_text_refuses_numbers_that_json_lacks(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"x": [number]})


def test_the_golden_keys_stand() -> None:
    """If one of these changes, every stored result is lost: raise SCHEMA and say so, or find out why."""
    assert specs.SCHEMA == 1
    assert key(FIT) == "e9a491f520228f64"
    assert key(RUN) == "10dab1efc9fe8eb3"


@pytest.mark.parametrize(("spec", "kind", "text"), [(FIT, "FitSpec", FIT_TEXT), (RUN, "RunSpec", RUN_TEXT)])
def test_a_key_is_the_start_of_the_hash_of_kind_schema_and_spec(spec: Any, kind: str, text: str) -> None:
    whole = f'{{"kind":"{kind}","schema":1,"spec":{text}}}'
    assert key(spec) == hashlib.sha256(whole.encode()).hexdigest()[:16]


def test_the_schema_is_part_of_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(FIT), key(RUN)
    monkeypatch.setattr("bench.specs.keys.SCHEMA", 2)
    assert not {key(dataclasses.replace(FIT)), key(dataclasses.replace(RUN))} & {*before}  # new: a spec keeps its key


def test_the_order_in_which_options_were_given_does_not_matter() -> None:
    turned = dataclasses.replace(FIT, options=dict(reversed(FIT.options.items())))
    assert list(turned.options) != list(FIT.options)
    assert key(turned) == key(FIT)


OTHER: dict[type, dict[str, Any]] = {
    LoraSpec: {"r": 4, "alpha": 32.0, "dropout": 0.0, "targets": ("v_proj", "q_proj"), "variant": "dora"},
    ModelSpec: {
        "id": "x/y",
        "revision": "beef",
        "quantization": "int8",
        "dtype": "bfloat16",
        "lora": LoraSpec(r=2),
        "prompt": "chat",
        "packing": True,
        "shared_prefix": True,
    },
    TrainSpec: {"steps": 201, "batch_size": 8, "micro_batches": 2, "max_length": 256, "clip_norm": 1.0},
    DataSpec: {"task": "arc_c", "version": 2, "revision": "abc+partial:0123"},
    FitSpec: {
        "method": "adamw",
        "version": 2,
        "options": {**FIT.options, "ess": 1e7},
        "data": dataclasses.replace(DATA, task="obqa"),
        "holdout": 0.1,
        "model": ModelSpec(),
        "train": TrainSpec(),
        "seed": 87,
        "bases": (FIT,),
        "tuning": 0.1,
    },
    RunSpec: {
        "fit": dataclasses.replace(FIT, seed=42),
        "method": "ivon_mean",
        "version": 2,
        "options": {"draws": 10, "tau": 0.5},
        "data": dataclasses.replace(DATA, task="obqa"),
        "split": "test",
        "batch_size": 16,
        "protocol": "clean",
        "variant": "tuned",
        "purpose": "sweep",
        "batch_tokens": 512,
    },
}
CHANGES = [(cls, name) for cls, values in OTHER.items() for name in values]


def with_change(cls: type, name: str) -> RunSpec:
    """RUN with one field of one of its parts changed."""
    changes = {name: OTHER[cls][name]}
    if cls is RunSpec:
        return dataclasses.replace(RUN, **changes)
    if cls is FitSpec:
        fit = dataclasses.replace(FIT, **changes)
    elif cls is DataSpec:
        fit = dataclasses.replace(FIT, data=dataclasses.replace(DATA, **changes))
    elif cls is TrainSpec:
        fit = dataclasses.replace(FIT, train=dataclasses.replace(TRAIN, **changes))
    elif cls is ModelSpec:
        needed = {"packing": True} if name == "shared_prefix" else {}
        fit = dataclasses.replace(FIT, model=dataclasses.replace(MODEL, **needed, **changes))
    else:
        fit = dataclasses.replace(FIT, model=dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, **changes)))
    return dataclasses.replace(RUN, fit=fit)


def test_the_list_of_changes_knows_every_field() -> None:
    for cls, values in OTHER.items():
        assert set(values) == {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize(("cls", "name"), CHANGES)
def test_every_field_enters_the_key_of_the_run(cls: type, name: str) -> None:
    assert key(with_change(cls, name)) != key(RUN)


@pytest.mark.parametrize(("cls", "name"), [change for change in CHANGES if change[0] is not RunSpec])
def test_every_field_of_a_fit_enters_its_key(cls: type, name: str) -> None:
    assert key(with_change(cls, name).fit) != key(FIT)


@pytest.mark.parametrize("name", [name for name in OTHER[RunSpec] if name != "fit"])
def test_nothing_that_prediction_alone_reads_enters_the_key_of_the_fit(name: str) -> None:
    assert key(with_change(RunSpec, name).fit) == key(FIT)


def test_one_change_at_a_time_gives_as_many_keys_as_changes() -> None:
    keys = {key(with_change(cls, name)) for cls, name in CHANGES}
    assert len(keys) == len(CHANGES)


def test_a_base_changes_the_key_of_what_hangs_from_it() -> None:
    laplace = dataclasses.replace(FIT, method="la", bases=(FIT,))
    other = dataclasses.replace(laplace, bases=(dataclasses.replace(FIT, options={**FIT.options, "lr": 0.1}),))
    assert key(laplace) != key(other)


def test_the_order_of_bases_enters_the_key() -> None:
    second = dataclasses.replace(FIT, seed=2)
    assert key(dataclasses.replace(FIT, bases=(FIT, second))) != key(dataclasses.replace(FIT, bases=(second, FIT)))


def test_the_root_is_found_through_the_first_bases() -> None:
    middle = dataclasses.replace(FIT, method="la", bases=(FIT, dataclasses.replace(FIT, seed=5)))
    top = dataclasses.replace(FIT, method="ensemble", bases=(middle,))
    assert (top.root, middle.root, FIT.root) == (FIT, FIT, FIT)


# --- casts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [1e6, 1000000, "1e6", "1000000", "1_000_000", " 1e6 "])
@pytest.mark.parametrize(("hint", "kind"), [(float, float), (int, int)])
def test_one_number_is_one_value_however_it_is_written(written: Any, hint: type, kind: type) -> None:
    value = cast(written, hint, "x")
    assert value == 1_000_000
    assert type(value) is kind


def test_one_number_is_one_key_however_it_is_written() -> None:
    from bench.method import get_method

    keys = set()
    for written in (1e6, 1000000, "1e6"):
        method = get_method("ivon").make({"ess": written})
        keys.add(key(dataclasses.replace(FIT, options=method.options("fit"))))
    assert len(keys) == 1


@pytest.mark.parametrize("steps", [200, 200.0, "200", "2e2"])
def test_a_built_spec_casts_every_number(steps: Any) -> None:
    data = to_json(FIT)
    data["train"]["steps"] = steps
    data["model"]["lora"]["alpha"] = 16  # an int where the field is a float
    data["holdout"] = 0
    assert key(build(FitSpec, data)) == key(FIT)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("true", bool, True),
        ("False", bool, False),
        (True, bool, True),
        ("abc", str, "abc"),
        ("", str, ""),
        ("none", float | None, None),
        (None, float | None, None),
        ("2", float | None, 2.0),
        ("q_proj, v_proj", tuple[str, ...], ("q_proj", "v_proj")),
        (["q_proj"], tuple[str, ...], ("q_proj",)),
        ([1, "2", 3.0], tuple[int, ...], (1, 2, 3)),
        (-3, int, -3),
        (2**60 + 1, int, 2**60 + 1),  # a float in between would lose the 1
    ],
)
def test_a_value_that_fits_is_cast(value: Any, hint: Any, expected: Any) -> None:
    found = cast(value, hint, "x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("value", [-0.0, "-0.0", "-0"])
def test_a_negative_zero_is_zero_whose_key_it_shares(value: Any) -> None:
    assert math.copysign(1, cast(value, float, "x")) == 1
    spec = plan("adamw").fit
    changed = dataclasses.replace(spec, train=dataclasses.replace(spec.train, clip_norm=-0.0))
    assert key(changed) == key(dataclasses.replace(spec, train=dataclasses.replace(spec.train, clip_norm=0.0)))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (False, float),
        (1, bool),
        (0, bool),
        ("yes", bool),
        ("1", bool),
        (1, str),
        (None, str),
        (True, str),
        (None, int),
        (None, float),
        (0.5, int),
        ("0.5", int),
        ("abc", float),
        ("", float),
        ([1], float),
        ({}, int),
        (float("nan"), float),
        ("nan", float),
        ("inf", float),
        (float("-inf"), float),
        ("1e400", float),
        (float("inf"), int),
        (3, tuple[str, ...]),
        (["a", 1], tuple[str, ...]),
        ([True], tuple[int, ...]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(value: Any, hint: Any) -> None:
    with pytest.raises(ValueError, match=r"^ivon\.ess is .*: expected (a|text|true)"):
        cast(value, hint, "ivon.ess")


@pytest.mark.parametrize("hint", [int, float])
def test_a_number_too_large_for_a_float_is_refused_by_name(hint: type) -> None:
    with pytest.raises(ValueError, match=r"^ivon\.ess is 1000"):
        cast(10**400, hint, "ivon.ess")


@pytest.mark.parametrize(
    ("cls", "values", "sentence"),
    [
        (LoraSpec, {"r": 0}, "lora.r is 0: must be at least 1."),
        (LoraSpec, {"dropout": 1.0}, "lora.dropout is 1.0: must be a probability in [0, 1)."),
        (LoraSpec, {"dropout": -0.1}, "lora.dropout is -0.1: must be a probability in [0, 1)."),
        (LoraSpec, {"variant": "lora+"}, "lora.variant is 'lora+'. Did you mean 'lora' or 'rslora' or 'dora'?"),
        (LoraSpec, {"variant": "qqq"}, "lora.variant is 'qqq'. Known: dora, lora, rslora."),
        (ModelSpec, {"prompt": "chats"}, "model.prompt is 'chats'. Did you mean 'chat'?"),
        (LoraSpec, {"targets": ()}, "lora.targets is empty: name at least one layer, such as q_proj."),
        (TrainSpec, {"steps": 0}, "steps is 0: must be at least 1."),
        (TrainSpec, {"batch_size": 0}, "batch_size is 0: must be at least 1."),
        (TrainSpec, {"micro_batches": 5}, "micro_batches is 5: must be from 1 to batch_size (4)."),
        (TrainSpec, {"micro_batches": 0}, "micro_batches is 0: must be from 1 to batch_size (4)."),
        (TrainSpec, {"max_length": 7}, "max_length is 7: must be at least 8 tokens."),
        (TrainSpec, {"clip_norm": -1.0}, "clip_norm is -1.0: must be a norm, or 0 for no clipping."),
    ],
)
def test_a_value_out_of_range_is_refused_with_a_sentence(cls: type, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        cls(**values)
    assert str(error.value) == sentence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Method):
    """Its float options were given whole numbers as defaults, as people write them."""

    name = "whole"
    title = "Whole"
    scale: Annotated[float, Fit("a float whose default is written as an int")] = 1
    tau: Annotated[float, Predict("the same, for prediction")] = 1


def test_a_default_written_as_an_int_is_the_same_as_the_value_set() -> None:
    plain, given = Whole.make(), Whole.make({"scale": 1, "tau": 1})
    assert canonical(plain.options("fit")) == canonical(given.options("fit"))
    assert canonical(plain.options("predict")) == canonical(given.options("predict"))


# --- there and back ---------------------------------------------------------------------------------------------------

LAPLACE = dataclasses.replace(FIT, method="la_kfac", options={"steps": 100, "layers": ("q", "v"), "jitter": None})
NESTED = dataclasses.replace(
    LAPLACE, bases=(dataclasses.replace(FIT, bases=(FIT, dataclasses.replace(FIT, seed=87))), FIT)
)


@pytest.mark.parametrize("spec", [FIT, LAPLACE, NESTED])
def test_a_fit_comes_back_from_json_as_it_was(spec: FitSpec) -> None:
    back = build(FitSpec, json.loads(json.dumps(to_json(spec))))
    assert back == spec
    assert key(back) == key(spec)


@pytest.mark.parametrize("fit", [FIT, LAPLACE, NESTED])
def test_a_run_comes_back_from_json_as_it_was(fit: FitSpec) -> None:
    run = dataclasses.replace(RUN, fit=fit)
    back = build(RunSpec, json.loads(json.dumps(to_json(run))))
    assert back == run
    assert key(back) == key(run)


def test_the_root_of_a_nested_fit_comes_back_too() -> None:
    assert build(FitSpec, json.loads(canonical(NESTED))).root == FIT


@pytest.mark.parametrize("place", ["train", "model", "data"])
def test_a_missing_field_without_a_default_or_a_wrong_value_does_not_pass(place: str) -> None:
    data = to_json(FIT)
    del data[place]
    with pytest.raises(TypeError, match=place):
        build(FitSpec, data)


def test_a_wrong_value_deep_inside_is_named_with_its_place() -> None:
    data = to_json(RUN)
    data["fit"]["model"]["lora"]["r"] = "eight"
    with pytest.raises(ValueError, match=r"^fit\.model\.lora\.r is 'eight': expected a whole number"):
        build(RunSpec, data)


@pytest.mark.parametrize("place", ["fit.model.lora.rank_pattern", "fit.train.warmup", "fit.bases2", "weighting"])
def test_a_field_of_a_newer_version_is_named_and_called_so(place: str) -> None:
    data = to_json(RUN)
    inner = data
    *outer, last = place.split(".")
    for part in outer:
        inner = inner[part]
    inner[last] = 1
    with pytest.raises(
        UnknownField, match=rf"^its field '{place}' is unknown here: a newer version .* Update the suite$"
    ):
        build(RunSpec, data)


# --- fields that are added later --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterLora(LoraSpec):
    """What LoraSpec will be once a field is added to it."""

    scale: float = dataclasses.field(default=1.0, metadata={SINCE: "9.0"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterTrain(TrainSpec):
    """What TrainSpec will be once a field is added to it."""

    schedule: str = dataclasses.field(default="linear", metadata={SINCE: "9.0"})


def later(**changes: Any) -> RunSpec:
    """RUN as a version with two more fields writes it."""
    lora = LaterLora(**{f.name: getattr(LORA, f.name) for f in dataclasses.fields(LORA)}, **changes.pop("lora", {}))
    train = LaterTrain(**{f.name: getattr(TRAIN, f.name) for f in dataclasses.fields(TRAIN)}, **changes)
    model = dataclasses.replace(MODEL, lora=lora)
    return dataclasses.replace(RUN, fit=dataclasses.replace(FIT, model=model, train=train))


def test_a_field_added_later_changes_nothing_while_at_its_default() -> None:
    assert key(later()) == key(RUN) == "10dab1efc9fe8eb3"
    assert key(later().fit) == key(FIT) == "e9a491f520228f64"
    assert canonical(later()) == RUN_TEXT
    for stream in (*STREAMS, "predict"):
        assert seed_for(later(), stream) == seed_for(RUN, stream)
    assert RunRecord("", later(), {}, Path()).settings == RunRecord("", RUN, {}, Path()).settings


@pytest.mark.parametrize("changes", [{"schedule": "cosine"}, {"lora": {"scale": 2}}])
def test_a_field_added_later_enters_the_key_once_it_is_set(changes: dict[str, Any]) -> None:
    assert key(later(**changes)) not in (key(RUN), key(later()))
    assert canonical(later(**changes)) != RUN_TEXT


def test_an_int_for_the_default_of_a_later_float_is_the_default() -> None:
    assert key(later(lora={"scale": 1})) == key(RUN)


def test_a_later_field_needs_a_plain_default() -> None:
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        x: list[int] = dataclasses.field(default_factory=list, metadata={SINCE: "9.0"})

    with pytest.raises(TypeError, match=r"^Wrong\.x was added later: write a plain default"):
        to_json(Wrong())


def test_lora_variants_have_streams_and_keys_of_their_own() -> None:
    fits = [
        dataclasses.replace(FIT, model=dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, variant=variant)))
        for variant in ("lora", "dora", "rslora")
    ]
    assert key(fits[0]) == key(FIT) and seed_for(fits[0], "init") == seed_for(FIT, "init")
    assert len(set(map(key, fits))) == len({seed_for(fit, "init") for fit in fits}) == 3


def test_specs_cannot_be_changed_after_the_fact() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FIT.seed = 3  # type: ignore[misc]


# --- random streams ---------------------------------------------------------------------------------------------------

ADAMW = dataclasses.replace(FIT, method="adamw", version=3, options={"lr": 5e-5}, holdout=0.1)
STREAMS = ("data", "init", "train", "holdout")


@pytest.mark.parametrize("stream", STREAMS)
def test_adamw_and_ivon_with_one_seed_share_a_stream(stream: str) -> None:
    assert seed_for(ADAMW, stream) == seed_for(FIT, stream)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    "change",
    [
        {"train": TrainSpec(steps=10, batch_size=2)},
        {"holdout": 0.25},
        {"bases": (ADAMW,)},
        {"data": dataclasses.replace(DATA, revision="def")},
        {"model": dataclasses.replace(MODEL, id="x/y", quantization="int8")},
    ],
)
def test_what_should_not_matter_does_not_move_a_stream(stream: str, change: dict[str, Any]) -> None:
    assert seed_for(dataclasses.replace(FIT, **change), stream) == seed_for(FIT, stream)


@pytest.mark.parametrize("stream", STREAMS)
def test_seeds_have_streams_of_their_own(stream: str) -> None:
    seeds = {seed_for(dataclasses.replace(FIT, seed=seed), stream) for seed in range(50)}
    assert len(seeds) == 50


@pytest.mark.parametrize("stream", ["data", "train", "holdout"])
def test_tasks_have_streams_of_their_own(stream: str) -> None:
    other = dataclasses.replace(FIT, data=dataclasses.replace(DATA, task="arc_c"))
    assert seed_for(other, stream) != seed_for(FIT, stream)


def test_the_initial_adapters_depend_on_seed_and_lora_alone() -> None:
    other = dataclasses.replace(FIT, data=dataclasses.replace(DATA, task="arc_c"))
    assert seed_for(other, "init") == seed_for(FIT, "init")
    wider = dataclasses.replace(FIT, model=dataclasses.replace(MODEL, lora=dataclasses.replace(LORA, r=16)))
    assert seed_for(wider, "init") != seed_for(FIT, "init")


def test_streams_of_one_spec_are_different() -> None:
    assert len({seed_for(RUN, stream) for stream in (*STREAMS, "predict")}) == 5


@pytest.mark.parametrize("stream", STREAMS)
def test_a_run_has_the_streams_of_its_fit(stream: str) -> None:
    assert seed_for(RUN, stream) == seed_for(FIT, stream)


@pytest.mark.parametrize("name", ["method", "options", "split", "batch_size", "protocol", "variant", "purpose"])
def test_a_sweep_reuses_one_set_of_draws(name: str) -> None:
    assert seed_for(with_change(RunSpec, name), "predict") == seed_for(RUN, "predict")


def test_draws_differ_between_seeds_training_tasks_and_evaluation_tasks() -> None:
    arc_c = dataclasses.replace(DATA, task="arc_c")
    runs = [
        RUN,
        dataclasses.replace(RUN, fit=dataclasses.replace(FIT, seed=22)),
        dataclasses.replace(RUN, fit=dataclasses.replace(FIT, data=arc_c)),
        dataclasses.replace(RUN, data=arc_c),
    ]
    assert len({seed_for(run, "predict") for run in runs}) == 4


@pytest.mark.parametrize(("spec", "stream"), [(FIT, "predict"), (RUN, "dta"), (FIT, "")])
def test_an_unknown_stream_is_refused(spec: Any, stream: str) -> None:
    with pytest.raises(ValueError, match=f"There is no random stream '{stream}' for a {type(spec).__name__}"):
        seed_for(spec, stream)


def test_a_digest_is_the_first_63_bits_of_the_hash_of_its_axes() -> None:
    whole = hashlib.sha256(b'["data",21,"arc_e"]').hexdigest()
    assert digest("data", 21, "arc_e") == int(whole[:16], 16) // 2
    assert seed_for(FIT, "data") == digest("data", 21, "arc_e")


def test_digests_keep_axes_apart_and_fit_a_generator() -> None:
    values = [digest(*axes) for axes in ([("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("a", 1.0)])]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 2**63 for value in values)
