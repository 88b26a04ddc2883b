"""Elasticsearch: laid out from Maven Central by ``tests/servers/elasticsearch/``, run by a JDK >= 23."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from producers.network import free_port
from tests.servers.base import Remote, Server, Unavailable
from tests.servers.local import LocalHost, new_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

JAVA = 23
#: Documents of one answer.
PAGE = 10_000
HOME = Path(__file__).parent / "elasticsearch" / "target" / "home"
LAUNCHER = HOME.parent / "launcher.jar"
MODULES = "ALL-MODULE-PATH,jdk.net,jdk.management.agent,jdk.incubator.vector"
NATIVE = "org.elasticsearch.nativeaccess,org.elasticsearch.foreign,org.apache.lucene.core"


class Elasticsearch(Server):
    """A single node; ``url`` is ``http://127.0.0.1:PORT``."""

    def ready(self) -> bool:
        """Ask for its health: yellow or green."""
        answer = requests.get(f"{self.url}/_cluster/health", timeout=2)
        return answer.ok and answer.json()["status"] in {"yellow", "green"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with a JSON body; return the decoded answer, raise ``HTTPError`` from 400 on."""
        answer = requests.request(method, f"{self.url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def count(self, index: str) -> int:
        """Refresh and count the documents of an index, or of a pattern; 0 if there is none."""
        name = f"/{index}/_refresh?ignore_unavailable=true"
        self.call("POST", name)
        return int(self.call("GET", f"/{index}/_count?ignore_unavailable=true")["count"])

    def documents(self, index: str) -> dict[str, Any]:
        """Refresh and return the documents of an index by their id."""
        self.call("POST", f"/{index}/_refresh")
        found: dict[str, Any] = {}
        at = self.call("POST", f"/{index}/_pit?keep_alive=1m")["id"]
        query = {"size": PAGE, "sort": ["_shard_doc"], "pit": {"id": at, "keep_alive": "1m"}}
        while True:
            hits = self.call("POST", "/_search", query)["hits"]["hits"]
            found |= {hit["_id"]: hit["_source"] for hit in hits}
            if len(hits) < PAGE:
                self.call("DELETE", "/_pit", {"id": at})
                return found
            query["search_after"] = hits[-1]["sort"]


def elasticsearch(
    settings: Mapping[str, str] | None = None, *, heap: str = "768m", quick_start: bool = True
) -> Elasticsearch:
    """Return a node, not started.

    ``settings``: further ones of the node, such as ``{"http.max_content_length": "1mb"}``.
    ``quick_start``: compile less; ready in half the time, slower once warm.
    """
    if not settings and (url := os.environ.get("TEST_ELASTICSEARCH_URL")):
        return Elasticsearch("elasticsearch", url.rstrip("/"), Remote())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    try:
        java = _installed()
    except Unavailable as why:
        return _container(url, port, settings or {}, heap, why)
    folder = new_folder("elasticsearch")
    command = _command(java, folder, port, settings or {}, heap, quick_start=quick_start)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    return Elasticsearch("elasticsearch", url, LocalHost("elasticsearch", folder, command, environment))


def _installed() -> Path:
    """Return the ``java`` to run it with."""
    if not LAUNCHER.exists():
        raise Unavailable("Elasticsearch is not built: `make servers` does it")
    return find_java()


def find_java() -> Path:
    """Return the ``java`` of the newest JDK in JAVA_HOME or the system's JVM folder."""
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    homes += sorted(Path("/usr/lib/jvm").glob("*/"))
    found = [(_version(home), str(home)) for home in homes if (home / "bin" / "java").exists()]
    version, home = max(found, default=(0, ""))
    if version < JAVA:
        raise Unavailable(f"no JDK {JAVA} or newer in JAVA_HOME or /usr/lib/jvm (the newest is {version})")
    return Path(home) / "bin" / "java"


def _version(home: Path) -> int:
    release = home / "release"
    found = (
        re.search(r'^JAVA_VERSION="(\d+)', release.read_text(), re.MULTILINE) if release.exists() else None
    )
    return int(found[1]) if found else 0


def _command(
    java: Path, folder: Path, port: int, settings: Mapping[str, str], heap: str, *, quick_start: bool
) -> list[str]:
    natives = folder / "natives"
    natives.mkdir()
    (folder / "tmp").mkdir()
    for library in sorted(Path("/usr/lib").glob("*/libzstd.so.1"))[:1]:
        (natives / "libzstd.so").symlink_to(library)
    return [
        str(java),
        "-Xms256m",
        f"-Xmx{heap}",
        "-XX:+UseG1GC",
        *(["-XX:TieredStopAtLevel=1"] if quick_start else []),
        "-Xlog:disable",
        "-Xlog:all=warning:stderr",
        "--module-path",
        str(HOME / "lib"),
        "--add-modules",
        MODULES,
        f"--enable-native-access={NATIVE}",
        "--sun-misc-unsafe-memory-access=allow",
        f"-Des.path.home={HOME}",
        f"-Des.nativelibs.path={natives}",
        "-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        "-Dlog4j2.disable.jmx=true",
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        *(f"-Dset.{name}={value}" for name, value in settings.items()),
        "-cp",
        str(LAUNCHER),
        "testserver.Launcher",
        str(folder),
        str(port),
    ]


def _container(
    url: str, port: int, settings: Mapping[str, str], heap: str, why: Unavailable
) -> Elasticsearch:
    from tests.servers.container import ContainerHost

    environment = {
        "discovery.type": "single-node",
        "xpack.security.enabled": "false",
        "cluster.routing.allocation.disk.threshold_enabled": "false",
        "ES_JAVA_OPTS": f"-Xms256m -Xmx{heap}",
        **settings,
    }
    host = ContainerHost("elasticsearch:9.5.3", {9200: port}, environment, instead=str(why))
    return Elasticsearch("elasticsearch", url, host)
