/* fuzz_model.c - a hostile GGUF: open it, and if it opens, use it as a chat would.
 *
 * libFuzzer harness: gguf, vocabulary, template, model, engine, then a few tokens, since loading
 * alone proves little. Seeds: the small models of tests/tiny_model.py (see tests/test_fuzz.py).
 * SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "chat/chat.h"
#include "engine/scheduler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Memory a mutated hyperparameter may ask for without being an attack on the fuzzer itself. */
enum { CTX = 32, MAX_KV_PER_TOKEN = 1 << 20, MAX_VOCAB = 1 << 16, ANSWER = 4, GUESSES = 3 };

static bool ignore_text(void *user, lp_job *job, lp_str text) {
    (void)user;
    (void)job;
    return text.len > 0;
}

static void ignore_finish(void *user, lp_job *job, lp_finish finish, const lp_error *error) {
    (void)user;
    (void)job;
    (void)finish;
    (void)error;
}

static void answer(lp_engine *engine, const lp_vocab *vocab, const lp_ids *ids) {
    lp_scheduler *scheduler = NULL;
    lp_job *job = NULL;
    lp_job_params params = {.prompt = ids->data,
                            .n_prompt = ids->len,
                            .max_tokens = ANSWER,
                            .on_text = ignore_text,
                            .on_finish = ignore_finish};
    lp_sampling_default(&params.sampling);
    lp_draft_params draft = {.most = GUESSES, .always = true};
    if (lp_scheduler_open(&scheduler, engine, vocab, &draft, NULL) != LP_OK) return;
    if (lp_scheduler_submit(scheduler, &params, &job, NULL) == LP_OK) {
        bool busy = true;
        while (busy && lp_scheduler_step(scheduler, &busy, NULL) == LP_OK) continue;
        lp_job_release(job);
    }
    lp_scheduler_close(scheduler);
}

static void chat(const lp_gguf *gguf, const lp_vocab *vocab, lp_ids *ids) {
    lp_template *tmpl = NULL;
    lp_message message = {.role = lp_str_from("user"),
                          .content = lp_str_from("Hi <|im_end|> \xE2\x82\xAC 12")};
    lp_render_params params = {.messages = &message,
                               .n_messages = 1,
                               .add_generation_prompt = true,
                               .bos_token = lp_str_from("<s>"),
                               .eos_token = lp_str_from("</s>"),
                               .enable_thinking = -1};
    if (lp_template_for_model(&tmpl, gguf, vocab, NULL) != LP_OK) return;
    (void)!lp_chat_prompt_ids(tmpl, vocab, &params, ids, NULL);
    lp_template_close(tmpl);
}

static void run(const lp_gguf *gguf, const lp_vocab *vocab) {
    lp_model *model = NULL;
    lp_engine *engine = NULL;
    if (lp_model_open(&model, gguf, NULL) != LP_OK) return;
    lp_model_info info = lp_model_describe(model);
    lp_engine_params params = {
        .n_ctx = CTX, .n_seq = 1, .n_batch = CTX, .n_logit_rows = 1 + GUESSES, .n_threads = 1};
    bool small = info.kv_bytes_per_token <= MAX_KV_PER_TOKEN && info.n_vocab <= MAX_VOCAB;
    if (small && lp_engine_open(&engine, model, &params, NULL) == LP_OK) {
        lp_ids ids = {.limit = 1 << 16};
        chat(gguf, vocab, &ids);
        if (ids.len > 0) answer(engine, vocab, &ids);
        lp_ids_free(&ids);
    }
    lp_engine_close(engine);
    lp_model_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_gguf *gguf = NULL;
    lp_vocab *vocab = NULL;
    if (lp_gguf_open(&gguf, data, size, NULL) != LP_OK) return 0;
    if (lp_vocab_open(&vocab, gguf, NULL) == LP_OK) run(gguf, vocab);
    lp_vocab_close(vocab);
    lp_gguf_close(gguf);
    return 0;
}
