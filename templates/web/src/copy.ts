// copy.ts - a button that copies a text and says that it did.
// SPDX-License-Identifier: Apache-2.0
import { Component, h } from "preact";
import type { ComponentChild } from "preact";

/** The clipboard exists on localhost and https only; the old command serves a plain-http LAN. */
async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

interface CopyProps {
  text: string;
  label: string;
}

export class CopyButton extends Component<CopyProps, { note: string }> {
  override state = { note: "" };
  #timer: ReturnType<typeof setTimeout> | undefined;

  readonly #copy = async (): Promise<void> => {
    const note = (await copyText(this.props.text)) ? "Copied" : "Not copied";
    clearTimeout(this.#timer);
    this.setState({ note });
    this.#timer = setTimeout(() => this.setState({ note: "" }), 1600);
  };

  override componentWillUnmount(): void {
    clearTimeout(this.#timer);
  }

  override render(): ComponentChild {
    const { note } = this.state;
    return h(
      "button",
      { type: "button", class: "quiet copy", "aria-label": note || this.props.label, onClick: this.#copy },
      h("span", { "aria-live": "polite" }, note || "Copy"),
    );
  }
}
