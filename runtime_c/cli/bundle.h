/* bundle.h - where the payload lies when the program is part of a macOS application (NAME.app).
 *
 * A Mach-O file that `codesign` is to sign must end with its signature, so an application carries
 * its archive in a file of its own:
 *     NAME.app/Contents/MacOS/NAME        the program, without an archive
 *     NAME.app/Contents/Resources/model   the archive
 * The program looks in its own file first.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_CLI_BUNDLE_H
#define LP_CLI_BUNDLE_H

#include "base/status.h"
#include "base/text.h"

/* Appends the path of the archive that belongs to a program of this path. LP_ERR_IO: the program is
 * not where an application has it. Whether there is such a file is not looked at. */
lp_code lp_bundle_payload(lp_buf *out, lp_str program, lp_error *err) LP_MUST_USE;

#endif
