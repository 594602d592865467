/* terminal_windows.c - the Windows console as a terminal that speaks UTF-8 and escape sequences.
 *
 * Output: virtual terminal processing is switched on, text goes out as UTF-16 by WriteConsoleW, so
 * that no code page can garble it. Input: console records are read one by one; key presses give
 * their character, keys without one the escape sequence a terminal would send; a change of size
 * ends the wait like SIGWINCH does. Pipes and files are read and written as bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/terminal.h"

#include <fcntl.h>
#include <io.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "platform/process.h"
#include "platform/wide_windows.h"

#ifndef ENABLE_VIRTUAL_TERMINAL_PROCESSING
#define ENABLE_VIRTUAL_TERMINAL_PROCESSING 0x0004
#endif

static HANDLE handle_of(int fd) {
    static const DWORD names[] = {STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE};
    if (fd < 0 || fd > 2) return NULL;
    HANDLE handle = GetStdHandle(names[fd]);
    return handle == INVALID_HANDLE_VALUE ? NULL : handle;
}

bool lp_terminal_is(int fd) {
    DWORD mode;
    HANDLE handle = handle_of(fd);
    return handle && GetConsoleMode(handle, &mode) != 0;
}

bool lp_stdin_is_piped(void) {
    HANDLE handle = handle_of(0);
    DWORD type = handle ? GetFileType(handle) : FILE_TYPE_UNKNOWN;
    return type == FILE_TYPE_PIPE || type == FILE_TYPE_DISK;
}

static bool has_sequences(int fd) {
    DWORD mode;
    HANDLE handle = handle_of(fd);
    return handle && GetConsoleMode(handle, &mode) &&
           (mode & ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0;
}

bool lp_terminal_colors(int fd) {
    const char *off = getenv("NO_COLOR"); /* no-color.org: set and not empty */
    const char *term = getenv("TERM");
    if (off && *off) return false;
    if (term && strcmp(term, "dumb") == 0) return false;
    return has_sequences(fd);
}

static DWORD output_before[3], input_before;
static UINT code_page_before;
static bool output_changed[3], prepared;
static volatile LONG raw_now;

static void restore_output(void) {
    for (int fd = 1; fd <= 2; fd++) {
        if (output_changed[fd]) SetConsoleMode(handle_of(fd), output_before[fd]);
    }
    if (code_page_before) SetConsoleOutputCP(code_page_before);
}

