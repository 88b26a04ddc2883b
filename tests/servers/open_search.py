"""OpenSearch: laid out from Maven Central by ``tests/servers/opensearch/``, run by a JDK >= 23."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from producers.network import free_port
from tests.servers.base import Remote, Unavailable
from tests.servers.elastic import PAGE, Elasticsearch, find_java
from tests.servers.local import LocalHost, new_folder

TARGET = Path(__file__).parent / "opensearch" / "target"


class OpenSearch(Elasticsearch):
    """A single node; ``url`` is ``http://127.0.0.1:PORT``."""

    def documents(self, index: str) -> dict[str, Any]:
        """Refresh and return the documents of an index by their id, 10,000 at most."""
        self.call("POST", f"/{index}/_refresh")
        hits = self.call("POST", f"/{index}/_search", {"size": PAGE})["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}


def opensearch() -> OpenSearch:
    """Return a node, not started."""
    if url := os.environ.get("TEST_OPENSEARCH_URL"):
        return OpenSearch("opensearch", url.rstrip("/"), Remote())
    if not (TARGET / "launcher.jar").exists():
        raise Unavailable("OpenSearch is not built: `make servers` does it")
    java, port = find_java(), free_port()
    folder = new_folder("opensearch")
    (folder / "tmp").mkdir()
    command = [
        str(java), "-Xms256m", "-Xmx768m", "-XX:+UseG1GC", "-XX:TieredStopAtLevel=1", "-Xlog:disable",
        "--add-modules=jdk.incubator.vector", "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow", f"-Djava.io.tmpdir={folder / 'tmp'}",
        "-cp", f"{TARGET / 'launcher.jar'}:{TARGET / 'lib'}/*", "testserver.Launcher",
        str(folder / "home"), str(port), str(free_port()),
    ]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    host = LocalHost("opensearch", folder, command, environment)
    return OpenSearch("opensearch", f"http://127.0.0.1:{port}", host)
