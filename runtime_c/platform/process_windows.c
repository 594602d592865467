/* process_windows.c - this process among others on Windows: arguments, Ctrl-C, browser,
 * directories. SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/process.h"

#include <shellapi.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "platform/terminal.h"
#include "platform/wide_windows.h"

bool lp_process_ensure_stack(void) {
    return true; /* the linker reserved it */
}

/* The vector lives as long as the process: the options point into it. */
lp_code lp_process_arguments(int *argc, char ***argv, lp_error *err) {
    int n = 0;
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &n);
    if (!wide) return lp_wide_fail(err, "command line", GetLastError());
    char **narrow = lp_alloc((size_t)n + 1, sizeof *narrow);
    lp_code code = narrow ? LP_OK : lp_fail(err, LP_ERR_MEMORY, "no memory for the command line");
    for (int i = 0; i < n && code == LP_OK; i++) {
        lp_buf text;
        lp_buf_init(&text, 0);
        lp_buf_add_text(&text, ""); /* so that an empty argument has memory, too */
        if (!lp_wide_add(&text, wide[i], wcslen(wide[i])) || lp_buf_check(&text, NULL) != LP_OK) {
            lp_buf_free(&text);
            code = lp_fail(err, LP_ERR_MEMORY, "no memory for the command line");
            break;
        }
        if (!text.data) text.data = lp_alloc(1, 1);
        narrow[i] = text.data;
        if (!narrow[i]) code = lp_fail(err, LP_ERR_MEMORY, "no memory for the command line");
    }
    LocalFree(wide);
    if (code == LP_OK) {
        *argc = n;
        *argv = narrow;
    }
    return code;
}

static void (*volatile stop_function)(void *user, bool terminate);
static void *volatile stop_user;

static BOOL WINAPI on_control(DWORD event) {
    if (!stop_function) return FALSE;
    stop_function(stop_user, event != CTRL_C_EVENT);
    /* For the closing of a console, log-off and shutdown the process ends when this returns; the
     * system allows about five seconds, enough for main to come to its own end. */
    if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT) Sleep(4500);
    return TRUE;
}

void lp_signal_install(void (*stop)(void *user, bool terminate), void *user) {
    bool first = !stop_function;
    stop_user = user;
    stop_function = stop;
    if (first) SetConsoleCtrlHandler(on_control, TRUE);
}

void lp_browser_prepare(void) {}

/* The shell is loaded when it is needed: it costs 20 ms of start-up that a one-shot need not pay.
 */
bool lp_browser_open(const char *url) {
    typedef HINSTANCE(WINAPI * execute)(HWND, LPCWSTR, LPCWSTR, LPCWSTR, LPCWSTR, INT);
    if (strncmp(url, "http://", 7) != 0) return false;
    HMODULE shell = LoadLibraryExW(L"shell32.dll", NULL, LOAD_LIBRARY_SEARCH_SYSTEM32);
    if (!shell) return false;
    execute open = (execute)(void (*)(void))GetProcAddress(shell, "ShellExecuteW");
    wchar_t *wide = lp_wide_from(url);
    bool done = false;
    if (open && wide) {
        /* ShellExecute answers with a number above 32 for success. */
        done = (INT_PTR)open(NULL, L"open", wide, NULL, NULL, SW_SHOWNORMAL) > 32;
    }
    lp_free(wide);
    return done;
}

void lp_alert(const char *text) {
    (void)text;
}

bool lp_process_owns_console(void) {
    static int owns = -1; /* a shell that started us may end before us, so only the start counts */
    if (owns < 0) {
        DWORD processes[2];
        bool window = lp_terminal_is(0) && lp_terminal_is(1) && lp_terminal_is(2);
        owns = window && GetConsoleProcessList(processes, 2) == 1;
    }
    return owns != 0;
}

lp_code lp_state_directory(lp_buf *out, lp_error *err) {
    DWORD units = GetEnvironmentVariableW(L"LOCALAPPDATA", NULL, 0);
    if (units < 2) return lp_fail(err, LP_ERR_IO, "no state directory: LOCALAPPDATA is not set");
    wchar_t *base = lp_alloc(units, sizeof *base);
    if (!base) return lp_fail(err, LP_ERR_MEMORY, "no memory for a path");
    lp_buf path;
    lp_buf_init(&path, 0);
    DWORD len = GetEnvironmentVariableW(L"LOCALAPPDATA", base, units);
    bool known = len > 0 && len < units && lp_wide_add(&path, base, len);
    lp_free(base);
    if (known) lp_buf_add_text(&path, "\\llamapack");
    lp_code code = lp_buf_check(&path, err);
    if (code == LP_OK && !known) code = lp_fail(err, LP_ERR_IO, "LOCALAPPDATA cannot be read");
    if (code == LP_OK) {
        wchar_t *wide = lp_wide_path(path.data);
        if (!wide) {
            code = lp_fail(err, LP_ERR_MEMORY, "no memory for a path");
        } else if (!CreateDirectoryW(wide, NULL) && GetLastError() != ERROR_ALREADY_EXISTS) {
            code = lp_wide_fail(err, path.data, GetLastError());
        }
        lp_free(wide);
    }
    if (code == LP_OK) {
        lp_buf_add_str(out, lp_buf_str(&path));
        code = lp_buf_check(out, err);
    }
    lp_buf_free(&path);
    return code;
}

/* No system call of Windows takes file or network access from a running process. */
const char *lp_confine(void) {
    return "none";
}
