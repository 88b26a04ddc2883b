"""What an answer means for each item, and what a refused request means."""

from __future__ import annotations

import orjson
import pytest

from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkUnavailableError,
)
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate
from aggregator.sinks.elasticsearch_answer import Rules, describe, request_fault

CREATE = Rules()
INDEX = Rules(op="index")
VERSIONED = Rules(op="index", versioned=True)
ANY_INDEX = Rules(known=False)
PIPED = Rules(pipeline="p")

CONFLICT = "version_conflict_engine_exception"
NO_PIPELINE = "pipeline with id [p] does not exist"
SHARDS = "Validation Failed: 1: this action would add [2] shards, but ... [2]/[1] maximum normal shards open;"


def classify(rules, status, kind="", reason=""):
    return rules.classify(status, {"error": {"type": kind, "reason": reason}} if kind else {})


@pytest.mark.parametrize(
    ("rules", "status", "kind", "reason", "fate"),
    [
        (CREATE, 200, "", "", Fate.WRITTEN),
        (CREATE, 201, "", "", Fate.WRITTEN),
        (CREATE, 409, CONFLICT, "", Fate.DUPLICATE),
        (VERSIONED, 409, CONFLICT, "", Fate.DUPLICATE),
        (INDEX, 409, CONFLICT, "", Fate.DEAD_LETTER),
        (CREATE, 409, "other_exception", "", Fate.DEAD_LETTER),
        (CREATE, 409, "", "", Fate.DEAD_LETTER),
        (CREATE, 429, "es_rejected_execution_exception", "", Fate.RETRY),
        (CREATE, 429, "circuit_breaking_exception", "", Fate.RETRY),
        (CREATE, 429, "", "", Fate.RETRY),
        (CREATE, 408, "", "", Fate.RETRY),
        (CREATE, 500, "null_pointer_exception", "", Fate.RETRY),
        (CREATE, 502, "", "", Fate.RETRY),
        (CREATE, 503, "unavailable_shards_exception", "", Fate.RETRY),
        (CREATE, 503, "cluster_block_exception", "", Fate.RETRY),
        (CREATE, 504, "", "", Fate.RETRY),
        (CREATE, 507, "", "", Fate.RETRY),
        (CREATE, 429, "cluster_block_exception", "", Fate.BLOCKED),
        (CREATE, 403, "cluster_block_exception", "", Fate.BLOCKED),
        (CREATE, 401, "security_exception", "", Fate.BLOCKED),
        (CREATE, 403, "security_exception", "", Fate.BLOCKED),
        (CREATE, 403, "", "", Fate.BLOCKED),
        (CREATE, 400, "document_parsing_exception", "", Fate.DEAD_LETTER),
        (CREATE, 400, "mapper_parsing_exception", "", Fate.DEAD_LETTER),
        (CREATE, 400, "strict_dynamic_mapping_exception", "", Fate.DEAD_LETTER),
        (CREATE, 400, "illegal_argument_exception", "", Fate.DEAD_LETTER),
        (CREATE, 400, "a_new_exception", "", Fate.DEAD_LETTER),
        (CREATE, 400, "", "", Fate.DEAD_LETTER),
        (CREATE, 413, "", "", Fate.DEAD_LETTER),
        (CREATE, 400, "validation_exception", "", Fate.DEAD_LETTER),
        (CREATE, 400, "validation_exception", SHARDS, Fate.BLOCKED),
        (ANY_INDEX, 400, "validation_exception", SHARDS, Fate.BLOCKED),
        (CREATE, 404, "index_not_found_exception", "", Fate.BLOCKED),
        (CREATE, 400, "index_closed_exception", "", Fate.BLOCKED),
        (CREATE, 400, "invalid_index_name_exception", "", Fate.BLOCKED),
        (ANY_INDEX, 404, "index_not_found_exception", "", Fate.DEAD_LETTER),
        (ANY_INDEX, 400, "index_closed_exception", "", Fate.DEAD_LETTER),
        (ANY_INDEX, 400, "invalid_index_name_exception", "", Fate.DEAD_LETTER),
        (PIPED, 400, "illegal_argument_exception", NO_PIPELINE, Fate.BLOCKED),
        (CREATE, 400, "illegal_argument_exception", NO_PIPELINE, Fate.DEAD_LETTER),
        (PIPED, 400, "illegal_argument_exception", NO_PIPELINE + " x", Fate.DEAD_LETTER),
    ],
)
def test_items(rules, status, kind, reason, fate):
    verdict = classify(rules, status, kind, reason)
    assert verdict.fate is fate
    if fate not in {Fate.WRITTEN, Fate.DUPLICATE}:
        assert (verdict.status, verdict.reason) == (status, kind or "unknown")


