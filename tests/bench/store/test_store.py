"""The store: whole or absent, damage told in a sentence, and trees that come back as they went in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_facts
import torch
from patience import PATIENCE

from bench.posterior import DiagGaussian, Point
from bench.specs import DataSpec, FitSpec, ModelSpec, RunSpec, TrainSpec, key, to_json
from bench.store.facts import to_plain
from bench.store.predictions import read_predictions, write_predictions
from bench.store.records import DamagedRecord, read_record, read_records
from bench.store.store import Store

DATA = DataSpec(task="arc_e", version=1, revision="abc")
FIT = FitSpec(
    method="ivon", version=1, options={"ess": 1e6}, data=DATA, holdout=0.0, model=ModelSpec(), train=TrainSpec(), seed=1
)
RUN = RunSpec(fit=FIT, method="ivon", version=1, options={"tau": 1.0}, data=DATA, split="validation")
METRICS = {"accuracy": 0.5, "ece": 0.25, "nll": 0.75, "brier": 0.5}
FACTS = {**to_plain(sample_facts.RUN), "metrics": METRICS}
LOG_PROBS = np.log(np.array([[[0.25, 0.75], [0.5, 0.5]]], dtype=np.float32))


def write_run(folder: Path) -> None:
    write_predictions(folder / "predictions.safetensors", LOG_PROBS, np.array([1, 0]), ("validation/0", "x"), None)


def write_fit(folder: Path) -> None:
    Point({"a": torch.arange(3.0)}).save(folder / "posterior.safetensors")
    (folder / "trace.jsonl").write_text('{"step": 0}\n')


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that holds FIT and RUN."""
    made = Store(tmp_path / "runs")
    assert made.publish(FIT, {"seconds": 2.0}, write_fit)
    assert made.publish(RUN, FACTS, write_run)
    return made


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_store_creates_nothing_before_something_is_written(tmp_path: Path) -> None:
    empty = Store(tmp_path / "runs")
    assert not empty.has(FIT)
    assert empty.failures(FIT) == []
    with pytest.raises(LookupError, match="No result starts with 'abcd'"):
        empty.find("abcd")
    assert list(tmp_path.iterdir()) == []


def test_results_lie_under_their_kind_and_key(store: Store) -> None:
    assert files_under(store.root) == sorted(
        [f"evals/{key(RUN)}/{name}" for name in ("facts.json", "predictions.safetensors", "spec.json")]
        + [f"fits/{key(FIT)}/{name}" for name in ("facts.json", "posterior.safetensors", "spec.json", "trace.jsonl")]
    )
    assert store.has(FIT)
    assert store.has(RUN)
    assert not store.has(dataclasses.replace(RUN, split="test"))


def test_the_facts_hold_the_hash_of_every_other_file(store: Store) -> None:
    folder = store.folder(FIT)
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["seconds"] == 2.0
    assert facts["files"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("posterior.safetensors", "spec.json", "trace.jsonl")
    }


def test_what_was_written_is_what_is_read(store: Store) -> None:
    posterior = store.posterior(FIT)
    assert isinstance(posterior, Point)
    assert torch.equal(posterior.mean["a"], torch.arange(3.0))
    assert store.fit_facts(FIT)["seconds"] == 2.0
    predictions = store.predictions(RUN)
    assert set(predictions) == {"log_probs", "labels"}
    assert np.array_equal(predictions["log_probs"], LOG_PROBS)
    assert predictions["labels"].tolist() == [1, 0]
    record = store.record(RUN)
    assert (record.key, record.spec, record.metrics, record.folder) == (key(RUN), RUN, METRICS, store.folder(RUN))


def test_predictions_keep_the_truth_where_it_is_known(tmp_path: Path) -> None:
    truth = np.array([[0.5, 0.5], [0.1, 0.9]])
    write_predictions(tmp_path / "p.safetensors", LOG_PROBS, np.array([1, 0]), ("a", "b"), truth)
    assert np.array_equal(read_predictions(tmp_path / "p.safetensors")["truth"], truth)


