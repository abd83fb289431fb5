"""Several GPU workers that train one model: the one that has the task asks the others to join it.

The scheduler knows of one task that trains, on one worker. That worker opens a meeting point (a TCP store) at
its own address and sends each other worker that holds GPU=1 a task of its own. Those that come are the team;
each reads the tables for itself. When one of them dies, the attempt ends for all, and the next one begins at
the last checkpoint with those that are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed import Future, get_client, get_worker
from distributed.comm.addressing import get_address_host

from camtrap_batch.engine.base import Joins, Nobody

if TYPE_CHECKING:
    from distributed import Worker

    from camtrap_batch.engine.visibility import Visibility
    from camtrap_batch.model.team import SoloTeam

_COME_S = 60.0
"""How long workers may take to join: busy ones are not waited for."""

_POLL_S = 0.1
_LAST_WORDS_S = 15.0


@dataclass
class JoiningWorkers:
    """The tasks of the other workers, by address."""

    tasks: dict[str, Future[Any]] = field(default_factory=dict)

    def problem(self) -> BaseException | None:
        """Why the first of them failed, for a reason other than losing the team; waits briefly for it."""
        from camtrap_batch.model.team import TeamLost

        deadline = time.monotonic() + _LAST_WORDS_S
        while time.monotonic() < deadline and not all(task.done() for task in self.tasks.values()):
            time.sleep(_POLL_S)
        problems = [task.exception() for task in self.tasks.values() if task.status == "error"]
        return next((problem for problem in problems if not isinstance(problem, TeamLost)), None)


@contextmanager
def gathered(
    worker: Worker, visibility: Visibility, work: Joins, batch: int
) -> Iterator[tuple[SoloTeam, JoiningWorkers | Nobody]]:
    """The team of `worker`, on which this runs, and the other GPU workers that are there.

    Raises
    ------
    TeamLost
        Within the block: one of them is gone.
    """
    from camtrap_batch.model.team import WAIT, SoloTeam, Team, open_store, use_interface_of

    others = JoiningWorkers()
    me = worker.address
    addresses = _other_gpu_workers(me)
    if not addresses:
        yield SoloTeam(), Nobody()
        return
    host = get_address_host(me)
    use_interface_of(host)
    store, port = open_store(host, None, WAIT)
    client = get_client()
    try:
        for address in addresses:
            others.tasks[address] = client.submit(
                _join,
                work,
                visibility,
                batch,
                host,
                port,
                workers=[address],
                allow_other_workers=False,
                resources={"GPU": 1},
                pure=False,
                key=f"join-{address}-{port}",
            )
        here = _wait_for(lambda address: store.check([f"here/{address}"]), others)
        device = _device()
        team = [me, *(address for address in here if store.get(f"here/{address}").decode() == device.type)]
        store.set("team", json.dumps(team))
        if len(team) == 1:
            yield SoloTeam(), others
        else:
            with Team(store, 0, len(team), device) as joined:
                yield joined, others
    finally:
        client.cancel(list(others.tasks.values()))


def _join(work: Joins, visibility: Visibility, batch: int, host: str, port: int) -> None:
    """The task of another worker."""
    from camtrap_batch.engine.dask.context import here
    from camtrap_batch.model.team import WAIT, Team, TeamLost, open_store, use_interface_of

    use_interface_of(host)
    try:
        store, _ = open_store(host, port, WAIT)
        worker = get_worker()
        me, device = worker.address, _device()
        store.set(f"here/{me}", device.type)
        team = json.loads(store.get("team"))
    except RuntimeError:  # whoever asked is gone
        return
    if me not in team:
        return
    try:
        with Team(store, team.index(me), len(team), device) as joined:
            work.join(joined, batch, here(worker, visibility))
    except TeamLost:
        # The worker that has the task reports it, and asks again.
        return


def _wait_for(is_here: Callable[[str], bool], others: JoiningWorkers) -> list[str]:
    """Addresses of those that came, in order."""
    deadline = time.monotonic() + _COME_S
    here: set[str] = set()
    while time.monotonic() < deadline:
        here |= {address for address in others.tasks if address not in here and is_here(address)}
        if all(address in here or task.done() for address, task in others.tasks.items()):
            break
        time.sleep(_POLL_S)
    return sorted(here)


def _other_gpu_workers(me: str) -> list[str]:
    # Workers in one process would be a single process to torch.distributed.
    if me.startswith("inproc"):
        return []
    workers = get_client().scheduler_info(n_workers=-1)["workers"]
    return sorted(
        address for address, info in workers.items() if info["resources"].get("GPU") and address != me
    )


def _device() -> Any:
    from camtrap_batch.model.device import choose_device

    return choose_device("auto")
