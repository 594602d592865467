/* partner.h - the file with the weights of an executable that holds none.
 *
 * It lies beside the executable: in the folder of the file that a link leads to, or else in the
 * link's own. People rename files, so it is looked for under the executable's own name (chat.exe or
 * chat: chat.weights) and under the one recorded when it was built. It is the partner if it has the
 * recorded size and the recorded seal (lp_container_seal), which takes no time; `verify` reads all.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_PARTNER_H
#define LP_CLI_PARTNER_H

#include "model/container.h"
#include "platform/file.h"

typedef struct lp_partner {
    lp_buf path;             /* owned, NUL-terminated; initialize with zeros */
    lp_map map;              /* owned */
    lp_container *container; /* owned; NULL: not open */
} lp_partner;

/* Opens the partner of the executable at `program`, whose manifest names one. LP_ERR_IO: there is
 * none; LP_ERR_FORMAT: what is there is cut off or another's. Close in any case. */
lp_code lp_partner_open(lp_partner *partner, const char *program, const lp_manifest *manifest,
                        lp_error *err) LP_MUST_USE;
void lp_partner_close(lp_partner *partner);

#endif
