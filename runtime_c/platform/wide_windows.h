/* wide_windows.h - between our UTF-8 and Windows' UTF-16. Private to the *_windows.c bodies.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_PLATFORM_WIDE_WINDOWS_H
#define LP_PLATFORM_WIDE_WINDOWS_H

#include "base/status.h"
#include "base/text.h"

/* NUL-terminated UTF-16 of a UTF-8 text; NULL = no memory or not UTF-8. The caller frees it. */
wchar_t *lp_wide_from(const char *utf8) LP_MUST_USE;
/* The same for a path: long ones become absolute with the prefix that lifts the 260 limit. */
wchar_t *lp_wide_path(const char *utf8) LP_MUST_USE;
/* Appends UTF-16 (len units, lone surrogates becoming U+FFFD) as UTF-8; false = no memory. */
bool lp_wide_add(lp_buf *out, const wchar_t *text, size_t len) LP_MUST_USE;

/* Fails with "SUBJECT: REASON", the reason being the system's English text for its error number
 * (GetLastError or WSAGetLastError). */
lp_code lp_wide_fail(lp_error *err, const char *subject, unsigned long number);

#endif
