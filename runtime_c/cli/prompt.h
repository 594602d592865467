/* prompt.h - asks the person at the terminal for a text: paints what line.h edits.
 *
 * Without a terminal on standard input, lines are read as they come.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_PROMPT_H
#define LP_CLI_PROMPT_H

#include "base/status.h"
#include "base/text.h"

typedef struct lp_asker lp_asker;

lp_asker *lp_asker_new(void);        /* NULL = no memory; reads the history file */
void lp_asker_free(lp_asker *asker); /* writes the history file */
/* Whether it edits keys as they are typed; false: it reads lines as they come. */
bool lp_asker_reads_keys(const lp_asker *asker);
/* False at the end of input. *text is valid until the next call. *interrupted: Ctrl-C on an empty
 * line (the text is then empty). */
bool lp_asker_ask(lp_asker *asker, lp_str *text, bool *interrupted);

#endif
