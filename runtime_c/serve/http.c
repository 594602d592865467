/* http.c - the request parser, byte by byte where bytes can lie.
 *
 * The head is gathered into one buffer; each byte is checked as it comes (a bare LF, a lone CR, a
 * NUL end the connection at once), each line when it is whole. Names are folded to lower case in
 * place; fields point into the buffer, which is complete before anyone sees them.
 *
 * What decides a message's end is taken in one reading only: Content-Length is digits without a
 * leading zero and comes once, Transfer-Encoding is exactly "chunked", never both, never in
 * HTTP/1.0; a chunk's size has at most 8 hexadecimal digits; trailer fields are refused, because
 * nothing here needs them and merging them is how requests get smuggled.
 * Specification: RFC 9110, 9112.
 * SPDX-License-Identifier: Apache-2.0 */
#include "serve/http.h"

#include <string.h>

enum state {
    START,      /* before the request line; one empty line may come (RFC 9112, 2.2) */
    START_LF,   /* the CR of that empty line has come */
    LINE,       /* in the request line */
    FIELDS,     /* in the header */
    HEAD_DONE,  /* LP_HTTP_HEAD has been told */
    BODY,       /* Content-Length bytes */
    CHUNK_SIZE, /* in the line that says a chunk's size */
    CHUNK_DATA,
    CHUNK_CR, /* the CRLF after a chunk's data */
    CHUNK_LF,
    LAST_CR, /* the CRLF after the last chunk */
    LAST_LF,
    DONE,
    BAD
};

/* ---- small readers ------------------------------------------------------------------------- */

static bool is_token_char(unsigned char c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
    return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool lp_http_same_text(lp_str a, lp_str b) {
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.data[i]) != lower(b.data[i])) return false;
    return true;
}

static lp_str trim(lp_str s) {
    while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t')) s.data++, s.len--;
    while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t')) s.len--;
    return s;
}

static lp_http_event bad(lp_http_request *r, int status, const char *reason) {
    r->state = BAD;
    r->status = status;
    r->reason = reason;
    r->keep_alive = false;
    return LP_HTTP_BAD;
}

/* ---- life ---------------------------------------------------------------------------------- */

void lp_http_init(lp_http_request *r) {
    memset(r, 0, sizeof *r);
    lp_buf_init(&r->head, LP_HTTP_LINE_MAX + LP_HTTP_FIELDS_MAX + 8);
    lp_buf_init(&r->body, LP_HTTP_BODY_MAX);
}

void lp_http_free(lp_http_request *r) {
    lp_buf_free(&r->head);
    lp_buf_free(&r->body);
}

void lp_http_reset(lp_http_request *r) {
    lp_http_free(r);
    lp_http_init(r);
}

bool lp_http_idle(const lp_http_request *r) {
    return r->state == START;
}

/* ---- the head ------------------------------------------------------------------------------ */

bool lp_http_field_get(const lp_http_request *r, const char *name, lp_str *value) {
    for (size_t i = 0; i < r->n_fields; i++) {
        if (lp_str_is(r->fields[i].name, name)) {
            *value = r->fields[i].value;
            return true;
        }
    }
    return false;
}

size_t lp_http_field_count(const lp_http_request *r, const char *name) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_fields; i++) n += lp_str_is(r->fields[i].name, name) ? 1u : 0u;
    return n;
}

/* True for a weight of zero: ";q=0", ";q=0.0" ... */
static bool weight_is_zero(lp_str parameters) {
    lp_str p = trim(parameters);
    if (p.len < 3 || lower(p.data[0]) != 'q' || p.data[1] != '=') return false;
    for (size_t i = 2; i < p.len; i++)
        if (p.data[i] != '0' && p.data[i] != '.') return false;
    return true;
}

