"""How each server is, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from producers.campaigns.serving import make_shards

if TYPE_CHECKING:
    from producers.campaigns.ports import Connect
    from producers.campaigns.servers import Answer
    from producers.campaigns.settings import CampaignSettings


async def report(settings: CampaignSettings, connect: Connect) -> bool:
    """Print a line for each server; return whether each shard has one that answers."""
    shards = make_shards(settings, connect)
    try:
        users = await shards.everywhere("users.count")
        campaigns = await shards.everywhere("campaigns.list")
    finally:
        shards.close()
    table = Table(box=None, pad_edge=False)
    for column in ("server", "users", "campaigns", "running", "says"):
        table.add_column(column)
    for counted, listed in zip(users, campaigns, strict=True):
        table.add_row(counted.server.name, *_cells(counted, listed))
    Console(soft_wrap=True).print(table)
    answering = {answer.server.shard for answer in users if answer.answered}
    return answering == set(shards.by_name)


def _cells(counted: Answer, listed: Answer) -> tuple[str, ...]:
    rows: list[Any] = listed.value if isinstance(listed.value, list) else []
    running = sum(row.get("state") == "running" for row in rows)
    says = counted.error or listed.error or "ok"
    return (f"{counted.value:,}" if counted.answered else "", str(len(rows)), str(running), says)
