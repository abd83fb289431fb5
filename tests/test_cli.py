"""The command: what it prints and what it ends with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from camtrap_batch.cli import COMMANDS, main
from camtrap_batch.job import Job
from camtrap_batch.model import ModelInfo
from camtrap_batch.pipeline import STAGES
from camtrap_batch.store.schemas import MADE_BY, SCHEMAS

CCT = json.dumps(
    {
        "images": [{"id": "a", "file_name": "a.jpg", "location": 1}],
        "annotations": [],
        "categories": [{"id": 0, "name": "empty"}, {"id": 7, "name": "panthera onca"}],
    }
)

JOB = """\
name: run
output: {output}
dataset: {{format: cct, metadata: cct.json, images: images}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").touch()  # an empty folder is one whose disk is not mounted
    (tmp_path / "cct.json").write_text(CCT)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(output=tmp_path / "runs"))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command is answered with."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_teaches_its_keys(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for block in STAGES[stage].sections:
        assert f"{block}." in text
    assert "--cluster" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cct.json", None), "cct.json: no such file"),
        (("cct.json", "{"), "cct.json: "),
        (("cct.json", '{"images": 3}'), "images"),
        (("images", None), "images"),
        (("job.yaml", "name: x\nnome: y"), "job.yaml:2: nome: unknown key; did you mean 'name'?"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    job: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str | None], message: str
) -> None:
    path = job.parent / change[0]
    if change[1] is not None:
        path.write_text(change[1])
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    before = sorted(job.parent.rglob("*"))
    for command in ("catalog", "reprocess"):
        assert message in refused(capsys, command, str(job))
    assert sorted(job.parent.rglob("*")) == before


def test_unknown_class_is_refused_before_anything_is_written(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "reprocess", str(job), "--set", "select.classes=[pantera onca]")
    assert "select.classes: the data set has no class 'pantera onca'; did you mean 'panthera onca'?" in line
    assert not (job.parent / "runs").exists()


def test_unknown_architecture_is_refused_before_anything_is_written(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "reprocess", str(job), "--set", "train.arch=resnet43")
    assert "resnet43" in line
    assert not (job.parent / "runs").exists()


def test_stage_without_its_input(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "validate", str(job))
    assert "the table catalog is not there yet; run `camtrap catalog JOB` first" in line


def test_each_table_names_the_stage_that_makes_it() -> None:
    made = {
        table.name: stage.name
        for stage in STAGES.values()
        for planned in (stage, *stage.parts)
        for table in planned.tables
    }
    del made["model"]
    assert made.items() <= MADE_BY.items()
    assert set(SCHEMAS) == {*MADE_BY, "corrections"}


@pytest.mark.parametrize("command", [["check"], ["check", "--repair"], ["gc"], ["gc", "--dry-run"]])
def test_upkeep_where_there_is_no_run_folder(
    job: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert "no run folder at " in refused(capsys, command[0], str(job), *command[1:])
    assert not (job.parent / "runs").exists()


def test_a_place_where_nothing_can_be_written(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before anything is read or made."""
    if not Path("/proc").is_dir():
        pytest.skip("no folder in which not even root can write")
    for command in (["table", str(job), "catalog"], ["export", str(job), "--to", "csv"], ["diff", str(job)]):
        line = refused(capsys, *command, "--out", "/proc/x.csv")
        assert "--out /proc/x.csv: nothing can be written in /proc: " in line


def test_nothing_there_for_status_and_table(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(job)]) == 0
    assert "waiting" in capsys.readouterr().out
    assert "catalog is not there yet" in refused(capsys, "table", str(job), "catalog", "--out", "x.csv")
    assert "did you mean 'catalog'? possible: " in refused(
        capsys, "table", str(job), "catalogue", "--out", "x.csv"
    )
    assert "can't write .xls" in refused(capsys, "table", str(job), "catalog", "--out", "x.xls")


def test_dry_run_writes_nothing(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", str(job), "--dry-run"]) == 0
    assert "1 row would be written" in capsys.readouterr().err
    assert not (job.parent / "runs").exists()


def test_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validat", "x"])
    assert ended.value.code == 2
    assert "validate" in capsys.readouterr().err


def test_import_of_the_package_is_light() -> None:
    """Neither torch nor geopandas nor arcgis, and no stage's own libraries."""
    heavy = ("torch", "fastai", "geopandas", "arcgis", "sklearn")
    code = (
        "import sys; from camtrap_batch.cli import make_parser; make_parser()\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--version"], ["help"], ["catlog"], ["--bogus"]], ids=" ".join)
