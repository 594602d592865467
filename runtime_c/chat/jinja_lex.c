/* jinja_lex.c - template text to tokens.
 *
 * Outside of tags everything is data. A tag is {% %}, {{ }} or {# #}; inside of one, blanks are
 * skipped and words, numbers, strings and operators are cut out. White space around tags follows
 * jinja2 with trim_blocks and lstrip_blocks:
 *   {%-  drops all white space before;  {%+ keeps it;  else blanks between a line's start and
 *        {% or {# are dropped (not before {{)
 *   -%}  drops all white space after;   +%} keeps it;  else one newline after %} or #} is dropped
 * An end mark counts only while no bracket is open, so {{ {'a': {}} }} ends where it should.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/utf8.h"
#include "chat/jinja_core.h"

enum { TEXT, BLOCK, VARIABLE };

lp_code lp_jfail_at(lp_error *err, lp_code code, lp_str source, size_t pos, const char *message) {
    size_t line = 1, start = 0;
    for (size_t i = 0; i < pos && i < source.len; i++) {
        if (source.data[i] == '\n') {
            line++;
            start = i + 1;
        }
    }
    size_t column = lp_utf8_count(lp_str_slice(source, start, pos)) + 1;
    return lp_fail(err, code, "template line %zu, column %zu: %s", line, column, message);
}

lp_code lp_jlex_normalize(lp_arena *arena, lp_str source, lp_str *out, lp_error *err) {
    char *text = lp_arena_alloc(arena, source.len + 1, 1);
    if (text == NULL) return lp_fail(err, LP_ERR_MEMORY, "not enough memory for the template");
    size_t n = 0;
    for (size_t i = 0; i < source.len; i++) {
        char c = source.data[i];
        if (c == '\r') {
            if (i + 1 < source.len && source.data[i + 1] == '\n') i++;
            c = '\n';
        }
        text[n++] = c;
    }
    if (n > 0 && text[n - 1] == '\n') n--;
    *out = (lp_str){text, n};
    return LP_OK;
}

void lp_jlex_init(lp_jlexer *lexer, lp_arena *arena, lp_str source, lp_error *err) {
    *lexer = (lp_jlexer){.arena = arena, .err = err, .source = source, .line_starting = true};
}

static lp_code fail(lp_jlexer *l, size_t pos, const char *message) {
    return lp_jfail_at(l->err, LP_ERR_FORMAT, l->source, pos, message);
}

static bool looking_at(const lp_jlexer *l, size_t at, const char *text) {
    size_t n = strlen(text);
    return l->source.len - at >= n && memcmp(l->source.data + at, text, n) == 0;
}

/* Bytes of white space (Python's \s) at `at`, 0 if none. */
static size_t space_at(lp_str s, size_t at) {
    if (at >= s.len) return 0;
    uint32_t c = 0;
    bool ok = false;
    size_t n = lp_utf8_decode(s.data + at, s.len - at, &c, &ok);
    return ok && lp_jchar_space(c) ? n : 0;
}

static size_t skip_space(lp_str s, size_t at) {
    size_t n = 0;
    while ((n = space_at(s, at)) != 0) at += n;
    return at;
}

static lp_str strip_right(lp_str s) {
    size_t keep = 0;
    for (size_t i = 0; i < s.len;) {
        size_t n = space_at(s, i);
        if (n == 0) {
            uint32_t c = 0;
            bool ok = false;
            n = lp_utf8_decode(s.data + i, s.len - i, &c, &ok);
            keep = i + n;
        }
        i += n;
    }
    return (lp_str){s.data, keep};
}

/* lstrip_blocks: blanks between the last newline of text (or a line's start) and a tag go. */
static lp_str strip_line(const lp_jlexer *l, lp_str text) {
    size_t start = text.len;
    while (start > 0 && text.data[start - 1] != '\n') start--;
    if (start == 0 && !l->line_starting) return text;
    return skip_space(text, start) == text.len ? (lp_str){text.data, start} : text;
}

