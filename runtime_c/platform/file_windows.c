/* file_windows.c - files on Windows: mapped, read whole, written atomically; our own path.
 *
 * Files are opened with FILE_SHARE_DELETE, so that a running program's file can be renamed away. A
 * page of a mapping that cannot be read raises EXCEPTION_IN_PAGE_ERROR, which Windows uses for
 * nothing else; a vectored handler turns it into one line and exit 70.
 * SPDX-License-Identifier: Apache-2.0 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include <windows.h>

#include "platform/file.h"

#include <string.h>

#include "base/memory.h"
#include "platform/terminal.h"
#include "platform/wide_windows.h"

static lp_code bad_path(const char *path, lp_error *err) {
    return lp_fail(err, LP_ERR_IO, "%s: not a usable file name", path);
}

static LONG CALLBACK on_exception(EXCEPTION_POINTERS *info) {
    if (info->ExceptionRecord->ExceptionCode != (DWORD)EXCEPTION_IN_PAGE_ERROR) {
        return EXCEPTION_CONTINUE_SEARCH;
    }
    static const char text[] =
        "error: a mapped file can no longer be read: it was changed or removed while in use\r\n";
    DWORD done;
    lp_terminal_restore();
    WriteFile(GetStdHandle(STD_ERROR_HANDLE), text, sizeof text - 1, &done, NULL);
    TerminateProcess(GetCurrentProcess(), 70);
    return EXCEPTION_CONTINUE_SEARCH;
}

void lp_map_guard_install(void) {
    AddVectoredExceptionHandler(1, on_exception);
}

static lp_code open_for_reading(HANDLE *file, const char *path, lp_error *err) {
    wchar_t *wide = lp_wide_path(path);
    if (!wide) return bad_path(path, err);
    DWORD attributes = GetFileAttributesW(wide);
    if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) {
        lp_free(wide);
        return lp_fail(err, LP_ERR_IO, "%s: is a directory", path);
    }
    *file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL,
                        OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    DWORD reason = GetLastError();
    lp_free(wide);
    return *file == INVALID_HANDLE_VALUE ? lp_wide_fail(err, path, reason) : LP_OK;
}

lp_code lp_map_open(lp_map *map, const char *path, lp_error *err) {
    memset(map, 0, sizeof *map);
    HANDLE file;
    LP_TRY(open_for_reading(&file, path, err));
    LARGE_INTEGER size;
    lp_code code = LP_OK;
    if (!GetFileSizeEx(file, &size))
        code = lp_wide_fail(err, path, GetLastError());
    else if (size.QuadPart <= 0)
        code = lp_fail(err, LP_ERR_IO, "%s: is empty", path);
    if (code == LP_OK) {
        HANDLE section = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
        void *data = section ? MapViewOfFile(section, FILE_MAP_READ, 0, 0, 0) : NULL;
        if (!data) code = lp_wide_fail(err, path, GetLastError());
        if (section) CloseHandle(section); /* the view keeps the section alive */
        map->data = data;
        map->size = data ? (size_t)size.QuadPart : 0;
    }
    CloseHandle(file);
    return code;
}

void lp_map_close(lp_map *map) {
    if (map->data) UnmapViewOfFile(map->data);
    memset(map, 0, sizeof *map);
}

void lp_map_will_need(const lp_map *map, size_t offset, size_t size) {
    if (!map->data || offset >= map->size) return;
    if (size > map->size - offset) size = map->size - offset;
    WIN32_MEMORY_RANGE_ENTRY range = {(PVOID)(uintptr_t)(map->data + offset), size};
    PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
}

void lp_map_large_pages(const uint8_t *part, size_t size) {
    (void)part, (void)size; /* files are mapped by 4 KiB here */
}

static lp_code read_all(lp_buf *out, HANDLE file, const char *path, size_t limit, lp_error *err) {
    char part[16384];
    size_t total = 0;
    for (;;) {
        DWORD got = 0;
        if (!ReadFile(file, part, sizeof part, &got, NULL)) {
            DWORD reason = GetLastError();
            /* A pipe whose writer is gone ends this way, not with a read of nothing. */
            if (reason == ERROR_BROKEN_PIPE || reason == ERROR_HANDLE_EOF)
                got = 0;
            else
                return lp_wide_fail(err, path, reason);
        }
        if (got == 0) return lp_buf_check(out, err);
        total += got;
        if (total > limit) {
            return lp_fail(err, LP_ERR_LIMIT, "%s: longer than the limit of %llu bytes", path,
                           (unsigned long long)limit);
        }
        lp_buf_add(out, part, got);
        LP_TRY(lp_buf_check(out, err));
    }
}

lp_code lp_file_read(lp_buf *out, const char *path, size_t limit, lp_error *err) {
    if (strcmp(path, "-") == 0) {
        HANDLE input = GetStdHandle(STD_INPUT_HANDLE);
        if (input == NULL || input == INVALID_HANDLE_VALUE) return LP_OK; /* none: empty */
        return read_all(out, input, "standard input", limit, err);
    }
    HANDLE file;
    LP_TRY(open_for_reading(&file, path, err));
    lp_code code = read_all(out, file, path, limit, err);
    CloseHandle(file);
    return code;
}

