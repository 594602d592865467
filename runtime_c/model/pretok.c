/* pretok.c - the splitters of the BPE families as data, and the scanner that reads them.
 *
 * A family is a sequence of stages. Each stage cuts every piece it gets into its matches and the
 * gaps between them; the last stage's pieces are the words. Two kinds of stage are enough:
 *
 *   RUN    [class]{min,max}
 *   WORDS  the alternation all GPT-2 descendants share; the first alternative that matches wins:
 *
 *            contraction            's 't 're 've 'm 'll 'd
 *            ascii_words            [ASCII punctuation][A-Za-z]+
 *            words                  prefix? letters+        or the cased forms of gpt-4o:
 *                                   prefix? U*W+ suffix? | prefix? U+W* suffix?
 *            numbers                \p{N}{1,max}            (GPT-2: " "? \p{N}+)
 *            punctuation            " "? punct+ tail*
 *            line ends              \s*[\r\n]+
 *            white space            \s+(?!\S) | \s+
 *
 * White space before a word keeps its last character for the word: that is what \s+(?!\S) says.
 * Ill-formed UTF-8 counts as U+FFFD, one per maximal ill-formed part.
 *
 * Cost: an alternative that fails has looked at no more than the run of one class that begins
 * here, and the alternative that then matches swallows that run (all but its last character), so
 * each character is looked at a bounded number of times.
 *
 * The expressions are those the model makers publish in tokenizer.json; the names are those
 * GGUF converters write. gpt-4o's upper and lower classes are the true Unicode ones.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/pretok.h"

#include "base/unicode.h"
#include "base/utf8.h"

typedef enum contraction_kind { NO_CONTRACTION, SMALL_LETTERS, ANY_CASE } contraction_kind;

typedef struct words_rule {
    contraction_kind contraction;
    bool ascii_words;
    bool space_prefix;   /* prefix is " ", else [^\r\n] outside prefix_not */
    uint32_t prefix_not; /* classes */
    uint32_t letters;    /* classes of a word; 0 = the cased forms */
    bool suffix;         /* cased forms: a contraction may end the word */
    uint32_t max_digits; /* 0 = numbers are no alternative; NO_LIMIT = any number */
    bool space_digits;   /* " "? before a number */
    uint32_t punct;      /* classes; white space never counts */
    bool punct_line_end; /* tail is [\r\n]* */
    bool punct_slash;    /* ... and also "/" */
    bool line_ends;      /* \s*[\r\n]+ is an alternative */
} words_rule;

typedef struct run_rule {
    uint32_t classes;
    const char *ascii;      /* further characters; NULL = none */
    const uint32_t *ranges; /* pairs of first, last; ends with 0, 0; NULL = none */
    bool ascii_digits;      /* [0-9] */
    uint32_t min, max;      /* characters */
} run_rule;

typedef struct stage {
    const words_rule *words; /* exactly one of the two */
    const run_rule *run;
} stage;

struct lp_pretok_family {
    size_t n_stages;
    stage stages[LP_PRETOK_STAGES];
};

enum { NO_LIMIT = 0x7FFFFFFF };
#define NOT_L_N (LP_UC_ANY & ~(LP_UC_L | LP_UC_N))
#define UPPER   (LP_UC_LU | LP_UC_LT | LP_UC_LM | LP_UC_LO | LP_UC_M)
#define LOWER   (LP_UC_LL | LP_UC_LM | LP_UC_LO | LP_UC_M)

static const words_rule gpt2_words = {
    .contraction = SMALL_LETTERS,
    .space_prefix = true,
    .letters = LP_UC_L,
    .max_digits = NO_LIMIT,
    .space_digits = true,
    .punct = NOT_L_N,
};
static const words_rule llama3_words = {
    .contraction = ANY_CASE,
    .prefix_not = LP_UC_L | LP_UC_N,
    .letters = LP_UC_L,
    .max_digits = 3,
    .punct = NOT_L_N,
    .punct_line_end = true,
    .line_ends = true,
};
static const words_rule qwen2_words = {
    .contraction = ANY_CASE,
    .prefix_not = LP_UC_L | LP_UC_N,
    .letters = LP_UC_L,
    .max_digits = 1,
    .punct = NOT_L_N,
    .punct_line_end = true,
    .line_ends = true,
};
static const words_rule qwen35_words = {
    .contraction = ANY_CASE,
    .prefix_not = LP_UC_L | LP_UC_N,
    .letters = LP_UC_L | LP_UC_M,
    .max_digits = 1,
    .punct = NOT_L_N & ~LP_UC_M,
    .punct_line_end = true,
    .line_ends = true,
};
static const words_rule gpt4o_words = {
    .prefix_not = LP_UC_L | LP_UC_N,
    .suffix = true,
    .max_digits = 3,
    .punct = NOT_L_N,
    .punct_line_end = true,
    .punct_slash = true,
    .line_ends = true,
};
static const words_rule tekken_words = {
    .prefix_not = LP_UC_L | LP_UC_N,
    .max_digits = 1,
    .punct = NOT_L_N,
    .punct_line_end = true,
    .punct_slash = true,
    .line_ends = true,
};
static const words_rule deepseek3_words = {
    .ascii_words = true,
    .prefix_not = LP_UC_L | LP_UC_P | LP_UC_S,
    .letters = LP_UC_L | LP_UC_M,
    .punct = LP_UC_P | LP_UC_S,
    .punct_line_end = true,
    .line_ends = true,
};