def test_the_first_result_stands(store: Store) -> None:
    before = {name: (store.root / name).read_bytes() for name in files_under(store.root)}
    assert store.publish(RUN, {**FACTS, "seconds": 99.0}, write_run) is False
    assert {name: (store.root / name).read_bytes() for name in files_under(store.root)} == before


def leave_nothing(store: Store, error: type[BaseException], write: Callable[[Path], None], facts: Any) -> None:
    spec = dataclasses.replace(RUN, split="test")
    before = sorted(str(path) for path in store.root.rglob("*"))
    with pytest.raises(error):
        store.publish(spec, facts, write)
    assert sorted(str(path) for path in store.root.rglob("*")) == before
    assert not store.has(spec)


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, SystemExit])
def test_a_write_that_raises_leaves_nothing(store: Store, error: type[BaseException]) -> None:
    def write(folder: Path) -> None:
        write_run(folder)
        (folder / "sub.txt").write_text("half")
        raise error("disk full")

    leave_nothing(store, error, write, FACTS)


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"metrics": {"nll": float("nan")}}, ValueError),
        ({"metrics": {"nll": float("inf")}}, ValueError),
        ({"metrics": {1, 2}}, TypeError),
    ],
)
def test_facts_that_are_no_json_leave_nothing(store: Store, facts: Any, error: type[Exception]) -> None:
    leave_nothing(store, error, write_run, facts)


