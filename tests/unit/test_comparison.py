"""docs/comparison.md: no option of theirs is missing, and what it says of ours is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import aggregator
from aggregator import Aggregator
from aggregator.history import BatchReport
from aggregator.metrics import Metrics
from aggregator.options import GROUPS
from aggregator.sinks.bulk_request import BulkItem

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparison.md"
TEXT = PAGE.read_text()

# apache/camel, main branch: aggregate.json (14144d0), AggregateProcessor and AggregateController
# (014fa5e), RecoverableAggregationRepository (15b0de6), AggregationStrategy (0810500)
CAMEL = """
    id note description disabled correlationExpression completionPredicate completionTimeoutExpression
    completionSizeExpression optimisticLockRetryPolicy parallelProcessing optimisticLocking executorService
    timeoutCheckerExecutorService aggregateController aggregationRepository aggregationStrategy
    aggregationStrategyMethodName aggregationStrategyMethodAllowNull completionSize completionInterval
    completionTimeout completionTimeoutCheckerInterval completionFromBatchConsumer
    completionOnNewCorrelationGroup eagerCheckCompletion ignoreInvalidCorrelationKeys
    closeCorrelationKeyOnCompletion discardOnCompletionTimeout discardOnAggregationFailure
    forceCompletionOnStop completeAllOnStop outputs
    CamelAggregatedSize CamelAggregatedTimeout CamelAggregatedCompletedBy CamelAggregatedCorrelationKey
    CamelAggregationCompleteCurrentGroup CamelAggregationCompleteAllGroups
    CamelAggregationCompleteAllGroupsInclusive
    forceDiscardingOfGroup forceDiscardingOfAllGroups useRecovery recoveryInterval maximumRedeliveries
    deadLetterUri canPreComplete preComplete onCompletion timeout
"""
# spring-projects/spring-integration, 7.2.0-SNAPSHOT (f369e89): spring-integration.xsd, what
# <aggregator> takes, and the setters of AbstractCorrelatingMessageHandler that it leaves out
SPRING = """
    id input-channel output-channel order send-timeout auto-startup phase role ref method expression poller
    expire-groups-upon-completion headers-function correlation-strategy correlation-strategy-method
    correlation-strategy-expression release-strategy release-strategy-method release-strategy-expression
    group-timeout group-timeout-expression scheduler expire-groups-upon-timeout pop-sequence lock-registry
    discard-channel message-store send-partial-result-on-expiry empty-group-min-timeout
    release-lock-before-send expire-timeout expire-duration group-condition-supplier expire-transactional
    expire-advice-chain
    discard-individually-on-expiry release-partial-sequences
"""
SPRING_AMQP = (
    "consumerBatchEnabled batchSize receiveTimeout batchReceiveTimeout prefetchCount deBatchingEnabled"
)

OPTIONS = {name: group for group in GROUPS for name in group.model_fields}
REPORT = BatchReport(0, None, "size", 1, True, 1, 1, 1, 1.0, 1, 1, 0, 0, 0, {}).told()
METRICS = {f"{family.name}{end}" for family in Metrics().registry.collect() for end in ("", "_total")}
LINK = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")
MARKED = re.compile(r"`([^`]+)`")


def tables():
    """Yield each table's header and rows, in cells."""
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines())
        yield header, rows


ROWS = [dict(zip(header, row, strict=True)) for header, rows in tables() for row in rows]


def marked_in(column):
    return {name for row in ROWS for name in MARKED.findall(row.get(column, ""))}


OURS = marked_in("Here") | marked_in("Options")


def own_aggregation(key, documents):
    return documents


@pytest.mark.parametrize(
    ("system", "options"),
    [("Camel", CAMEL), ("Spring Integration", SPRING), ("Spring AMQP", SPRING_AMQP)],
    ids=["Camel", "Spring Integration", "Spring AMQP"],
)
def test_no_option_of_theirs_is_missing(system, options):
    assert set(options.split()) - marked_in(system) == set()


def functions_of(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_tests_are_there():
    links = LINK.findall(TEXT)
    assert len(links) > 80
    known = {path: functions_of(PAGE.parent / path) for path in {path for _, path in links}}
    assert [name for name, path in links if name not in known[path]] == []
    assert len(links) == TEXT.count("](../tests/")


def test_each_row_is_shown_or_says_why_not():
    for row in ROWS:
        assert LINK.search(row["Shown by"]) or "Left out" in row["Here"], row
        if "Left out" in row.get("Here", ""):
            assert len(row["Here"].partition("Left out")[2]) > 20, row


def is_an_option(name, value):
    if name not in OPTIONS:
        return False
    if value:
        OPTIONS[name].model_validate({name: value.replace("module:name", f"{__name__}:own_aggregation")})
    return True


@pytest.mark.parametrize("said", sorted(OURS))
def test_what_it_says_of_ours_is_so(said):
    name, _, value = said.partition(" = ")
    word = name.partition("(")[0]
    assert (
        is_an_option(name, value)
        or word in METRICS
        or word in aggregator.__all__
        or word in REPORT
        or (word.startswith("app.") and hasattr(Aggregator, word.removeprefix("app.")))
        or (word.startswith("item.") and hasattr(BulkItem, word.removeprefix("item.")))
    )


def test_no_option_of_ours_about_groups_and_writing_is_missing():
    """Whoever adds one says there what it is compared with."""
    ours = {name for name, group in OPTIONS.items() if group.__name__ in {"Grouping", "Writing"}}
    assert ours - {said.partition(" = ")[0] for said in OURS} == {"trust_json"}
