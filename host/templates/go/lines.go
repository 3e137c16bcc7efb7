// Answers each line in upper case.
//
// A line ends with LF or CRLF, and its answer has the same ending. A line without an ending is kept
// until the rest arrives. If the peer finishes sending first, the line is answered as it is.
//
// The setting `line-max-bytes` limits a line: 1 to 65,536 bytes, default 1,024, endings not
// counted. A longer line is refused with a message, and the session closes.
package main

import (
	"bytes"
	"fmt"
	"strconv"

	"lines/wharf"
)

const (
	lineMaxDefault = 1_024
	lineMaxCeiling = 65_536
)

// Lines is one session.
type Lines struct {
	wharf.Defaults
	lineMax int
	partial []byte
}

func (l *Lines) OnConnect(wharf.ClientInfo) wharf.Action {
	l.lineMax = lineMax()
	return wharf.Proceed
}

func (l *Lines) OnRead(data []byte) wharf.Action {
	l.partial = append(l.partial, data...)
	if start := tooLong(l.partial, l.lineMax); start >= 0 {
		return l.refuse(start)
	}
	end := bytes.LastIndexByte(l.partial, '\n') + 1
	if end == 0 {
		return wharf.Proceed
	}
	answers := l.partial[:end]
	l.partial = bytes.Clone(l.partial[end:])
	upperCase(answers)
	return wharf.WriteOrClose(answers)
}

// refuse answers the lines before the overlong one, which begins at start, and refuses that one.
func (l *Lines) refuse(start int) wharf.Action {
	answers := l.partial[:start]
	upperCase(answers)
	wharf.Write(fmt.Appendf(bytes.Clone(answers), "ERROR line longer than %d bytes\r\n", l.lineMax))
	return wharf.Close
}

func (l *Lines) OnEnd() wharf.Action {
	if len(l.partial) > 0 {
		// The session closes either way.
		upperCase(l.partial)
		wharf.Write(l.partial)
	}
	return wharf.Close
}

// Save saves a session between two events: the line that has not ended yet.
func (l *Lines) Save() []byte {
	return l.partial
}

// Restore makes the value of a session that another version saved.
func (l *Lines) Restore(version string, state []byte) error {
	if len(state) > lineMaxCeiling+1 {
		return fmt.Errorf("a partial line of %d bytes is longer than any line may be", len(state))
	}
	l.lineMax, l.partial = lineMax(), state
	return nil
}

func lineMax() int {
	text, _ := wharf.Setting("line-max-bytes")
	value, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return lineMaxDefault
	}
	return int(min(max(value, 1), lineMaxCeiling))
}

// tooLong is the position of the first line that is too long, or -1.
//
// Each step leaps over as many lines as fit into the longest one. So 64 KiB of any bytes fit the
// budget of the lowest class. A CR at the end may be half of an ending, so it does not count.
func tooLong(all []byte, lineMax int) int {
	start := 0
	for len(all)-start > lineMax {
		rest := all[start+lineMax:]
		if end := bytes.LastIndexByte(all[start:start+lineMax+1], '\n'); end >= 0 {
			start += end + 1
		} else if rest[0] == '\r' && (len(rest) == 1 || rest[1] == '\n') {
			start += lineMax + 2
		} else {
			return start
		}
	}
	return -1
}

func upperCase(line []byte) {
	for at, b := range line {
		if 'a' <= b && b <= 'z' {
			line[at] = b - ('a' - 'A')
		}
	}
}

func init() {
	wharf.Serve(func() wharf.EventProc { return new(Lines) })
}

// Never called: the host calls this module as a library.
func main() {}
