/* line.c - the line editor's state machine.
 *
 * Bytes pass three stages: escape sequences are collected until whole, other bytes are collected
 * into whole UTF-8 characters, and either becomes an edit of one growing text. While a bracketed
 * paste (ESC [ 200 ~ ... ESC [ 201 ~) is open, everything but its end mark is text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/line.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum { MAX_TEXT = 4 * 1024 * 1024, MAX_HISTORY = 500, MAX_SEQUENCE = 32 };

typedef enum key {
    KEY_LEFT = 1,
    KEY_RIGHT,
    KEY_HOME,
    KEY_END,
    KEY_UP,
    KEY_DOWN,
    KEY_DELETE,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_NEW_LINE,
    KEY_PASTE_BEGIN,
    KEY_PASTE_END,
    KEY_UNKNOWN
} key;

struct lp_line {
    lp_buf text;
    size_t cursor;
    char sequence[MAX_SEQUENCE]; /* an escape sequence so far, ESC included */
    size_t n_sequence;
    char character[4]; /* a UTF-8 character so far */
    size_t n_character;
    bool pasting, paste_cr;
    lp_buf history[MAX_HISTORY]; /* oldest first */
    size_t n_history, browsing;  /* browsing == n_history: the own draft */
    lp_buf draft;
};

lp_line *lp_line_new(void) {
    lp_line *line = lp_alloc(1, sizeof *line);
    if (line != NULL) lp_buf_init(&line->text, MAX_TEXT);
    return line;
}

void lp_line_free(lp_line *line) {
    if (line == NULL) return;
    for (size_t i = 0; i < line->n_history; i++) lp_buf_free(&line->history[i]);
    lp_buf_free(&line->text);
    lp_buf_free(&line->draft);
    lp_free(line);
}

void lp_line_clear(lp_line *line) {
    lp_buf_clear(&line->text);
    line->cursor = 0;
    line->n_sequence = 0;
    line->n_character = 0;
    line->pasting = false;
    line->browsing = line->n_history;
}

lp_str lp_line_text(const lp_line *line) {
    return lp_buf_str(&line->text);
}

size_t lp_line_cursor(const lp_line *line) {
    return line->cursor;
}

static void insert(lp_line *line, const char *data, size_t n) {
    lp_buf_add(&line->text, data, n); /* makes the room */
    if (line->text.failed) {
        line->text.failed = false; /* full: the key is ignored, the text stays */
        return;
    }
    char *at = line->text.data + line->cursor;
    memmove(at + n, at, line->text.len - n - line->cursor);
    memcpy(at, data, n);
    line->cursor += n;
}

static void erase(lp_line *line, size_t begin, size_t end) {
    if (begin >= end) return;
    memmove(line->text.data + begin, line->text.data + end, line->text.len - end + 1);
    line->text.len -= end - begin;
    line->cursor = begin;
}

static bool continues(const lp_line *line, size_t at) {
    return at < line->text.len && ((uint8_t)line->text.data[at] & 0xC0) == 0x80;
}

static size_t before(const lp_line *line, size_t at) {
    if (at == 0) return 0;
    do at--;
    while (at > 0 && continues(line, at));
    return at;
}

static size_t after(const lp_line *line, size_t at) {
    if (at >= line->text.len) return line->text.len;
    do at++;
    while (continues(line, at));
    return at;
}

static bool blank_at(const lp_line *line, size_t at) {
    char c = line->text.data[at];
    return c == ' ' || c == '\n' || c == '\t';
}

static size_t word_left(const lp_line *line) {
    size_t at = line->cursor;
    while (at > 0 && blank_at(line, before(line, at))) at = before(line, at);
    while (at > 0 && !blank_at(line, before(line, at))) at = before(line, at);
    return at;
}

static size_t word_right(const lp_line *line) {
    size_t at = line->cursor;
    while (at < line->text.len && blank_at(line, at)) at = after(line, at);
    while (at < line->text.len && !blank_at(line, at)) at = after(line, at);
    return at;
}

/* Begin and end of the cursor's line within the text. */
static size_t row_begin(const lp_line *line) {
    size_t at = line->cursor;
    while (at > 0 && line->text.data[at - 1] != '\n') at--;
    return at;
}

