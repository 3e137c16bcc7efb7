// Answers each line in upper case.
//
// A line ends with LF or CRLF, and its answer has the same ending. A line without an ending is kept
// until the rest arrives. If the peer finishes sending first, the line is answered as it is.
//
// The setting `line-max-bytes` limits a line: 1 to 65,536 bytes, default 1,024, endings not
// counted. A longer line is refused with a message, and the session closes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wharf.h"

enum { LINE_MAX_DEFAULT = 1024, LINE_MAX_CEILING = 65536, READ_MAX = 65536 };

static size_t line_max = LINE_MAX_DEFAULT;
// Bytes without an answer: the line that has not ended yet, and during an event the new bytes.
static uint8_t kept[LINE_MAX_CEILING + 1 + READ_MAX];
static size_t kept_length;

static void read_settings(void) {
    char *text = wharf_setting("line-max-bytes");
    char *end = text;
    unsigned long value = text == NULL ? 0 : strtoul(text, &end, 10);
    line_max = end == text || *end != 0 ? LINE_MAX_DEFAULT : value < 1 ? 1 : value > LINE_MAX_CEILING ? LINE_MAX_CEILING : value;
    free(text);
}

// Finds the position of the first line that is too long.
//
// Each step leaps over as many lines as fit into the longest one. So 64 KiB of any bytes fit the
// budget of the lowest class. A CR at the end may be half of an ending, so it does not count.
static bool too_long(size_t *start) {
    *start = 0;
    while (kept_length - *start > line_max) {
        const uint8_t *line = kept + *start;
        size_t end = line_max + 1;
        while (end > 0 && line[end - 1] != '\n') end--;
        if (end > 0) {
            *start += end;
        } else if (line[line_max] == '\r' && *start + line_max + 1 == kept_length) {
            *start = kept_length;
        } else if (line[line_max] == '\r' && line[line_max + 1] == '\n') {
            *start += line_max + 2;
        } else {
            return true;
        }
    }
    return false;
}

// Answers the first `length` of the kept bytes.
static wharf_action answer(size_t length) {
    for (size_t at = 0; at < length; at++) {
        uint8_t byte = kept[at];
        if (byte >= 'a' && byte <= 'z') kept[at] = byte - 32;
    }
    wharf_action action = length == 0 ? WHARF_PROCEED : wharf_write_or_close(kept, length);
    kept_length -= length;
    memmove(kept, kept + length, kept_length);
    return action;
}

wharf_action on_connect(const wharf_client *client) {
    (void)client;
    read_settings();
    return WHARF_PROCEED;
}

wharf_action on_read(const uint8_t *data, size_t length) {
    memcpy(kept + kept_length, data, length);
    kept_length += length;
    size_t end;
    if (too_long(&end)) {
        char words[64];
        int written = sprintf(words, "ERROR line longer than %zu bytes\r\n", line_max);
        if (answer(end) == WHARF_PROCEED) wharf_write(words, (size_t)written);
        return WHARF_CLOSE;
    }
    end = kept_length;
    while (end > 0 && kept[end - 1] != '\n') end--;
    return answer(end);
}

wharf_action on_end(void) {
    answer(kept_length);
    return WHARF_CLOSE;
}

// Saves a session between two events: the line that has not ended yet.
wharf_bytes save(void) { return (wharf_bytes){kept, kept_length}; }

bool restore(wharf_text version, const uint8_t *state, size_t length, const char **why) {
    (void)version;
    if (length > LINE_MAX_CEILING + 1) {
        *why = "a partial line that is longer than any line may be";
        return false;
    }
    memcpy(kept, state, length);
    kept_length = length;
    read_settings();
    return true;
}
