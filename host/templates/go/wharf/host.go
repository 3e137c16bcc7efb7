//go:build wasip1

package wharf

// Connects this package with the contract in wit/. Values have the layout of the component model's
// canonical ABI.

import (
	"bytes"
	"unsafe"
)

// Memory for values that the host passes: the most that an event brings, and some texts.
//
// The memory is allocated beforehand, because an allocation may start the garbage collector. The
// collector asks for the time, and host calls are not allowed while the host passes values.
var (
	space [(64<<10 + 8<<10) / 8]uint64
	used  uint32
	// Values without room in space, kept from the garbage collector until the event is over.
	beside [][]uint64
)

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	// Words, because a value may need an alignment of eight bytes.
	words := size/8 + 1
	var at *uint64
	if used+words <= uint32(len(space)) {
		at = &space[used]
		used += words
	} else {
		more := make([]uint64, words)
		beside = append(beside, more)
		at = &more[0]
	}
	if oldSize > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(at)), size), unsafe.Slice((*byte)(old), oldSize))
	}
	return unsafe.Pointer(at)
}

// forget frees the space. The caller has copied the values that it needs.
func forget() { used, beside = 0, nil }

// text is a string in the host's memory layout, of 32-bit words.
type text struct{ at, length uint32 }

func (t text) String() string { return string(t.bytes()) }

func (t text) bytes() []byte {
	if t.length == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(t.at))), t.length)
}

type optionalText struct {
	some  uint32
	value text
}

func (o optionalText) String() *string {
	if o.some&0xff == 0 {
		return nil
	}
	value := o.value.String()
	return &value
}

type client struct {
	id           uint64
	server       text
	peerAddress  text
	peerPort     uint32
	localAddress text
	localPort    uint32
	tls          struct {
		some                            uint32
		protocol, cipherSuite           text
		serverName, alpn, clientSubject optionalText
	}
	priority  uint8
	_         [7]byte
	parameter int64
}

func (c *client) info() ClientInfo {
	info := ClientInfo{
		ID:           c.id,
		Server:       c.server.String(),
		PeerAddress:  c.peerAddress.String(),
		PeerPort:     uint16(c.peerPort),
		LocalAddress: c.localAddress.String(),
		LocalPort:    uint16(c.localPort),
		Priority:     Priority(c.priority),
		Parameter:    c.parameter,
	}
	if tls := &c.tls; tls.some&0xff != 0 {
		info.TLS = &TLSInfo{
			Protocol:      tls.protocol.String(),
			CipherSuite:   tls.cipherSuite.String(),
			ServerName:    tls.serverName.String(),
			ALPN:          tls.alpn.String(),
			ClientSubject: tls.clientSubject.String(),
		}
	}
	return info
}

//go:wasmimport wharf:server/session@0.1.0 info
func hostInfo(result unsafe.Pointer)

//go:wasmimport wharf:server/session@0.1.0 write
func hostWrite(data unsafe.Pointer, length uint32, result unsafe.Pointer)

//go:wasmimport wharf:server/session@0.1.0 write-capacity
func hostWriteCapacity() uint32

//go:wasmimport wharf:server/session@0.1.0 set-priority
func hostSetPriority(priority int32) int32

//go:wasmimport wharf:server/session@0.1.0 set-timer
func hostSetTimer(id uint32, afterMs uint64) uint32

//go:wasmimport wasi:config/store@0.2.0-rc.1 get
func hostSetting(key unsafe.Pointer, length uint32, result unsafe.Pointer)

// Info is the session whose event is being handled.
func Info() ClientInfo {
	before := used
	var result client
	hostInfo(unsafe.Pointer(&result))
	info := result.info()
	used = before
	return info
}

// Write queues all of data for the peer, or nothing. It waits while the peer does not read.
func Write(data []byte) error {
	var result [2]byte
	hostWrite(unsafe.Pointer(unsafe.SliceData(data)), uint32(len(data)), unsafe.Pointer(&result))
	if result[0] != 0 {
		return WriteError(result[1])
	}
	return nil
}

// WriteCapacity is the number of bytes that can be queued now without waiting.
func WriteCapacity() uint32 { return hostWriteCapacity() }

// SetPriority asks for another class from the next event on, and returns the class in force.
func SetPriority(priority Priority) Priority { return Priority(hostSetPriority(int32(priority))) }

// SetTimer fires OnTimer(id) once after that time; 0 cancels the timer. It returns false if the
// session already has its limit of timers.
func SetTimer(id uint32, afterMs uint64) bool { return hostSetTimer(id, afterMs) != 0 }

// Setting is the operator's value for this plugin, and false if there is none.
func Setting(key string) (string, bool) {
	var result struct {
		failed uint32
		value  optionalText
	}
	before := used
	defer func() { used = before }()
	hostSetting(unsafe.Pointer(unsafe.StringData(key)), uint32(len(key)), unsafe.Pointer(&result))
	if result.failed&0xff != 0 || result.value.some&0xff == 0 {
		return "", false
	}
	return result.value.value.String(), true
}

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-connect
func onConnect(c unsafe.Pointer) int32 {
	info := (*client)(c).info()
	forget()
	session := create()
	sessions[info.ID] = session
	return int32(session.OnConnect(info))
}

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-read
func onRead(at, length uint32) int32 {
	data := bytes.Clone(text{at, length}.bytes())
	forget()
	return int32(current().OnRead(data))
}

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-write
func onWrite() int32 { return int32(current().OnWrite()) }

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-timeout
func onTimeout(idleMs uint64) int32 { return int32(current().OnTimeout(idleMs)) }

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-timer
func onTimer(id uint32) int32 { return int32(current().OnTimer(id)) }

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-end
func onEnd() int32 { return int32(current().OnEnd()) }

//go:wasmexport wharf:server/inet-event-proc@0.1.0#on-disconnect
func onDisconnect(reason int32) {
	current().OnDisconnect(DisconnectReason(reason))
	if len(sessions) == 1 {
		clear(sessions)
	} else {
		delete(sessions, Info().ID)
	}
}

// Results of the last Save and Restore, which the host reads before the next call.
var (
	saved    []byte
	returned [3]uint32
	refusal  string
)

//go:wasmexport wharf:server/handoff@0.1.0#save
func save() unsafe.Pointer {
	saved = current().Save()
	returned[0], returned[1] = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(saved)))), uint32(len(saved))
	return unsafe.Pointer(&returned)
}

//go:wasmexport wharf:server/handoff@0.1.0#restore
func restore(version, versionLength, state, length uint32) unsafe.Pointer {
	session := create()
	from, kept := text{version, versionLength}.String(), bytes.Clone(text{state, length}.bytes())
	forget()
	err := session.Restore(from, kept)
	if err != nil {
		refusal = err.Error()
		returned = [3]uint32{1, uint32(uintptr(unsafe.Pointer(unsafe.StringData(refusal)))), uint32(len(refusal))}
	} else {
		returned = [3]uint32{}
		sessions[Info().ID] = session
	}
	return unsafe.Pointer(&returned)
}
