/* fields_generate.h - what the two completion endpoints have in common.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_SERVE_FIELDS_GENERATE_H
#define LP_SERVE_FIELDS_GENERATE_H

#include "serve/fields.h"
#include "serve/work.h"

/* The request as it was read; nodes and strings are borrowed from its JSON document. */
typedef struct lp_generate_fields {
    bool stream, ignore_eos, return_progress;
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repeat_penalty;
    int64_t top_k, repeat_last_n, seed;
    int64_t max_tokens, max_completion_tokens, n_predict; /* 0 = not given, -1 = no limit */
    lp_str reasoning_format;
    const lp_json_node *messages, *prompt, *stop, *stream_options, *chat_template_kwargs;
} lp_generate_fields;

/* Reads and checks the fields of a JSON object, from the program's own defaults. */
lp_code lp_generate_fields_read(lp_generate_fields *fields, const lp_server_params *params,
                                const lp_json_node *object, lp_error *err) LP_MUST_USE;
/* Fills everything of work->gen but the prompt. */
lp_code lp_generate_fields_apply(const lp_generate_fields *fields, lp_work *work,
                                 lp_error *err) LP_MUST_USE;

#endif
