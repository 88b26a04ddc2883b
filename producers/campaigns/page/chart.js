// The wave over the time zones: devices that had to wait, by the moment their hours begin.

import { h, number } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 170, TOP = 22, BOTTOM = 24, LEFT = 8, RIGHT = 8;
const HOUR = 3600e3;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit" });

function shape(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function wave(figure, bars, now) {
  const told = JSON.stringify([bars, Math.floor(now / 60e3), figure.clientWidth]);
  if (figure.dataset.told === told) return;
  figure.dataset.told = told;
  if (!bars.length) {
    figure.replaceChildren(h("p", { class: "empty" }, "No device has to wait for its hours."));
    return;
  }
  const width = Math.max(figure.clientWidth, 240);
  const times = bars.map((bar) => Date.parse(bar.at));
  const begin = Math.min(...times, now) - HOUR / 2, end = Math.max(...times, now) + HOUR;
  const x = (moment) => LEFT + ((moment - begin) / (end - begin)) * (width - LEFT - RIGHT);
  const most = Math.max(...bars.map((bar) => bar.devices));
  const floor = HEIGHT - BOTTOM;
  const thick = Math.max(Math.min((x(begin + HOUR) - x(begin)) * 0.8, 36), 3);
  const total = bars.reduce((sum, bar) => sum + bar.devices, 0);
  const waiting = bars.filter((bar) => !bar.open).reduce((sum, bar) => sum + bar.devices, 0);
  const title = `${number(total)} devices in ${bars.length} windows; ${number(waiting)} still wait`;

  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title });
  bars.forEach((bar, index) => {
    const height = Math.max(((floor - TOP) * bar.devices) / most, 2);
    const rect = shape("rect", {
      class: bar.open ? "bar open" : "bar", x: x(times[index]), y: floor - height, width: thick, height, rx: 2,
    });
    rect.append(shape("title", {}, `${day.format(times[index])}: ${number(bar.devices)}`));
    svg.append(rect);
  });
  svg.append(shape("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: floor + 0.5, y2: floor + 0.5 }));
  ticks(begin, end, width, x).forEach((moment) => {
    svg.append(shape("line", { class: "axis", x1: x(moment), x2: x(moment), y1: floor, y2: floor + 4 }));
    svg.append(shape("text", { x: x(moment), y: HEIGHT - 6, "text-anchor": "middle" }, clock.format(moment)));
  });
  const at = x(now);
  svg.append(shape("line", { class: "now", x1: at, x2: at, y1: TOP - 6, y2: floor }));
  svg.append(shape("text", { class: "now-label", x: at, y: 11, "text-anchor": at < 20 ? "start" : at > width - 20 ? "end" : "middle" }, "now"));

  const rows = bars.map((bar, index) =>
    h("tr", {}, h("th", { scope: "row" }, day.format(times[index])), h("td", { class: "number" }, number(bar.devices)), h("td", {}, bar.open ? "open" : "waits")));
  figure.replaceChildren(
    svg,
    h("figcaption", {},
      h("p", {}, h("span", { class: "key" }), "wait for their hours", h("span", { class: "key open" }), "hours have begun"),
      h("p", {}, `${title}. Times are those of this computer.`)),
    h("details", {}, h("summary", {}, "As a table"), h("table", {}, h("tbody", {}, ...rows))),
  );
}

// Full hours, so many that their labels do not touch.
function ticks(begin, end, width, x) {
  const step = [1, 2, 3, 4, 6, 12, 24, 48, 96].find((hours) => x(begin + hours * HOUR) - x(begin) > 74) || 192;
  const first = new Date(begin);
  first.setHours(0, 0, 0, 0);
  const found = [];
  for (let moment = first.getTime(); moment < end; moment += step * HOUR) {
    const at = x(moment);
    if (moment > begin && at > 30 && at < width - 30) found.push(moment);
  }
  return found;
}
