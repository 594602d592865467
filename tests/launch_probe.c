/* launch_probe.c - stands in for a runtime in the tests of the universal file.
 *
 * Standard output: fields "key=value" that end in NUL bytes: umask, self, pid, cwd, what standard
 * input held, then each argument. The argument "exit:N" is the exit status, "wait" waits for a
 * signal. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

int main(int argc, char **argv) {
    static char text[65536];
    if (argc == 2 && strcmp(argv[1], "--lp-probe") == 0) return 0;
    int status = 0, wait = 0;
#ifdef _WIN32
    _setmode(1, _O_BINARY);
#else
    mode_t mask = umask(0);
    printf("umask=%o%c", (unsigned)mask, 0);
#endif
    printf("self=%s%cpid=%ld%c", argv[0], 0, (long)getpid(), 0);
    if (getcwd(text, sizeof text)) printf("cwd=%s%c", text, 0);
    if (!isatty(0)) {
        size_t got = fread(text, 1, sizeof text - 1, stdin);
        text[got] = '\0';
        printf("stdin=%s%c", text, 0);
    }
    for (int i = 1; i < argc; i++) {
        printf("arg=%s%c", argv[i], 0);
        if (strncmp(argv[i], "exit:", 5) == 0) status = (int)strtol(argv[i] + 5, NULL, 10);
        if (strcmp(argv[i], "wait") == 0) wait = 1;
    }
    fflush(stdout);
    while (wait) sleep(60);
    return status;
}
