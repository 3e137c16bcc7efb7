// Answers each line in upper case, with the ending it came with (LF or CRLF). What comes without an ending is kept until the rest
// arrives, or answered as it stands when the peer finishes sending. A line longer than the setting `line-max-bytes` (1 to 65,536,
// default 1,024, endings not counted) is refused with a message, and the session closed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wharf.h"

enum { LINE_MAX_DEFAULT = 1024, LINE_MAX_CEILING = 65536, READ_MAX = 65536 };

static size_t line_max = LINE_MAX_DEFAULT;
static uint8_t line[LINE_MAX_CEILING + 2];
static size_t line_length;
// What one event may answer: a line that was kept, what came, and a refusal.
static uint8_t answers[sizeof line + READ_MAX + 64];
static size_t answers_length;

static void read_settings(void) {
    char *text = wharf_setting("line-max-bytes");
    char *end = text;
    unsigned long value = text == NULL ? 0 : strtoul(text, &end, 10);
    line_max = end == text || *end != 0 ? LINE_MAX_DEFAULT : value < 1 ? 1 : value > LINE_MAX_CEILING ? LINE_MAX_CEILING : value;
    free(text);
}

// The length of the line without its ending. A CR that may turn out to be half of one does not count.
static size_t content_length(void) {
    size_t length = line_length;
    if (length > 0 && line[length - 1] == '\n') length--;
    if (length > 0 && line[length - 1] == '\r') length--;
    return length;
}

static void answer_line(void) {
    for (size_t at = 0; at < line_length; at++) {
        uint8_t byte = line[at];
        answers[answers_length++] = byte >= 'a' && byte <= 'z' ? byte - 32 : byte;
    }
    line_length = 0;
}

wharf_action on_connect(const wharf_client *client) {
    (void)client;
    read_settings();
    return WHARF_PROCEED;
}

wharf_action on_read(const uint8_t *data, size_t length) {
    answers_length = 0;
    for (size_t at = 0; at < length; at++) {
        line[line_length++] = data[at];
        if (content_length() > line_max) {
            char *end = (char *)answers + answers_length;
            answers_length += (size_t)sprintf(end, "ERROR line longer than %zu bytes\r\n", line_max);
            wharf_write(answers, answers_length);
            return WHARF_CLOSE;
        }
        if (data[at] == '\n') answer_line();
    }
    return answers_length == 0 ? WHARF_PROCEED : wharf_write_or_close(answers, answers_length);
}

wharf_action on_end(void) {
    answers_length = 0;
    answer_line();
    // The session closes either way.
    if (answers_length > 0) wharf_write(answers, answers_length);
    return WHARF_CLOSE;
}

// What a session is, between two events: the line that has not ended yet.
wharf_bytes save(void) { return (wharf_bytes){line, line_length}; }

bool restore(wharf_text version, const uint8_t *state, size_t length, const char **why) {
    (void)version;
    if (length > LINE_MAX_CEILING + 1) {
        *why = "a partial line that is longer than any line may be";
        return false;
    }
    memcpy(line, state, length);
    line_length = length;
    read_settings();
    return true;
}
