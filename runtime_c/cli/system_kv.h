/* system_kv.h - the system prompt that the builder evaluated: from the archive to the scheduler.
 *
 * It only saves time. Whatever does not fit (other weights, another --act or --kv-type, damage) is
 * left alone and the prompt evaluated as if nothing had been prepared. `info` says what is wrong
 * with it, or how it was computed.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_SYSTEM_KV_H
#define LP_CLI_SYSTEM_KV_H

#include "cli/app.h"

/* Opens the entry that the manifest names and compares what it belongs to with the weights of
 * another archive (or the same). *found is false, and LP_OK the result, when there is none. */
lp_code lp_system_kv_open(lp_kv_file *file, const lp_container *container,
                          const lp_container *weights, bool *found, lp_error *err) LP_MUST_USE;

/* For the opened engine: app->system_kv, or NULL when it is not there, not wanted
 * (--no-embedded-kv) or does not fit. */
lp_kv_file *lp_app_system_kv(lp_app *app);

#endif
