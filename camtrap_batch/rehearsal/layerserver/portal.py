"""The addresses under /portal: signing in, the portal itself, its items, and new services."""

from __future__ import annotations

import html
import json
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

from camtrap_batch.rehearsal.layerserver.answers import (
    Answer,
    Json,
    Raw,
    Refused,
    is_true,
    numbers,
    parse,
    words,
)
from camtrap_batch.rehearsal.layerserver.request import Operation, Request, no_such_address
from camtrap_batch.rehearsal.layerserver.site import Anonymous, Site

VERSION = "2025.2"
_LARGEST_PAGE = 10_000
_ITEM_KEYS = (
    "title", "type", "description", "snippet", "access", "url", "culture", "licenseInfo", "accessInformation",
)  # fmt: skip
_SEARCHED = ("id", "title", "type", "owner", "access", "tags", "typekeywords")
_TERM = re.compile(r'(?:(\w+):)?(?:"([^"]*)"|([^\s()]+))')


class Portal:
    """Finds the operation of a path below `/portal`."""

    def __init__(self, site: Site, is_online: bool) -> None:
        self.site, self.is_online = site, is_online
        self._codes: dict[str, str] = {}  # of users who have signed in; each is valid once

    def route(self, parts: list[str], request: Request) -> Operation:
        """
        Args:
            parts: parts of the path after `/portal`.
        """
        match parts:
            case ["sharing", "rest"] | ["sharing"]:
                return Operation("portal", lambda _: {"currentVersion": VERSION, "fullVersion": VERSION})
            case ["sharing", "rest", "info"]:
                return Operation("info", self._info)
            case ["sharing", "rest", "generateToken"] | ["sharing", "generateToken"]:
                return Operation("generateToken", self._generate_token)
            case ["sharing", "rest", "oauth2", "authorize"]:
                return Operation("oauth2.authorize", self._authorize)
            case ["sharing", "oauth2", "signin"] | ["sharing", "rest", "oauth2", "signin"]:
                return Operation("oauth2.signin", self._sign_in)
            case ["sharing", "rest", "oauth2", "approval"]:
                return Operation("oauth2.approval", lambda request: _code_page(request.text("code")))
            case ["sharing", "rest", "oauth2", "token"]:
                return Operation("oauth2.token", self._oauth_token)
            case ["sharing", "rest", "portals", "self", "isServiceNameAvailable"]:
                return Operation("isServiceNameAvailable", self._is_name_free)
            case ["sharing", "rest", "portals", _, "roles"]:
                return Operation(
                    "roles", lambda _: {"total": 0, "start": 1, "num": 0, "nextStart": -1, "roles": []}
                )
            case ["sharing", "rest", "portals", _]:
                return Operation("self", self._self)
            case ["sharing", "rest", "community", "self"]:
                return Operation("user", self._me)
            case ["sharing", "rest", "community", "users", name]:
                return Operation("user", partial(self._user, name))
            case ["sharing", "rest", "search"]:
                return Operation("search", self._search)
            case ["sharing", "rest", "content", *rest]:
                return self._route_content(rest)
        return Operation("unknown", no_such_address)

    def _route_content(self, rest: list[str]) -> Operation:
        match rest:
            case ["items", item]:
                return Operation("item", partial(self._item, item))
            case ["items", item, "data"]:
                return Operation("item.data", partial(self._data, item))
            case ["users", owner]:
                return Operation("content", partial(self._content, owner))
            case ["users", owner, "addItem"] | ["users", owner, _, "addItem"]:
                return Operation("addItem", partial(self._add_item, owner))
            case ["users", owner, "createService"] | ["users", owner, _, "createService"]:
                return Operation("createService", partial(self._create_service, owner))
            case ["users", _, "items", item, operation] | ["users", _, _, "items", item, operation]:
                calls: dict[str, Callable[[str, Request], Answer]] = {
                    "update": self._update,
                    "delete": self._delete,
                    "addPart": self._add_part,
                    "commit": self._commit,
                    "status": self._status,
                }
                if operation in calls:
                    return Operation(f"item.{operation}", partial(calls[operation], item))
            case ["items", _, "groups"]:
                return Operation("item.groups", lambda _: {"admin": [], "member": [], "other": []})
            case ["users", _, "shareItems"]:
                return Operation("item.share", self._share_items)
            case ["users", _, "items", item]:
                return Operation("item", partial(self._item_of_user, item))
        return Operation("unknown", no_such_address)

    # The portal -------------------------------------------------------------------------------------

    def _info(self, request: Request) -> Answer:
        return {
            "owningSystemUrl": f"{request.base}/portal",
            "authInfo": {
                "isTokenBasedSecurity": True,
                "tokenServicesUrl": f"{request.base}/portal/sharing/rest/generateToken",
            },
        }

    def _self(self, request: Request) -> Answer:
        user = self.site.accounts.user_of(request.token)
        host = urlsplit(request.base).netloc
        found: Json = {
            "id": "rehearsal",
            "name": "Rehearsal",
            "portalName": "ArcGIS Online" if self.is_online else "Rehearsal",
            "portalMode": "multitenant" if self.is_online else "singletenant",
            "isPortal": not self.is_online,
            "portalHostname": f"{host}/portal",
            "customBaseUrl": host,
            "currentVersion": VERSION,
            "access": "public",
            "allSSL": False,
            "supportsHostedServices": True,
            "supportsOAuth": True,
            "culture": "en",
            "units": "metric",
            "helperServices": {},
            "defaultExtent": {
                "xmin": -2.0e7, "ymin": -2.0e7, "xmax": 2.0e7, "ymax": 2.0e7,
                "spatialReference": {"wkid": 102100},
            },
            "defaultBasemap": {"title": "None", "baseMapLayers": []},
            "availableCredits": 0.0,
        }  # fmt: skip
        if user is not None:
            found["user"] = self.site.accounts.describe(user)
        return found

    def _me(self, request: Request) -> Answer:
        return self.site.accounts.describe(self._signed_in(request))

    def _user(self, name: str, request: Request) -> Answer:
        self._signed_in(request)
        if name not in self.site.accounts.users:
            raise Refused(400, "User does not exist or is inaccessible.", [f"there is no user '{name}'"])
        return self.site.accounts.describe(name)

    def _signed_in(self, request: Request) -> str:
        user = self.site.accounts.user_of(request.token)
        if user is None:
            raise Refused(499, "Token Required", [])
        return user

    def _publisher(self, request: Request) -> str:
        user = self._signed_in(request)
        if self.site.accounts.role(user) != "publisher":
            reason = f"user '{user}' may not create content"
            raise Refused(
                403,
                "You do not have permissions to access this resource or perform this operation.",
                [reason],
            )
        return user

    # Signing in -------------------------------------------------------------------------------------

    def _generate_token(self, request: Request) -> Answer:
        request.posted()
        if request.text("request") == "getToken":  # a portal token is exchanged for a server token
            name = self.site.accounts.user_of(request.text("token"))
            if name is None:
                raise Refused(498, "Invalid Token.", [])
        else:
            name = self.site.accounts.sign_in(request.text("username"), request.text("password"))
        asked = request.text("expiration").strip()
        token, expires = self.site.accounts.token(name, _minutes(asked))
        return {"token": token, "expires": expires, "ssl": request.base.startswith("https")}

    def _authorize(self, request: Request) -> Answer:
        """The page with a form; what was asked for travels in `oauth_state`."""
        keys = ("client_id", "redirect_uri", "response_type", "state", "expiration")
        return _page({"oauth_state": json.dumps({key: request.text(key) for key in keys}).encode().hex()})

    def _sign_in(self, request: Request) -> Answer:
        request.posted()
        try:
            asked = json.loads(bytes.fromhex(request.text("oauth_state")))
        except ValueError:
            raise Refused(400, "Invalid parameter", ["oauth_state"]) from None
        try:
            name = self.site.accounts.sign_in(request.text("username"), request.text("password"))
        except Refused as refusal:
            return _page({"oauth_state": request.text("oauth_state"), "messages": refusal.details})
        if asked["response_type"] == "code":
            code = secrets.token_urlsafe(12)
            self._codes[code] = name
            approval = f"{request.base}/portal/sharing/rest/oauth2/approval?{urlencode({'code': code})}"
            return Raw(b"", "text/html", 302, {"Location": approval})
        token, expires = self.site.accounts.token(name, _minutes(str(asked["expiration"])))
        query = urlencode(
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": max(1, round(expires / 1000 - time.time())),
                "username": name,
                "state": asked["state"],
            }
        )
        return Raw(b"", "text/html", 302, {"Location": f"{asked['redirect_uri']}#{query}"})

    def _oauth_token(self, request: Request) -> Answer:
        """For an application's id and secret (here a user's name and password), or for a user's code."""
        request.posted()
        accounts, grant = self.site.accounts, request.text("grant_type")
        match grant:
            case "client_credentials":
                name: str | None = accounts.sign_in(request.text("client_id"), request.text("client_secret"))
            case "authorization_code":
                name = self._codes.pop(request.text("code"), None)
            case "refresh_token":
                name = accounts.user_of(request.text("refresh_token"))
            case _:
                raise Refused(400, "unsupported_grant_type", [f"'{grant}'"])
        if name is None:
            raise Refused(400, f"Invalid {grant}", [])
        token, expires = accounts.token(name)
        answer = {
            "access_token": token,
            "expires_in": max(1, round(expires / 1000 - time.time())),
            "token_type": "bearer",
        }
        return answer if grant == "client_credentials" else {**answer, "refresh_token": token}

    # Items ------------------------------------------------------------------------------------------

    def _search(self, request: Request) -> Answer:
        user = self.site.accounts.user_of(request.token)
        with self.site.database.reading() as db:
            rows = db.execute("SELECT id FROM items ORDER BY id").fetchall()
        items = [self._describe(item, request) for (item,) in rows]
        wanted = _TERM.findall(request.text("q"))
        found = [
            item
            for item in items
            if (user is not None or item["access"] == "public")
            and all(_matches(item, key.lower(), (quoted or word).lower()) for key, quoted, word in wanted)
        ]
        start, number = (_number(request.text(name), low) for name, low in (("start", 1), ("num", 10)))
        page = found[start - 1 : start - 1 + number]
        following = start + len(page)
        return {
            "query": request.text("q"),
            "total": len(found),
            "start": start,
            "num": number,
            "nextStart": following if following <= len(found) else -1,
            "results": page,
        }

    def _item(self, item: str, request: Request) -> Answer:
        found = self._describe(item, request)
        if found["access"] != "public":
            self._signed_in(request)
        return found

    def _item_of_user(self, item: str, request: Request) -> Answer:
        return {
            "item": self._item(item, request),
            "sharing": {"access": self._describe(item, request)["access"], "groups": []},
        }

    def _data(self, item: str, request: Request) -> Answer:
        if self._describe(item, request)["access"] != "public":
            self._signed_in(request)
        with self.site.database.reading() as db:
            name, content = db.execute("SELECT name, content FROM items WHERE id = ?", (item,)).fetchone()
        if content is None:
            return {}
        if name is None:  # text that came with the item, such as a map's JSON
            return Raw(content, "application/json")
        header = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Raw(content, "application/octet-stream", headers=header)

    def _content(self, owner: str, request: Request) -> Answer:
        self._signed_in(request)
        with self.site.database.reading() as db:
            rows = db.execute("SELECT id FROM items WHERE owner = ? ORDER BY id", (owner,)).fetchall()
        items = [self._describe(item, request) for (item,) in rows]
        return {"username": owner, "total": len(items), "start": 1, "num": len(items), "nextStart": -1,
                "items": items, "folders": [], "currentFolder": None}  # fmt: skip

    def _add_item(self, owner: str, request: Request) -> Answer:
        request.posted()
        user = self._publisher(request)
        if not request.text("type") or not request.text("title"):
            raise Refused(400, "Unable to add item.", ["'title' and 'type' are needed"])
        item, now = uuid.uuid4().hex, int(time.time() * 1000)
        sent = request.files.get("file")
        properties: Json = {
            "access": "private",
            "created": now,
            "modified": now,
            "tags": [],
            "typeKeywords": [],
        }
        properties |= _given(request)
        content = sent.content if sent else (request.text("text").encode() or None)
        name = request.text("filename") or request.text("fileName") or (sent.name if sent else None)
        with self.site.database.writing() as db:
            db.execute(
                "INSERT INTO items VALUES(?, ?, ?, ?, ?)", (item, user, json.dumps(properties), name, content)
            )
            if is_true(request.text("multipart")):
                db.execute("INSERT INTO uploads(id, name) VALUES(?, ?)", (item, name))
        return {"success": True, "id": item, "folder": None}

    def _add_part(self, item: str, request: Request) -> Answer:
        request.posted()
        self._owned(item, request)
        sent = request.files.get("file")
        number = numbers(request.text("partNum"), "partNum")
        if sent is None or len(number) != 1:
            raise Refused(400, "Unable to add part.", ["'file' and 'partNum' are needed"])
        with self.site.database.writing() as db:
            db.execute("INSERT OR REPLACE INTO parts VALUES(?, ?, ?)", (item, number[0], sent.content))
        return {"success": True}

    def _commit(self, item: str, request: Request) -> Answer:
        request.posted()
        self._owned(item, request)
        with self.site.database.writing() as db:
            parts = db.execute("SELECT content FROM parts WHERE upload = ? ORDER BY part", (item,)).fetchall()
            if not parts:
                raise Refused(400, "Unable to commit item.", ["it has no parts"])
            content = b"".join(part for (part,) in parts)
            db.execute("UPDATE items SET content = ? WHERE id = ?", (content, item))
            db.execute("DELETE FROM parts WHERE upload = ?", (item,))
            db.execute("DELETE FROM uploads WHERE id = ?", (item,))
        return {"success": True, "id": item}

    def _status(self, item: str, request: Request) -> Answer:
        self._owned(item, request)
        with self.site.database.reading() as db:
            waits = db.execute("SELECT 1 FROM uploads WHERE id = ?", (item,)).fetchone()
        return {"status": "partial" if waits else "completed", "statusMessage": "", "itemId": item}

    def _update(self, item: str, request: Request) -> Answer:
        request.posted()
        properties = self._owned(item, request)
        properties |= {**_given(request), "modified": int(time.time() * 1000)}
        sent = request.files.get("file")
        if (picture := request.files.get("thumbnail")) is not None:
            properties["thumbnail"] = f"thumbnail/{picture.name}"
        with self.site.database.writing() as db:
            db.execute("UPDATE items SET properties = ? WHERE id = ?", (json.dumps(properties), item))
            if sent is not None:
                db.execute(
                    "UPDATE items SET name = ?, content = ? WHERE id = ?", (sent.name, sent.content, item)
                )
            elif "text" in request.parameters:
                db.execute("UPDATE items SET content = ? WHERE id = ?", (request.text("text").encode(), item))
        return {"success": True, "id": item}

    def _delete(self, item: str, request: Request) -> Answer:
        request.posted()
        self._owned(item, request)
        for service in list(self.site.services.values()):
            if service.item == item:
                self.site.delete_service(service.name)
        with self.site.database.writing() as db:
            db.execute("DELETE FROM items WHERE id = ?", (item,))
        return {"success": True, "itemId": item}

    def _share_items(self, request: Request) -> Answer:
        """A service shared with everyone accepts what its capabilities say from people without a token."""
        request.posted()
        access = (
            "public"
            if is_true(request.text("everyone"))
            else "org"
            if is_true(request.text("org"))
            else "private"
        )
        results = []
        for item in words(request.text("items")):
            properties = {**self._owned(item, request), "access": access}
            with self.site.database.writing() as db:
                db.execute("UPDATE items SET properties = ? WHERE id = ?", (json.dumps(properties), item))
            for service in list(self.site.services.values()):
                if service.item == item:
                    offered: Anonymous = "edit" if "Editing" in service.capabilities else "read"
                    self.site.set_anonymous(service, offered if access == "public" else "none")
            results.append({"itemId": item, "success": True, "notSharedWith": []})
        return {"results": results}

    def _owned(self, item: str, request: Request) -> Json:
        """Properties of an item that the user may change."""
        user = self._publisher(request)
        with self.site.database.reading() as db:
            row = db.execute("SELECT owner, properties FROM items WHERE id = ?", (item,)).fetchone()
        if row is None:
            raise Refused(400, "Item does not exist or is inaccessible.", [item])
        if row[0] != user:
            reason = f"item '{item}' is of '{row[0]}'"
            raise Refused(
                403,
                "You do not have permissions to access this resource or perform this operation.",
                [reason],
            )
        found: Json = json.loads(row[1])
        return found

    def _describe(self, item: str, request: Request) -> Json:
        with self.site.database.reading() as db:
            row = db.execute(
                "SELECT owner, properties, name, LENGTH(content) FROM items WHERE id = ?", (item,)
            ).fetchone()
        if row is None:
            raise Refused(400, "Item does not exist or is inaccessible.", [item])
        owner, properties, name, size = row
        found: Json = {
            "id": item,
            "owner": owner,
            "name": name,
            "size": size or 0,
            "orgId": "rehearsal",
            "numViews": 0,
            "scoreCompleteness": 0,
            "snippet": None,
            "description": None,
            "thumbnail": None,
            "extent": [],
            "spatialReference": None,
            "documentation": None,
            "culture": "en",
            "properties": None,
            "url": None,
            **json.loads(properties),
        }
        if found["url"] and found["url"].startswith("/"):
            found["url"] = f"{request.base}{found['url']}"
        return found

    # Services ---------------------------------------------------------------------------------------

    def _is_name_free(self, request: Request) -> Answer:
        self._signed_in(request)
        taken = {name.lower() for name in self.site.services}
        return {"available": request.text("name").lower() not in taken}

    def _create_service(self, owner: str, request: Request) -> Answer:
        request.posted()
        user = self._publisher(request)
        asked = parse(request.text("createParameters") or "{}", "createParameters")
        if not isinstance(asked, dict):
            raise Refused(400, "Unable to create service.", ["createParameters must be a JSON object"])
        service = self.site.create_service(
            str(asked.get("name", "")),
            [],
            user,
            capabilities=str(asked.get("capabilities") or "Query"),
            max_records=int(asked.get("maxRecordCount") or 2000),
            description=str(asked.get("serviceDescription") or ""),
            item=request.text("itemIdToCreate") or None,
        )
        address = f"{request.base}/server/rest/services/{service.name}/FeatureServer"
        return {
            "success": True,
            "encodedServiceURL": address,
            "serviceurl": address,
            "itemId": service.item,
            "serviceItemId": service.item,
            "name": service.name,
            "size": 0,
            "type": "Feature Service",
            "typeKeywords": ["Hosted Service"],
            "isView": False,
        }


