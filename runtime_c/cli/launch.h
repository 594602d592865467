/* launch.h - what the script of a universal file tells the runtime that it unpacked and starts.
 *
 *   RUNTIME --lp-probe                                     exit 0 and nothing else: it can run here
 *   RUNTIME [--lp-unlink OWN] --lp-archive FILE ARG ...    the payload is that of FILE
 *
 * These words are no options: they count only as the first of the command line, only in a runtime
 * that holds no payload of its own (elsewhere they are unknown options), and stand in no help. They
 * give nobody a right: who can start a bare runtime with FILE can as well start FILE.
 * The script: templates/launch/universal.sh. SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_LAUNCH_H
#define LP_CLI_LAUNCH_H

#include "base/status.h"
#include "base/text.h"

/* To be asked before anything is done. */
bool lp_launch_is_probe(int argc, char *const *argv);

/* Takes the words off the command line and the file that it was told to remove off the disk; puts
 * the resolved path of FILE into *archive, which stays empty when there are no such words. */
lp_code lp_launch_take(lp_buf *archive, int *argc, char ***argv, lp_error *err) LP_MUST_USE;

#endif
