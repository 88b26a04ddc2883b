// Which of the page's parts is shown: by what stands behind the # of its address.

import { Problem, get, token } from "./api.js";
import { $, cell, h, rowHead, say, state, time, unanswered } from "./dom.js";
import * as form from "./form.js";
import * as live from "./live.js";

const PARTS = ["login", "list", "new", "live"];
const LIST_EVERY = 5000;
let timer = 0;

function part(name) {
  for (const each of PARTS) $(each).hidden = each !== name;
  $("nav").hidden = name === "login";
}

async function list() {
  const { campaigns, unanswered: silent } = await get("/campaigns");
  $("list-empty").hidden = campaigns.length > 0;
  $("list-table").hidden = !campaigns.length;
  const focused = document.activeElement && document.activeElement.getAttribute("href");
  $("list-rows").replaceChildren(...campaigns.map((each) =>
    h("tr", {},
      rowHead(h("a", { href: `#/campaign/${each.id}` }, each.id)),
      h("td", { "data-label": "State" }, state(each.state)),
      cell(Object.values(each.expected).reduce((sum, devices) => sum + devices, 0), "Devices"),
      h("td", { class: "whole", "data-label": "Created" }, time(each.created)))));
  if (focused) $("list-rows").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  unanswered($("list-unanswered"), silent);
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) {
      token.clear();
      await route();
      say("This token is not known here.");
    } else {
      say(error.message);
    }
  }
}

async function route() {
  clearInterval(timer);
  live.leave();
  say("");
  if (!token.get()) {
    part("login");
    document.title = "Push campaigns";
    return $("token").focus();
  }
  const [, where, id] = location.hash.split("/");
  if (where === "new") {
    part("new");
    document.title = "New campaign";
    return form.show();
  }
  if (where === "campaign" && id) {
    part("live");
    document.title = `${decodeURIComponent(id)} – push campaigns`;
    return guarded(() => live.show(decodeURIComponent(id)));
  }
  part("list");
  document.title = "Push campaigns";
  timer = setInterval(() => {
    if (!document.hidden) guarded(list);
  }, LIST_EVERY);
  return guarded(list);
}

$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("login-form").reset();
  route();
});
$("logout").addEventListener("click", () => {
  token.clear();
  location.hash = "#/";
  route();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
addEventListener("hashchange", () => {
  scrollTo(0, 0);
  route();
});
form.setUp();
live.setUp();
route();
