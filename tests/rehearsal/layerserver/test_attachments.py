"""Attachments by the real client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_layerserver import CAMERAS, camera

from camtrap_batch.rehearsal.layerserver import LayerServer

# The client leaves the file of an update open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Photo = Callable[..., str]


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    def make(name: str = "a.jpg", size: int = 100, letter: bytes = b"a") -> str:
        file = tmp_path / name
        file.write_bytes(b"\xff\xd8" + letter * (size - 4) + b"\r\n")
        return str(file)

    return make


@pytest.fixture
def two(cameras: Any) -> list[int]:
    """Object ids of two cameras."""
    return [
        result["objectId"] for result in cameras.edit_features(adds=[camera("a"), camera("b")])["addResults"]
    ]


def test_add_list_download_update_delete(
    server: LayerServer, service: str, cameras: Any, two: list[int], photo: Photo, tmp_path: Path
) -> None:
    oid, _ = two
    added = cameras.attachments.add(oid, photo("löwe.jpg"), keywords="lion")["addAttachmentResult"]
    (info,) = cameras.attachments.get_list(oid)
    assert info == {
        "id": added["objectId"],
        "globalId": added["globalId"],
        "name": "löwe.jpg",
        "contentType": "image/jpeg",
        "size": 100,
        "keywords": "lion",
    }
    (file,) = cameras.attachments.download(oid, info["id"], save_path=str(tmp_path / "out"))
    assert Path(file).read_bytes() == Path(photo("löwe.jpg")).read_bytes()
    cameras.attachments.update(oid, info["id"], photo("b.jpg", 50, b"b"))
    (kept,) = server.attachments(0, service)
    assert (kept["name"], kept["size"], kept["content"]) == ("b.jpg", 50, b"\xff\xd8" + b"b" * 46 + b"\r\n")
    cameras.attachments.delete(oid, info["id"])
    assert server.attachments(0, service) == []


def test_search(cameras: Any, two: list[int], photo: Photo) -> None:
    first, second = two
    for oid, name, size, keywords in (
        (first, "a.jpg", 10, "lion"),
        (first, "b.png", 20, "lion"),
        (second, "c.jpg", 30, ""),
    ):
        cameras.attachments.add(oid, photo(name, size), keywords=keywords)

    def names(**options: Any) -> list[tuple[int, str]]:
        return [(row["PARENTOBJECTID"], row["NAME"]) for row in cameras.attachments.search(**options)]

    assert names() == [(first, "a.jpg"), (first, "b.png"), (second, "c.jpg")]
    assert names(object_ids=[second]) == [(second, "c.jpg")]
    assert names(where="key = 'a'") == [(first, "a.jpg"), (first, "b.png")]
    assert names(attachment_types=["image/jpeg"]) == [(first, "a.jpg"), (second, "c.jpg")]
    assert names(keywords=["lion"]) == [(first, "a.jpg"), (first, "b.png")]
    assert names(size=(15, 25)) == [(first, "b.png")]
    assert names(attachment_where="size > 15 AND name LIKE '%.jpg'") == [(second, "c.jpg")]
    assert names(max_records=1, offset=1) == [(first, "b.png")]


def test_pages_say_that_there_is_more(server: LayerServer, gis: Any, open_layer: Any, photo: Photo) -> None:
    server.create_service("album", [CAMERAS], max_records=3)
    layer = open_layer("album")
    oids = [r["objectId"] for r in layer.edit_features(adds=[camera("a"), camera("b")])["addResults"]]
    for oid in oids * 2:
        layer.attachments.add(oid, photo())

    def page(**parameters: Any) -> tuple[list[int], bool]:
        url = f"{server.layer_url(0, 'album')}/queryAttachments"
        answer = gis.session.post(url, data={"f": "json", "definitionExpression": "1=1", **parameters}).json()
        groups = [
            group["parentObjectId"] for group in answer["attachmentGroups"] for _ in group["attachmentInfos"]
        ]
        return groups, answer.get("exceededTransferLimit", False)

    first, second = oids
    assert page() == ([first, first, second], True)
    assert page(resultOffset=3) == ([second], False)
    assert page(resultRecordCount=2, resultOffset=2) == ([second, second], False)
    assert len(layer.attachments.search()) == 3  # the client asks for one page alone
    url = f"{server.layer_url(0, 'album')}/queryAttachments"
    counted = gis.session.post(url, data={"f": "json", "returnCountOnly": "true"}).json()["attachmentGroups"]
    assert [group["count"] for group in counted] == [2, 2]


def test_a_large_file_goes_in_parts(
    server: LayerServer, service: str, cameras: Any, two: list[int], photo: Photo
) -> None:
    server.reset_requests()
    cameras.attachments.add(two[0], photo("big.jpg", 10_500_000))
    (kept,) = server.attachments(0, service)
    assert kept["content"] == Path(photo("big.jpg", 10_500_000)).read_bytes()
    assert (kept["name"], kept["content_type"]) == ("big.jpg", "image/jpeg")
    asked = server.requests()
    assert (asked["uploads.register"], asked["uploads.uploadPart"], asked["uploads.commit"]) == (1, 11, 1)
    assert (asked["addAttachment"], asked["uploads.delete"]) == (1, 1)


def test_an_upload_that_is_not_complete_is_refused(
    server: LayerServer, service: str, gis: Any, two: list[int]
) -> None:
    uploads = f"{server.service_url(service)}/uploads"
    item = gis.session.post(f"{uploads}/register", data={"f": "json", "itemName": "x.jpg"}).json()["item"][
        "itemID"
    ]
    gis.session.post(f"{uploads}/{item}/uploadPart", data={"f": "json", "partId": 1}, files={"file": b"abc"})
    assert (
        gis.session.post(f"{uploads}/{item}/commit", data={"f": "json", "parts": "1,2"}).json()["error"][
            "code"
        ]
        == 400
    )
    url = f"{server.layer_url(0, service)}/{two[0]}/addAttachment"
    assert gis.session.post(url, data={"f": "json", "uploadId": item}).json()["error"]["code"] == 400
    assert server.attachments(0, service) == []


def test_what_is_not_there(cameras: Any, two: list[int], photo: Photo, open_layer: Any, service: str) -> None:
    assert cameras.attachments.add(999, photo())["addAttachmentResult"]["error"]["code"] == 1008
    assert cameras.attachments.update(two[0], 99, photo())["updateAttachmentResult"]["error"]["code"] == 1009
    assert cameras.attachments.delete(two[0], 99)["deleteAttachmentResults"][0]["error"]["code"] == 1010
    table = open_layer(service, 1)
    assert table.edit_features(adds=[{"attributes": {"key": "a"}}])["addResults"][0]["success"]
    assert table._add_attachment(1, photo())["error"]["code"] == 400


def test_attachments_go_with_their_row(
    server: LayerServer, service: str, cameras: Any, two: list[int], photo: Photo
) -> None:
    cameras.attachments.add(two[0], photo())
    cameras.attachments.add(two[1], photo())
    cameras.edit_features(deletes=[two[0]])
    assert [kept["parent"] for kept in server.attachments(0, service)] == [two[1]]


def test_a_page_of_an_error_comes_as_the_photo(
    server: LayerServer, cameras: Any, two: list[int], photo: Photo, tmp_path: Path, no_faults_left: None
) -> None:
    cameras.attachments.add(two[0], photo())
    (info,) = cameras.attachments.get_list(two[0])
    server.faults.add("http", "attachment", status=404, times=2)  # once more, without its token
    (file,) = cameras.attachments.download(two[0], info["id"], save_path=str(tmp_path / "out"))
    assert b"404" in Path(file).read_bytes()  # the client keeps it nevertheless
