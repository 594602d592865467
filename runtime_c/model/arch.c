/* arch.c - the rows of the architecture table.
 *
 * Facts: the public conversion scripts and config.json files of each family; names of tensors and
 * keys as the GGUF specification of the ggml project lists them. The pairing of rotated elements
 * belongs to the family, not to the file: converters for Llama permute the rows of q and k so that
 * neighbours turn together, all others keep halves.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/arch.h"

#define BIT(role) (1u << (role))

/* Norm, attention, norm, gated feed-forward: what every row has. */
#define PLAIN                                                                                      \
    (BIT(LP_ROLE_ATTN_NORM) | BIT(LP_ROLE_Q) | BIT(LP_ROLE_K) | BIT(LP_ROLE_V) | BIT(LP_ROLE_O) |  \
     BIT(LP_ROLE_FFN_NORM) | BIT(LP_ROLE_GATE) | BIT(LP_ROLE_UP) | BIT(LP_ROLE_DOWN))
#define QK_NORMS   (BIT(LP_ROLE_Q_NORM) | BIT(LP_ROLE_K_NORM))
#define POST_NORMS (BIT(LP_ROLE_POST_ATTN_NORM) | BIT(LP_ROLE_POST_FFN_NORM))
#define QKV_BIASES (BIT(LP_ROLE_Q_BIAS) | BIT(LP_ROLE_K_BIAS) | BIT(LP_ROLE_V_BIAS))
#define BIASES                                                                                     \
    (QKV_BIASES | BIT(LP_ROLE_O_BIAS) | BIT(LP_ROLE_GATE_BIAS) | BIT(LP_ROLE_UP_BIAS) |            \
     BIT(LP_ROLE_DOWN_BIAS))

static const lp_role_info roles[LP_ROLE_COUNT] = {
    [LP_ROLE_ATTN_NORM] = {"attn_norm.weight", LP_EXTENT_EMBD, LP_EXTENT_NONE},
    [LP_ROLE_Q] = {"attn_q.weight", LP_EXTENT_EMBD, LP_EXTENT_Q},
    [LP_ROLE_K] = {"attn_k.weight", LP_EXTENT_EMBD, LP_EXTENT_K},
    [LP_ROLE_V] = {"attn_v.weight", LP_EXTENT_EMBD, LP_EXTENT_V},
    [LP_ROLE_O] = {"attn_output.weight", LP_EXTENT_O, LP_EXTENT_EMBD},
    [LP_ROLE_FFN_NORM] = {"ffn_norm.weight", LP_EXTENT_EMBD, LP_EXTENT_NONE},
    [LP_ROLE_GATE] = {"ffn_gate.weight", LP_EXTENT_EMBD, LP_EXTENT_FF},
    [LP_ROLE_UP] = {"ffn_up.weight", LP_EXTENT_EMBD, LP_EXTENT_FF},
    [LP_ROLE_DOWN] = {"ffn_down.weight", LP_EXTENT_FF, LP_EXTENT_EMBD},
    [LP_ROLE_Q_NORM] = {"attn_q_norm.weight", LP_EXTENT_HEAD, LP_EXTENT_NONE},
    [LP_ROLE_K_NORM] = {"attn_k_norm.weight", LP_EXTENT_HEAD, LP_EXTENT_NONE},
    [LP_ROLE_POST_ATTN_NORM] = {"post_attention_norm.weight", LP_EXTENT_EMBD, LP_EXTENT_NONE},
    [LP_ROLE_POST_FFN_NORM] = {"post_ffw_norm.weight", LP_EXTENT_EMBD, LP_EXTENT_NONE},
    [LP_ROLE_Q_BIAS] = {"attn_q.bias", LP_EXTENT_Q, LP_EXTENT_NONE},
    [LP_ROLE_K_BIAS] = {"attn_k.bias", LP_EXTENT_K, LP_EXTENT_NONE},
    [LP_ROLE_V_BIAS] = {"attn_v.bias", LP_EXTENT_V, LP_EXTENT_NONE},
    [LP_ROLE_O_BIAS] = {"attn_output.bias", LP_EXTENT_EMBD, LP_EXTENT_NONE},
    [LP_ROLE_GATE_BIAS] = {"ffn_gate.bias", LP_EXTENT_FF, LP_EXTENT_NONE},
    [LP_ROLE_UP_BIAS] = {"ffn_up.bias", LP_EXTENT_FF, LP_EXTENT_NONE},
    [LP_ROLE_DOWN_BIAS] = {"ffn_down.bias", LP_EXTENT_EMBD, LP_EXTENT_NONE},
};

static const lp_arch archs[] = {
    {.name = "llama",
     .models = "Llama 1 to 3.3, Code Llama, TinyLlama, Mistral, SmolLM2",
     .required = PLAIN,
     .optional = BIASES},
    {.name = "qwen2",
     .models = "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
     .required = PLAIN | QKV_BIASES,
     .optional = BIASES,
     .rope_neox = true},
    {.name = "qwen3",
     .models = "Qwen3",
     .required = PLAIN | QK_NORMS,
     .optional = BIASES,
     .rope_neox = true},
    {.name = "gemma",
     .models = "Gemma 1",
     .required = PLAIN,
     .gate = LP_GATE_GELU_TANH,
     .rope_neox = true,
     .scale_embedding = true},
    {.name = "gemma2",
     .models = "Gemma 2",
     .required = PLAIN | POST_NORMS,
     .gate = LP_GATE_GELU_TANH,
     .rope_neox = true,
     .scale_embedding = true,
     .softcaps = true,
     .attn_softcap = 50.0f,
     .final_softcap = 30.0f,
     .window_period = 2,
     .window = 4096,
     .scale_by_width = 46},
    {.name = "gemma3",
     .models = "Gemma 3",
     .required = PLAIN | QK_NORMS | POST_NORMS,
     .gate = LP_GATE_GELU_TANH,
     .rope_neox = true,
     .scale_embedding = true,
     .softcaps = true, /* none in the released files; the key counts where a file has it */
     .window_period = 6,
     .window = 0,
     .rope_base_local = 10000.0f,
     .scale_by_width = 62},
};

size_t lp_arch_count(void) {
    return sizeof archs / sizeof archs[0];
}

const lp_arch *lp_arch_at(size_t index) {
    return index < lp_arch_count() ? &archs[index] : NULL;
}

const lp_arch *lp_arch_find(lp_str name) {
    for (size_t i = 0; i < lp_arch_count(); i++) {
        if (lp_str_is(name, archs[i].name)) return &archs[i];
    }
    return NULL;
}

const lp_role_info *lp_arch_role(lp_role role) {
    return &roles[role];
}
