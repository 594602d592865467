// app.tsx - the page: header, conversation, composer; and everything that it listens to.
// SPDX-License-Identifier: Apache-2.0
import type { VNode } from "preact";
import { Component, createRef } from "preact";
import type { Api, Info } from "./api.ts";
import { count, Problem } from "./api.ts";
import { Conversation, isUnderWay } from "./chat.ts";
import { Composer } from "./composer.tsx";
import { InstructionsDialog, KeyForm, QuitDialog } from "./dialogs.tsx";
import type { IconName } from "./icons.tsx";
import { Icon } from "./icons.tsx";
import type { Theme } from "./keep.ts";
import { applyTheme, forgetAll, keepChat, keepKey, keepTheme, keptChat, keptTheme } from "./keep.ts";
import { plain, shown } from "./text.ts";
import { TurnView } from "./turn.tsx";

/** How soon a program that does not answer is asked again; then less and less often, down to this. */
const RETRY_SECONDS = 3;
const RETRY_MOST_SECONDS = 30;
/** Drawing takes at most one part in this many of the time while an answer streams in. */
const DRAW_SHARE = 4;
/** This near to its end, the conversation follows a growing answer. */
const NEAR_END_PIXELS = 60;

const NEXT_THEME: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };

interface State {
  info: Info | undefined;
  screen: "chat" | "key" | "closed";
  keyTried: boolean;
  gone: boolean; // the program does not answer
  draft: string;
  theme: Theme;
  dialog: "" | "quit" | "instructions";
  atEnd: boolean; // the end of the conversation is in view
}

export class App extends Component<{ api: Api }, State> {
  override state: State = {
    info: undefined,
    screen: "chat",
    keyTried: false,
    gone: false,
    draft: "",
    theme: keptTheme(),
    dialog: "",
    atEnd: true,
  };

  readonly #chat = new Conversation(this.props.api);
  readonly #field = createRef<HTMLTextAreaElement>();
  readonly #scroller = createRef<HTMLElement>();
  #changes = 0; // of the conversation
  #drawing = false; // a frame is asked for, or one was drawn just now
  #connecting = false;
  #leaving = false;
  #retry = RETRY_SECONDS;
  #timer: ReturnType<typeof setTimeout> | undefined;

  override componentDidMount(): void {
    this.#chat.onChange = () => {
      this.#changes++;
      this.#drawSoon();
    };
    document.addEventListener("keydown", this.#onKeyDown);
    document.addEventListener("visibilitychange", this.#keep);
    document.addEventListener("visibilitychange", this.#look);
    window.addEventListener("pagehide", this.#keep);
    window.addEventListener("beforeunload", this.#keepAndHold);
    void this.#connect();
  }

  override componentDidUpdate(_: unknown, before: State): void {
    const { info, atEnd } = this.state;
    if (info && info !== before.info) document.title = plain(info.name);
    if (atEnd) this.#toEnd();
  }

  // ---- the program

  /** Asks who is there; then stays in touch, so that the program knows of an open page. */
  readonly #connect = async (): Promise<void> => {
    clearTimeout(this.#timer);
    if (this.state.screen === "closed" || this.#connecting) return;
    this.#connecting = true;
    try {
      const wait = await this.#touch();
      if (wait > 0) this.#timer = setTimeout(this.#connect, wait * 1000);
    } finally {
      this.#connecting = false;
    }
  };

  /** Returns the seconds until the next touch; 0 = nothing goes on by itself. */
  async #touch(): Promise<number> {
    let wait = this.#retry;
    try {
      const known = this.state.info;
      if (known && !this.state.gone) {
        await this.props.api.presence();
        wait = known.presence_seconds;
      } else {
        const info = await this.props.api.info();
        if (known && info.instance !== known.instance) {
          location.reload(); // another program now has the port: its page, not this conversation
          return 0;
        }
        await this.props.api.presence();
        if (!known) this.#restore(info);
        this.setState({ info, gone: false, screen: "chat" });
        wait = info.presence_seconds;
        this.#retry = RETRY_SECONDS;
        this.#field.current?.focus();
      }
    } catch (error) {
      if (error instanceof Problem && error.kind === "key") {
        this.setState({ screen: "key" });
        return 0;
      }
      this.setState({ gone: true });
      this.#retry = Math.min(this.#retry * 1.5, RETRY_MOST_SECONDS);
    }
    return Math.max(wait, 1);
  }

  /** Someone looks at the page again: is the program back? */
  readonly #look = (): void => {
    if (document.visibilityState !== "visible" || !this.state.gone) return;
    this.#retry = RETRY_SECONDS;
    void this.#connect();
  };

  #restore(info: Info): void {
    const kept = keptChat(info.instance);
    if (!kept) return;
    this.#chat.restore(kept.turns, kept.system);
    this.setState({ draft: kept.draft });
  }

  readonly #keep = (): void => {
    const { info, draft, screen } = this.state;
    if (!info || screen !== "chat" || this.#leaving) return;
    const { turns, system } = this.#chat;
    keepChat({ instance: info.instance, turns, system, draft });
  };

  /**
   * A page that is left loses its connection before it is told to hide. What is kept is how things
   * stood before, not an answer that seems to have failed.
   */
  readonly #keepAndHold = (): void => {
    this.#keep();
    this.#leaving = true;
    setTimeout(() => (this.#leaving = false), 1000); // it was only a mail link
  };

  readonly #onKey = (key: string): void => {
    this.props.api.key = key;
    keepKey(key);
    this.setState({ keyTried: true });
    void this.#connect();
  };

  readonly #quit = async (): Promise<void> => {
    this.#chat.clear();
    try {
      await this.props.api.quit();
    } catch (error) {
      // A program that no longer answers has quit already.
      if (!(error instanceof Problem) || error.kind !== "gone") {
        this.setState({ dialog: "" });
        return;
      }
    }
    clearTimeout(this.#timer);
    forgetAll();
    this.setState({ screen: "closed", dialog: "" });
  };

  // ---- the conversation

  /** Draws in the next frame; while an answer streams in, less often where drawing is slow. */
  #drawSoon(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame((began) => {
      const drawn = this.#changes;
      this.forceUpdate(() => {
        const { answering } = this.#chat;
        if (!answering) this.#keep();
        const pause = answering ? (performance.now() - began) * (DRAW_SHARE - 1) : 0;
        setTimeout(() => {
          this.#drawing = false;
          if (drawn !== this.#changes) this.#drawSoon();
        }, pause);
      });
    });
  }

