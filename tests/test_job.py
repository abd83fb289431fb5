"""Job files: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from camtrap_batch.errors import JobError
from camtrap_batch.job import Job
from camtrap_batch.yamlfile import read_yaml, reference, write_yaml

REPOSITORY = Path(__file__).resolve().parent.parent

GOOD = """\
name: x
output: runs
dataset:
  format: cct
  metadata: a.json
  images: images
select:
  classes: [7, lion]
  split: {by: location, valid: 0.25}
train:
  lr: find
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


def wrong(path: Path, *assignments: str) -> str:
    with pytest.raises(JobError) as caught:
        Job.load(path, list(assignments))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "job.yaml")


def test_paths_are_taken_from_the_job_file(job_file: Path) -> None:
    job = Job.load(job_file)
    assert job.dataset.metadata == str(job_file.parent / "a.json")
    assert job.dataset.images == str(job_file.parent / "images")
    assert job.run_url == str(job_file.parent / "runs" / "x")
    remote = Job.load(job_file, ["dataset.images=gs://bucket/folder", "output=s3://bucket/runs"])
    assert remote.dataset.images == "gs://bucket/folder"
    assert remote.run_url == "s3://bucket/runs/x"


def test_a_run_folder_where_an_earlier_version_put_it_is_found(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert Job.load(job_file).run_url == str(job_file.parent / "runs" / "x")
    (elsewhere / "runs" / "x" / "plans").mkdir(parents=True)
    job = Job.load(job_file)
    assert job.run_url == str(elsewhere / "runs" / "x")
    assert len(job.notes) == 1
    assert f"move it to {job_file.parent / 'runs'}" in job.notes[0]
    (job_file.parent / "runs" / "x" / "plans").mkdir(parents=True)
    job = Job.load(job_file)
    assert (job.run_url, job.notes) == (str(job_file.parent / "runs" / "x"), [])


def test_set_overrides_one_key(job_file: Path) -> None:
    job = Job.load(job_file, ["validate.thumbnails=0", "train.lr=0.01", "select.empty.class=blank"])
    assert (job.validate_.thumbnails, job.train.lr, job.select.empty.class_) == (0, 0.01, "blank")
    assert job.select.classes == [7, "lion"]


def test_the_saved_job_is_the_same_job(job_file: Path, tmp_path: Path) -> None:
    job = Job.load(job_file)
    again = tmp_path / "again.yaml"
    again.write_text(job.to_yaml())
    assert Job.load(again) == job


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (
            "  classes:",
            "  clases:",
            "job.yaml:8: select.clases: unknown key; did you mean 'classes'? possible: ",
        ),
        (
            "by: location",
            "by: camera",
            "job.yaml:9: select.split.by: 'camera' is not possible; possible: location, random",
        ),
        ("valid: 0.25", "valid: 2", "job.yaml:9: select.split.valid: 2: should be less than or equal to 1"),
        ("valid: 0.25", "valid: 1.0", "valid and test together leave nothing to train on"),
        (
            "format: cct",
            "format: cctt",
            "job.yaml:4: dataset.format: 'cctt' is not possible; did you mean 'cct'?",
        ),
        ("  metadata: a.json\n", "", "format cct needs the key `metadata`"),
        ("lr: find", "lr: fast", "job.yaml:11: train.lr: 'fast' is not possible; possible: a number, find"),
        ("lr: find", "lr: -1", "train.lr: -1.0: should be above 0"),
        ("lr: find", "epochs: five", "job.yaml:11: train.epochs: 'five': should be a valid integer"),
        ("lr: find", "lr: find\n  lr: 3", "job.yaml:12: train.lr: given twice, first on line 11"),
        ("name: x\n", "", "name: required, but missing"),
        ("name: x", "name: ../x", "name: '../x': should be up to 100 letters"),
        ("train:", "train: 3\nreport:", "job.yaml:10: train: should be a block of keys (arch, "),
        ("select:", "select: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_answered_with_line_key_and_choices(
    job_file: Path, line: str, replacement: str, message: str
) -> None:
    assert line in GOOD
    job_file.write_text(GOOD.replace(line, replacement))
    assert message in wrong(job_file)


def test_mistakes_in_set(job_file: Path) -> None:
    assert "--set train: should be KEY=VALUE" in wrong(job_file, "train")
    said = wrong(job_file, "validate.shardsize=1")
    assert said.startswith("--set validate.shardsize: unknown key; did you mean 'shard_size'?")
    assert wrong(job_file, "train={epoch: 1}").startswith("--set train.epoch: unknown key")
    job_file.write_text(GOOD.replace("lr: find", "lr: fast"))
    assert "job.yaml:11: train.lr: 'fast'" in wrong(job_file, "train.epochs=1")
    job_file.write_text(GOOD)
    assert "should look like" in wrong(job_file, "dataset.utc_offset='2'")
    assert "has no group" in wrong(job_file, "dataset.location={regex: abc}")
    assert "give either level or regex" in wrong(job_file, "dataset.location={level: 0, regex: (a)}")
    assert "'missing' can't be trained on; possible: damaged, ok, truncated" in wrong(
        job_file, "select.statuses=[missing]"
    )
    assert (
        "no kind of finding 'exact_duplicates'; did you mean 'exact_duplicate'? possible: clock_reset"
        in wrong(job_file, "select.drop=[exact_duplicates]")
    )
    assert "findings.near_bits" in wrong(job_file, "findings.near_bits=3")
    assert "ends in .gpkg" in wrong(job_file, "publish.target=x.shp")


def test_secrets_are_refused(job_file: Path) -> None:
    message = wrong(job_file, "dataset.storage_options={key: AKIA, secret: hunter2}")
    assert "hunter2" not in message
    assert "environment" in message
    nested = "dataset.storage_options={client_kwargs: {headers: {Authorization: hunter2}}}"
    assert "`Authorization` may hold a secret" in wrong(job_file, nested)
    assert Job.load(job_file, ["dataset.storage_options={token: anon}"]).dataset.storage_options == {
        "token": "anon"
    }


def test_a_signature_is_not_written_down(job_file: Path) -> None:
    job = Job.load(job_file, ["dataset.images=https://me:hush@host/x.zip?sig=hush"])
    assert job.dataset.images == "https://me:hush@host/x.zip?sig=hush"
    assert "hush" not in job.to_yaml()
    assert "images: https://host/x.zip\n" in job.to_yaml()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nowhere\.yaml: no such file"):
        Job.load(tmp_path / "nowhere.yaml")


def test_a_key_that_is_a_truth_value_to_old_yaml_is_a_key(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    dataset = f"dataset: {{format: folder, images: {tmp_path / 'photos'}}}"
    for value in ("frames", "auto"):
        job.write_text(f"name: a\noutput: runs\n{dataset}\ntrain:\n  on: {value}\n")
        assert Job.load(job).train.on == value
        assert Job.load(job, ["train.on=frames"]).train.on == "frames"
    job.write_text(f"name: a\noutput: runs\n{dataset}\ntrain: {{on: crop}}\n")
    with pytest.raises(JobError, match=r"job\.yaml:4: train\.on: .*crops"):
        Job.load(job)


@pytest.mark.parametrize("name", ["demo", "wcs_threatened"])
def test_jobs_of_the_repository_load(name: str) -> None:
    Job.load(REPOSITORY / "jobs" / f"{name}.yaml")


def test_the_wcs_job_explains_every_key() -> None:
    text = (REPOSITORY / "jobs" / "wcs_threatened.yaml").read_text()
    for key, _, _ in reference(Job):
        last = key.rpartition(".")[2]
        if key not in ("infer.detections", "select.split.seed"):
            assert f"{last}:" in text, key


def test_the_demo_in_the_package_is_the_job_of_the_repository() -> None:
    ours = yaml.safe_load((REPOSITORY / "jobs" / "demo.yaml").read_text())
    embedded = yaml.safe_load((REPOSITORY / "camtrap_batch" / "rehearsal" / "demo.yaml").read_text())
    for key in ("metadata", "images", "cameras"):
        assert ours["dataset"].pop(key) == f"../demo/{embedded['dataset'].pop(key)}"
    assert ours.pop("output") == f"../demo/{embedded.pop('output')}"
    detector = embedded["detect"].pop("model")
    assert ours["detect"].pop("model") == f"../camtrap_batch/rehearsal/{detector}"
    assert ours == embedded


def test_numbers_and_dates_are_what_they_look_like(job_file: Path) -> None:
    job_file.write_text(GOOD.replace("name: x", "name: 2024-02-30").replace("lr: find", "lr: 1e-3"))
    job = Job.load(job_file, ["dataset.utc_offset=+10:30", "select.classes=[010, 1_000]"])
    assert (job.name, job.train.lr, job.dataset.utc_offset) == ("2024-02-30", 0.001, "+10:30")
    assert job.select.classes == [10, 1000]
    job_file.write_text(job.to_yaml())
    assert Job.load(job_file) == job


@pytest.mark.parametrize("text", ["1e5", "010", "+10:30", "yes", "2024-01-01", "null", "1_0", ".5", "x: y"])
def test_text_stays_text_when_it_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(write_yaml({"a": text}))
    assert read_yaml(path, JobError)[0] == {"a": text}


def test_a_byte_order_mark_is_no_mistake(job_file: Path) -> None:
    job_file.write_bytes(b"\xef\xbb\xbf" + job_file.read_bytes())
    assert Job.load(job_file).name == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 3000, "nested without end"),
        ("a: &a [*a]\n", "nested without end"),
        ("a: 1__0\n", "not valid YAML"),
        ("1: 2\n", "unknown key"),
        ("~: 2\n", "unknown key"),
        ("a\0b: 2\n", "not valid YAML"),
        (
            "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9)),
            "aliases",
        ),
        ("name:\n", "job.yaml:1: name: empty: should be a valid string"),
        ("name: yes\n", "job.yaml:1: name: true: should be a valid string"),
        (f"name: {'9' * 999}\n", "99...: should be a valid string"),
    ],
)
def test_yaml_that_nobody_means(job_file: Path, text: str, message: str) -> None:
    job_file.write_text(text)
    assert message in wrong(job_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset:\n\tformat: folder\n", "job.yaml:2: not valid YAML: indented with a tab"),
        ('a: "C:\\Users\\me"\n', "job.yaml:1: not valid YAML: in double quotes a backslash"),
        ('a: "C:\\data"\n', "job.yaml:1: not valid YAML: in double quotes a backslash"),
        ("a: 1\nb: {c: 1\nd: 2\n", "job.yaml:2: not valid YAML: a { that is never closed"),
        ("a: [1 2: 3]\nb: [1\n", "job.yaml:2: not valid YAML: a [ that is never closed"),
        ('a: "x\nb: 2\n', "job.yaml:1: not valid YAML: a quote that is never closed"),
        ("a: @x\n", "job.yaml:1: not valid YAML: text that begins with @ has to be in quotes"),
        ("a:\n  b: 1\n c: 2\n", "job.yaml:3: not valid YAML: indented differently from the keys beside it"),
        ("a: 1\n  b: 2\n", "job.yaml:2: not valid YAML: indented deeper than the line before it"),
        ("a: b: 2\n", "job.yaml:1: not valid YAML: a second colon in the line"),
        ("a\nb: 2\n", "job.yaml:1: not valid YAML: a key without a colon after it"),
        ("", "job.yaml: should hold `key: value` lines, it is empty"),
    ],
)
def test_slips_in_yaml_are_told_in_plain_words(job_file: Path, text: str, message: str) -> None:
    job_file.write_text(text)
    told = wrong(job_file)
    assert message in told
    assert "\n" not in told


