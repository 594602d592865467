// composer.tsx - where questions are written. Enter sends, Shift+Enter begins a line; while an
// input method composes a character, Enter belongs to it.
// SPDX-License-Identifier: Apache-2.0
import type { RefObject, VNode } from "preact";
import { useLayoutEffect } from "preact/hooks";
import { Icon } from "./icons.tsx";

export interface ComposerProps {
  field: RefObject<HTMLTextAreaElement | null>;
  draft: string;
  name: string; // whom the question goes to
  busy: boolean;
  disabled: boolean;
  onDraft: (draft: string) => void;
  onSend: () => void;
  onStop: () => void;
}

export function Composer(props: ComposerProps): VNode {
  const { field, draft, name, busy, disabled, onDraft, onSend, onStop } = props;
  useLayoutEffect(() => {
    const area = field.current;
    if (!area) return;
    area.style.height = "auto"; // through the object model: the CSP has nothing against it
    area.style.height = `${area.scrollHeight}px`; // style.css sets the most
  }, [draft]);
  const onKeyDown = (event: KeyboardEvent): void => {
    // 229 is what some browsers report for the Enter that ends a composition.
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    if (!busy && !disabled) onSend();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        if (!busy) onSend();
      }}
    >
      <label class="visually-hidden" for="question">
        Message to {name}
      </label>
      <textarea
        id="question"
        ref={field}
        rows={1}
        value={draft}
        placeholder={`Message ${name}`}
        enterkeyhint="send"
        autocomplete="off"
        dir="auto"
        onInput={(event) => onDraft(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      {busy ? (
        <button type="button" class="round" aria-label="Stop" title="Stop (Esc)" onClick={onStop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button
          type="submit"
          class="round"
          aria-label="Send"
          title="Send (Enter)"
          disabled={disabled || draft.trim() === ""}
        >
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
