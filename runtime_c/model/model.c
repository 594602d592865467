/* model.c - from a GGUF's keys and tensor table to a checked model.
 *
 * Every hyperparameter has a bound and every tensor is compared with the shape that the
 * architecture row and the hyperparameters imply, so that the engine may index without looking.
 * Bounds are generous (an order beyond the largest public models) and exist so that products of
 * a few of them cannot wrap. Tensors that no role asks for are left alone.
 *
 * Keys and their defaults: the GGUF specification of the ggml project.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "model/model_internal.h"

enum {
    MAX_LAYERS = 512,
    MAX_EMBD = 1 << 17,
    MAX_HEADS = 1024,
    MAX_HEAD_LEN = 1024,
    MAX_FF = 1 << 20,
    MAX_VOCAB = 1 << 22
};

typedef struct reader {
    const lp_gguf *gguf;
    const char *prefix; /* of the architecture's keys */
    lp_error *err;
} reader;

/* "llama.block_count" in buffer; cut if it does not fit, which no key of the table does. */
static lp_str key_of(const reader *r, const char *name, char buffer[static 128]) {
    int len = snprintf(buffer, 128, "%s.%s", r->prefix, name);
    return (lp_str){buffer, len < 0 ? 0 : (size_t)len < 127 ? (size_t)len : 127};
}

static bool has_key(const reader *r, const char *name) {
    char buffer[128];
    return lp_gguf_find(r->gguf, key_of(r, name, buffer)) != NULL;
}

/* An integer within min..max. Without `optional` the key must be there. */
static lp_code read_u32(const reader *r, const char *name, bool optional, uint32_t min,
                        uint32_t max, uint32_t *out) {
    char buffer[128];
    lp_str key = key_of(r, name, buffer);
    if (!lp_gguf_find(r->gguf, key)) {
        if (optional) return LP_OK;
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s is missing", buffer);
    }
    LP_TRY(lp_gguf_get_u32(r->gguf, key, out, r->err));
    if (*out < min || *out > max)
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s is %lu, expected %lu to %lu", buffer,
                       (unsigned long)*out, (unsigned long)min, (unsigned long)max);
    return LP_OK;
}

/* One value for all layers, or an array with one per layer. */
static lp_code read_layer_u32(const reader *r, const char *name, bool optional, uint32_t layer,
                              uint32_t n_layer, uint32_t max, uint32_t *out) {
    char buffer[128];
    lp_str key = key_of(r, name, buffer);
    const lp_gguf_kv *kv = lp_gguf_find(r->gguf, key);
    if (!kv) {
        if (optional) return LP_OK;
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s is missing", buffer);
    }
    if (kv->type == LP_GGUF_ARRAY && kv->count != n_layer)
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s has %llu values for %lu layers", buffer,
                       (unsigned long long)kv->count, (unsigned long)n_layer);
    LP_TRY(lp_gguf_get_u32_at(r->gguf, key, layer, out, r->err));
    if (*out < 1 || *out > max)
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s is %lu in layer %lu, expected 1 to %lu",
                       buffer, (unsigned long)*out, (unsigned long)layer, (unsigned long)max);
    return LP_OK;
}

/* A finite number within min..max; absent leaves *out. */
static lp_code read_f32(const reader *r, const char *name, float min, float max, float *out) {
    char buffer[128];
    lp_str key = key_of(r, name, buffer);
    if (!lp_gguf_find(r->gguf, key)) return LP_OK;
    LP_TRY(lp_gguf_get_f32(r->gguf, key, out, r->err));
    if (!(*out >= min && *out <= max))
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s is %g, expected %g to %g", buffer,
                       (double)*out, (double)min, (double)max);
    return LP_OK;
}

static lp_code find_arch(const lp_gguf *gguf, const lp_arch **out, lp_error *err) {
    lp_str name = {NULL, 0};
    LP_TRY(lp_gguf_get_str(gguf, lp_str_from("general.architecture"), &name, err));
    if (!name.data) return lp_fail(err, LP_ERR_FORMAT, "key general.architecture is missing");
    *out = lp_arch_find(name);
    if (*out) return LP_OK;
    lp_buf known;
    lp_buf_init(&known, 1024);
    for (size_t i = 0; i < lp_arch_count(); i++)
        lp_buf_add_format(&known, "%s%s", i ? ", " : "", lp_arch_at(i)->name);
    int shown = name.len > 64 ? 64 : (int)name.len;
    lp_code code =
        lp_fail(err, LP_ERR_UNSUPPORTED, "architecture '%.*s' is not supported (supported: %s)",
                shown, name.data, known.data ? known.data : "");
    lp_buf_free(&known);
    return code;
}