static const uint32_t cjk_and_kana[] = {0x4E00, 0x9FA5, 0x3040, 0x309F, 0x30A0, 0x30FF, 0, 0};

static const run_rule one_number = {.classes = LP_UC_N, .min = 1, .max = 1};
static const run_rule three_numbers = {.classes = LP_UC_N, .min = 1, .max = 3};
static const run_rule numbers = {.classes = LP_UC_N, .min = 1, .max = NO_LIMIT};
static const run_rule three_digits = {.ascii_digits = true, .min = 3, .max = 3};
static const run_rule asian = {.ranges = cjk_and_kana, .min = 1, .max = NO_LIMIT};
static const run_rule symbols = {
    .classes = LP_UC_P, .ascii = "$+<=>^~|", .min = 1, .max = NO_LIMIT};
static const run_rule symbols_falcon = {
    .classes = LP_UC_P, .ascii = "$+<=>^~|`", .min = 1, .max = NO_LIMIT};

static const lp_pretok_family gpt2 = {1, {{.words = &gpt2_words}}};
static const lp_pretok_family number_gpt2 = {2, {{.run = &one_number}, {.words = &gpt2_words}}};
static const lp_pretok_family llama3 = {1, {{.words = &llama3_words}}};
static const lp_pretok_family qwen2 = {1, {{.words = &qwen2_words}}};
static const lp_pretok_family qwen35 = {1, {{.words = &qwen35_words}}};
static const lp_pretok_family gpt4o = {1, {{.words = &gpt4o_words}}};
static const lp_pretok_family tekken = {1, {{.words = &tekken_words}}};
static const lp_pretok_family deepseek3 = {
    3, {{.run = &three_numbers}, {.run = &asian}, {.words = &deepseek3_words}}};
static const lp_pretok_family falcon = {
    3, {{.run = &symbols_falcon}, {.words = &gpt2_words}, {.run = &three_digits}}};
static const lp_pretok_family unnamed = {
    4, {{.run = &symbols}, {.words = &gpt2_words}, {.run = &numbers}, {.run = &three_digits}}};

static const lp_pretok_name names[] = {
    {"", &unnamed, false, false},
    {"default", &unnamed, false, false},
    {"gpt-2", &gpt2, false, false},
    {"phi-2", &gpt2, false, false},
    {"gigachat", &gpt2, false, false},
    {"a.x-4.0", &gpt2, false, false},
    {"mellum", &gpt2, false, false},
    {"modern-bert", &gpt2, false, false},
    {"mpt", &gpt2, false, false},
    {"olmo", &gpt2, false, false},
    {"jais", &gpt2, false, false},
    {"exaone4", &gpt2, false, false},
    {"trillion", &gpt2, false, false},
    {"granite-docling", &gpt2, false, false},
    {"smollm", &number_gpt2, false, false},
    {"starcoder", &number_gpt2, false, false},
    {"refact", &number_gpt2, false, false},
    {"command-r", &number_gpt2, false, false},
    {"codeshell", &number_gpt2, false, false},
    {"exaone", &number_gpt2, false, false},
    {"minerva-7b", &number_gpt2, false, false},
    {"mellum2", &number_gpt2, false, false},
    {"llama-bpe", &llama3, true, true},
    {"llama3", &llama3, true, true},
    {"llama-v3", &llama3, true, true},
    {"falcon3", &llama3, true, true},
    {"falcon-h1", &llama3, true, true},
    {"pixtral", &llama3, true, true},
    {"midm-2.0", &llama3, true, true},
    {"lfm2", &llama3, true, true},
    {"glm4", &llama3, true, false},
    {"glm5", &llama3, true, false},
    {"dbrx", &llama3, false, false},
    {"smaug-bpe", &llama3, false, false},
    {"chatglm-bpe", &llama3, false, false},
    {"qwen2", &qwen2, false, false},
    {"deepseek-r1-qwen", &qwen2, false, false},
    {"kormo", &qwen2, false, false},
    {"hunyuan", &qwen2, false, false},
    {"solar-open", &qwen2, false, false},
    {"grok-2", &qwen2, false, false},
    {"stablelm2", &qwen2, false, false},
    {"megrez", &qwen2, false, false},
    {"qwen35", &qwen35, false, false},
    {"gpt-4o", &gpt4o, false, false},
    {"llama4", &gpt4o, false, false},
    {"kanana2", &gpt4o, false, false},
    {"minimax-m2", &gpt4o, false, false},
    {"tekken", &tekken, true, true},
    {"deepseek-v3", &deepseek3, false, false},
    {"hunyuan-dense", &deepseek3, false, false},
    {"joyai-llm", &deepseek3, false, false},
    {"falcon", &falcon, false, false},
};

