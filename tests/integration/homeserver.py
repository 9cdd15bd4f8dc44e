"""Synapse as a process, people on it, and a proxy before it that breaks calls as asked for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import httpx
import msgspec

from clew.testing.loopback import Loopback

INSTALLED: Final = Path(__file__).parents[2] / ".counterparts" / "synapse"
"""By `make integration`, which says in `synapse.log` beside it why it could not."""
SECONDS_MAX: Final = 60
START_SECONDS_MAX: Final = 120
FREELY: Final = {"per_second": 10_000, "burst_count": 10_000}
Json = dict[str, Any]


class Homeserver:
    """One that runs."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self._secret = secret
        self._http = httpx.Client(base_url=url, timeout=SECONDS_MAX)
        self._number = count(1)

    def person(self, name: str) -> Someone:
        """Somebody new; their id begins with the name."""
        nonce = self._http.get("/_synapse/admin/v1/register").json()["nonce"]
        username = f"{name}-{next(self._number)}"
        said = b"\0".join(part.encode() for part in (nonce, username, "password", "notadmin"))
        asked = {
            "nonce": nonce, "username": username, "displayname": name.title(), "password": "password", "admin": False,
            "mac": hmac.new(self._secret.encode(), said, hashlib.sha1).hexdigest(),
        }  # fmt: skip
        made = self._http.post("/_synapse/admin/v1/register", json=asked).raise_for_status().json()
        return Someone(self.url, made["user_id"], made["access_token"])

    def close(self) -> None:
        self._http.close()


class Someone:
    """An account and what it does, each call finished when it returns."""

    def __init__(self, url: str, ident: str, token: str) -> None:
        self.id = ident
        self.token = token
        self._http = httpx.Client(
            base_url=f"{url}/_matrix", headers={"Authorization": f"Bearer {token}"}, timeout=SECONDS_MAX
        )
        self._number = count(1)

    def close(self) -> None:
        self._http.close()

    def room(self, *others: Someone, direct: bool = False, encrypted: bool = False) -> str:
        """A new room, with invitations."""
        asked: Json = {
            "invite": [other.id for other in others],
            "is_direct": direct,
            "preset": "private_chat",
        }
        if encrypted:
            algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
            asked["initial_state"] = [{"type": "m.room.encryption", "content": algorithm}]
        return str(self._call("POST", "/client/v3/createRoom", asked)["room_id"])

    def invite(self, room: str, other: Someone) -> None:
        self._call("POST", f"/client/v3/rooms/{quote(room)}/invite", {"user_id": other.id})

    def typing(self, room: str) -> list[str]:
        """Who types there."""
        synced = self._call("GET", "/client/v3/sync?timeout=0")["rooms"]["join"][room]["ephemeral"]["events"]
        return [
            who for event in synced if event["type"] == "m.typing" for who in event["content"]["user_ids"]
        ]

    def join(self, room: str) -> None:
        self._call("POST", f"/client/v3/join/{quote(room)}", {})

    def say(self, room: str, body: str, more: Json | None = None, *, kind: str = "m.room.message") -> str:
        """A message; `more` of its content. Returns its id."""
        said = {"msgtype": "m.text", "body": body, **(more or {})}
        path = f"/client/v3/rooms/{quote(room)}/send/{kind}/{next(self._number)}"
        return str(self._call("PUT", path, said)["event_id"])

    def change(self, room: str, message: str, body: str) -> str:
        new = {"m.new_content": {"msgtype": "m.text", "body": body}}
        return self.say(room, f"* {body}", new | relates("m.replace", message))

    def redact(self, room: str, message: str) -> None:
        self._call("PUT", f"/client/v3/rooms/{quote(room)}/redact/{quote(message)}/{next(self._number)}", {})

    def send_file(self, room: str, content: bytes, name: str, more: Json | None = None) -> None:
        asked = self._http.post(f"/media/v3/upload?filename={quote(name)}", content=content)
        url = asked.raise_for_status().json()["content_uri"]
        info = {"size": len(content), "mimetype": "application/octet-stream"}
        self.say(room, name, {"msgtype": "m.file", "url": url, "info": info} | (more or {}))

    def log_out(self) -> None:
        """Takes all of its tokens back."""
        self._call("POST", "/client/v3/logout/all", {})

    def account_data(self, kind: str) -> Json:
        return self._call("GET", f"/client/v3/user/{quote(self.id)}/account_data/{kind}")

    def set_account_data(self, kind: str, content: Json) -> None:
        self._call("PUT", f"/client/v3/user/{quote(self.id)}/account_data/{kind}", content)

    def members(self, room: str) -> set[str]:
        return set(self._call("GET", f"/client/v3/rooms/{quote(room)}/joined_members")["joined"])

    def events(self, room: str) -> list[Json]:
        """What was said in a room, oldest first."""
        path = f"/client/v3/rooms/{quote(room)}/messages?dir=b&limit=1000"
        chunk: list[Json] = self._call("GET", path)["chunk"]
        return [event for event in reversed(chunk) if event["type"] == "m.room.message"]

    def messages(self, room: str, sender: Someone) -> list[Json]:
        """What somebody's messages say now, as their programs show them."""
        shown: dict[str, Json] = {}
        for event in self.events(room):
            content = event["content"]
            relation = content.get("m.relates_to", {})
            if event["sender"] != sender.id or not content:
                continue
            if relation.get("rel_type") == "m.replace":
                if relation["event_id"] in shown:
                    shown[relation["event_id"]] |= content["m.new_content"]
            else:
                shown[event["event_id"]] = content
        return list(shown.values())

    def shown(self, room: str, sender: Someone) -> list[str]:
        return [message["body"] for message in self.messages(room, sender)]

    def files(self, room: str, sender: Someone) -> list[tuple[str, bytes]]:
        files = [message for message in self.messages(room, sender) if "url" in message]
        return [(message["body"], self._download(message["url"])) for message in files]

    def _download(self, url: str) -> bytes:
        path = f"/client/v1/media/download/{url.removeprefix('mxc://')}"
        return self._http.get(path).raise_for_status().content

    async def until(self, holds: Callable[[], bool], seconds: float = SECONDS_MAX) -> None:
        """Returns when it holds; looked at whenever something happened where this person is."""
        since = ""
        async with asyncio.timeout(seconds):
            while not holds():
                path = f"/client/v3/sync?timeout={1000 if since else 0}{since}"
                synced = await asyncio.to_thread(self._call, "GET", path)
                since = f"&since={synced['next_batch']}"

    def _call(self, method: str, path: str, content: Json | None = None) -> Json:
        answer: Json = self._http.request(method, path, json=content).raise_for_status().json()
        return answer


