/* inflate.c - unpacks DEFLATE data (RFC 1951).
 *
 * Bits are taken from each byte's low end. A block is stored (length, its complement, bytes), or
 * coded with two Huffman codes, one for literals and lengths, one for distances, that are fixed or
 * sent before it. A canonical code is decoded bit by bit: codes of one length are consecutive
 * numbers, so `first` code and `index` of its first symbol per length are enough, and no table can
 * be walked out of. That is slower than look-up tables, which does not matter for a page of a few
 * hundred kilobytes that is unpacked only for clients without gzip.
 *
 * Refused: over- and under-full codes (a distance code of one symbol is allowed, as RFC 1951 3.2.7
 * says), distances that reach before the first byte, and output of another size than promised.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/inflate.h"

#include <string.h>

enum { MOST_BITS = 15, LITERALS = 288, DISTANCES = 30, END_OF_BLOCK = 256 };

typedef struct code {
    uint16_t count[MOST_BITS + 1]; /* codes of each length */
    uint16_t symbol[LITERALS];     /* in the order of their codes */
} code;

typedef struct stream {
    const uint8_t *in;
    size_t in_left;
    uint32_t bits; /* not yet used, low end first */
    unsigned n_bits;
    uint8_t *out;
    size_t at, size; /* of out */
    lp_error *err;
} stream;

static lp_code damaged(const stream *s, const char *what) {
    return lp_fail(s->err, LP_ERR_FORMAT, "deflated data: %s", what);
}

/* n <= 16 bits. */
static lp_code take_bits(stream *s, unsigned n, uint32_t *out) {
    while (s->n_bits < n) {
        if (s->in_left == 0) return damaged(s, "ends too early");
        s->bits |= (uint32_t)*s->in++ << s->n_bits;
        s->in_left--;
        s->n_bits += 8;
    }
    *out = s->bits & ((1u << n) - 1);
    s->bits >>= n;
    s->n_bits -= n;
    return LP_OK;
}

/* Builds a code from its lengths (0 = symbol not used). `left` counts the codes still free: below 0
 * too many were given, above 0 too few, which only a code of a single one-bit symbol, or none at
 * all where distances do not occur, may be. */
static lp_code build(stream *s, code *c, const uint8_t *lengths, size_t n, bool may_be_empty) {
    memset(c->count, 0, sizeof c->count);
    for (size_t i = 0; i < n; i++) c->count[lengths[i]]++;
    size_t used = n - c->count[0];
    c->count[0] = 0;
    int left = 1;
    uint16_t next[MOST_BITS + 2] = {0};
    for (size_t length = 1; length <= MOST_BITS; length++) {
        left = left * 2 - c->count[length];
        if (left < 0) return damaged(s, "a code has too many symbols");
        next[length + 1] = (uint16_t)(next[length] + c->count[length]);
    }
    bool single = used == 1 && c->count[1] == 1;
    if (left > 0 && !(may_be_empty && (used == 0 || single))) {
        return damaged(s, "a code has too few symbols");
    }
    for (size_t i = 0; i < n; i++) {
        if (lengths[i]) c->symbol[next[lengths[i]]++] = (uint16_t)i;
    }
    return LP_OK;
}

