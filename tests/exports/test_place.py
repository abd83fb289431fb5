"""Where exports may be written, and what stays when they fail; the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support_exports import image, write_run

from camtrap_batch.cli import main
from camtrap_batch.errors import UserError
from camtrap_batch.exports import EXPORTS
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.outpath import replacing
from camtrap_batch.store.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path, [image("a"), image("b", 60), image("c", None)])


def camtrap(folder: Path, *options: str) -> int:
    return main(["export", str(folder / "job.yaml"), *options])


@pytest.mark.parametrize(
    ("to", "out", "problem"),
    [
        ("csv", "images/x.csv", "is, or is inside, dataset.images, which a job never changes"),
        ("csv", "images", "is, or is inside, dataset.images"),
        ("csv", "no/such/x.csv", "there is no folder .*/no/such"),
        ("csv", "x.json", r"should end in \.csv"),
        ("md-json", "x", r"should end in \.json"),
        ("md-json", "folder.json", "is a folder; it should be a file"),
        ("cct", "s3://bucket/x.json", "should be a path on this machine"),
        ("camtrap-dp", "mine", "is a folder that holds more than an earlier export"),
        ("camtrap-dp", "job.yaml", r"is a file; it should be a folder, or end in \.zip"),
        ("camtrap-dp", "images/dp", "is, or is inside, dataset.images"),
        ("camtrap-dp", "link", "is a symbolic link"),
    ],
)
def test_refused(run: Run, tmp_path: Path, to: str, out: str, problem: str) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"--out .*{out}: {problem}"):
        EXPORTS[to].check(out if "://" in out else str(tmp_path / out), run.job)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_earlier_package_is_replaced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "dp"
    out.mkdir()  # an empty folder may be written to
    for _ in range(2):
        assert camtrap(tmp_path, "--to", "camtrap-dp", "--out", str(out)) == 0
        assert len(list(out.iterdir())) == 4
    (out / "notes.txt").write_text("mine")
    assert camtrap(tmp_path, "--to", "camtrap-dp", "--out", str(out)) == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_a_package_of_others_stays(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "dp"
    assert camtrap(tmp_path, "--to", "camtrap-dp", "--out", str(out)) == 0
    descriptor = json.loads((out / "datapackage.json").read_text())
    descriptor["sources"] = [{"title": "Agouti"}]
    (out / "datapackage.json").write_text(json.dumps(descriptor))
    assert camtrap(tmp_path, "--to", "camtrap-dp", "--out", str(out)) == 2


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("table", "manifest"), "x.csv"),
        (("table", "survey"), "x.parquet"),
        (("export", "--to", "timelapse"), "x.csv"),
        (("export", "--to", "camtrap-dp"), "x.zip"),
    ],
)
def test_a_file_that_no_command_wrote_is_kept(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], name: str
) -> None:
    out = tmp_path / name
    out.write_bytes(b"years of work")
    verb, *rest = command
    words = [verb, str(tmp_path / "job.yaml"), *rest, "--out", str(out)]
    first, second = (tmp_path / f"{out.stem}.kept-{number}{out.suffix}" for number in (1, 2))
    for _ in range(2):
        assert main(words) == 0
    assert f"a copy is kept as {first.name}" in capsys.readouterr().err
    assert first.read_bytes() == b"years of work"
    assert not second.exists(), "what a command wrote needs no copy"
    with out.open("ab") as file:
        file.write(b"what a person found")
    assert main(words) == 0
    assert second.read_bytes().endswith(b"what a person found")
    assert out.read_bytes() == second.read_bytes().removesuffix(b"what a person found") or name == "x.zip"
    out.write_bytes(b"")
    assert main(words) == 0
    assert len(list(tmp_path.glob("*.kept-*"))) == 2, "nothing is lost with an empty file"


def test_what_lies_beside_an_export_is_kept_as_well(run: Run, tmp_path: Path) -> None:
    words = ["--to", "label-studio", "--out", str(tmp_path / "tasks.json")]
    for _ in range(2):
        assert camtrap(tmp_path, *words) == 0
    config = tmp_path / "tasks.json.config.xml"
    written = config.read_text()
    config.write_text(written + "<!-- with our own species -->")
    assert camtrap(tmp_path, *words) == 0
    assert config.read_text() == written
    assert (tmp_path / "tasks.json.config.kept-1.xml").read_text().endswith("<!-- with our own species -->")
    assert not (tmp_path / "tasks.kept-1.json").exists()


def test_a_run_folder_that_may_only_be_read(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Folder, path: str, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Folder, "write", refuse)
    out = tmp_path / "x.csv"
    assert main(["table", str(tmp_path / "job.yaml"), "manifest", "--out", str(out)]) == 0
    assert "will be copied before it is replaced" in capsys.readouterr().err
    assert out.stat().st_size


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "out"
    inside = path / "x" if is_folder else path

    def write(staged: Path, text: str) -> None:
        if is_folder:
            staged.mkdir()
        (staged / "x" if is_folder else staged).write_text(text)

    with replacing(path) as staged:
        write(staged, "old")

    def fail() -> None:
        with replacing(path) as staged:
            write(staged, "half")
            assert inside.read_text() == "old"
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert inside.read_text() == "old"
    with replacing(path) as staged:
        write(staged, "new")
    assert inside.read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208 - hidden ones, too


def test_the_command_says_what_became_of_every_image(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert camtrap(tmp_path, "--to", "camtrap-dp", "--out", str(tmp_path / "dp.zip")) == 0
    said = capsys.readouterr().out
    assert f"2 images written to {tmp_path / 'dp.zip'}" in said
    assert f"images left out: 1, each named in {tmp_path / 'dp.zip.left-out.csv'}" in said
    assert "  1 without a date" in said
    assert camtrap(tmp_path, "--to", "md-json", "--out", str(tmp_path / "md.json"), "--snapshot", "1") == 0
    assert "3 images written to" in capsys.readouterr().out


def test_the_command_names_what_is_wrong(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert camtrap(tmp_path, "--to", "camtrapdp", "--out", str(tmp_path / "x")) == 2
    assert "did you mean 'camtrap-dp'? possible: camtrap-dp, cct, csv, " in capsys.readouterr().err
    assert camtrap(tmp_path, "--to", "csv", "--out", str(tmp_path / "x.csv"), "--snapshot", "9") == 2
    assert "no snapshot 9 of locations; there are: 1" in capsys.readouterr().err