/* After an end mark: where the next text begins. */
static void resume(lp_jlexer *l, size_t at, bool strip, bool trim) {
    if (strip) {
        at = skip_space(l->source, at);
    } else if (trim && at < l->source.len && l->source.data[at] == '\n') {
        at++;
    }
    l->line_starting = at > 0 && l->source.data[at - 1] == '\n';
    l->at = at;
    l->mode = TEXT;
}

/* The first "<sign>name %}"-like tag end at or after `at`; returns the offset behind its mark. */
static bool tag_end(const lp_jlexer *l, size_t at, const char *mark, size_t *end, char *sign) {
    *sign = 0;
    if (at < l->source.len && (l->source.data[at] == '-' || l->source.data[at] == '+')) {
        *sign = l->source.data[at++];
    }
    if (!looking_at(l, at, mark)) return false;
    *end = at + 2;
    return true;
}

static lp_code skip_comment(lp_jlexer *l, size_t begin) {
    for (size_t i = begin; i < l->source.len; i++) {
        char c = l->source.data[i], sign = 0;
        size_t end = 0;
        if ((c == '-' || c == '+' || c == '#') && tag_end(l, i, "#}", &end, &sign)) {
            resume(l, end, sign == '-', sign == 0);
            return LP_OK;
        }
    }
    return fail(l, begin, "missing end of comment");
}

/* "{%" sign "raw" blanks end at `at`: returns true and where the raw text begins. The end mark of
 * {% raw %} does not trim a newline. */
static bool raw_begin(const lp_jlexer *l, size_t at, size_t *begin) {
    at += 2;
    if (at < l->source.len && (l->source.data[at] == '-' || l->source.data[at] == '+')) at++;
    at = skip_space(l->source, at);
    if (!looking_at(l, at, "raw")) return false;
    at = skip_space(l->source, at + 3);
    if (looking_at(l, at, "%}")) {
        *begin = at + 2;
        return true;
    }
    if (!looking_at(l, at, "-%}")) return false;
    *begin = skip_space(l->source, at + 3);
    return true;
}

static lp_code read_raw(lp_jlexer *l, size_t begin, lp_str *text) {
    l->line_starting = begin > 0 && l->source.data[begin - 1] == '\n';
    for (size_t i = begin; i + 1 < l->source.len; i++) {
        if (!looking_at(l, i, "{%")) continue;
        size_t at = i + 2, end = 0;
        char open = 0, sign = 0;
        if (at < l->source.len && (l->source.data[at] == '-' || l->source.data[at] == '+')) {
            open = l->source.data[at++];
        }
        at = skip_space(l->source, at);
        if (!looking_at(l, at, "endraw")) continue;
        at = skip_space(l->source, at + 6);
        if (!tag_end(l, at, "%}", &end, &sign)) continue;
        *text = lp_str_slice(l->source, begin, i);
        if (open == '-') *text = strip_right(*text);
        if (open == 0) *text = strip_line(l, *text);
        resume(l, end, sign == '-', sign == 0);
        return LP_OK;
    }
    return fail(l, begin, "missing end of raw block");
}

static void set_tag(lp_jlexer *l, lp_jtok type, size_t pos) {
    l->pending = (lp_jtoken){.type = type, .pos = (uint32_t)pos};
    l->has_pending = true;
}

