"""Passwords in URLs are never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.masking import SecretUrl, masked


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://h", "amqp://h"),
        ("amqp://u@h//", "amqp://u@h//"),
        ("amqp://u:p@h:5672//", "amqp://u:***@h:5672//"),
        ("amqp://u:@h", "amqp://u:***@h"),
        ("amqp://:p@h", "amqp://:***@h"),
        ("amqp://u:p@ss@h", "amqp://u:***@h"),
        ("amqp://u:p/a@h", "amqp://u:***@h"),
        ("amqp://u:p?a@h", "amqp://u:***@h"),
        ("amqp://a:p1@h1;amqp://b:p2@h2", "amqp://a:***@h1;amqp://b:***@h2"),
        (
            "elasticsearch+https://u:p@h1,h2:9200/i?op=index",
            "elasticsearch+https://u:***@h1,h2:9200/i?op=index",
        ),
        ("elasticsearch+http://h:9200/i?time=@timestamp", "elasticsearch+http://h:9200/i?time=@timestamp"),
        ("elasticsearch+https://h/i?api_key=abc&op=index", "elasticsearch+https://h/i?api_key=***&op=index"),
        (
            "elasticsearch+https://h/i?password_env=ES&ca=/x",
            "elasticsearch+https://h/i?password_env=ES&ca=/x",
        ),
        ("http://h/?accessToken=abc", "http://h/?accessToken=***"),
        ("u:p@h", "u:***@h"),
        ("sqlite:///data/x.db", "sqlite:///data/x.db"),
    ],
)
def test_masked(url, shown):
    assert masked(url) == shown
    assert str(SecretUrl(url)) == shown
    assert SecretUrl(url).get_secret_value() == url


@given(st.text(alphabet="abc/@:;#%", max_size=10))
def test_no_password_comes_through(middle):
    assert "SECRET" not in masked(f"amqp://user:{middle}SECRET@host:5672/vhost")
