/* answer.h - one answer in the terminal: runs a job to its end while text streams out.
 *
 * Ctrl-C (lp_answer_interrupt, async-signal-safe) cancels the running answer.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_ANSWER_H
#define LP_CLI_ANSWER_H

#include "cli/app.h"

typedef struct lp_answer {
    lp_finish finish;
    lp_job_stats stats;
    lp_buf text;     /* the answer without thinking; owned, lp_buf_free */
    lp_buf thinking; /* owned */
} lp_answer;

typedef struct lp_answer_params {
    const int32_t *ids;
    size_t n_ids;
    bool thinking_open; /* the prompt itself ends inside a thinking block */
    bool split_thinking;
    /* Called with parts of the answer, or of the thinking; false = nobody reads any more. */
    bool (*on_text)(void *user, bool is_thinking, lp_str text);
    void *user;
} lp_answer_params;

lp_code lp_answer_run(lp_app *app, const lp_answer_params *params, lp_answer *answer,
                      lp_error *err) LP_MUST_USE;
void lp_answer_free(lp_answer *answer);
void lp_answer_interrupt(void);
bool lp_answer_running(void);
/* The prompt of a conversation: ids, and whether it ends inside a thinking block. */
lp_code lp_answer_prompt(const lp_app *app, const lp_message *messages, size_t n_messages,
                         lp_ids *ids, bool *thinking_open, lp_error *err) LP_MUST_USE;
/* Why an answer ended before the model was done, for the user; NULL when there is nothing to say.
 */
const char *lp_answer_remark(const lp_app *app, const lp_answer *answer);

#endif
