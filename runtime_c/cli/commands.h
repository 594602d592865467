/* commands.h - one function per command; each returns the program's exit status by way of lp_code.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_COMMANDS_H
#define LP_CLI_COMMANDS_H

#include "cli/app.h"

lp_code lp_command_oneshot(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_chat(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_serve(lp_app *app, lp_error *err) LP_MUST_USE; /* with or without the browser */
lp_code lp_command_bench(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_perplexity(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_tokenize(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_info(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_verify(lp_app *app, lp_error *err) LP_MUST_USE;
lp_code lp_command_licenses(lp_app *app, lp_error *err) LP_MUST_USE;

#endif
