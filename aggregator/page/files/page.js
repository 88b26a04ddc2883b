// Keeps the page new: asks for it again and changes what differs. All of it is made, and escaped, by the server.

const EVERY = 1000, SLOWEST = 15000, GIVE_UP = 8000, SAID_FOR = 20000;
const main = document.getElementById("main");
const link = document.getElementById("link");
const hold = document.getElementById("hold");
const ask = document.getElementById("ask");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
let held = false, pause = EVERY, timer = 0, turn = 0, saidAt = 0;

// Server times become those of this computer.
function localise(root) {
  for (const each of root.querySelectorAll("time[datetime]")) each.textContent = clock.format(new Date(each.dateTime));
}

const keyOf = (node) => (node.nodeType === 1 ? node.dataset.key || node.id || "" : "");
const alike = (one, two) => one.nodeType === two.nodeType && one.nodeName === two.nodeName && keyOf(one) === keyOf(two);

// Makes `old` say what `fresh` says; elements stay, so that focus, selection and what is folded up do too.
function morph(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "style") old.removeAttribute(name);
  }
  const keyed = new Map();
  for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const known = keyOf(child) ? keyed.get(keyOf(child)) : place && !keyOf(place) ? place : null;
    if (known && alike(known, child)) {
      keyed.delete(keyOf(child));
      if (known === place) place = place.nextSibling;
      else old.insertBefore(known, place);
      morph(known, child);
    } else {
      old.insertBefore(child, place);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

// What was high once stays so, or the rest of the page would jump up and down.
function steady() {
  for (const each of main.querySelectorAll(".steady")) {
    const before = parseFloat(each.style.minHeight) || 0;
    if (each.offsetHeight > before) each.style.minHeight = `${each.offsetHeight}px`;
  }
}

// Only changes of state are read out, not each number.
function states(root) {
  return new Map([...root.querySelectorAll("[data-route]")].map((each) => [each.dataset.route, [each.dataset.state, each.dataset.why]]));
}

function tell(before, after, fresh) {
  const said = fresh.querySelector("#said");
  if (!said) return;
  const told = [...after].filter(([name, [state]]) => before.has(name) && before.get(name)[0] !== state);
  if (told.length) said.textContent = told.map(([name, [state, why]]) => `${name} is ${state}. ${why}`).join(" ");
  const old = document.getElementById("said").textContent;
  if (said.textContent && said.textContent !== old) saidAt = Date.now();
  else if (Date.now() - saidAt < SAID_FOR) said.textContent = old;
}

function reached(text, lost) {
  if (link.textContent !== text) link.textContent = text;
  link.classList.toggle("lost", lost);
  document.documentElement.classList.toggle("stale", lost);
}

async function refresh(shownAnyway) {
  const mine = ++turn;
  try {
    const options = { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(GIVE_UP) };
    const response = await fetch(location.href, options);
    if (!response.ok) throw new Error(response.status);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("main");
    if (mine !== turn || !fresh || (held && !shownAnyway)) return;
    localise(fresh);
    const before = states(main);
    tell(before, states(fresh), fresh);
    morph(main, fresh);
    if (document.title !== page.title) document.title = page.title;
    steady();
    reached("live", false);
    pause = EVERY;
  } catch {
    pause = Math.min(pause * 2, SLOWEST);
    if (mine === turn) reached("The service does not answer; trying again…", true);
  }
}

async function run() {
  clearTimeout(timer);
  if (!held && !document.hidden && !(ask && ask.open)) await refresh(false);
  clearTimeout(timer);
  timer = setTimeout(run, pause);
}

function confirmed(question) {
  if (!question) return Promise.resolve(true);
  document.getElementById("question").textContent = question;
  ask.returnValue = "no";
  ask.showModal();
  return new Promise((resolve) => ask.addEventListener("close", () => resolve(ask.returnValue === "yes"), { once: true }));
}

async function act(form) {
  if (!(await confirmed(form.dataset.ask))) return;
  let said;
  try {
    const options = { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { accept: "application/json" }, credentials: "same-origin" };
    const response = await fetch(form.action, options);
    const text = await response.text();
    said = response.headers.get("content-type") === "application/json" ? JSON.parse(text).said : text;
  } catch {
    said = "The service cannot be reached.";
  }
  document.getElementById("said").textContent = said;
  saidAt = Date.now();
  await refresh(true);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || form.dataset.plain !== undefined) return;
  event.preventDefault();
  act(form);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

localise(document);
if (main.dataset.live !== undefined) {
  hold.hidden = false;
  hold.addEventListener("click", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    hold.textContent = held ? "Go on" : "Hold still";
    reached(held ? "held still" : "live", false);
    if (!held) run();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) run();
  });
  addEventListener("resize", () => {
    for (const each of main.querySelectorAll(".steady")) each.style.minHeight = "";
    steady();
  });
  steady();
  reached("live", false);
  timer = setTimeout(run, pause);
}