bool lp_http_list_has(lp_str list, const char *token) {
    size_t begin = 0;
    while (begin <= list.len) {
        size_t end = begin;
        while (end < list.len && list.data[end] != ',') end++;
        lp_str item = lp_str_slice(list, begin, end);
        size_t semicolon = lp_str_find(item, lp_str_from(";"), 0);
        lp_str name = trim(lp_str_slice(item, 0, semicolon < item.len ? semicolon : item.len));
        if (lp_http_same_text(name, lp_str_from(token)))
            return semicolon >= item.len ||
                   !weight_is_zero(lp_str_slice(item, semicolon + 1, item.len));
        begin = end + 1;
    }
    return false;
}

static lp_http_method method_of(lp_str name) {
    if (lp_str_is(name, "GET")) return LP_HTTP_GET;
    if (lp_str_is(name, "HEAD")) return LP_HTTP_HEAD_METHOD;
    if (lp_str_is(name, "POST")) return LP_HTTP_POST;
    if (lp_str_is(name, "OPTIONS")) return LP_HTTP_OPTIONS;
    return LP_HTTP_OTHER;
}

/* "HTTP/" DIGIT "." DIGIT, and of those only 1.0 and 1.1. */
static lp_http_event read_version(lp_http_request *r, lp_str version) {
    bool shape = version.len == 8 && memcmp(version.data, "HTTP/", 5) == 0 &&
                 version.data[6] == '.' && version.data[5] >= '0' && version.data[5] <= '9' &&
                 version.data[7] >= '0' && version.data[7] <= '9';
    if (!shape) return bad(r, 400, "the request line does not end in HTTP/1.1");
    if (version.data[5] != '1' || version.data[7] > '1')
        return bad(r, 505, "only HTTP/1.1 is spoken here");
    r->minor = version.data[7] - '0';
    return LP_HTTP_MORE;
}

/* Splits the target into authority and path. Only visible ASCII; no fragment. */
static lp_http_event read_target(lp_http_request *r, lp_str target) {
    if (target.len == 0) return bad(r, 400, "the request line has no target");
    for (size_t i = 0; i < target.len; i++) {
        unsigned char c = (unsigned char)target.data[i];
        if (c <= 0x20 || c >= 0x7f || c == '#')
            return bad(r, 400, "the target has a character that may not stand there");
    }
    r->target = target;
    lp_str rest = target;
    static const char scheme[] = "http://";
    if (target.len > 7 && lp_http_same_text(lp_str_slice(target, 0, 7), lp_str_from(scheme))) {
        size_t end = 7;
        while (end < target.len && target.data[end] != '/' && target.data[end] != '?') end++;
        r->authority = lp_str_slice(target, 7, end);
        rest = lp_str_slice(target, end, target.len);
        if (r->authority.len == 0) return bad(r, 400, "the target names no host");
        if (rest.len == 0) rest = lp_str_from("/");
    }
    if (lp_str_is(rest, "*") && r->method == LP_HTTP_OPTIONS) {
        r->path = rest;
        return LP_HTTP_MORE;
    }
    if (rest.data[0] != '/') return bad(r, 400, "the target is not a path");
    size_t query = lp_str_find(rest, lp_str_from("?"), 0);
    r->path = lp_str_slice(rest, 0, query < rest.len ? query : rest.len);
    return LP_HTTP_MORE;
}

static lp_http_event read_request_line(lp_http_request *r, lp_str line) {
    size_t first = lp_str_find(line, lp_str_from(" "), 0);
    if (first >= line.len) return bad(r, 400, "the request line is not: method, target, version");
    size_t second = lp_str_find(line, lp_str_from(" "), first + 1);
    if (second >= line.len) return bad(r, 400, "the request line is not: method, target, version");
    lp_str method = lp_str_slice(line, 0, first);
    if (method.len == 0) return bad(r, 400, "the request line has no method");
    for (size_t i = 0; i < method.len; i++)
        if (!is_token_char((unsigned char)method.data[i]))
            return bad(r, 400, "the method is not a name");
    r->method = method_of(method);
    lp_http_event event = read_version(r, lp_str_slice(line, second + 1, line.len));
    if (event == LP_HTTP_BAD) return event;
    return read_target(r, lp_str_slice(line, first + 1, second));
}

