"""One suite over all readers: what each of them owes; and a reader that another package brings."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from PIL import Image

from camtrap_batch.catalog import READERS, Reader, read_dataset_cameras, reader_of
from camtrap_batch.catalog.cameras import CAMERAS
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError, JobError
from camtrap_batch.job import Job
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.store.run import open_run
from camtrap_batch.store.schemas import CATALOG
from camtrap_batch.yamlfile import reference

PHOTOS = ("CAM1/a.jpg", "CAM1/b.jpg", "CAM2/a.jpg")
FORMATS = ("cct", "csv", "camtrap-dp", "folder", "feature-layer")


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (40, 20 * number, 90)).save(file, "JPEG")
    return file.getvalue()


@dataclass
class Given:
    """A data set of three photos at two cameras: its section of the job file, and how to take one away."""

    dataset: dict[str, Any]
    source: Path | None
    """File or folder that can be removed."""

    def job(self, folder: Path, **more: Any) -> Job:
        content = {"name": "run", "output": str(folder), "dataset": self.dataset | more}
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(content))
        return Job.load(path)


def photos_in(folder: Path) -> Path:
    for number, name in enumerate(PHOTOS):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / name).write_bytes(jpeg(number))
    return folder / "photos"


def make_cct(folder: Path) -> Given:
    images = [{"id": name, "file_name": name, "location": name[:4]} for name in PHOTOS]
    content = {
        "images": images,
        "annotations": [{"image_id": name, "category_id": 3} for name in PHOTOS],
        "categories": [{"id": 3, "name": "lion"}],
    }
    (path := folder / "a.json").write_text(json.dumps(content))
    return Given({"metadata": str(path)}, path)


def make_csv(folder: Path) -> Given:
    (path := folder / "a.csv").write_text(
        "file_name,species\n" + "".join(f"{name},lion\n" for name in PHOTOS)
    )
    return Given({"metadata": str(path), "location": {"level": 0}}, path)


def make_folder(folder: Path) -> Given:
    return Given({"location": {"level": 0}}, folder / "photos")


def make_camtrap_dp(folder: Path) -> Given:
    (package := folder / "package").mkdir()
    tables = {
        "deployments": ["deploymentID,locationID,latitude,longitude,deploymentStart,deploymentEnd"]
        + [f"d{n},CAM{n},-24.{n},31.5,2020-01-0{n}T00:00:00Z,2020-02-01T00:00:00Z" for n in (1, 2)],
        "media": ["mediaID,deploymentID,timestamp,filePath,filePublic,fileMediatype"]
        + [f"m{n},d{name[3]},2020-01-05T00:00:0{n}Z,{name},true,image/jpeg" for n, name in enumerate(PHOTOS)],
        "observations": [
            "observationID,deploymentID,mediaID,observationLevel,observationType,eventStart,eventEnd,scientificName",
            "o1,d1,m0,media,animal,2020-01-05T00:00:00Z,2020-01-05T00:00:00Z,Panthera leo",
        ],
    }
    for name, lines in tables.items():
        (package / f"{name}.csv").write_text("\n".join(lines) + "\n")
    resources = [{"name": name, "path": f"{name}.csv"} for name in tables]
    (path := package / "datapackage.json").write_text(json.dumps({"resources": resources}))
    return Given({"metadata": str(path)}, path)


def make_layer(folder: Path) -> Given:
    server = _LAYER["server"]
    return Given({"metadata": _LAYER["url"], "layer": {"portal": server.url, "anonymous": True}}, None)


MAKE = {
    "cct": make_cct,
    "csv": make_csv,
    "camtrap-dp": make_camtrap_dp,
    "folder": make_folder,
    "feature-layer": make_layer,
}
_LAYER: dict[str, Any] = {}


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")
    from camtrap_batch.portal import Portal, Service, connect
    from camtrap_batch.rehearsal.layerserver import LayerServer
    from camtrap_batch.targets.arcgis.attach import Attacher, Photo

    with LayerServer(tmp_path_factory.mktemp("portal")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
        service = Service(connect(Portal(server.url)))
        fields = [
            {"name": name, "type": f"esriFieldType{kind}"}
            for name, kind in (("id", "OID"), ("g", "GlobalID"))
        ]
        layer = {
            "name": "cameras",
            "geometryType": "esriGeometryPoint",
            "hasAttachments": True,
            "fields": fields,
        }
        server.create_service("three", [layer], anonymous="read")
        url = server.layer_url(0, "three")
        adds = [{"geometry": {"x": 10.0 * n, "y": 5.0}, "attributes": {}} for n in (1, 2)]
        service.send(f"{url}/applyEdits", {"adds": adds})
        photos: dict[str, list[Photo]] = {"1": [], "2": []}
        for number, name in enumerate(PHOTOS):
            data = jpeg(number)
            photos[name[3]].append(Photo(name[5:], len(data), lambda data=data: data))  # type: ignore[misc]
        assert Attacher(service, url, one_feature=True).attach(photos).attached == 3
        patch.delenv("CAMTRAP_ARCGIS_TOKEN")
        _LAYER.update(server=server, url=url)
        yield
    _LAYER.clear()


@pytest.fixture(params=FORMATS)
def given(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    monkeypatch.setenv("HOME", str(tmp_path))
    if request.param == "feature-layer":
        request.getfixturevalue("layer")
    images = photos_in(tmp_path)
    given = MAKE[request.param](tmp_path)
    given.dataset["format"] = request.param
    if request.param != "feature-layer":
        given.dataset["images"] = str(images)
    return given


@pytest.fixture
def reader(given: Given, tmp_path: Path) -> Reader[Any]:
    return reader_of(given.job(tmp_path).dataset)


def test_every_reader_is_in_this_suite() -> None:
    assert set(READERS) == set(FORMATS) == set(MAKE)


def test_says_what_it_is(reader: Reader[Any]) -> None:
    name = reader.dataset.format
    assert get_args(reader.section.model_fields["format"].annotation) == (name,)
    assert isinstance(reader.dataset, reader.section)
    rows = {key: text for key, _, text in reference(Job)}
    assert f"{name}: {reader.help}" in rows["dataset.format"]
    for key, field in reader.section.model_fields.items():
        assert field.description or f"dataset.{key}" in rows, key


def test_gives_a_row_for_each_image(reader: Reader[Any]) -> None:
    catalog = reader.read()
    table = catalog.table
    assert table.schema == CATALOG
    assert table.num_rows == len(PHOTOS)
    assert len(set(table["image_id"].to_pylist())) == len(PHOTOS)
    assert table["image_id"].null_count == table["file_name"].null_count == 0
    assert len(set(table["location"].to_pylist())) == 2
    assert (table["image_id"].to_pylist() == table["file_name"].to_pylist()) or not reader.ids_are_paths
    assert reader.read().table.equals(table)
    names = dict(catalog.categories)
    for labels in table["labels"].to_pylist():
        assert reader.has_labels or not labels
        assert all(names[label["category_id"]] == label["name"] for label in labels)
    assert all(count > 0 for count in catalog.notes.values())


def test_its_images_are_found(given: Given, tmp_path: Path) -> None:
    job = given.job(tmp_path)
    root = image_root(job)
    root.check()
    names = reader_of(job.dataset).read().table["file_name"].to_pylist()
    assert (root.listing(names).sizes > 0).all()
    assert {root.read(name) for name in names} == {jpeg(number) for number in range(len(PHOTOS))}


def test_cameras_are_those_of_the_images(reader: Reader[Any]) -> None:
    cameras = reader.cameras()
    if cameras is not None:
        assert cameras.schema == CAMERAS
        assert set(cameras["location"].to_pylist()) == set(reader.read().table["location"].to_pylist())
        assert read_dataset_cameras(reader.dataset) == cameras


def test_fingerprint_and_settings_tell_whether_anything_changed(given: Given, tmp_path: Path) -> None:
    reader = reader_of(given.job(tmp_path).dataset)
    before = json.dumps([reader.fingerprint(), reader.settings()], sort_keys=True)
    assert json.dumps([reader.fingerprint(), reader.settings()], sort_keys=True) == before
    other = reader_of(given.job(tmp_path, utc_offset="+02:00").dataset)
    assert other.fingerprint() == reader.fingerprint()
    assert other.settings() != reader.settings()
    # Whatever is not set is not part of it, so that a new key changes no catalog that there is.
    assert set(reader.settings()) <= {"format", "location", "utc_offset", "layer"}
    if given.source is not None and given.source.is_file():
        given.source.write_bytes(given.source.read_bytes() + b" \n")
        assert reader.fingerprint() != json.loads(before)[0]
    elif given.source is not None:
        (given.source / "CAM2" / "c.jpg").write_bytes(jpeg(9))
        assert reader.fingerprint() != json.loads(before)[0]


def test_what_is_not_there_is_named(given: Given, tmp_path: Path) -> None:
    reader = reader_of(given.job(tmp_path).dataset)
    if given.source is None:
        wrong = {"metadata": f"{given.dataset['metadata'].rpartition('/')[0]}/99"}
        reader = reader_of(given.job(tmp_path, **wrong).dataset)
    elif given.source.is_dir():
        shutil.rmtree(given.source)
    else:
        given.source.unlink()
    for ask in (reader.fingerprint, reader.read):
        with pytest.raises(InputError) as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert str(given.source or "/99") in str(caught.value)


def test_the_saved_job_is_the_same(given: Given, tmp_path: Path) -> None:
    job = given.job(tmp_path)
    (tmp_path / "again.yaml").write_text(job.to_yaml())
    assert Job.load(tmp_path / "again.yaml") == job


def test_keys_of_its_section(given: Given, tmp_path: Path) -> None:
    format_ = given.dataset["format"]
    with pytest.raises(
        JobError, match=r"job\.yaml:\d+: dataset\.camera: unknown key; did you mean 'cameras'?"
    ):
        given.job(tmp_path, camera="x.csv")
    for key, value in (("location", {"level": 0}), ("layer", {"anonymous": True})):
        if key not in READERS[format_].section.model_fields:
            with pytest.raises(
                JobError, match=rf"dataset\.{key}: {key} is for `format: .*`; here it is {format_}"
            ):
                given.job(tmp_path, **{key: value})
            # As files have it that an earlier version wrote.
            assert given.job(tmp_path, **{key: None}) == given.job(tmp_path)


def test_the_catalog_of_a_job(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = given.job(tmp_path)
    assert main(["catalog", str(tmp_path / "job.yaml")]) == 0
    assert open_run(job).table("catalog").to_table().num_rows == len(PHOTOS)
    assert main(["catalog", str(tmp_path / "job.yaml")]) == 0
    assert "nothing to do" in "".join(capsys.readouterr())


# --- a reader of another package

_MODULE = """
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from camtrap_batch.catalog import Catalog, Reader
from camtrap_batch.catalog.drawn import Drawn
from camtrap_batch.catalog.found import Found
from camtrap_batch.catalog.table import Rows, make_catalog
from camtrap_batch.errors import InputError
from camtrap_batch.job import Dataset
from camtrap_batch.job.base import InputPath