def test_what_only_needs_the_names_of_commands_imports_none(words: list[str]) -> None:
    code = (
        "import atexit, sys; from camtrap_batch.cli import main\n"
        "atexit.register(lambda: print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'numpy', 'pydantic', 'rich', 'yaml'})))\n"
        f"main({words})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"]


def test_commands_are_declared_as_their_stages_are() -> None:
    declared = {name: command.help for name, command in COMMANDS["run a job"].items()}
    whole = declared.pop("reprocess")
    assert whole
    assert list(declared.items()) == [(name, stage.help) for name, stage in STAGES.items()]


def test_a_stage_of_another_package_is_a_command(
    beside: Callable[[str, str, str, str], None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    text = "class Stage:\n    name = 'tally'\n    help = 'count the rows'\n    sections = options = ()\n"
    lines = "tally = others_stage:Stage\nbroken = others_stage:Nothing"
    beside("others_stage", text, "camtrap_batch.stages", lines)
    listed = camtrap("help")
    assert listed.returncode == 0
    assert re.search(r"^  tally +count the rows$", listed.stdout, re.MULTILINE)
    assert re.search(r"^  broken +camtrap_batch.stages: 'broken'", listed.stdout, re.MULTILINE)
    assert "did you mean 'tally'? possible: broken, " in camtrap("taly").stderr
    assert "tally: count the rows." in camtrap("tally", "--help").stdout
    broken = camtrap("broken", "job.yaml")
    assert broken.returncode == 2
    assert broken.stderr.startswith("camtrap: camtrap_batch.stages: 'broken' (others_stage:Nothing) can't be")


def test_a_job_file_in_the_run_folder_stays_as_it_is(job: Path) -> None:
    (job.parent / "run").mkdir()
    mine = job.parent / "run" / "job.yaml"
    text = f"# mine\n{job.read_text()}".replace("cct.json", "../cct.json").replace("images}", "../images}")
    mine.write_text(text)
    assert main(["catalog", str(mine), "--set", f"output={job.parent}", "--quiet"]) == 0
    assert mine.read_text() == text
    assert main(["catalog", str(job), "--quiet"]) == 0
    kept = job.parent / "runs" / "run" / "job.yaml"
    assert kept.read_text().startswith("# The job as it ran")
    assert Job.load(kept) == Job.load(job)


def test_a_table_is_not_written_over_an_input(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras = job.parent / "cameras.csv"
    cameras.write_text("location,lat,lon\n1,0,0\n")
    assert main(["catalog", str(job), "--quiet"]) == 0
    capsys.readouterr()
    table = ("table", str(job), "catalog", "--set", f"dataset.cameras={cameras}", "--out")
    assert "dataset.cameras, which a job never changes" in refused(capsys, *table, str(cameras))
    assert "dataset.images" in refused(capsys, *table, str(job.parent / "images" / "a.csv"))
    (job.parent / "folder.csv").mkdir()
    assert "is a folder" in refused(capsys, *table, str(job.parent / "folder.csv"))
    assert cameras.read_text() == "location,lat,lon\n1,0,0\n"


def test_pictures_in_a_table_are_said_to_show_people(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 48)).save(job.parent / "images" / "a.jpg")
    for stage in ("catalog", "validate"):
        assert main([stage, str(job), "--cluster", "inline", "--quiet"]) == 0
    out = str(job.parent / "pictures.parquet")
    assert main(["table", str(job), "thumbnails", "--out", out]) == 0
    assert "people are not blurred" in capsys.readouterr().out
    assert main(["table", str(job), "thumbnails", "--out", out, "--set", "report.people=show"]) == 0
    assert "blurred" not in capsys.readouterr().out


def test_cameras_of_another_data_set_are_refused(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras = job.parent / "cameras.csv"
    cameras.write_text("location,lat,lon\nA7,0,0\n")
    key = ("--set", f"dataset.cameras={cameras}")
    assert "have '1', it has 'A7'" in refused(capsys, "catalog", str(job), *key)
    assert not (job.parent / "runs").exists()
    assert main(["catalog", str(job), "--quiet"]) == 0
    assert "have '1', it has 'A7'" in refused(capsys, "catalog", str(job), *key)


def test_an_image_folder_without_any_of_the_images_is_refused(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["catalog", str(job), "--quiet"]) == 0
    line = refused(capsys, "validate", str(job))
    assert "none of the 1 catalogued files is in this folder (dataset.images): no 'a.jpg'" in line


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("infer.model=nowhere", "infer.model: no model"),
        ("train.weights=nowhere.pth", "nowhere.pth: no such file"),
        ("publish.target={folder}/nowhere/a.gpkg", "there is no folder"),
        ("publish.target={folder}/mine.gpkg", "is not a GeoPackage file"),
    ],
)
def test_what_a_late_stage_would_refuse_is_refused_first(
    job: Path, capsys: pytest.CaptureFixture[str], key: str, message: str
) -> None:
    (job.parent / "mine.gpkg").write_text("mine")
    assert message in refused(capsys, "reprocess", str(job), "--set", key.format(folder=job.parent))
    assert not (job.parent / "runs").exists()
    assert (job.parent / "mine.gpkg").read_text() == "mine"


def test_one_class_is_refused_before_the_images_are_read(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "reprocess", str(job), "--quiet", "--set", "select.classes=[0]")
    assert "select.classes: empty: training needs at least 2" in said
    assert "infer.model to a model folder or id, or to none" in said
    assert not (job.parent / "runs" / "run" / "plans" / "validate").exists()


@pytest.mark.parametrize(
    "options", [("gc", "JOB", "--keep", "-1"), ("table", "JOB", "x", "--snapshot", "-1")]
)
def test_a_number_of_snapshots_is_not_negative(
    job: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(job) if option == "JOB" else option for option in options])
    assert ended.value.code == 2
    assert "'-1' should be a whole number" in capsys.readouterr().err


