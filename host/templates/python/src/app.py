"""Answers each line in upper case, with the ending it came with (LF or CRLF).

What comes without an ending is kept until the rest arrives, or answered as it stands when the peer finishes sending. A line longer
than the setting `line-max-bytes` (1 to 65,536, default 1,024, endings not counted) is refused with a message, and the session
closed.
"""

from wharf import Action, EventProc, Refused, export, session, settings

LINE_MAX_DEFAULT = 1_024
LINE_MAX_CEILING = 65_536


class Lines(EventProc):
    def __init__(self) -> None:
        self.line_max = line_max()
        self.partial = b""

    def on_read(self, data: bytes) -> Action:
        answers = b""
        *lines, partial = (self.partial + data).split(b"\n")
        for line in [*(line + b"\n" for line in lines), partial]:
            if content_length(line) > self.line_max:
                session.write(answers + b"ERROR line longer than %d bytes\r\n" % self.line_max)
                return Action.CLOSE
            if line.endswith(b"\n"):
                answers += line.upper()
        self.partial = partial
        return session.write_or_close(answers) if answers else Action.PROCEED

    def on_end(self) -> Action:
        if self.partial:
            # The session closes either way.
            session.write(self.partial.upper())
        return Action.CLOSE

    # What a session is, between two events: the line that has not ended yet.

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


def content_length(line: bytes) -> int:
    """Without its ending. A CR that may turn out to be half of one does not count."""
    return len(line.removesuffix(b"\n").removesuffix(b"\r"))


InetEventProc, Handoff = export(Lines)
