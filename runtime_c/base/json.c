/* json.c - JSON (RFC 8259) to one block of memory and back.
 *
 * A document is a tape of 64-bit words in document order. A value is two words and what follows:
 *
 *   word 0   bits 0..2 type, 3 member of an object, 4 a sibling follows,
 *            bits 5..31 words back to the key's record, 32..63 words of the whole record
 *   word 1   bool: 0 or 1; number: the double's bits; string: bytes; array, object: children
 *   then     string: its bytes, padded to a word; array: its elements' records;
 *            object: for each member the key (a string record), then the value's record
 *
 * A first pass over the text counts what the tape can need at most, so there is one allocation,
 * never more than 8 times the text plus 32 bytes ("1," is two bytes and two words), and it refuses
 * what is nested too deep before anything is allocated. The second pass is a loop with a stack of
 * LP_JSON_DEPTH open containers: no recursion.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

enum { LP_JSON_DEPTH = 64, WORD = 8, HEAD = 2 };

/* Word counts are 32 bits wide, key distances 27: texts up to 512 MiB fit both. */
#define MOST_TEXT ((size_t)512 << 20)

#define IS_MEMBER ((uint64_t)1 << 3)
#define HAS_NEXT  ((uint64_t)1 << 4)

struct lp_json_node {
    uint64_t head;
    uint64_t value;
};

struct lp_json {
    uint64_t *tape; /* owned */
    size_t used;    /* words */
    size_t size;    /* words allocated */
};

typedef struct frame {
    size_t start;    /* word of the container's record */
    size_t previous; /* word of the last child's record; 0 = none yet */
    bool object;
} frame;

typedef struct parser {
    const char *text;
    size_t len;
    size_t at; /* byte of the next character */
    lp_json *json;
    frame stack[LP_JSON_DEPTH];
    size_t depth;
    lp_error *err;
} parser;

static lp_code wrong(const parser *p, const char *what) {
    return lp_fail(p->err, LP_ERR_FORMAT, "JSON: %s at byte %llu", what, (unsigned long long)p->at);
}

/* ---- first pass ---------------------------------------------------------------------------- */

static bool opens(char c) {
    return c == '[' || c == '{';
}

static bool separates(char c) {
    return c == ',' || c == ':' || opens(c);
}

/* Upper bound of the words needed. Every value or key but the first comes right behind one of
 * "[ { , :", which is counted when something else than a closing bracket follows; a string's bytes
 * fill at most one word more than their number / 8. Escapes never make a string longer. */
static lp_code measure(const parser *p, size_t *words) {
    size_t records = 1, string_words = 0, depth = 0;
    char last = 0; /* the character before, blanks left out */
    for (size_t i = 0; i < p->len; i++) {
        char c = p->text[i];
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') continue;
        if (separates(last) && !separates(c) && c != ']' && c != '}') records++;
        if (opens(c)) {
            if (separates(last)) records++;
            if (++depth > LP_JSON_DEPTH) {
                return lp_fail(p->err, LP_ERR_LIMIT, "JSON: nested deeper than %d at byte %llu",
                               LP_JSON_DEPTH, (unsigned long long)i);
            }
        } else if (c == ']' || c == '}') {
            if (depth > 0) depth--;
        } else if (c == '"') {
            size_t begin = ++i;
            while (i < p->len && p->text[i] != '"') i += p->text[i] == '\\' ? 2 : 1;
            size_t end = i < p->len ? i : p->len;
            string_words += (end - begin + WORD - 1) / WORD;
        }
        last = c;
    }
    *words = records * HEAD + string_words;
    return LP_OK;
}

/* ---- second pass --------------------------------------------------------------------------- */

/* The next n words; SIZE_MAX when the first pass did not count them, which a text that breaks the
 * grammar may bring about (`""""`), a well-formed one not. */
static size_t take(parser *p, size_t n) {
    lp_json *json = p->json;
    if (n > json->size - json->used) return SIZE_MAX;
    size_t start = json->used;
    json->used += n;
    return start;
}

static void skip_blanks(parser *p) {
    while (p->at < p->len) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
        p->at++;
    }
}

static bool read_hex4(const char *text, uint32_t *out) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = text[i];
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (uint32_t)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (uint32_t)(c - 'A') + 10;
        else
            return false;
        value = value << 4 | digit;
    }
    *out = value;
    return true;
}

