// Package wharf is for Wharf event procedures in Go. Implement EventProc, embed Defaults for the
// events that you do not need, and call Serve in an init function.
package wharf

// Action is what happens to the session after a handler returns.
type Action int32

const (
	Proceed Action = iota // Keep going.
	Close                 // Send what is queued, then close gracefully.
	Abort                 // Drop what is queued and reset the connection.
)

// Priority is the scheduling class of a session, lowest first.
type Priority int32

const (
	Background Priority = iota
	Low
	Normal
	High
	Critical
)

// DisconnectReason is the reason why a session is over.
type DisconnectReason int32

const (
	PeerClosed DisconnectReason = iota
	PeerReset
	PeerTruncated
	ClosedByPlugin
	IdleTimeout
	WriteTimeout
	Evicted
	ServerStopped
	FirstByteTimeout
	MinRate
	SessionTimeout
)

// WriteError is the reason why a write was refused. None of its bytes is sent.
type WriteError int32

const (
	Closed   WriteError = iota // The session is ending.
	TooLarge                   // Larger than the send buffer's high-water mark. Write it in pieces.
	TimedOut                   // The peer read nothing for the server's timeout.
)

func (e WriteError) Error() string {
	return [...]string{"closed", "too large", "timed out"}[e]
}

// ClientInfo is the client of a session, as the host knows it.
type ClientInfo struct {
	ID           uint64 // Unique for the life of the server, from 1.
	Server       string
	PeerAddress  string
	PeerPort     uint16
	LocalAddress string
	LocalPort    uint16
	TLS          *TLSInfo // nil on a plaintext session.
	Priority     Priority
	Parameter    int64
}

// TLSInfo holds the values that the TLS handshake negotiated, or nil.
type TLSInfo struct {
	Protocol      string
	CipherSuite   string
	ServerName    *string
	ALPN          *string
	ClientSubject *string
}

// EventProc is one session. A panic ends the session, with its message and stack in the host's log.
type EventProc interface {
	// OnConnect is the first event: the client has passed the limits and the TLS handshake.
	OnConnect(client ClientInfo) Action
	// OnRead gets 1 to 65,536 bytes, cut anywhere. The slice is yours.
	OnRead(data []byte) Action
	// OnWrite is called when the send buffer has drained.
	OnWrite() Action
	// OnTimeout is called when nothing was exchanged for the server's timeout.
	OnTimeout(idleMs uint64) Action
	// OnTimer is called when a timer fires.
	OnTimer(id uint32) Action
	// OnEnd is called when the peer has finished sending. It may still read.
	OnEnd() Action
	// OnDisconnect is the last event.
	OnDisconnect(reason DisconnectReason)
	// Save returns the state that the next version needs to continue this session. It changes nothing.
	Save() []byte
	// Restore makes the value of a session that another version saved, instead of OnConnect. The text
	// of an error is for the operator, and the session then stays on the version that it has.
	Restore(version string, state []byte) error
}

// Defaults has a default for every event. Save and Restore have none, because a default would lose
// state.
type Defaults struct{}

func (Defaults) OnConnect(ClientInfo) Action   { return Proceed }
func (Defaults) OnRead([]byte) Action          { return Proceed }
func (Defaults) OnWrite() Action               { return Proceed }
func (Defaults) OnTimeout(uint64) Action       { return Proceed }
func (Defaults) OnTimer(uint32) Action         { return Proceed }
func (Defaults) OnEnd() Action                 { return Close }
func (Defaults) OnDisconnect(DisconnectReason) {}

var (
	create func() EventProc
	// One session, unless the operator lets the sessions of a server share an instance.
	sessions = map[uint64]EventProc{}
)

// Serve sets the function that makes the value of a session.
func Serve(new func() EventProc) {
	create = new
}

// current is the session whose event is being handled.
func current() EventProc {
	if len(sessions) == 1 {
		for _, session := range sessions {
			return session
		}
	}
	id := Info().ID
	if sessions[id] == nil {
		sessions[id] = create()
	}
	return sessions[id]
}

// WriteOrClose writes and proceeds, or closes if the write is refused. The usual last line of a
// handler.
func WriteOrClose(data []byte) Action {
	if Write(data) != nil {
		return Close
	}
	return Proceed
}