static size_t row_end(const lp_line *line) {
    size_t at = line->cursor;
    while (at < line->text.len && line->text.data[at] != '\n') at++;
    return at;
}

static void replace_text(lp_line *line, lp_str text) {
    lp_buf_clear(&line->text);
    lp_buf_add_str(&line->text, text);
    line->cursor = line->text.len;
}

static void browse(lp_line *line, bool older) {
    if (older ? line->browsing == 0 : line->browsing >= line->n_history) return;
    if (line->browsing == line->n_history) {
        lp_buf_clear(&line->draft);
        lp_buf_add_str(&line->draft, lp_line_text(line));
    }
    line->browsing += older ? (size_t)-1 : 1;
    bool own = line->browsing == line->n_history;
    replace_text(line, lp_buf_str(own ? &line->draft : &line->history[line->browsing]));
}

/* Up and down move inside a text of several lines first, then through the history. */
static void vertical(lp_line *line, bool up) {
    size_t begin = row_begin(line);
    size_t end = row_end(line);
    if (up ? begin == 0 : end == line->text.len) {
        browse(line, up);
        return;
    }
    size_t column = lp_utf8_count(lp_str_slice(lp_line_text(line), begin, line->cursor));
    line->cursor = up ? begin - 1 : end + 1;
    size_t at = row_begin(line);
    size_t stop = row_end(line);
    while (column-- > 0 && at < stop) at = after(line, at);
    line->cursor = at;
}

static lp_line_event enter(lp_line *line) {
    if (line->cursor > 0 && line->cursor == line->text.len &&
        line->text.data[line->cursor - 1] == '\\') {
        erase(line, line->cursor - 1, line->cursor);
        insert(line, "\n", 1);
        return LP_LINE_EDITED;
    }
    return LP_LINE_DONE;
}

static void apply(lp_line *line, key k) {
    switch (k) {
    case KEY_LEFT:
        line->cursor = before(line, line->cursor);
        break;
    case KEY_RIGHT:
        line->cursor = after(line, line->cursor);
        break;
    case KEY_HOME:
        line->cursor = row_begin(line);
        break;
    case KEY_END:
        line->cursor = row_end(line);
        break;
    case KEY_UP:
        vertical(line, true);
        break;
    case KEY_DOWN:
        vertical(line, false);
        break;
    case KEY_DELETE:
        erase(line, line->cursor, after(line, line->cursor));
        break;
    case KEY_WORD_LEFT:
        line->cursor = word_left(line);
        break;
    case KEY_WORD_RIGHT:
        line->cursor = word_right(line);
        break;
    case KEY_NEW_LINE:
        insert(line, "\n", 1);
        break;
    case KEY_PASTE_BEGIN:
        line->pasting = true;
        line->paste_cr = false;
        break;
    case KEY_PASTE_END:
    case KEY_UNKNOWN:
        break;
    }
}

static lp_line_event control(lp_line *line, uint8_t byte) {
    switch (byte) {
    case 1: /* Ctrl-A */
        apply(line, KEY_HOME);
        break;
    case 2: /* Ctrl-B */
        apply(line, KEY_LEFT);
        break;
    case 3: /* Ctrl-C */
        return LP_LINE_INTERRUPT;
    case 4: /* Ctrl-D */
        if (line->text.len == 0) return LP_LINE_END;
        apply(line, KEY_DELETE);
        break;
    case 5: /* Ctrl-E */
        apply(line, KEY_END);
        break;
    case 6: /* Ctrl-F */
        apply(line, KEY_RIGHT);
        break;
    case 8: /* Ctrl-H, backspace */
    case 127:
        erase(line, before(line, line->cursor), line->cursor);
        break;
    case 9: /* a tab is text: code is pasted and typed */
        insert(line, "\t", 1);
        break;
    case 10: /* Ctrl-J */
        insert(line, "\n", 1);
        break;
    case 11: /* Ctrl-K */
        erase(line, line->cursor, row_end(line));
        break;
    case 12: /* Ctrl-L */
        return LP_LINE_REDRAW;
    case 13: /* Enter */
        return enter(line);
    case 14: /* Ctrl-N */
        apply(line, KEY_DOWN);
        break;
    case 16: /* Ctrl-P */
        apply(line, KEY_UP);
        break;
    case 21: /* Ctrl-U */
        erase(line, row_begin(line), line->cursor);
        break;
    case 23: /* Ctrl-W */
        erase(line, word_left(line), line->cursor);
        break;
    default:
        break;
    }
    return LP_LINE_EDITED;
}