def _minutes(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _number(text: str, otherwise: int) -> int:
    """Start or size of a page; the client sends -1 for "as you like"."""
    return int(text) if text.isdecimal() and 0 < int(text) <= _LARGEST_PAGE else otherwise


def _page(state: Json) -> Raw:
    """The sign-in page; its form posts to the portal."""
    script = json.dumps(state).replace("<", "\\u003c")
    hidden = html.escape(str(state["oauth_state"]))
    form = (
        '<form method="post" action="../../oauth2/signin">'
        f'<input type="hidden" name="oauth_state" value="{hidden}">'
        '<input name="username"><input name="password" type="password"><button>Sign in</button></form>'
    )
    # Clients look for the state on a line of its own.
    text = f"<!doctype html>\n<body>\n<script>\nvar oAuthInfo = {script};\n</script>\n{form}\n</body>\n"
    return Raw(text.encode(), "text/html; charset=utf-8")


def _code_page(code: str) -> Raw:
    """What is shown to a user who has signed in for a program without an address of its own."""
    shown = html.escape(code)
    text = f"<!doctype html>\n<title>SUCCESS code={shown}</title>\n<body>\n<code>{shown}</code>\n</body>\n"
    return Raw(text.encode(), "text/html; charset=utf-8")


def _given(request: Request) -> Json:
    """Properties of an item that a request sets."""
    found: dict[str, Any] = {key: request.text(key) for key in _ITEM_KEYS if key in request.parameters}
    for key in ("tags", "typeKeywords"):
        if key in request.parameters:
            text = request.text(key)
            found[key] = parse(text, key) if text.startswith("[") else words(text)
    if "properties" in request.parameters:
        found["properties"] = parse(request.text("properties") or "null", "properties")
    return found


def _matches(item: Mapping[str, Any], key: str, word: str) -> bool:
    """One term of a search; an unknown field, such as `-type:`, matches everything."""
    if not key:
        texts = [str(item["title"]), str(item["description"] or ""), *map(str, item["tags"])]
        return word in ("and", "or", "not") or any(word in text.lower() for text in texts)
    value = item.get("typeKeywords" if key == "typekeywords" else key)
    if key not in _SEARCHED or value is None:
        return True
    if isinstance(value, list):
        return any(word == str(entry).lower() for entry in value)
    return (
        str(value).lower() == word if key in ("id", "owner", "access", "type") else word in str(value).lower()
    )
