/* llamapack.h - every public header of the runtime, in the order the data flows. This is what cffi
 * loads (native.py) and where a newcomer may begin to read.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LP_LLAMAPACK_H
#define LP_LLAMAPACK_H

/* The order is the data's, not the alphabet's. */
/* clang-format off */
#include "base/status.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/unicode.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/crc32.h"
#include "base/inflate.h"
#include "platform/file.h"
#include "platform/thread.h"
#include "platform/process.h"
#include "platform/terminal.h"
#include "platform/net.h"
#include "qtype.h"
#include "kernels.h"
#include "quantize/quantize.h" /* in the libraries only: no executable quantizes */
#include "model/container.h"
#include "model/gguf.h"
#include "model/pretok.h"
#include "model/vocab.h"
#include "model/model.h"
#include "engine/engine.h"
#include "engine/kv_file.h"
#include "engine/sampler.h"
#include "engine/draft.h"
#include "engine/shares.h"
#include "engine/lookup.h"
#include "engine/scheduler.h"
#include "chat/chat.h"
#include "chat/reasoning.h"
#include "serve/http.h"
#include "serve/guard.h"
#include "serve/fields.h"
#include "serve/server.h"
#include "cli/line.h"
/* clang-format on */

#endif