class ListDataset(Dataset):
    needs = {"images": "where the images are"}
    refuses = {"metadata": "format list has its names in `list`: leave out the key `metadata`"}
    format: Literal["list"]
    list: InputPath = Field(description="list: file with one name per line")


class ListReader(Reader[ListDataset]):
    section = ListDataset
    help = "names of files, one per line"
    ids_are_paths = True
    has_labels = False

    @classmethod
    def recognise(cls, given):
        if not given.name.endswith("names.txt"):
            return None
        if not Path(given.url).stat().st_size:
            raise InputError(f"{given.url}: lists nothing")
        images = str(Path(given.url).with_name("photos"))
        return Found({"format": "list", "list": given.url, "images": images}, ["a list of names"])

    def fingerprint(self):
        return {"names": Path(self.dataset.list).read_text()}

    def read(self) -> Catalog:
        names = Path(self.dataset.list).read_text().split()
        rows = Rows(image_id=names, file_name=names, location=[name[:4] for name in names])
        return make_catalog(rows, None, source="list", where=self.dataset.list)

    has_boxes = True

    def boxes(self, key):
        names = Path(self.dataset.list).read_text().split()
        corners = np.array([[0.25, 0.5, 0.25, 0.25]])
        return Drawn(names[:1], corners, [("person",)], False, {}, frozenset(names[1:]), [None])