static lp_code take_symbol(stream *s, const code *c, unsigned *out) {
    unsigned value = 0, first = 0, index = 0;
    for (size_t length = 1; length <= MOST_BITS; length++) {
        uint32_t bit;
        LP_TRY(take_bits(s, 1, &bit));
        value |= bit;
        unsigned count = c->count[length];
        if (value - first < count) {
            *out = c->symbol[index + (value - first)];
            return LP_OK;
        }
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    return damaged(s, "a code that was not defined");
}

static lp_code stored_block(stream *s) {
    /* The rest of the current byte is skipped; at most seven bits are held, never whole bytes. */
    s->bits = 0;
    s->n_bits = 0;
    if (s->in_left < 4) return damaged(s, "ends too early");
    unsigned len = s->in[0] | (unsigned)s->in[1] << 8, inverse = s->in[2] | (unsigned)s->in[3] << 8;
    s->in += 4;
    s->in_left -= 4;
    if (len != (inverse ^ 0xFFFF)) return damaged(s, "a stored block's length is damaged");
    if (len > s->in_left) return damaged(s, "ends too early");
    if (len > s->size - s->at) return damaged(s, "gives more bytes than announced");
    if (len > 0) memcpy(s->out + s->at, s->in, len);
    s->at += len;
    s->in += len;
    s->in_left -= len;
    return LP_OK;
}

/* Copies a match: byte by byte, since it may overlap itself. length_code is 0..28. */
static lp_code copy_match(stream *s, unsigned length_code, const code *distances) {
    /* RFC 1951 3.2.5: smallest length and distance of each code, and the extra bits that add. */
    static const uint16_t length_base[29] = {3,  4,  5,  6,   7,   8,   9,   10,  11, 13,
                                             15, 17, 19, 23,  27,  31,  35,  43,  51, 59,
                                             67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                             2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t distance_base[DISTANCES] = {
        1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
        193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    uint32_t extra;
    LP_TRY(take_bits(s, length_extra[length_code], &extra));
    size_t length = length_base[length_code] + extra;
    unsigned symbol;
    LP_TRY(take_symbol(s, distances, &symbol));
    if (symbol >= DISTANCES) return damaged(s, "an unknown distance");
    LP_TRY(take_bits(s, symbol < 2 ? 0 : symbol / 2 - 1, &extra));
    size_t distance = distance_base[symbol] + extra;
    if (distance > s->at) return damaged(s, "a match before the first byte");
    if (length > s->size - s->at) return damaged(s, "gives more bytes than announced");
    for (size_t i = 0; i < length; i++, s->at++) s->out[s->at] = s->out[s->at - distance];
    return LP_OK;
}

static lp_code coded_block(stream *s, const code *literals, const code *distances) {
    for (;;) {
        unsigned symbol;
        LP_TRY(take_symbol(s, literals, &symbol));
        if (symbol == END_OF_BLOCK) return LP_OK;
        if (symbol < END_OF_BLOCK) {
            if (s->at == s->size) return damaged(s, "gives more bytes than announced");
            s->out[s->at++] = (uint8_t)symbol;
        } else {
            if (symbol - 257 >= 29) return damaged(s, "an unknown length");
            LP_TRY(copy_match(s, symbol - 257, distances));
        }
    }
}

static lp_code fixed_block(stream *s) {
    uint8_t lengths[LITERALS];
    code literals, distances;
    for (size_t i = 0; i < LITERALS; i++) {
        lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    }
    LP_TRY(build(s, &literals, lengths, LITERALS, false));
    /* 32 codes of five bits; the last two never occur in good data and are refused on use. */
    memset(lengths, 5, 32);
    LP_TRY(build(s, &distances, lengths, 32, false));
    return coded_block(s, &literals, &distances);
}

/* The code lengths of a block's two codes, themselves coded (RFC 1951 3.2.7). */
static lp_code read_lengths(stream *s, uint8_t *lengths, size_t n) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                      11, 4,  12, 3, 13, 2, 14, 1, 15};
    uint8_t own[19] = {0};
    code lengths_code;
    uint32_t n_own, value;
    LP_TRY(take_bits(s, 4, &n_own));
    for (size_t i = 0; i < n_own + 4; i++) {
        LP_TRY(take_bits(s, 3, &value));
        own[order[i]] = (uint8_t)value;
    }
    LP_TRY(build(s, &lengths_code, own, 19, false));
    for (size_t i = 0; i < n;) {
        unsigned symbol;
        LP_TRY(take_symbol(s, &lengths_code, &symbol));
        if (symbol < 16) {
            lengths[i++] = (uint8_t)symbol;
            continue;
        }
        if (symbol == 16 && i == 0) return damaged(s, "repeats a length before the first");
        uint8_t repeated = symbol == 16 ? lengths[i - 1] : 0;
        LP_TRY(take_bits(s, symbol == 16 ? 2 : symbol == 17 ? 3 : 7, &value));
        size_t times = value + (symbol == 18 ? 11 : 3);
        if (times > n - i) return damaged(s, "too many code lengths");
        memset(lengths + i, repeated, times);
        i += times;
    }
    return LP_OK;
}

static lp_code dynamic_block(stream *s) {
    uint8_t lengths[LITERALS + 32];
    code literals, distances;
    uint32_t n_literals, n_distances;
    LP_TRY(take_bits(s, 5, &n_literals));
    LP_TRY(take_bits(s, 5, &n_distances));
    n_literals += 257;
    n_distances += 1;
    if (n_literals > 286 || n_distances > DISTANCES) return damaged(s, "too many symbols");
    LP_TRY(read_lengths(s, lengths, n_literals + n_distances));
    if (lengths[END_OF_BLOCK] == 0) return damaged(s, "a block that cannot end");
    LP_TRY(build(s, &literals, lengths, n_literals, true));
    LP_TRY(build(s, &distances, lengths + n_literals, n_distances, true));
    return coded_block(s, &literals, &distances);
}

lp_code lp_inflate(void *out, size_t out_size, const void *data, size_t size, lp_error *err) {
    stream s = {.in = data, .in_left = size, .out = out, .size = out_size, .err = err};
    uint32_t last = 0, kind;
    while (!last) {
        LP_TRY(take_bits(&s, 1, &last));
        LP_TRY(take_bits(&s, 2, &kind));
        if (kind == 0)
            LP_TRY(stored_block(&s));
        else if (kind == 1)
            LP_TRY(fixed_block(&s));
        else if (kind == 2)
            LP_TRY(dynamic_block(&s));
        else
            return damaged(&s, "an unknown kind of block");
    }
    if (s.at != out_size) return damaged(&s, "gives fewer bytes than announced");
    if (s.in_left > 0) return damaged(&s, "more data behind the end");
    return LP_OK;
}

lp_code lp_inflate_add(lp_buf *out, const void *data, size_t size, size_t out_size, lp_error *err) {
    /* The buffer grows by zeros first, so that its limit and memory are checked before any work.
     * DEFLATE packs at most 1032 to 1: a larger promise is a lie that need not be paid for. */
    static const char zeros[4096];
    if (out_size / 1032 > size) {
        return lp_fail(err, LP_ERR_FORMAT, "deflated data: announces more than it can hold");
    }
    size_t start = out->len;
    for (size_t left = out_size; left > 0 && !out->failed;) {
        size_t part = left < sizeof zeros ? left : sizeof zeros;
        lp_buf_add(out, zeros, part);
        left -= part;
    }
    LP_TRY(lp_buf_check(out, err));
    if (out_size == 0) return lp_inflate("", 0, data, size, err);
    lp_code code = lp_inflate(out->data + start, out_size, data, size, err);
    if (code != LP_OK) {
        out->len = start;
        out->data[start] = '\0';
    }
    return code;
}