def test_what_a_kill_left_half_written_is_cleared_by_the_next_job(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = store.folder(RUN).parent / f".{key(RUN)}.deadbeef"
    left.mkdir(parents=True)
    (left / "predictions.safetensors").write_bytes(b"half")
    other = left.with_name(".0123456789abcdef.deadbeef")
    other.mkdir()
    assert not store.has(RUN)
    assert read_records(tmp_path) == ([], [])
    assert store.publish(RUN, FACTS, write_run)
    assert sorted(path.name for path in left.parent.iterdir()) == sorted([key(RUN), other.name])


def test_a_reader_sees_a_result_whole_or_not_at_all(tmp_path: Path) -> None:
    """While 16 threads publish one key, whatever is there can be read in full; one wins and nothing is left over."""
    store = Store(tmp_path)
    start, stop = threading.Barrier(17), threading.Event()
    won: list[int] = []
    lost: list[int] = []
    faults: list[BaseException] = []

    def publish(number: int) -> None:
        def write(folder: Path) -> None:
            for _ in range(3):
                with (folder / "posterior.safetensors").open("ab") as file:
                    file.write(bytes([number]) * 1000)
                    time.sleep(0.0005 * (number % 3))

        start.wait()
        try:
            (won if store.publish(FIT, {"writer": number}, write) else lost).append(number)
        except BaseException as error:
            faults.append(error)

    seen = 0

    def read() -> None:
        nonlocal seen
        start.wait()
        last = False
        while not last:
            last = stop.is_set()
            if not store.folder(FIT).exists():
                continue
            try:
                facts = store.fit_facts(FIT)
                content = (store.folder(FIT) / "posterior.safetensors").read_bytes()
                assert content == bytes([facts["writer"]]) * 3000
                assert json.loads((store.folder(FIT) / "spec.json").read_text()) == to_json(FIT)
                seen += 1
            except BaseException as error:
                faults.append(error)
                return

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert faults == []
    assert seen > 0
    assert len(won) == 1
    assert sorted(won + lost) == list(range(16))
    assert store.fit_facts(FIT)["writer"] == won[0]
    assert [path.name for path in (tmp_path / "fits").iterdir()] == [key(FIT)]


ROUNDS, WRITERS = 200, 16


def publish_rounds(root: Path, number: int, barrier: Any, results: Any) -> None:
    """One writer: all start a round together; whoever finds a result reads it in full, whoever wins says so."""
    won = []
    for seed in range(ROUNDS):
        fit = dataclasses.replace(FIT, seed=seed)
        store = Store(root)
        barrier.wait()

        def write(folder: Path) -> None:
            for part in ("a", "b"):
                with (folder / "posterior.safetensors").open("ab") as file:
                    file.write(f"{part}{number:02}".encode() * 500)

        if store.publish(fit, {"writer": number}, write):
            won.append(seed)
        winner = store.fit_facts(fit)["writer"]
        content = (store.folder(fit) / "posterior.safetensors").read_bytes()
        assert content == f"a{winner:02}".encode() * 500 + f"b{winner:02}".encode() * 500
    results.put((number, won))


@pytest.mark.slow
def test_sixteen_processes_publish_one_key_at_once_and_one_wins_every_round(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(WRITERS), context.Queue()
    writers = [
        context.Process(target=publish_rounds, args=(tmp_path, number, barrier, results)) for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    won = dict(results.get(timeout=PATIENCE) for _ in writers)
    for writer in writers:
        writer.join(timeout=PATIENCE)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert sorted(seed for seeds in won.values() for seed in seeds) == list(range(ROUNDS))  # each round has one winner
    assert sorted(path.name for path in (tmp_path / "fits").iterdir()) == sorted(
        key(dataclasses.replace(FIT, seed=seed)) for seed in range(ROUNDS)
    )


@pytest.mark.parametrize(
    "late",
    [
        lambda folder: (folder / "x").write_text("late"),
        pytest.param(
            write_fit,
        ),
    ],
)
def test_a_job_that_is_still_writing_when_another_wins_takes_its_result(
    tmp_path: Path, late: Callable[[Path], None]
) -> None:
    store = Store(tmp_path)

    def write(folder: Path) -> None:
        assert store.publish(FIT, {"writer": "first"}, write_fit)
        late(folder)

    assert store.publish(FIT, {"writer": "second"}, write) is False
    assert store.fit_facts(FIT)["writer"] == "first"


# --- damage -----------------------------------------------------------------------------------------------------------


def sentence(act: Callable[[], Any], folder: Path) -> str:
    """What a damaged result is told: the folder, and what to do about it."""
    with pytest.raises(DamagedRecord) as error:
        act()
    said = str(error.value)
    assert str(folder) in said
    assert "elete" in said
    assert "run the grid again" in said
    return said


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip_first(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(bytes(content))


def flip_last(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGE = [truncate, flip_first, flip_last, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_predictions_are_told(store: Store, damage: Callable[[Path], None]) -> None:
    damage(store.folder(RUN) / "predictions.safetensors")
    assert "predictions.safetensors" in sentence(lambda: store.predictions(RUN), store.folder(RUN))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_posterior_is_told(store: Store, damage: Callable[[Path], None]) -> None:
    damage(store.folder(FIT) / "posterior.safetensors")
    assert "posterior.safetensors" in sentence(lambda: store.posterior(FIT), store.folder(FIT))


@pytest.mark.parametrize("damage", [truncate, flip_first, empty, Path.unlink])
def test_damaged_facts_of_a_fit_are_told(store: Store, damage: Callable[[Path], None]) -> None:
    damage(store.folder(FIT) / "facts.json")
    sentence(lambda: store.fit_facts(FIT), store.folder(FIT))
    sentence(lambda: store.posterior(FIT), store.folder(FIT))


@pytest.mark.parametrize("name", ["facts.json", "spec.json"])
@pytest.mark.parametrize("damage", [truncate, flip_first, empty, Path.unlink])
def test_a_damaged_record_is_told(store: Store, name: str, damage: Callable[[Path], None]) -> None:
    damage(store.folder(RUN) / name)
    sentence(lambda: store.record(RUN), store.folder(RUN))


@pytest.mark.parametrize("name", ["facts.json", "spec.json"])
@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'"x"', b"{}", b"\xff\xfe\x00", b'{"metrics": '])
def test_json_that_is_no_record_is_told(store: Store, name: str, content: bytes) -> None:
    (store.folder(RUN) / name).write_bytes(content)
    sentence(lambda: store.record(RUN), store.folder(RUN))


@pytest.mark.parametrize(
    "metrics",
    [
        {"nll": None},
        {"nll": "0.5"},
        {"nll": [0.5]},
        pytest.param(None),
        pytest.param([1]),
        pytest.param({"nll": float("nan")}),
    ],
)
def test_a_metric_that_is_no_number_is_told(store: Store, metrics: Any) -> None:
    (store.folder(RUN) / "facts.json").write_text(json.dumps({**FACTS, "metrics": metrics}))
    with pytest.raises(DamagedRecord) as error:
        store.record(RUN)
    assert str(store.folder(RUN)) in str(error.value)


def edit(file: Path, *path: str, value: Any) -> None:
    content = json.loads(file.read_text())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("split",), "test"), (("fit", "seed"), 2), (("fit", "options", "ess"), 1e7), (("options", "tau"), 0.5)],
)
def test_an_edited_spec_is_told(store: Store, path: tuple[str, ...], value: Any) -> None:
    edit(store.folder(RUN) / "spec.json", *path, value=value)
    said = sentence(lambda: store.record(RUN), store.folder(RUN))
    assert "it was edited, or written by another version of the suite" in said


def test_a_spec_that_is_reformatted_only_is_still_the_spec(store: Store) -> None:
    edit(store.folder(RUN) / "spec.json", "fit", "options", "ess", value=1e6)
    assert store.record(RUN).spec == RUN


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("fit", "train", "steps"), "many"),
        (("fit", "train", "steps"), 0),
        (("fit", "model", "lora"), 3),
        (("batch_size",), True),
        pytest.param(
            ("options", "tau"),
            float("nan"),
        ),
    ],
)
def test_a_spec_that_cannot_be_built_is_told(store: Store, path: tuple[str, ...], value: Any) -> None:
    edit(store.folder(RUN) / "spec.json", *path, value=value)
    sentence(lambda: store.record(RUN), store.folder(RUN))


