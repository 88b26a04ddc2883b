"""Where consumers write: a server that keeps nothing, or Elasticsearch. Both tell what came."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, Protocol

import requests

from benchmarks.main_job import MAPPING
from benchmarks.process import leash

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.catalogue import Peer
    from tests.servers import Elasticsearch

INDEX = "bench"


class Target(Protocol):
    """One run writes between :meth:`reset` and :meth:`faults`."""

    name: str
    url: str

    def reset(self, numbers: int) -> None:
        """Forget everything; so many messages will be written, with the numbers from 0 on."""
        ...

    def written(self) -> int:
        """Return how many documents came so far."""
        ...

    def faults(self, peer: Peer) -> list[str]:
        """Return what is wrong with what came; empty if each message came, with its id if it has one."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class NullSink:
    """The server of ``sink/``, a process of its own."""

    name = "null"

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([*leash(), program], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        self._session = requests.Session()
        self._numbers = 0

    def reset(self, numbers: int) -> None:
        self._numbers = numbers
        self._session.post(f"{self.url}/_bench/reset?numbers={numbers}", timeout=30).raise_for_status()

    def account(self) -> dict[str, int]:
        """Return the account of ``sink/account.go``."""
        account: dict[str, int] = self._session.get(f"{self.url}/_bench/account", timeout=30).json()
        return account

    def written(self) -> int:
        return self.account()["distinct"]

    def faults(self, peer: Peer) -> list[str]:
        account = self.account()
        found = []
        if account["distinct"] != self._numbers or account["strange"]:
            found.append(f"{account['distinct']} of {self._numbers} came, {account['strange']} strange ones")
        if account["repeated"]:
            found.append(f"{account['repeated']} came again")
        if peer.ids and account["matching_id"] != account["documents"]:
            found.append(f"{account['matching_id']} of {account['documents']} have their id")
        return found

    def close(self) -> None:
        self._session.close()
        self._process.terminate()
        with self._process:  # waits for it, and closes its output
            pass


class RealElasticsearch:
    """One index, made anew for each run."""

    name = "elasticsearch"

    def __init__(self, elastic: Elasticsearch) -> None:
        self._elastic, self.url = elastic, elastic.url
        self._numbers = 0

    def reset(self, numbers: int) -> None:
        self._numbers = numbers
        self._call("DELETE", f"/{INDEX}?ignore_unavailable=true")
        self._call("PUT", f"/{INDEX}", MAPPING)

    def written(self) -> int:
        stats = self._call("GET", f"/{INDEX}/_stats/indexing")
        return int(stats["_all"]["primaries"]["indexing"]["index_total"])

    def faults(self, peer: Peer) -> list[str]:
        self._call("POST", f"/{INDEX}/_refresh")
        field = {"field": peer.number}
        aggregations = {"numbers": {"stats": field}}
        asked = {"size": 0, "track_total_hits": True, "aggs": aggregations}
        answer = self._call("POST", f"/{INDEX}/_search", asked)
        found, numbers = answer["hits"]["total"]["value"], answer["aggregations"]["numbers"]
        total = self._numbers
        if found != total or numbers["sum"] != total * (total - 1) / 2 or numbers["max"] != total - 1:
            return [f"{found} documents of {total}, their numbers: {numbers}"]
        return []

    def close(self) -> None:
        """It belongs to the fleet."""

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        return self._elastic.call(method, path, body)
