// One campaign, live: its progress comes as a stream, and what can be done depends on its state.

import { Problem, get, post, stream } from "./api.js";
import { wave } from "./chart.js";
import { $, cell, confirm, duration, h, number, platform, rowHead, say, state, time, unanswered } from "./dom.js";

const ALLOWED = {
  created: ["start", "cancel"],
  running: ["pause", "cancel", "revoke"],
  sending: ["pause", "revoke"],
  paused: ["resume", "cancel", "revoke"],
  cancelled: ["revoke"],
  unknown: [],
};
const QUESTIONS = {
  start: (id, last) => ({ title: `Start ${id}?`, text: `It goes to ${number(last.expected)} devices.`, yes: "Start it" }),
  pause: (id) => ({ title: `Pause ${id}?`, text: "What is under way is still sent. It can be resumed.", yes: "Pause it" }),
  resume: (id, last) => ({ title: `Resume ${id}?`, text: `${number(last.remaining)} devices are left.`, yes: "Resume it" }),
  cancel: (id) => ({ title: `Cancel ${id}?`, text: "No further users are taken in; what is queued already is still sent. This cannot be undone.", yes: "Cancel it", danger: true }),
  revoke: (id, last) => ({ title: `Revoke ${id}?`, text: `Everything that was not sent is dropped: up to ${number(last.remaining)} devices get nothing. This cannot be undone.`, yes: "Revoke it", danger: true }),
};

let current = null;

export function leave() {
  if (current) current.control.abort();
  current = null;
}

export async function show(id) {
  const mine = (current = { id, control: new AbortController(), last: null });
  $("live-title").textContent = id;
  const campaign = await get(`/campaigns/${id}`);
  $("live-spec").textContent = JSON.stringify(campaign.spec, null, 2);
  mine.campaign = campaign;
  render(mine, await get(`/campaigns/${id}/progress`));
  watch(mine);
}

async function watch(mine) {
  for (let pause = 1000; mine === current; pause = Math.min(pause * 2, 15000)) {
    try {
      let over = false;
      await stream(`/campaigns/${mine.id}/events`, mine.control.signal, (event, data) => {
        pause = 1000;
        if (mine !== current) return;
        if (event === "progress") render(mine, data);
        if (event === "problem") link(data.detail);
        if (event === "end") over = true;
      });
      if (over) return link("");
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
    }
    if (mine === current) link("The connection is lost; trying again…");
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function link(text) {
  if ($("live-link").textContent !== text) $("live-link").textContent = text;
}

function render(mine, progress) {
  const before = mine.last && mine.last.state;
  mine.last = progress;
  if (before !== progress.state) {
    $("live-state").replaceWith(Object.assign(state(progress.state), { id: "live-state" }));
    if (before) $("live-said").textContent = `${mine.id} is ${progress.state}.`;
    buttons(progress.state);
  }
  link(["running", "sending"].includes(progress.state) ? "live" : "");
  unanswered($("live-unanswered"), progress.unanswered);
  $("live-bar").max = Math.max(progress.expected, 1);
  $("live-bar").value = progress.done;
  $("live-facts").replaceChildren(...facts(mine, progress));
  $("live-platforms").replaceChildren(...progress.platforms.map((each) =>
    h("tr", {}, rowHead(platform(each.platform)), cell(each.sent, "Sent"), cell(each.refused, "Refused"), cell(each.in_flight, "Under way"),
      cell(each.waiting, "Ready"), cell(each.delayed, "Later"))));
  $("live-servers").replaceChildren(...progress.servers.map(server));
  reasons(progress);
  wave($("live-wave"), progress.wave, Date.parse(progress.sampled));
}

function facts(mine, progress) {
  const sent = progress.platforms.reduce((sum, each) => sum + each.sent, 0);
  const refused = progress.platforms.reduce((sum, each) => sum + each.refused, 0);
  const share = progress.expected ? `${Math.floor((100 * progress.done) / progress.expected)} %` : "–";
  const moving = ["running", "sending"].includes(progress.state);
  const found = [
    ["Done", share], ["Devices", number(progress.expected)], ["Sent", number(sent)], ["Refused", number(refused)],
    ["Per second", moving && progress.rate !== null ? number(progress.rate) : "–"],
    ["Time left", moving && progress.eta_seconds !== null ? duration(progress.eta_seconds) : "–"],
    progress.ended ? ["Ended", time(progress.ended)] : ["Not after", time(mine.campaign.expires)],
  ];
  return found.map(([name, value]) => h("div", value instanceof Element ? { class: "wide" } : {}, h("dt", {}, name), h("dd", {}, value)));
}

function server(each) {
  if (!each.answered) {
    return h("tr", {}, rowHead(each.server), h("td", { class: "fault whole", colspan: 5 }, each.error));
  }
  const walks = each.baton && each.state === "running" ? " (walks now)" : "";
  return h("tr", {}, rowHead(each.server), h("td", { class: "whole" }, each.state + walks),
    cell(each.walked, "Walked"), cell(each.queued, "Queued"), cell(each.done, "Done"), cell(each.pending, "Pending"));
}

const SKIPPED = { filter: "not in the filter", no_notification: "no message for the platform", expired: "hours begin after the end", unknown_zone: "unknown time zone" };

function reasons(progress) {
  const refused = progress.platforms.flatMap((each) =>
    Object.entries(each.reasons).map(([word, devices]) => [platform(each.platform), word, devices]));
  const skipped = Object.entries(progress.skipped).map(([word, devices]) => ["Not queued", SKIPPED[word] || word, devices]);
  const rows = [...refused.sort((a, b) => b[2] - a[2]), ...skipped.filter((row) => row[2])];
  if (!rows.length) return $("live-reasons").replaceChildren(h("p", { class: "empty" }, "None so far."));
  $("live-reasons").replaceChildren(h("table", { class: "stack", "aria-labelledby": "reasons-title" }, h("tbody", {}, ...rows.map(([where, word, devices]) =>
    h("tr", {}, rowHead(word), h("td", {}, where), cell(devices))))));
}

function buttons(name) {
  const focused = document.activeElement;
  for (const button of $("live-actions").children) {
    button.hidden = !(ALLOWED[name] || []).includes(button.dataset.action);
  }
  // the button that had the focus may be gone: do not lose the place
  if (focused && focused.hidden) $("main").focus();
}

export async function act(action, asked = true) {
  const mine = current;
  if (asked && !(await confirm(QUESTIONS[action](mine.id, mine.last)))) return;
  for (const button of $("live-actions").children) button.disabled = true;
  try {
    say("");
    const done = await post(`/campaigns/${mine.id}/${action}`);
    $("live-said").textContent = `${mine.id} is ${done.state}.`;
    if (mine === current) {
      const alreadyOver = mine.last && ["done", "cancelled", "revoked"].includes(mine.last.state);
      render(mine, await get(`/campaigns/${mine.id}/progress`));
      // after the end of its stream
      if (alreadyOver) watch(mine);
    }
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(error.message);
  } finally {
    for (const button of $("live-actions").children) button.disabled = false;
  }
}

export function setUp() {
  $("live-actions").addEventListener("click", (event) => {
    const button = event.target.closest("[data-action]");
    if (button) act(button.dataset.action);
  });
  addEventListener("resize", () => {
    if (current && current.last) wave($("live-wave"), current.last.wave, Date.parse(current.last.sampled));
  });
}
