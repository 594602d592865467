// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Message, Piece } from "../src/api.ts";
import { Api, piecesOf, Problem } from "../src/api.ts";
import type { Answer, Model } from "../src/chat.ts";
import { Conversation } from "../src/chat.ts";

interface Call {
  messages: readonly Message[];
  system: string | undefined;
}

/** A model that gives the pieces of the next script; "wait" holds until it is stopped. */
class Scripted implements Model {
  readonly calls: Call[] = [];
  readonly #scripts: (Piece | "wait" | Error)[][];

  constructor(...scripts: (Piece | "wait" | Error)[][]) {
    this.#scripts = scripts;
  }

  async *chat(messages: readonly Message[], system: string | undefined, signal: AbortSignal): AsyncGenerator<Piece> {
    this.calls.push({ messages, system });
    for (const step of this.#scripts.shift() ?? []) {
      if (step instanceof Error) throw step;
      if (step !== "wait") yield step;
      else {
        await new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
        });
      }
    }
  }
}

const text = (value: string): Piece => ({ kind: "text", text: value });
const end = (contextFull = false, reason = "stop"): Piece => ({
  kind: "end",
  reason,
  contextFull,
  timings: { cache_n: 3, prompt_n: 7, prompt_ms: 5, predicted_n: 2, predicted_ms: 40, predicted_per_second: 50 },
});
const lastAnswer = (chat: Conversation): Answer => chat.last as Answer;
const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

test("an answer streams in; the next question carries the conversation", async () => {
  const model = new Scripted(
    [{ kind: "progress", total: 10, done: 5 }, text("He"), text("llo"), end(), { kind: "usage", prompt: 10, answer: 2 }],
    [text("Fine"), end()],
  );
  const chat = new Conversation(model);
  const seen: string[] = [];
  chat.onChange = () => seen.push(`${lastAnswer(chat).state}:${lastAnswer(chat).text}`);
  await chat.send("Hi");
  assert.deepEqual([...new Set(seen)], ["reading:", "writing:He", "writing:Hello", "done:Hello"]);
  assert.equal(lastAnswer(chat).speed, 50);
  assert.equal(chat.tokens, 12);
  chat.system = "Be brief.";
  await chat.send("How are you?");
  assert.deepEqual(model.calls, [
    { messages: [{ role: "user", content: "Hi" }], system: undefined },
    {
      messages: [
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Hello" },
        { role: "user", content: "How are you?" },
      ],
      system: "Be brief.",
    },
  ]);
});

test("stopping keeps what arrived; nothing is sent meanwhile", async () => {
  const model = new Scripted([text("Par"), "wait", text("never")], [text("New"), end()]);
  const chat = new Conversation(model);
  const sent = chat.send("Hi");
  await settle();
  await chat.send("again");
  await chat.regenerate();
  assert.equal(chat.takeBack(), "");
  assert.equal(model.calls.length, 1);
  chat.stop();
  await sent;
  assert.equal(lastAnswer(chat).state, "stopped");
  assert.equal(lastAnswer(chat).text, "Par");
  await chat.regenerate();
  assert.deepEqual(model.calls[1]!.messages, [{ role: "user", content: "Hi" }]);
  assert.equal(chat.turns.length, 2);
  assert.equal(lastAnswer(chat).text, "New");
});

test("clearing while an answer arrives leaves nothing of it", async () => {
  const chat = new Conversation(new Scripted([text("Old"), "wait"], [text("New"), end()]));
  const old = chat.send("Hi");
  await settle();
  chat.clear();
  assert.equal(chat.answering, false);
  const next = chat.send("Hello");
  await Promise.all([old, next]);
  assert.deepEqual(chat.turns.map((turn) => turn.text), ["Hello", "New"]);
});

test("taking back removes the last question and its answer", async () => {
  const chat = new Conversation(new Scripted([text("1"), end()], [text("2"), end()]));
  await chat.send("one");
  await chat.send("two");
  assert.equal(chat.takeBack(), "two");
  assert.deepEqual(chat.turns.map((turn) => turn.text), ["one", "1"]);
  assert.equal(chat.takeBack(), "one");
  assert.equal(chat.takeBack(), "");
});

test("blank questions are not sent", async () => {
  const model = new Scripted();
  const chat = new Conversation(model);
  await chat.send(" \n");
  await chat.regenerate();
  assert.equal(model.calls.length + chat.turns.length, 0);
});