/* At the 'u' of an escape. A high surrogate takes the low one that follows with it. */
static lp_code read_unicode(parser *p, uint32_t *out) {
    uint32_t unit, low;
    if (p->len - p->at < 5 || !read_hex4(p->text + p->at + 1, &unit)) {
        return wrong(p, "\\u needs four hex digits");
    }
    p->at += 5;
    if (unit >= 0xD800 && unit <= 0xDFFF) {
        bool paired = unit <= 0xDBFF && p->len - p->at >= 6 && p->text[p->at] == '\\' &&
                      p->text[p->at + 1] == 'u' && read_hex4(p->text + p->at + 2, &low) &&
                      low >= 0xDC00 && low <= 0xDFFF;
        if (paired) {
            p->at += 6;
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        } else {
            unit = LP_UTF8_REPLACEMENT;
        }
    }
    *out = unit;
    return LP_OK;
}

static lp_code read_escape(parser *p, char *out, size_t *len) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (p->at >= p->len) return wrong(p, "string does not end");
    char c = p->text[p->at];
    if (c == 'u') {
        uint32_t code_point;
        LP_TRY(read_unicode(p, &code_point));
        *len += lp_utf8_encode(code_point, out + *len);
        return LP_OK;
    }
    const char *name = c ? strchr(names, c) : NULL;
    if (!name) return wrong(p, "unknown escape");
    out[(*len)++] = values[name - names];
    p->at++;
    return LP_OK;
}

/* At the first character behind the quote. Writes at most as many bytes as the text has; `out` has
 * that room, but only to the byte, so nothing may be written beyond *len. */
static lp_code read_characters(parser *p, char *out, size_t *len) {
    *len = 0;
    for (;;) {
        if (p->at >= p->len) return wrong(p, "string does not end");
        unsigned char c = (unsigned char)p->text[p->at];
        if (c == '"') {
            p->at++;
            return LP_OK;
        }
        if (c < 0x20) return wrong(p, "control character in a string");
        if (c == '\\') {
            p->at++;
            LP_TRY(read_escape(p, out, len));
        } else if (c < 0x80) {
            out[(*len)++] = (char)c;
            p->at++;
        } else {
            uint32_t code_point;
            bool ok;
            size_t n = lp_utf8_decode(p->text + p->at, p->len - p->at, &code_point, &ok);
            if (!ok) return wrong(p, "text is not UTF-8");
            memcpy(out + *len, p->text + p->at, n);
            *len += n;
            p->at += n;
        }
    }
}

/* At the quote. The record's place is the value of *start. */
static lp_code read_string(parser *p, size_t *start) {
    size_t end = ++p->at;
    while (end < p->len && p->text[end] != '"') end += p->text[end] == '\\' ? 2 : 1;
    if (end > p->len) end = p->len;
    size_t room = (end - p->at + WORD - 1) / WORD;
    *start = take(p, HEAD + room);
    if (*start == SIZE_MAX) return wrong(p, "unexpected string");
    size_t len;
    LP_TRY(read_characters(p, (char *)(p->json->tape + *start + HEAD), &len));
    size_t words = HEAD + (len + WORD - 1) / WORD;
    p->json->used = *start + words; /* escapes gave some of the room back */
    p->json->tape[*start] = LP_JSON_STRING | (uint64_t)words << 32;
    p->json->tape[*start + 1] = len;
    return LP_OK;
}

static lp_code read_plain(parser *p, lp_json_type type, uint64_t value, size_t *start) {
    *start = take(p, HEAD);
    if (*start == SIZE_MAX) return wrong(p, "unexpected value");
    p->json->tape[*start] = (uint64_t)type | (uint64_t)HEAD << 32;
    p->json->tape[*start + 1] = value;
    return LP_OK;
}

