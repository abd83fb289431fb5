"""What a command shows while it works."""

from __future__ import annotations

import io
import json

from rich.console import Console

from camtrap_batch.monitor.display import JsonLines, Live, Plain, Silent


def test_plain_lines_say_rows_rate_and_statuses() -> None:
    file = io.StringIO()
    display = Plain(file)
    display.begin("validate", 1200, 200, {"ok": 200})
    display.advance(1000, {"ok": 990, "missing": 10})
    display.end()
    line = file.getvalue().splitlines()[-1]
    assert line.startswith("validate: 1,200/1,200 images · ")
    assert line.endswith(" images/s · ok 1,190 missing 10")


def test_one_long_shard_is_shown_as_a_share() -> None:
    """Its rows are no images that pass by: neither rows nor a rate of them are shown."""
    file = io.StringIO()
    display = Plain(file)
    display.begin("train", 1000, 0, {})
    display.reach(0.25, "epoch 3/12, loss 1.200, 80 images/s")
    display.end()
    line = file.getvalue().splitlines()[-1]
    assert line.startswith("train: 25% · ")
    assert line.endswith(" left · epoch 3/12, loss 1.200, 80 images/s")
    assert line.count("images/s") == 1


def test_live_line_shows_rows_on_a_terminal() -> None:
    file = io.StringIO()
    display = Live(Console(file=file, force_terminal=True, width=200))
    display.begin("infer", 40, 0, {})
    display.advance(40, {"ok": 40})
    display.end()
    assert "40/40 images" in file.getvalue()
    assert "ok 40" in file.getvalue()


def test_json_lines_are_json() -> None:
    file = io.StringIO()
    display = JsonLines(file, "cameras")
    display.begin("validate", 10, 0, {})
    display.advance(4, {"ok": 4})
    display.note('a "note"')
    display.end()
    events = [json.loads(line) for line in file.getvalue().splitlines()]
    assert {event["job"] for event in events} == {"cameras"}
    assert [event["event"] for event in events] == ["begin", "advance", "note", "end"]
    assert (events[1]["done"], events[1]["rows"], events[1]["counts"]) == (4, 10, {"ok": 4})


def test_what_takes_long_before_the_first_stage_is_shown_on_a_terminal_alone() -> None:
    file = io.StringIO()
    with Live(Console(file=file, force_terminal=True, width=200)).waiting("loading torch"):
        pass
    assert "loading torch" in file.getvalue()
    for display in (Plain(plain := io.StringIO()), JsonLines(lines := io.StringIO(), None), Silent()):
        with display.waiting("loading torch"):
            pass
    assert plain.getvalue() == lines.getvalue() == ""
