"""Clients of the counter: sessions that stay and number what they say, and new clients at a
steady pace, which does not depend on the fate of earlier clients."""

import selectors
import socket
import struct
import threading
import time

ANSWER_BYTES = 5
# How long anything may take that is waited for.
PATIENCE = 20.0


def receive(client, length):
    got = b""
    while len(got) < length:
        more = client.recv(length - len(got))
        if not more:
            raise ConnectionError(f"closed after {len(got)} of {length} bytes")
        got += more
    return got


class Client:
    """One client that asks and waits. `wrap` makes a TLS client of its socket."""

    def __init__(self, port, wrap=lambda client: client):
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE)
        raw.settimeout(PATIENCE)
        self.socket, self.count = wrap(raw), 0

    def say(self):
        self.socket.sendall(b"x")

    def hear(self):
        self.count += 1
        count, byte = struct.unpack("<Ic", receive(self.socket, ANSWER_BYTES))
        assert (count, byte) == (self.count, b"x"), f"answer {count} {byte} where {self.count} was to come"

    def ask(self):
        self.say()
        self.hear()

    def is_closed(self):
        """Waits until the other side has closed."""
        return self.socket.recv(1) == b""

    def close(self):
        self.socket.close()


class Load:
    """Clients on a thread of their own. Problems are kept, and reported when a test asks."""

    def __init__(self):
        self.selector, self.problems, self.over = selectors.DefaultSelector(), [], False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self.work()
        except Exception as problem:  # Whatever it is, the main thread has to hear of it.
            self.problems.append(repr(problem))

    def wrong(self, problem):
        self.problems.append(problem)

    def well(self):
        assert not self.problems, f"{len(self.problems)} went wrong: {'; '.join(self.problems[:3])}"

    def reaches(self, measure, target, what):
        """Waits until `measure()` is the target or more, or something goes wrong."""
        end = time.monotonic() + PATIENCE
        while measure() < target:
            self.well()
            assert time.monotonic() < end, f"{what}: {measure()} of {target} within {PATIENCE:.0f} s"
            time.sleep(0.01)
        self.well()


class Sessions(Load):
    """So many sessions. Each says one to five bytes, waits for their numbers, and says more a while later."""

    PAUSE = 0.1

    def __init__(self, port, count):
        super().__init__()
        self.said, self.heard, self.rounds = [0] * count, [0] * count, [0] * count
        self.buffers, self.due = [b""] * count, [0.0] * count
        self.sockets = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(count)]
        for at, client in enumerate(self.sockets):
            client.setblocking(False)
            self.selector.register(client, selectors.EVENT_READ, at)
        self.thread.start()

    def work(self):
        begun = time.monotonic()
        self.due = [begun + self.PAUSE * at / len(self.due) for at in range(len(self.due))]
        while not self.over:
            now = time.monotonic()
            for at, due in enumerate(self.due):
                if due <= now and self.said[at] == self.heard[at]:
                    length = 1 + (at + self.rounds[at]) % 5
                    self.sockets[at].sendall(bytes((self.said[at] + i) % 256 for i in range(1, 1 + length)))
                    self.said[at] += length
                    self.due[at] = max(due + self.PAUSE, now)
            for key, _ in self.selector.select(0.005):
                self.take(key.data)

    def take(self, at):
        try:
            got = self.sockets[at].recv(65536)
        except OSError as problem:
            got = b""
            self.wrong(f"session {at}: {problem}")
        if not got:
            self.selector.unregister(self.sockets[at])
            self.wrong(f"session {at} was closed after {self.heard[at]} answers")
            return
        buffer = self.buffers[at] + got
        whole = len(buffer) // ANSWER_BYTES * ANSWER_BYTES
        for count, byte in struct.iter_unpack("<IB", buffer[:whole]):
            self.heard[at] += 1
            if (count, byte) != (self.heard[at], self.heard[at] % 256):
                self.wrong(f"session {at}: answer {count} where {self.heard[at]} was to come")
        self.buffers[at] = buffer[whole:]
        if self.said[at] == self.heard[at]:
            self.rounds[at] += 1

    def go_on(self, rounds=2):
        """Waits until each has been answered so many times more."""
        before = list(self.rounds)
        self.reaches(lambda: min(now - then for now, then in zip(self.rounds, before)), rounds, "sessions are answered")

    def end(self):
        self.over = True
        self.thread.join(PATIENCE)
        for client in self.sockets:
            client.close()
        self.well()
        return sum(self.heard)


class NewClients(Load):
    """Clients at a steady pace. Each asks once. A late answer delays no other client."""

    # More than this at once is a server that is away for too long. With the sessions beside them
    # they are fewer than the unit's `max_clients`, while others still end.
    WAITING_MAX = 600

    def __init__(self, port, per_second):
        super().__init__()
        self.port, self.per_second = port, per_second
        self.came, self.served, self.longest = 0, 0, 0.0
        self.thread.start()

    def work(self):
        begun, waiting = time.monotonic(), {}
        while not self.over or waiting:
            now = time.monotonic()
            while not self.over and self.came < (now - begun) * self.per_second and len(waiting) < self.WAITING_MAX:
                self.came += 1
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", self.port))
                waiting[client] = now
                self.selector.register(client, selectors.EVENT_WRITE)
            for key, events in self.selector.select(0.003):
                self.serve(key.fileobj, events, waiting)
            late = [client for client, since in waiting.items() if now - since > PATIENCE]
            for client in late:
                self.wrong("a new client was not answered")
                self.leaves(client, waiting)

    def serve(self, client, events, waiting):
        try:
            if events & selectors.EVENT_WRITE:
                problem = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if problem:
                    raise OSError(problem, "a new client was refused")
                client.send(b"x")
                self.selector.modify(client, selectors.EVENT_READ)
                return
            got = client.recv(64)
            if got != b"\1\0\0\0x":
                raise ConnectionError(f"a new client got {got!r}")
            self.served += 1
            self.longest = max(self.longest, time.monotonic() - waiting[client])
        except OSError as problem:
            self.wrong(repr(problem))
        self.leaves(client, waiting)

    def leaves(self, client, waiting):
        self.selector.unregister(client)
        del waiting[client]
        client.close()

    def more(self, count):
        """Waits until so many more were served."""
        self.reaches(lambda: self.served, self.served + count, "new clients are served")

    def end(self):
        self.over = True
        self.thread.join(PATIENCE + 5)
        self.well()
        assert self.served == self.came, f"{self.served} of {self.came} new clients were served"
        return self.served