@pytest.mark.parametrize("path", [("unknown",), ("fit", "unknown"), ("fit", "model", "lora", "unknown")])
def test_a_spec_of_a_newer_version_is_told_and_not_called_damaged(store: Store, path: tuple[str, ...]) -> None:
    edit(store.folder(RUN) / "spec.json", *path, value=1)
    with pytest.raises(DamagedRecord, match=r"unknown' is unknown here: a newer version of the suite") as error:
        store.record(RUN)
    assert "elete" not in str(error.value)


def test_a_spec_without_a_needed_field_is_told(store: Store) -> None:
    file = store.folder(RUN) / "spec.json"
    content = json.loads(file.read_text())
    del content["fit"]["seed"]
    file.write_text(json.dumps(content))
    sentence(lambda: store.record(RUN), store.folder(RUN))


def test_a_copied_folder_is_told(store: Store) -> None:
    copy = store.folder(RUN).with_name("0" * 16)
    store.folder(RUN).rename(copy)
    sentence(lambda: read_record(copy), copy)


def test_one_damaged_record_does_not_hide_the_others(store: Store) -> None:
    other = dataclasses.replace(RUN, split="test")
    assert store.publish(other, FACTS, write_run)
    (store.folder(RUN) / "facts.json").write_text("{")
    good, bad = read_records(store.root)
    assert [record.spec for record in good] == [other]
    assert len(bad) == 1
    assert str(store.folder(RUN)) in bad[0]


def test_records_come_in_the_order_of_their_keys(store: Store) -> None:
    for seed in range(5):
        fit = dataclasses.replace(FIT, seed=seed + 10)
        assert store.publish(dataclasses.replace(RUN, fit=fit), FACTS, write_run)
    good, bad = read_records(store.root)
    assert bad == []
    assert len(good) == 6
    assert [record.key for record in good] == sorted(record.key for record in good)


def test_runs_that_differ_in_their_seeds_alone_share_their_settings(store: Store) -> None:
    def settings(run: RunSpec) -> str:
        store.publish(run, FACTS, write_run)
        return store.record(run).settings

    based = dataclasses.replace(FIT, method="la", bases=(FIT,))
    seed_2 = dataclasses.replace(FIT, seed=2)
    assert settings(RUN) == settings(dataclasses.replace(RUN, fit=seed_2))
    assert settings(dataclasses.replace(RUN, fit=based)) == settings(
        dataclasses.replace(RUN, fit=dataclasses.replace(based, seed=2, bases=(seed_2,)))
    )
    others = [RUN, dataclasses.replace(RUN, variant="x"), dataclasses.replace(RUN, options={"tau": 0.5})]
    assert len({settings(run) for run in others}) == 3