/* Text up to the next tag, then (pending) the tag's opening. Empty pieces give no token. */
static lp_code next_text(lp_jlexer *l, lp_jtoken *token) {
    size_t begin = l->at, i = begin;
    while (i < l->source.len) {
        const char *brace = memchr(l->source.data + i, '{', l->source.len - i);
        if (brace == NULL) {
            i = l->source.len;
            break;
        }
        i = (size_t)(brace - l->source.data);
        if (i + 1 < l->source.len && strchr("%{#", l->source.data[i + 1]) != NULL &&
            l->source.data[i + 1] != 0) {
            break;
        }
        i++;
    }
    lp_str text = lp_str_slice(l->source, begin, i);
    *token = (lp_jtoken){.type = LP_JT_DATA, .pos = (uint32_t)begin, .text = text};
    if (i >= l->source.len) {
        l->at = l->source.len;
        if (text.len == 0) token->type = LP_JT_EOF;
        return LP_OK;
    }
    char kind = l->source.data[i + 1];
    char sign = i + 2 < l->source.len ? l->source.data[i + 2] : 0;
    if (sign == '-') {
        text = strip_right(text);
    } else if (sign != '+' && kind != '{') {
        text = strip_line(l, text);
    }
    token->text = text;
    size_t body = i + (sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') return skip_comment(l, body);
    size_t raw = 0;
    if (kind == '%' && raw_begin(l, i, &raw)) {
        lp_str raw_text = {NULL, 0};
        LP_TRY(read_raw(l, raw, &raw_text));
        set_tag(l, LP_JT_DATA, raw);
        l->pending.text = raw_text;
        return LP_OK;
    }
    l->at = body;
    l->line_starting = false;
    l->mode = kind == '%' ? BLOCK : VARIABLE;
    l->n_brackets = 0;
    set_tag(l, kind == '%' ? LP_JT_BLOCK_BEGIN : LP_JT_VAR_BEGIN, i);
    return LP_OK;
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static bool word(char c) {
    char low = (char)(c | 0x20);
    return digit(c) || c == '_' || (low >= 'a' && low <= 'z');
}

static int digit_of(char c) {
    if (digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

/* digits with single underscores between them; returns the offset behind. */
static size_t digits(lp_str s, size_t at, int base) {
    size_t end = at;
    while (end < s.len) {
        if (digit_of(s.data[end]) < base) {
            end++;
        } else if (s.data[end] == '_' && end > at && end + 1 < s.len &&
                   digit_of(s.data[end + 1]) < base) {
            end++;
        } else {
            break;
        }
    }
    return end;
}

static lp_code read_integer(lp_jlexer *l, lp_jtoken *token) {
    lp_str s = l->source;
    size_t at = l->at, end = at;
    int base = 10;
    char mark = at + 1 < s.len && s.data[at] == '0' ? (char)(s.data[at + 1] | 0x20) : 0;
    int other = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    size_t lead = other != 10 && at + 2 < s.len && s.data[at + 2] == '_' ? at + 3 : at + 2;
    if (other != 10 && (end = digits(s, lead, other)) > lead) {
        base = other;
        at = lead;
    } else {
        end = s.data[at] == '0' ? digits(s, at, 1) : digits(s, at, 10);
    }
    uint64_t value = 0;
    for (size_t i = at; i < end; i++) {
        if (s.data[i] == '_') continue;
        uint64_t d = (uint64_t)digit_of(s.data[i]);
        if (value > ((uint64_t)INT64_MAX - d) / (uint64_t)base) {
            return fail(l, l->at, "this number is larger than 64 bits hold");
        }
        value = value * (uint64_t)base + d;
    }
    token->type = LP_JT_INT;
    token->integer = (int64_t)value;
    l->at = end;
    return LP_OK;
}

/* digits "." digits [exponent] or digits exponent; not right after a dot (x.0.1 are two items). */
static bool read_float(lp_jlexer *l, lp_jtoken *token, lp_code *code) {
    lp_str s = l->source;
    if (l->at > 0 && s.data[l->at - 1] == '.') return false;
    size_t end = digits(s, l->at, 10), mantissa = end;
    if (end + 1 < s.len && s.data[end] == '.' && digit(s.data[end + 1])) {
        end = digits(s, end + 1, 10);
    }
    if (end < s.len && (s.data[end] == 'e' || s.data[end] == 'E')) {
        size_t e = end + 1;
        if (e < s.len && (s.data[e] == '+' || s.data[e] == '-')) e++;
        if (e < s.len && digit(s.data[e])) end = digits(s, e, 10);
    }
    if (end == mantissa) return false;
    char text[128];
    size_t n = 0, i = l->at;
    /* JSON's grammar, which lp_parse_f64 reads, forbids leading zeros. */
    while (i + 1 < end && (s.data[i] == '0' || s.data[i] == '_') &&
           (digit(s.data[i + 1]) || s.data[i + 1] == '_')) {
        i++;
    }
    for (; i < end; i++) {
        if (s.data[i] == '_') continue;
        if (n == sizeof text) {
            *code = fail(l, l->at, "this number has too many digits");
            return true;
        }
        text[n++] = s.data[i];
    }
    token->type = LP_JT_FLOAT;
    if (!lp_parse_f64((lp_str){text, n}, &token->number)) {
        *code = fail(l, l->at, "this number is out of range");
    }
    l->at = end;
    return true;
}

static bool hex(const char *s, size_t n, uint32_t *out) {
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        int d = digit_of(s[i]);
        if (d > 15) return false;
        v = v * 16 + (uint32_t)d;
    }
    *out = v;
    return true;
}

/* One escape at s[at] == '\\': writes what it stands for, returns the bytes read or 0. */
static size_t unescape(lp_str s, size_t at, char *out, size_t *written) {
    static const char plain[] = "\\\\\"\"''a\ab\bf\fn\nr\rt\tv\v";
    size_t left = s.len - at;
    char c = s.data[at + 1];
    *written = 0;
    if (c == '\n') return 2;
    for (size_t i = 0; i + 1 < sizeof plain; i += 2) {
        if (plain[i] == c) {
            out[(*written)++] = plain[i + 1];
            return 2;
        }
    }
    uint32_t code = 0;
    if (c >= '0' && c <= '7') {
        size_t n = 1;
        while (n < 4 && n < left && s.data[at + n] >= '0' && s.data[at + n] <= '7') {
            code = code * 8 + (uint32_t)(s.data[at + n++] - '0');
        }
        *written = lp_utf8_encode(code, out);
        return n;
    }
    size_t want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (want != 0) {
        if (left < 2 + want || !hex(s.data + at + 2, want, &code) || code > 0x10FFFF) return 0;
        *written = lp_utf8_encode(code, out);
        return 2 + want;
    }
    if (c == 'N') return 0;
    /* jinja2 first turns other characters into \x.. escapes, so that the backslash before one
     * escapes that backslash: "\é" reads as the four characters \xe9. */
    out[(*written)++] = '\\';
    if ((unsigned char)c < 0x80) return 1;
    bool ok = false;
    size_t n = lp_utf8_decode(s.data + at + 1, left - 1, &code, &ok);
    int width = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
    out[(*written)++] = width == 2 ? 'x' : width == 4 ? 'u' : 'U';
    for (int i = width - 1; i >= 0; i--) {
        out[(*written)++] = "0123456789abcdef"[(code >> (4 * i)) & 15];
    }
    return 1 + n;
}

static lp_code read_string(lp_jlexer *l, lp_jtoken *token) {
    lp_str s = l->source;
    char quote = s.data[l->at];
    size_t begin = l->at + 1, end = begin;
    bool escapes = false;
    while (end < s.len && s.data[end] != quote) {
        if (s.data[end] == '\\') {
            escapes = true;
            end++;
        }
        end++;
    }
    if (end >= s.len) return fail(l, l->at, "this string has no end");
    token->type = LP_JT_STRING;
    token->text = lp_str_slice(s, begin, end);
    l->at = end + 1;
    if (!escapes) return LP_OK;
    lp_str raw = token->text;
    /* At most twice as long: ten bytes may stand for a backslash and a 4-byte character. */
    char *text = lp_arena_alloc(l->arena, raw.len * 2 + 16, 1);
    if (text == NULL) return lp_fail(l->err, LP_ERR_MEMORY, "not enough memory for the template");
    size_t n = 0;
    for (size_t i = 0; i < raw.len;) {
        if (raw.data[i] != '\\') {
            text[n++] = raw.data[i++];
            continue;
        }
        size_t written = 0, used = unescape(raw, i, text + n, &written);
        if (used == 0) return fail(l, begin + i, "this escape sequence is not valid");
        i += used;
        n += written;
    }
    token->text = (lp_str){text, n};
    return LP_OK;
}

static lp_code read_operator(lp_jlexer *l, lp_jtoken *token) {
    static const struct {
        char text[3];
        uint8_t type;
    } operators[] = {
        {"//", LP_JT_FLOORDIV}, {"**", LP_JT_POW},     {"==", LP_JT_EQ},    {"!=", LP_JT_NE},
        {">=", LP_JT_GE},       {"<=", LP_JT_LE},      {"+", LP_JT_ADD},    {"-", LP_JT_SUB},
        {"/", LP_JT_DIV},       {"*", LP_JT_MUL},      {"%", LP_JT_MOD},    {"~", LP_JT_TILDE},
        {"[", LP_JT_LBRACKET},  {"]", LP_JT_RBRACKET}, {"(", LP_JT_LPAREN}, {")", LP_JT_RPAREN},
        {"{", LP_JT_LBRACE},    {"}", LP_JT_RBRACE},   {">", LP_JT_GT},     {"<", LP_JT_LT},
        {"=", LP_JT_ASSIGN},    {".", LP_JT_DOT},      {":", LP_JT_COLON},  {"|", LP_JT_PIPE},
        {",", LP_JT_COMMA},     {";", LP_JT_SEMICOLON}};
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!looking_at(l, l->at, operators[i].text)) continue;
        token->type = (lp_jtok)operators[i].type;
        char c = operators[i].text[0];
        if (c == '(' || c == '[' || c == '{') {
            if (l->n_brackets == LP_J_DEPTH) {
                return lp_jfail_at(l->err, LP_ERR_LIMIT, l->source, l->at,
                                   "brackets are nested too deep");
            }
            l->brackets[l->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (l->n_brackets == 0) return fail(l, l->at, "a closing bracket without opening");
            if (l->brackets[--l->n_brackets] != c) {
                return fail(l, l->at, "a closing bracket of another kind than the opening");
            }
        }
        l->at += strlen(operators[i].text);
        return LP_OK;
    }
    return fail(l, l->at, "unexpected character");
}

lp_code lp_jlex_next(lp_jlexer *l, lp_jtoken *token) {
    while (l->has_pending || l->mode == TEXT) {
        if (l->has_pending) {
            *token = l->pending;
            l->has_pending = false;
        } else {
            LP_TRY(next_text(l, token));
        }
        if (token->type != LP_JT_DATA || token->text.len > 0) return LP_OK;
    }
    l->at = skip_space(l->source, l->at);
    *token = (lp_jtoken){.type = LP_JT_EOF, .pos = (uint32_t)l->at};
    if (l->at >= l->source.len) return fail(l, l->at, "the template ends inside a tag");
    if (l->n_brackets == 0) {
        size_t end = 0;
        char sign = 0;
        if (tag_end(l, l->at, l->mode == BLOCK ? "%}" : "}}", &end, &sign) &&
            (sign != '+' || l->mode == BLOCK)) {
            token->type = l->mode == BLOCK ? LP_JT_BLOCK_END : LP_JT_VAR_END;
            bool trim = l->mode == BLOCK && sign == 0;
            resume(l, end, sign == '-', trim);
            return LP_OK;
        }
    }
    char c = l->source.data[l->at];
    lp_code code = LP_OK;
    if (digit(c)) {
        if (read_float(l, token, &code)) return code;
        return read_integer(l, token);
    }
    if (c == '"' || c == '\'') return read_string(l, token);
    size_t end = l->at;
    while (end < l->source.len && word(l->source.data[end])) end++;
    if (end == l->at) return read_operator(l, token);
    token->type = LP_JT_NAME;
    token->text = lp_str_slice(l->source, l->at, end);
    l->at = end;
    return LP_OK;
}
