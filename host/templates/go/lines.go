// Answers each line in upper case, with the ending it came with (LF or CRLF). What comes without an ending is kept until the rest
// arrives, or answered as it stands when the peer finishes sending. A line longer than the setting `line-max-bytes` (1 to 65,536,
// default 1,024, endings not counted) is refused with a message, and the session closed.
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
	var answers []byte
	for len(data) > 0 {
		piece := data
		if end := bytes.IndexByte(data, '\n'); end >= 0 {
			piece = data[:end+1]
		}
		data = data[len(piece):]
		l.partial = append(l.partial, piece...)
		if contentLength(l.partial) > l.lineMax {
			wharf.Write(fmt.Appendf(answers, "ERROR line longer than %d bytes\r\n", l.lineMax))
			return wharf.Close
		}
		if piece[len(piece)-1] == '\n' {
			answers = appendUpperCase(answers, l.partial)
			l.partial = l.partial[:0]
		}
	}
	if len(answers) == 0 {
		return wharf.Proceed
	}
	return wharf.WriteOrClose(answers)
}

func (l *Lines) OnEnd() wharf.Action {
	if len(l.partial) > 0 {
		// The session closes either way.
		wharf.Write(appendUpperCase(nil, l.partial))
	}
	return wharf.Close
}

// Save says what a session is, between two events: the line that has not ended yet.
func (l *Lines) Save() []byte {
	return l.partial
}

// Restore takes a session over.
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

// contentLength is that of a line without its ending. A CR that may turn out to be half of one does not count.
func contentLength(line []byte) int {
	return len(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")))
}

func appendUpperCase(to, line []byte) []byte {
	for _, b := range line {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		to = append(to, b)
	}
	return to
}

func init() {
	wharf.Serve(func() wharf.EventProc { return new(Lines) })
}

// Never called: this is a library that the host calls.
func main() {}