def test_every_line_of_log_json_is_json(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job.parent / "cct.json").unlink()
    line = json.loads(refused(capsys, "catalog", str(job), "--log-json"))
    assert line["event"] == "error"
    assert "no such file" in line["text"]


def test_log_json_names_the_job_and_has_no_traceback(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["catalog", str(job), "--log-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines
    assert {line["job"] for line in lines} == {"run"}

    def fault(*_: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("something old", stacklevel=1)
        thread = threading.Thread(target=lambda: 1 / 0, name="beside")
        thread.start()
        thread.join()
        raise LookupError("a fault of ours")

    monkeypatch.setattr("camtrap_batch.cli.stages.run_one", fault)
    assert main(["catalog", str(job), "--log-json"]) == 1
    said = capsys.readouterr().err.splitlines()
    texts = [json.loads(line)["text"] for line in said if json.loads(line)["event"] == "error"]
    assert texts[0] == "ZeroDivisionError: division by zero in the thread beside"
    assert texts[1].startswith("LookupError: a fault of ours (")
    assert {json.loads(line)["job"] for line in said} == {"run"}

    monkeypatch.setattr("sys.argv", ["camtrap", "catalog", "--log-json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().err)["event"] == "error"


def test_the_end_of_a_job_is_told(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (job.parent / "cct.json").unlink()
        url = f"http://127.0.0.1:{server.server_port}/hooks/secret"
        assert main(["reprocess", str(job), "--quiet", "--cluster", "inline", "--set", f"notify={url}"]) == 2
        assert main(["reprocess", str(job), "--dry-run", "--set", f"notify={url}"]) in (0, 2)
        server.shutdown()
    (record,) = told
    assert (record["job"], record["command"], record["exit_code"]) == ("run", "reprocess", 2)
    assert record["stages"] == []
    assert "cct.json: no such file" in record["problem"]
    capsys.readouterr()
    # Nobody listens any more: a line, without what is secret in the address, and the same exit code.
    assert main(["reprocess", str(job), "--cluster", "inline", "--set", f"notify={url}"]) == 2
    said = capsys.readouterr().err
    assert "notify: 127.0.0.1: could not be notified of the job's end: " in said
    assert "secret" not in said
    assert "notify: 'ftp://x': should be a URL that begins with" in refused(
        capsys, "reprocess", str(job), "--set", "notify=ftp://x"
    )


def test_a_program_is_told_of_the_end_of_each_command(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the end: also one that comes before the stage begins."""
    program, told = job.parent / "tell.sh", job.parent / "told.jsonl"
    program.write_text(f"#!/bin/sh\ncat >> '{told}'; echo >> '{told}'; echo of no interest\n")
    program.chmod(0o755)
    whom = ("--set", "notify.command=[./tell.sh]")
    assert main(["catalog", str(job), "--cluster", "inline", *whom]) == 0
    assert main(["merge", str(job), "--cluster", "none.yaml", "--quiet", *whom]) == 2
    assert main(["merge", str(job), "--cluster", "inline", "--dry-run", *whom]) == 2
    first, second = (json.loads(line) for line in told.read_text().splitlines())
    assert (first["command"], first["exit_code"], first["problem"]) == ("catalog", 0, None)
    assert [stage["stage"] for stage in first["stages"]] == ["catalog"]
    assert (second["command"], second["exit_code"]) == ("merge", 2)
    assert second["problem"] == "none.yaml: no such file"
    assert "of no interest" not in "".join(capsys.readouterr())

    for command, why in (
        (f"[{program.parent}/none]", "No such file or directory"),
        ("[sh, -c, 'echo first; echo the disk is full >&2; exit 7']", "it ended with 7: the disk is full"),
    ):
        assert main(["catalog", str(job), "--cluster", "inline", "--set", f"notify.command={command}"]) == 0
        assert f"could not be notified of the job's end: {why}\n" in capsys.readouterr().err
    for notify in ("{}", "[sh]", "{command: []}", "{comand: [sh]}"):
        said = refused(capsys, "catalog", str(job), "--set", f"notify={notify}")
        assert "notify" in said
        assert "Traceback" not in said


def test_a_file_system_that_fails_is_one_line(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job.parent / "runs").mkdir()
    (job.parent / "runs" / "run").symlink_to("run")
    assert main(["catalog", str(job)]) in (1, 2)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_ctrl_c_while_the_command_is_only_starting(tmp_path: Path) -> None:
    code = (
        "import signal, sys, types; from camtrap_batch import __main__ as command\n"
        "class Slow(types.ModuleType):\n"
        "    def __getattr__(self, name): signal.raise_signal(signal.SIGINT); return None\n"
        "sys.modules['camtrap_batch.cli'] = Slow('cli'); sys.exit(command.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_whole_is_not_taken_into_the_run(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = job.parent / "model"
    model.mkdir()
    info = ModelInfo("0" * 16, "resnet18", ("a",), ((1,),), 32, (0.5,) * 3, (0.5,) * 3, 1.0)
    (model / "model.json").write_text(info.to_json())
    command = ("reprocess", str(job), "--set", "infer.model=model")
    assert "model.safetensors: no such file" in refused(capsys, *command)
    (model / "model.safetensors").write_bytes(b"other weights")
    assert "was changed since the model was saved" in refused(capsys, *command)
    assert not (job.parent / "runs").exists()


def test_what_needs_no_cluster_imports_none() -> None:
    code = (
        "import sys; from camtrap_batch.cli import make_parser; make_parser()\n"
        "print('distributed' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_help_is_grouped_and_no_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = []
    for arguments in ((), ("help",)):
        assert main(arguments) == 0
        texts.append(capsys.readouterr().out)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert texts == [capsys.readouterr().out] * 2
    lines = texts[0].splitlines()
    assert lines.index("begin:") < lines.index("run a job:") < lines.index("see what came of it:")
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if re.match(r"  \w", line)]
    assert sorted(listed) == sorted(set(listed))
    assert {"init", "demo", "status", "submit", *STAGES} <= set(listed)
    with pytest.raises(SystemExit) as ended:
        main(["help", "catalog"])
    assert ended.value.code == 0
    assert "usage: camtrap catalog" in capsys.readouterr().out


def test_words_that_were_meant_otherwise(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told_of(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        return capsys.readouterr().err.strip()

    assert "no command 'catlog'; did you mean 'catalog'? possible: catalog, " in told_of("catlog")
    told = told_of("catalog", str(job), "--set", "train.epochs", "3")
    assert told == "camtrap: --set train.epochs: should be KEY=VALUE: --set train.epochs=3"
    told = told_of("catalog", str(job), "--set", "train.epochs")
    assert "should be KEY=VALUE: --set train.epochs=VALUE" in told


def test_a_first_dry_run_says_what_each_stage_will_do(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ("--set", "train.weights=none")
    assert main(["reprocess", str(job), "--dry-run", *weights]) == 0
    told = "".join(capsys.readouterr())
    assert "nothing to do" not in told
    for name, stage in STAGES.items():
        if name not in ("catalog", "detect"):  # it has no use for a detector
            assert f"{name:9} {stage.help}" in told
    assert "1 row would be written" in told
    assert "how much there is to do can't be said before catalog has run" in told
    assert "`camtrap reprocess JOB`" not in told, "which is what was typed"


def test_a_driver_loads_no_torch_to_say_what_it_would_do(job: Path) -> None:
    code = (
        "import sys; from camtrap_batch.cli import main\n"
        f"main(['reprocess', {str(job)!r}, '--dry-run', '--quiet']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_demo_without_its_extra_says_so_before_it_draws(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class NoTorch(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'fastai'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in ('torch', 'fastai') else find(name, *rest)\n"
        "from camtrap_batch.cli import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-c", script, "demo", str(tmp_path / "demo"), "--cluster", "inline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the demo needs the extra 'demo': pip install 'camtrap-batch[demo]'" in done.stderr
    assert not [*(tmp_path / "demo").rglob("*.jpg")]


def test_a_stage_without_keys_of_its_own_has_a_help() -> None:
    from camtrap_batch.cli.options import describe_keys

    assert describe_keys(("tally",)) == ""
    assert "  merge: " not in describe_keys(("events",))
    assert "events.gap_min: 30" in describe_keys(("events",))