def test_a_folder_without_facts_is_told_before_any_work_and_cannot_be_published_over(store: Store) -> None:
    (store.folder(FIT) / "facts.json").unlink()
    sentence(lambda: store.has(FIT), store.folder(FIT))
    sentence(lambda: store.publish(FIT, {}, write_fit), store.folder(FIT))


# --- finding, failing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [4, 8, 15, 16])
def test_a_result_is_found_by_the_start_of_its_key(store: Store, digits: int) -> None:
    assert store.find(key(RUN)[:digits]) == store.folder(RUN)
    assert store.find(key(FIT)[:digits]) == store.folder(FIT)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "abc",
        "../..",
        "fits/abcd",
        "abcd/../..",
        "****",
        "abcd*",
        "[0-9]",
        "ABCD",
        "/etc",
        ".abcd",
        "abcd\n",
        "xyzw",
    ],
)
def test_what_is_no_key_is_refused_before_any_look_up(store: Store, prefix: str) -> None:
    with pytest.raises(LookupError, match=r"is not a key: give at least four hex digits"):
        store.find(prefix)


def test_a_start_that_fits_nothing_is_told(store: Store) -> None:
    prefix = next(f"{n:04x}" for n in range(9) if not {key(RUN)[:4], key(FIT)[:4]} & {f"{n:04x}"})
    with pytest.raises(LookupError, match=f"No result starts with '{prefix}' in .*--runs names another store"):
        store.find(prefix)


def test_a_start_that_fits_two_is_told(store: Store) -> None:
    store.folder(RUN).with_name(key(RUN)[:4] + "0" * 12).mkdir()
    with pytest.raises(LookupError, match=f"2 results start with '{key(RUN)[:4]}'"):
        store.find(key(RUN)[:4])


def test_a_draft_is_not_found(store: Store) -> None:
    (store.root / "evals" / ".abcd000000000000.deadbeef").mkdir()
    with pytest.raises(LookupError, match="No result starts with 'abcd'"):
        store.find("abcd")


def test_failures_are_recorded_in_order_with_spec_error_and_trace(store: Store) -> None:
    files = []
    for text in ("first", "second"):
        try:
            raise ValueError(text)
        except ValueError as error:
            files.append(store.fail(RUN, error))
    assert store.failures(RUN) == files
    assert store.failures(FIT) == []
    assert files[0].parent == store.root / "failures"
    assert files[0].name.startswith(f"{key(RUN)}-")
    content = json.loads(files[0].read_text())
    assert content["error"] == "ValueError: first"
    assert content["spec"] == json.loads(json.dumps(to_json(RUN)))
    assert "raise ValueError(text)" in content["trace"]
    assert sorted(path for path in files[0].parent.iterdir()) == sorted(files)  # no drafts


def test_a_failure_does_not_pass_for_a_result(store: Store) -> None:
    other = dataclasses.replace(RUN, split="test")
    store.fail(other, RuntimeError("x"))
    assert not store.has(other)
    assert [record.spec for record in read_records(store.root)[0]] == [RUN]


def test_a_stored_posterior_keeps_its_kind_and_variance(tmp_path: Path) -> None:
    store = Store(tmp_path)
    gauss = DiagGaussian({"a": torch.ones(2)}, {"a": torch.full((2,), 0.25)})
    store.publish(FIT, {}, lambda folder: gauss.save(folder / "posterior.safetensors"))
    back = store.posterior(FIT)
    assert isinstance(back, DiagGaussian)
    (draw,) = back.draws(1, torch.Generator().manual_seed(0), tau=4.0)
    noise = torch.randn(2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(draw["a"], 1 + 2 * 0.5 * noise)