/* rope.* keys into rope[0], and rope[1] for a family whose window layers turn by their own base.
 * Window layers are never rescaled: they do not see far enough to need it. */
static lp_code read_rope(const reader *r, lp_model *m) {
    LP_TRY(read_u32(r, "rope.dimension_count", true, 2, m->key_len, &m->n_rot));
    if (m->n_rot % 2 || m->n_rot > m->key_len)
        return lp_fail(
            r->err, LP_ERR_FORMAT,
            "key %s.rope.dimension_count is %lu: expected an even number up to the head size %lu",
            r->prefix, (unsigned long)m->n_rot, (unsigned long)m->key_len);

    lp_rope *g = &m->rope[LP_ROPE_GLOBAL];
    *g = (lp_rope){.base = 10000.0f,
                   .freq_scale = 1.0f,
                   .ext_factor = 1.0f,
                   .beta_fast = 32.0f,
                   .beta_slow = 1.0f,
                   .original_context = m->n_ctx_train,
                   .magnitude = 1.0f};
    LP_TRY(read_f32(r, "rope.freq_base", 1.0f, 1e12f, &g->base));
    m->rope[LP_ROPE_LOCAL] = *g;
    m->n_rope = 1;
    if (m->arch->rope_base_local > 0) {
        m->n_rope = 2;
        m->rope[LP_ROPE_LOCAL].base = m->arch->rope_base_local;
        LP_TRY(read_f32(r, "rope.freq_base_swa", 1.0f, 1e12f, &m->rope[LP_ROPE_LOCAL].base));
    }

    char buffer[128];
    lp_str type = lp_str_from("linear");
    LP_TRY(lp_gguf_get_str(r->gguf, key_of(r, "rope.scaling.type", buffer), &type, r->err));
    float factor = 0;
    LP_TRY(read_f32(r, "rope.scale_linear", 0, 1e6f, &factor));
    LP_TRY(read_f32(r, "rope.scaling.factor", 0, 1e6f, &factor));
    if (factor > 0 && factor < 1e-6f)
        return lp_fail(r->err, LP_ERR_FORMAT, "the rope scaling factor is %g", (double)factor);
    LP_TRY(read_f32(r, "rope.scaling.attn_factor", 1e-6f, 1e6f, &g->magnitude));
    if (lp_str_is(type, "none")) return LP_OK;
    if (factor > 0) g->freq_scale = 1.0f / factor;
    if (lp_str_is(type, "linear")) return LP_OK;
    if (!lp_str_is(type, "yarn")) {
        int shown = type.len > 32 ? 32 : (int)type.len;
        return lp_fail(r->err, LP_ERR_UNSUPPORTED,
                       "rope scaling '%.*s' is not supported (supported: none, linear, yarn)",
                       shown, type.data ? type.data : "");
    }

    float log_multiplier = 0;
    g->yarn = true;
    LP_TRY(read_u32(r, "rope.scaling.original_context_length", true, 1, INT32_MAX,
                    &g->original_context));
    LP_TRY(read_f32(r, "rope.scaling.yarn_ext_factor", 0, 1, &g->ext_factor));
    LP_TRY(read_f32(r, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, &g->beta_fast));
    LP_TRY(read_f32(r, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, &g->beta_slow));
    LP_TRY(read_f32(r, "rope.scaling.yarn_log_multiplier", -1e3f, 1e3f, &log_multiplier));
    float log_factor = factor > 0 ? logf(factor) : 0.0f;
    if (g->ext_factor > 0) g->magnitude *= 1.0f + 0.1f * log_factor;
    if (log_multiplier != 0) g->magnitude /= 1.0f + 0.1f * log_multiplier * log_factor;
    if (!(isfinite(g->magnitude) && g->magnitude > 0))
        return lp_fail(r->err, LP_ERR_FORMAT, "the yarn keys give no usable magnitude");
    return LP_OK;
}

