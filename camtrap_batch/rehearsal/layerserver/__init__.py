"""The rehearsal server: an ArcGIS-style FeatureServer with a small portal on loopback.

    with LayerServer(folder) as server:
        server.url                                       # of the portal, for GIS(...)
        server.layer_url(0)                              # of the first layer of the service CameraTraps
        server.create_service("results", [{"name": "cameras", "geometryType": "esriGeometryPoint", ...}])
        server.faults.add("http", "applyEdits", status=503, nth=2, times=3)
        server.faults.add("drop", "applyEdits", when="after")
        server.rows(0, "results"), server.attachments(0, "results"), server.requests()

The same port speaks http and https. The client turns http into https, so `GIS(server.url, "ranger",
"rehearsal", verify_cert=False, set_active=False)` is enough; `server.ca_file` is the certificate to trust.
"""

from __future__ import annotations

from camtrap_batch.rehearsal.layerserver.accounts import User
from camtrap_batch.rehearsal.layerserver.faults import Fault, Faults, load_faults
from camtrap_batch.rehearsal.layerserver.server import LayerServer

__all__ = ["LayerServer", "User", "Fault", "Faults", "load_faults"]
