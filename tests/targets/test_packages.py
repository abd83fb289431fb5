"""Publishing with the real client, to a portal on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_portal import TOKEN, Portal, serve_portal

pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")

from camtrap_batch.errors import StageError
from camtrap_batch.portal import Portal as Where
from camtrap_batch.portal import connect
from camtrap_batch.targets.packages import Published, publish_package

pytestmark = pytest.mark.filterwarnings("default")  # the client's own


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Portal, Any]]:
    """A portal, and a connection to it."""
    with serve_portal() as portal, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_TOKEN", TOKEN)
        yield portal, connect(Where(portal.url))


@pytest.fixture
def portal(served: tuple[Portal, Any]) -> Portal:
    """The portal, empty and willing."""
    found = served[0]
    found.items.clear()
    found.requests.clear()
    found.indexed, found.lose_answers, found.refuse = True, 0, None
    return found


def publish(
    served: tuple[Portal, Any], package: Path, model_id: str = "a" * 16, name: str = "wcs"
) -> Published:
    return publish_package(served[1], package, name=name, model_id=model_id, summary="12 classes")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "wcs.dlpk"
    path.write_bytes(b"first" * 100)
    return path


@pytest.mark.parametrize("indexed", [True, False])
def test_a_second_publish_updates_the_same_item(
    served: tuple[Portal, Any], portal: Portal, package: Path, indexed: bool
) -> None:
    portal.indexed = indexed
    first = publish(served, package)
    assert first.added
    item = portal.items[first.item_id]
    assert (item["title"], item["type"], item["data"]) == ("wcs", "Deep Learning Package", b"first" * 100)
    assert item["snippet"] == "12 classes"
    item["title"] = "Jaguars of the park"  # what people change stays
    item["typeKeywords"].append("theirs")
    package.write_bytes(b"second" * 100)
    second = publish(served, package, "b" * 16)
    assert (second.item_id, second.added) == (first.item_id, False)
    assert len(portal.items) == 1
    assert item["data"] == b"second" * 100
    assert item["title"] == "Jaguars of the park"
    assert item["typeKeywords"] == ["theirs", "camtrap-batch:wcs", f"camtrap-batch:model:{'b' * 16}"]


def test_a_large_package_goes_in_parts(served: tuple[Portal, Any], portal: Portal, tmp_path: Path) -> None:
    """And the item of a job with a longer name is left alone."""
    other = {"title": "wcs2", "type": "Deep Learning Package", "typeKeywords": "camtrap-batch:wcs2"}
    portal.answer("POST", "/sharing/rest/content/users/ranger/addItem", {**other, "token": TOKEN}, None)
    content = os.urandom(12_000_000)
    (tmp_path / "large.dlpk").write_bytes(content)
    done = publish(served, tmp_path / "large.dlpk")
    assert portal.items[done.item_id]["data"] == content
    assert [item["title"] for item in portal.items.values()] == ["wcs2", "wcs"]
    assert sum(request.endswith("/addPart") for request in portal.requests) == 2


def test_a_lost_answer_makes_no_second_item(
    served: tuple[Portal, Any], portal: Portal, package: Path
) -> None:
    portal.indexed, portal.lose_answers = False, 1
    done = publish(served, package)
    assert sum(request.endswith("/addItem") for request in portal.requests) == 1
    assert list(portal.items) == [done.item_id]
    assert portal.items[done.item_id]["data"] == b"first" * 100


def test_what_the_portal_says_comes_out_without_secrets(
    served: tuple[Portal, Any], portal: Portal, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", TOKEN)
    portal.refuse = f"no privilege to create content, token={TOKEN}"
    with pytest.raises(StageError, match="no privilege to create content") as refused:
        publish(served, package)
    assert TOKEN not in str(refused.value)
    assert portal.items == {}
