// Connects the handlers of wharf.h with the contract in wit/. Values have the layout of the
// component model's canonical ABI, which on wasm32 is the layout of C structs.
#include "wharf.h"

#include <stdlib.h>
#include <string.h>

#define SESSION(name) __attribute__((import_module("wharf:server/session@0.1.0"), import_name(name)))
#define EVENT(name) __attribute__((export_name("wharf:server/inet-event-proc@0.1.0#" name)))
#define HANDOFF(name) __attribute__((export_name("wharf:server/handoff@0.1.0#" name)))
#define CONFIG(name) __attribute__((import_module("wasi:config/store@0.2.0-rc.1"), import_name(name)))
#define WEAK __attribute__((weak))

_Static_assert(sizeof(void *) == 4 && sizeof(wharf_client) == 112, "this is for wasm32");

SESSION("write") void host_write(const void *data, size_t length, uint8_t *result);
SESSION("write-capacity") uint32_t host_write_capacity(void);
SESSION("set-priority") int32_t host_set_priority(int32_t priority);
SESSION("set-timer") int32_t host_set_timer(uint32_t id, uint64_t after_ms);
SESSION("info") void host_info(wharf_client *result);

struct setting {
    uint8_t failed;
    union {
        wharf_optional_text value;
        struct {
            uint32_t kind;
            wharf_text text;
        } error;
    } as;
};
CONFIG("get") void host_setting(const char *key, size_t length, struct setting *result);

// Memory for values that the host passes.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old_size, (void)align;
    if (size == 0) return (void *)8;
    void *memory = realloc(old, size);
    if (memory == NULL) abort();
    return memory;
}

// Frees a list. An empty list has no memory.
static void release(const void *data, size_t length) {
    if (length > 0) free((void *)data);
}

static void release_optional(const wharf_optional_text *text) {
    if (text->is_some) release(text->value.data, text->value.length);
}

void wharf_client_free(const wharf_client *client) {
    release(client->server.data, client->server.length);
    release(client->peer_address.data, client->peer_address.length);
    release(client->local_address.data, client->local_address.length);
    if (!client->tls.is_some) return;
    const wharf_tls *tls = &client->tls.value;
    release(tls->protocol.data, tls->protocol.length);
    release(tls->cipher_suite.data, tls->cipher_suite.length);
    release_optional(&tls->server_name);
    release_optional(&tls->alpn);
    release_optional(&tls->client_subject);
}

wharf_written wharf_write(const void *data, size_t length) {
    uint8_t result[2];
    host_write(data, length, result);
    return result[0] == 0 ? WHARF_TAKEN : (wharf_written)(result[1] + 1);
}

wharf_action wharf_write_or_close(const void *data, size_t length) {
    return wharf_write(data, length) == WHARF_TAKEN ? WHARF_PROCEED : WHARF_CLOSE;
}

uint32_t wharf_write_capacity(void) { return host_write_capacity(); }
wharf_priority wharf_set_priority(wharf_priority priority) { return (wharf_priority)host_set_priority((int32_t)priority); }
bool wharf_set_timer(uint32_t id, uint64_t after_ms) { return host_set_timer(id, after_ms) != 0; }

wharf_client wharf_info(void) {
    wharf_client client;
    host_info(&client);
    return client;
}

char *wharf_setting(const char *key) {
    struct setting setting;
    host_setting(key, strlen(key), &setting);
    if (setting.failed) {
        release(setting.as.error.text.data, setting.as.error.text.length);
        return NULL;
    }
    if (!setting.as.value.is_some) return NULL;
    wharf_text text = setting.as.value.value;
    char *copy = malloc(text.length + 1);
    if (copy == NULL) abort();
    memcpy(copy, text.data, text.length);
    copy[text.length] = 0;
    release(text.data, text.length);
    return copy;
}

EVENT("on-connect") int32_t handle_connect(const wharf_client *client) {
    // The host allocated the memory of `client`.
    wharf_action action = on_connect(client);
    wharf_client_free(client);
    free((void *)client);
    return (int32_t)action;
}

EVENT("on-read") int32_t handle_read(const uint8_t *data, size_t length) {
    wharf_action action = on_read(data, length);
    release(data, length);
    return (int32_t)action;
}

EVENT("on-write") int32_t handle_write(void) { return (int32_t)on_write(); }
EVENT("on-timeout") int32_t handle_timeout(uint64_t idle_ms) { return (int32_t)on_timeout(idle_ms); }
EVENT("on-timer") int32_t handle_timer(uint32_t id) { return (int32_t)on_timer(id); }
EVENT("on-end") int32_t handle_end(void) { return (int32_t)on_end(); }
EVENT("on-disconnect") void handle_disconnect(int32_t reason) { on_disconnect((wharf_reason)reason); }

#ifndef WHARF_NO_HANDOFF
HANDOFF("save") const wharf_bytes *handle_save(void) {
    static wharf_bytes state;
    state = save();
    return &state;
}

HANDOFF("restore")
const void *handle_restore(const char *version, size_t version_length, const uint8_t *state, size_t length) {
    static struct {
        uint8_t failed;
        wharf_text why;
    } result;
    const char *why = "it cannot read what was saved";
    bool taken = restore((wharf_text){version, version_length}, state, length, &why);
    release(version, version_length);
    release(state, length);
    result.failed = !taken;
    result.why = (wharf_text){why, strlen(why)};
    return &result;
}
#endif

WEAK wharf_action on_connect(const wharf_client *client) {
    (void)client;
    return WHARF_PROCEED;
}
WEAK wharf_action on_read(const uint8_t *data, size_t length) {
    (void)data, (void)length;
    return WHARF_PROCEED;
}
WEAK wharf_action on_write(void) { return WHARF_PROCEED; }
WEAK wharf_action on_timeout(uint64_t idle_ms) {
    (void)idle_ms;
    return WHARF_PROCEED;
}
WEAK wharf_action on_timer(uint32_t id) {
    (void)id;
    return WHARF_PROCEED;
}
WEAK wharf_action on_end(void) { return WHARF_CLOSE; }
WEAK void on_disconnect(wharf_reason reason) { (void)reason; }
