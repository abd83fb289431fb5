"""Photos attached to the features of cameras: each once, however often this is started.

A photo is identified by its name and size among the attachments of its camera's features. These are read
before anything is sent, after every missing answer, and at the end.
"""

from __future__ import annotations

import mimetypes
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from camtrap_batch.errors import InputError, StageError, choices
from camtrap_batch.portal.reading import (
    AT_ONCE,
    Attachment,
    LayerInfo,
    PointNames,
    X,
    Y,
    look_at,
    read_attachments,
    read_features,
    read_ids,
)
from camtrap_batch.portal.service import (
    MOST_REFUSALS,
    Service,
    ServiceRefused,
    Unknown,
    change_definition,
    with_retries,
)
from camtrap_batch.targets.base import Photo
from camtrap_batch.vocabulary import IMAGE_ENDINGS, RAW_ENDINGS, ending_of

_PHOTOS = IMAGE_ENDINGS | RAW_ENDINGS

_TRIES, _PAUSE_S = 5, 0.5
_COPIES_AT_ONCE = 250
_MARK = "camtrap:"  # keywords of attachments made here: whose photo it is
_ONE_REQUEST, _PART = 9_000_000, 1_000_000  # bytes: ArcGIS Online accepts more than 10 MB only in parts
_NOT_COPIED = ("esriFieldTypeOID", "esriFieldTypeGlobalID")


