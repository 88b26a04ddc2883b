"""``python -m tests.terminal_pictures``: pictures for the documentation, each of a real screen."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from producers.load import main as load
from tests.terminal import ROOT, Terminal, program

PICTURES = ROOT / "docs" / "pictures" / "terminal"
SETTINGS = """\
broker = "sqlite-queue:///queue.db"

[routes.orders]
queue = "orders"
sink = "sqlite:///documents.db"
size = 500

[routes.clicks]
queue = "clicks"
sink = "jsonl:///clicks"
age = "1s"

[routes.payments]
queue = "payments"
sink = "webhook+http://127.0.0.1:9/payments"
"""
#: Queue, messages, messages a second.
LOADS = (("orders", "30000", "3000"), ("clicks", "1200", "120"), ("payments", "5", "1"))
WRONG = SETTINGS.replace("size = 500", 'sise = 500\nage = "2"').replace("jsonl:", "jsonnl:")


def main() -> int:
    """Make all; return the exit code."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.joinpath("settings.toml").write_text(SETTINGS)
        folder.joinpath("wrong.toml").write_text(WRONG)
        _write("summary", _summary(folder))
        _write("check", _ended(folder, "aggregator.consume", "--check", "--config", "wrong.toml"))
        _write("doctor", _ended(folder, "aggregator.doctor", "--config", "settings.toml"))
    return 0


def _summary(folder: Path) -> str:
    broker = f"sqlite-queue:///{folder}/queue.db"
    loads = [
        Thread(target=load, args=(["--broker", broker, "--queue", queue, "--count", count, "--rate", rate],))
        for queue, count, rate in LOADS
    ]
    for thread in loads:
        thread.start()
    command = program("aggregator.consume", "--config", "settings.toml")
    opened = Terminal(*command, folder=folder, columns=92, rows=16)
    try:
        opened.wait(
            lambda lines: any(re.search(r"· 2\d,\d{3} written", line) for line in lines), "20,000 messages"
        )
        return opened.svg("python -m aggregator.consume --config settings.toml")
    finally:
        opened.end()
        for thread in loads:
            thread.join()


def _ended(folder: Path, module: str, *flags: str) -> str:
    opened = Terminal(*program(module, *flags), folder=folder, columns=104, rows=60)
    opened.end(b"")
    return opened.svg(f"python -m {module} {' '.join(flags)}", {str(folder): "/srv/shop"})


def _write(name: str, picture: str) -> None:
    path = PICTURES / f"{name}.svg"
    path.write_text(picture)
    sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    sys.exit(main())