/* Which layers see only a window. The pattern key is a period or one flag per layer. */
static lp_code read_windows(const reader *r, lp_model *m) {
    if (m->arch->window_period == 0) return LP_OK;
    uint32_t window = m->arch->window, period = m->arch->window_period;
    LP_TRY(read_u32(r, "attention.sliding_window", true, 0, INT32_MAX, &window));
    char buffer[128];
    lp_str key = key_of(r, "attention.sliding_window_pattern", buffer);
    const lp_gguf_kv *pattern = lp_gguf_find(r->gguf, key);
    if (pattern && pattern->type != LP_GGUF_ARRAY) {
        LP_TRY(read_u32(r, "attention.sliding_window_pattern", true, 1, MAX_LAYERS, &period));
        pattern = NULL;
    }
    if (pattern) LP_TRY(lp_gguf_get_array(r->gguf, key, LP_GGUF_BOOL, &pattern, r->err));
    if (pattern && pattern->count != m->n_layer)
        return lp_fail(r->err, LP_ERR_FORMAT, "key %s has %llu values for %lu layers", buffer,
                       (unsigned long long)pattern->count, (unsigned long)m->n_layer);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        bool local = pattern ? lp_gguf_array_int(pattern, i) != 0 : i % period < period - 1;
        if (!local || window == 0) continue;
        m->layers[i].window = window;
        if (m->n_rope == 2) m->layers[i].rope = LP_ROPE_LOCAL;
    }
    return LP_OK;
}

static lp_code read_attention(const reader *r, lp_model *m) {
    for (uint32_t i = 0; i < m->n_layer; i++) {
        lp_layer *layer = &m->layers[i];
        LP_TRY(
            read_layer_u32(r, "feed_forward_length", false, i, m->n_layer, MAX_FF, &layer->n_ff));
        LP_TRY(read_layer_u32(r, "attention.head_count", false, i, m->n_layer, MAX_HEADS,
                              &layer->n_head));
        layer->n_head_kv = layer->n_head;
        LP_TRY(read_layer_u32(r, "attention.head_count_kv", true, i, m->n_layer, MAX_HEADS,
                              &layer->n_head_kv));
        if (layer->n_head % layer->n_head_kv)
            return lp_fail(r->err, LP_ERR_FORMAT,
                           "layer %lu has %lu heads for %lu key and value heads: no whole multiple",
                           (unsigned long)i, (unsigned long)layer->n_head,
                           (unsigned long)layer->n_head_kv);
    }
    uint32_t n_head = m->layers[0].n_head;
    bool given = has_key(r, "attention.key_length");
    if (!given && m->n_embd % n_head)
        return lp_fail(r->err, LP_ERR_FORMAT,
                       "embedding length %lu is no multiple of %lu heads and key "
                       "%s.attention.key_length is missing",
                       (unsigned long)m->n_embd, (unsigned long)n_head, r->prefix);
    m->key_len = given ? 0 : m->n_embd / n_head;
    LP_TRY(read_u32(r, "attention.key_length", true, 1, MAX_HEAD_LEN, &m->key_len));
    m->value_len = given ? m->key_len : m->n_embd / n_head;
    LP_TRY(read_u32(r, "attention.value_length", true, 1, MAX_HEAD_LEN, &m->value_len));
    if (m->key_len < 1 || m->key_len > MAX_HEAD_LEN)
        return lp_fail(r->err, LP_ERR_FORMAT, "heads have %lu elements, expected 1 to %d",
                       (unsigned long)m->key_len, MAX_HEAD_LEN);

    m->attn_scale = 1.0f / sqrtf((float)m->key_len);
    if (m->arch->scale_by_width == m->n_layer)
        m->attn_scale = 1.0f / sqrtf((float)m->n_embd / (float)n_head);
    LP_TRY(read_f32(r, "attention.scale", 0, 1e6f, &m->attn_scale));
    if (m->attn_scale <= 0) m->attn_scale = 1.0f / sqrtf((float)m->key_len);
    if (m->arch->softcaps) {
        m->attn_softcap = m->arch->attn_softcap;
        m->final_softcap = m->arch->final_softcap;
        LP_TRY(read_f32(r, "attn_logit_softcapping", 0, 1e6f, &m->attn_softcap));
        LP_TRY(read_f32(r, "final_logit_softcapping", 0, 1e6f, &m->final_softcap));
    }
    return LP_OK;
}

