// chat.ts - the conversation: its turns, and what may be done with it. No DOM, no globals.
//
// A turn is never changed in place: each change replaces it by a new object, so a view may compare
// identities. At most one answer is under way; `answering` is its stop switch.
// SPDX-License-Identifier: Apache-2.0
import type { Message, Piece, ProblemKind } from "./api.ts";
import { Problem } from "./api.ts";

export interface Question {
  role: "user";
  id: number;
  text: string;
}

export interface Answer {
  role: "assistant";
  id: number;
  text: string;
  thinking: string;
  /** reading: the model takes in the prompt; thinking and writing: pieces arrive. */
  state: "reading" | "thinking" | "writing" | "done" | "stopped" | "failed";
  progress: number; // of reading, 0 to 1
  thinkingSeconds: number;
  /** Tokens of the prompt and of the answer; pieces are counted until the server says. */
  promptTokens: number;
  answerTokens: number;
  speed: number; // tokens per second of the answer; 0 until known
  firstSeconds: number; // from sending to the first piece
  end: "" | "length" | "context"; // why it ended, if not by itself
  problem: { kind: ProblemKind; message: string } | undefined;
}

export type Turn = Question | Answer;

export function isUnderWay(turn: Turn | undefined): boolean {
  return turn?.role === "assistant" && ["reading", "thinking", "writing"].includes(turn.state);
}

/** What a conversation needs of the world, so that tests can bring their own. */
export interface Model {
  chat(
    messages: readonly Message[],
    system: string | undefined,
    signal: AbortSignal,
  ): AsyncGenerator<Piece>;
}

export class Conversation {
  turns: readonly Turn[] = [];
  /** The user's own instructions; undefined = the program's. */
  system: string | undefined;
  /** Called after every change. */
  onChange: () => void = () => undefined;

  readonly #model: Model;
  readonly #now: () => number; // milliseconds
  #answering: AbortController | undefined;
  #nextId = 1;

  constructor(model: Model, now: () => number = () => performance.now()) {
    this.#model = model;
    this.#now = now;
  }

  get answering(): boolean {
    return this.#answering !== undefined;
  }

  get last(): Turn | undefined {
    return this.turns.at(-1);
  }

  /** Tokens that the conversation held at the last answer; 0 if unknown. */
  get tokens(): number {
    const answer = this.turns.findLast(
      (turn): turn is Answer => turn.role === "assistant" && turn.promptTokens > 0,
    );
    return answer ? answer.promptTokens + answer.answerTokens : 0;
  }

  /** Asks. Resolves when the answer has ended, however it did. */
  async send(text: string): Promise<void> {
    if (this.answering || text.trim() === "") return;
    this.turns = [...this.turns, { role: "user", id: this.#nextId++, text }];
    await this.#answer();
  }

  stop(): void {
    this.#answering?.abort();
  }

  /** Answers the last question again (or for the first time, after a failure). */
  async regenerate(): Promise<void> {
    if (this.answering || !this.turns.some((turn) => turn.role === "user")) return;
    this.turns = this.turns.slice(0, this.turns.findLastIndex((turn) => turn.role === "user") + 1);
    await this.#answer();
  }

  /** Takes the last question and what follows it away, and returns its text for changing. */
  takeBack(): string {
    if (this.answering) return "";
    const at = this.turns.findLastIndex((turn) => turn.role === "user");
    const question = this.turns[at];
    if (!question) return "";
    this.turns = this.turns.slice(0, at);
    this.onChange();
    return question.text;
  }

  /** An empty conversation. */
  clear(): void {
    this.stop();
    this.#answering = undefined; // whatever still arrives is ignored
    this.turns = [];
    this.onChange();
  }

  /** Takes over stored turns. An answer that was under way when they were stored has stopped. */
  restore(turns: readonly Turn[], system: string | undefined): void {
    this.turns = turns.map((turn) => {
      const next = { ...turn, id: this.#nextId++ };
      return isUnderWay(next) ? { ...next, state: "stopped" } : next;
    }) as Turn[];
    this.system = system;
    this.onChange();
  }

  /** What the model is shown: thinking and empty answers are left out. */
  messages(): Message[] {
    return this.turns
      .filter((turn) => turn.role === "user" || turn.text !== "")
      .map((turn) => ({ role: turn.role, content: turn.text }));
  }

  async #answer(): Promise<void> {
    const stop = new AbortController();
    this.#answering = stop;
    const messages = this.messages();
    let answer: Answer = {
      role: "assistant",
      id: this.#nextId++,
      text: "",
      thinking: "",
      state: "reading",
      progress: 0,
      thinkingSeconds: 0,
      promptTokens: 0,
      answerTokens: 0,
      speed: 0,
      firstSeconds: 0,
      end: "",
      problem: undefined,
    };
    const update = (change: Partial<Answer>): void => {
      if (this.#answering !== stop) return; // cleared meanwhile
      const at = this.turns.indexOf(answer);
      answer = { ...answer, ...change };
      this.turns = at < 0 ? [...this.turns, answer] : this.turns.with(at, answer);
      this.onChange();
    };
    update({});
    const meter = new Meter(this.#now);
    try {
      for await (const piece of this.#model.chat(messages, this.system, stop.signal)) {
        if (stop.signal.aborted) break;
        update(meter.change(answer, piece));
      }
      update({ state: stop.signal.aborted ? "stopped" : "done" });
    } catch (error) {
      if (stop.signal.aborted) {
        update({ state: "stopped" });
      } else {
        const kind = error instanceof Problem ? error.kind : "other";
        const message = error instanceof Error ? error.message : String(error);
        update({ state: "failed", problem: { kind, message } });
      }
    } finally {
      if (this.#answering === stop) {
        this.#answering = undefined;
        this.onChange();
      }
    }
  }
}

/** What each piece changes, with the times between them. */
class Meter {
  readonly #now: () => number;
  readonly #sent: number;
  #first = 0; // when the first piece of text came
  #pieces = 0;

  constructor(now: () => number) {
    this.#now = now;
    this.#sent = now();
  }

  change(answer: Answer, piece: Piece): Partial<Answer> {
    switch (piece.kind) {
      case "progress":
        return {
          progress: piece.total > 0 ? piece.done / piece.total : 0,
          promptTokens: piece.total,
        };
      case "thinking":
        return { ...this.#count(), state: "thinking", thinking: answer.thinking + piece.text };
      case "text":
        return {
          ...this.#count(),
          state: "writing",
          text: answer.text + piece.text,
          thinkingSeconds:
            answer.state === "thinking" ? (this.#now() - this.#first) / 1000 : answer.thinkingSeconds,
        };
      case "usage":
        return { promptTokens: piece.prompt, answerTokens: piece.answer };
      case "end": {
        const end = piece.contextFull ? "context" : piece.reason === "length" ? "length" : "";
        if (!piece.timings) return { end };
        const { cache_n, prompt_n, predicted_n, predicted_per_second } = piece.timings;
        return {
          end,
          promptTokens: cache_n + prompt_n,
          answerTokens: predicted_n,
          speed: predicted_per_second,
        };
      }
    }
  }

  /** Nearly every piece is one token; a character cut by tokens joins some. */
  #count(): Partial<Answer> {
    const now = this.#now();
    this.#pieces++;
    if (this.#pieces === 1) {
      this.#first = now;
      return { answerTokens: 1, firstSeconds: (now - this.#sent) / 1000 };
    }
    const seconds = (now - this.#first) / 1000;
    return {
      answerTokens: this.#pieces,
      speed: seconds > 0 ? (this.#pieces - 1) / seconds : 0,
    };
  }
}
