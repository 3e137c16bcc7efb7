// Answers each line in upper case, with the ending it came with (LF or CRLF). What comes without an ending is kept until the rest
// arrives, or answered as it stands when the peer finishes sending. A line longer than the setting `line-max-bytes` (1 to 65,536,
// default 1,024, endings not counted) is refused with a message, and the session closed.
import { bytes, eventProcedure, session, settings } from "../wharf/wharf.js";

const LINE_MAX_DEFAULT = 1024;
const LINE_MAX_CEILING = 65536;
const [LF, CR] = [10, 13];

class Lines {
  lineMax = lineMax();
  partial = new Uint8Array(0);

  onRead(data) {
    const all = joined(this.partial, data);
    const answers = [];
    let start = 0;
    while (start < all.length) {
      const end = all.indexOf(LF, start) + 1;
      const line = all.subarray(start, end || all.length);
      if (contentLength(line) > this.lineMax) {
        session.write(joined(...answers, bytes(`ERROR line longer than ${this.lineMax} bytes\r\n`)));
        return "close";
      }
      if (end === 0) break;
      answers.push(upperCase(line));
      start = end;
    }
    this.partial = all.slice(start);
    return answers.length === 0 ? "proceed" : session.writeOrClose(joined(...answers));
  }

  onEnd() {
    // The session closes either way.
    if (this.partial.length > 0) session.write(upperCase(this.partial));
    return "close";
  }

  // What a session is, between two events: the line that has not ended yet.
  save() {
    return this.partial;
  }

  restore(_version, state) {
    if (state.length > LINE_MAX_CEILING + 1) return `a partial line of ${state.length} bytes is longer than any line may be`;
    this.partial = state;
  }
}

function lineMax() {
  const text = settings.get("line-max-bytes") ?? "";
  const value = /^[0-9]+$/.test(text) ? Number(text) : LINE_MAX_DEFAULT;
  return Math.min(Math.max(value, 1), LINE_MAX_CEILING);
}

// The length of a line without its ending. A CR that may turn out to be half of one does not count.
function contentLength(line) {
  let length = line.length;
  if (line[length - 1] === LF) length--;
  if (line[length - 1] === CR) length--;
  return length;
}

function upperCase(line) {
  return line.map((byte) => (byte >= 97 && byte <= 122 ? byte - 32 : byte));
}

function joined(...parts) {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export const { inetEventProc, handoff } = eventProcedure(Lines);