static lp_code read_hyperparameters(const reader *r, lp_model *m) {
    uint32_t experts = 0;
    LP_TRY(read_u32(r, "expert_count", true, 0, UINT32_MAX, &experts));
    if (experts)
        return lp_fail(r->err, LP_ERR_UNSUPPORTED,
                       "architecture '%s' with %lu experts is not supported", r->prefix,
                       (unsigned long)experts);
    LP_TRY(read_u32(r, "block_count", false, 1, MAX_LAYERS, &m->n_layer));
    LP_TRY(read_u32(r, "embedding_length", false, 1, MAX_EMBD, &m->n_embd));
    LP_TRY(read_u32(r, "context_length", false, 1, INT32_MAX, &m->n_ctx_train));
    m->norm_eps = 0;
    LP_TRY(read_f32(r, "attention.layer_norm_rms_epsilon", 0, 1, &m->norm_eps));
    if (!(m->norm_eps > 0))
        return lp_fail(r->err, LP_ERR_FORMAT,
                       "key %s.attention.layer_norm_rms_epsilon is missing or not above 0",
                       r->prefix);
    m->embedding_scale = m->arch->scale_embedding ? sqrtf((float)m->n_embd) : 1.0f;

    m->layers = lp_alloc(m->n_layer, sizeof *m->layers);
    if (!m->layers)
        return lp_fail(r->err, LP_ERR_MEMORY, "no memory for %lu layers",
                       (unsigned long)m->n_layer);
    LP_TRY(read_attention(r, m));
    m->n_rot = m->key_len;
    LP_TRY(read_rope(r, m));
    return read_windows(r, m);
}

