"""What the user's function is given, and what its marks become."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from aggregator.completion import Trigger
from aggregator.errors import (
    MessageRefusedError,
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkRaisedError,
    SinkUnavailableError,
)
from aggregator.group import Batch
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.sinks.function import MOST_REASONS, BulkItem, BulkRequest, FunctionSink
from aggregator.testing.memory import MemoryDelivery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME = "mine:write"


def item(name: str, document: bytes = b"{}") -> MemoryDelivery:
    made = MemoryDelivery(document, headers={"tenant": name}, properties={"type": "t"}, routing_key="r")
    made.id, made.document = name, document
    return made


def run(function: Callable[[BulkRequest], Any], *names: str) -> Sequence[Verdict] | None:
    return FunctionSink(function, name=NAME).write([item(name) for name in names or "abc"])


def fault_of(function: Callable[[BulkRequest], Any]) -> str:
    with pytest.raises(SinkUnavailableError) as caught:
        run(function)
    assert str(caught.value).startswith(NAME)
    return str(caught.value)


class TestWhatItGets:
    def test_a_sequence_of_items(self) -> None:
        def write(request: BulkRequest) -> None:
            assert len(request) == 3
            assert [one.id for one in request] == ["a", "b", "c"]
            assert request[0].id == "a"
            assert request[-1] is request[2]
            assert [one.id for one in request[1:]] == ["b", "c"]
            assert request[1] in request
            assert [one.id for one in reversed(request)] == ["c", "b", "a"]
            assert repr(request) == "<BulkRequest of 3 items>"
            assert repr(request[0]) == "<BulkItem 'a'>"

        assert run(write) is None

    def test_a_document_and_the_messages_it_was_made_of(self) -> None:
        def write(request: BulkRequest) -> None:
            (one,) = request
            assert one.document == b"{}"
            (message,) = one.deliveries
            assert message.headers == {"tenant": "a"}
            assert message.properties == {"type": "t"}
            assert (message.routing_key, message.exchange, message.redelivered) == ("r", "", False)

        run(write, "a")

    def test_its_place_in_its_group(self) -> None:
        made = item("a")
        made.batch = Batch("k", [made], [], 2, Trigger.AGE, part=2, complete=False, opened=0.0, completed=1.0)
        seen: list[BulkItem] = []
        FunctionSink(seen.extend).write([made])
        assert [(one.key, one.part, one.complete) for one in seen] == [("k", 2, False)]

    def test_what_is_parsed_is_the_functions_own(self) -> None:
        seen = []

        def write(request: BulkRequest) -> None:
            parsed = request[0].json()
            seen.append(dict(parsed))
            parsed["n"] = "changed"
            assert request[0].json() is parsed

        one = item("a", b'{"n":123456789012345678901234567890}')
        sink = FunctionSink(write)
        sink.write([one])
        sink.write([one])
        assert seen == [{"n": 123456789012345678901234567890}] * 2
        assert not one.parsed, "what is held does not cost its memory twice"

    def test_nothing_is_parsed_unasked(self) -> None:
        assert FunctionSink(lambda request: None).write([item("a", b"no json")]) is None

    def test_what_is_no_json_is_refused_for_itself(self) -> None:
        with pytest.raises(RequestRefusedError) as caught:
            FunctionSink(lambda request: request[0].json() and None).write([item("a", b'{"secret"}')])
        assert caught.value.reason == "bad-json"
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("attribute", ["id", "document", "deliveries", "other"])
    def test_an_item_is_for_reading(self, attribute: str) -> None:
        with pytest.raises(AttributeError):
            setattr(BulkItem(item("a"), 0), attribute, 1)


class TestMarks:
    def test_what_is_not_marked_was_written(self) -> None:
        def write(request: BulkRequest) -> None:
            request.refuse(request[1], "no-such-account", "it was closed")
            request.duplicate(request[2])
            request.retry(request[3])
            request.retry(request[4], "rate-limited")
            request.block(request[5])
            request.block(request[6], "read_only")

        assert run(write, *"abcdefgh") == [
            WRITTEN,
            Verdict(Fate.DEAD_LETTER, "no-such-account", "it was closed"),
            DUPLICATE,
            Verdict(Fate.RETRY, "retry"),
            Verdict(Fate.RETRY, "rate-limited"),
            Verdict(Fate.BLOCKED, "blocked"),
            Verdict(Fate.BLOCKED, "read_only"),
            WRITTEN,
        ]

    def test_the_same_mark_twice_is_one(self) -> None:
        def write(request: BulkRequest) -> None:
            request.refuse(request[0], "bad", "first")
            request.refuse(request[0], "bad", "second")
            request.duplicate(request[1])
            request.duplicate(request[1])

        assert run(write, "a", "b") == [Verdict(Fate.DEAD_LETTER, "bad", "first"), DUPLICATE]

    def test_a_detail_is_made_a_text(self) -> None:
        detail: Any = ValueError("so it is")
        assert run(lambda request: request.refuse(request[0], "bad", detail), "a") == [
            Verdict(Fate.DEAD_LETTER, "bad", "so it is")
        ]

    def test_threads_of_its_own_may_mark(self) -> None:
        def write(request: BulkRequest) -> None:
            threads = [threading.Thread(target=request.retry, args=(one,)) for one in request]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert run(write, *map(str, range(20))) == [Verdict(Fate.RETRY, "retry")] * 20

    @pytest.mark.parametrize(
        ("marks", "problem"),
        [
            (("retry", "duplicate"), "marked an item twice: retry retry, then duplicate"),
            (("refuse bad", "retry"), "marked an item twice: dead_letter bad, then retry retry"),
            (("refuse bad", "refuse worse"), "marked an item twice: dead_letter bad, then dead_letter worse"),
            (("block", "retry"), "marked an item twice: blocked blocked, then retry retry"),
        ],
    )
    def test_another_mark_for_the_same_item(self, marks: Sequence[str], problem: str) -> None:
        def write(request: BulkRequest) -> None:
            for mark in marks:
                name, *reason = mark.split()
                getattr(request, name)(request[0], *reason)

        assert problem in fault_of(write)

    @pytest.mark.parametrize("mark", ["refuse", "retry", "block", "duplicate"])
    @pytest.mark.parametrize(
        ("strange", "problem"),
        [
            (lambda request: request[0].id, "an item of the request is needed, not str"),
            (lambda request: 0, "an item of the request is needed, not int"),
            (lambda request: request, "an item of the request is needed, not BulkRequest"),
            (
                lambda request: request[0].deliveries[0],
                "an item of the request is needed, not MemoryDelivery",
            ),
            (lambda request: BulkItem(item("a"), 0), "of another request"),
            (lambda request: BulkItem(item("a"), 9), "of another request"),
        ],
        ids=["id", "position", "request", "delivery", "another", "beyond"],
    )
    def test_an_item_that_is_not_of_this_request(
        self, mark: str, strange: Callable[[BulkRequest], Any], problem: str
    ) -> None:
        reason = () if mark == "duplicate" else ("bad",)
        told = fault_of(lambda request: getattr(request, mark)(strange(request), *reason))
        assert told.startswith(f"{NAME}: {mark}: ")
        assert problem in told

    def test_an_item_that_was_kept_from_an_earlier_call(self) -> None:
        kept: list[BulkItem] = []

        def write(request: BulkRequest) -> None:
            kept.append(request[0])
            request.duplicate(kept[0])

        sink = FunctionSink(write)
        assert sink.write([item("a")]) == [DUPLICATE]
        with pytest.raises(SinkUnavailableError, match="of another request"):
            sink.write([item("a")])

    @pytest.mark.parametrize("mark", ["refuse", "retry", "block"])
    @pytest.mark.parametrize(
        ("reason", "problem"),
        [
            ("", "no word"),
            ("two words", "no word"),
            ("1st", "no word"),
            ("-dash", "no word"),
            ("dash-", "no word"),
            ("colon:secret", "no word"),
            ("straße", "no word"),
            ("line\n", "no word"),
            ("x" * 65, "has 65 characters; a word of at most 64"),
            (None, "is NoneType; a word"),
            (ValueError("x"), "is ValueError; a word"),
            (b"bad", "is bytes; a word"),
        ],
        ids=repr,
    )
    def test_a_reason_is_a_word(self, mark: str, reason: Any, problem: str) -> None:
        told = fault_of(lambda request: getattr(request, mark)(request[0], reason))
        assert f"{mark}: the reason " in told
        assert problem in told
        assert "secret" not in told

    @pytest.mark.parametrize("reason", ["bad", "no-such-account", "read_only", "KeyError", "a.b", "x" * 64])
    def test_these_are_words(self, reason: str) -> None:
        assert run(lambda request: request.refuse(request[0], reason), "a") == [
            Verdict(Fate.DEAD_LETTER, reason)
        ]

    def test_a_wrong_mark_that_is_caught_is_one_still(self) -> None:
        def write(request: BulkRequest) -> None:
            for one in request:
                try:
                    request.refuse(one, "two words")
                except SinkUnavailableError:
                    request.duplicate(one)

        assert "the reason is no word" in fault_of(write)

    def test_a_wrong_mark_refuses_nothing_for_good(self) -> None:
        def write(request: BulkRequest) -> None:
            try:
                request.duplicate(object())  # type: ignore[arg-type]
            finally:
                raise RequestTooLargeError("of a single item this would be the last word")

        with pytest.raises(SinkUnavailableError, match="not object"):
            run(write, "a")

    def test_a_mark_that_comes_after_the_return_changes_nothing(self) -> None:
        kept: list[BulkRequest] = []

        def write(request: BulkRequest) -> None:
            kept.append(request)
            request.retry(request[1])

        told = run(write, "a", "b")
        assert told == [WRITTEN, Verdict(Fate.RETRY, "retry")]
        with pytest.raises(SinkUnavailableError, match="mine:write: marked an item after it had returned"):
            kept[0].refuse(kept[0][0], "late")
        assert told == [WRITTEN, Verdict(Fate.RETRY, "retry")]

    def test_the_number_of_reasons_has_a_bound(self) -> None:
        def write(request: BulkRequest) -> None:
            for one in request:
                request.refuse(one, f"user-{one.id}", "unknown" if one.id != "102" else "")

        sink = FunctionSink(write, name=NAME)
        with capture_logs() as logs:
            first = sink.write([item(str(number)) for number in range(MOST_REASONS)])
            second = sink.write([item(name) for name in ("7", "101", "102")])
        assert first is not None
        assert {verdict.reason for verdict in first} == {f"user-{number}" for number in range(MOST_REASONS)}
        assert second == [
            Verdict(Fate.DEAD_LETTER, "user-7", "unknown"),
            Verdict(Fate.DEAD_LETTER, "other", "user-101: unknown"),
            Verdict(Fate.DEAD_LETTER, "other", "user-102"),
        ]
        assert [(line["event"], line["function"]) for line in logs] == [("too_many_reasons", NAME)]

    def test_words_for_the_log_alone_are_not_counted(self) -> None:
        sink = FunctionSink(lambda request: request.retry(request[0], f"r{request[0].id}"))
        told = [sink.write([item(str(number))]) for number in range(MOST_REASONS + 1)]
        assert told[-1] == [Verdict(Fate.RETRY, f"r{MOST_REASONS}")]


class TestExceptions:
    @pytest.mark.parametrize(
        ("raised", "expected"),
        [
            (ValueError("secret"), SinkRaisedError),
            (SinkUnavailableError("later"), SinkUnavailableError),
            (SinkBlockedError("read-only"), SinkBlockedError),
            (RequestTooLargeError("halve it"), RequestTooLargeError),
            (RequestRefusedError("one-is-bad", "which?", 400), RequestRefusedError),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_marks_made_before_do_not_count_and_are_told(
        self, raised: Exception, expected: type[Exception]
    ) -> None:
        def write(request: BulkRequest) -> None:
            request.refuse(request[0], "bad")
            request.refuse(request[1], "bad")
            request.duplicate(request[2])
            raise raised

        with capture_logs() as logs, pytest.raises(expected) as caught:
            run(write)
        assert "secret" not in str(caught.value)
        assert logs == [
            {
                "event": "marks_void",
                "log_level": "warning",
                "function": NAME,
                "error": expected.__name__,
                "dead_letter": 2,
                "duplicate": 1,
            }
        ]

    def test_the_next_call_marks_anew(self) -> None:
        calls = []

        def write(request: BulkRequest) -> None:
            calls.append(1)
            if len(calls) == 1:
                request.refuse(request[0], "bad")
                raise OSError
            request.duplicate(request[0])

        sink, one = FunctionSink(write), [item("a")]
        with pytest.raises(SinkUnavailableError):
            sink.write(one)
        assert sink.write(one) == [DUPLICATE]

    def test_without_marks_nothing_is_told(self) -> None:
        def write(request: BulkRequest) -> None:
            raise OSError

        with capture_logs() as logs, pytest.raises(SinkUnavailableError):
            run(write)
        assert not logs

    def test_a_refused_message_is_found_by_halves(self) -> None:
        def write(request: BulkRequest) -> None:
            raise MessageRefusedError("no-such-account", "it was closed")

        with pytest.raises(RequestRefusedError) as caught:
            run(write)
        assert (caught.value.reason, caught.value.detail) == ("no-such-account", "it was closed")

    @pytest.mark.parametrize("error", [MessageRefusedError, RequestRefusedError])
    def test_its_reason_is_a_word_too(self, error: Callable[[str], Exception]) -> None:
        def write(request: BulkRequest) -> None:
            raise error("Account 4711 does not exist")

        told = fault_of(write)
        assert "the reason is no word" in told
        assert "4711" not in told

    def test_its_reasons_are_bounded_too(self) -> None:
        numbers = iter(range(MOST_REASONS + 1))

        def write(request: BulkRequest) -> None:
            raise RequestRefusedError(f"r{next(numbers)}", "why", 422)

        sink, errors = FunctionSink(write), []
        for _ in range(MOST_REASONS + 1):
            with pytest.raises(RequestRefusedError) as caught:
                sink.write([item("a")])
            errors.append(caught.value)
        assert errors[-2].reason == f"r{MOST_REASONS - 1}"
        last = errors[-1]
        assert (last.reason, last.detail, last.status) == ("other", f"r{MOST_REASONS}: why", 422)