def test_a_windows_path_whose_backslashes_mean_something(job_file: Path) -> None:
    told = wrong(job_file, 'dataset.images="C:\\temp\\new"')
    assert "dataset.images: 'C:\\temp\\new': holds a special character" in told
    assert "single quotes" in told


def test_a_job_file_as_notepad_writes_it(job_file: Path) -> None:
    job_file.write_bytes(job_file.read_text().encode("utf-16"))
    assert Job.load(job_file).name == "x"


@pytest.mark.parametrize("place", ["output", "dataset.images", "dataset.metadata"])
@pytest.mark.parametrize("value", ["''", '" "', "'s3://'", '"a\\0b"'])
def test_a_place_is_a_path_or_a_url(job_file: Path, place: str, value: str) -> None:
    assert "should be a path or a URL" in wrong(job_file, f"{place}={value}")


def test_a_job_does_not_write_where_its_images_are(job_file: Path) -> None:
    images = job_file.parent / "images"
    images.mkdir()
    link = job_file.parent / "link"
    link.symlink_to(images)
    for output in (images, images / "deep" / "er", link):
        assert "inside dataset.images" in wrong(job_file, f"output={output}")
    assert "inside dataset.images" in wrong(job_file, f"output={job_file.parent}", "name=images")
    assert "inside dataset.images" in wrong(job_file, f"output={images}", f"dataset.images=file://{images}")
    assert "inside dataset.images" in wrong(job_file, f"publish.target={images}/a.gpkg")
    remote = ["dataset.images=s3://bucket/photos", "output=s3://bucket/photos/runs"]
    assert "inside dataset.images" in wrong(job_file, *remote)
    Job.load(job_file, [f"output={job_file.parent}", "name=images-2"])
    assert sorted(job_file.parent.iterdir()) == [images, job_file, link]