class EarlierDataset(Dataset):
    format: Literal["earlier"]


class EarlierReader:
    section = EarlierDataset
    help = "of a class of its own, which `camtrap init` did not ask yet"
"""


def test_a_reader_of_another_package(
    tmp_path: Path,
    beside: Callable[..., None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A package that lies beside ours, with an entry point, adds a format with keys of its own."""
    entries = "list = camtrap_list:ListReader\nbroken = camtrap_nowhere:Reader"
    beside("camtrap_list", _MODULE, "camtrap_batch.readers", entries)
    photos_in(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(PHOTOS))

    def do(stage: str, **dataset: Any) -> subprocess.CompletedProcess[str]:
        content = {"name": "run", "output": str(tmp_path), "dataset": {"images": "photos", **dataset}}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return camtrap(stage, tmp_path / "job.yaml")

    done = do("catalog", format="list", list="names.txt")
    assert done.returncode == 0, done.stderr
    job = tmp_path / "run" / "job.yaml"
    assert f"list: {tmp_path / 'names.txt'}" in job.read_text()
    table = [*(tmp_path / "run" / "tables" / "catalog").rglob("*.parquet")]
    assert len(table) == 1

    for stage in ("validate", "detect"):
        options = ("--cluster", "inline", "--set", "detect.results=catalog")
        done = camtrap(stage, tmp_path / "job.yaml", *options)
        assert done.returncode == 0, done.stderr
    (box,) = open_run(tmp_path / "job.yaml").table("detections").to_table().to_pylist()
    assert (box["image_id"], box["category"], box["x"]) == (PHOTOS[0], "person", 0.25)
    done = do("reprocess", format="list", list="names.txt")
    assert done.returncode == 2
    assert "dataset.format: a list has no labels to train on; set infer.model" in done.stderr
    done = do("catalog", format="list", lists="names.txt")
    assert done.returncode == 2
    assert "job.yaml:6: dataset.lists: unknown key; did you mean 'list'?" in done.stderr
    done = do("catalog", format="folder", list="names.txt")
    assert "dataset.list: list is for `format: list`; here it is folder" in done.stderr
    # One that is broken is in nobody's way but of those who ask for it.
    done = do("catalog", format="broken")
    assert done.returncode == 2
    assert "camtrap_batch.readers: 'broken' (camtrap_nowhere:Reader) can't be loaded" in done.stderr
    done = do("catalog", format="folder")
    assert done.returncode == 0, done.stderr
    done = do("catalog", format="lits")
    assert "dataset.format: 'lits' is not possible; did you mean 'list'?" in done.stderr


