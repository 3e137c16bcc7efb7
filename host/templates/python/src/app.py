"""Answers each line in upper case.

A line ends with LF or CRLF, and its answer has the same ending. A line without an ending is kept
until the rest arrives. If the peer finishes sending first, the line is answered as it is.

The setting `line-max-bytes` limits a line: 1 to 65,536 bytes, default 1,024, endings not counted. A
longer line is refused with a message, and the session closes.
"""

from wharf import Action, EventProc, Refused, export, session, settings

LINE_MAX_DEFAULT = 1_024
LINE_MAX_CEILING = 65_536


class Lines(EventProc):
    def __init__(self) -> None:
        self.line_max = line_max()
        self.partial = b""

    def on_read(self, data: bytes) -> Action:
        # Works on whole packets and never loops over bytes or lines. So 64 KiB of any bytes fit the
        # budget of the lowest class.
        data = self.partial + data
        start = too_long(data, self.line_max)
        if start >= 0:
            session.write(data[:start].upper() + b"ERROR line longer than %d bytes\r\n" % self.line_max)
            return Action.CLOSE
        end = data.rfind(b"\n") + 1
        self.partial = data[end:]
        return session.write_or_close(data[:end].upper()) if end > 0 else Action.PROCEED

    def on_end(self) -> Action:
        if self.partial:
            # The session closes either way.
            session.write(self.partial.upper())
        return Action.CLOSE

    # Saves a session between two events: the line that has not ended yet.

    def save(self) -> bytes:
        return self.partial

    def restore(self, version: str, state: bytes) -> None:
        if len(state) > LINE_MAX_CEILING + 1:
            raise Refused(f"a partial line of {len(state)} bytes is longer than any line may be")
        self.partial = state


def line_max() -> int:
    text = settings.get("line-max-bytes") or ""
    value = int(text) if text.isascii() and text.isdigit() else LINE_MAX_DEFAULT
    return min(max(value, 1), LINE_MAX_CEILING)


def too_long(data: bytes, line_max: int) -> int:
    """Position of the first line that is too long, or -1.

    Each step leaps over as many lines as fit into the longest one. A CR at the end may be half of
    an ending, so it does not count.
    """
    start = 0
    while len(data) - start > line_max:
        end = data.rfind(b"\n", start, start + line_max + 1)
        if end >= 0:
            start = end + 1
        elif data[start + line_max : start + line_max + 2] in (b"\r", b"\r\n"):
            start += line_max + 2
        else:
            return start
    return -1


InetEventProc, Handoff = export(Lines)
