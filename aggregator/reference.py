"""docs/configuration.md, made from the options: ``python -m aggregator.reference`` prints it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aggregator.commandline import default_text, metavar
from aggregator.options import GROUPS, RunOptions
from aggregator.periodic import Periodic
from aggregator.topology import TABLES, Entity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

INTRODUCTION = """\
# Configuration

Each setting is a flag (`--max-held 64MB`), a variable (`AGGREGATOR_MAX_HELD=64MB`) and a key of the
TOML file that `--config` names (`max_held = "64MB"`). Flags beat variables, those beat the file, the
file beats the defaults. An empty variable counts as not set. Unknown names are refused.

Durations have a unit: `500ms`, `2s`, `5m`, `1h30m`. Sizes are bytes: `512KiB`, `10MB`, `1048576`.
`none` (or `off`, `auto`) takes back a setting that may be left open.

In the file, keys above the first table hold for all routes, `[routes.NAME]` holds what differs for
one; without such tables there is one route, `default`. Flags and variables hold for all routes,
but for `queue` and `sink`, which are refused as flags and variables when there are several.

`--check` connects to nothing: it shows what the settings mean, the worst case of what is held, and
warnings, and exits with 0; with faults it exits with 2 and one line for each.

Passwords belong in a URL that comes by environment: `AGGREGATOR_BROKER`, `AGGREGATOR_SINK`. They are
shown as `***` everywhere. In a URL, `/` and `@` of a password are written `%2F` and `%40`.

## Prefetch

Unless it is set, prefetch is chosen so that all workers together hold at least
`size x (concurrency + 2)` messages: a group for each thread that writes, one that is complete and
waits, one that is being filled. Each worker gets its share, rounded up, 10 at least and 65535 at most.

With `correlate`, K open groups can all be filled only if `K x (size - 1) + 1` messages fit; with more
groups the oldest go in parts.

## How long a message is held

At most `age` (without it, `(size - 1) x idle`), `sentinel_grace` and `linger`, and then a quarter of
`ack_deadline` for writing and retrying; a longer pause gives everything back to the broker. A sum that
reaches `ack_deadline` is refused, and so is an `age` of more than half of it.
"""


TOPOLOGY = """\
# Exchanges, queues, bindings, route map, periodic messages

Tables of the file alone; [topology.md](topology.md) tells what they do,
[time.md](time.md#messages-by-the-clock) what `[periodic.NAME]` does. `[route-map]` has a pattern and the
name of a route in each line: `"video.#" = "media"`.
"""


def markdown() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *_tables(), TOPOLOGY, *_topology()])


def _tables() -> Iterator[str]:
    for model in GROUPS:
        yield f"## {model.__doc__}\n"
        yield "| Key | Value | Default | Meaning |\n|---|---|---|---|"
        for name, info in model.model_fields.items():
            looks = metavar(info) or ("true or false" if info.annotation is bool else "a word")
            key = f"`--{name.replace('_', '-')}`" if model is RunOptions else f"`{name}`"
            yield f"| {key} | {looks} | {default_text(info)} | {info.description} |".replace(
                "|index", "index"
            )
        yield ""


def _topology() -> Iterator[str]:
    models: tuple[type[Entity], ...] = (*TABLES, Periodic)
    for model in models:
        yield f"## {model.__doc__}\n"
        yield "| Key | Value | Default | Meaning |\n|---|---|---|---|"
        for name, info in model.model_fields.items():
            if name == "name":
                continue
            looks = metavar(info) or ("true or false" if info.annotation is bool else "a word")
            default = "has to be given" if info.is_required() else _default(info)
            yield f"| `{name}` | {looks} | {default} | {info.description} |"
        yield ""


def _default(info: FieldInfo) -> str:
    return default_text(info) if info.default not in {"", ()} else "none"


if __name__ == "__main__":
    sys.stdout.write(markdown())