test("failures keep what arrived, say their kind and can be tried again", async () => {
  const model = new Scripted([text("Par"), new Problem("cut", "cut off")], [new Problem("context", "full")], [text("x"), end()]);
  const chat = new Conversation(model);
  await chat.send("Hi");
  assert.deepEqual([lastAnswer(chat).state, lastAnswer(chat).text], ["failed", "Par"]);
  assert.deepEqual(lastAnswer(chat).problem, { kind: "cut", message: "cut off" });
  await chat.regenerate();
  assert.equal(lastAnswer(chat).problem?.kind, "context");
  // An answer that never began is not shown to the model.
  assert.deepEqual(chat.messages(), [{ role: "user", content: "Hi" }]);
  await chat.regenerate();
  assert.equal(lastAnswer(chat).problem, undefined);
});

test("thinking is kept apart and not sent again; its time is taken", async () => {
  let clock = 0;
  const model = new Scripted([{ kind: "thinking", text: "Hm" }, { kind: "thinking", text: "m" }, text("Yes"), end()]);
  const chat = new Conversation(model, () => (clock += 500));
  await chat.send("Hi");
  assert.equal(lastAnswer(chat).thinking, "Hmm");
  assert.equal(lastAnswer(chat).thinkingSeconds, 1.5); // three ticks after the first piece
  assert.deepEqual(chat.messages()[1], { role: "assistant", content: "Yes" });
});

test("why an answer ended", async () => {
  const chat = new Conversation(new Scripted([text("a"), end(true, "length")], [text("b"), end(false, "length")]));
  await chat.send("1");
  assert.equal(lastAnswer(chat).end, "context");
  await chat.send("2");
  assert.equal(lastAnswer(chat).end, "length");
});

test("a stored conversation comes back; what was under way has stopped", async () => {
  const chat = new Conversation(new Scripted([text("Par"), "wait"]));
  const sent = chat.send("Hi");
  await settle();
  const stored = JSON.parse(JSON.stringify(chat.turns)) as typeof chat.turns;
  const other = new Conversation(new Scripted([text("ok"), end()]));
  other.restore(stored, "sys");
  assert.equal(lastAnswer(other).state, "stopped");
  assert.deepEqual(other.turns.map((turn) => turn.text), ["Hi", "Par"]);
  await other.send("next");
  assert.equal(new Set(other.turns.map((turn) => turn.id)).size, 4);
  chat.stop();
  await sent;
});

test("chunks of the stream become pieces", () => {
  const of = (value: unknown): Piece[] => [...piecesOf(JSON.stringify(value))];
  const delta = (change: object): unknown => ({ choices: [{ delta: change, finish_reason: null }] });
  assert.deepEqual(of(delta({ role: "assistant", content: "" })), []);
  assert.deepEqual(of(delta({ content: "a" })), [text("a")]);
  assert.deepEqual(of(delta({ reasoning_content: "b" })), [{ kind: "thinking", text: "b" }]);
  assert.deepEqual(of({ choices: [], prompt_progress: { total: 9, cache: 1, processed: 4, time_ms: 2 } }), [
    { kind: "progress", total: 9, done: 4 },
  ]);
  assert.deepEqual(of({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 4 } }), [
    { kind: "usage", prompt: 3, answer: 4 },
  ]);
  assert.deepEqual(of({ choices: [{ delta: {}, finish_reason: "length", finish_detail: "context" }] }), [
    { kind: "end", reason: "length", contextFull: true, timings: undefined },
  ]);
  assert.throws(() => of({ error: { message: "no", type: "server_error", code: 500 } }), /^Error: no$/);
  assert.throws(() => [...piecesOf("{")], /does not understand/);
});

test("what the server refuses is said with its counts", async (context) => {
  const answers: [Response | Error, string, RegExp][] = [
    [
      Response.json(
        { error: { message: "too long", type: "exceed_context_size_error", code: 400, n_prompt_tokens: 9120, n_ctx: 8192 } },
        { status: 400 },
      ),
      "context",
      /needs 9,120 tokens.*8,192/,
    ],
    [Response.json({ error: { message: "key", type: "x", code: 401 } }, { status: 401 }), "key", /key/],
    [Response.json({ error: { message: "busy", type: "x", code: 503 } }, { status: 503 }), "busy", /busy/],
    [new Response("<html>", { status: 500 }), "other", /500/],
    [new TypeError("fetch failed"), "gone", /closed/],
    [new Response("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"), "cut", /ended before/],
  ];
  for (const [answer, kind, message] of answers) {
    const fetch = context.mock.method(globalThis, "fetch", () =>
      answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer),
    );
    const api = new Api();
    api.key = "secret";
    await assert.rejects(
      async () => {
        for await (const _ of api.chat([{ role: "user", content: "a" }], undefined, new AbortController().signal)) void _;
      },
      (problem: unknown) => problem instanceof Problem && problem.kind === kind && message.test(problem.message),
      kind,
    );
    const init = fetch.mock.calls[0]!.arguments[1] as RequestInit;
    assert.deepEqual(init.headers, { "Content-Type": "application/json", Authorization: "Bearer secret" });
    fetch.mock.restore();
  }
});
