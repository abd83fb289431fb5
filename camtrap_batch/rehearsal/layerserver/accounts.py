"""Who may do what: users of the rehearsal portal, and their tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from camtrap_batch.rehearsal.layerserver.answers import Json, Refused
from camtrap_batch.rehearsal.layerserver.database import Database, setting

Role = Literal["publisher", "editor", "viewer"]


@dataclass(frozen=True, slots=True)
class User:
    """A publisher makes layers and edits, an editor edits, a viewer reads."""

    password: str
    role: Role = "publisher"


DEFAULT_USERS: Mapping[str, User] = {
    "ranger": User("rehearsal", "publisher"),
    "warden": User("rehearsal", "editor"),
    "visitor": User("rehearsal", "viewer"),
}
"""They can be reached only through loopback; nothing that they open is worth a secret."""
_ROLES = {"publisher": "org_publisher", "editor": "org_user", "viewer": "iAAAAAAAAAAAAAAA"}
_PRIVILEGES = {
    "viewer": ["portal:user:viewOrgItems"],
    "editor": ["portal:user:viewOrgItems", "features:user:edit"],
    "publisher": [
        "portal:user:viewOrgItems",
        "portal:user:createItem",
        "portal:publisher:publishFeatures",
        "features:user:edit",
        "features:user:fullEdit",
    ],
}


class Accounts:
    """Tokens are signed, not stored: one issued before a restart is still valid after it."""

    def __init__(self, database: Database, users: Mapping[str, User], token_minutes: float) -> None:
        self.users, self.token_minutes = dict(users), token_minutes
        self._database = database
        with database.writing() as db:
            self._secret = setting(db, "secret", secrets.token_hex(32)).encode()
            self._generation = int(setting(db, "tokens", "0"))

    def sign_in(self, name: str, password: str) -> str:
        """The user's name in its stored form.

        Raises:
            Refused: with a portal's own message.
        """
        for known, user in self.users.items():
            if known.lower() == name.lower() and hmac.compare_digest(
                user.password.encode(), password.encode()
            ):
                return known
        raise Refused(400, "Unable to generate token.", ["Invalid username or password."])

    def token(self, name: str, minutes: float | None = None) -> tuple[str, int]:
        """A token for a user, and when it expires (milliseconds since 1970)."""
        lasts = self.token_minutes if minutes is None else min(minutes, self.token_minutes)
        expires = int((time.time() + lasts * 60) * 1000)
        content = {"user": name, "expires": expires, "of": self._generation, "id": secrets.token_hex(4)}
        packed = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
        return f"{packed}.{self._sign(packed)}", expires

    def user_of(self, token: str) -> str | None:
        """The user to whom a token belongs; None without a token.

        Raises:
            Refused: code 498.
        """
        if not token:
            return None
        packed, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(packed).encode()):
            raise Refused(498, "Invalid Token.", ["the token is not one of this portal"])
        content = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
        is_expired = content["expires"] <= time.time() * 1000 or content["of"] != self._generation
        if is_expired or content["user"] not in self.users:
            raise Refused(498, "Invalid Token.", ["the token has expired"])
        name: str = content["user"]
        return name

    def expire_tokens(self) -> None:
        """Let every token issued so far expire now."""
        with self._database.writing() as db:
            self._generation += 1
            db.execute("UPDATE settings SET value = ? WHERE key = 'tokens'", (str(self._generation),))

    def role(self, name: str | None) -> Role | None:
        return self.users[name].role if name is not None else None

    def describe(self, name: str) -> Json:
        """The answer of `community/users/NAME`."""
        role = self.users[name].role
        return {
            "username": name,
            "fullName": name.title(),
            "firstName": name.title(),
            "lastName": "",
            "email": f"{name}@localhost",
            "id": hashlib.sha256(name.encode()).hexdigest()[:32],
            "role": _ROLES[role],
            "roleId": _ROLES[role],
            "userType": "arcgisonly",
            "userLicenseTypeId": "creatorUT" if role == "publisher" else "viewerUT",
            "privileges": _PRIVILEGES[role],
            "level": "2",
            "disabled": False,
            "access": "org",
            "provider": "arcgis",
            "groups": [],
            "tags": [],
            "storageUsage": 0,
            "storageQuota": -1,
            "orgId": "rehearsal",
            "culture": "en",
            "region": "WO",
            "units": "metric",
            "preferredView": None,
            "created": 0,
            "modified": 0,
        }

    def _sign(self, packed: str) -> str:
        return hmac.new(self._secret, packed.encode(), hashlib.sha256).hexdigest()
