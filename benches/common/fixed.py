"""An upstream without dependencies: whatever is asked, it answers 200 with 1 KiB, and keeps the connection. It reads
heads only: for requests without a body."""

import socket
import threading

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + b"k" * 1024


class Fixed:
    """Listens on a free `port` of loopback until the process ends; its threads are daemons."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection):
        waiting = b""
        try:
            while data := connection.recv(65536):
                waiting += data
                while b"\r\n\r\n" in waiting:
                    _, waiting = waiting.split(b"\r\n\r\n", 1)
                    connection.sendall(ANSWER)
        except OSError:
            pass  # the sidecar closed it
