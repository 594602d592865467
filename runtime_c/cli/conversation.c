/* conversation.c - a growing list of turns.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/conversation.h"

#include <string.h>

#include "base/memory.h"

static void free_turn(lp_turn *turn) {
    lp_buf_free(&turn->content);
    lp_buf_free(&turn->thinking);
}

void lp_conversation_cut(lp_conversation *c, size_t n) {
    while (c->n > n) free_turn(&c->turns[--c->n]);
}

void lp_conversation_free(lp_conversation *c) {
    lp_conversation_cut(c, 0);
    lp_free(c->turns);
    *c = (lp_conversation){0};
}

lp_code lp_conversation_add(lp_conversation *c, const char *role, lp_str content, lp_str thinking,
                            lp_error *err) {
    if (c->n == c->size) {
        size_t size = c->size == 0 ? 16 : c->size * 2;
        lp_turn *grown = lp_realloc(c->turns, size, sizeof *grown);
        if (grown == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the conversation");
        c->turns = grown;
        c->size = size;
    }
    lp_turn turn = {.role = role};
    lp_buf_add_str(&turn.content, content);
    lp_buf_add_str(&turn.thinking, thinking);
    if (turn.content.failed || turn.thinking.failed) {
        free_turn(&turn);
        return lp_fail(err, LP_ERR_MEMORY, "out of memory for the conversation");
    }
    c->turns[c->n++] = turn;
    return LP_OK;
}

lp_code lp_conversation_set_system(lp_conversation *c, lp_str text, lp_error *err) {
    if (c->n > 0 && strcmp(c->turns[0].role, "system") == 0) {
        free_turn(&c->turns[0]);
        c->n--;
        memmove(c->turns, c->turns + 1, c->n * sizeof *c->turns);
    }
    if (text.len == 0) return LP_OK;
    LP_TRY(lp_conversation_add(c, "system", text, lp_str_from(""), err));
    lp_turn system = c->turns[c->n - 1];
    memmove(c->turns + 1, c->turns, (c->n - 1) * sizeof *c->turns);
    c->turns[0] = system;
    return LP_OK;
}

lp_code lp_conversation_messages(const lp_conversation *c, lp_message **messages, lp_error *err) {
    *messages = lp_alloc(c->n, sizeof **messages);
    if (*messages == NULL) return lp_fail(err, LP_ERR_MEMORY, "out of memory for the conversation");
    for (size_t i = 0; i < c->n; i++) {
        (*messages)[i] = (lp_message){.role = lp_str_from(c->turns[i].role),
                                      .content = lp_buf_str(&c->turns[i].content),
                                      .reasoning = lp_buf_str(&c->turns[i].thinking)};
    }
    return LP_OK;
}
