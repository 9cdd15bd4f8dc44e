"""The MCP server that an agent starts for one session: it joins the agent's pipes to the bridge's socket, and is a pipe.

Run as a file by a bare interpreter, so that nothing is imported but the standard library and an update of Clew cannot
come between. What it is, the bridge decides by the token that it shows first.
"""

import contextlib
import os
import socket
import sys
import threading

SOCKET = "CLEW_BRIDGE_SOCKET"
TOKEN = "CLEW_BRIDGE_TOKEN"


def main() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bridge:
        try:
            bridge.connect(os.environ.get(SOCKET, ""))
            bridge.sendall(os.environ.get(TOKEN, "").encode() + b"\n")
        except OSError as error:
            sys.stderr.write(f"Clew is not there: {error}\n")
            return 1
        threading.Thread(target=_send, args=(bridge,), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := bridge.recv(1 << 16):
                _write_all(data)
    return 0


def _send(bridge: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, 1 << 16):
            bridge.sendall(data)
        bridge.shutdown(socket.SHUT_WR)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
