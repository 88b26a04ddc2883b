// Small helpers: elements, numbers, times, questions. Nothing here puts text in as HTML.

export const $ = (id) => document.getElementById(id);

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const whole = new Intl.NumberFormat();
export const number = (value) => whole.format(Math.round(value));

const shortTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
export const time = (text) => h("time", { datetime: text }, shortTime.format(new Date(text)));

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(Math.ceil(seconds), 0)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const PLATFORMS = { apns: "Apple", fcm: "Android, web" };
export const platform = (name) => PLATFORMS[name] || name;

export function state(name) {
  return h("span", { class: `state ${name}` }, name);
}

// In a narrow window the label stands before the value.
export const cell = (value, label) => h("td", { class: "number", "data-label": label }, number(value));
export const rowHead = (...children) => h("th", { scope: "row" }, ...children);

export function say(text) {
  $("alert").textContent = text || "";
  $("alert").hidden = !text;
  if (text) $("alert").scrollIntoView({ block: "nearest" });
}

export function unanswered(element, faults) {
  element.hidden = !faults.length;
  const text = faults.map((each) => `${each.server}: ${each.error}`).join("\n");
  const told = faults.length === 1 ? "One server does not answer" : `${faults.length} servers do not answer`;
  if (faults.length && element.textContent !== `${told}.\n${text}`) element.textContent = `${told}.\n${text}`;
}

// Asks before something is done; resolves to true or false. The safe answer has the focus.
export function confirm({ title, text, yes, danger }) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  $("confirm-yes").className = `button primary${danger ? " danger" : ""}`;
  $("confirm-no").textContent = "No, go back";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