def test_files_of_the_event_rules_are_input_as_well(job_file: Path) -> None:
    files = {"taxonomy": "t.csv", "species": "s.csv", "regions": "https://example.org/r.csv?sig=secret"}
    job = Job.load(job_file, [f"events.{key}={place}" for key, place in files.items()])
    assert job.events.taxonomy == str(job_file.parent / "t.csv")
    assert job.input_at(str(job_file.parent / "s.csv")) == "events.species"
    assert "secret" not in job.to_yaml()
    groups = {"lion": {"genus": "panthera"}}
    inline = Job.load(job_file, [f"events.taxonomy={groups}"])
    assert inline.events.taxonomy == groups
    assert inline.input_at("lion") is None
    assert "events.taxonomy: {'lion': 'panthera'}: should be" in wrong(
        job_file, "events.taxonomy={lion: panthera}"
    )
    assert "`regions` requires `species`" in wrong(job_file, "events.regions=r.csv")


def test_a_zip_of_images_is_input_as_well(job_file: Path) -> None:
    job = Job.load(job_file, ["dataset.images=photos.zip"])
    zip_file = str(job_file.parent / "photos.zip")
    assert job.dataset.images == zip_file
    assert job.input_at(zip_file) == job.input_at(f"{zip_file}/x") == "dataset.images"
    inside = Job.load(job_file, ["dataset.images=zip://cam1::photos.zip"])
    assert inside.dataset.images == f"zip://cam1::{zip_file}"
    assert inside.input_at(zip_file) == "dataset.images"
    assert "inside dataset.images" in wrong(job_file, "dataset.images=photos.zip", f"output={zip_file}")
    far = Job.load(job_file, ["dataset.images=zip://cam1::s3://bucket/photos.zip"])
    assert far.dataset.images == "zip://cam1::s3://bucket/photos.zip"
    assert far.input_at("s3://bucket/photos.zip") == "dataset.images"


