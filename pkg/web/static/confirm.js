// A question before something is taken away.

import { byId, text } from "./dom.js";

// confirm asks; work is what is done on yes. The dialog stays open with what
// went wrong if it fails.
export function confirm({ title, explanation, yes, work }) {
  const dialog = byId("confirm");
  text(byId("confirm-title"), title);
  byId("confirm-text").replaceChildren(...explanation);
  text(byId("confirm-yes"), yes);
  text(byId("confirm-error"), "");
  byId("confirm-yes").disabled = false;
  byId("confirm-no").onclick = () => dialog.close();
  byId("confirm-yes").onclick = async () => {
    byId("confirm-yes").disabled = true;
    try {
      await work();
      dialog.close();
      document.dispatchEvent(new Event("stagelet-changed"));
    } catch (e) {
      text(byId("confirm-error"), e.message);
      byId("confirm-yes").disabled = false;
    }
  };
  dialog.showModal();
  byId("confirm-no").focus();
}
