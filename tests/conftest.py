"""No test touches the network, and small models run on one thread (more are slower)."""

from __future__ import annotations

import socket

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    real = socket.socket.connect

    def refuse(self, address):
        # Sockets between processes of one test (gloo) stay on the loopback; everything else is an error.
        if self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        ):
            return real(self, address)
        raise RuntimeError(f"a test tried to reach {address!r}: the package must work without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