  readonly #send = (): void => {
    const text = this.state.draft;
    if (text.trim() === "" || this.#chat.answering || !this.state.info) return;
    this.setState({ draft: "", atEnd: true });
    void this.#follow(this.#chat.send(text));
  };

  readonly #regenerate = (): void => {
    this.setState({ atEnd: true });
    void this.#follow(this.#chat.regenerate());
    this.#field.current?.focus();
  };

  async #follow(answered: Promise<void>): Promise<void> {
    await answered;
    const { last } = this.#chat;
    if (last?.role !== "assistant") return;
    if (last.problem?.kind === "gone") this.setState({ gone: true }, () => void this.#connect());
    if (last.problem?.kind === "key") this.setState({ screen: "key" });
  }

  readonly #edit = (): void => {
    this.setState({ draft: this.#chat.takeBack() }, () => this.#field.current?.focus());
  };

  readonly #newChat = (): void => {
    this.#chat.clear();
    this.setState({ atEnd: true });
    this.#field.current?.focus();
  };

  readonly #onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Escape" && this.state.dialog === "" && !event.isComposing) this.#chat.stop();
  };

  readonly #onScroll = (): void => {
    const area = this.#scroller.current;
    if (!area) return;
    const atEnd = area.scrollHeight - area.scrollTop - area.clientHeight < NEAR_END_PIXELS;
    if (atEnd !== this.state.atEnd) this.setState({ atEnd });
  };

  readonly #toEnd = (): void => {
    const area = this.#scroller.current;
    if (area) area.scrollTop = area.scrollHeight;
  };

  readonly #nextTheme = (): void => {
    const theme = NEXT_THEME[this.state.theme];
    applyTheme(theme);
    keepTheme(theme);
    this.setState({ theme });
  };

  // ---- what it looks like

  override render(): VNode {
    const { screen, keyTried, info, dialog } = this.state;
    if (screen === "closed") {
      return (
        <main class="screen">
          <h1>Closed</h1>
          <p role="status">The program has ended and the conversation is gone. You can close this tab.</p>
        </main>
      );
    }
    if (screen === "key") return <KeyForm wrong={keyTried} onKey={this.#onKey} />;
    return (
      <>
        {this.#header()}
        {this.#conversation()}
        {this.#footer()}
        {dialog === "quit" && (
          <QuitDialog onQuit={this.#quit} onClose={() => this.setState({ dialog: "" })} />
        )}
        {dialog === "instructions" && (
          <InstructionsDialog
            system={this.#chat.system}
            given={info?.system ?? ""}
            onSave={(system) => {
              this.#chat.system = system;
              this.#keep();
              this.setState({ dialog: "" });
            }}
            onClose={() => this.setState({ dialog: "" })}
          />
        )}
      </>
    );
  }

  #header(): VNode {
    const { info, theme, gone } = this.state;
    const button = (icon: IconName, label: string, onClick: () => void, off = false): VNode => (
      <button type="button" class="tool" aria-label={label} title={label} disabled={off} onClick={onClick}>
        <Icon name={icon} />
      </button>
    );
    return (
      <header class={this.#chat.turns.length === 0 ? "bare" : ""}>
        <h1 dir="auto">{shown(info?.name ?? "")}</h1>
        <nav aria-label="Chat">
          <button
            type="button"
            class="tool wide"
            title="New chat"
            disabled={this.#chat.turns.length === 0}
            onClick={this.#newChat}
          >
            <Icon name="add" />
            <span>New chat</span>
          </button>
          {button("tune", "Instructions", () => this.setState({ dialog: "instructions" }), !info)}
          {button(theme, `Theme: ${theme}`, this.#nextTheme)}
          {info?.may_quit &&
            button("quit", "Quit", () => this.setState({ dialog: "quit" }), gone)}
        </nav>
      </header>
    );
  }

  #conversation(): VNode {
    const { info, gone, atEnd } = this.state;
    const { turns, answering } = this.#chat;
    const lastQuestion = turns.findLast((turn) => turn.role === "user");
    return (
      <main ref={this.#scroller} onScroll={this.#onScroll} tabIndex={-1}>
        {turns.length === 0 && info && <Welcome info={info} />}
        <div class="turns" role="log" aria-label="Conversation" aria-live="polite" aria-busy={answering}>
          {turns.map((turn) => (
            <TurnView
              key={turn.id}
              turn={turn}
              last={turn === (turn.role === "user" ? lastQuestion : turns.at(-1))}
              busy={answering}
              context={info?.context ?? 0}
              onRegenerate={this.#regenerate}
              onEdit={this.#edit}
              onNewChat={this.#newChat}
            />
          ))}
        </div>
        {gone && (
          <div class="notice problem gone" role="alert">
            <p>The chat program is not running. Start it again; this page then goes on by itself.</p>
          </div>
        )}
        {!atEnd && (
          <button type="button" class="to-end" aria-label="To the end" title="To the end" onClick={this.#toEnd}>
            <Icon name="down" />
          </button>
        )}
      </main>
    );
  }

  #footer(): VNode {
    const { info, draft, gone } = this.state;
    const answering = this.#chat.answering;
    return (
      <footer>
        <Composer
          field={this.#field}
          draft={draft}
          name={plain(info?.name ?? "the model")}
          busy={answering}
          disabled={!info || gone}
          onDraft={(text) => this.setState({ draft: text })}
          onSend={this.#send}
          onStop={() => this.#chat.stop()}
        />
        <div class="status">
          {info && <Gauge used={this.#chat.tokens} size={info.context} />}
          {this.#activity()}
        </div>
      </footer>
    );
  }

  /** What goes on right now, at the right below the composer. */
  #activity(): VNode {
    const { last } = this.#chat;
    const answer = last?.role === "assistant" && isUnderWay(last) ? last : undefined;
    const speed = answer && answer.speed > 0 ? `${answer.speed.toFixed(1)} tokens/s` : "";
    return <span class="activity">{answer ? speed : "Answers can be wrong."}</span>;
  }
}

/** How much of the context window the conversation fills. */
function Gauge({ used, size }: { used: number; size: number }): VNode {
  const share = size > 0 ? Math.min(used / size, 1) : 0;
  const level = share > 0.9 ? "high" : share > 0.75 ? "raised" : "calm";
  // The last token sampled of an answer that fills the window is not in the window itself.
  const words = `${count(Math.min(used, size))} of ${count(size)} tokens`;
  return (
    <span class={`gauge ${level}`} title="How much of what the model can keep in view is used">
      <meter min={0} max={size} value={used} aria-label="Context in use">
        {words}
      </meter>
      <span class="numbers">{words}</span>
    </span>
  );
}

function Welcome({ info }: { info: Info }): VNode {
  const { parameters } = info.model;
  const size =
    parameters >= 1e9
      ? `${(parameters / 1e9).toFixed(1)} billion parameters`
      : `${Math.round(parameters / 1e6)} million parameters`;
  return (
    <section class="welcome">
      <h2 dir="auto">{shown(info.name)}</h2>
      <p>This model runs on your own computer. Nothing you write leaves it.</p>
      <p class="facts">
        {[size, info.license].filter((fact) => fact !== "").join(" · ")}
      </p>
    </section>
  );
}