const lp_pretok_name *lp_pretok_find(lp_str pre) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (lp_str_is(pre, names[i].pre)) return &names[i];
    }
    return NULL;
}

/* One character of the piece: 0 bytes and no class at its end. */
typedef struct character {
    size_t len;
    uint32_t code;
    uint32_t classes;
} character;

static character char_at(lp_str piece, size_t at) {
    character c = {0, 0, 0};
    if (at >= piece.len) return c;
    c.code = (uint8_t)piece.data[at];
    c.len = 1;
    if (c.code >= 0x80) {
        bool ok = false;
        c.len = lp_utf8_decode(piece.data + at, piece.len - at, &c.code, &ok);
    }
    c.classes = lp_unicode_class(c.code);
    return c;
}

static bool is_space(character c) {
    return (c.classes & LP_UC_SPACE) != 0;
}

static bool is_line_end(character c) {
    return c.len != 0 && (c.code == '\r' || c.code == '\n');
}

/* Bytes from `at` on whose characters are all of these classes. */
static size_t run_of(lp_str piece, size_t at, uint32_t classes) {
    size_t end = at;
    for (character c = char_at(piece, end); (c.classes & classes) != 0; c = char_at(piece, end)) {
        end += c.len;
    }
    return end - at;
}

static size_t contraction(contraction_kind kind, lp_str piece, size_t at) {
    static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (kind == NO_CONTRACTION || at >= piece.len || piece.data[at] != '\'') return 0;
    /* The long s is the one other character that folds to a letter of the list. */
    if (kind == ANY_CASE && char_at(piece, at + 1).code == 0x17F) return 3;
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        size_t n = 0;
        for (; tails[i][n] != '\0' && at + 1 + n < piece.len; n++) {
            char c = piece.data[at + 1 + n];
            if (kind == ANY_CASE && c >= 'A' && c <= 'Z') c = (char)(c + ('a' - 'A'));
            if (c != tails[i][n]) break;
        }
        if (tails[i][n] == '\0') return 1 + n;
    }
    return 0;
}

static bool is_ascii_letter(uint32_t code) {
    return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z');
}

static size_t ascii_word(lp_str piece, size_t at) {
    character first = char_at(piece, at);
    bool punct = first.code < 0x80 && (first.classes & (LP_UC_P | LP_UC_S)) != 0;
    if (!punct) return 0;
    size_t end = at + 1;
    while (end < piece.len && is_ascii_letter((uint8_t)piece.data[end])) end++;
    return end > at + 1 ? end - at : 0;
}

/* U*W+ from `at`. Upper and lower share Lm, Lo and M, so where no lower character follows the
 * upper run, the match ends with the last shared character inside it. */
static size_t upper_then_lower(lp_str piece, size_t at) {
    size_t end = at;
    size_t shared_end = at;
    for (character c = char_at(piece, end); (c.classes & UPPER) != 0; c = char_at(piece, end)) {
        end += c.len;
        if ((c.classes & LOWER) != 0) shared_end = end;
    }
    size_t lower = run_of(piece, end, LOWER);
    return (lower > 0 ? end + lower : shared_end) - at;
}

static size_t cased_word(const words_rule *rule, lp_str piece, size_t at, size_t prefix) {
    size_t begins[2] = {at + prefix, at};
    size_t end = at;
    for (size_t i = prefix > 0 ? 0 : 1; i < 2 && end == at; i++) {
        size_t word = upper_then_lower(piece, begins[i]);
        if (word > 0) end = begins[i] + word;
    }
    for (size_t i = prefix > 0 ? 0 : 1; i < 2 && end == at; i++) {
        size_t upper = run_of(piece, begins[i], UPPER);
        if (upper > 0) end = begins[i] + upper; /* W* finds nothing, else the first form matched */
    }
    if (end > at && rule->suffix) end += contraction(ANY_CASE, piece, end);
    return end - at;
}

