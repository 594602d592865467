/* conversation.h - the messages of a terminal chat, owned, in order.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_CONVERSATION_H
#define LP_CLI_CONVERSATION_H

#include "chat/chat.h"

typedef struct lp_turn {
    const char *role; /* static: "system", "user", "assistant" */
    lp_buf content, thinking;
} lp_turn;

typedef struct lp_conversation {
    lp_turn *turns; /* owned */
    size_t n, size;
} lp_conversation;

void lp_conversation_free(lp_conversation *c);
void lp_conversation_cut(lp_conversation *c, size_t n); /* keeps the first n turns */
lp_code lp_conversation_add(lp_conversation *c, const char *role, lp_str content, lp_str thinking,
                            lp_error *err) LP_MUST_USE;
/* The system text comes first or not at all (empty text). */
lp_code lp_conversation_set_system(lp_conversation *c, lp_str text, lp_error *err) LP_MUST_USE;
/* Borrowed views for the template; *messages is lp_free'd by the caller. */
lp_code lp_conversation_messages(const lp_conversation *c, lp_message **messages,
                                 lp_error *err) LP_MUST_USE;

#endif
