"""What is wrong with a URL of a push sink is told at the start, by the option's name, without secrets."""

from __future__ import annotations

import datetime as dt
import socket

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from aggregator.errors import ConfigurationError
from aggregator.sinks import from_url

PKCS8 = serialization.PrivateFormat.PKCS8
PEM = serialization.Encoding.PEM


def pem(key, password=None):
    secrecy = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, PKCS8, secrecy)


def certificate(key, days=30, topic="com.example.cert"):
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, topic)] if topic else [])
    now = dt.datetime.now(dt.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(
        now - dt.timedelta(days=60) + dt.timedelta(days=max(0, days - 59))
    )
    return built.not_valid_after(now + dt.timedelta(days=days)).sign(key, hashes.SHA256()).public_bytes(PEM)


@pytest.fixture(scope="module")
def keys():
    return {
        "good": ec.generate_private_key(ec.SECP256R1()),
        "curve": ec.generate_private_key(ec.SECP384R1()),
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


@pytest.fixture
def folder(files, monkeypatch):
    monkeypatch.chdir(files)
    return files


@pytest.fixture(scope="module")
def files(keys, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("files")
    for name, key in keys.items():
        (tmp_path / f"{name}.p8").write_bytes(pem(key))
    good = keys["good"]
    (tmp_path / "locked.p8").write_bytes(pem(good, b"hunter2"))
    (tmp_path / "text.p8").write_text("hunter2 is no key")
    (tmp_path / "empty.p8").write_text("")
    (tmp_path / "cert.pem").write_bytes(pem(good) + certificate(good))
    (tmp_path / "old.pem").write_bytes(pem(good) + certificate(good, days=-1))
    (tmp_path / "alone.pem").write_bytes(certificate(good))
    (tmp_path / "other.pem").write_bytes(pem(keys["rsa"]) + certificate(good))
    (tmp_path / "locked.pem").write_bytes(pem(good, b"hunter2") + certificate(good))
    (tmp_path / "anonymous.pem").write_bytes(pem(good) + certificate(good, topic=""))
    account = {
        "type": "service_account", "project_id": "p-1", "client_email": "a@b.c",
        "token_uri": "https://localhost/token", "private_key_id": "1",
        "private_key": pem(keys["rsa"]).decode(),
    }  # fmt: skip
    (tmp_path / "account.json").write_bytes(orjson.dumps(account))
    (tmp_path / "user.json").write_bytes(orjson.dumps({**account, "type": "authorized_user"}))
    (tmp_path / "half.json").write_bytes(orjson.dumps({**account, "private_key": "hunter2"}))
    (tmp_path / "nameless.json").write_bytes(orjson.dumps({**account, "project_id": ""}))
    return tmp_path


GOOD = "key=good.p8&key_id=K&team_id=T&topic=com.example.app"
APNS_FAULTS = {
    "": "key: it is missing",
    "key=good.p8&team_id=T&topic=t": "key_id: it is missing",
    "key=good.p8&key_id=K&topic=t": "team_id: it is missing",
    "key=good.p8&key_id=K&team_id=T": "topic: it is missing",
    GOOD.replace("com.example.app", "com%0Aexample"): "topic: ",
    GOOD.replace("good", "none"): "key: none.p8 cannot be read: No such file",
    GOOD.replace("good", "empty"): "key: empty.p8 is empty",
    GOOD.replace("good", "text"): "key: text.p8 holds no private key",
    GOOD.replace("good", "locked"): "key: locked.p8 is encrypted",
    GOOD.replace("good", "curve"): "key: curve.p8 is no key for ES256",
    GOOD.replace("good", "rsa"): "key: rsa.p8 is no key for ES256",
    GOOD.replace("good", "ed"): "key: ed.p8 is no key for ES256",
    f"{GOOD}&certificate=cert.pem": "certificate: either a certificate or a key",
    "certificate=none.pem": "certificate: none.pem cannot be read",
    "certificate=good.p8": "certificate: good.p8 holds no certificate",
    "certificate=old.pem": "certificate: old.pem has expired on",
    "certificate=alone.pem": "certificate: alone.pem cannot be used: its private key",
    "certificate=other.pem": "certificate: other.pem cannot be used: its private key",
    "certificate=locked.pem": "certificate: locked.pem cannot be used: its private key",
    "certificate=anonymous.pem": "topic: it is the app's bundle id",
    f"{GOOD}&engine=httpx": "engine: it should be 'curl' or 'aioapns'",
    f"{GOOD}&streams=0": "streams: ",
    f"{GOOD}&connections=many": "connections: ",
    f"{GOOD}&timeout=5": "timeout: 5 has no unit",
    f"{GOOD}&timeout=100ms": "timeout: ",
    f"{GOOD}&ca=none.pem": "ca: none.pem cannot be used: No such file",
    f"{GOOD}&ca=text.p8": "ca: text.p8 cannot be used: no PEM certificates",
    f"{GOOD}&topic=again": "each option may stand in the URL once",
    f"{GOOD}&colour=red": "colour: unknown option",
    f"{GOOD}&hunter2%20=1": "that of this URL: unknown option",
    f"{GOOD}&ca=": "ca: it is empty",
    f"{GOOD}&feedback=example": "feedback: it is a URL",
    f"{GOOD}&feedback_token_env=X": "feedback_token_env: there is no feedback",
    f"{GOOD}&feedback=http://h/&feedback_token_env=NOT_THERE": "feedback_token_env: the environment has no",
    f"{GOOD}&feedback=http://h/&feedback_token_file=none": "feedback_token_file: none cannot be read",
    f"{GOOD}#x": "the URL holds a #",
}
FCM_FAULTS = {
    "": "credentials: they are missing",
    "credentials=none.json": "credentials: none.json cannot be read",
    "credentials=text.p8": "credentials: text.p8 is no JSON",
    "credentials=user.json": "credentials: user.json is no key file of a service account",
    "credentials=half.json": "credentials: half.json is incomplete",
    "credentials=nameless.json": "project: it is missing",
    "credentials=account.json&project=a/b": "project: 'a/b' is no id",
    "credentials=account.json&rate=0": "rate: ",
    "credentials=account.json&rate=nan": "rate: ",
    "credentials=account.json&dry_run=maybe": "dry_run: ",
    "credentials=account.json&key=good.p8": "key: unknown option",
}


@pytest.mark.parametrize(("query", "problem"), APNS_FAULTS.items(), ids=range(len(APNS_FAULTS)))
def test_apns(folder, query, problem):
    refused(f"apns+https://localhost/?{query}", problem)


@pytest.mark.parametrize(("query", "problem"), FCM_FAULTS.items(), ids=range(len(FCM_FAULTS)))
def test_fcm(folder, query, problem):
    refused(f"fcm+https://localhost/?{query}", problem)


@pytest.mark.parametrize("host", ["", "user:hunter2@localhost", "a,b", "localhost:0", "localhost:x", "[::1"])
def test_a_wrong_host(folder, host):
    refused(f"apns+https://{host}/?{GOOD}", "")


def test_a_path(folder):
    refused(f"apns+https://localhost/3/device?{GOOD}", "the URL has a path")


def refused(url, problem):
    with pytest.raises(ConfigurationError) as caught:
        from_url(url)
    assert caught.value.field == "sink"
    assert caught.value.problem.startswith(problem)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"apns+https://localhost/?{GOOD}",
        f"apns+https://[::1]:8443/?{GOOD}&engine=aioapns",
        "apns+https://localhost/?certificate=cert.pem",
        "fcm+https://localhost/?credentials=account.json",
    ],
)
def test_a_right_one_connects_to_nothing(folder, monkeypatch, url):
    monkeypatch.setattr(socket, "socket", None)
    sink = from_url(url)
    assert sink.limits.items == 1000
    assert "localhost" in sink.where() or "[::1]:8443" in sink.where()
    sink.close()


def test_a_certificate_brings_its_topic(folder):
    assert "com.example.cert" in from_url("apns+https://localhost/?certificate=cert.pem").where()


def test_a_small_rate_makes_small_writes(folder):
    sink = from_url("fcm+https://localhost/?credentials=account.json&rate=10&concurrency=2")
    assert sink.limits.items == 25


APPS_FAULTS = {
    "": "is empty",
    "[other]": "has tables [apps.NAME] and nothing else",
    "x": "is no TOML",
    "[apps]": "has tables [apps.NAME] and nothing else",
    "[apps.a]": "apps.a: it has url",
    "[apps.a]\nurl = 7": "apps.a: it has url",
    "[apps.a]\nurl = []": "apps.a: it has url",
    '[apps.a]\nurl = "x"\ncolour = "red"': "apps.a: it has url",
    '[apps.a]\nurl = "jsonl:///tmp"': "apps.a: one url for apns+https and one for fcm+https",
    f'[apps.a]\nurl = ["apns+https://h/?{GOOD}", "apns+https://h/?{GOOD}"]': "each at most once",
    f'[apps.a]\nurl = "apns+https://h/?{GOOD}&colour=red"': "apps.a: colour: unknown option",
    f'[apps.a]\nurl = "apns+http://h/?{GOOD}"': "unknown scheme 'apns+http'",
    f'[apps.a]\nurl = "apns+https://h:x/?{GOOD}"': "apps.a: ",
}


@pytest.mark.parametrize(("content", "problem"), APPS_FAULTS.items(), ids=range(len(APPS_FAULTS)))
def test_a_wrong_file_of_apps(folder, content, problem):
    (folder / "apps.toml").write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        from_url("push:apps.toml")
    assert problem in caught.value.problem


@pytest.mark.parametrize("url", ["push:", "push:none.toml", "push://apps.toml", "push:apps.toml?x=1"])
def test_a_wrong_name_of_the_file_of_apps(folder, url):
    with pytest.raises(ConfigurationError, match="push:"):
        from_url(url)


def test_files_of_apps_stand_beside_the_file(folder, monkeypatch, tmp_path_factory):
    apps = f'[apps.a]\nurl = ["apns+https://h/?{GOOD}", "fcm+https://h/?credentials=account.json"]'
    (folder / "apps.toml").write_text(apps)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    sink = from_url(f"push:{folder}/apps.toml")
    assert sink.where() == "a: https://h (com.example.app), a: https://h (project p-1)"
