"""The addresses under /server/rest: services, layers, and what can be done with them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from camtrap_batch.rehearsal.layerserver import append, attachments, edits, query
from camtrap_batch.rehearsal.layerserver.answers import (
    Answer,
    Json,
    Refused,
    RowRefused,
    is_true,
    listed,
    numbers,
    objects,
    parse,
    whole_number,
    words,
)
from camtrap_batch.rehearsal.layerserver.definition import EDITING, Layer
from camtrap_batch.rehearsal.layerserver.edits import Edits, RolledBack, check_right
from camtrap_batch.rehearsal.layerserver.request import Operation, Request, Upload, no_such_address
from camtrap_batch.rehearsal.layerserver.site import Service, Site
from camtrap_batch.rehearsal.layerserver.uploads import Uploads

VERSION = 11.5


class FeatureServer:
    """Finds the operation of a path below `/server/rest`."""

    def __init__(self, site: Site) -> None:
        self.site, self.uploads = site, Uploads(site.database)
        self._on_layer: dict[str, Callable[[Layer, Request], Answer]] = {
            "query": self._query,
            "applyEdits": self._apply_edits,
            "addFeatures": partial(self._edit_one_way, "adds", "addResults", "Create"),
            "updateFeatures": partial(self._edit_one_way, "updates", "updateResults", "Update"),
            "deleteFeatures": self._delete_features,
            "queryAttachments": self._query_attachments,
            "append": self._append,
            "queryRelatedRecords": self._query_related,
        }
        self._on_row: dict[str, Callable[[Layer, int, Request], Answer]] = {
            "addAttachment": self._add_attachment,
            "updateAttachment": self._update_attachment,
            "deleteAttachments": self._delete_attachments,
            "attachments": self._attachments,
        }
        self._on_definition: dict[str, Callable[[Service, Layer | None, Request], Answer]] = {
            "addToDefinition": self._add_to_definition,
            "updateDefinition": self._update_definition,
            "deleteFromDefinition": self._delete_from_definition,
            "refresh": self._refresh,
        }

    def route(self, parts: list[str], request: Request) -> Operation:
        """
        Args:
            parts: parts of the path after `/server/rest`.
        """
        match parts:
            case ["info"]:
                return Operation("info", self._info)
            case [] | ["services"]:
                return Operation("services", self._directory)
            case ["services", name, "FeatureServer", *rest]:
                return self._route_service(name, rest, request)
            case ["admin", "services", name, "FeatureServer", *rest]:
                return self._route_admin(name, rest)
        return Operation("unknown", no_such_address)

    def _route_service(self, name: str, rest: list[str], request: Request) -> Operation:
        def on_layer(
            number: str, call: Callable[..., Answer], *arguments: object
        ) -> Callable[[Request], Answer]:
            def answer(request: Request) -> Answer:
                service = self.site.service(name)
                self._check_read(service, request)
                return call(self.site.layer(service.name, number), *arguments, request)

            return answer

        match rest:
            case []:
                return Operation("service", partial(self._service, name))
            case ["layers"]:
                return Operation("service.layers", partial(self._all_layers, name))
            case ["uploads", *more]:
                return self.uploads.route(
                    more, lambda request: self._check_edit(self.site.service(name), request)
                )
            case ["jobs", job]:
                return Operation("append.status", partial(self._job, name, job))
            case ["applyEdits"]:
                return Operation("applyEdits", partial(self._apply_edits_of_service, name))
            case [number]:
                return Operation("layer", on_layer(number, self._layer))
            case [number, "query"]:
                kind = query.kind_of(request.parameters)
                return Operation(f"query.{kind}", on_layer(number, self._query))
            case [number, operation] if operation in self._on_layer:
                return Operation(operation, on_layer(number, self._on_layer[operation]))
            case [number, oid] if oid.isdecimal():
                return Operation("feature", on_layer(number, self._feature, int(oid)))
            case [number, oid, operation] if oid.isdecimal() and operation in self._on_row:
                return Operation(operation, on_layer(number, self._on_row[operation], int(oid)))
            case [number, oid, "attachments", attachment] if oid.isdecimal() and attachment.isdecimal():
                call = on_layer(number, self._download, int(oid), int(attachment))
                return Operation("attachment", call)
        return Operation("unknown", no_such_address)

    def _route_admin(self, name: str, rest: list[str]) -> Operation:
        number = rest.pop(0) if rest and rest[0].isdecimal() else None

        def on_definition(
            call: Callable[[Service, Layer | None, Request], Answer],
        ) -> Callable[[Request], Answer]:
            def answer(request: Request) -> Answer:
                service = self.site.service(name)
                self._check_publisher(service, request)
                return call(
                    service, None if number is None else self.site.layer(service.name, number), request
                )

            return answer

        match rest:
            case []:
                return Operation("definition", on_definition(self._definition))
            case [operation] if operation in self._on_definition:
                return Operation(operation, on_definition(self._on_definition[operation]))
        return Operation("unknown", no_such_address)

    # Rights -----------------------------------------------------------------------------------------

    def _check_read(self, service: Service, request: Request) -> str | None:
        """The user; someone without a token may read if the service allows it."""
        user = self.site.accounts.user_of(request.token)
        if user is None and service.anonymous == "none":
            raise Refused(499, "Token Required", [])
        return user

    def _check_edit(self, service: Service, request: Request) -> str:
        """The user's name, empty for someone without a token if the service accepts edits from everybody."""
        user = self._check_read(service, request)
        if user is None:
            if service.anonymous != "edit":
                raise Refused(499, "Token Required", [])
            return ""
        if self.site.accounts.role(user) == "viewer":
            reason = f"user '{user}' may not edit '{service.name}'"
            raise Refused(403, "User does not have permissions to access this resource.", [reason])
        return user

    def _check_publisher(self, service: Service, request: Request) -> None:
        user = self.site.accounts.user_of(request.token)
        if user is None:
            raise Refused(499, "Token Required", [])
        if self.site.accounts.role(user) != "publisher":
            reason = f"user '{user}' may not change the definition of '{service.name}'"
            raise Refused(403, "User does not have permissions to access this resource.", [reason])

    # Metadata ---------------------------------------------------------------------------------------

    def _info(self, request: Request) -> Answer:
        return {
            "currentVersion": VERSION,
            "fullVersion": f"{VERSION}.0",
            "owningSystemUrl": f"{request.base}/portal",
            "authInfo": {
                "isTokenBasedSecurity": True,
                "tokenServicesUrl": f"{request.base}/portal/sharing/rest/generateToken",
            },
        }

    def _directory(self, request: Request) -> Answer:
        user = self.site.accounts.user_of(request.token)
        seen = [s for s in self.site.services.values() if user is not None or s.anonymous != "none"]
        entries = [
            {"name": service.name, "type": "FeatureServer", "url": self._address(service, request)}
            for service in seen
        ]
        return {"currentVersion": VERSION, "folders": [], "services": entries}

    def _service(self, name: str, request: Request) -> Answer:
        service = self.site.service(name)
        self._check_read(service, request)
        return self._service_metadata(service)

    def _service_metadata(self, service: Service) -> Json:
        layers = self.site.layers_of(service.name)
        spatial = [layer for layer in layers if layer.geometry_type is not None]
        found: Json = {
            "currentVersion": VERSION,
            "serviceItemId": service.item,
            "serviceDescription": service.description,
            "description": service.description,
            "copyrightText": "",
            "hasVersionedData": False,
            "hasStaticData": False,
            "maxRecordCount": service.max_records,
            "supportedQueryFormats": "JSON",
            "supportsAppend": True,
            "supportedAppendFormats": "csv,featureCollection",
            "capabilities": f"{service.capabilities},Uploads"
            if "Create" in service.capabilities
            else service.capabilities,
            "units": "esriMeters",
            "allowGeometryUpdates": True,
            "syncEnabled": False,
            "editorTrackingInfo": {"enableEditorTracking": any(layer.editors for layer in layers)},
            "layers": [
                {
                    "id": layer.id,
                    "name": layer.name,
                    "type": "Feature Layer",
                    "geometryType": layer.geometry_type,
                }
                for layer in spatial
            ],
            "tables": [
                {"id": layer.id, "name": layer.name, "type": "Table"}
                for layer in layers
                if layer.geometry_type is None
            ],
        }
        if spatial:
            metadata = self._metadata(spatial[0])
            found["spatialReference"] = metadata["sourceSpatialReference"]
            found["initialExtent"] = found["fullExtent"] = metadata["extent"]
        else:
            found["spatialReference"] = {"wkid": 102100, "latestWkid": 3857}
        return found

    def _all_layers(self, name: str, request: Request) -> Answer:
        service = self.site.service(name)
        self._check_read(service, request)
        layers = self.site.layers_of(service.name)
        return {
            "layers": [self._metadata(layer) for layer in layers if layer.geometry_type is not None],
            "tables": [self._metadata(layer) for layer in layers if layer.geometry_type is None],
        }

    def _layer(self, layer: Layer, request: Request) -> Answer:
        return self._metadata(layer)

    def _metadata(self, layer: Layer) -> Json:
        with self.site.database.reading() as db:
            found = query.extent(db, layer) if layer.geometry_type is not None else None
            (edited_ms,) = db.execute(
                "SELECT edited_ms FROM layers WHERE service = ? AND id = ?", (layer.service, layer.id)
            ).fetchone()
        about = layer.metadata(self.site.capabilities(layer), found, edited_ms, VERSION)
        return {**about, "serviceItemId": self.site.services[layer.service].item}

    def _address(self, service: Service, request: Request) -> str:
        return f"{request.base}/server/rest/services/{service.name}/FeatureServer"

    # Reading rows -----------------------------------------------------------------------------------

    def _query(self, layer: Layer, request: Request) -> Answer:
        check_right(self.site.capabilities(layer), "Query")
        if request.text("f") not in ("", "json", "pjson", "html"):
            raise Refused(400, "Invalid format", [f"f={request.text('f')}: only json is supported"])
        creator = self._only_of(layer, request)
        with self.site.database.reading() as db:
            return query.query(db, layer, request.parameters, creator)

    def _query_related(self, layer: Layer, request: Request) -> Answer:
        check_right(self.site.capabilities(layer), "Query")
        wanted = numbers(request.text("relationshipId"), "relationshipId")
        related = layer.definition.get("relationships") or []
        entry = next((one for one in related if [one.get("id")] == wanted), None)
        if entry is None:
            raise Refused(400, "Invalid or missing input parameters.", [f"there is no relationship {wanted}"])
        other = self.site.layer(layer.service, str(entry["relatedTableId"]))
        back = next(
            one for one in other.definition.get("relationships") or [] if one["relatedTableId"] == layer.id
        )
        with self.site.database.reading() as db:
            ids = {"objectIds": request.text("objectIds"), "outFields": f"{layer.oid},{entry['keyField']}"}
            own = query.query(db, layer, ids)["features"]
            groups = []
            for row in own:
                key = str(row["attributes"][entry["keyField"]]).replace("'", "''")
                asked = {
                    "where": f"{back['keyField']} = '{key}'",
                    "outFields": request.text("outFields") or "*",
                }
                found = query.query(db, other, asked)
                records = {"objectId": row["attributes"][layer.oid], "relatedRecords": found["features"]}
                groups.append(records)
        return {"relatedRecordGroups": groups}

    def _only_of(self, layer: Layer, request: Request) -> str | None:
        """The only user whose rows are shown, if the layer hides those of others; None: all are shown."""
        if layer.shows_others:
            return None
        user = self.site.accounts.user_of(request.token)
        return None if user == self.site.services[layer.service].owner else user or ""

    def _feature(self, layer: Layer, oid: int, request: Request) -> Answer:
        check_right(self.site.capabilities(layer), "Query")
        with self.site.database.reading() as db:
            found = query.query(db, layer, {"objectIds": str(oid), "outFields": "*"})
        if not found["features"]:
            raise Refused(404, "Feature not found.", [f"there is no row {oid}"])
        return {"feature": found["features"][0]}

    # Editing rows -----------------------------------------------------------------------------------

    def _apply_edits(self, layer: Layer, request: Request) -> Answer:
        request.posted()
        adds, updates = objects(request.text("adds"), "adds"), objects(request.text("updates"), "updates")
        by_globalid = is_true(request.text("useGlobalIds"))
        if request.text("attachments").strip():
            raise Refused(400, "This operation is not supported.", ["attachments go through addAttachment"])
        return self._edit(layer, request, adds, updates, _keys(request.text("deletes"), by_globalid))

    def _edit(
        self,
        layer: Layer,
        request: Request,
        adds: list[Json],
        updates: list[Json],
        deletes: list[int | str],
    ) -> dict[str, Any]:
        editor = self._check_edit(self.site.services[layer.service], request)
        given = zip(EDITING, (adds, updates, deletes), strict=True)
        check_right(self.site.capabilities(layer), *(word for word, rows in given if rows))
        call = Edits(
            adds,
            updates,
            deletes,
            by_globalid=is_true(request.text("useGlobalIds")),
            rollback=request.text("rollbackOnFailure", "true").strip().lower() != "false",
            editor=editor,
            fail=_failing(request),
        )
        try:
            with self.site.database.writing() as db:
                results: dict[str, Any] = dict(edits.apply(db, layer, call))
        except RolledBack as rolled_back:
            results = dict(rolled_back.results)
        if is_true(request.text("returnEditMoment")):
            results["editMoment"] = call.moment_ms
        return results

    def _edit_one_way(self, what: str, results: str, right: str, layer: Layer, request: Request) -> Answer:
        request.posted()
        rows = objects(request.text("features"), "features")
        check_right(self.site.capabilities(layer), right)
        found = self._edit(
            layer, request, rows if what == "adds" else [], rows if what == "updates" else [], []
        )
        return {results: found[results]}

    def _delete_features(self, layer: Layer, request: Request) -> Answer:
        request.posted()
        check_right(self.site.capabilities(layer), "Delete")
        if request.text("objectIds").strip():
            keys = numbers(request.text("objectIds"), "objectIds")
        elif request.text("where").strip():
            with self.site.database.reading() as db:
                found = query.query(db, layer, {"where": request.text("where"), "returnIdsOnly": "true"})
            keys = found["objectIds"]
        else:
            raise Refused(400, "Unable to delete features.", ["one of 'objectIds' and 'where' is needed"])
        return {"deleteResults": self._edit(layer, request, [], [], [*keys])["deleteResults"]}

    def _apply_edits_of_service(self, name: str, request: Request) -> Answer:
        """Edits of several layers in one call."""
        request.posted()
        service = self.site.service(name)
        self._check_edit(service, request)
        by_globalid = is_true(request.text("useGlobalIds"))
        answer: list[Json] = []
        for entry in objects(request.text("edits"), "edits"):
            layer = self.site.layer(service.name, str(entry.get("id")))
            deletes = _keys(",".join(str(key) for key in entry.get("deletes") or []), by_globalid)
            adds, updates = listed(entry.get("adds"), "adds"), listed(entry.get("updates"), "updates")
            answer.append({"id": layer.id, **self._edit(layer, request, adds, updates, deletes)})
        return {"editedLayers": answer}

    # Attachments ------------------------------------------------------------------------------------

    def _add_attachment(self, layer: Layer, oid: int, request: Request) -> Answer:
        self._check_attachment_edit(layer, request)

        def add() -> Json:
            upload = self._sent(request)
            if upload is None:
                raise RowRefused(
                    1008, "Adding an attachment failed: there is no file 'attachment' and no 'uploadId'."
                )
            with self.site.database.writing() as db:
                return attachments.add(db, layer, oid, upload, request.text("keywords"))

        return {"addAttachmentResult": _result(request, add)}

    def _update_attachment(self, layer: Layer, oid: int, request: Request) -> Answer:
        self._check_attachment_edit(layer, request)
        number = whole_number(request.text("attachmentId"), "attachmentId")

        def update() -> Json:
            with self.site.database.writing() as db:
                return attachments.update(
                    db, layer, oid, number, self._sent(request), request.parameters.get("keywords")
                )

        return {"updateAttachmentResult": _result(request, update)}

    def _delete_attachments(self, layer: Layer, oid: int, request: Request) -> Answer:
        self._check_attachment_edit(layer, request)
        fail = _failing(request)
        results: list[Json] = []
        with self.site.database.writing() as db:
            for index, number in enumerate(numbers(request.text("attachmentIds"), "attachmentIds")):
                try:
                    if fail is not None:
                        fail(index)
                    results.append(attachments.delete(db, layer, oid, number))
                except RowRefused as refusal:
                    results.append({"objectId": number, "success": False, "error": refusal.body()})
        return {"deleteAttachmentResults": results}

    def _attachments(self, layer: Layer, oid: int, request: Request) -> Answer:
        attachments.check_attachments(layer)
        with self.site.database.reading() as db:
            return attachments.infos(db, layer, oid)

    def _download(self, layer: Layer, oid: int, attachment: int, request: Request) -> Answer:
        attachments.check_attachments(layer)
        with self.site.database.reading() as db:
            return attachments.download(db, layer, oid, attachment)

    def _query_attachments(self, layer: Layer, request: Request) -> Answer:
        attachments.check_attachments(layer)
        address = f"{self._address(self.site.services[layer.service], request)}/{layer.id}"
        with self.site.database.reading() as db:
            return attachments.query(db, layer, request.parameters, address)

    def _check_attachment_edit(self, layer: Layer, request: Request) -> None:
        request.posted()
        attachments.check_attachments(layer)
        self._check_edit(self.site.services[layer.service], request)
        check_right(self.site.capabilities(layer), "Update")

    def _sent(self, request: Request) -> Upload | None:
        if upload := request.text("uploadId").strip():
            return self.uploads.uploaded(upload)
        return request.files.get("attachment")

    # Append -----------------------------------------------------------------------------------------

    def _append(self, layer: Layer, request: Request) -> Answer:
        request.posted()
        service = self.site.services[layer.service]
        editor = self._check_edit(service, request)
        check_right(self.site.capabilities(layer), "Create")
        if is_true(request.text("upsert")):
            check_right(self.site.capabilities(layer), "Update")
        source = append.read_source(self.site.database, request, self.uploads)
        plan = append.plan(layer, request.parameters, source, editor)
        job = uuid.uuid4().hex
        now = int(time.time() * 1000)
        status = {"status": "Pending", "submissionTime": now, "lastUpdatedTime": now, "layerName": layer.name}
        append.save_status(self.site.database, job, status)
        fault = self.site.faults.meet("append.job", request.path)
        thread = threading.Thread(target=append.run, args=(self.site, job, status, plan, fault), daemon=True)
        self.site.jobs.append(thread)
        thread.start()
        return {"statusUrl": f"{self._address(service, request)}/jobs/{job}"}

    def _job(self, name: str, job: str, request: Request) -> Answer:
        self._check_read(self.site.service(name), request)
        return append.load_status(self.site.database, job)

    # Definitions ------------------------------------------------------------------------------------

    def _definition(self, service: Service, layer: Layer | None, request: Request) -> Answer:
        return self._service_metadata(service) if layer is None else self._metadata(layer)

    def _add_to_definition(self, service: Service, layer: Layer | None, request: Request) -> Answer:
        request.posted()
        changes = _object(request.text("addToDefinition"), "addToDefinition")
        if layer is not None:
            self.site.add_to_layer(layer, changes)
            return {"success": True}
        tables = [{"type": "Table", **entry} for entry in listed(changes.get("tables"), "tables")]
        made = self.site.add_layers(service, [*listed(changes.get("layers"), "layers"), *tables])
        rest = {key: value for key, value in changes.items() if key not in ("layers", "tables")}
        self.site.update_service(service, rest)
        kinds: Json = {"layers": [], "tables": []}
        for new in made:
            kinds["tables" if new.geometry_type is None else "layers"].append(
                {"name": new.name, "id": new.id}
            )
        return {"success": True, **kinds}

    def _update_definition(self, service: Service, layer: Layer | None, request: Request) -> Answer:
        request.posted()
        changes = _object(request.text("updateDefinition"), "updateDefinition")
        if layer is None:
            self.site.update_service(service, changes)
        else:
            self.site.update_layer(layer, changes)
        return {"success": True}

    def _delete_from_definition(self, service: Service, layer: Layer | None, request: Request) -> Answer:
        request.posted()
        changes = _object(request.text("deleteFromDefinition"), "deleteFromDefinition")
        if layer is not None:
            self.site.delete_from_layer(layer, changes)
        else:
            gone = [entry for key in ("layers", "tables") for entry in listed(changes.get(key), key)]
            self.site.delete_layers(service, [whole_number(str(entry.get("id")), "id") for entry in gone])
        return {"success": True}

    def _refresh(self, service: Service, layer: Layer | None, request: Request) -> Answer:
        return {"success": True}


def _keys(text: str, by_globalid: bool) -> list[int | str]:
    if by_globalid:
        return [key.strip('"') for key in words(text.strip("[]"))]
    return [*numbers(text, "deletes")]


def _object(text: str, what: str) -> Json:
    found = parse(text or "{}", what)
    if not isinstance(found, dict):
        raise Refused(400, f"Invalid '{what}' parameter", ["a JSON object is needed"])
    return found


def _failing(request: Request) -> Callable[[int], None] | None:
    fault = request.fault
    if fault is None or fault.kind != "rows":
        return None

    def fail(number: int) -> None:
        if fault.rows is None or number in fault.rows:
            raise RowRefused(fault.code or 1000, fault.message)

    return fail


def _result(request: Request, call: Callable[[], Json]) -> Json:
    fail = _failing(request)
    try:
        if fail is not None:
            fail(0)
        return call()
    except RowRefused as refusal:
        return {"objectId": -1, "globalId": None, "success": False, "error": refusal.body()}