@pytest.mark.parametrize("status", [0, 100, 202, 204, 301, 399])
def test_an_item_of_an_unknown_status_is_unknown(status):
    with pytest.raises(SinkUnavailableError, match=f"the status {status}"):
        classify(CREATE, status)


def test_an_error_beside_a_good_status_is_no_success():
    with pytest.raises(SinkUnavailableError):
        classify(CREATE, 200, "document_parsing_exception")


@pytest.mark.parametrize(("refuse", "fate"), [(False, Fate.WRITTEN), (True, Fate.DEAD_LETTER)])
def test_the_failure_store(refuse, fate):
    rules = Rules(refuse_failure_store=refuse)
    answer = {"errors": False, "items": [{"create": {"_id": "a", "status": 201, "failure_store": "used"}}]}
    (verdict,) = rules.verdicts(answer, ["a"])
    assert (verdict.fate, verdict.reason) == (fate, "failure_store")
    answer["items"][0]["create"]["failure_store"] = "not_enabled"
    assert rules.verdicts(answer, ["a"]) == [WRITTEN]


def answer(*statuses, errors=None, op="create"):
    items = [{op: {"_id": f"{n}", "status": status}} for n, status in enumerate(statuses)]
    return {"errors": any(s > 201 for s in statuses) if errors is None else errors, "items": items}


IDS = ["0", "1", "2"]


def test_all_written():
    assert CREATE.verdicts(answer(201, 200, 201), IDS) is None


def test_each_item_gets_its_own_verdict():
    given = answer(201, 409, 503)
    given["items"][1]["create"]["error"] = {"type": CONFLICT}
    given["items"][2]["create"]["error"] = {"type": "unavailable_shards_exception"}
    verdicts = CREATE.verdicts(given, IDS)
    assert verdicts[:2] == [WRITTEN, DUPLICATE]
    assert verdicts[2].fate is Fate.RETRY


def test_a_proxy_that_ignores_the_filter():
    given = answer(201, 201, 201)
    for entry in given["items"]:
        entry["create"] |= {"_index": "tasks", "_shards": {"total": 1}, "result": "created"}
    assert CREATE.verdicts(given, IDS) == [WRITTEN] * 3


def test_a_failure_counts_though_the_flag_denies_it():
    assert CREATE.verdicts(answer(201, 400, 201, errors=False), IDS)[1].fate is Fate.DEAD_LETTER


def without(name, entry=1):
    given = answer(201, 400, 201)
    del given["items"][entry]["create"][name]
    return given


UNFIT = {
    "text": "<html>",
    "null": None,
    "list": [],
    "empty": {},
    "no items": {"errors": False},
    "no flag": {"items": []},
    "flag of another type": answer(201, 201, 201, errors="false"),
    "short": answer(201, 201),
    "long": answer(201, 201, 201, 201),
    "nothing": answer(),
    "another operation": answer(201, 201, 201, op="index"),
    "an item without status": without("status"),
    "an item without id": without("_id"),
    "a good item without id": without("_id", 2),
    "null for an item": {"errors": False, "items": [None] * 3},
    "text for an item": {"errors": True, "items": ["create"] * 3},
    "a status in text": answer(201, 201, 201)
    | {"items": [{"create": {"_id": i, "status": "201"}} for i in IDS]},
    "lists for results": {"errors": False, "items": [{"create": [1, 2]}] * 3},
    "unhashable status": {"errors": False, "items": [{"create": {"_id": i, "status": []}} for i in IDS]},
    "another order": answer(400, 201, 201) | {"items": answer(400, 201, 201)["items"][::-1]},
    "another request's": {"errors": True, "items": [{"create": {"_id": "x", "status": 400}}] * 3},
}


@pytest.mark.parametrize("given", UNFIT.values(), ids=UNFIT.keys())
def test_an_answer_that_does_not_fit_is_unknown(given):
    with pytest.raises(SinkUnavailableError):
        CREATE.verdicts(given, IDS)


def error(kind, reason="", **more):
    return {"error": {"type": kind, "reason": reason, **more}, "status": 0}


