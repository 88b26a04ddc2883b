"""Erlang's port mapper as seen by each node of a cluster: the way to another node leads where we want.

A node asks its port mapper where the others listen. Here each node has one of its own, and to each pair
belongs a proxy: so any link between two nodes can be cut, without a firewall and without root.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ALIVE, _PORT_PLEASE, _NAMES = 120, 122, 110
_ALIVE_ANSWER, _ALIVE_ANSWER_LONG, _PORT_ANSWER = 121, 118, 119
#: From this version of the distribution protocol on, a node's creation has four bytes.
_LONG_CREATION = 6
_NORMAL_NODE, _TCP = 77, 0
_UNKNOWN = 1


class PortMappers:
    """One port mapper for each viewer; what is registered at one is known to all.

    ``way``: told who asks, for whom, and where that one listens; returns the port to be told.
    """

    def __init__(self, viewers: list[str], way: Callable[[str, str, int], int]) -> None:
        self._way = way
        self._ports: dict[str, int] = {}
        self._creation = 0
        self._lock = threading.Lock()
        self._servers: dict[str, socketserver.ThreadingTCPServer] = {}
        for viewer in viewers:
            server = _Server(("127.0.0.1", 0), _handler(self, viewer))
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
            self._servers[viewer] = server

    def port(self, viewer: str) -> int:
        """Return where the viewer's own port mapper listens."""
        return int(self._servers[viewer].server_address[1])

    def close(self) -> None:
        """End all."""
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def register(self, name: str, port: int) -> int:
        """Note where a node listens; return its creation."""
        with self._lock:
            self._ports[name] = port
            self._creation += 1
            return self._creation

    def forget(self, name: str, port: int) -> None:
        """The node has gone; one that took its name meanwhile stays."""
        with self._lock:
            if self._ports.get(name) == port:
                del self._ports[name]

    def look_up(self, viewer: str, name: str) -> int | None:
        """Return the port by which a viewer comes to a node."""
        port = self._ports.get(name)
        return None if port is None else self._way(viewer, name, port)

    def names(self) -> dict[str, int]:
        """Return all nodes and where they listen."""
        with self._lock:
            return dict(self._ports)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def _handler(mappers: PortMappers, viewer: str) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, struct.error):
                (size,) = struct.unpack(">H", self.rfile.read(2))
                request = self.rfile.read(size)
                if request[0] == _ALIVE:
                    self._alive(request)
                elif request[0] == _PORT_PLEASE:
                    self._port_please(request[1:])
                elif request[0] == _NAMES:
                    listed = "".join(
                        f"name {name} at port {port}\n" for name, port in mappers.names().items()
                    )
                    self.wfile.write(struct.pack(">I", mappers.port(viewer)) + listed.encode())

        def _alive(self, request: bytes) -> None:
            port, _, _, highest, _, size = struct.unpack(">HBBHHH", request[1:11])
            name = request[11 : 11 + size].decode()
            creation = mappers.register(name, port)
            if highest >= _LONG_CREATION:
                self.wfile.write(struct.pack(">BBI", _ALIVE_ANSWER_LONG, 0, creation))
            else:
                self.wfile.write(struct.pack(">BBH", _ALIVE_ANSWER, 0, creation % 3 + 1))
            try:
                self.rfile.read(1)  # registered for as long as it holds this connection
            finally:
                mappers.forget(name, port)

        def _port_please(self, asked: bytes) -> None:
            port = mappers.look_up(viewer, asked.decode())
            if port is None:
                self.wfile.write(bytes((_PORT_ANSWER, _UNKNOWN)))
                return
            head = struct.pack(">BBHBBHHH", _PORT_ANSWER, 0, port, _NORMAL_NODE, _TCP, 6, 5, len(asked))
            self.wfile.write(head + asked + struct.pack(">H", 0))

    return Handler
