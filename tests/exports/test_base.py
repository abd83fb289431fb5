"""One suite over all exports: what each of them owes; and an export that another package brings."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support_exports import FORMATS, export, image, images_of, write_run

from camtrap_batch.cli import main
from camtrap_batch.errors import Interrupted, UserError
from camtrap_batch.exports import EXPORTS, Images
from camtrap_batch.store.run import Run


def path_of(to: str, folder: Path) -> Path:
    """A name that `--out` may be, by what the export says of it."""
    _, _, ending = EXPORTS[to].out.partition("a file that ends in ")
    return folder / f"out{ending}"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def content_of(folder: Path) -> dict[str, bytes]:
    """Files, and what is in a .zip, without what says when it was written."""
    found = files_in(folder)
    for name in [name for name in found if name.endswith(".zip")]:
        with zipfile.ZipFile(io.BytesIO(found.pop(name))) as archive:
            found |= {f"{name}/{member}": archive.read(member) for member in archive.namelist()}
    return {name: data for name, data in found.items() if "datapackage" not in name}


@pytest.fixture(params=FORMATS)
def to(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_says_what_it_is(to: str) -> None:
    found = EXPORTS[to]
    assert found.name == to
    assert found.help
    assert found.out
    assert len({option.name for option in found.options}) == len(found.options)
    for option in found.options:
        assert option.help
        assert option.name == option.name.lower().replace("_", "-")


def test_every_image_is_there_or_counted(to: str, images: Images, run: Run, tmp_path: Path) -> None:
    found = export(images, to, path_of(to, tmp_path))
    assert found.path == path_of(to, tmp_path)
    assert found.path.exists()
    assert found.images + found.left_out.total() == run.snapshot("catalog").rows == len(images)
    assert bool(found.left_out) <= (found.listed is not None)
    assert found.listed is None or found.listed.exists()
    assert all(entry.name.startswith(found.path.name) for entry in tmp_path.iterdir())


def test_blocks_do_not_show(to: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (3, 16_384):
        monkeypatch.setattr("camtrap_batch.exports.images.BLOCK", size)
        (folder := tmp_path / str(size)).mkdir()
        export(images_of(run), to, path_of(to, folder))
        found.append(content_of(folder))
    assert found[0]
    assert found[0] == found[1]


def test_where_it_may_be_written(to: str, run: Run, tmp_path: Path) -> None:
    check, job = EXPORTS[to].check, run.job
    name = path_of(to, tmp_path).name
    assert check(str(tmp_path / name), job) == tmp_path / name
    inside = Path(str(job.dataset.images)) / name
    with pytest.raises(UserError, match=r"is, or is inside, dataset\.images, which a job never changes"):
        check(str(inside), job)
    with pytest.raises(UserError, match="should be a path on this machine"):
        check(f"s3://bucket/{name}", job)
    with pytest.raises(UserError, match="there is no folder"):
        check(str(tmp_path / "nowhere" / name), job)


def test_interrupted(to: str, run: Run, tmp_path: Path) -> None:
    """What an earlier export wrote stays, and nothing else is left."""
    path = path_of(to, tmp_path)
    export(images_of(run), to, path)
    before = files_in(tmp_path)
    stop = threading.Event()
    images = images_of(run, stop=stop)
    stop.set()
    with pytest.raises(Interrupted):
        export(images, to, path)
    assert files_in(tmp_path) == before


def test_an_earlier_one_is_replaced(to: str, run: Run, tmp_path: Path) -> None:
    path = path_of(to, tmp_path)
    export(images_of(run), to, path)
    names = set(files_in(tmp_path))
    assert EXPORTS[to].check(str(path), run.job) == path
    export(images_of(run), to, path)
    assert set(files_in(tmp_path)) == names


# --- the command


def test_help_names_every_export(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name, found in EXPORTS.items():
        assert name in said
        assert found.help in said


def test_does_not_load_dask(run: Run, tmp_path: Path) -> None:
    """Nobody who wants a file needs to wait for what a cluster needs."""
    script = (
        "import sys; from camtrap_batch.cli import main\n"
        "for number in range(2, len(sys.argv), 2):\n"
        "    to, out = sys.argv[number : number + 2]\n"
        "    assert main(['export', sys.argv[1], '--to', to, '--out', out]) == 0, to\n"
        "    loaded = {'dask', 'distributed', 'torch'} & set(sys.modules)\n"
        "    assert not loaded, (to, loaded)\n"
    )
    (folder := tmp_path / "job").mkdir()
    write_run(folder, [image("a")])
    each = [word for to in FORMATS for word in (to, str(path_of(to, tmp_path)))]
    command = [sys.executable, "-c", script, str(folder / "job.yaml"), *each]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(path_of(to, tmp_path).exists() for to in FORMATS)


_MODULE = """
from camtrap_batch.exports import Option, Written
from camtrap_batch.store.outpath import check_file


class Names:
    name = "names"
    help = "names of files, one per line"
    out = "a file that ends in .txt"
    options = (
        Option("before", "text before each name", "- "),
        Option("upper", "in capitals", False, metavar=None),
    )

    def check(self, out, job):
        return check_file(out, job, (".txt",))

    def write(self, images, out, options):
        written = Written(out.path)
        with out.path.open("w") as file:
            for block in images.blocks(["file_name"]):
                for name in block.rows["file_name"].to_pylist():
                    file.write(options["before"] + (name.upper() if options["upper"] else name) + "\\n")
                    written.images += 1
        return written


EXPORT = Names()
"""


def test_an_export_of_another_package(
    tmp_path: Path,
    beside: Callable[..., None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A package that lies beside ours, with an entry point, adds an export with its options."""
    entries = "names = camtrap_names:EXPORT\nbroken = camtrap_nowhere:EXPORT"
    beside("camtrap_names", _MODULE, "camtrap_batch.exports", entries)
    (folder := tmp_path / "job").mkdir()
    write_run(folder, [image("a"), image("b", 60)])
    export_to = functools.partial(camtrap, "export", folder / "job.yaml")

    out = tmp_path / "names.txt"
    done = export_to("--to", "names", "--out", str(out), "--before", "> ", "--upper")
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "> A.JPG\n> B.JPG\n"
    assert "2 images written to" in done.stdout
    assert export_to("--to", "names", "--out", str(out)).returncode == 0
    assert out.read_text() == "- a.jpg\n- b.jpg\n"
    told = export_to("--to", "names", "--help").stdout
    assert "--before TEXT" in told
    assert "text before each name (default: - )" in told
    assert "'broken' (camtrap_nowhere:EXPORT) can't be loaded" in " ".join(told.split())
    done = export_to("--to", "broken", "--out", str(out))
    assert done.returncode == 2
    assert (
        "'broken' (camtrap_nowhere:EXPORT) can't be loaded: No module named 'camtrap_nowhere'" in done.stderr
    )
    done = export_to("--to", "csv", "--out", str(tmp_path / "a.csv"), "--upper")
    assert done.returncode == 2
    assert "unrecognized arguments: --upper" in done.stderr