@pytest.mark.parametrize(
    ("status", "body", "exception"),
    [
        (413, error("content_too_long_exception"), RequestTooLargeError),
        (413, "<html>413 Request Entity Too Large</html>", RequestTooLargeError),
        (400, error("illegal_argument_exception"), RequestRefusedError),
        (400, error("action_request_validation_exception"), RequestRefusedError),
        (400, "<html>The plain HTTP request was sent to HTTPS port</html>", SinkUnavailableError),
        (400, {"error": "no handler found for uri"}, SinkUnavailableError),
        (400, error("media_type_header_exception"), SinkBlockedError),
        (401, error("security_exception"), SinkBlockedError),
        (403, error("security_exception"), SinkBlockedError),
        (403, "<html>Forbidden</html>", SinkBlockedError),
        (403, error("cluster_block_exception"), SinkBlockedError),
        (429, error("cluster_block_exception"), SinkBlockedError),
        (503, error("cluster_block_exception"), SinkUnavailableError),
        (404, error("index_not_found_exception"), SinkBlockedError),
        (405, None, SinkBlockedError),
        (406, None, SinkBlockedError),
        (301, "", SinkBlockedError),
        (202, "", SinkUnavailableError),
        (408, None, SinkUnavailableError),
        (425, None, SinkUnavailableError),
        (429, error("es_rejected_execution_exception"), SinkUnavailableError),
        (500, None, SinkUnavailableError),
        (502, "<html>Bad Gateway</html>", SinkUnavailableError),
        (503, [], SinkUnavailableError),
        (504, {"error": None}, SinkUnavailableError),
    ],
)
def test_requests(status, body, exception):
    fault = request_fault(status, body)
    assert type(fault) is exception
    assert "<html>" not in str(fault)


def test_a_refused_request_says_why():
    fault = request_fault(400, error("illegal_argument_exception", "SECRET"))
    assert (fault.reason, fault.detail, fault.status) == ("illegal_argument_exception", "", 400)


PREVIEW = "in document with id 'a'. Preview of field's value: 'SECRET'"
STRICT = "mapping set to strict, dynamic introduction of [zz] within [_doc] is not allowed"
CAUSE = {"type": "number_format_exception", "reason": 'For input string: "SECRET"'}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"reason": f"[1:6] failed to parse field [n] of type [integer] {PREVIEW}", "caused_by": CAUSE},
            "field [n] of type [integer], caused by number_format_exception",
        ),
        (
            {"reason": f"failed to parse field [a.b-c_d] of type [ip] {PREVIEW}"},
            "field [a.b-c_d] of type [ip]",
        ),
        ({"reason": f"failed to parse field [SECRET word] of type [ip] {PREVIEW}"}, ""),
        ({"reason": "failed to parse field [SECRET@example.org] of type [ip]"}, ""),
        (
            {"reason": f"[1:7] {STRICT}"},
            "unknown field [zz]",
        ),
        (
            {"reason": "[1:6] object mapping for [o] tried to parse field [o] as object, but found SECRET"},
            "object field [o] got a plain value",
        ),
        (
            {"reason": "[1:9] failed to parse: Limit of total fields [1000] has been exceeded adding SECRET"},
            "limit of total fields [1000]",
        ),
        ({"reason": "Malformed content, must start with an object"}, "not an object"),
        ({"reason": "[0:0] failed to parse, document is empty"}, "the document is empty"),
        ({"reason": "SECRET failed to parse field [n] of type [integer]"}, ""),
        ({"reason": "anything else: SECRET"}, ""),
        ({"reason": None}, ""),
        ({"reason": ["SECRET"]}, ""),
        ({"reason": "x", "caused_by": {"type": "SECRET words"}}, "caused by unknown"),
        ({"reason": "x", "caused_by": "SECRET"}, "caused by unknown"),
    ],
)
def test_no_document_is_quoted(given, said):
    found = describe({"type": "document_parsing_exception"} | given)
    assert found == said
    assert "SECRET" not in found


def test_words_about_the_cluster_are_kept_in_one_line():
    reason = "index [tasks] blocked by: [FORBIDDEN/5/index read-only (api)];\n" + "x" * 999
    found = describe({"type": "cluster_block_exception", "reason": reason})
    assert found.startswith("index [tasks] blocked by: [FORBIDDEN/5/index read-only (api)]; x")
    assert len(found) == 300


@pytest.mark.parametrize("kind", ["SECRET words", "", None, 7, "x" * 101])
def test_a_type_that_is_none_is_not_repeated(kind):
    verdict = CREATE.classify(400, {"error": {"type": kind}})
    assert verdict.reason == "unknown"


def test_what_the_server_really_said():
    """An answer of Elasticsearch 9.5.3, as it came."""
    raw = (
        rb'{"errors":true,"items":[{"create":{"_id":"0","status":400,"error":{"type":"document_parsing_exception"'
        rb',"reason":"[1:6] failed to parse field [d] of type [date] in document with id '
        rb"'0'. Preview of field's value: 'SECRET'"
        rb'","caused_by":{"type":"illegal_argument_exception","reason":"failed to parse date field [SECRET]'
        rb' with format [x]","caused_by":{"type":"date_time_parse_exception","reason":"Failed to parse with'
        rb' all enclosed parsers"}}}}},{"create":{"_id":"1","status":201}}]}'
    )
    verdicts = CREATE.verdicts(orjson.loads(raw), ["0", "1"])
    assert verdicts[0].detail == "field [d] of type [date], caused by illegal_argument_exception"
    assert verdicts[1] == WRITTEN
