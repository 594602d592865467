/* detokenize.c - ids to text: the bytes that each token stands for.
 *
 * BPE: the inverse of the byte alphabet; a character outside of it prints as itself. SPM: U+2581
 * is a space, <0xXX> is a byte. User-defined tokens print their text as it stands in the file.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/utf8.h"
#include "model/vocab_internal.h"

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* "<0x" two hexadecimal digits ">", nothing else: the text comes from the file. */
static bool parse_byte(lp_str text, char *byte) {
    if (text.len != 6 || !lp_str_starts(text, lp_str_from("<0x")) || text.data[5] != '>') {
        return false;
    }
    int high = hex_digit(text.data[3]);
    int low = hex_digit(text.data[4]);
    *byte = (char)(high * 16 + low);
    return high >= 0 && low >= 0;
}

static void add_bpe(lp_str text, lp_buf *out) {
    for (size_t at = 0; at < text.len;) {
        uint32_t code = 0;
        bool ok = false;
        uint8_t byte = 0;
        size_t len = lp_utf8_decode(text.data + at, text.len - at, &code, &ok);
        if (ok && lp_bpe_decode_char(code, &byte)) {
            lp_buf_add_char(out, (char)byte);
        } else {
            lp_buf_add(out, text.data + at, len);
        }
        at += len;
    }
}

static void add_spm(lp_str text, lp_buf *out) {
    lp_str space = {LP_SPM_SPACE, LP_SPM_SPACE_BYTES};
    for (size_t at = 0; at < text.len;) {
        size_t next = lp_str_find(text, space, at);
        size_t end = next == SIZE_MAX ? text.len : next;
        lp_buf_add(out, text.data + at, end - at);
        if (next != SIZE_MAX) lp_buf_add_char(out, ' ');
        at = next == SIZE_MAX ? text.len : next + LP_SPM_SPACE_BYTES;
    }
}

void lp_vocab_add_piece(const lp_vocab *vocab, int32_t id, bool special, lp_buf *out) {
    lp_str text = lp_vocab_text(vocab, id);
    if (text.len == 0) return;
    bool printed = special || (vocab->flags[id] & LP_FLAG_PRINTED) != 0;
    char byte = 0;
    switch (lp_vocab_attr(vocab, id)) {
    case LP_TOKEN_CONTROL:
    case LP_TOKEN_UNKNOWN:
        if (printed) lp_buf_add_str(out, text);
        break;
    case LP_TOKEN_USER_DEFINED:
        lp_buf_add_str(out, text);
        break;
    case LP_TOKEN_BYTE:
        if (parse_byte(text, &byte)) lp_buf_add_char(out, byte);
        break;
    case LP_TOKEN_NORMAL:
    case LP_TOKEN_UNUSED:
        if (vocab->kind == LP_VOCAB_SPM && parse_byte(text, &byte) &&
            vocab->bytes[(uint8_t)byte] == id) {
            lp_buf_add_char(out, byte); /* a file without token types */
        } else if (vocab->kind == LP_VOCAB_SPM) {
            add_spm(text, out);
        } else {
            add_bpe(text, out);
        }
        break;
    }
}

void lp_detokenize(const lp_vocab *vocab, const int32_t *ids, size_t n, bool special, lp_buf *out) {
    bool drop_space = vocab->space_prefix;
    for (size_t i = 0; i < n; i++) {
        size_t begin = out->len;
        lp_vocab_add_piece(vocab, ids[i], special, out);
        if (out->len == begin) continue; /* BOS prints nothing and stands before the space */
        if (drop_space && out->data[begin] == ' ' && lp_vocab_is_ordinary(vocab, ids[i])) {
            memmove(out->data + begin, out->data + begin + 1, out->len - begin); /* with the NUL */
            out->len--;
        }
        drop_space = false;
    }
}
