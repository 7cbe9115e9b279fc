"""A TCP proxy that can lose its connections: what a network does to the daemon."""

from __future__ import annotations

import contextlib
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 16


class Proxy:
    """Passes bytes between 127.0.0.1:`port` and 127.0.0.1:`target`, if it is allowed to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._may_pass = threading.Event()
        self._may_pass.set()
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def drop(self) -> None:
        """Reset every connection that there is."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Reset every connection, and each new one at once, while the context is open."""
        self._is_cut = True
        self.drop()
        try:
            yield
        finally:
            self._is_cut = False

    @contextmanager
    def stall(self) -> Iterator[None]:
        """Pass no byte while the context is open; connections stay."""
        self._may_pass.clear()
        try:
            yield
        finally:
            self._may_pass.set()

    def close(self) -> None:
        """Drop everything and listen no more."""
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # the broker is down
            client.close()
            return
        with self._lock:
            self._sockets |= {client, server}
        if self._is_cut:
            self.drop()
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass bytes one way until either side ends."""
        with contextlib.suppress(OSError):
            while chunk := source.recv(CHUNK):
                self._may_pass.wait()
                sink.sendall(chunk)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
