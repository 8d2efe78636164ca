// Conveniences only: every page works without them.
"use strict";

// Keys: / to the search, j and k (or n and p) to the next and the previous page.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const wanted = { "/": "[data-focus]", j: "a[rel=next]", n: "a[rel=next]", k: "a[rel=prev]", p: "a[rel=prev]" }[event.key];
  const found = wanted && document.querySelector(wanted);
  if (!found) return;
  event.preventDefault();
  if (event.key === "/") found.focus();
  else found.click();
});

// Pointing at a region's text shows its box, and the other way round.
for (const scope of document.querySelectorAll("article.sample, main:has(.large)")) {
  const parts = scope.querySelectorAll("[data-region]");
  for (const part of parts) {
    const point = (on) => () => {
      scope.classList.toggle("pointing", on);
      for (const other of parts) other.classList.toggle("pointed", on && other.dataset.region === part.dataset.region);
    };
    part.addEventListener("pointerenter", point(true));
    part.addEventListener("pointerleave", point(false));
  }
}

// A picture that cannot be drawn says why.
for (const image of document.querySelectorAll("svg.photo image")) {
  image.addEventListener("error", () => {
    const note = document.createElement("div");
    note.className = "no";
    note.textContent = document.body.dataset.noPicture;
    image.closest("svg").replaceWith(note);
  });
}

// A search that is not through goes on by itself, while somebody is looking at its page.
if (document.querySelector("[data-again]")) {
  setTimeout(() => document.hidden || location.reload(), 400);
}

// Fields left empty are no part of a view's address.
for (const form of document.querySelectorAll("form.ask")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.value === "" || (field.name === "order" && field.value === "down")) field.disabled = true;
  });
}
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form.ask [disabled]")) field.disabled = false;
});