@dataclass
class Attached:
    """The result of attaching photos.

    Attributes
    ----------
    attached : number of photos attached
    there : number of photos that were already attached
    copies : number of features added
    left : number of photos not attached because of `stop`
    failed : photo -> why it was not attached
    """

    attached: int = 0
    there: int = 0
    copies: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def photos_in(folder: Path) -> dict[str, list[Photo]]:
    """The photos below each folder in a folder; one in a subfolder (card/100/IMG_1.JPG) is 100_IMG_1.JPG.

    Raises
    ------
    InputError
        There is none, or two would have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (--folder)")
    found: dict[str, list[Photo]] = {}
    for camera in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        photos: dict[str, Photo] = {}
        for file in sorted(path for path in camera.rglob("*") if path.is_file()):
            if ending_of(file.name) not in _PHOTOS or file.name.startswith("."):
                continue
            name = "_".join(file.relative_to(camera).parts)
            if name in photos:
                raise InputError(f"{file}: another photo would also be called {name}; rename it")
            photos[name] = Photo(name, file.stat().st_size, file.read_bytes)
        if photos:
            found[camera.name] = list(photos.values())
    if not found:
        raise InputError(
            f"{folder}: none of its folders holds a photo (--folder); it should hold one for each camera, "
            "named by the object id of its feature, or by its location"
        )
    return found


class Attacher:
    """Attaches photos to the features of a layer.

    Parameters
    ----------
    url : URL of the layer
    location_field : field by which folders are named; None: object ids
    one_feature : attach all photos of a camera to its own feature; otherwise only the first, and each
        of the others to a copy

    Raises
    ------
    InputError
        There is no such layer or field, or it can't be edited.
    """

    def __init__(
        self,
        service: Service,
        url: str,
        *,
        location_field: str | None = None,
        one_feature: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self._service = service
        self._layer = look_at(service, url)
        self._one_feature = one_feature
        self._stop = stop or threading.Event()
        self._pause = _PAUSE_S
        self._unanswered = 0  # requests, one after the other
        self._refusals: dict[str, list[str]] = defaultdict(list)  # ending -> reasons, since one was taken
        about = self._layer.about
        fields = {entry["name"].lower(): entry["name"] for entry in about.get("fields") or []}
        if location_field is not None and location_field.lower() not in fields:
            raise InputError(
                f"{self._layer.url}: has no field {location_field!r}; "
                f"{choices(location_field, fields.values())}"
            )
        self._location = None if location_field is None else fields[location_field.lower()]
        can = {word.strip() for word in str(about.get("capabilities") or "").split(",")}
        if "Editing" not in can and not {"Create", "Update"} <= can:
            raise InputError(
                f"{self._layer.url}: can't be edited by whoever is signed in; ask its owner for it"
            )
        if not one_feature and (unique := _unique_field(self._layer)):
            raise InputError(
                f"{self._layer.url}: field {unique} is unique, so that no feature can be copied; "
                "--one-feature attaches all photos to the camera's own feature"
            )

    def attach(self, cameras: Mapping[str, Sequence[Photo]]) -> Attached:
        """Attach what is not attached yet; afterwards everything is read back.

        Parameters
        ----------
        cameras : object id, or location, of a camera -> its photos

        Raises
        ------
        InputError
            A camera has no feature; nothing was changed.
        StageError
            Nothing more can be sent, for example after a token has expired; the next call continues.
        """
        self._features_of(cameras)
        if not self._layer.about.get("hasAttachments"):
            change = {"hasAttachments": True}
            with_retries(change_definition, self._service, self._layer.url, "updateDefinition", change)
            self._layer = look_at(self._service, self._layer.url)
        done, before, self._pause = Attached(), None, _PAUSE_S
        for _ in range(_TRIES):
            features = self._features_of(cameras)
            attached = self._read(sorted({number for own in features.values() for number in own}))
            there = _attached(features, attached)
            todo = {
                camera: [
                    photo
                    for photo in photos
                    if (photo.name, photo.size) not in there[camera][0]
                    and f"{camera}/{photo.name}" not in done.failed
                ]
                for camera, photos in cameras.items()
            }
            left = sum(map(len, todo.values()))
            before = left if before is None else before
            done.left = left
            done.there = sum(map(len, cameras.values())) - before
            done.attached = before - left - len(done.failed)
            if not left or self._stop.is_set():
                self._drop_copies(features, attached)
                return done
            self._round(todo, features, {camera: free for camera, (_, free) in there.items()}, done)
            self._pause *= 2
        for camera, photos in todo.items():
            for photo in photos:
                done.failed.setdefault(f"{camera}/{photo.name}", f"is not there after {_TRIES} attempts")
        done.left = 0
        return done

    def _round(
        self,
        todo: Mapping[str, Sequence[Photo]],
        features: Mapping[str, Sequence[int]],
        free: Mapping[str, Sequence[int]],
        done: Attached,
    ) -> None:
        pairs: list[tuple[str, int, Photo]] = []
        for camera, photos in todo.items():
            parents = [features[camera][0]] * len(photos) if self._one_feature else list(free[camera])
            if len(parents) < len(photos):
                added = self._copy(features[camera][0], len(photos) - len(parents))
                done.copies += len(added)
                parents += added
            pairs += [(camera, parent, photo) for parent, photo in zip(parents, photos, strict=False)]

        self._unanswered = 0

        def put(pair: tuple[str, int, Photo]) -> str | None:
            camera, parent, photo = pair
            if self._stop.is_set() or self._unanswered >= MOST_REFUSALS:
                return None
            refused = list(self._refusals[ending_of(photo.name)])  # other threads change it
            if len(refused) >= MOST_REFUSALS:
                return f"not sent, as {MOST_REFUSALS} of its kind were refused: {refused[-1]}"
            return self._put(parent, photo, f"{_MARK}{camera}")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for (camera, _, photo), reason in zip(pairs, pool.map(put, pairs), strict=True):
                if reason is not None:
                    done.failed[f"{camera}/{photo.name}"] = reason

    def _put(self, parent: int, photo: Photo, keywords: str) -> str | None:
        """Attach a photo to a feature that does not have it; returns why that was refused, or None.

        Also None if no answer says what was done: then it must be looked up.
        """
        content = photo.read()
        refusals = self._refusals[ending_of(photo.name)]
        address = f"{self._layer.url}/{parent}/addAttachment"
        kind = mimetypes.guess_type(photo.name)[0] or "application/octet-stream"
        try:
            if len(content) > _ONE_REQUEST:
                answer = self._service.send(
                    address, {"keywords": keywords, "uploadId": self._upload(photo.name, content)}
                )
            else:
                answer = self._service.send(
                    address, {"keywords": keywords}, {"attachment": (photo.name, content, kind)}
                )
        except Unknown as problem:
            self._unanswered += 1
            self._stop.wait(max(self._pause, problem.retry_after_s or 0.0))
            return None
        except ServiceRefused as problem:
            if not problem.is_too_large:
                refusals.append(str(problem))
            return str(problem)
        self._unanswered = 0
        result = answer.get("addAttachmentResult") or {}
        if result.get("success"):
            refusals.clear()
            return None
        error = result.get("error") or {}
        said = error.get("description") or error.get("message") or "no reason given"
        reason = f"{said} ({error.get('code')})"
        refusals.append(reason)
        return reason

    def prune(self, named: re.Pattern[str], wanted: Collection[str]) -> int:
        """Remove what was attached here with such names, except the wanted ones; returns how many.

        Raises
        ------
        StageError
            The server refuses.
        """
        gone: dict[int, list[Attachment]] = defaultdict(list)
        for one in self._read(read_ids(self._service, self._layer, "1=1")):
            is_ours = one.keywords.startswith(_MARK) and named.fullmatch(one.name)
            if is_ours and one.name not in wanted:
                gone[one.parent].append(one)
        for parent, some in gone.items():
            self._detach(parent, [one.id for one in some])
        return sum(map(len, gone.values()))

    def _detach(self, parent: int, ids: Sequence[int]) -> None:
        """Remove attachments. Raises StageError if one is still there afterwards."""
        answer = self._service.send(
            f"{self._layer.url}/{parent}/deleteAttachments", {"attachmentIds": ",".join(map(str, ids))}
        )
        results = answer.get("deleteAttachmentResults") or []
        failed = [result for result in results if not result.get("success")]
        if not failed and len(results) == len(ids):
            return
        # Another run may have removed it at the same time.
        left = {one.id: one.name for one in self._read([parent]) if one.id in ids}
        if left:
            said = [(result.get("error") or {}).get("description") for result in failed]
            raise StageError(
                f"{self._layer.url}: {next(iter(left.values()))} can't be removed from feature {parent}: "
                f"{next(filter(None, said), 'no reason given')}"
            )

    def _drop_copies(self, features: Mapping[str, Sequence[int]], attached: Sequence[Attachment]) -> None:
        """Of photos that were attached twice, keep the older one of each.

        Another run may have attached them at the same time, or a server late, when nobody waited for its
        answer any more. Whoever comes last sees them all. A copied feature that has no photo left is also
        deleted.
        """
        emptied: dict[int, int] = {}
        for camera, own in features.items():
            numbers = set(own)
            seen: set[tuple[str, int]] = set()
            spare: dict[int, list[int]] = defaultdict(list)
            theirs = [one for one in attached if one.parent in numbers and one.keywords == f"{_MARK}{camera}"]
            for one in sorted(theirs, key=lambda one: one.id):
                if (one.name, one.size) in seen:
                    spare[one.parent].append(one.id)
                seen.add((one.name, one.size))
            for parent, ids in spare.items():
                self._detach(parent, ids)
                if parent != own[0] and len(ids) == sum(one.parent == parent for one in attached):
                    emptied[parent] = own[0]
        gone = [number for number, main in emptied.items() if self._is_copy(number, main)]
        if gone:
            self._service.send(f"{self._layer.url}/applyEdits", {"deletes": ",".join(map(str, gone))})

    def _is_copy(self, number: int, main: int) -> bool:
        answer = self._service.read(
            f"{self._layer.url}/query", objectIds=f"{number},{main}", outFields="*", returnGeometry="true"
        )
        found = [
            ({name: feature["attributes"][name] for name in self._copied}, feature.get("geometry"))
            for feature in answer.get("features") or []
        ]
        return len(found) == 2 and found[0] == found[1]

    @property
    def _copied(self) -> set[str]:
        """Fields that a copy of a feature shares with it."""
        return {
            entry["name"]
            for entry in self._layer.about.get("fields") or []
            if entry["type"] not in _NOT_COPIED and entry.get("editable") is not False
        }

    def _read(self, parents: Sequence[int]) -> list[Attachment]:
        if not self._layer.about.get("hasAttachments"):
            return []
        return read_attachments(self._service, self._layer, parents)

    def _upload(self, name: str, content: bytes) -> str:
        """Upload a large file in parts; returns its id."""
        home = f"{self._layer.url.rpartition('/')[0]}/uploads"
        item = str(self._service.send(f"{home}/register", {"itemName": name})["item"]["itemID"])
        parts = [content[start : start + _PART] for start in range(0, len(content), _PART)]
        for number, part in enumerate(parts, 1):
            self._service.send(
                f"{home}/{item}/uploadPart", {"partId": str(number)}, {"file": (name, part, "image/jpeg")}
            )
        numbers = ",".join(str(number) for number in range(1, len(parts) + 1))
        self._service.send(f"{home}/{item}/commit", {"parts": numbers})
        return item

    def _features_of(self, cameras: Iterable[str]) -> dict[str, list[int]]:
        """For each camera, the object ids of its features, its own first, then copies."""
        wanted = [] if self._location is None else [self._location]
        rows = read_features(self._service, self._layer, "1=1", wanted)
        ids = [int(row[self._layer.object_id]) for row in rows]
        groups: dict[str, list[int]] = defaultdict(list)
        group_of: dict[int, str] = {}
        names = PointNames()
        for number, row in sorted(zip(ids, rows, strict=True), key=lambda pair: pair[0]):
            name = str(number)
            if self._location is not None:
                name = str(row.get(self._location))
            elif row[X] is not None:
                name = names.name(row[X], row[Y], name)
            groups[name].append(number)
            group_of[number] = name
        found: dict[str, list[int]] = {}
        for camera in cameras:
            if self._location is not None:
                own = groups.get(camera, [])
            else:
                number = int(camera) if camera.isdecimal() else -1
                group = groups.get(group_of.get(number, ""), [])
                own = [number, *(other for other in group if other != number)] if group else []
            if not own:
                named = self._location or f"object ids ({self._layer.object_id})"
                raise InputError(
                    f"{self._layer.url}: no feature for the folder {camera!r}; folders are named by {named}: "
                    f"{choices(camera, map(str, groups))}"
                )
            found[camera] = own
        return found

    def _copy(self, number: int, copies: int) -> list[int]:
        """Copy a feature, without its attachments; returns the object ids of the copies known to exist."""
        answer = self._service.read(
            f"{self._layer.url}/query", objectIds=str(number), outFields="*", returnGeometry="true"
        )
        feature = answer["features"][0]
        is_copied = self._copied
        copy: dict[str, Any] = {
            "attributes": {name: value for name, value in feature["attributes"].items() if name in is_copied}
        }
        if feature.get("geometry"):
            copy["geometry"] = {
                **feature["geometry"],
                "spatialReference": answer.get("spatialReference") or {"wkid": 4326},
            }
        added: list[int] = []
        for start in range(0, copies, _COPIES_AT_ONCE):
            if self._stop.is_set():
                break
            try:
                answer = self._service.send(
                    f"{self._layer.url}/applyEdits",
                    {"adds": [copy] * min(_COPIES_AT_ONCE, copies - start), "rollbackOnFailure": "false"},
                )
            except Unknown:  # the next round finds what was added: features without photos
                break
            results = answer.get("addResults") or []
            added += [int(result["objectId"]) for result in results if result.get("success")]
            refused = [result for result in results if not result.get("success")]
            if refused:
                said = (refused[0].get("error") or {}).get("description") or "no reason given"
                raise InputError(f"{self._layer.url}: feature {number} can't be copied: {said}")
        return added


def _attached(
    features: Mapping[str, Sequence[int]], attached: Iterable[Attachment]
) -> dict[str, tuple[set[tuple[str, int]], list[int]]]:
    """For each camera, name and size of its photos, and its features without any."""
    of: dict[int, list[Attachment]] = defaultdict(list)
    for one in attached:
        of[one.parent].append(one)
    given: set[int] = set()
    result: dict[str, tuple[set[tuple[str, int]], list[int]]] = {}
    for camera, own in features.items():
        # Cameras at one point share its features: keywords say whose photo it is.
        theirs = {
            (one.name, one.size)
            for number in own
            for one in of[number]
            if not one.keywords.startswith(_MARK) or one.keywords == f"{_MARK}{camera}"
        }
        mains = {others[0] for name, others in features.items() if name != camera}
        free = [number for number in own if not of[number] and number not in given | mains]
        given |= set(free)
        result[camera] = theirs, free
    return result


def _unique_field(layer: LayerInfo) -> str | None:
    """A field whose unique index forbids copies, apart from those that the server fills."""
    filled = {
        entry["name"].lower()
        for entry in layer.about.get("fields") or []
        if entry["type"] in _NOT_COPIED or entry.get("editable") is False
    }
    for index in layer.about.get("indexes") or []:
        fields = str(index.get("fields", ""))
        if index.get("isUnique") and not set(fields.lower().replace(" ", "").split(",")) & filled:
            return fields
    return None
