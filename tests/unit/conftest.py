"""Unit tests: no socket, no sleep; pure logic and the file system only."""

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def _no_network():
    """A unit test that opens a socket fails."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
