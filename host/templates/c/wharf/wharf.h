// Write a Wharf event procedure in C.
//
// Define the handlers that you need; each has a default. One instance serves one session, so static
// variables may hold the session's state. If the operator lets sessions share an instance,
// `wharf_info()` tells whose event it is.
#ifndef WHARF_H
#define WHARF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Text in UTF-8, without a zero at its end.
typedef struct {
    const char *data;
    size_t length;
} wharf_text;

// Bytes that need not be text.
typedef struct {
    const uint8_t *data;
    size_t length;
} wharf_bytes;

typedef struct {
    bool is_some;
    wharf_text value;
} wharf_optional_text;

// What happens to the session after a handler returns.
typedef enum {
    WHARF_PROCEED = 0, // Keep going.
    WHARF_CLOSE = 1,   // Send what is queued, then close gracefully.
    WHARF_ABORT = 2,   // Drop what is queued and reset the connection.
} wharf_action;

// Scheduling class of a session, lowest first.
typedef enum { WHARF_BACKGROUND, WHARF_LOW, WHARF_NORMAL, WHARF_HIGH, WHARF_CRITICAL } wharf_priority;

// Outcome of a write. Bytes are sent only after WHARF_TAKEN.
typedef enum {
    WHARF_TAKEN = 0,
    WHARF_CLOSED = 1,    // The session is ending.
    WHARF_TOO_LARGE = 2, // Larger than the send buffer's high-water mark. Write it in pieces.
    WHARF_TIMED_OUT = 3, // The peer read nothing for the server's timeout.
} wharf_written;

// Why a session is over.
typedef enum {
    WHARF_PEER_CLOSED,
    WHARF_PEER_RESET,
    WHARF_PEER_TRUNCATED,
    WHARF_CLOSED_BY_PLUGIN,
    WHARF_IDLE_TIMEOUT,
    WHARF_WRITE_TIMEOUT,
    WHARF_EVICTED,
    WHARF_SERVER_STOPPED,
    WHARF_FIRST_BYTE_TIMEOUT,
    WHARF_MIN_RATE,
    WHARF_SESSION_TIMEOUT,
} wharf_reason;

// Values that the TLS handshake negotiated.
typedef struct {
    wharf_text protocol;
    wharf_text cipher_suite;
    wharf_optional_text server_name;
    wharf_optional_text alpn;
    wharf_optional_text client_subject;
} wharf_tls;

// The client of a session, as the host knows it.
typedef struct {
    uint64_t id; // Unique for the life of the server, from 1.
    wharf_text server;
    wharf_text peer_address;
    uint16_t peer_port;
    wharf_text local_address;
    uint16_t local_port;
    struct {
        bool is_some;
        wharf_tls value;
    } tls;
    uint8_t priority; // A wharf_priority.
    int64_t parameter;
} wharf_client;

// ---- You define these. Their arguments are freed when they return. ----

wharf_action on_connect(const wharf_client *client);      // Default: proceed.
wharf_action on_read(const uint8_t *data, size_t length); // 1 to 65,536 bytes. Default: proceed.
wharf_action on_write(void);               // The send buffer has drained. Default: proceed.
wharf_action on_timeout(uint64_t idle_ms); // Nothing was exchanged for so long. Default: proceed.
wharf_action on_timer(uint32_t id);        // A timer fires. Default: proceed.
wharf_action on_end(void);                 // The peer has finished sending. Default: close.
void on_disconnect(wharf_reason reason);   // The session is over. Default: nothing.

// Migration to the next version. These two have no default, because a default would lose state.
// Without them, remove `handoff` from wit/world.wit and define WHARF_NO_HANDOFF.

// Returns your own memory, which the host reads before its next call.
wharf_bytes save(void);
// Returns false, with `why`, if the session must stay on its version.
bool restore(wharf_text version, const uint8_t *state, size_t length, const char **why);

// ---- You call these. ----

// Queues all of `data` for the peer, or nothing of it. Waits while the peer does not read.
wharf_written wharf_write(const void *data, size_t length);
// Writes and proceeds, or closes if the write is refused. The usual last line of a handler.
wharf_action wharf_write_or_close(const void *data, size_t length);
// Bytes that can be queued now without waiting.
uint32_t wharf_write_capacity(void);
// Asks for another class from the next event on. Returns the class in force.
wharf_priority wharf_set_priority(wharf_priority priority);
// Fires on_timer(id) once after that time; 0 cancels the timer. Returns false if the session
// already has its limit of timers.
bool wharf_set_timer(uint32_t id, uint64_t after_ms);
// The session whose event is being handled. Free it with wharf_client_free.
wharf_client wharf_info(void);
void wharf_client_free(const wharf_client *client);
// A setting of the operator, as text that ends with a zero, for you to free. NULL if there is none.
char *wharf_setting(const char *key);

#endif
