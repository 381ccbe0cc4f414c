"""Secrets of the worker's operator: jobs have their names, only the worker has the values, which are never shown.

A secret is read when a call needs it, so that a new one holds from the next call on. A response is cleaned of
the secrets that it used before it is kept anywhere: a server that shows a client its own headers would else put them
into the job's result.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taskflow_server.worker.http.guard import Forbidden, check_url

NAME = r"[A-Za-z0-9_-]{1,128}"
SHOWN = "[secret]"
MAX_BYTES = 64 << 10
_HOST = re.compile(r"[A-Za-z0-9_.-]+(:[0-9]{1,5})?\Z")


class NoSecret(LookupError):
    """The secret cannot be had, or not for this host. The text names it, and says what would be right."""


class Secrets:
    """Files of a folder, then the environment: `shop-token` is the file of that name, or TASKFLOW_SECRET_SHOP_TOKEN."""

    def __init__(self, folder: str, hosts: Mapping[str, list[str]]) -> None:
        self._folder = folder
        self._hosts = hosts

    def get(self, name: str, host: str, port: int) -> str:
        """The secret, for a call of this host. NoSecret; one with a line break inside is none, either."""
        allowed = self._hosts.get(name)
        if allowed is not None and not {host, f"{host}:{port}"} & set(allowed):
            raise NoSecret(f"the secret {name} is not for {host}:{port}; TASKFLOW_HTTP_SECRET_HOSTS says for which")
        return self._checked(name)

    def _checked(self, name: str) -> str:
        value = self._read(name)
        if not value:
            raise NoSecret(f"the worker has no secret {name}; its operator can set {_variable(name)}")
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise NoSecret(f"the secret {name} holds a control character, which no header may")
        return value

    def url(self, name: str) -> str:
        """A secret that is a URL, for a call of its own host. NoSecret, without showing it, when it is not one."""
        value = self._checked(name)
        try:
            parts = check_url(value)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except Forbidden:
            raise NoSecret(f"the secret {name} is not a valid URL; set it to https://host/path") from None
        return self.get(name, parts.hostname or "", port)

    def _read(self, name: str) -> str:
        if self._folder:
            try:
                with open(Path(self._folder, name), encoding="utf-8") as file:
                    return file.read(MAX_BYTES).rstrip("\r\n")
            except FileNotFoundError:
                pass
            except (OSError, UnicodeDecodeError) as error:
                raise NoSecret(f"the secret {name} cannot be read: {type(error).__name__}") from None
        return os.environ.get(_variable(name), "")


def _variable(name: str) -> str:
    return "TASKFLOW_SECRET_" + name.upper().replace("-", "_")


def basic(user: str, password: str) -> str:
    """The credentials that follow `Basic` in a header."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def cleaned(value: Any, secrets: Iterable[str]) -> Any:
    """A JSON value without the secrets."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, SHOWN)
        return value
    if isinstance(value, dict):
        return {cleaned(key, secrets): cleaned(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item, secrets) for item in value]
    return value


def parse_hosts(pairs: str) -> dict[str, list[str]]:
    """`NAME=host, NAME=other:8443` -> {name: [hosts]}. ValueError for what is none."""
    found: dict[str, list[str]] = {}
    for pair in (word.strip() for word in pairs.split(",") if word.strip()):
        name, _, host = (part.strip() for part in pair.partition("="))
        if not re.fullmatch(NAME, name) or not _HOST.match(host):
            raise ValueError(f"{pair!r} is not NAME=host")
        found.setdefault(name, []).append(host.lower())
    return found