/* The tensor `name` with the given shape, as a view. n_out 0: a vector of n_in F32 values. */
static lp_code take(const reader *r, const char *name, bool optional, size_t n_in, size_t n_out,
                    lp_weight *out) {
    const lp_tensor *t = lp_gguf_find_tensor(r->gguf, lp_str_from(name));
    if (!t) {
        if (optional) return LP_OK;
        return lp_fail(r->err, LP_ERR_FORMAT, "tensor %s is missing", name);
    }
    const lp_type_info *type = lp_type_get(t->type);
    if (!type || !type->can_compute)
        return lp_fail(r->err, LP_ERR_UNSUPPORTED, "tensor %s has type %s, which is not supported",
                       name, type && type->name ? type->name : "unknown");
    bool vector = n_out == 0;
    if (t->dims[0] != n_in || t->dims[1] != (vector ? 1 : n_out) || t->dims[2] != 1 ||
        t->dims[3] != 1)
        return lp_fail(r->err, LP_ERR_FORMAT,
                       "tensor %s has shape {%llu, %llu, %llu, %llu}, expected {%zu, %zu}", name,
                       (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                       (unsigned long long)t->dims[2], (unsigned long long)t->dims[3], n_in,
                       vector ? (size_t)1 : n_out);
    if (vector && t->type != LP_TYPE_F32)
        return lp_fail(r->err, LP_ERR_UNSUPPORTED, "tensor %s has type %s, expected F32", name,
                       type->name);
    if (vector && (uintptr_t)t->data % sizeof(float))
        return lp_fail(r->err, LP_ERR_FORMAT, "tensor %s does not lie on a border of 4 bytes",
                       name);
    *out = (lp_weight){.data = t->data,
                       .type = t->type,
                       .row_bytes = t->row_bytes,
                       .n_in = n_in,
                       .n_out = vector ? 1 : n_out};
    return LP_OK;
}

static size_t extent(const lp_model *m, const lp_layer *layer, lp_extent e) {
    switch (e) {
    case LP_EXTENT_EMBD:
        return m->n_embd;
    case LP_EXTENT_Q:
        return (size_t)layer->n_head * m->key_len;
    case LP_EXTENT_K:
        return (size_t)layer->n_head_kv * m->key_len;
    case LP_EXTENT_V:
        return (size_t)layer->n_head_kv * m->value_len;
    case LP_EXTENT_O:
        return (size_t)layer->n_head * m->value_len;
    case LP_EXTENT_FF:
        return layer->n_ff;
    case LP_EXTENT_HEAD:
        return m->key_len;
    case LP_EXTENT_NONE:
        break;
    }
    return 0;
}

static lp_code take_layer(const reader *r, lp_model *m, uint32_t index) {
    lp_layer *layer = &m->layers[index];
    for (lp_role role = 0; role < LP_ROLE_COUNT; role++) {
        bool required = (m->arch->required >> role) & 1u;
        if (!required && !((m->arch->optional >> role) & 1u)) continue;
        const lp_role_info *info = lp_arch_role(role);
        char name[96];
        snprintf(name, sizeof name, "blk.%lu.%s", (unsigned long)index, info->suffix);
        LP_TRY(take(r, name, !required, extent(m, layer, info->in), extent(m, layer, info->out),
                    &layer->w[role]));
    }
    return LP_OK;
}

static lp_code take_tensors(const reader *r, lp_model *m) {
    const lp_tensor *embd = lp_gguf_find_tensor(r->gguf, lp_str_from("token_embd.weight"));
    if (!embd) return lp_fail(r->err, LP_ERR_FORMAT, "tensor token_embd.weight is missing");
    if (embd->dims[1] < 1 || embd->dims[1] > MAX_VOCAB)
        return lp_fail(r->err, LP_ERR_FORMAT,
                       "tensor token_embd.weight has %llu rows, expected 1 to %d",
                       (unsigned long long)embd->dims[1], MAX_VOCAB);
    m->n_vocab = (uint32_t)embd->dims[1];
    LP_TRY(take(r, "token_embd.weight", false, m->n_embd, m->n_vocab, &m->token_embd));
    LP_TRY(take(r, "output_norm.weight", false, m->n_embd, 0, &m->output_norm));
    m->output = m->token_embd;
    LP_TRY(take(r, "output.weight", true, m->n_embd, m->n_vocab, &m->output));
    lp_weight divisors = {0};
    LP_TRY(take(r, "rope_freqs.weight", true, m->n_rot / 2, 0, &divisors));
    m->rope[LP_ROPE_GLOBAL].divisors = divisors.data;
    for (uint32_t i = 0; i < m->n_layer; i++) LP_TRY(take_layer(r, m, i));
    return LP_OK;
}

static void count(lp_model *m, const lp_gguf *gguf) {
    for (size_t i = 0; i < lp_gguf_n_tensors(gguf); i++) {
        const lp_tensor *t = lp_gguf_tensor_at(gguf, i);
        m->n_params += t->dims[0] * (uint64_t)t->n_rows;
        m->weight_bytes += t->bytes;
    }
}

lp_code lp_model_open(lp_model **out, const lp_gguf *gguf, lp_error *err) {
    *out = NULL;
    const lp_arch *arch = NULL;
    LP_TRY(find_arch(gguf, &arch, err));
    lp_model *m = lp_alloc(1, sizeof *m);
    if (!m) return lp_fail(err, LP_ERR_MEMORY, "no memory for a model");
    m->arch = arch;
    reader r = {gguf, arch->name, err};
    lp_code code = read_hyperparameters(&r, m);
    if (code == LP_OK) code = take_tensors(&r, m);
    if (code != LP_OK) {
        lp_model_close(m);
        return code;
    }
    count(m, gguf);
    *out = m;
    return LP_OK;
}

void lp_model_close(lp_model *model) {
    if (!model) return;
    lp_free(model->layers);
    lp_free(model);
}

lp_model_info lp_model_describe(const lp_model *model) {
    lp_model_info info = {.arch = model->arch->name,
                          .n_layer = model->n_layer,
                          .n_embd = model->n_embd,
                          .n_head = model->layers[0].n_head,
                          .n_vocab = model->n_vocab,
                          .n_ctx_train = model->n_ctx_train,
                          .n_params = model->n_params,
                          .weight_bytes = model->weight_bytes};
    for (uint32_t i = 0; i < model->n_layer; i++)
        info.kv_bytes_per_token +=
            (size_t)model->layers[i].n_head_kv * (model->key_len + model->value_len) * 2;
    return info;
}
