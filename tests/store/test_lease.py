"""One driver at a time: real processes that work, are killed, stand still, and meet others."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support_store import TABLES, make_plan, run

from camtrap_batch.errors import InputError, LeaseHeld, LeaseLost, StorageError
from camtrap_batch.store import lease
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.gc import collect
from camtrap_batch.store.shards import all_settled, find_receipts
from camtrap_batch.store.tables import commit_plan

HOLDER = """\
import sys
from camtrap_batch.store import lease
from camtrap_batch.store.folder import Folder

lease.BEAT_S = float(sys.argv[2])
with lease.hold(Folder(sys.argv[1]), "wcs", "infer"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["disk", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A run folder that several processes see."""
    if request.param == "disk":
        return Folder(str(tmp_path / "run"))
    return Folder(f"{request.getfixturevalue('bucket')}/runs/run")


@pytest.fixture
def other(shared: Folder) -> Iterator[subprocess.Popen[str]]:
    with holding(shared) as process:
        yield process


@contextmanager
def holding(folder: Folder, script: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lease of the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, folder.url, "0.1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_driver_is_told_of_the_first(shared: Folder, other: subprocess.Popen[str]) -> None:
    told = rf"^{shared.url}: another driver is at work here: infer of job wcs, process {other.pid} on "
    for call in (lambda: lease.take(shared, "wcs", "merge"), lambda: collect(shared)):
        with pytest.raises(LeaseHeld, match=told) as caught:
            call()
        assert caught.value.exit_code == 3
    holder = lease.look(shared)
    assert holder is not None
    assert holder.state() == "held"
    other.communicate()  # its input ends, and it gives the lease back
    assert other.returncode == 0
    with lease.hold(shared, "wcs", "merge") as mine:
        assert mine.holder.number == holder.number + 1
    assert shared.list("lease") == [f"{mine.holder.number}.json"]


def test_a_lease_lapses_at_once_when_its_process_is_killed(
    shared: Folder, other: subprocess.Popen[str]
) -> None:
    """Also while it is a zombie, of which nobody has taken notice yet."""
    os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: lease.look(shared).state() == "gone")  # type: ignore[union-attr]
    with lease.hold(shared, "wcs", "merge") as mine:
        assert mine.holder.pid == os.getpid()
        mine.check()
    last = lease.look(shared)
    assert last is not None
    assert last.state() == "free"


def test_another_process_with_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    mine = lease.take(folder, "wcs", "infer")
    mine.release()
    held = dataclasses.replace(mine.holder, released=False)
    assert held.state() == "held"
    assert dataclasses.replace(held, ticks=held.ticks - 100).state() == "gone"
    # An earlier version tells the time alone.
    assert dataclasses.replace(held, ticks=0).state() == "held"
    assert dataclasses.replace(held, ticks=0, started=held.started - 3600).state() == "gone"


SET_BACK = """\
import sys
import psutil
from camtrap_batch.store import lease
from camtrap_batch.store.folder import Folder

# What the system makes of a process's first tick once somebody has set the clock an hour ahead.
began = psutil.Process.create_time
psutil.Process.create_time = lambda process: began(process) + 3600
with lease.hold(Folder(sys.argv[1]), "wcs", "infer"):
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_clock_that_is_set_back_takes_no_lease_away(tmp_path: Path) -> None:
    """The first driver began by another clock than the second one reads now."""
    folder = Folder(str(tmp_path))
    with holding(folder, SET_BACK) as first:
        with pytest.raises(LeaseHeld, match=f"process {first.pid} on "):
            lease.take(folder, "wcs", "merge")
        first.kill()
        wait_until(lambda: lease.look(folder).state() == "gone")  # type: ignore[union-attr]


def test_a_process_of_which_nothing_is_shown_is_known_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid, as login nodes have it, another user's driver can't be looked at."""
    mine = lease.take(Folder(str(tmp_path)), "wcs", "infer")
    mine.release()
    held = dataclasses.replace(mine.holder, released=False)

    def nothing_shown(pid: int) -> Any:
        raise lease.psutil.NoSuchProcess(pid)

    monkeypatch.setattr(lease.psutil, "Process", nothing_shown)
    monkeypatch.setattr(lease.os, "kill", lambda pid, signal: (_ for _ in ()).throw(PermissionError))
    assert held.state() == "held"
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1000)
    assert dataclasses.replace(held, beat=long_ago.isoformat()).state() == "silent"
    monkeypatch.setattr(lease.os, "kill", lambda pid, signal: (_ for _ in ()).throw(ProcessLookupError))
    assert held.state() == "gone"


def elsewhere(folder: Folder, *, silent_s: float, number: int = 1) -> lease.Holder:
    """A lease of a process on another machine, last heard of some time ago."""
    beat = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=silent_s)).isoformat(timespec="milliseconds")
    record = {
        "id": "x", "host": "node7", "machine": "node7/1", "pid": 1, "started": 0.0, "job": "wcs",
        "command": "infer", "since": beat, "beat": beat, "number": number, "of_a_newer_version": 1,
    }  # fmt: skip
    folder.write(f"lease/{number}.json", json.dumps(record).encode())
    found = lease.look(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("silent_s", [5, 100])
def test_a_holder_elsewhere_is_there_while_it_is_heard_of(tmp_path: Path, silent_s: float) -> None:
    folder = Folder(str(tmp_path))
    assert elsewhere(folder, silent_s=silent_s).state() == "held"
    with pytest.raises(LeaseHeld, match=r"process 1 on node7, .* last heard of \d+ s ago"):
        lease.take(folder, "wcs", "merge")


@pytest.mark.parametrize("silent_s", [1000, -1000], ids=["long ago", "clock ahead"])
def test_a_silent_holder_elsewhere_is_watched_before_its_lease_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    folder = Folder(str(tmp_path))
    assert elsewhere(folder, silent_s=silent_s).state() == "silent"
    mine = lease.take(folder, "wcs", "merge")
    assert mine.holder.number == 2
    mine.release()
    # Its clock is wrong, but it is there: the time in its lease moves.
    elsewhere(folder, silent_s=silent_s, number=3)
    beating = threading.Timer(0.1, lambda: elsewhere(folder, silent_s=silent_s - 1, number=3))
    beating.start()
    with pytest.raises(LeaseHeld, match="node7"):
        lease.take(folder, "wcs", "merge")
    beating.join()


def test_of_many_that_take_a_lapsed_lease_one_has_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    elsewhere(folder, silent_s=1000)
    start, taken, refused = threading.Barrier(6), [], []

    def take() -> None:
        start.wait()
        try:
            taken.append(lease.take(folder, "wcs", "merge"))
        except LeaseHeld as problem:
            refused.append(problem)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert len(refused) == 5
    taken[0].release()


def test_a_driver_that_lost_its_lease_commits_nothing(
    shared: Folder, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still for so long, on another machine, that this one took over; then it wakes up."""
    os.kill(other.pid, signal.SIGSTOP)
    holder = lease.look(shared)
    assert holder is not None
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")
    monkeypatch.setattr(lease, "LAPSE_S", 0.5)
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    wait_until(lambda: lease.look(shared).state(0.5) == "silent")  # type: ignore[union-attr]
    mine = lease.take(shared, "wcs", "merge")
    os.kill(other.pid, signal.SIGCONT)
    before = shared.read(f"lease/{mine.holder.number}.json")
    other.communicate()
    assert json.loads(shared.read(f"lease/{holder.number}.json"))["released"] is False, (
        "it is not its to give"
    )
    assert json.loads(before)["pid"] == os.getpid()
    mine.release()
    # And the one that has lost it can't commit.
    run(shared, make_plan())
    receipts = all_settled(make_plan(), find_receipts(shared, make_plan()))
    with lease.hold(shared, "wcs", "merge") as lost:
        shared.create(f"lease/{lost.holder.number + 1}.json", b"{}")
        with pytest.raises(LeaseLost, match="another driver has taken over"):
            commit_plan(shared, make_plan(), receipts, TABLES, inputs={})


def test_it_is_held_once_by_one_thread(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    refused: list[Any] = []

    def another() -> None:
        try:
            with lease.hold(folder, "wcs", "merge"):
                pass
        except LeaseHeld as problem:
            refused.append(problem)

    with lease.hold(folder, "wcs", "reprocess") as outer, lease.hold(folder, "wcs", "infer") as inner:
        assert inner is outer
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    assert len(refused) == 1
    another()
    assert len(refused) == 1


def test_a_lease_that_cant_be_read_is_none(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("lease/4.json", b"{")
    assert lease.look(folder) is None
    with lease.hold(folder, "wcs", "merge") as mine:
        assert mine.holder.number == 5


def test_what_lies_where_a_lease_should(tmp_path: Path) -> None:
    """Neither is it taken for a lease, nor does it hide the one that is held."""
    folder, path = Folder(str(tmp_path / "run")), tmp_path / "run" / "lease" / "7.json"
    (tmp_path / "elsewhere").write_text("precious")
    with holding(folder) as other:

        def is_refused() -> None:
            with pytest.raises(LeaseHeld, match=f"process {other.pid} on "):
                lease.take(folder, "wcs", "merge")

        path.with_name("007.json").write_text("{}")
        path.with_name("8.txt").write_text("x")
        is_refused()
        path.write_text("")
        is_refused()
        for target in ("nothing", "elsewhere"):
            path.unlink()
            path.symlink_to(tmp_path / target)
            is_refused()
        path.unlink()
        path.mkdir()
        with pytest.raises(StorageError, match=r"lease/7\.json: can't be read \(Is a directory\); remove it"):
            lease.take(folder, "wcs", "merge")
        path.rmdir()
        path.symlink_to(tmp_path / "nothing")
        other.kill()
        wait_until(lambda: lease.look(folder).state() == "gone")  # type: ignore[union-attr]
        with lease.hold(folder, "wcs", "merge") as mine:
            assert mine.holder.number == 8
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_one_that_cant_be_read_is_followed_by_the_next_number(folder: Folder) -> None:
    with lease.hold(folder, "wcs", "merge") as first:
        pass
    folder.write("lease/2.json", b"{")
    with lease.hold(folder, "wcs", "merge", only_if_needed=True) as mine:
        assert (first.holder.number, mine.holder.number) == (1, 3)
    # Whoever made the second one is to see that it has lost it.
    assert folder.list("lease") == ["3.json"]


def test_who_finds_nothing_to_do_leaves_no_trace(folder: Folder) -> None:
    with lease.hold(folder, "wcs", "publish", only_if_needed=True):
        assert folder.list("lease") == ["1.json"]
    assert folder.list("lease") == []
    with lease.hold(folder, "wcs", "merge"), lease.hold(folder, "wcs", "publish", only_if_needed=True):
        pass
    before = folder.read("lease/1.json")
    with lease.hold(folder, "wcs", "publish", only_if_needed=True), pytest.raises(LeaseHeld):
        lease.take(folder, "wcs", "merge")
    assert (folder.list("lease"), folder.read("lease/1.json")) == (["1.json"], before)
    with lease.hold(folder, "wcs", "publish", only_if_needed=True), lease.hold(folder, "wcs", "publish"):
        pass
    assert folder.list("lease") == ["2.json"]


def test_after_one_that_was_killed_the_trace_stays(shared: Folder, other: subprocess.Popen[str]) -> None:
    """Should it only have stood still, it sees that it has lost the lease."""
    os.kill(other.pid, signal.SIGKILL)
    wait_until(lambda: lease.look(shared).state() == "gone")  # type: ignore[union-attr]
    with lease.hold(shared, "wcs", "publish", only_if_needed=True):
        pass
    assert shared.list("lease") == ["2.json"]


def test_a_sign_of_life_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    folder = Folder(str(tmp_path))
    with lease.hold(folder, "wcs", "merge") as mine:
        first = mine.holder.beat
        wait_until(lambda: lease.look(folder).beat > first)  # type: ignore[union-attr]


def test_gc_leaves_alone_what_is_young(folder: Folder) -> None:
    run(folder, make_plan())
    folder.write("tables/selection/0123/stray.parquet", b"12345")
    folder.write("receipts/select/0123/stray.json", b"{}")
    assert collect(folder) == (0, 0)
    assert collect(folder, min_age_s=-60, dry_run=True) == (2, 7)
    assert collect(folder, min_age_s=-60) == (2, 7)
    assert collect(folder, min_age_s=-60) == (0, 0)


def test_gc_takes_snapshots_that_are_not_kept_whatever_their_age(folder: Folder) -> None:
    run(folder, make_plan(1))
    run(folder, make_plan(2))
    files, _ = collect(folder, keep=1)
    assert files == 2 + 3 * 2 + 3 + 1  # snapshots, files of tables, receipts, the plan
    run(folder, make_plan(2))
    assert folder.list("snapshots/selection") == ["2.json", "CURRENT"]


def test_gc_knows_a_folder_that_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious.bin").write_bytes(b"1")
    with pytest.raises(InputError, match="is not a run folder"):
        collect(Folder(str(tmp_path)), min_age_s=-60)
    assert (tmp_path / "models" / "precious.bin").exists()