static size_t word(const words_rule *rule, lp_str piece, size_t at) {
    character first = char_at(piece, at);
    bool prefixed = rule->space_prefix
                        ? first.code == ' '
                        : !is_line_end(first) && (first.classes & rule->prefix_not) == 0;
    size_t prefix = prefixed ? first.len : 0;
    if (rule->letters == 0) return cased_word(rule, piece, at, prefix);
    size_t letters = run_of(piece, at + prefix, rule->letters);
    if (letters > 0) return prefix + letters;
    /* The prefix may itself be a letter of the rule (a combining mark), and then stands alone. */
    return prefix > 0 ? run_of(piece, at, rule->letters) : 0;
}

static size_t number(const words_rule *rule, lp_str piece, size_t at) {
    size_t begin = at;
    if (rule->space_digits && piece.data[at] == ' ') begin++;
    size_t end = begin;
    for (uint32_t n = 0; n < rule->max_digits; n++) {
        character c = char_at(piece, end);
        if ((c.classes & LP_UC_N) == 0) break;
        end += c.len;
    }
    return end > begin ? end - at : 0;
}

static size_t punctuation(const words_rule *rule, lp_str piece, size_t at) {
    size_t begin = piece.data[at] == ' ' ? at + 1 : at;
    size_t end = begin;
    for (;;) {
        character c = char_at(piece, end);
        if (c.len == 0 || is_space(c) || (c.classes & rule->punct) == 0) break;
        end += c.len;
    }
    if (end == begin) return 0;
    while (rule->punct_line_end && end < piece.len) {
        char c = piece.data[end];
        if (c != '\r' && c != '\n' && !(rule->punct_slash && c == '/')) break;
        end++;
    }
    return end - at;
}

static size_t white_space(const words_rule *rule, lp_str piece, size_t at) {
    size_t end = at;
    size_t last = at;           /* begin of the last character */
    size_t after_line_end = at; /* end of the last \r or \n */
    for (character c = char_at(piece, end); is_space(c); c = char_at(piece, end)) {
        last = end;
        end += c.len;
        if (is_line_end(c)) after_line_end = end;
    }
    if (rule->line_ends && after_line_end > at) return after_line_end - at;
    if (end == piece.len || last == at) return end - at;
    return last - at;
}

/* Length of the match of a WORDS stage at `at`, 0 = none. */
static size_t match_words(const words_rule *rule, lp_str piece, size_t at) {
    size_t len = contraction(rule->contraction, piece, at);
    if (len == 0 && rule->ascii_words) len = ascii_word(piece, at);
    if (len == 0) len = word(rule, piece, at);
    if (len == 0 && rule->max_digits > 0) len = number(rule, piece, at);
    if (len == 0) len = punctuation(rule, piece, at);
    if (len == 0) len = white_space(rule, piece, at);
    return len;
}

static bool in_run(const run_rule *rule, character c) {
    if (c.len == 0) return false;
    if ((c.classes & rule->classes) != 0) return true;
    if (rule->ascii_digits && c.code >= '0' && c.code <= '9') return true;
    for (const char *p = rule->ascii; p != NULL && *p != '\0'; p++) {
        if (c.code == (uint8_t)*p) return true;
    }
    for (const uint32_t *r = rule->ranges; r != NULL && r[1] != 0; r += 2) {
        if (c.code >= r[0] && c.code <= r[1]) return true;
    }
    return false;
}

static size_t match_run(const run_rule *rule, lp_str piece, size_t at) {
    size_t end = at;
    uint32_t n = 0;
    for (; n < rule->max; n++) {
        character c = char_at(piece, end);
        if (!in_run(rule, c)) break;
        end += c.len;
    }
    return n >= rule->min ? end - at : 0;
}

static size_t match(const stage *s, lp_str piece, size_t at) {
    return s->words != NULL ? match_words(s->words, piece, at) : match_run(s->run, piece, at);
}

/* End of the piece (match, or gap up to the next match) that stage `s` cuts at `at`. */
static size_t cut(const stage *s, lp_str piece, size_t at) {
    size_t len = match(s, piece, at);
    if (len > 0) return at + len;
    size_t end = at;
    do {
        end += char_at(piece, end).len;
    } while (end < piece.len && match(s, piece, end) == 0);
    return end;
}

void lp_pretok_start(lp_pretok *walk, const lp_pretok_family *family, lp_str text) {
    *walk = (lp_pretok){.text = text, .family = family};
}

bool lp_pretok_next(lp_pretok *walk, lp_str *word) {
    if (walk->at >= walk->text.len) return false;
    lp_str piece = walk->text;
    size_t begin = walk->at;
    for (size_t i = 0; i < walk->family->n_stages; i++) {
        if (walk->piece_end[i] <= begin) {
            walk->piece_end[i] = cut(&walk->family->stages[i], piece, begin);
        }
        piece.len = walk->piece_end[i];
    }
    walk->at = piece.len;
    *word = lp_str_slice(walk->text, begin, piece.len);
    return true;
}
