"""Where and with what was measured; nothing that names the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import version

from benchmarks.catalogue import PEERS, java

#: Libraries whose versions are told, by the file that pins them.
PINNED = {
    "go/go.mod": ("github.com/rabbitmq/amqp091-go", "github.com/tidwall/gjson"),
    "telegraf/go.mod": ("github.com/influxdata/telegraf",),
    "requirements.txt": ("aio-pika", "aiohttp", "celery", "celery-batches"),
}
INSTALLED = ("kombu", "amqp", "elasticsearch", "orjson", "pika")


def machine() -> dict[str, str]:
    """Return cores, memory, system and Python."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the version of everything that takes part, as it is pinned or installed."""
    found = {name: version(name) for name in INSTALLED}
    for file, names in PINNED.items():
        text = (PEERS / file).read_text()
        found.update({name.removeprefix("github.com/"): pinned(text, name) for name in names})
    for pom in sorted(PEERS.glob("*/pom.xml")):
        one = properties(pom.read_text())
        found.update({f"{name} ({pom.parent.name})": number for name, number in one.items()})
    for name, command in {"go": ["go", "version"], "java": [java(), "-version"]}.items():
        with suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            numbers = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
            found[name] = numbers[0] if numbers else "?"
    return found


def pinned(text: str, name: str) -> str:
    """Find a version in the text of a go.mod or of a requirements file."""
    found = re.search(rf"(?m)^(?:require|\t)?\s*{re.escape(name)}(?:\s+v|==)([\w.]+)", text)
    return found[1] if found else "?"


def properties(pom: str) -> dict[str, str]:
    """Return the versions that a pom.xml names as properties: ``<camel.version>4.1</camel.version>``."""
    return dict(re.findall(r"<([\w-]+)\.version>([\w.]+)</", pom))
