"""Settings and command line of campaigns: where values come from, and what is said of wrong ones."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

import pytest

from aggregator.errors import ConfigurationError, ConfigurationErrors
from producers.campaigns import cli
from producers.campaigns.model import CampaignSpec
from producers.campaigns.settings import CampaignSettings, load

URL = "tarantool://producer:s3cret@127.0.0.1:3301,127.0.0.1:3302/"
TOKEN = "t" * 24


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("SHARDS", "TOKEN", "CONFIG", "PORT", "QUIET"):
        monkeypatch.delenv(f"CAMPAIGNS_{name}", raising=False)


def file(tmp_path, text):
    path = tmp_path / "campaigns.toml"
    path.write_text(text)
    return path


def test_flags_beat_variables_and_these_the_file(tmp_path, monkeypatch):
    path = file(tmp_path, f'port = 1\ntimeout = "3s"\nquiet = "21:00-07:00"\n[shards]\neu = "{URL}"\n')
    monkeypatch.setenv("CAMPAIGNS_PORT", "2")
    monkeypatch.setenv("CAMPAIGNS_TIMEOUT", "4s")
    settings = load({"port": "3", "host": None}, path)
    assert (settings.port, settings.timeout, settings.host) == (3, 4.0, "127.0.0.1")
    assert (settings.quiet.from_, settings.quiet.to) == (21, 7)
    assert [(shard, str(server)) for shard, server in settings.servers()] == [
        ("eu", "127.0.0.1:3301"),
        ("eu", "127.0.0.1:3302"),
    ]


def test_shards_from_the_environment(monkeypatch):
    monkeypatch.setenv("CAMPAIGNS_SHARDS__EU", URL)
    monkeypatch.setenv("CAMPAIGNS_SHARDS__US", "tarantool://producer:s3cret@10.0.0.9:3301/")
    assert {shard for shard, _ in load({}, None).servers()} == {"eu", "us"}


def test_no_secret_is_shown():
    settings = load({"shards": URL, "token": TOKEN}, None)
    assert "s3cret" not in repr(settings)
    assert TOKEN not in repr(settings)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "shards: none is named"),
        (f'shards = "{URL}"\nprot = 1', "prot: no such setting; did you mean port?"),
        (f'port = 70000\nshards = "{URL}"', "port: 70000 is too large"),
        (f'timeout = 3\nshards = "{URL}"', "timeout: 3 has no unit"),
        (f'quiet = "22-8"\nshards = "{URL}"', "quiet: '22' is no time"),
        (f'token = "short"\nshards = "{URL}"', "token: 24 printable"),
        (
            f'token = "{TOKEN}"\ntoken_file = "x"\nshards = "{URL}"',
            "token: token and token_file are both set",
        ),
        ('shards = "redis://u:s3cret@host"', "shards: main: a URL like tarantool://"),
        ('[shards]\n"a b" = "tarantool://h:1"', "shards: 'a b': letters"),
        ('[shards]\na = "tarantool://u:s3/cret@h:1"', "shards: a: a URL like"),
        ("port = ", "no TOML"),
    ],
)
def test_wrong_settings_name_the_field_and_no_password(tmp_path, text, field):
    with pytest.raises((ConfigurationError, ConfigurationErrors)) as caught:
        load({}, file(tmp_path, text))
    assert field in str(caught.value)
    assert "s3" not in str(caught.value)


def test_the_token_comes_from_a_file(tmp_path):
    path = tmp_path / "token"
    settings = load({"shards": URL, "token_file": path}, None)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        settings.secret()
    path.write_text(TOKEN + "\n")
    assert settings.secret() == TOKEN
    with pytest.raises(ConfigurationError, match="makes a token_file"):
        load({"shards": URL}, None).secret()


def test_the_command_that_makes_tokens(tmp_path, capsys):
    path = tmp_path / "token"
    assert cli.main(["token", "--file", str(path)]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().strip()) >= 32
    assert cli.main(["token", "--file", str(path)]) == 2
    assert "there already" in capsys.readouterr().err
    assert cli.main(["token"]) == 0
    assert capsys.readouterr().out.strip() != path.read_text().strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "shards: none is named"),
        (["serve", "--shards", URL], "token: none is set"),
        (["serve", "--shards", URL, "--port", "x"], "port: 'x'"),
        (["serve", "--config", "/no/such/file"], "--config: no file at"),
        (["nonsense"], "nonsense"),
        (["serve", "--prot", "1"], "--prot"),
    ],
)
def test_wrong_input_is_one_line(arguments, said, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as exc:
        code = exc.code
    told = capsys.readouterr().err
    assert (code, told.count("\n")) == (2, 1)
    assert said in told
    assert "s3cret" not in told


def test_status_of_servers_that_are_not_there(capsys):
    assert (
        cli.main(["status", "--shards", "tarantool://producer:s3cret@127.0.0.1:9/", "--timeout", "1s"]) == 1
    )
    said = capsys.readouterr()
    assert "main/127.0.0.1:9" in said.out
    assert "not every shard" in said.err
    assert "s3cret" not in said.out + said.err


def test_the_page_has_all_settings_and_a_campaign_that_is_one():
    page = (Path(__file__).parents[2] / "docs" / "campaigns.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE)
    defaults = {
        name: "needed" if name == "shards" else "none" if field.default is None else str(field.default)
        for name, field in CampaignSettings.model_fields.items()
    }
    assert {name: shown for name, shown in rows if name in defaults} == defaults
    (example,) = re.findall(r"<<'JSON'\n(.*?)\nJSON", page, re.DOTALL)
    assert CampaignSpec.model_validate_json(example).id == "spring-sale"
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert set(tomllib.loads(toml)) <= set(defaults)
