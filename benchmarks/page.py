"""Writes docs/benchmarks.md and its plots from the figures of :mod:`benchmarks.compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.catalogue import CATALOGUE
from benchmarks.report import FULL_SPEED, STEADY, better, failures, ordered, summary, table, title

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.figures import Spread
    from benchmarks.report import Figure

    Draw = Callable[[Path, str, Sequence[tuple[str, str, Spread]], int], None]

TARGETS = {
    "null": "Into a server that keeps nothing",
    "elasticsearch": "Into Elasticsearch",
}

INTRODUCTION = """\
# Beside its peers

This page is written by `make bench`, from runs on one machine: {cores} cores, {memory}, {system}, all
servers on it. What is compared is a way: from a durable quorum queue of RabbitMQ {rabbitmq}, in `_bulk`
requests of 1,000, to the ack. `make bench-quick` compares three in under two minutes.

## How it is measured

- **The same messages for all**: JSON of 200 bytes with an id, persistent, published by the project's own
  producer into a fresh queue. (celery-batches takes none but Celery's tasks: the same documents, wrapped.)
- **The consumers take turns**, round by round, each round in another order. Each is its own process,
  started for the run. What comes before the counted messages warms it up: 10,000 messages, 100,000 for
  the Java virtual machine. 10,000 more follow the counted ones, so that work done ahead weighs nothing.
- **Messages a second**: looked at in the broker, every 5 ms, as the number of messages that it has been
  acked for. Nothing is asked of the consumer.
- **CPU seconds**: user and system, of the consumer and all its children, while the counted messages are
  acked. Broker and server are not in it.
- **Memory**: the most that each of its processes had at once, added up.
- **Latency**: 1,000 messages a second are published, and a request goes after 100 ms at the latest; from
  publish to ack. The broker is looked at every 2 ms, and the n-th ack is taken for that of the n-th
  message.
- **A run counts only if all was delivered**: each number came, none came twice, those who send ids sent
  the right ones, and no message was left or unacked.
- Figures are medians; in brackets the least and the most. Ratios are to *ours, everything on*, in the same
  round: CPU above 1 costs more than ours, messages/s above 1 is faster than ours.

*Ours, everything on*: ids from the body, JSON validated, every answered item matched, ledger, metrics,
a log line a batch. {notes}
"""


def write(results: Sequence[Mapping[str, Any]], folder: Path, draw: Draw, *, note: str = "") -> None:
    """Write the page into ``folder``, and its plots by ``draw`` (:func:`benchmarks.plots.bars`)."""
    first = results[0]
    notes = [f"*{peer.title}*: {peer.note}." for peer in CATALOGUE.values() if peer.note]
    about = {**first["machine"], "rabbitmq": first["versions"].get("rabbitmq", "?")}
    parts = [INTRODUCTION.format(**about, notes=" ".join(notes))]
    parts += [f"> {note}\n"] if note else []
    for result in results:
        parts += section(result, folder, draw)
    parts += absent(first)
    parts += ["## Versions\n", "| | |\n|---|---|"]
    parts[-1] += "".join(f"\n| {name} | {number} |" for name, number in sorted(first["versions"].items()))
    (folder / "benchmarks.md").write_text("\n".join(parts).rstrip() + "\n")


def section(result: Mapping[str, Any], folder: Path, draw: Draw) -> Iterator[str]:
    """Make one target's part: tables, plots, where a peer is better, what failed."""
    target, found = result["target"], summary(result)
    yield f"## {TARGETS[target]}\n"
    rounds = result["rounds"]
    yield f"{result['count']:,} messages counted in a run, {rounds} round{'s' if rounds > 1 else ''}.\n"
    yield f"{table(result)}\n"
    for figure in FULL_SPEED[:2]:
        yield plot(folder / f"benchmarks-{target}-{figure[0]}.svg", figure, found, draw)
    if any("p99_ms" in one for one in found.values()):
        yield "From publish to ack at 1,000 messages a second, a request after 100 ms at the latest:\n"
        yield f"{table(result, STEADY)}\n"
        yield plot(folder / f"benchmarks-{target}-p99_ms.svg", STEADY[1], found, draw)
    yield "**Where a peer's median is better than that of ours, everything on** (`~`: ranges overlap):\n"
    yield "\n".join(f"- {one}" for one in better(result)) + "\n" if better(result) else "Nowhere.\n"
    if failed := failures(result):
        yield "**Runs that do not count:**\n"
        yield "\n".join(f"- {one}" for one in failed) + "\n"


def plot(path: Path, figure: Figure, found: Mapping[str, Any], draw: Draw) -> str:
    """Draw one figure; return the line that shows it."""
    key, head, decimals, _ = figure
    draw(path, head, [(title(peer), peer, found[peer][key]) for peer in ordered(found, key)], decimals)
    return f"![{head}]({path.name})\n"


def absent(result: Mapping[str, Any]) -> Iterator[str]:
    """Say who is not here, and why."""
    yield "## Not compared\n"
    yield "- Redpanda Connect (Benthos): the module proxy did not hand out its Go module when this was built."
    for name, why in result["missing"].items():
        yield f"- {title(name)}: {why.splitlines()[0]}"
    yield "- Logstash, Vector, Kafka Connect, NiFi, Spring Integration: not tried.\n"
