"""A relay between a client and a server that can be cut, closed and opened again, or speak TLS."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]

#: Closing with a linger of 0 s sends RST.
_RESET = struct.pack("ii", 1, 0)


class Relay:
    """Listens on loopback; carries each connection to ``host:port``.

    ``tls`` is a server's context: clients speak TLS to the relay, it speaks plainly to the server.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._server = (host, port)
        self._tls = tls
        self._pairs: list[Pair] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.port = 0
        self.url = ""
        self.open()

    def open(self) -> None:
        """Take connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Refuse new connections; those that stand are left alone."""
        if self._listener:
            # close() alone would leave accept() waiting, and the port taken
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def reset(self) -> int:
        """Reset every connection, on both sides; return how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    _end(end, socket.SHUT_RD)  # those who carry close it: TLS knows but its number
        return len(pairs)

    def close(self) -> None:
        """End it."""
        self.shut()
        self.reset()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            if self._tls:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(self._server)
        except OSError:  # a handshake that the client gave up, or no server
            client.close()
            return
        pair = (client, server)
        with self._lock:
            self._pairs.append(pair)
        back = threading.Thread(target=self._carry, args=(client, server, pair), daemon=True)
        back.start()
        self._carry(server, client, pair)
        back.join()
        for end in pair:
            end.close()

    def _carry(self, source: socket.socket, target: socket.socket, pair: Pair) -> None:
        with suppress(OSError, ValueError):
            while data := source.recv(65_536):
                target.sendall(data)
        with self._lock:
            if pair not in self._pairs:
                return  # it is reset: no good-bye
        for end in pair:
            with suppress(OSError):
                _end(end, socket.SHUT_RDWR)


def _end(end: socket.socket, how: int) -> None:
    """Shut a socket down; that of TLS would have the other thread go on in plain text."""
    socket.socket.shutdown(end, how)


@contextmanager
def relay(url: str, tls: ssl.SSLContext | None = None) -> Iterator[Relay]:
    """Yield a relay to the server of a URL; its ``url`` is the same but for the port (and amqps)."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    made = Relay(parts.hostname, parts.port, tls)
    made.url = url.replace(f":{parts.port}", f":{made.port}")
    if tls:
        made.url = made.url.replace("amqp://", "amqps://")
    try:
        yield made
    finally:
        made.close()
