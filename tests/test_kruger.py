"""jobs/kruger_cameras.yaml as docs/arcgis.md takes one through it, on the rehearsal server's layers.

Photos are attached, layers made, and the job run twice by the command: what it leaves on the layers, that it
leaves it once, and that what signs in is left nowhere.
"""

from __future__ import annotations

import base64
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import ExifTags, Image
from support import run_of

pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")

from camtrap_batch import Run, open_run
from camtrap_batch.cli import main
from camtrap_batch.job import Job
from camtrap_batch.rehearsal.layerserver import LayerServer, User
from camtrap_batch.rehearsal.layerserver.server import KRUGER_CAMERAS
from camtrap_batch.vocabulary import UNCERTAIN

pytestmark = pytest.mark.timeout(240)

JOB = Path(__file__).resolve().parent.parent / "jobs" / "kruger_cameras.yaml"
PASSWORD = "Hush/hush, ranger"
PHOTOS = (3, 1, 2, 4, 2)
LAYERS = ("cameras", "events", "photos")
ODD = ("leopard at night.JPG", "éléphant 🐘.jpg")


@dataclass
class Kruger:
    """The server, the job on it, and what its commands have printed."""

    server: LayerServer
    folder: Path
    settings: dict[str, str]
    printed: list[str] = field(default_factory=list)

    def camtrap(self, *words: str, **secrets: str) -> str:
        """Run a command on the job, signed in by `secrets`; what it prints to standard output."""
        with self._signed_in(secrets), redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
            code = main(self._line(*words))
        self.printed.append(out.getvalue())
        assert code == 0, out.getvalue()
        return out.getvalue()

    def reprocess(self, **secrets: str) -> None:
        """Run the whole job in a process of its own."""
        line = [sys.executable, "-m", "camtrap_batch", *self._line("reprocess", "--log-json")]
        with self._signed_in(secrets):
            done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180)
        self.printed += [done.stdout, done.stderr]
        assert done.returncode == 0, done.stderr

    def _line(self, *words: str) -> list[str]:
        assignments = [part for item in self.settings.items() for part in ("--set", "=".join(item))]
        number = 2 if words[0] == "layer" else 1
        return [*words[:number], str(JOB), *assignments, *words[number:]]

    @contextmanager
    def _signed_in(self, secrets: dict[str, str]) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(self.folder))
            for name in [name for name in os.environ if "ARCGIS" in name]:
                patch.delenv(name)
            for name, value in secrets.items():
                patch.setenv(f"CAMTRAP_ARCGIS_{name}", value)
            yield

    @property
    def run(self) -> Run:
        return open_run(Job.load(JOB, ["=".join(item) for item in self.settings.items()]))

    def rows(self, layer: str) -> list[dict[str, Any]]:
        url = self.settings[f"publish.{layer}"]
        return self.server.rows(int(url.rpartition("/")[2]), url.split("/")[-3])

    def held(self) -> dict[str, list[dict[str, Any]]]:
        return {layer: self.rows(layer) for layer in LAYERS}


@pytest.fixture(scope="module")
def kruger(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kruger]:
    """The job after its first run; the model is that of the undisturbed run."""
    folder = tmp_path_factory.mktemp("kruger")
    photos = iter(_photos_of(undisturbed))
    for camera, number in enumerate(PHOTOS, 1):
        (folder / "photos" / str(camera)).mkdir(parents=True)
        for place in range(number):
            name = ODD[place] if camera == 1 and place < len(ODD) else f"IMG_{place}.JPG"
            exif = Image.Exif()
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = (
                f"2021:06:0{camera} 0{place}:30:00"
            )
            with Image.open(next(photos)) as photo:
                photo.save(folder / "photos" / str(camera) / name, "JPEG", exif=exif)
    with LayerServer(folder / "server", users={"ranger": User(PASSWORD)}) as server:
        settings = {
            "output": str(folder / "runs"),
            "dataset.metadata": server.layer_url(0),
            "dataset.layer.portal": server.url,
            "publish.portal": server.url,
            "infer.min_confidence": "0",  # the model is no expert
            "infer.model": _model_of(undisturbed),
        }
        job = Kruger(server, folder, settings)
        password = {"USERNAME": "ranger", "PASSWORD": PASSWORD}
        job.camtrap("layer", "attach", "--folder", str(folder / "photos"), **password)
        made = job.camtrap("layer", "create", **password)
        block = yaml.safe_load(made[made.index("publish:") :])["publish"]
        settings |= {f"publish.{layer}": block[layer] for layer in LAYERS}
        job.reprocess(**password)
        yield job