def test_init_finds_the_reader_of_another_package(
    tmp_path: Path,
    beside: Callable[..., None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`camtrap init` asks it before ours, which would take the file for a table."""
    names = {"list": "camtrap_list:ListReader", "broken": "camtrap_nowhere:Reader"}
    names["earlier"] = "camtrap_list:EarlierReader"
    entries = "\n".join(f"{name} = {where}" for name, where in names.items())
    beside("camtrap_list", _MODULE, "camtrap_batch.readers", entries)
    monkeypatch.chdir(tmp_path)
    photos_in(tmp_path)
    (tmp_path / "names.txt").write_text("")
    wrong = camtrap("init", "names.txt")
    assert wrong.returncode == 2
    assert "names.txt: lists nothing" in wrong.stderr
    (tmp_path / "names.txt").write_text("\n".join(PHOTOS))
    done = camtrap("init", "names.txt", "--out", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "a list of names" in done.stdout
    written = yaml.safe_load((tmp_path / "job.yaml").read_text())["dataset"]
    assert (written["format"], written["images"]) == ("list", "photos")
    again = camtrap("catalog", tmp_path / "job.yaml")
    assert again.returncode == 0, again.stderr
    (tmp_path / "photo.gif").touch()
    unknown = camtrap("init", "photo.gif")
    assert unknown.returncode == 2
    assert "neither images nor a list of them" in unknown.stderr
    assert "'broken' (camtrap_nowhere:Reader) can't be loaded" in unknown.stderr
