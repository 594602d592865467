// dialogs.tsx - the page's few dialogs. <dialog> brings focus, Esc and the backdrop.
// SPDX-License-Identifier: Apache-2.0
import type { ComponentChildren, VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

function Dialog({ title, onClose, children }: DialogProps): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    // Removing a dialog loses the focus, where closing it would give it back.
    return () => (before instanceof HTMLElement ? before.focus() : undefined);
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onClose={onClose}>
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

export function QuitDialog(props: { onQuit: () => void; onClose: () => void }): VNode {
  return (
    <Dialog title="Quit the program?" onClose={props.onClose}>
      <p>The model is unloaded and this conversation is forgotten.</p>
      <div class="buttons">
        <button type="button" class="plain-button" onClick={props.onClose}>
          Cancel
        </button>
        <button type="button" class="strong-button" onClick={props.onQuit}>
          Quit
        </button>
      </div>
    </Dialog>
  );
}

interface InstructionsProps {
  system: string | undefined; // the user's; undefined = the program's
  given: string; // the program's
  onSave: (system: string | undefined) => void;
  onClose: () => void;
}

export function InstructionsDialog({ system, given, onSave, onClose }: InstructionsProps): VNode {
  const [text, setText] = useState(system ?? given);
  const save = (event: Event): void => {
    event.preventDefault();
    onSave(text.trim() === given.trim() ? undefined : text.trim());
  };
  return (
    <Dialog title="Instructions" onClose={onClose}>
      <form onSubmit={save}>
        <p id="instructions-help">What the model is told before the conversation. It counts from the next answer on.</p>
        <textarea
          rows={7}
          value={text}
          aria-label="Instructions for the model"
          aria-describedby="instructions-help"
          placeholder="No instructions: the model answers as it was made."
          onInput={(event) => setText(event.currentTarget.value)}
        />
        <div class="buttons">
          {text !== given && (
            <button type="button" class="plain-button start" onClick={() => setText(given)}>
              {given === "" ? "Clear" : "As packed"}
            </button>
          )}
          <button type="button" class="plain-button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="strong-button">
            Save
          </button>
        </div>
      </form>
    </Dialog>
  );
}

export function KeyForm({ wrong, onKey }: { wrong: boolean; onKey: (key: string) => void }): VNode {
  const [key, setKey] = useState("");
  return (
    <form
      class="screen"
      onSubmit={(event) => {
        event.preventDefault();
        onKey(key.trim());
      }}
    >
      <h1>A key is needed</h1>
      <p>{wrong ? "That key was not accepted." : "Whoever started this program gave it an access key."}</p>
      <label class="visually-hidden" for="key">
        Access key
      </label>
      <input
        id="key"
        type="password"
        autocomplete="off"
        value={key}
        onInput={(event) => setKey(event.currentTarget.value)}
      />
      <button type="submit" class="strong-button" disabled={key.trim() === ""}>
        Open
      </button>
    </form>
  );
}
