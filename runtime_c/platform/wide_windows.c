/* wide_windows.c - between our UTF-8 and Windows' UTF-16; the system's error texts.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/wide_windows.h"

#include <string.h>

#include "base/memory.h"

wchar_t *lp_wide_from(const char *utf8) {
    size_t bytes = strlen(utf8) + 1;
    if (bytes > INT32_MAX) return NULL;
    int units = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8, (int)bytes, NULL, 0);
    if (units <= 0) return NULL;
    wchar_t *wide = lp_alloc((size_t)units, sizeof *wide);
    if (!wide) return NULL;
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, utf8, (int)bytes, wide, units);
    return wide;
}

/* 260 units less room for a file name of the old 8.3 form, Windows' own rule for directories. */
enum { SHORT_PATH = 248 };

wchar_t *lp_wide_path(const char *utf8) {
    static const wchar_t prefix[] = L"\\\\?\\";
    static const size_t prefix_len = sizeof prefix / sizeof *prefix - 1;
    wchar_t *wide = lp_wide_from(utf8);
    if (!wide) return NULL;
    DWORD units = GetFullPathNameW(wide, 0, NULL, NULL);
    /* Names of devices and of servers ("\\server\share") stay as they are. */
    if (units < SHORT_PATH || (wide[0] == L'\\' && wide[1] == L'\\')) return wide;
    wchar_t *full = lp_alloc(units + prefix_len + 1, sizeof *full);
    if (full) {
        memcpy(full, prefix, prefix_len * sizeof *full);
        if (GetFullPathNameW(wide, units, full + prefix_len, NULL) >= units ||
            (full[prefix_len] == L'\\' && full[prefix_len + 1] == L'\\')) {
            lp_free(full);
            return wide;
        }
    }
    lp_free(wide);
    return full;
}

bool lp_wide_add(lp_buf *out, const wchar_t *text, size_t len) {
    char part[768]; /* a unit gives at most three bytes */
    while (len > 0) {
        size_t n = len < 256 ? len : 256;
        /* Never between the two halves of a pair. */
        if (n < len && text[n - 1] >= 0xD800 && text[n - 1] <= 0xDBFF) n--;
        int bytes = WideCharToMultiByte(CP_UTF8, 0, text, (int)n, part, sizeof part, NULL, NULL);
        if (bytes <= 0) return false;
        lp_buf_add(out, part, (size_t)bytes);
        text += n;
        len -= n;
    }
    return !out->failed;
}

lp_code lp_wide_fail(lp_error *err, const char *subject, unsigned long number) {
    wchar_t text[256];
    char reason[512];
    DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS;
    DWORD len = FormatMessageW(flags, NULL, number, MAKELANGID(LANG_ENGLISH, SUBLANG_ENGLISH_US),
                               text, 255, NULL);
    if (len == 0) len = FormatMessageW(flags, NULL, number, 0, text, 255, NULL);
    while (len > 0 && (text[len - 1] <= L' ' || text[len - 1] == L'.')) len--;
    text[len] = L'\0';
    if (len == 0 ||
        WideCharToMultiByte(CP_UTF8, 0, text, -1, reason, sizeof reason, NULL, NULL) <= 0) {
        return lp_fail(err, LP_ERR_IO, "%s: system error %lu", subject, number);
    }
    return lp_fail(err, LP_ERR_IO, "%s: %s", subject, reason);
}
