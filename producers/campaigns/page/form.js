// A new campaign: written, checked with a count of devices, and only then created.

import { Problem, post } from "./api.js";
import { $, confirm, h, number, platform, say } from "./dom.js";

const MOST = 4096;
const encoder = new TextEncoder();
const size = (value) => encoder.encode(JSON.stringify(value)).length;

let key = "";
let checked = null;

export function show() {
  key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  forget();
  $("title").focus();
}

function parsed(id) {
  const text = $(id).value.trim();
  return text ? JSON.parse(text) : null;
}

// With one payload it is everybody's; otherwise it is by language already.
function variants(value) {
  const several = value && value.default && typeof value.default === "object" && "payload" in value.default;
  return several ? value : { default: { payload: value } };
}

function simple() {
  const title = $("title").value, body = $("body").value, form = $("form");
  const found = {};
  const alert = title ? { title, body } : { body };
  if (form.elements.apns.checked) found.apns = { default: { payload: { aps: { alert, sound: "default" } } } };
  if (form.elements.fcm.checked) found.fcm = { default: { payload: { notification: alert } } };
  return found;
}

function notifications() {
  if ($("form").elements.mode.value === "simple") return simple();
  const found = {};
  for (const name of ["apns", "fcm"]) {
    const value = parsed(`payload-${name}`);
    if (value !== null) found[name] = variants(value);
  }
  return found;
}

const list = (id) => $(id).value.split(",").map((word) => word.trim()).filter(Boolean);

function spec() {
  const found = { notifications: notifications(), filter: {} };
  const collapse = $("collapse").value.trim();
  if (collapse && found.notifications.apns) {
    for (const each of Object.values(found.notifications.apns)) each.collapse_id ??= collapse;
  }
  const filter = { version_from: $("version-from").value.trim(), version_to: $("version-to").value.trim() };
  for (const [name, value] of Object.entries(filter)) if (value) found.filter[name] = value;
  for (const name of ["language", "tz", "resolution"]) if (list(name).length) found.filter[name] = list(name);
  found.quiet = $("quiet").checked ? { from: $("quiet-from").value, to: $("quiet-to").value } : null;
  found.use_preferred_hours = $("preferred").checked;
  found.dry_run = $("dry").checked;
  if ($("rate").value) found.rate = Number($("rate").value);
  if ($("expires").value) found.expires = new Date($("expires").value).toISOString();
  for (const [id, name] of [["name", "id"], ["app", "app"]]) if ($(id).value.trim()) found[name] = $(id).value.trim();
  return found;
}

function sizes() {
  for (const name of ["apns", "fcm"]) {
    const output = $(`size-${name}`);
    let text = "", over = false;
    try {
      const each = notifications()[name];
      if (each) {
        const bytes = Math.max(...Object.values(each).map((one) => size(one.payload)));
        over = bytes > MOST;
        text = `${platform(name)}: ${number(bytes)} of ${number(MOST)} bytes${over ? ", too long" : ""}`;
      }
    } catch {
      text = `${platform(name)}: no JSON yet`;
      over = true;
    }
    output.textContent = text;
    output.classList.toggle("over", over);
  }
}