static lp_code write_new(const wchar_t *wide, const char *path, lp_str data, lp_error *err) {
    /* The state directory lies in the user's profile, whose access list keeps others out. */
    HANDLE file =
        CreateFileW(wide, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, FILE_ATTRIBUTE_NORMAL, NULL);
    if (file == INVALID_HANDLE_VALUE) return lp_wide_fail(err, path, GetLastError());
    lp_code code = LP_OK;
    while (data.len > 0 && code == LP_OK) {
        DWORD part = data.len > 0x1000000 ? 0x1000000 : (DWORD)data.len, done = 0;
        if (!WriteFile(file, data.data, part, &done, NULL) || done == 0) {
            code = lp_wide_fail(err, path, GetLastError());
        }
        data.data += done;
        data.len -= done;
    }
    if (code == LP_OK && !FlushFileBuffers(file)) code = lp_wide_fail(err, path, GetLastError());
    CloseHandle(file);
    return code;
}

lp_code lp_file_write_private(const char *path, lp_str data, lp_error *err) {
    lp_buf temporary;
    lp_buf_init(&temporary, 0);
    lp_buf_add_format(&temporary, "%s.lp-tmp-%lu", path, GetCurrentProcessId());
    lp_code code = lp_buf_check(&temporary, err);
    if (code == LP_OK) {
        wchar_t *from = lp_wide_path(temporary.data), *to = lp_wide_path(path);
        if (!from || !to) {
            code = bad_path(path, err);
        } else {
            code = write_new(from, path, data, err);
            if (code == LP_OK && !MoveFileExW(from, to, MOVEFILE_REPLACE_EXISTING)) {
                code = lp_wide_fail(err, path, GetLastError());
            }
            if (code != LP_OK) DeleteFileW(from);
        }
        lp_free(from);
        lp_free(to);
    }
    lp_buf_free(&temporary);
    return code;
}

const char *lp_path_name(const char *path) {
    const char *name = path;
    for (const char *c = path; *c; c++) {
        if (*c == '/' || *c == '\\' || (*c == ':' && c == path + 1)) name = c + 1;
    }
    return name;
}

/* A link's target: Windows names it "\\?\C:\..." or "\\?\UNC\server\...". */
static lp_code add_final_path(lp_buf *out, const char *path, lp_error *err) {
    HANDLE file;
    LP_TRY(open_for_reading(&file, path, err));
    lp_code code = LP_OK;
    enum { UNITS = 32768 };
    wchar_t *wide = lp_alloc(UNITS, sizeof *wide);
    DWORD len = wide ? GetFinalPathNameByHandleW(file, wide, UNITS, 0) : 0;
    if (!wide) {
        code = lp_fail(err, LP_ERR_MEMORY, "%s: no memory", path);
    } else if (len == 0 || len >= UNITS) {
        code = lp_wide_fail(err, path, GetLastError());
    } else {
        static const wchar_t local[] = L"\\\\?\\", server[] = L"\\\\?\\UNC\\";
        size_t skip = 0;
        if (wcsncmp(wide, server, 8) == 0) {
            skip = 6; /* the C becomes the first of the server's two backslashes */
            wide[6] = L'\\';
        } else if (wcsncmp(wide, local, 4) == 0) {
            skip = 4;
        }
        if (!lp_wide_add(out, wide + skip, len - skip)) {
            code = lp_fail(err, LP_ERR_MEMORY, "%s: no memory", path);
        }
    }
    lp_free(wide);
    CloseHandle(file);
    return code;
}

lp_code lp_path_beside(lp_buf *out, const char *path, lp_str name, bool real, lp_error *err) {
    if (real) {
        LP_TRY(add_final_path(out, path, err));
        out->len = (size_t)(lp_path_name(out->data) - out->data);
    } else {
        lp_buf_add(out, path, (size_t)(lp_path_name(path) - path));
    }
    lp_buf_add_str(out, name);
    return lp_buf_check(out, err);
}

bool lp_file_exists(const char *path) {
    wchar_t *wide = lp_wide_path(path);
    bool exists = wide && GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES;
    lp_free(wide);
    return exists;
}

lp_code lp_own_path(lp_buf *out, lp_error *err) {
    /* The call cuts the path to the buffer it is given; only a shorter answer is a whole one. */
    for (DWORD units = 512; units <= 65536; units *= 2) {
        wchar_t *wide = lp_alloc(units, sizeof *wide);
        if (!wide) return lp_fail(err, LP_ERR_MEMORY, "no memory for this program's path");
        DWORD len = GetModuleFileNameW(NULL, wide, units);
        DWORD reason = GetLastError();
        bool whole = len > 0 && len < units;
        if (whole && !lp_wide_add(out, wide, len)) {
            lp_free(wide);
            return lp_fail(err, LP_ERR_MEMORY, "no memory for this program's path");
        }
        lp_free(wide);
        if (whole) return LP_OK;
        if (len == 0) return lp_wide_fail(err, "this program's path", reason);
    }
    return lp_fail(err, LP_ERR_IO, "this program's path is too long");
}
