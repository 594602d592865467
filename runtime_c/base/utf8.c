/* utf8.c - UTF-8 by the table of well-formed byte sequences (Unicode 3.9, table 3-7).
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/utf8.h"

/* Length that a lead byte announces, and the bounds of the byte after it; 0 = not a lead byte. */
static size_t lead(uint8_t byte, uint8_t *low, uint8_t *high) {
    *low = 0x80;
    *high = 0xBF;
    if (byte < 0x80) return 1;
    if (byte < 0xC2) return 0;
    if (byte < 0xE0) return 2;
    if (byte < 0xF0) {
        if (byte == 0xE0) *low = 0xA0;  /* shorter forms exist */
        if (byte == 0xED) *high = 0x9F; /* surrogates */
        return 3;
    }
    if (byte > 0xF4) return 0;
    if (byte == 0xF0) *low = 0x90;
    if (byte == 0xF4) *high = 0x8F; /* beyond U+10FFFF */
    return 4;
}

size_t lp_utf8_decode(const char *data, size_t len, uint32_t *code_point, bool *ok) {
    static const uint8_t lead_bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    const uint8_t *bytes = (const uint8_t *)data;
    uint8_t low = 0;
    uint8_t high = 0;
    size_t need = lead(bytes[0], &low, &high);
    *code_point = LP_UTF8_REPLACEMENT;
    *ok = false;
    if (need == 0) return 1;
    uint32_t value = bytes[0] & lead_bits[need];
    for (size_t i = 1; i < need; i++) {
        if (i >= len || bytes[i] < low || bytes[i] > high) return i;
        value = value << 6 | (bytes[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *code_point = value;
    *ok = true;
    return need;
}

size_t lp_utf8_encode(uint32_t code_point, char out[4]) {
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
        code_point = LP_UTF8_REPLACEMENT;
    }
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xC0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xE0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code_point & 0x3F));
    return 4;
}

bool lp_utf8_valid(lp_str text) {
    for (size_t i = 0; i < text.len;) {
        uint32_t code_point = 0;
        bool ok = false;
        i += lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
        if (!ok) return false;
    }
    return true;
}

size_t lp_utf8_count(lp_str text) {
    size_t count = 0;
    for (size_t i = 0; i < text.len; count++) {
        uint32_t code_point = 0;
        bool ok = false;
        i += lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
    }
    return count;
}

size_t lp_utf8_incomplete_tail(lp_str text) {
    /* Look at the last one to three bytes for a lead byte whose character reaches past the end. */
    for (size_t back = 1; back <= 3 && back <= text.len; back++) {
        uint8_t byte = (uint8_t)text.data[text.len - back];
        if (byte >= 0x80 && byte <= 0xBF) continue;
        uint8_t low = 0;
        uint8_t high = 0;
        size_t need = lead(byte, &low, &high);
        if (need <= back) return 0;
        uint32_t code_point = 0;
        bool ok = false;
        size_t used = lp_utf8_decode(text.data + text.len - back, back, &code_point, &ok);
        return used == back ? back : 0;
    }
    return 0;
}

size_t lp_utf8_add_repaired(lp_buf *out, lp_str text) {
    size_t repaired = 0;
    for (size_t i = 0; i < text.len;) {
        uint32_t code_point = 0;
        bool ok = false;
        size_t used = lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
        if (ok) {
            lp_buf_add(out, text.data + i, used);
        } else {
            lp_buf_add(out, "\xEF\xBF\xBD", 3);
            repaired++;
        }
        i += used;
    }
    return repaired;
}

static bool is_terminal_control(uint32_t c) {
    if (c == '\n' || c == '\t') return false;
    if (c < 0x20 || (c >= 0x7F && c < 0xA0)) return true;
    return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

void lp_utf8_add_printable(lp_buf *out, lp_str text) {
    for (size_t i = 0; i < text.len;) {
        uint32_t code_point = 0;
        bool ok = false;
        size_t used = lp_utf8_decode(text.data + i, text.len - i, &code_point, &ok);
        if (!ok) {
            lp_buf_add(out, "\xEF\xBF\xBD", 3);
        } else if (!is_terminal_control(code_point)) {
            lp_buf_add(out, text.data + i, used);
        }
        i += used;
    }
}