def test_what_the_job_says_of_each_photo_is_on_the_layers(kruger: Kruger) -> None:
    run = kruger.run
    manifest = run.table("manifest").to_table(columns=["image_id", "location", "status"]).to_pylist()
    assert [row["status"] for row in manifest] == ["ok"] * sum(PHOTOS)
    places = {row["image_id"]: row["location"] for row in manifest}
    predictions = run.table("predictions").to_table().to_pylist()
    photos = {row["image_id"]: row for row in kruger.rows("photos")}
    assert len(photos) == len(kruger.rows("photos")) == sum(PHOTOS)
    for row in predictions:
        there = photos[row["image_id"]]
        assert (there["ClassLabel"], there["model_id"]) == (row["label"], row["model_id"])
        assert there["Confidence"] == pytest.approx(row["confidence"], abs=1e-6)
        assert there["location"] == places[row["image_id"]]
    cameras = {row["location"]: row for row in kruger.rows("cameras")}
    assert [cameras[str(number)]["n_images"] for number in range(1, 6)] == list(PHOTOS)
    for number, place in enumerate(KRUGER_CAMERAS, 1):  # in Web Mercator; ours is in WGS 84
        shape = cameras[str(number)]["SHAPE"]
        assert (shape["x"], shape["y"]) == pytest.approx(_degrees(*place), abs=1e-6)
    events = run.table("events").to_table(columns=["event_id", "location", "label"]).to_pylist()
    dates = [row["datetime"] for row in photos.values() if row["location"] == "2"]
    assert dates == [1_622_586_600_000]  # 00:30 on 2 June, two hours east of UTC
    assert sorted(
        (row["event_id"], row["location"], row["label"]) for row in kruger.rows("events")
    ) == sorted(tuple(row.values()) for row in events)
    best = {(row["location"], row["label"]) for row in events if row["label"] != UNCERTAIN}
    attached = kruger.server.attachments(0, kruger.settings["publish.cameras"].split("/")[-3])
    assert len(attached) == len(best) > 0
    ledger = run.table("ledger").to_table(columns=["result"])["result"].to_pylist()
    assert ledger == ["ok"] * (len(photos) + len(cameras) + len(events))


def test_a_second_run_sends_no_edit(kruger: Kruger) -> None:
    before = kruger.held()
    kruger.server.reset_requests()
    kruger.reprocess(TOKEN=kruger.server.token("ranger"))
    edits = {"applyEdits", "append", "addAttachment", "deleteAttachments", "attachment"}
    assert not edits & set(kruger.server.requests())
    assert kruger.held() == before


def test_what_signs_in_is_left_nowhere(kruger: Kruger) -> None:
    """Neither the password nor a token, in no file of the run, of its exports, and in no line printed."""
    token = kruger.server.token("ranger")
    kruger.camtrap("publish", API_KEY=token)
    kruger.camtrap("publish", CLIENT_ID="ranger", CLIENT_SECRET=PASSWORD)
    kruger.camtrap("status", TOKEN=token)
    kruger.camtrap("export", "--to", "csv", "--out", str(kruger.folder / "all.csv"), TOKEN=token)
    beginning = token[:12]  # of all of the server's tokens, those that it gave to a user or an app, too
    assert beginning == kruger.server.token("ranger", minutes=5)[:12]
    secrets = [PASSWORD, beginning]
    looked_for = [form for secret in secrets for form in _forms(secret)]
    texts = {"printed": "".join(kruger.printed).encode()}
    for path in kruger.folder.rglob("*"):
        if path.is_file() and "server" not in path.relative_to(kruger.folder).parts:
            texts[str(path)] = path.read_bytes()
            if path.suffix == ".parquet":
                texts[f"rows of {path}"] = repr(pq.read_table(path).to_pylist()).encode()
    names = {Path(name).name for name in texts}
    assert {"job.yaml", "log.jsonl", "index.html", "CURRENT", "printed"} <= names
    assert any("performance" in name for name in texts)
    assert [(name, form) for name, data in texts.items() for form in looked_for if form in data] == []
    assert not (kruger.folder / ".arcgisprofile").exists()


def _photos_of(folder: Path) -> list[Path]:
    """All that are sound, each content once."""
    columns = ["file_name", "format", "status", "sha256"]
    rows = run_of(folder).table("manifest").to_table(columns=columns).to_pylist()
    sound = {row["sha256"]: row for row in rows if (row["status"], row["format"]) == ("ok", "JPEG")}
    return [folder / "data" / "images" / row["file_name"] for row in sound.values()]


def _model_of(folder: Path) -> str:
    trained = run_of(folder).current("model")
    assert trained is not None
    return str(folder / "run" / "models" / trained.meta["model_id"])


def _forms(secret: str) -> set[bytes]:
    """As it is, in a URL, in base64, and in JSON."""
    plain = secret.encode()
    return {
        plain,
        quote(secret, safe="").encode(),
        base64.b64encode(plain),
        secret.replace("/", "\\/").encode(),
    }


def _degrees(x: float, y: float) -> tuple[float, float]:
    radius = 6_378_137
    return math.degrees(x / radius), math.degrees(2 * math.atan(math.exp(y / radius)) - math.pi / 2)