@pytest.mark.parametrize(
    "output", ["https://me:hush@example.org/runs", "ftp://example.org/runs", "nosuch://x"]
)
def test_output_is_a_folder_or_in_a_bucket(job_file: Path, output: str) -> None:
    message = wrong(job_file, f"output={output}")
    assert "should be a folder on disk, or in a bucket (s3://, gs:// or az://)" in message
    assert "hush" not in message


def test_output_is_a_file(job_file: Path) -> None:
    assert "output: job.yaml is a file" in wrong(job_file, f"output={job_file}")


def test_a_model_folder_is_relative_to_the_job_file(job_file: Path) -> None:
    assert Job.load(job_file, ["infer.model=models/a"]).infer.model == str(job_file.parent / "models" / "a")
    for name in ("latest", "0123456789abcdef"):
        assert Job.load(job_file, [f"infer.model={name}"]).infer.model == name


def test_append_jobs_are_for_a_portal_that_one_signs_in_to(job_file: Path) -> None:
    settings = ["publish.append=true"]
    assert "append is for `target: arcgis`" in wrong(job_file, *settings)
    settings += ["publish.target=arcgis", "publish.anonymous=true"]
    assert "leave out append, or anonymous" in wrong(job_file, *settings)


def test_the_target_is_in_the_run_folder_or_absolute(job_file: Path) -> None:
    for target in ("../a.gpkg", "deep/a.gpkg"):
        assert "should be a file name" in wrong(job_file, f"publish.target={target}")
    job = Job.load(job_file)
    assert job.target_url == f"{job.run_url}/locations.gpkg"
    assert Job.load(job_file, ["publish.target=/x/a.gpkg"]).target_url == "/x/a.gpkg"
