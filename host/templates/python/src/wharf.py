"""Write a Wharf event procedure in Python: a class, with one object for each session.

    from wharf import Action, EventProc, export, session

    class Echo(EventProc):
        def on_read(self, data: bytes) -> Action:
            return session.write_or_close(data)

    InetEventProc, Handoff = export(Echo)

The last line belongs into `app.py`, whose classes the component exports. Output of `print` goes to
the host's log. An exception ends the session, with its traceback in the log.
"""

import linecache
from typing import Optional, Tuple, Type

from componentize_py_types import Err, Ok, Some
from wit_world.imports import session as _host
from wit_world.imports import store as _store
from wit_world.imports.types import Action, ClientInfo, DisconnectReason, Priority, TlsInfo, WriteError

__all__ = [
    "Action", "ClientInfo", "DisconnectReason", "EventProc", "Priority", "Refused", "TlsInfo", "WriteError",
    "export", "session", "settings",
]


class Refused(Exception):
    """Raised by `restore`: the session stays on its version. The operator reads the text."""


class session:
    """The session whose event is being handled."""

    @staticmethod
    def info() -> ClientInfo:
        return _host.info()

    @staticmethod
    def write(data: bytes) -> Optional[WriteError]:
        """Queues all of `data` and returns None, or queues nothing and returns the error.

        Waits while the peer does not read.
        """
        try:
            _host.write(data)
        except Err as error:
            return error.value
        return None

    @staticmethod
    def write_or_close(data: bytes) -> Action:
        """Writes and proceeds, or closes if the write is refused: a handler's usual last line."""
        return Action.PROCEED if session.write(data) is None else Action.CLOSE

    @staticmethod
    def write_capacity() -> int:
        """Bytes that can be queued now without waiting."""
        return _host.write_capacity()

    @staticmethod
    def set_priority(priority: Priority) -> Priority:
        """Asks for another class from the next event on. Returns the class in force."""
        return _host.set_priority(priority)

    @staticmethod
    def set_timer(id: int, after_ms: int) -> bool:
        """Fires `on_timer(id)` once after that time; 0 cancels the timer.

        Returns False if the session already has its limit of timers.
        """
        return _host.set_timer(id, after_ms)


class settings:
    """Settings of the operator for this plugin."""

    @staticmethod
    def get(key: str) -> Optional[str]:
        try:
            value = _store.get(key)
        except Err:
            return None
        return value.value if isinstance(value, (Ok, Some)) else value


class EventProc:
    """A session. Override the handlers that you need. A handler that returns None proceeds."""

    def on_connect(self, client: ClientInfo) -> Optional[Action]:
        """Called first: the client has passed the limits and the TLS handshake."""

    def on_read(self, data: bytes) -> Optional[Action]:
        """Called when 1 to 65,536 bytes arrived, cut anywhere."""

    def on_write(self) -> Optional[Action]:
        """Called when the send buffer has drained."""

    def on_timeout(self, idle_ms: int) -> Optional[Action]:
        """Called when nothing was exchanged for the server's timeout."""

    def on_timer(self, id: int) -> Optional[Action]:
        """Called when a timer fires."""

    def on_end(self) -> Optional[Action]:
        """Called when the peer has finished sending. It may still read."""
        return Action.CLOSE

    def on_disconnect(self, reason: DisconnectReason) -> None:
        """Called last, when the session is over."""

    def save(self) -> bytes:
        """Returns the state that the next version needs for this session. Changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to save a session")

    def restore(self, version: str, state: bytes) -> None:
        """Fills the object of a session that another version saved, instead of `on_connect`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to take a session over")


def export(kind: Type[EventProc]) -> Tuple[type, type]:
    """The classes that the component exports. They pass each event to the object of its session."""
    # One session, unless the operator lets the sessions of a server share an instance.
    sessions: dict[int, EventProc] = {}
    _remember_sources(kind)

    def current() -> EventProc:
        if len(sessions) == 1:
            return next(iter(sessions.values()))
        id = _host.info().id
        if id not in sessions:
            sessions[id] = kind()
        return sessions[id]

    class InetEventProc:
        def on_connect(self, client: ClientInfo) -> Action:
            plugin = sessions[client.id] = kind()
            return plugin.on_connect(client) or Action.PROCEED

        def on_read(self, data: bytes) -> Action:
            return current().on_read(data) or Action.PROCEED

        def on_write(self) -> Action:
            return current().on_write() or Action.PROCEED

        def on_timeout(self, idle_ms: int) -> Action:
            return current().on_timeout(idle_ms) or Action.PROCEED

        def on_timer(self, id: int) -> Action:
            return current().on_timer(id) or Action.PROCEED

        def on_end(self) -> Action:
            return current().on_end() or Action.PROCEED

        def on_disconnect(self, reason: DisconnectReason) -> None:
            current().on_disconnect(reason)
            sessions.pop(_host.info().id, None)

    class Handoff:
        def save(self) -> bytes:
            return current().save()

        def restore(self, version: str, state: bytes) -> None:
            plugin = kind()
            try:
                plugin.restore(version, state)
            except Refused as why:
                # A refusal is an error in the contract.
                raise Err(str(why)) from None
            sessions[_host.info().id] = plugin

    return InetEventProc, Handoff


def _remember_sources(kind: type) -> None:
    """Reads the sources at build time. Tracebacks show them, and there are no files later."""
    import sys

    for module in (sys.modules[kind.__module__], sys.modules[__name__]):
        if module.__file__:
            linecache.getlines(module.__file__)
    # A check whether a file has changed would drop the lines.
    linecache.checkcache = lambda filename=None: None