/* Collects a character; a byte that cannot go on with it drops what was there. */
static void take_text(lp_line *line, uint8_t byte) {
    if (line->n_character > 0 && (byte & 0xC0) != 0x80) line->n_character = 0;
    line->character[line->n_character++] = (char)byte;
    lp_str so_far = {line->character, line->n_character};
    if (lp_utf8_valid(so_far)) {
        insert(line, so_far.data, so_far.len);
        line->n_character = 0;
    } else if (lp_utf8_incomplete_tail(so_far) != so_far.len) {
        line->n_character = 0;
    }
}

typedef struct sequence_row {
    const char *bytes; /* after ESC */
    key key;
} sequence_row;

static const sequence_row sequences[] = {
    {"[A", KEY_UP},           {"[B", KEY_DOWN},           {"[C", KEY_RIGHT},
    {"[D", KEY_LEFT},         {"[H", KEY_HOME},           {"[F", KEY_END},
    {"OA", KEY_UP},           {"OB", KEY_DOWN},           {"OC", KEY_RIGHT},
    {"OD", KEY_LEFT},         {"OH", KEY_HOME},           {"OF", KEY_END},
    {"[1~", KEY_HOME},        {"[4~", KEY_END},           {"[7~", KEY_HOME},
    {"[8~", KEY_END},         {"[3~", KEY_DELETE},        {"[1;5C", KEY_WORD_RIGHT},
    {"[1;5D", KEY_WORD_LEFT}, {"[1;3C", KEY_WORD_RIGHT},  {"[1;3D", KEY_WORD_LEFT},
    {"b", KEY_WORD_LEFT},     {"f", KEY_WORD_RIGHT},      {"\r", KEY_NEW_LINE},
    {"\n", KEY_NEW_LINE},     {"[200~", KEY_PASTE_BEGIN}, {"[201~", KEY_PASTE_END},
};

/* The key of a whole sequence; 0 while more bytes are needed. */
static key sequence_key(const char *bytes, size_t n) {
    bool csi = n >= 1 && bytes[0] == '[';
    bool ss3 = n >= 1 && bytes[0] == 'O';
    if (n == 0 || (n == 1 && (csi || ss3))) return 0;
    if (csi) {
        uint8_t last = (uint8_t)bytes[n - 1];
        if (last < 0x40 || last > 0x7E) return n + 1 < MAX_SEQUENCE ? 0 : KEY_UNKNOWN;
    }
    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0]; i++) {
        if (strlen(sequences[i].bytes) == n && memcmp(sequences[i].bytes, bytes, n) == 0) {
            return sequences[i].key;
        }
    }
    return KEY_UNKNOWN;
}

/* A pasted byte: line breaks of any kind become \n, other control bytes but tab are dropped. */
static void take_pasted(lp_line *line, uint8_t byte) {
    if (byte == '\n' && line->paste_cr) {
        line->paste_cr = false;
        return;
    }
    line->paste_cr = byte == '\r';
    if (byte == '\r' || byte == '\n') {
        insert(line, "\n", 1);
    } else if (byte == '\t' || (byte >= 0x20 && byte != 0x7F)) {
        take_text(line, byte);
    }
}