/* One header line, without its CRLF. The name is folded in place. */
static lp_http_event read_field(lp_http_request *r, char *line, size_t len) {
    if (line[0] == ' ' || line[0] == '\t') return bad(r, 400, "a header line is folded");
    if (r->n_fields == LP_HTTP_FIELD_COUNT) return bad(r, 431, "more than 64 header lines");
    size_t colon = 0;
    while (colon < len && line[colon] != ':') {
        if (!is_token_char((unsigned char)line[colon]))
            return bad(r, 400, "a header name has a character that may not stand there");
        line[colon] = lower(line[colon]);
        colon++;
    }
    if (colon == 0 || colon == len) return bad(r, 400, "a header line is not: name, colon, value");
    lp_http_field *field = &r->fields[r->n_fields++];
    field->name = (lp_str){line, colon};
    field->value = trim((lp_str){line + colon + 1, len - colon - 1});
    return LP_HTTP_MORE;
}

/* ---- framing ------------------------------------------------------------------------------- */

static lp_http_event read_content_length(lp_http_request *r, lp_str value) {
    bool digits = value.len > 0;
    for (size_t i = 0; i < value.len; i++)
        digits = digits && value.data[i] >= '0' && value.data[i] <= '9';
    if (!digits || (value.len > 1 && value.data[0] == '0') ||
        !lp_parse_u64(value, &r->content_length))
        return bad(r, 400, "Content-Length is not a plain number");
    if (r->content_length > LP_HTTP_BODY_MAX) return bad(r, 413, "the body is larger than 32 MiB");
    r->has_body = r->content_length > 0;
    return LP_HTTP_MORE;
}

static const char *const once[] = {
    "host",           "content-length", "transfer-encoding", "content-type",     "origin",
    "sec-fetch-site", "authorization",  "x-api-key",         "content-encoding", "expect"};

static lp_http_event read_framing(lp_http_request *r) {
    for (size_t i = 0; i < sizeof once / sizeof once[0]; i++)
        if (lp_http_field_count(r, once[i]) > 1)
            return bad(r, 400, "a header that may come once came twice");
    lp_str value;
    if (!lp_http_field_get(r, "host", &value)) return bad(r, 400, "the request has no Host header");
    lp_str length;
    bool has_length = lp_http_field_get(r, "content-length", &length);
    if (lp_http_field_get(r, "transfer-encoding", &value)) {
        if (has_length) return bad(r, 400, "both Content-Length and Transfer-Encoding");
        if (r->minor == 0) return bad(r, 400, "Transfer-Encoding in HTTP/1.0");
        if (!lp_http_same_text(value, lp_str_from("chunked")))
            return bad(r, 400, "the only Transfer-Encoding is chunked");
        r->chunked = true;
        r->has_body = true;
    } else if (has_length) {
        lp_http_event event = read_content_length(r, length);
        if (event == LP_HTTP_BAD) return event;
    }
    if (r->has_body && r->method != LP_HTTP_POST) return bad(r, 400, "only POST may have a body");
    if (lp_http_field_get(r, "content-encoding", &value) &&
        !lp_http_same_text(value, lp_str_from("identity")))
        return bad(r, 415, "bodies must not be compressed");
    if (lp_http_field_get(r, "expect", &value)) {
        if (!lp_http_same_text(value, lp_str_from("100-continue")))
            return bad(r, 417, "the only expectation is 100-continue");
        r->wants_continue = r->has_body && r->minor == 1;
    }
    r->keep_alive = r->minor == 1;
    for (size_t i = 0; i < r->n_fields; i++) {
        if (!lp_str_is(r->fields[i].name, "connection")) continue;
        if (lp_http_list_has(r->fields[i].value, "close")) {
            r->keep_alive = false;
            break;
        }
        if (r->minor == 0 && lp_http_list_has(r->fields[i].value, "keep-alive"))
            r->keep_alive = true;
    }
    return LP_HTTP_MORE;
}

