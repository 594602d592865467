/* count_plugin.c - a qemu-user TCG plugin: how often each guest instruction was executed.
 *
 *   qemu-aarch64 -plugin libcount.so,out=FILE PROGRAM ...
 *
 * FILE gets a line per translated instruction when the program ends: its function's symbol (or
 * "?"), its address, its four bytes as a number, and its executions. A block that was translated
 * twice has two lines per instruction. One guest thread: the counters are not atomic.
 *
 * Debian's qemu-user brings no qemu-plugin.h; the declarations below are what is used of the plugin
 * interface, version 1 (qemu's documentation, "TCG Plugin API").
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { INLINE_ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*translated)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *counter,
                                              uint64_t value);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *insn);

EXPORT extern int qemu_plugin_version;
int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);

typedef struct block {
    struct block *next;
    uint64_t executions, address;
    char symbol[64];
    size_t length;
    uint32_t code[];
} block;

static block *blocks;
static const char *out_path;

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    (void)id;
    size_t n = qemu_plugin_tb_n_insns(tb);
    block *b = calloc(1, sizeof *b + n * sizeof b->code[0]);
    if (b == NULL || n == 0) return;
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
    snprintf(b->symbol, sizeof b->symbol, "%s", symbol != NULL && symbol[0] ? symbol : "?");
    b->address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    b->length = n;
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t size = qemu_plugin_insn_size(insn);
        memcpy(&b->code[i], qemu_plugin_insn_data(insn), size < 4 ? size : 4);
    }
    b->next = blocks;
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &b->executions, 1);
}

static void ended(plugin_id id, void *data) {
    (void)id, (void)data;
    FILE *out = fopen(out_path, "w");
    if (out == NULL) return;
    for (const block *b = blocks; b != NULL; b = b->next) {
        for (size_t i = 0; i < b->length && b->executions > 0; i++) {
            fprintf(out, "%s %" PRIx64 " %" PRIx32 " %" PRIu64 "\n", b->symbol, b->address + 4 * i,
                    b->code[i], b->executions);
        }
    }
    fclose(out);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) out_path = argv[i] + 4;
    }
    if (out_path == NULL) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
