/* attention.h - a step's attention over the cache, by all threads.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_ENGINE_ATTENTION_H
#define LP_ENGINE_ATTENTION_H

#include "engine/engine_internal.h"

/* engine->attn = attention of engine->q over the layer's cache. selected: the n_rows rows that take
 * part, in whose order queries stand and results are written; NULL = the first n_rows. */
void lp_attend(lp_engine *engine, const lp_layer *layer, const int32_t *selected, size_t n_rows);

/* Bytes of engine->parts and entries of engine->tasks_done, for the engine's pool and context. */
size_t lp_attend_part_bytes(const lp_engine *engine);
size_t lp_attend_most_chunks(const lp_engine *engine);

#endif
