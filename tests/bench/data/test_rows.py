"""Raw rows: the file that is named is read, now; nothing is matched, copied or kept from before."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mirrors import mirror, winogrande, write_rows

from bench.data import rows
from bench.data.rows import Origin, find_rows
from bench.data.splits import DataSource, load_split
from bench.task import get_task

NAMES = ("mirror[1]", "mir*or", "mirror?", "a::b", "{x,y}", "~", "mirror 1", "#%20", "zip://x", "-f", "Ümlaut")


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_folder_is_a_name_and_never_a_pattern(tmp_path: Path, name: str) -> None:
    mirror(tmp_path / name, shift=1)
    for other in ("mirror1", "mirxor", "mirrorx", "a", "x", "y"):
        mirror(tmp_path / other, shift=0)
    (wanted,) = {split.fingerprint for split in [load_split(get_task("wg_s"), "train", DataSource(tmp_path / name))]}
    mirror(tmp_path / "plain", shift=1)
    assert wanted == load_split(get_task("wg_s"), "train", DataSource(tmp_path / "plain")).fingerprint


@pytest.mark.parametrize("name", ["train[1]", "train*"])
def test_another_files_name_is_not_taken_for_the_splits(tmp_path: Path, name: str) -> None:
    folder = mirror(tmp_path) / "allenai/winogrande/winogrande_s"
    write_rows(folder / f"{name}.parquet", winogrande(7))
    write_rows(folder / "xtrain-00000-of-00001.parquet", winogrande(7))
    assert load_split(get_task("wg_s"), "train", DataSource(tmp_path)).rows == 640


def test_a_changed_file_is_read_again_in_the_same_process(tmp_path: Path) -> None:
    task, source = get_task("wg_s"), DataSource(mirror(tmp_path))
    before = load_split(task, "train", source)
    assert load_split(task, "train", source) is before  # unchanged: not checked a second time
    file = tmp_path / "allenai/winogrande/winogrande_s/train-00000-of-00001.parquet"
    times = file.stat()
    mirror(tmp_path, shift=1)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # a date is no proof
    after = load_split(task, "train", source)
    assert [e.label for e in after.examples] == [1 - e.label for e in before.examples]
    mirror(tmp_path)
    assert load_split(task, "train", source).fingerprint == before.fingerprint


def test_a_file_that_is_gone_is_missed_and_not_served_from_memory(tmp_path: Path) -> None:
    task, source = get_task("wg_s"), DataSource(mirror(tmp_path))
    load_split(task, "train", source)
    (tmp_path / "allenai/winogrande/winogrande_s/train-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no train-\*\.parquet in "):
        load_split(task, "train", source)


def test_reading_a_mirror_needs_no_cache_and_does_not_import_datasets(tmp_path: Path) -> None:
    mirror(tmp_path / "mirror")
    readonly = tmp_path / "home"
    readonly.mkdir(mode=0o500)
    code = (
        "import sys\nfrom pathlib import Path\nfrom bench.data.splits import DataSource, load_split\n"
        "from bench.task import get_task\n"
        f"print(load_split(get_task('wg_s'), 'train', DataSource(Path({str(tmp_path / 'mirror')!r}))).rows)\n"
        "print('datasets' in sys.modules)"
    )
    home = {"HOME": str(readonly), "HF_HOME": str(readonly / "hf"), "TMPDIR": str(readonly)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["640", "False"]
    assert not list(readonly.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_read_is_not_called_damaged(tmp_path: Path, what: str) -> None:
    mirror(tmp_path)
    file = tmp_path / "allenai/winogrande/winogrande_s/train-00000-of-00001.parquet"
    path = file if what == "file" else file.parent
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0)
    try:
        with pytest.raises(OSError, match=r"cannot be read \(Permission denied\)") as error:
            load_split(get_task("wg_s"), "train", DataSource(tmp_path))
    finally:
        path.chmod(mode)
    assert str(path) in str(error.value) and "fetch" not in str(error.value)


def test_a_mirror_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mirror(tmp_path / "mirror")
    for data_dir in (Path("~/mirror"), Path("~") / "mirror"):
        assert load_split(get_task("wg_s"), "train", DataSource(data_dir)).rows == 640


def test_rows_say_where_they_come_from(tmp_path: Path) -> None:
    mirror(tmp_path)
    assert find_rows(get_task("wg_s"), "train", tmp_path).origin is Origin.MIRROR
    assert find_rows(get_task("wg_s"), "train", None).origin is Origin.HUB
    assert find_rows(get_task("colours"), "train", tmp_path).origin is Origin.GENERATED


@pytest.mark.parametrize("answers", [False, True])
def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import constants

    seen = []

    def load(*args: Any, **options: Any) -> Any:
        seen.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(rows, "online", lambda: answers)
    monkeypatch.setattr(datasets, "load_dataset", load)
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    said = (
        r"not in the cache\). Offline"
        if answers
        else "hub did not answer within 5 seconds, so only its local cache was read"
    )
    with pytest.raises(FileNotFoundError, match=said):
        load_split(get_task("obqa"), "train", DataSource())
    assert seen == [before if answers else (True, True)]
    assert before == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