lp_line_event lp_line_feed(lp_line *line, uint8_t byte) {
    if (line->n_sequence > 0) {
        line->sequence[line->n_sequence++] = (char)byte;
        key k = sequence_key(line->sequence + 1, line->n_sequence - 1);
        if (k == 0) return LP_LINE_EDITED;
        line->n_sequence = 0;
        if (k == KEY_PASTE_END) line->pasting = false;
        if (!line->pasting || k == KEY_PASTE_BEGIN) apply(line, k);
        return LP_LINE_EDITED;
    }
    if (byte == 0x1B) {
        line->sequence[line->n_sequence++] = (char)byte;
        return LP_LINE_EDITED;
    }
    if (line->pasting) {
        take_pasted(line, byte);
        return LP_LINE_EDITED;
    }
    if (byte < 0x20 || byte == 0x7F) return control(line, byte);
    take_text(line, byte);
    return LP_LINE_EDITED;
}

void lp_line_history_add(lp_line *line, lp_str text) {
    bool repeated =
        line->n_history > 0 && lp_str_equal(lp_buf_str(&line->history[line->n_history - 1]), text);
    if (text.len == 0 || repeated) return;
    if (line->n_history == MAX_HISTORY) {
        lp_buf_free(&line->history[0]);
        memmove(&line->history[0], &line->history[1], (MAX_HISTORY - 1) * sizeof line->history[0]);
        line->n_history--;
    }
    lp_buf *entry = &line->history[line->n_history];
    lp_buf_init(entry, 0);
    lp_buf_add_str(entry, text);
    if (entry->failed) {
        lp_buf_free(entry);
    } else {
        line->n_history++;
    }
    line->browsing = line->n_history;
}

void lp_line_history_load(lp_line *line, lp_str file) {
    lp_buf entry;
    lp_buf_init(&entry, MAX_TEXT);
    for (size_t i = 0; i < file.len; i++) {
        char c = file.data[i];
        if (c == '\n') {
            if (!entry.failed && lp_utf8_valid(lp_buf_str(&entry))) {
                lp_line_history_add(line, lp_buf_str(&entry));
            }
            lp_buf_clear(&entry);
        } else if (c == '\\' && i + 1 < file.len && file.data[i + 1] != '\n') {
            c = file.data[++i];
            lp_buf_add_char(&entry, c == 'n' ? '\n' : c);
        } else if ((uint8_t)c >= 0x20 || c == '\t') {
            lp_buf_add_char(&entry, c);
        }
    }
    lp_buf_free(&entry);
}

void lp_line_history_save(const lp_line *line, lp_buf *file) {
    for (size_t i = 0; i < line->n_history; i++) {
        lp_str text = lp_buf_str(&line->history[i]);
        for (size_t k = 0; k < text.len; k++) {
            char c = text.data[k];
            if (c == '\n' || c == '\\') lp_buf_add_char(file, '\\');
            lp_buf_add_char(file, c == '\n' ? 'n' : c);
        }
        lp_buf_add_char(file, '\n');
    }
}

/* Ranges that terminals show two columns wide (East Asian wide and full-width, emoji) and ranges
 * that take none (combining marks, joiners); the common blocks, from Unicode's EastAsianWidth. */
static size_t width(uint32_t c) {
    static const uint32_t none[][2] = {
        {0x300, 0x36F},     {0x483, 0x489},    {0x591, 0x5BD},   {0x610, 0x61A},   {0x64B, 0x65F},
        {0x93C, 0x93C},     {0x941, 0x948},    {0x94D, 0x94D},   {0xE31, 0xE31},   {0xE34, 0xE3A},
        {0xE47, 0xE4E},     {0x200B, 0x200F},  {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F},
        {0x1F3FB, 0x1F3FF}, {0xE0100, 0xE01EF}};
    static const uint32_t wide[][2] = {
        {0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0x33FF},   {0x3400, 0x4DBF},
        {0x4E00, 0x9FFF},   {0xA000, 0xA4CF},   {0xA960, 0xA97F},   {0xAC00, 0xD7A3},
        {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},   {0xFFE0, 0xFFE6},
        {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        if (c >= none[i][0] && c <= none[i][1]) return 0;
    }
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        if (c >= wide[i][0] && c <= wide[i][1]) return 2;
    }
    return 1;
}

size_t lp_line_columns(lp_str text) {
    size_t columns = 0;
    for (size_t i = 0; i < text.len;) {
        uint32_t code_point = 0;
        bool ok = false;
        i += lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
        columns += width(code_point);
    }
    return columns;
}
