// Keys, drafts and differences; every page works without them.
"use strict";

const form = document.querySelector("form.verdict-form");

function press(name) {
  const found = document.querySelector(`main [data-key="${name}"]:not([disabled]), nav [data-key="${name}"]`);
  if (found) found.click();
  return Boolean(found);
}

function focusOn(selector) {
  const found = form.querySelector(selector);
  found.focus();
  return true;
}

if (form) {
  const text = form.querySelector("textarea");
  const draft = `fineloom-draft-${form.dataset.item}`;

  document.addEventListener("keydown", (event) => {
    const field = event.target;
    const writing = field.tagName === "TEXTAREA" || (field.tagName === "INPUT" && field.type !== "radio" && field.type !== "checkbox");
    if (event.isComposing) return;
    if (event.key === "Escape" && field !== document.body) return field.blur();
    if (event.key === "Enter" && field === text && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      return send("correct");
    }
    if (event.key === "Enter" && (field.type === "radio" || field.name === "note")) {
      event.preventDefault();
      return send("reject");
    }
    if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
    const done =
      event.key === "a" ? press("a") :
      event.key === "c" ? focusOn("textarea") :
      event.key === "r" ? focusOn("[name=reason]:checked, [name=reason]") :
      event.key === "s" ? press("s") :
      event.key === "u" ? press("u") :
      /^[1-9]$/.test(event.key) ? pick(event.key) : false;
    if (done) event.preventDefault();
  });

  function pick(key) {
    const found = form.querySelector(`[name=reason][data-key="${key}"]`);
    if (!found) return false;
    found.checked = true;
    found.focus();
    return true;
  }

  function send(verdict) {
    form.requestSubmit(form.querySelector(`button[value=${verdict}]`));
  }

  // What was written stays until it is stored, whatever becomes of the server or the page.
  let kept = null;
  try {
    kept = sessionStorage.getItem(draft);
  } catch {
    // private windows may have no storage
  }
  if (kept !== null && text.value === text.dataset.shown) text.value = kept;
  const keep = () => {
    try {
      sessionStorage.setItem(draft, text.value);
    } catch {
      // as above
    }
  };

  const change = document.querySelector("#change");
  const show = () => {
    change.replaceChildren(...(text.value === text.dataset.shown ? [] : difference(text.dataset.shown, text.value)));
  };
  text.addEventListener("input", () => { keep(); show(); });
  if (text.value !== text.dataset.shown) show();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const address = (event.submitter && event.submitter.getAttribute("formaction")) || form.getAttribute("action");
    const body = new URLSearchParams(new FormData(form, event.submitter));
    for (const button of form.querySelectorAll("button")) button.inert = true;
    try {
      const answer = await fetch(address, { method: "POST", body, redirect: "follow" });
      if (answer.ok && answer.redirected) {
        try { sessionStorage.removeItem(draft); } catch { /* as above */ }
        return location.assign(answer.url);
      }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      tell(page.querySelector("[role=alert]")?.textContent || `${answer.status}`, page.querySelector("[name=second]"));
    } catch {
      tell(form.dataset.unsent, null);
    }
    for (const button of form.querySelectorAll("button")) button.inert = false;
  });

  function tell(message, second) {
    document.querySelector("main > .note.alarm")?.remove();
    const note = document.createElement("p");
    note.className = "note alarm";
    note.setAttribute("role", "alert");
    note.textContent = message;
    document.querySelector(".desk").before(note);
    if (second && !form.querySelector("[name=second]")) form.querySelector(".buttons").append(document.adoptNode(second.closest("label")));
    note.scrollIntoView({ block: "nearest" });
  }
}

// The two texts by words of letters and by single other characters; the longest common run of them first.
function difference(before, after) {
  const cut = (text) => text.match(/\s+|[A-Za-z0-9]+|./gsu) || [];
  const a = cut(before), b = cut(after);
  if (a.length * b.length > 4e6) return [document.createTextNode("…")];
  const table = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const made = [];
  const add = (kind, text) => {
    const last = made[made.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else made.push([kind, text]);
  };
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) add("both", a[(j++, i++)]);
    else if (i < a.length && (j === b.length || table[i + 1][j] >= table[i][j + 1])) add("del", a[i++]);
    else add("ins", b[j++]);
  }
  return made.map(([kind, text]) => {
    if (kind === "both") return document.createTextNode(text);
    const node = document.createElement(kind);
    node.textContent = text;
    return node;
  });
}
