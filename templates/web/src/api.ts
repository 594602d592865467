// api.ts - the server's endpoints that the page uses, as typed calls. runtime_c/serve/README.md
// describes the other side. Addresses are relative: the page speaks to where it came from only.
// SPDX-License-Identifier: Apache-2.0
import { readEvents } from "./sse.ts";

export interface Info {
  name: string;
  version: string;
  instance: string; // tells one packed program from another on the same port
  model: { id: string; architecture: string; parameters: number; context_trained: number };
  context: number; // tokens that one chat may hold
  system: string;
  license: string;
  may_quit: boolean; // only who sits at the program's own machine may end it
  presence_seconds: number;
}

export interface Message {
  role: "user" | "assistant";
  content: string;
}

/** Milliseconds, tokens and tokens per second, under llama.cpp's names. */
export interface Timings {
  cache_n: number;
  prompt_n: number;
  prompt_ms: number;
  predicted_n: number;
  predicted_ms: number;
  predicted_per_second: number;
}

/** What a streamed answer is made of, in the order of arrival. */
export type Piece =
  | { kind: "progress"; total: number; done: number }
  | { kind: "thinking"; text: string }
  | { kind: "text"; text: string }
  | { kind: "usage"; prompt: number; answer: number }
  | { kind: "end"; reason: string; contextFull: boolean; timings: Timings | undefined };

export type ProblemKind = "gone" | "cut" | "context" | "key" | "busy" | "other";

/** A failure with its kind, so that the page can say what to do about it. */
export class Problem extends Error {
  readonly kind: ProblemKind;

  constructor(kind: ProblemKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

interface ErrorBody {
  message?: string;
  type?: string;
  n_prompt_tokens?: number;
  n_ctx?: number;
}

interface Chunk {
  error?: ErrorBody;
  prompt_progress?: { total: number; cache: number; processed: number };
  timings?: Timings;
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
  choices?: {
    delta?: { content?: string | null; reasoning_content?: string | null };
    finish_reason?: string | null;
    finish_detail?: string;
  }[];
}

export const count = (n: number): string => Math.round(n).toLocaleString("en-US");

function problemOf(body: ErrorBody | undefined, status: number): Problem {
  const message = body?.message ?? `The program answered with HTTP status ${status}.`;
  if (body?.type === "exceed_context_size_error") {
    const need = body.n_prompt_tokens;
    const room = body.n_ctx;
    const counts =
      need !== undefined && room !== undefined
        ? `This conversation needs ${count(need)} tokens, and the model can keep ${count(room)} in view.`
        : message;
    return new Problem("context", counts);
  }
  if (status === 401) return new Problem("key", message);
  if (status === 429 || status === 503) return new Problem("busy", message);
  return new Problem("other", message);
}

async function problemIn(response: Response): Promise<Problem> {
  let body: ErrorBody | undefined;
  try {
    body = ((await response.json()) as { error?: ErrorBody }).error;
  } catch {
    body = undefined; // not JSON: the status says enough
  }
  return problemOf(body, response.status);
}

export class Api {
  key = ""; // sent with every request if the server wants one

  async #request(path: string, init: RequestInit): Promise<Response> {
    const headers: Record<string, string> = {};
    if (init.method === "POST") headers["Content-Type"] = "application/json";
    if (this.key !== "") headers["Authorization"] = `Bearer ${this.key}`;
    let response: Response;
    try {
      response = await fetch(path, { cache: "no-store", redirect: "error", ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new Problem("gone", "The chat program does not answer. It may have been closed.");
    }
    if (!response.ok) throw await problemIn(response);
    return response;
  }

  async info(): Promise<Info> {
    return (await (await this.#request("api/info", {})).json()) as Info;
  }

  /** Tells the program that a page is open, so that it goes on running. */
  async presence(): Promise<void> {
    await this.#request("api/presence", { method: "POST", body: "{}" });
  }

  async quit(): Promise<void> {
    await this.#request("api/quit", { method: "POST", body: "{}" });
  }

  /** Streams one answer. `system` undefined leaves the program's own; "" means none. */
  async *chat(
    messages: readonly Message[],
    system: string | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<Piece> {
    const all = system === undefined ? messages : [{ role: "system", content: system }, ...messages];
    const response = await this.#request("v1/chat/completions", {
      method: "POST",
      signal,
      body: JSON.stringify({
        messages: all,
        stream: true,
        stream_options: { include_usage: true },
        return_progress: true,
      }),
    });
    if (!response.body) throw new Problem("other", "This browser cannot read streams.");
    try {
      for await (const data of readEvents(response.body)) {
        if (data === "[DONE]") return;
        yield* piecesOf(data);
      }
    } catch (error) {
      if (signal.aborted || error instanceof Problem) throw error;
      throw new Problem("cut", "The connection ended before the answer did.");
    }
    throw new Problem("cut", "The connection ended before the answer did.");
  }
}

export function* piecesOf(data: string): Generator<Piece> {
  let chunk: Chunk;
  try {
    chunk = JSON.parse(data) as Chunk;
  } catch {
    throw new Problem("other", "The program sent something that the page does not understand.");
  }
  if (chunk.error) throw problemOf(chunk.error, 500);
  if (chunk.prompt_progress) {
    const { total, processed } = chunk.prompt_progress;
    yield { kind: "progress", total, done: processed };
  }
  const choice = chunk.choices?.[0];
  if (choice?.delta?.reasoning_content) yield { kind: "thinking", text: choice.delta.reasoning_content };
  if (choice?.delta?.content) yield { kind: "text", text: choice.delta.content };
  if (choice?.finish_reason) {
    const contextFull = choice.finish_detail === "context";
    yield { kind: "end", reason: choice.finish_reason, contextFull, timings: chunk.timings };
  }
  if (chunk.usage) {
    yield { kind: "usage", prompt: chunk.usage.prompt_tokens, answer: chunk.usage.completion_tokens };
  }
}