static bool is_number_char(char c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

static lp_code read_number(parser *p, size_t *start) {
    size_t end = p->at;
    while (end < p->len && is_number_char(p->text[end])) end++;
    double number;
    if (!lp_parse_f64((lp_str){p->text + p->at, end - p->at}, &number)) {
        return wrong(p, "not a number, or one too large");
    }
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    LP_TRY(read_plain(p, LP_JSON_NUMBER, bits, start));
    p->at = end;
    return LP_OK;
}

static lp_code read_word(parser *p, const char *word, lp_json_type type, uint64_t value,
                         size_t *start) {
    size_t len = strlen(word);
    if (p->len - p->at < len || memcmp(p->text + p->at, word, len) != 0) {
        return wrong(p, "expected a value");
    }
    LP_TRY(read_plain(p, type, value, start));
    p->at += len;
    return LP_OK;
}

/* Makes the record a child of the innermost open container. `key` is 0 in an array. */
static void attach(parser *p, size_t start, size_t key) {
    if (p->depth == 0) return;
    frame *f = &p->stack[p->depth - 1];
    uint64_t *tape = p->json->tape;
    if (f->object) tape[start] |= IS_MEMBER | (uint64_t)(start - key) << 5;
    if (f->previous) tape[f->previous] |= HAS_NEXT;
    f->previous = start;
    tape[f->start + 1]++;
}

/* At the first character of a value. A container is opened, everything else is read whole. */
static lp_code read_value(parser *p, size_t key) {
    size_t start;
    if (p->at >= p->len) return wrong(p, "text ends where a value is expected");
    char c = p->text[p->at];
    if (c == '[' || c == '{') {
        bool object = c == '{';
        if (p->depth == LP_JSON_DEPTH) {
            return lp_fail(p->err, LP_ERR_LIMIT, "JSON: nested deeper than %d", LP_JSON_DEPTH);
        }
        LP_TRY(read_plain(p, object ? LP_JSON_OBJECT : LP_JSON_ARRAY, 0, &start));
        p->at++;
        attach(p, start, key);
        p->stack[p->depth++] = (frame){start, 0, object};
        return LP_OK;
    }
    if (c == '"')
        LP_TRY(read_string(p, &start));
    else if (c == '-' || (c >= '0' && c <= '9'))
        LP_TRY(read_number(p, &start));
    else if (c == 't')
        LP_TRY(read_word(p, "true", LP_JSON_BOOL, 1, &start));
    else if (c == 'f')
        LP_TRY(read_word(p, "false", LP_JSON_BOOL, 0, &start));
    else if (c == 'n')
        LP_TRY(read_word(p, "null", LP_JSON_NULL, 0, &start));
    else
        return wrong(p, "expected a value");
    attach(p, start, key);
    return LP_OK;
}

/* Inside the innermost container, behind its bracket or behind a child: closes it or reads the next
 * child (opening it if it is a container itself). */
static lp_code continue_container(parser *p) {
    frame *f = &p->stack[p->depth - 1];
    char close = f->object ? '}' : ']';
    skip_blanks(p);
    if (p->at < p->len && p->text[p->at] == close) {
        uint64_t *head = p->json->tape + f->start;
        *head = (*head & 0xFFFFFFFFu) | (uint64_t)(p->json->used - f->start) << 32;
        p->at++;
        p->depth--;
        return LP_OK;
    }
    if (f->previous) {
        if (p->at >= p->len || p->text[p->at] != ',') {
            return wrong(p, f->object ? "expected ',' or '}'" : "expected ',' or ']'");
        }
        p->at++;
        skip_blanks(p);
    }
    size_t key = 0;
    if (f->object) {
        if (p->at >= p->len || p->text[p->at] != '"') return wrong(p, "expected a key");
        LP_TRY(read_string(p, &key));
        skip_blanks(p);
        if (p->at >= p->len || p->text[p->at] != ':') return wrong(p, "expected ':'");
        p->at++;
        skip_blanks(p);
    }
    return read_value(p, key);
}

static lp_code parse(parser *p) {
    skip_blanks(p);
    LP_TRY(read_value(p, 0));
    while (p->depth > 0) LP_TRY(continue_container(p));
    skip_blanks(p);
    return p->at < p->len ? wrong(p, "more text behind the value") : LP_OK;
}

lp_code lp_json_parse(lp_json **out, lp_str text, lp_error *err) {
    *out = NULL;
    if (text.len > MOST_TEXT) return lp_fail(err, LP_ERR_LIMIT, "JSON: text over 512 MiB");
    parser p = {.text = text.data, .len = text.len, .err = err};
    size_t words;
    LP_TRY(measure(&p, &words));
    lp_json *json = lp_alloc(1, sizeof *json);
    if (!json) return lp_fail(err, LP_ERR_MEMORY, "no memory for a JSON document");
    json->tape = lp_alloc(words, sizeof *json->tape);
    if (!json->tape) {
        lp_json_free(json);
        return lp_fail(err, LP_ERR_MEMORY, "no memory for a JSON document");
    }
    json->size = words;
    p.json = json;
    lp_code code = parse(&p);
    if (code != LP_OK) {
        lp_json_free(json);
        return code;
    }
    *out = json;
    return LP_OK;
}

void lp_json_free(lp_json *json) {
    if (!json) return;
    lp_free(json->tape);
    lp_free(json);
}

/* ---- reading a document -------------------------------------------------------------------- */

static const lp_json_node *node_at(const lp_json_node *node, size_t words) {
    return (const lp_json_node *)(const void *)((const uint64_t *)(const void *)node + words);
}

static size_t words_of(const lp_json_node *node) {
    return (size_t)(node->head >> 32);
}

const lp_json_node *lp_json_root(const lp_json *json) {
    return (const lp_json_node *)(const void *)json->tape;
}

lp_json_type lp_json_type_of(const lp_json_node *node) {
    return (lp_json_type)(node->head & 7);
}

bool lp_json_bool(const lp_json_node *node) {
    return lp_json_type_of(node) == LP_JSON_BOOL && node->value != 0;
}

double lp_json_number(const lp_json_node *node) {
    double number = 0;
    if (lp_json_type_of(node) == LP_JSON_NUMBER) memcpy(&number, &node->value, sizeof number);
    return number;
}

bool lp_json_integer(const lp_json_node *node, int64_t *out) {
    if (lp_json_type_of(node) != LP_JSON_NUMBER) return false;
    double number = lp_json_number(node);
    if (!(number >= -9007199254740992.0 && number <= 9007199254740992.0)) return false;
    int64_t whole = (int64_t)number;
    if ((double)whole < number || (double)whole > number) return false;
    *out = whole;
    return true;
}

lp_str lp_json_string(const lp_json_node *node) {
    if (lp_json_type_of(node) != LP_JSON_STRING) return (lp_str){"", 0};
    return (lp_str){(const char *)(node + 1), (size_t)node->value};
}

static bool is_container(const lp_json_node *node) {
    lp_json_type type = lp_json_type_of(node);
    return type == LP_JSON_ARRAY || type == LP_JSON_OBJECT;
}

size_t lp_json_count(const lp_json_node *node) {
    return is_container(node) ? (size_t)node->value : 0;
}

const lp_json_node *lp_json_first(const lp_json_node *node) {
    if (lp_json_count(node) == 0) return NULL;
    const lp_json_node *child = node + 1;
    /* An object's first record is the first key. */
    return lp_json_type_of(node) == LP_JSON_OBJECT ? node_at(child, words_of(child)) : child;
}

const lp_json_node *lp_json_next(const lp_json_node *node) {
    if (!(node->head & HAS_NEXT)) return NULL;
    const lp_json_node *next = node_at(node, words_of(node));
    return node->head & IS_MEMBER ? node_at(next, words_of(next)) : next;
}

lp_str lp_json_key(const lp_json_node *member) {
    if (!(member->head & IS_MEMBER)) return (lp_str){"", 0};
    size_t back = (size_t)(member->head >> 5 & 0x7FFFFFF);
    const uint64_t *key = (const uint64_t *)(const void *)member - back;
    return lp_json_string((const lp_json_node *)(const void *)key);
}

const lp_json_node *lp_json_get(const lp_json_node *object, const char *key) {
    const lp_json_node *found = NULL;
    if (lp_json_type_of(object) != LP_JSON_OBJECT) return NULL;
    lp_str wanted = lp_str_from(key);
    for (const lp_json_node *m = lp_json_first(object); m; m = lp_json_next(m)) {
        if (lp_str_equal(lp_json_key(m), wanted)) found = m;
    }
    return found;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void add_escape(lp_buf *out, unsigned char c) {
    static const char values[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    const char *value = c ? strchr(values, c) : NULL;
    if (value) {
        char pair[2] = {'\\', names[value - values]};
        lp_buf_add(out, pair, 2);
    } else {
        lp_buf_add_format(out, "\\u%04x", c);
    }
}

void lp_json_add_string(lp_buf *out, lp_str text) {
    lp_buf_add_char(out, '"');
    size_t clean = 0; /* start of the bytes not yet written, which need no change */
    for (size_t i = 0; i < text.len;) {
        unsigned char c = (unsigned char)text.data[i];
        size_t n = 1;
        bool ok = c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
        if (c >= 0x80) {
            uint32_t code_point;
            n = lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
        }
        if (!ok) {
            lp_buf_add(out, text.data + clean, i - clean);
            if (c < 0x80)
                add_escape(out, c);
            else
                lp_buf_add(out, "\xEF\xBF\xBD", 3);
            clean = i + n;
        }
        i += n;
    }
    if (clean < text.len) lp_buf_add(out, text.data + clean, text.len - clean);
    lp_buf_add_char(out, '"');
}

/* The fewest digits that read back as the same double; 17 always do. */
void lp_json_add_number(lp_buf *out, double value) {
    if (!isfinite(value)) {
        lp_buf_add_text(out, "null");
        return;
    }
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        int len = snprintf(digits, sizeof digits, "%.*g", precision, value);
        double back;
        if (len <= 0 || (size_t)len >= sizeof digits) continue;
        if (!lp_parse_f64((lp_str){digits, (size_t)len}, &back)) continue;
        if (memcmp(&back, &value, sizeof back) == 0) break;
    }
    /* Whole numbers read better, and to some clients only, without an exponent. */
    if (fabs(value) < 9007199254740992.0 && strchr(digits, 'e') && value == floor(value)) {
        snprintf(digits, sizeof digits, "%.0f", value);
    }
    lp_buf_add_text(out, digits);
}
