"use strict";
const form = document.querySelector(".filters");
const cards = [...document.querySelectorAll(".card")];
const texts = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));

function chosen(name) {
  return form.elements[name] ? form.elements[name].value : "";
}

function filter() {
  const words = chosen("words").toLowerCase().split(/\s+/).filter(Boolean);
  const [list, kind, change] = ["list", "kind", "change"].map(chosen);
  const found = cards.filter(
    (card) =>
      (!list || list in card.dataset) &&
      (!kind || card.dataset.kinds.split(" ").includes(kind)) &&
      (!change || card.dataset.change === change) &&
      words.every((word) => texts.get(card).includes(word)),
  );
  if (list) found.sort((one, other) => one.dataset[list] - other.dataset[list]);
  for (const card of cards) card.hidden = true;
  for (const card of found) {
    card.hidden = false;
    card.parentElement.append(card);
  }
  for (const group of document.querySelectorAll(".kind")) group.hidden = kind && group.dataset.kind !== kind;
  form.querySelector("output").textContent = found.length === 1 ? "1 puzzle" : `${found.length} puzzles`;
}

function follow() {
  const card = document.getElementById(location.hash.slice(1));
  if (!card || !card.classList.contains("card")) return;
  if (card.hidden) {
    form.reset();
    filter();
  }
  card.open = true;
  card.scrollIntoView({ block: "start" });
}

if (form) {
  const shown = new Set(cards.map((card) => `#${card.id}`));
  for (const link of document.querySelectorAll('.card a[href^="#pair-"]')) {
    if (!shown.has(link.getAttribute("href"))) link.removeAttribute("href");
  }
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  window.addEventListener("hashchange", follow);
  filter();
  follow();
}
