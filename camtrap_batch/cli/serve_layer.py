"""camtrap serve-layer: the rehearsal server."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from camtrap_batch.cli.options import whole_number
from camtrap_batch.cli.parser import Parser


def add(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="where its layers are kept; created if missing")
    parser.add_argument("--port", type=whole_number, default=0, metavar="N", help="default: a free one")
    parser.add_argument(
        "--faults", metavar="FILE", help="JSON list of what is to go wrong, see docs/rehearsal.md"
    )
    parser.set_defaults(call=_serve)


def _serve(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.rehearsal.layerserver import LayerServer, load_faults

    faults = load_faults(Path(options.faults)) if options.faults else []
    with LayerServer(Path(options.folder), port=options.port) as server:
        for fault in faults:
            server.faults.add(fault)
        print(f"portal: {server.url}")
        for name, url in server.layer_urls().items():
            print(f"layer {name}: {url}")
        users = ", ".join(f"{name} ({user.role})" for name, user in server.users.items())
        print(f"users: {users}; password of each: rehearsal")
        if server.ca_file is not None:
            print(f"https on the same port, certificate: {server.ca_file}")
        print("Ctrl-C ends it", flush=True)
        stop.wait()
    return 0
