"""Files that arrive in parts before they are used: large attachments, and data to append."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial

from camtrap_batch.rehearsal.layerserver.answers import Answer, Json, Refused, numbers
from camtrap_batch.rehearsal.layerserver.database import Database
from camtrap_batch.rehearsal.layerserver.request import (
    Operation,
    Request,
    Upload,
    content_type,
    no_such_address,
)

_FAILED = "Unable to upload."


class Uploads:
    """The addresses below `uploads` of a service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def route(self, parts: list[str], check: Callable[[Request], object]) -> Operation:
        """
        Args:
            parts: parts of the path after `uploads`.
            check: refuses whoever may not edit.
        """
        calls: dict[str, Callable[[str, Request], Answer]] = {
            "uploadPart": self._upload_part,
            "commit": self._commit,
            "parts": self._parts,
            "delete": self._delete,
        }

        def checked(call: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
            def answer(request: Request) -> Answer:
                check(request)
                return call(request)

            return answer

        match parts:
            case ["register"]:
                return Operation("uploads.register", checked(self._register))
            case ["upload"]:
                return Operation("uploads.upload", checked(self._upload))
            case [item, operation] if operation in calls:
                return Operation(f"uploads.{operation}", checked(partial(calls[operation], item)))
        return Operation("unknown", no_such_address)

    def uploaded(self, item: str) -> Upload:
        """A committed upload.

        Raises:
            Refused: there is no such upload.
        """
        with self._database.reading() as db:
            row = db.execute("SELECT name, committed FROM uploads WHERE id = ?", (item,)).fetchone()
            if row is None or not row[1]:
                raise Refused(400, _FAILED, [f"upload '{item}' is not there, or not committed"])
            parts = db.execute("SELECT content FROM parts WHERE upload = ? ORDER BY part", (item,)).fetchall()
        return Upload(row[0], content_type(row[0]), b"".join(part for (part,) in parts))

    def _register(self, request: Request) -> Answer:
        request.posted()
        return self._new(request.text("itemName") or "upload")

    def _upload(self, request: Request) -> Answer:
        request.posted()
        sent = request.files.get("file")
        if sent is None:
            raise Refused(400, _FAILED, ["there is no file 'file'"])
        answer = self._new(sent.name)
        with self._database.writing() as db:
            item = answer["item"]["itemID"]
            db.execute("INSERT INTO parts VALUES(?, 1, ?)", (item, sent.content))
            db.execute("UPDATE uploads SET committed = 1 WHERE id = ?", (item,))
        answer["item"]["committed"] = True
        return answer

    def _new(self, name: str) -> Json:
        item = f"i{uuid.uuid4().hex}"
        with self._database.writing() as db:
            db.execute("INSERT INTO uploads(id, name) VALUES(?, ?)", (item, name))
        return {"success": True, "item": _item(item, name, False)}

    def _upload_part(self, item: str, request: Request) -> Answer:
        request.posted()
        sent = request.files.get("file")
        if sent is None:
            raise Refused(400, _FAILED, ["there is no file 'file'"])
        part = numbers(request.text("partId"), "partId")
        with self._database.writing() as db:
            row = db.execute("SELECT committed FROM uploads WHERE id = ?", (item,)).fetchone()
            if row is None or row[0] or len(part) != 1:
                raise Refused(400, _FAILED, [f"upload '{item}' is not one that takes parts"])
            db.execute("INSERT OR REPLACE INTO parts VALUES(?, ?, ?)", (item, part[0], sent.content))
        return {"success": True, "partId": part[0]}

    def _parts(self, item: str, request: Request) -> Answer:
        with self._database.reading() as db:
            rows = db.execute("SELECT part FROM parts WHERE upload = ? ORDER BY part", (item,)).fetchall()
        return {"parts": [str(part) for (part,) in rows]}

    def _commit(self, item: str, request: Request) -> Answer:
        request.posted()
        with self._database.writing() as db:
            there = {part for (part,) in db.execute("SELECT part FROM parts WHERE upload = ?", (item,))}
            named = numbers(request.text("parts"), "parts")
            if not there or (named and set(named) != there):
                reason = f"upload '{item}' has the parts {sorted(there)}, not {named}"
                raise Refused(400, _FAILED, [reason])
            db.execute("UPDATE uploads SET committed = 1 WHERE id = ?", (item,))
            (name,) = db.execute("SELECT name FROM uploads WHERE id = ?", (item,)).fetchone()
        return {"success": True, "item": _item(item, name, True)}

    def _delete(self, item: str, request: Request) -> Answer:
        request.posted()
        with self._database.writing() as db:
            db.execute("DELETE FROM parts WHERE upload = ?", (item,))
            found = db.execute("DELETE FROM uploads WHERE id = ?", (item,)).rowcount
        return {"status": "success" if found else "error"}


def _item(item: str, name: str, committed: bool) -> Json:
    return {
        "itemID": item,
        "itemName": name,
        "description": "",
        "date": int(time.time() * 1000),
        "committed": committed,
    }