void lp_terminal_prepare(void) {
    if (prepared) return;
    prepared = true;
    /* Bytes stay bytes: no "\r\n" for "\n", no Ctrl-Z as end of file. */
    for (int fd = 0; fd <= 2; fd++) (void)_setmode(fd, _O_BINARY);
    for (int fd = 1; fd <= 2; fd++) {
        HANDLE handle = handle_of(fd);
        if (!handle || !GetConsoleMode(handle, &output_before[fd])) continue;
        output_changed[fd] = SetConsoleMode(handle, output_before[fd] | ENABLE_PROCESSED_OUTPUT |
                                                        ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0;
        if (!code_page_before) code_page_before = GetConsoleOutputCP();
    }
    if (code_page_before) SetConsoleOutputCP(CP_UTF8);
    atexit(restore_output);
}

void lp_terminal_title(const char *title) {
    if (!lp_process_owns_console()) return;
    wchar_t *wide = lp_wide_from(title);
    if (wide) SetConsoleTitleW(wide);
    lp_free(wide);
}

static void window(int *columns, int *rows) {
    *columns = 80;
    *rows = 24;
    for (int fd = 1; fd <= 2; fd++) {
        CONSOLE_SCREEN_BUFFER_INFO info;
        HANDLE handle = handle_of(fd);
        if (!handle || !GetConsoleScreenBufferInfo(handle, &info)) continue;
        int wide = info.srWindow.Right - info.srWindow.Left + 1;
        int high = info.srWindow.Bottom - info.srWindow.Top + 1;
        if (wide <= 0 || high <= 0) continue;
        *columns = wide;
        *rows = high;
        return;
    }
}

int lp_terminal_columns(void) {
    int columns, rows;
    window(&columns, &rows);
    return columns;
}

int lp_terminal_rows(void) {
    int columns, rows;
    window(&columns, &rows);
    return rows;
}

void lp_terminal_restore(void) {
    if (InterlockedExchange(&raw_now, 0)) SetConsoleMode(handle_of(0), input_before);
}

bool lp_terminal_raw(bool on) {
    static bool registered;
    if (!on) {
        lp_terminal_restore();
        return true;
    }
    if (raw_now) return true;
    /* Without escape sequences on the other side an editor could not draw its line. */
    if (!lp_terminal_is(0) || !(has_sequences(1) || has_sequences(2))) return false;
    HANDLE handle = handle_of(0);
    if (!GetConsoleMode(handle, &input_before)) return false;
    DWORD mode = input_before & ~(DWORD)(ENABLE_ECHO_INPUT | ENABLE_LINE_INPUT |
                                         ENABLE_PROCESSED_INPUT | ENABLE_MOUSE_INPUT);
    if (!SetConsoleMode(handle, mode | ENABLE_WINDOW_INPUT)) return false;
    if (!registered) {
        registered = true;
        atexit(lp_terminal_restore);
    }
    InterlockedExchange(&raw_now, 1);
    return true;
}

/* What a terminal sends for keys that have no character. */
static const char *sequence_of(WORD key, bool control) {
    switch (key) {
    case VK_UP:
        return "\x1b[A";
    case VK_DOWN:
        return "\x1b[B";
    case VK_RIGHT:
        return control ? "\x1b[1;5C" : "\x1b[C";
    case VK_LEFT:
        return control ? "\x1b[1;5D" : "\x1b[D";
    case VK_HOME:
        return "\x1b[H";
    case VK_END:
        return "\x1b[F";
    case VK_INSERT:
        return "\x1b[2~";
    case VK_DELETE:
        return "\x1b[3~";
    case VK_PRIOR:
        return "\x1b[5~";
    case VK_NEXT:
        return "\x1b[6~";
    default:
        return NULL;
    }
}

/* Bytes typed but not yet asked for: at most one key with its repeat count, cut at 15 times. */
static char pending[128];
static size_t n_pending;
static wchar_t high_half; /* first half of a surrogate pair, which arrives as two records */

static void push(const char *bytes, size_t len) {
    if (len > sizeof pending - n_pending) return;
    memcpy(pending + n_pending, bytes, len);
    n_pending += len;
}

static void push_unit(wchar_t unit) {
    wchar_t pair[2] = {unit, 0};
    int units = 1;
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        high_half = unit;
        return;
    }
    if (unit >= 0xDC00 && unit <= 0xDFFF && high_half) {
        pair[0] = high_half;
        pair[1] = unit;
        units = 2;
    }
    high_half = 0;
    char bytes[8];
    int len = WideCharToMultiByte(CP_UTF8, 0, pair, units, bytes, sizeof bytes, NULL, NULL);
    if (len > 0) push(bytes, (size_t)len);
}

static void push_key(const KEY_EVENT_RECORD *key) {
    wchar_t unit = key->uChar.UnicodeChar;
    /* A character composed with Alt and the number pad arrives when Alt is let go. */
    if (!key->bKeyDown && !(key->wVirtualKeyCode == VK_MENU && unit)) return;
    bool control = (key->dwControlKeyState & (LEFT_CTRL_PRESSED | RIGHT_CTRL_PRESSED)) != 0;
    bool alt = (key->dwControlKeyState & LEFT_ALT_PRESSED) != 0 && !control;
    const char *sequence = unit ? NULL : sequence_of(key->wVirtualKeyCode, control);
    if (!unit && !sequence) return;
    WORD repeat = key->wRepeatCount < 1 ? 1 : key->wRepeatCount;
    for (WORD i = 0; i < repeat && i < 15; i++) {
        if (sequence) {
            push(sequence, strlen(sequence));
        } else if (unit == L'\b') {
            push("\x7f", 1); /* as terminals do for the backspace key */
        } else {
            if (alt && key->bKeyDown) push("\x1b", 1);
            push_unit(unit);
        }
    }
}

static int take(void *data, size_t size) {
    size_t n = n_pending < size ? n_pending : size;
    memcpy(data, pending, n);
    memmove(pending, pending + n, n_pending - n);
    n_pending -= n;
    return (int)n;
}

static DWORD left_until(ULONGLONG end, double seconds) {
    if (seconds < 0) return INFINITE;
    ULONGLONG now = GetTickCount64();
    return now >= end ? 0 : (DWORD)(end - now);
}