def relates(kind: str, event: str) -> Json:
    return {"m.relates_to": {"rel_type": kind, "event_id": event}}


class Proxy(Loopback):
    """Hands calls on; the next message that is sent through it may meet a fault. `calls` are those that came, in order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._upstream = int(url.rpartition(":")[2])
        self.calls: list[str] = []
        self.called = asyncio.Event()
        """Set at each call, for whoever waits for one."""
        self.pause_ms = 0
        """The next message is not taken: it is to come again after so long."""
        self.loses_answer = False
        self.rejects_position = False
        """The next sync that names one is refused."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)content-length: *(\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        self.calls.append(unquote(head.split(" ", 2)[1].partition("?")[0]))
        self.called.set()
        self.called = asyncio.Event()
        is_message = "/send/m.room.message/" in self.calls[-1]
        if is_message and self.pause_ms:
            wrong = {
                "errcode": "M_LIMIT_EXCEEDED",
                "error": "Too Many Requests",
                "retry_after_ms": self.pause_ms,
            }
            self.pause_ms = 0
            writer.write(_response(429, msgspec.json.encode(wrong)))
            return
        if self.rejects_position and "/sync?" in head and "since=" in head:
            self.rejects_position = False
            wrong = {"errcode": "M_UNKNOWN_POS", "error": "Connection not remembered"}
            writer.write(_response(400, msgspec.json.encode(wrong)))
            return
        await self._forward(re.sub(r"(?i)\r\nconnection:[^\r]*", "", head), body, writer, is_message)

    async def _forward(self, head: str, body: bytes, writer: asyncio.StreamWriter, is_message: bool) -> None:
        upstream, call = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            call.write(head.replace("\r\n", "\r\nConnection: close\r\n", 1).encode("latin-1") + body)
            if is_message and self.loses_answer:
                self.loses_answer = False
                await upstream.read()
                writer.write(_response(200, b"{")[:-1])  # it ends where the answer would begin
                return
            while chunk := await upstream.read(65536):
                writer.write(chunk)
                await writer.drain()
        finally:
            call.close()


def _response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n".encode() + body


@contextmanager
def running_homeserver(directory: Path) -> Iterator[Homeserver]:
    """On a free port of this machine; nothing of it is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    secret = secrets.token_hex(16)
    (directory / "signing.key").write_text(
        f"ed25519 a_test {base64.b64encode(secrets.token_bytes(32)).decode().rstrip('=')}\n"
    )
    listener = {"type": "http", "port": port, "bind_addresses": ["127.0.0.1"], "tls": False,
                "resources": [{"names": ["client"]}]}  # fmt: skip
    settings = {
        "server_name": "localhost", "listeners": [listener], "report_stats": False, "trusted_key_servers": [],
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "signing_key_path": str(directory / "signing.key"), "media_store_path": str(directory / "media"),
        "registration_shared_secret": secret, "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16), "federation_domain_whitelist": [],
        "bcrypt_rounds": 4, "enable_media_repo": True, "user_directory": {"enabled": False},
        "rc_message": FREELY, "rc_registration": FREELY, "rc_media_create": FREELY,
        "rc_login": {"address": FREELY, "account": FREELY, "failed_attempts": FREELY},
        "rc_joins": {"local": FREELY, "remote": FREELY}, "rc_joins_per_room": FREELY,
        "rc_invites": {"per_room": FREELY, "per_user": FREELY, "per_issuer": FREELY},
        "rc_room_creation": FREELY,
    }  # fmt: skip
    (directory / "homeserver.yaml").write_bytes(msgspec.json.encode(settings))  # JSON is YAML
    log = directory / "synapse.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["/bin/sh", "-c", '"$@" </dev/null & cat; kill -9 $!', "sh",  # it ends also where we are killed
             INSTALLED / "bin" / "python", "-m", "synapse.app.homeserver", "-c", directory / "homeserver.yaml"],
            cwd=directory, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    server = Homeserver(f"http://127.0.0.1:{port}", secret)
    try:
        _wait_for(server.url, process, log)
        yield server
    finally:
        server.close()
        os.killpg(process.pid, signal.SIGKILL)  # nothing of it is kept
        process.communicate(timeout=SECONDS_MAX)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS_MAX and process.poll() is None:
        try:
            httpx.get(f"{url}/health", timeout=SECONDS_MAX).raise_for_status()
        except httpx.ConnectError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # it starts
        else:
            return
    raise AssertionError(f"Synapse does not answer ({process.poll()}):\n{log.read_text()}")
