"""Every setting: its name, type, default and meaning; the help and the documentation come from here.

Defaults are written as a user would write them, and validated like any other value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from aggregator.defaults import DEFAULT_BROKER, DEFAULT_QUEUE, DEFAULT_SINK
from aggregator.masking import SecretUrl
from aggregator.option_types import (
    MAX_PARTITIONS,
    MAX_PREFETCH,
    Count,
    Crontab,
    Expression,
    File,
    Form,
    Function,
    Key,
    Missing,
    Moment,
    Name,
    Namespace,
    OrOff,
    Quiet,
    Reasons,
    Sentinel,
    Share,
    Steps,
    Target,
    TaskPart,
    Text,
    Token,
    Triggers,
    Unset,
    Zone,
    joined,
    lower,
    option,
)
from aggregator.units import Duration, Size


class Options(BaseModel):
    """The ground of all settings: nothing unknown, nothing changed later, no value in an error."""

    # of these classes few are ever asked to validate: each is built when it is
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class Connection(Options):
    """Broker"""

    broker: SecretUrl = option(
        DEFAULT_BROKER,
        "where the messages come from: any URL of kombu (of several nodes: joined by ;, after one that"
        " fails the next is tried), or tarantool://user:password@host:port,host2/",
        "URL",
    )
    vhost: Annotated[Text | None, Unset] = option(
        None, "the virtual host, in the place of the URL's; AMQP only", "NAME", unset="the URL's"
    )
    broker_ca: Annotated[File | None, Unset] = option(
        None,
        "certificates (PEM) that the broker's must descend from; amqps only",
        "FILE",
        unset="the system's",
    )
    amqp_input: Literal["batched", "standard"] = option(
        "batched",
        "how AMQP is read: all deliveries of one read at once, or one by one by kombu's own transport",
    )
    server_hostname: Annotated[Text | None, Unset] = option(
        None, "the name that the broker's certificate must carry; amqps only", "NAME", unset="the URL's host"
    )


class Intake(Options):
    """Taking messages"""

    queue: Name = option(
        DEFAULT_QUEUE,
        "the queue to take messages from; of Tarantool: a tube, or several separated by commas",
        "NAME",
    )
    workers: Annotated[Count | None, Unset] = option(
        None,
        "threads that consume, a connection each",
        "N",
        unset="5 for AMQP, else 1; of tubes at each server",
        ge=1,
        le=1000,
    )
    prefetch: Annotated[Count | None, Unset] = option(
        None,
        "unacked messages that the broker hands to one worker",
        "N",
        unset="size x (concurrency + 2) over all workers, at least 10 each, at most 65535",
        ge=1,
        le=MAX_PREFETCH,
    )
    max_held: Size = option(
        "256MB", "bytes of messages held; at the limit the oldest groups go", "SIZE", gt=0
    )
    max_message: Size = option("16MB", "a larger message is dead-lettered", "SIZE", gt=0)
    messages: Literal["plain", "celery"] = option(
        "plain", "what the messages are: bodies of their own, or tasks of Celery (docs/celery.md)"
    )
    celery_document: TaskPart = option(
        "task",
        "what of a task is the document: task (name, id, args and kwargs), or a JSON pointer into that:"
        " /kwargs, /args/0",
        "POINTER",
    )
    celery_eta: Literal["dead-letter", "write"] = option(
        "dead-letter",
        "what becomes of a task whose eta or countdown is to come: refused, or written now",
    )
    ack_deadline: Duration = option(
        "30m", "the broker's consumer_timeout: held longer, a message is taken back", "DURATION", gt=0
    )
    delivery_limit: Count = option(
        15, "delivered so often, a message is dead-lettered before RabbitMQ drops it at 20", "N", ge=1, lt=20
    )
    isolate_at: Annotated[Count | None, Unset] = option(
        5,
        "delivered so often, a message is written alone: it may be what kills the process",
        "N",
        unset="off",
        ge=1,
        lt=20,
    )
    dead_letter: Annotated[Text | None, Unset] = option(
        None, "where refused messages go: a queue's name, or exchange:NAME", "NAME", unset="QUEUE.dead"
    )
    on_refused: Literal["dead-letter", "stop"] = option(
        "dead-letter", "what a refused message does: go to the dead-letter queue, or stop the route and stay"
    )
    retry: Annotated[Steps | None, Unset] = option(
        None,
        "what is refused for one of retry_reasons waits at RabbitMQ so long and comes again, one step after"
        " the other, before it is dead-lettered: 1m,10m,1h (docs/time.md)",
        "DURATIONS",
        unset="off",
    )
    retry_reasons: Reasons = option(
        "retries-exhausted",
        "reasons of refusals that may pass, or statuses of the sink: retries-exhausted,429; * = all",
        "WORDS",
    )
    quiet: Annotated[Quiet | None, Unset] = option(
        None,
        "when nothing is taken and nothing written, by the calendar of time_zone: 22:00-07:00, or several"
        " such as sat,sun 00:00-24:00, 22:00-07:00 (docs/time.md)",
        "HOURS",
        unset="off",
    )
    expires: Annotated[Moment | None, Unset] = option(
        None,
        "where a message says from when on it is not to be written any more, as ISO 8601 or unix seconds:"
        " header:expires (docs/time.md)",
        "EXPRESSION",
        unset="off",
    )


class Grouping(Options):
    """Groups: which messages go together, and when"""

    size: Annotated[Count | None, Unset] = option(
        1000, "messages that complete a group; 1 for pushes from tubes", "N", unset="off", ge=1
    )
    bytes: Annotated[Size | None, Unset, OrOff] = option(
        "10MB", "bytes that a group never grows beyond", "SIZE", unset="off"
    )
    age: Annotated[Duration | None, Unset, OrOff] = option(
        "2s", "a group goes this long after its first message", "DURATION", unset="off"
    )
    idle: Annotated[Duration | None, Unset, OrOff] = option(
        None, "a group goes this long after its last message", "DURATION", unset="off"
    )
    interval: Annotated[Duration | None, Unset, OrOff] = option(
        None, "all groups go when the wall clock passes a multiple of this (1m: each minute)", "DURATION",
        unset="off",
    )  # fmt: skip
    crontab: Annotated[Crontab | None, Unset] = option(
        None, "all groups go at these moments: '*/15 6-22 * * mon-fri'", "CRONTAB", unset="off"
    )
    time_zone: Zone = option("UTC", "whose calendar crontab and quiet follow", "ZONE")
    deadline_share: Annotated[Share | None, Unset] = option(
        0.5,
        "a group goes at the latest after this share of ack_deadline",
        "SHARE",
        unset="off",
        gt=0,
        le=0.75,
    )
    predicate: Annotated[Function | None, Unset] = option(
        None, "a function of the group's deliveries and the new one that says whether it is complete",
        "MODULE:NAME", unset="off",
    )  # fmt: skip
    predicate_early: bool = option(False, "ask the predicate before the new one is added, not after")
    sequence: Annotated[Expression | None, Unset] = option(
        None, "where each message says how many its group has: header:count", "EXPRESSION", unset="off"
    )
    close_on: Annotated[Triggers | None, Unset] = option(
        None, "a key is done with after these too, not only in part: age,idle,interval,crontab", "TRIGGERS",
        unset="size, predicate, sequence, sentinel",
    )  # fmt: skip
    closed_keys: Count = option(0, "keys remembered after their group was complete", "N", ge=0)
    closed_for: Annotated[Duration | None, Unset, OrOff] = option(
        None, "and for how long", "DURATION", unset="until there are too many"
    )
    late: Literal["new", "alone", "dead-letter"] = option(
        "new",
        "what becomes of a message for a key that is remembered: a new group, written alone, or refused",
    )
    keyed_at_shutdown: Literal["give-back", "write"] = option(
        "give-back", "what becomes of incomplete groups with a key when the process stops"
    )
    max_groups: Annotated[Count | None, Unset] = option(
        None, "with more open groups than this the oldest goes", "N", unset="no bound but prefetch", ge=1
    )
    correlate: Annotated[Key | None, Unset] = option(
        None,
        "what makes messages belong together: message_id, correlation_id, type, routing_key, header:NAME,"
        " property:NAME, a JSON pointer into the body such as /user/id, or function:MODULE:NAME; several"
        " are joined by ' + '",
        "EXPRESSION",
        unset="all are one group",
    )
    partitions: Annotated[Count | None, Unset] = option(
        None,
        "queues that RabbitMQ spreads the keys over, each consumed by one instance at a time; queue names"
        " their exchange (docs/partitions.md)",
        "N",
        unset="off",
        ge=2,
        le=MAX_PARTITIONS,
    )
    on_missing_key: Missing = option(
        "dead-letter", "what becomes of a message without a key: refused, or key:TEXT", "WHAT"
    )
    sentinel: Annotated[Sentinel | None, Unset] = option(
        None, "a message that ends its group: type=sentinel, header:end=true", "EXPRESSION=VALUE", unset="off"
    )
    sentinel_count: Annotated[Text | None, Unset] = option(
        None, "the sentinel's header that tells how many members its group has", "HEADER", unset="off"
    )
    sentinel_grace: Duration = option(
        "1s", "wait for members that a sentinel without a count may have overtaken", "DURATION"
    )


class Writing(Options):
    """Writing"""

    aggregate: Form = option(
        "documents",
        "what a complete group becomes: documents (one for each message), list or list:N (one of all, or of"
        " N), merge (by the rules of --merge), push (one for each recipient of its push messages:"
        " docs/push.md), or function:MODULE:NAME",
        "FORM",
    )
    merge: Annotated[dict[str, str] | None, Unset] = option(
        None,
        "for aggregate = merge, a rule for each field, * for all others: first, last, sum, min, max, count,"
        " append, set",
        "FIELD=RULE",
        unset="none",
    )
    sink: Target = option(
        DEFAULT_SINK,
        "where documents go: elasticsearch+http(s)://[user:password@]host[,host2]/index?..., the same with"
        " opensearch, webhook+http(s)://host/path, exchange+amqp(s)://host/vhost?exchange=NAME, sqlite:///FILE,"
        " jsonl:///FOLDER, function:MODULE:NAME",
        "URL",
    )
    id: Annotated[Expression | None, Unset] = option(
        "message_id",
        "a document's id, an expression as in --correlate",
        "EXPRESSION",
        unset="made at receipt",
    )
    seen: Annotated[SecretUrl | None, Unset] = option(
        None,
        "where the ids of what was written are known to all processes, so that nothing is written twice:"
        " redis://host/0?ttl=1d&most=10000000 (docs/redis.md)",
        "URL",
        unset="off",
    )
    results: Annotated[SecretUrl | None, Unset] = option(
        None,
        "where those who have submitted a message as a job look for what became of it:"
        " redis://host/0?ttl=1h (docs/redis.md)",
        "URL",
        unset="off",
    )
    trust_json: bool = option(False, "do not check that JSON bodies are JSON")
    concurrency: Count = option(2, "threads that write, a request each", "N", ge=1, le=256)
    adaptive_concurrency: bool = option(
        False, "find out how many of them bring something: from 1 up to concurrency"
    )
    request_items: Annotated[Count | None, Unset] = option(
        None, "documents in a request", "N", unset="size; 1000 at least with --correlate, or for pushes", ge=1
    )
    request_bytes: Size = option("10MB", "bytes of documents in a request", "SIZE", gt=0)
    linger: Annotated[Duration | None, Unset] = option(
        None, "wait for further groups to fill a request", "DURATION", unset="0; 5ms with --correlate"
    )
    retry_first: Duration = option("100ms", "the first pause before a retry; it doubles", "DURATION", gt=0)
    retry_max: Duration = option("5s", "the longest pause before a retry", "DURATION", gt=0)
    breaker_share: Share = option(
        0.5, "stop the route when more than this share of recent messages is refused", "SHARE", gt=0, le=1
    )
    breaker_window: Count = option(200, "recent messages that the breaker looks at; 0 = off", "N", ge=0)


class RouteOptions(Connection, Intake, Grouping, Writing):
    """What one route can be told: its queue, its groups, its sink."""


class ProcessOptions(Options):
    """The process"""

    processes: Count = option(
        1, "processes side by side, each with its own workers, groups and sink; for routes without keys", "N",
        ge=1, le=256,
    )  # fmt: skip
    grace: Duration = option("30s", "time to write and ack what is held after SIGTERM", "DURATION")
    heartbeat: Duration = option(
        "20s", "a silent connection is given up after twice this", "DURATION", ge=1, le=3600
    )
    route_map_exchange: Name = option(
        "routes", "the exchange of [route-map]: producers publish to it, with a name as routing key", "NAME"
    )
    control: bool = option(
        False, "listen to the commands of python -m aggregator.control, over the routes' broker"
    )
    control_namespace: Namespace = option(
        "aggregator", "services of one namespace hear the same commands: exchange NAMESPACE.pidbox", "NAME"
    )
    control_broker: Annotated[SecretUrl | None, Unset] = option(
        None, "where commands come from, if the routes have several brokers", "URL", unset="the routes'"
    )
    metrics_port: Annotated[Count | None, Unset] = option(
        None,
        "serve metrics, /healthz, /readyz and the live page (docs/live-page.md) here; 0 = any free port",
        "PORT",
        unset="off",
        ge=0,
        le=65_535,
    )
    metrics_host: Text = option("127.0.0.1", "the address to serve them on", "ADDRESS")
    page_token: Annotated[Token | None, Unset] = option(
        None,
        "who has it can flush, pause and resume on the live page; rather AGGREGATOR_PAGE_TOKEN than a flag",
        "TOKEN",
        unset="the page only shows",
    )
    page_details: Annotated[Literal["auto", "shown", "hidden"], BeforeValidator(lower)] = option(
        "auto",
        "who sees keys of groups and details of refusals there, which may be pieces of documents: auto = who"
        " has the token; where none is set everybody, but on loopback alone",
    )
    page_hosts: Annotated[str | None, Unset, BeforeValidator(joined)] = option(
        None,
        "names by which browsers reach it, beside addresses, localhost and the machine's own",
        "NAMES",
        unset="no others",
    )
    log_format: Annotated[Literal["auto", "console", "json", "logfmt"], BeforeValidator(lower)] = option(
        "auto", "auto = console on a terminal, else json"
    )
    summary: Annotated[Literal["auto", "on", "off"], BeforeValidator(lower)] = option(
        "auto",
        "a live summary of all routes; auto = on a terminal, unless logs are asked for as json or logfmt",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = option(
        "info", "the least important lines to log"
    )


class RunOptions(Options):
    """This run"""

    config: Path | None = option(
        None, "a TOML file of settings; it may hold several routes", "FILE", unset="none"
    )
    app: Annotated[Text | None, Unset] = option(
        None, "an application written in Python, in the place of such a file", "MODULE:NAME", unset="none"
    )
    check: bool = option(
        False, "show what these settings mean and what is wrong with them; connect to nothing"
    )
    connect: bool = option(
        False, "with --check: ask the brokers too what is there, what would be declared, and what differs"
    )
    check_format: Annotated[Literal["text", "json"], BeforeValidator(lower)] = option(
        "text", "how --check tells what it found: for people, or as one object of JSON for editors and CI"
    )
    until_empty: bool = option(False, "stop once the queues are empty and everything is settled")


GROUPS: tuple[type[Options], ...] = (RunOptions, Connection, Intake, Grouping, Writing, ProcessOptions)
"""In the order of the help; the docstring of each is its title."""