/* The buffer is complete: now pointers into it stay valid. */
static lp_http_event read_head(lp_http_request *r) {
    char *text = r->head.data;
    size_t line_end = lp_str_find(lp_buf_str(&r->head), lp_str_from("\r\n"), 0);
    lp_http_event event = read_request_line(r, (lp_str){text, line_end});
    if (event == LP_HTTP_BAD) return event;
    size_t begin = line_end + 2;
    while (begin + 2 < r->head.len) {
        size_t end = lp_str_find(lp_buf_str(&r->head), lp_str_from("\r\n"), begin);
        event = read_field(r, text + begin, end - begin);
        if (event == LP_HTTP_BAD) return event;
        begin = end + 2;
    }
    event = read_framing(r);
    if (event == LP_HTTP_BAD) return event;
    r->state = HEAD_DONE;
    return LP_HTTP_HEAD;
}

/* A byte of the request line or header. */
static lp_http_event take_head_byte(lp_http_request *r, char c) {
    unsigned char u = (unsigned char)c;
    bool after_cr = r->head.len > r->line_begin && r->head.data[r->head.len - 1] == '\r';
    if (after_cr != (c == '\n')) return bad(r, 400, "lines must end in CR LF");
    if ((u < 0x20 && c != '\r' && c != '\n' && c != '\t') || u == 0x7f)
        return bad(r, 400, "a control character in the head");
    if (r->state == LINE && r->head.len >= LP_HTTP_LINE_MAX)
        return bad(r, 414, "the request line is longer than 8 KiB");
    if (r->state == FIELDS && r->head.len - r->fields_begin >= LP_HTTP_FIELDS_MAX)
        return bad(r, 431, "the header is larger than 16 KiB");
    lp_buf_add_char(&r->head, c);
    if (r->head.failed) return bad(r, 503, "out of memory");
    if (c != '\n') return LP_HTTP_MORE;
    size_t line_len = r->head.len - r->line_begin - 2;
    r->line_begin = r->head.len;
    if (r->state == LINE) {
        r->state = FIELDS;
        r->fields_begin = r->head.len;
        return LP_HTTP_MORE;
    }
    return line_len == 0 ? read_head(r) : LP_HTTP_MORE;
}

static lp_http_event take_start_byte(lp_http_request *r, char c) {
    if (r->state == START_LF) {
        if (c != '\n') return bad(r, 400, "lines must end in CR LF");
        r->state = LINE;
        return LP_HTTP_MORE;
    }
    if (c == '\r') {
        r->state = START_LF;
        return LP_HTTP_MORE;
    }
    r->state = LINE;
    return take_head_byte(r, c);
}

/* ---- the body ------------------------------------------------------------------------------ */

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* *( ";" token [ "=" token ] ): read so that nothing odd hides there, and ignored. Quoted values
 * are legal but no client sends them; they are refused. */
static bool extensions_ok(const char *text, size_t len) {
    size_t at = 0;
    while (at < len) {
        if (text[at++] != ';') return false;
        size_t begin = at;
        while (at < len && is_token_char((unsigned char)text[at])) at++;
        if (at == begin) return false;
        if (at < len && text[at] == '=') {
            begin = ++at;
            while (at < len && is_token_char((unsigned char)text[at])) at++;
            if (at == begin) return false;
        }
    }
    return true;
}