// What was counted holds no longer.
function forget() {
  checked = null;
  $("checked").hidden = true;
  say("");
  for (const element of $("form").querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
  for (const element of $("form").querySelectorAll(".fault")) element.remove();
  for (const element of $("form").querySelectorAll("[data-hint]")) {
    const hint = element.dataset.hint;
    if (hint) element.setAttribute("aria-describedby", hint);
    else element.removeAttribute("aria-describedby");
    delete element.dataset.hint;
  }
}

function fault(element, text) {
  const id = `${element.id}-fault`;
  if ($(id)) return;
  element.setAttribute("aria-invalid", "true");
  element.dataset.hint = element.getAttribute("aria-describedby") || "";
  element.setAttribute("aria-describedby", `${id} ${element.dataset.hint}`.trim());
  element.closest(".field").append(h("span", { class: "fault", id }, text));
  const details = element.closest("details");
  if (details) details.open = true;
}

function place(field) {
  if (field.startsWith("notifications") && $("form").elements.mode.value === "simple") return $("body");
  const all = [...$("form").querySelectorAll("[data-field]")];
  return all.find((element) => field === element.dataset.field || field.startsWith(`${element.dataset.field}.`))
    || all.find((element) => field.endsWith(`.${element.dataset.field}`) || element.dataset.field.startsWith(`${field}.`));
}

function tell(problem) {
  const placed = problem.errors.map((each) => [place(each.field), each]).filter(([element]) => element);
  placed.forEach(([element, each]) => fault(element, each.problem));
  const other = problem.errors.length - placed.length;
  say(placed.length && !other ? "Something is to be mended below." : problem.message);
  if (placed.length) placed[0][0].focus();
}

function wrong() {
  const form = $("form");
  if (form.elements.mode.value === "simple") {
    if (!$("title").value.trim() && !$("body").value.trim()) return [$("body"), "A title or a text is needed."];
    if (!form.elements.apns.checked && !form.elements.fcm.checked) return [$("body"), "A platform is needed."];
    return null;
  }
  for (const name of ["apns", "fcm"]) {
    try {
      parsed(`payload-${name}`);
    } catch (error) {
      return [$(`payload-${name}`), `This is no JSON: ${error.message}`];
    }
  }
  return $("payload-apns").value.trim() || $("payload-fcm").value.trim() ? null : [$("payload-apns"), "A payload is needed."];
}

async function check(event) {
  event.preventDefault();
  forget();
  const found = wrong();
  if (found) {
    fault(...found);
    return found[0].focus();
  }
  $("check").disabled = true;
  try {
    const asked = spec();
    const counted = await post("/campaigns/dry-run", asked);
    checked = { asked, counted };
    $("checked-title").textContent = counted.devices ? `${number(counted.devices)} devices would get it` : "No device matches";
    $("checked-platforms").replaceChildren(...Object.entries(counted.platforms).map(([name, devices]) =>
      h("div", {}, h("dt", {}, platform(name)), h("dd", {}, number(devices)))));
    const zones = counted.unknown_zones;
    $("checked-zones").hidden = !zones.length;
    $("checked-zones").textContent = `Devices with these time zones, which nobody knows, count as UTC: ${zones.join(", ")}`;
    for (const id of ["create", "create-start"]) $(id).hidden = !counted.devices;
    $("checked").hidden = false;
    $("checked").focus();
    $("checked").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    tell(error);
  } finally {
    $("check").disabled = false;
  }
}

async function create(start) {
  const { asked, counted } = checked;
  if (start && !(await confirm({
    title: "Create and start?", text: `It goes to ${number(counted.devices)} devices at once, or when their hours begin.`, yes: "Start it",
  }))) return;
  try {
    const campaign = await post("/campaigns", asked, { "idempotency-key": key });
    if (start) await post(`/campaigns/${campaign.id}/start`);
    $("form").reset();
    toggle();
    location.hash = `#/campaign/${campaign.id}`;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    tell(error);
  }
}

function toggle() {
  const json = $("form").elements.mode.value === "json";
  if (json && !$("payload-apns").value && !$("payload-fcm").value && ($("title").value || $("body").value)) {
    const made = simple();
    for (const name of ["apns", "fcm"]) if (made[name]) $(`payload-${name}`).value = JSON.stringify(made[name].default.payload, null, 2);
  }
  $("simple").hidden = json;
  $("json").hidden = !json;
  $("quiet-hours").hidden = !$("quiet").checked;
  sizes();
}

export function setUp() {
  for (const [id, chosen] of [["quiet-from", 22], ["quiet-to", 8]]) {
    for (let hour = 0; hour < 24; hour += 1) {
      const text = `${String(hour).padStart(2, "0")}:00`;
      const option = h("option", { value: text }, text);
      option.defaultSelected = hour === chosen;
      $(id).append(option);
    }
  }
  if (Intl.supportedValuesOf) {
    $("zones").append(...Intl.supportedValuesOf("timeZone").map((name) => h("option", { value: name })));
  }
  $("form").addEventListener("submit", check);
  $("form").addEventListener("input", () => {
    forget();
    toggle();
  });
  $("create").addEventListener("click", () => create(false));
  $("create-start").addEventListener("click", () => create(true));
  toggle();
}
