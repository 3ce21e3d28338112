"""Claims: one holder, freed however it ends, taken over when it shows no sign of life, never taken back."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from patience import PATIENCE

from bench.process.claim import Held, _remove, claim
from bench.process.holder import SECONDS, Worker, covers, machine, mentioned, read_claims
from bench.process.stop import Stopped

LIFE = 0.8  # seconds; a heartbeat every tenth of a second
HOLD = """
import sys, time
from pathlib import Path
from bench.process.claim import claim
from bench.process.holder import Worker
with claim(Path(sys.argv[1]), Worker(*sys.argv[3:4]), seconds=float(sys.argv[2])) as held:
    print("held", flush=True)
    while not held.lost:
        time.sleep(0.01)
    print("lost", flush=True)
"""


def hold(file: Path, repository: Path, seconds: float = LIFE, job: str = "") -> subprocess.Popen[str]:
    """Another process that holds a claim."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file), str(seconds), job],
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def age(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


def write(file: Path, **content: object) -> None:
    """A claim as a process of another machine left it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"token": "theirs", "seconds": LIFE, "node": "far", "machine": "far", **content}))


def test_a_claim_shows_while_it_is_held_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "claims" / "abc.json"
    with claim(file, Worker(job="j", restart=2), about={"label": "x"}) as held:
        held.show(step=3)
        (shown,) = read_claims(file.parent).values()
        assert (shown["alive"], shown["label"], shown["job"], shown["restart"]) == (True, "x", "j", 2)
    assert read_claims(file.parent) == {} and list(file.parent.iterdir()) == []


def test_the_heartbeat_shows_progress_and_keeps_the_claim_young(tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    with claim(file, Worker(), seconds=LIFE) as held:
        held.show(step=7)
        time.sleep(1.5 * LIFE)
        found = read_claims(tmp_path)["abc"]
        assert found["step"] == 7 and found["age"] < LIFE / 2 and not held.lost


def test_who_does_not_wait_leaves_a_living_holder_alone(tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    with claim(file, Worker(), seconds=LIFE):
        with pytest.raises(Held, match="abc is being computed on"), claim(file, Worker(), wait=False):
            pass
        assert read_claims(tmp_path)["abc"]["alive"]


def test_waiting_ends_when_asked_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    with claim(file, Worker()), pytest.raises(Stopped, match="SIGTERM"), claim(file, Worker(), stop=lambda: "SIGTERM"):
        pass


def test_a_second_claim_waits_for_the_first_and_an_error_frees_it(tmp_path: Path) -> None:
    file, order = tmp_path / "abc.json", []

    def second() -> None:
        with claim(file, Worker()):
            order.append("second")

    with pytest.raises(RuntimeError), claim(file, Worker()):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
        raise RuntimeError
    thread.join(timeout=10)
    assert order == ["first", "second"] and list(tmp_path.iterdir()) == []


def test_a_silent_claim_of_another_machine_is_taken_when_its_life_is_over_and_not_before(
    tmp_path: Path, pauses: list[float]
) -> None:
    file = tmp_path / "abc.json"
    write(file)
    began = time.monotonic()
    with claim(file, Worker(), wait=False):
        assert time.monotonic() - began > LIFE * 0.9 and sum(pauses) < LIFE + 1.0
    write(file, seconds=3600)
    age(file, 3700)
    pauses.clear()
    with claim(file, Worker(), wait=False):
        assert pauses == []


def test_age_is_measured_against_the_file_systems_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(tmp_path / "abc.json", Worker(), seconds=LIFE):
        monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's clock is decades ahead
        assert read_claims(tmp_path)["abc"]["alive"]
        with pytest.raises(Held), claim(tmp_path / "abc.json", Worker(), wait=False):
            pass


@pytest.mark.skipif(not machine(), reason="this system does not tell processes of one machine apart (not Linux)")
def test_a_killed_process_of_this_machine_frees_its_claim_at_once(
    tmp_path: Path, repository: Path, pauses: list[float]
) -> None:
    file = tmp_path / "abc.json"
    process = hold(file, repository, seconds=3600)
    process.kill()  # not reaped yet: a zombie counts as gone
    time.sleep(0.1)
    pauses.clear()
    with claim(file, Worker(), wait=False):
        assert sum(pauses) < 1.0
    process.wait()


def test_a_restarted_job_takes_over_from_its_last_start_at_once_and_no_other_does(tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    for holder, asks in (
        ({"job": "s/1", "restart": 0}, Worker(job="s/2", restart=1)),
        ({"job": "s/1", "restart": 1}, Worker(job="s/1", restart=1)),
        ({"job": "", "restart": 0}, Worker(job="", restart=1)),
    ):
        write(file, **holder)
        began = time.monotonic()
        with claim(file, asks, wait=False):
            assert time.monotonic() - began > LIFE * 0.9
    write(file, job="s/1", restart=0, seconds=3600)
    with claim(file, Worker(job="s/1", restart=1), wait=False) as held:
        assert not held.lost


def test_a_stalled_process_that_wakes_up_sees_its_loss_and_does_not_touch_the_new_claim(
    tmp_path: Path, repository: Path
) -> None:
    file = tmp_path / "abc.json"
    process = hold(file, repository)
    os.kill(process.pid, signal.SIGSTOP)
    with claim(file, Worker(job="new"), seconds=3600) as held:
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout is not None and process.stdout.readline() == "lost\n"
        assert process.wait(timeout=10) == 0
        assert read_claims(tmp_path)["abc"]["job"] == "new" and not held.lost


def test_a_claim_that_came_between_look_and_rename_gets_its_place_back(tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    with claim(file, Worker(job="new"), seconds=LIFE) as held:
        assert not _remove(file, "the token that was there before")
        time.sleep(LIFE / 4)
        assert not held.lost and read_claims(tmp_path)["abc"]["job"] == "new"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_claim_is_nobodys_once_it_is_old(tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    file.write_text("{half")
    age(file, 3600)
    with claim(file, Worker(), wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV]
)
def test_where_hard_links_are_refused_a_claim_still_has_one_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    file = tmp_path / "abc.json"
    with claim(file, Worker(job="a"), seconds=LIFE):
        assert read_claims(tmp_path)["abc"]["job"] == "a"
        with pytest.raises(Held), claim(file, Worker(job="b"), wait=False):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_refused_sync_is_none_of_the_works_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with claim(tmp_path / "abc.json", Worker(), seconds=LIFE) as held:
        time.sleep(LIFE / 2)
        assert read_claims(tmp_path)["abc"]["alive"] and not held.lost


RACE = """
import sys
from pathlib import Path
from bench.process.claim import claim
from bench.process.holder import Worker
folder, log = Path(sys.argv[1]), Path(sys.argv[2])
for number in range(40):
    with claim(folder / "abc.json", Worker(), seconds=3600):
        inside = folder / "inside"
        inside.mkdir()  # fails if another is inside
        inside.rmdir()
"""


def test_four_processes_hold_one_claim_in_turn(tmp_path: Path, repository: Path) -> None:
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(number)], env={**os.environ, "PYTHONPATH": str(repository)}
        )
        for number in range(4)
    ]
    assert [job.wait(timeout=PATIENCE) for job in jobs] == [0] * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"seconds": "x", "since": 1}', '{"process": 5}', '{"machine": 3}', '{"since": "x"}']
)
def test_a_damaged_claim_is_shown_and_taken_when_it_is_old(text: str, tmp_path: Path) -> None:
    file = tmp_path / "abc.json"
    file.write_text(text)
    shown = read_claims(tmp_path)["abc"]
    assert shown["alive"] and shown["since"] > 0 and shown["machine"] == "" and not covers(shown, ["0" * 16])
    age(file, 1000)
    with claim(file, Worker(), wait=False):
        pass


def test_claims_of_a_store_that_may_only_be_read_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    write(tmp_path / "abc.json")
    (tmp_path / "def.json").mkdir()
    monkeypatch.setattr("bench.process.holder.os.open", refuse)
    assert [shown["node"] for shown in read_claims(tmp_path).values()] == ["far"]


def test_a_claim_says_which_evaluations_it_covers(tmp_path: Path) -> None:
    file, keys = tmp_path / "abc.json", [f"{n:016x}" for n in range(1 << 32, 200 << 32, 1 << 32)]
    with claim(file, Worker(), about={"label": "x" * 200, "runs": mentioned(keys)}):
        (shown,) = read_claims(tmp_path).values()
    assert covers(shown, keys[3:5]) and not covers(shown, [*keys, "f" * 16])
    assert mentioned([*keys, *keys]) == []  # too many for a claim: then it is known to cover none


def test_a_claim_with_a_number_that_no_float_holds_is_a_damaged_one(tmp_path: Path) -> None:
    write(tmp_path / "abc.json", since=10**400)
    assert read_claims(tmp_path)["abc"]["node"] == ""


def test_a_link_that_leads_nowhere_is_nobodys_claim(tmp_path: Path) -> None:
    file = tmp_path / "claims" / "abc.json"
    file.parent.mkdir()
    file.symlink_to(tmp_path / "nowhere" / "claim")
    with (
        pytest.raises(Stopped, match="enough: stopped while waiting for"),
        claim(file, Worker(), stop=lambda: "enough"),
    ):
        pass
    with claim(file, Worker()):
        assert not file.is_symlink()
    assert not file.exists() and not (tmp_path / "nowhere").exists()


def test_a_claim_with_a_long_life_beats_often_enough_for_those_who_judge_by_a_shorter_one(tmp_path: Path) -> None:
    with claim(tmp_path / "claims" / "abc.json", Worker(), seconds=3600) as held:
        assert held._every * 4 <= SECONDS