static lp_http_event take_chunk_line(lp_http_request *r) {
    size_t len = r->chunk_line_len - 1; /* without the CR */
    size_t digits = 0;
    uint64_t size = 0;
    while (digits < len && hex_value(r->chunk_line[digits]) >= 0) {
        if (digits == 8) return bad(r, 400, "a chunk's size has more than 8 digits");
        size = size * 16 + (uint64_t)hex_value(r->chunk_line[digits]);
        digits++;
    }
    if (digits == 0 || !extensions_ok(r->chunk_line + digits, len - digits))
        return bad(r, 400, "a chunk does not begin with its size");
    r->chunk_line_len = 0;
    if (size > LP_HTTP_BODY_MAX - r->body.len) return bad(r, 413, "the body is larger than 32 MiB");
    r->left = size;
    r->state = size == 0 ? LAST_CR : CHUNK_DATA;
    return LP_HTTP_MORE;
}

static lp_http_event take_chunk_byte(lp_http_request *r, char c) {
    switch (r->state) {
    case CHUNK_SIZE: {
        bool after_cr = r->chunk_line_len > 0 && r->chunk_line[r->chunk_line_len - 1] == '\r';
        if (after_cr != (c == '\n')) return bad(r, 400, "a chunk's size line must end in CR LF");
        if (c == '\n') return take_chunk_line(r);
        if (r->chunk_line_len == LP_HTTP_CHUNK_LINE)
            return bad(r, 400, "a chunk's size line is too long");
        r->chunk_line[r->chunk_line_len++] = c;
        return LP_HTTP_MORE;
    }
    case CHUNK_CR:
    case LAST_CR:
        if (c != '\r')
            return bad(r, 400,
                       r->state == LAST_CR ? "trailer fields are not taken"
                                           : "a chunk does not end where it said");
        r->state = r->state == LAST_CR ? LAST_LF : CHUNK_LF;
        return LP_HTTP_MORE;
    default: /* CHUNK_LF, LAST_LF */
        if (c != '\n') return bad(r, 400, "a chunk does not end in CR LF");
        if (r->state == CHUNK_LF) {
            r->state = CHUNK_SIZE;
            return LP_HTTP_MORE;
        }
        r->state = DONE;
        return LP_HTTP_DONE;
    }
}

/* Moves up to `left` bytes into the body; returns how many. */
static size_t take_data(lp_http_request *r, const char *data, size_t len) {
    size_t n = r->left < len ? (size_t)r->left : len;
    lp_buf_add(&r->body, data, n);
    r->left -= n;
    return n;
}

static lp_http_event begin_body(lp_http_request *r) {
    if (r->chunked) {
        r->state = CHUNK_SIZE;
        return LP_HTTP_MORE;
    }
    if (!r->has_body) {
        r->state = DONE;
        return LP_HTTP_DONE;
    }
    r->left = r->content_length;
    r->state = BODY;
    return LP_HTTP_MORE;
}

static lp_http_event take_body(lp_http_request *r, const char *data, size_t len, size_t *taken) {
    if (r->state == BODY || r->state == CHUNK_DATA) {
        *taken = take_data(r, data, len);
        if (r->body.failed) return bad(r, 503, "out of memory");
        if (r->left > 0) return LP_HTTP_MORE;
        if (r->state == CHUNK_DATA) {
            r->state = CHUNK_CR;
            return LP_HTTP_MORE;
        }
        r->state = DONE;
        return LP_HTTP_DONE;
    }
    *taken = 1;
    return take_chunk_byte(r, data[0]);
}

lp_http_event lp_http_feed(lp_http_request *r, const char *data, size_t len, size_t *taken) {
    *taken = 0;
    if (r->state == BAD) return LP_HTTP_BAD;
    if (r->state == DONE) return LP_HTTP_DONE;
    if (r->state == HEAD_DONE && begin_body(r) == LP_HTTP_DONE) return LP_HTTP_DONE;
    while (*taken < len) {
        lp_http_event event;
        size_t step = 1;
        if (r->state == START || r->state == START_LF) {
            event = take_start_byte(r, data[*taken]);
        } else if (r->state == LINE || r->state == FIELDS) {
            event = take_head_byte(r, data[*taken]);
        } else {
            event = take_body(r, data + *taken, len - *taken, &step);
            /* The framing of tiny chunks costs six bytes a byte: bounded as well. */
            r->received += step;
            if (event == LP_HTTP_MORE && r->chunked &&
                r->received > 2u * (uint64_t)LP_HTTP_BODY_MAX)
                event = bad(r, 413, "the body is larger than 32 MiB");
        }
        *taken += step;
        if (event != LP_HTTP_MORE) return event;
    }
    return LP_HTTP_MORE;
}

