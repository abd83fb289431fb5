"""An ArcGIS portal (Online or Enterprise), through the client `arcgis` (the extra 'arcgis').

`connection` signs in; `adapter` sends each edit once, and none without its token; `service` queries a feature
service and interprets its answers; `reading` gets all rows and attachments of a layer. Importing this imports
no client.
"""

from __future__ import annotations

from camtrap_batch.portal.connection import Portal, connect, without_secrets
from camtrap_batch.portal.service import Service

__all__ = ["Portal", "Service", "connect", "without_secrets"]