static int read_console(HANDLE handle, void *data, size_t size, ULONGLONG end, double seconds) {
    while (n_pending == 0) {
        DWORD ready = WaitForSingleObject(handle, left_until(end, seconds));
        if (ready == WAIT_TIMEOUT) return 0;
        if (ready != WAIT_OBJECT_0) return -1;
        INPUT_RECORD record;
        DWORD n = 0;
        if (!ReadConsoleInputW(handle, &record, 1, &n)) return -1;
        if (n == 0) continue;
        if (record.EventType == WINDOW_BUFFER_SIZE_EVENT) return 0;
        if (record.EventType == KEY_EVENT) push_key(&record.Event.KeyEvent);
    }
    return take(data, size);
}

int lp_terminal_read(void *data, size_t size, double seconds) {
    HANDLE handle = handle_of(0);
    if (!handle) return -1;
    if (size == 0) return 0;
    if (size > 1 << 20) size = 1 << 20;
    if (seconds > 1e6) seconds = 1e6;
    ULONGLONG end = GetTickCount64() + (seconds > 0 ? (ULONGLONG)(seconds * 1000.0 + 0.999) : 0);
    if (raw_now) return read_console(handle, data, size, end, seconds);

    if (GetFileType(handle) == FILE_TYPE_PIPE) {
        /* Anonymous pipes cannot be waited for; a look every 10 ms is what is left. */
        for (;;) {
            DWORD waiting = 0;
            if (!PeekNamedPipe(handle, NULL, 0, NULL, &waiting, NULL)) return -1;
            if (waiting > 0 || seconds < 0) break;
            DWORD left = left_until(end, seconds);
            if (left == 0) return 0;
            Sleep(left < 10 ? left : 10);
        }
    }
    DWORD got = 0;
    if (lp_terminal_is(0)) {
        /* Line mode: the console edits and echoes the line itself. */
        wchar_t line[1024];
        DWORD most = size / 3 < 1024 ? (DWORD)(size / 3) : 1024, units = 0;
        if (most == 0 || !ReadConsoleW(handle, line, most, &units, NULL)) return -1;
        if (units == 0) return GetLastError() == ERROR_OPERATION_ABORTED ? 0 : -1;
        if (line[0] == 0x1A) return -1; /* Ctrl-Z at the start of a line ends the input */
        int len = WideCharToMultiByte(CP_UTF8, 0, line, (int)units, data, (int)size, NULL, NULL);
        return len > 0 ? len : -1;
    }
    if (!ReadFile(handle, data, (DWORD)size, &got, NULL)) return -1;
    return got == 0 ? -1 : (int)got;
}

static bool write_console(HANDLE handle, lp_str text) {
    wchar_t wide[512];
    while (text.len > 0) {
        size_t n = text.len < 512 ? text.len : 512; /* a byte gives at most one unit */
        /* Not inside a character: step back over continuation bytes to its first byte. */
        size_t cut = n;
        if (n < text.len) {
            while (cut > 0 && n - cut < 4 && ((unsigned char)text.data[cut] & 0xC0) == 0x80) cut--;
            if (cut == 0 || n - cut == 4) cut = n;
        }
        int units = MultiByteToWideChar(CP_UTF8, 0, text.data, (int)cut, wide, 512);
        if (units <= 0) return false;
        for (int at = 0; at < units;) {
            DWORD done = 0;
            if (!WriteConsoleW(handle, wide + at, (DWORD)(units - at), &done, NULL) || done == 0) {
                return false;
            }
            at += (int)done;
        }
        text.data += cut;
        text.len -= cut;
    }
    return true;
}

static const char *output_problem;

const char *lp_terminal_output_problem(void) {
    return output_problem;
}

static bool write_failed(int fd) {
    DWORD reason = GetLastError();
    bool reader_left = reason == ERROR_BROKEN_PIPE || reason == ERROR_NO_DATA;
    if (fd == 1 && !reader_left)
        output_problem = reason == ERROR_DISK_FULL ? "the disk is full" : "the write failed";
    return false;
}

bool lp_terminal_write(int fd, lp_str text) {
    HANDLE handle = handle_of(fd);
    if (!handle) return false;
    if (lp_terminal_is(fd)) return write_console(handle, text);
    while (text.len > 0) {
        DWORD part = text.len > 0x10000 ? 0x10000 : (DWORD)text.len, done = 0;
        if (!WriteFile(handle, text.data, part, &done, NULL) || done == 0) return write_failed(fd);
        text.data += done;
        text.len -= done;
    }
    return true;
}