/* ---- writing ------------------------------------------------------------------------------- */

const char *lp_http_status_text(int status) {
    switch (status) {
    case 100:
        return "Continue";
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 415:
        return "Unsupported Media Type";
    case 417:
        return "Expectation Failed";
    case 421:
        return "Misdirected Request";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Error";
    }
}

/* Sun, 06 Nov 1994 08:49:37 GMT. Days to a civil date by the usual era arithmetic: 400 years are
 * 146097 days, and a year that begins in March has its leap day at the end. */
static void add_date(lp_buf *out, int64_t now) {
    static const char days[] = "ThuFriSatSunMonTueWed"; /* 1 January 1970 was a Thursday */
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if (now < 0) now = 0;
    int64_t day = now / 86400, second = now % 86400;
    int64_t shifted = day + 719468; /* days since 1 March of the year 0 */
    int64_t era = shifted / 146097, in_era = shifted % 146097;
    int64_t year_of_era = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int64_t day_of_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t month = (5 * day_of_year + 2) / 153; /* 0 = March */
    int64_t day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    int64_t civil_month = month < 10 ? month + 2 : month - 10; /* 0 = January */
    int64_t year = era * 400 + year_of_era + (civil_month < 2 ? 1 : 0);
    lp_buf_add_format(out, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n",
                      days + 3 * (day % 7), (int)day_of_month, months + 3 * civil_month, (int)year,
                      (int)(second / 3600), (int)(second / 60 % 60), (int)(second % 60));
}

void lp_http_add_head(lp_buf *out, const lp_http_reply *reply) {
    lp_buf_add_format(out, "HTTP/1.1 %d %s\r\n", reply->status, lp_http_status_text(reply->status));
    add_date(out, reply->now);
    if (reply->content_type != NULL)
        lp_buf_add_format(out, "Content-Type: %s\r\n", reply->content_type);
    if (reply->chunked) {
        lp_buf_add_text(out, "Transfer-Encoding: chunked\r\n");
    } else if (!reply->until_close && reply->status != 204 && reply->status != 304) {
        lp_buf_add_format(out, "Content-Length: %llu\r\n", (unsigned long long)reply->length);
    }
    lp_buf_add_text(out, reply->keep_alive && !reply->until_close ? "Connection: keep-alive\r\n"
                                                                  : "Connection: close\r\n");
    lp_buf_add_text(out, reply->no_store ? "Cache-Control: no-store\r\n"
                                         : "Cache-Control: no-cache\r\n");
    lp_buf_add_text(out, "X-Content-Type-Options: nosniff\r\n"
                         "Referrer-Policy: no-referrer\r\n"
                         "X-Frame-Options: DENY\r\n"
                         "Cross-Origin-Opener-Policy: same-origin\r\n"
                         "Cross-Origin-Resource-Policy: same-origin\r\n");
    if (reply->extra != NULL) lp_buf_add_text(out, reply->extra);
    lp_buf_add_text(out, "\r\n");
}

void lp_http_add_chunk(lp_buf *out, lp_str data) {
    if (data.len == 0) return;
    lp_buf_add_format(out, "%zx\r\n", data.len);
    lp_buf_add_str(out, data);
    lp_buf_add_text(out, "\r\n");
}

void lp_http_add_last_chunk(lp_buf *out) {
    lp_buf_add_text(out, "0\r\n\r\n");
}
