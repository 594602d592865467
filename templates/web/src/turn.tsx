// turn.tsx - one turn of the conversation: a question, or an answer with all that belongs to it.
// SPDX-License-Identifier: Apache-2.0
import type { VNode } from "preact";
import { Component } from "preact";
import { count } from "./api.ts";
import type { Answer, Question, Turn } from "./chat.ts";
import { isUnderWay } from "./chat.ts";
import { CopyButton } from "./copy.ts";
import { Icon } from "./icons.tsx";
import { Markdown } from "./render.ts";
import { shown } from "./text.ts";

export interface TurnProps {
  turn: Turn;
  last: boolean; // of its kind: the one that can be changed or answered again
  busy: boolean; // an answer is under way
  context: number; // tokens that a conversation may hold
  onRegenerate: () => void;
  onEdit: () => void;
  onNewChat: () => void;
}

export class TurnView extends Component<TurnProps> {
  override shouldComponentUpdate(next: TurnProps): boolean {
    const now = this.props;
    return next.turn !== now.turn || next.last !== now.last || (next.last && next.busy !== now.busy);
  }

  override render(): VNode {
    const { turn } = this.props;
    return turn.role === "user" ? (
      <QuestionView {...this.props} turn={turn} />
    ) : (
      <AnswerView {...this.props} turn={turn} />
    );
  }
}

function QuestionView({ turn, last, busy, onEdit }: TurnProps & { turn: Question }): VNode {
  return (
    <article class="question" aria-label="You">
      <p class="bubble" dir="auto">
        {shown(turn.text)}
      </p>
      <div class="actions">
        {last && !busy && (
          <button type="button" class="quiet" onClick={onEdit}>
            <Icon name="edit" />
            Edit
          </button>
        )}
        <CopyButton text={turn.text} label="Copy question" />
      </div>
    </article>
  );
}

function AnswerView(props: TurnProps & { turn: Answer }): VNode {
  const { turn, last, busy, onRegenerate } = props;
  const underWay = isUnderWay(turn);
  return (
    <article class="answer" aria-label="Answer" aria-busy={underWay} data-state={turn.state}>
      {turn.thinking !== "" && <Thinking turn={turn} />}
      {turn.state === "reading" && <Reading progress={turn.progress} />}
      {turn.text !== "" && <Markdown text={turn.text} complete={!underWay} />}
      <Ending {...props} />
      {!underWay && (
        <div class={last ? "actions always" : "actions"}>
          {turn.text !== "" && <CopyButton text={turn.text} label="Copy answer" />}
          {last && !busy && (
            <button type="button" class="quiet" onClick={onRegenerate}>
              <Icon name="again" />
              {turn.state === "failed" ? "Try again" : "Regenerate"}
            </button>
          )}
          <Statistics turn={turn} />
        </div>
      )}
    </article>
  );
}

function Reading({ progress }: { progress: number }): VNode {
  const percent = Math.round(progress * 100);
  const known = progress > 0 && progress < 1;
  return (
    <div class="reading">
      <span class="pulse" aria-hidden="true" />
      <span>{known ? `Reading the conversation, ${percent} %` : "Reading the conversation"}</span>
      {known && <progress max={100} value={percent} aria-label="Reading the conversation" />}
    </div>
  );
}

function Thinking({ turn }: { turn: Answer }): VNode {
  const seconds = turn.thinkingSeconds;
  const title =
    turn.state === "thinking"
      ? "Thinking"
      : seconds >= 1
        ? `Thought for ${Math.round(seconds)} s`
        : "Thought";
  return (
    <details class="thinking">
      <summary>
        {turn.state === "thinking" && <span class="pulse" aria-hidden="true" />}
        {title}
      </summary>
      <Markdown text={turn.thinking} complete={turn.state !== "thinking"} />
    </details>
  );
}

/** Why the answer ended, where that is not plain from the answer. */
function Ending({ turn, last, context, onNewChat }: TurnProps & { turn: Answer }): VNode | null {
  const newChat = (
    <button type="button" class="plain-button" onClick={onNewChat}>
      New chat
    </button>
  );
  if (turn.problem) {
    const { kind, message } = turn.problem;
    const advice = {
      gone: "Start it again; this page then goes on by itself.",
      cut: "What had arrived is kept. Try again.",
      context: "Start a new chat, or take a question back and make it shorter.",
      key: "The key is missing or wrong.",
      busy: "Try again in a moment.",
      other: "",
    }[kind];
    return (
      <div class="notice problem" role="alert">
        <p>
          {shown(message)} {advice}
        </p>
        {kind === "context" && last && newChat}
      </div>
    );
  }
  if (turn.end === "context") {
    return (
      <div class="notice">
        <p>
          The answer stopped here: the conversation fills all {count(context)} tokens that the model
          can keep in view.
        </p>
        {last && newChat}
      </div>
    );
  }
  if (turn.end === "length") return <div class="notice">The answer reached its length limit.</div>;
  if (turn.state === "done" && turn.text === "") {
    return <div class="notice">{turn.thinking === "" ? "The answer is empty." : "The model thought, but gave no answer."}</div>;
  }
  return null;
}

function Statistics({ turn }: { turn: Answer }): VNode | null {
  const facts: string[] = [];
  if (turn.state === "stopped") facts.push("stopped");
  if (turn.answerTokens > 0) facts.push(`${count(turn.answerTokens)} ${turn.answerTokens === 1 ? "token" : "tokens"}`);
  if (turn.speed > 0) facts.push(`${turn.speed.toFixed(1)} tokens/s`);
  if (turn.firstSeconds > 0) facts.push(`first after ${turn.firstSeconds.toFixed(1)} s`);
  return facts.length > 0 ? <span class="statistics">{facts.join(" · ")}</span> : null;
}
