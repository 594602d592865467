/* tokenize.c - `tokenize TEXT`: the ids of a text and the piece each stands for.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "cli/commands.h"
#include "cli/print.h"

static void add_token(const lp_app *app, int32_t id, bool first, lp_buf *out) {
    lp_buf piece;
    lp_buf_init(&piece, 0);
    if (app->options.json) {
        lp_vocab_add_piece(app->vocab, id, true, &piece);
        lp_buf_add_format(out, "%s{\"id\": %d, \"piece\": ", first ? "" : ", ", (int)id);
        lp_json_add_string(out, lp_buf_str(&piece));
        lp_buf_add_char(out, '}');
    } else if (app->options.ids) {
        lp_buf_add_format(out, "%s%d", first ? "" : " ", (int)id);
    } else {
        lp_vocab_add_piece(app->vocab, id, true, &piece);
        lp_buf_add_format(out, "%7d  ", (int)id);
        lp_json_add_string(out, lp_buf_str(&piece));
        lp_buf_add_char(out, '\n');
    }
    lp_buf_free(&piece);
}

lp_code lp_command_tokenize(lp_app *app, lp_error *err) {
    LP_TRY(lp_app_open_vocab(app, err));
    const lp_options *o = &app->options;
    lp_str text = lp_buf_str(&app->prompt);
    lp_span whole = {0, text.len};
    lp_ids ids = {0};
    lp_buf out;
    lp_buf_init(&out, 0);
    lp_code code =
        lp_tokenize(app->vocab, text, &whole, o->parse_special ? 1 : 0, o->add_special, &ids, err);
    if (code == LP_OK) {
        if (o->json) lp_buf_add_char(&out, '[');
        for (size_t i = 0; i < ids.len; i++) add_token(app, ids.data[i], i == 0, &out);
        if (o->json) lp_buf_add_text(&out, "]\n");
        if (o->ids) lp_buf_add_char(&out, '\n');
        code = lp_buf_check(&out, err);
    }
    if (code == LP_OK) (void)lp_print_text(lp_buf_str(&out));
    lp_buf_free(&out);
    lp_ids_free(&ids);
    return code;
}
