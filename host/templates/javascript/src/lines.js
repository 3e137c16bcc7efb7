// Answers each line in upper case.
//
// A line ends with LF or CRLF, and its answer has the same ending. A line without an ending is kept
// until the rest arrives. If the peer finishes sending first, the line is answered as it is.
//
// The setting `line-max-bytes` limits a line: 1 to 65,536 bytes, default 1,024, endings not
// counted. A longer line is refused with a message, and the session closes.
import { bytes, eventProcedure, session, settings } from "../wharf/wharf.js";

const LINE_MAX_DEFAULT = 1024;
const LINE_MAX_CEILING = 65536;
const [LF, CR] = [10, 13];

// Bytes that one event answers. They need less than half of the fuel of the lowest class, because
// the engine uses about a thousand units for each byte. The rest waits for the next event.
const SLICE = 4096;
// The most bytes that may wait. If a peer sends faster than it is answered, it gets an error. With
// the longest line, the bytes are less than the 256 KiB that `save` may return.
const WAITING_MAX = 163840;
// Timers that bring the next slice. LAST means that the peer has finished, also for a version that
// restores the session.
const [MORE, LAST] = [1, 2];

class Lines {
  lineMax = lineMax();
  // The answer to the line that has not ended yet.
  partial = new Uint8Array(0);
  waiting = new Uint8Array(0);
  ended = false;

  onRead(data) {
    if (this.waiting.length + data.length > WAITING_MAX) {
      session.write(bytes("ERROR too much at once\r\n"));
      return "close";
    }
    this.waiting = joined(this.waiting, data);
    return this.slice();
  }

  onTimer(id) {
    this.ended ||= id === LAST;
    return this.slice();
  }

  onEnd() {
    this.ended = true;
    return this.slice();
  }

  // Answers as much as one event may, and sets a timer if more is left.
  slice() {
    const action = this.answer(this.waiting.subarray(0, SLICE));
    this.waiting = this.waiting.subarray(SLICE);
    if (action !== "proceed") return action;
    if (this.waiting.length > 0) return session.setTimer(this.ended ? LAST : MORE, 1) ? "proceed" : "close";
    if (!this.ended) return "proceed";
    // The session closes either way.
    if (this.partial.length > 0) session.write(this.partial);
    return "close";
  }

  answer(data) {
    const all = joined(this.partial, upperCase(data));
    const start = tooLong(all, this.lineMax);
    if (start >= 0) {
      session.write(joined(all.subarray(0, start), bytes(`ERROR line longer than ${this.lineMax} bytes\r\n`)));
      return "close";
    }
    const end = all.lastIndexOf(LF) + 1;
    this.partial = all.slice(end);
    return end === 0 ? "proceed" : session.writeOrClose(all.subarray(0, end));
  }

  // Saves a session between two events: the line that has not ended yet, and the waiting bytes.
  save() {
    return joined(this.partial, this.waiting);
  }

  restore(_version, state) {
    if (state.length > LINE_MAX_CEILING + 1 + WAITING_MAX) return `${state.length} bytes are more than a session keeps`;
    this.waiting = state;
  }
}

function lineMax() {
  const text = settings.get("line-max-bytes") ?? "";
  const value = /^[0-9]+$/.test(text) ? Number(text) : LINE_MAX_DEFAULT;
  return Math.min(Math.max(value, 1), LINE_MAX_CEILING);
}

// Position of the first line that is too long, or -1.
//
// Each step leaps over as many lines as fit into the longest one. A CR at the end may be half of an
// ending, so it does not count.
function tooLong(all, lineMax) {
  let start = 0;
  while (all.length - start > lineMax) {
    const end = all.lastIndexOf(LF, start + lineMax);
    if (end >= start) start = end + 1;
    else if (all[start + lineMax] === CR && (all[start + lineMax + 1] ?? LF) === LF) start += lineMax + 2;
    else return start;
  }
  return -1;
}

function upperCase(data) {
  return data.map((byte) => (byte >= 97 && byte <= 122 ? byte - 32 : byte));
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
