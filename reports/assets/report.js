"use strict";

// The leaderboard: a click on a head sorts, the fields above filter.
(() => {
  const table = document.querySelector("#rows");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, index) => {
    const value = row.cells[index].dataset.value;
    const number = Number(value);
    return value === "" ? null : Number.isNaN(number) ? value : number;
  };
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a, index), key(b, index)];
        // What is absent stays at the end, whichever way.
        if (x === null || y === null) return (x === null) - (y === null);
        if (typeof x === typeof y && typeof x === "number") return sign * (x - y);
        return sign * String(x).localeCompare(String(y));
      });
      body.append(...rows);
    });
  });
  const words = document.querySelector("#words");
  const state = document.querySelector("#state");
  const count = document.querySelector("#count");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      const fits = wanted.every((word) => text.includes(word));
      row.hidden = !(fits && (!state.value || row.dataset.state === state.value));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${body.rows.length} rows`;
  };
  words.addEventListener("input", filter);
  state.addEventListener("change", filter);
  filter();
})();

// The figures: each is drawn when it comes into view, in the colours of the page.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of("--ink"), line: of("--line") };
  };
  const themed = (layout) => {
    const { ink, line } = colours();
    const made = { ...layout, paper_bgcolor: "transparent", plot_bgcolor: "transparent" };
    made.font = { ...(layout.font || {}), color: ink };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) {
        const lines = { gridcolor: line, zerolinecolor: line, linecolor: line };
        made[name] = { ...layout[name], ...lines, automargin: true, exponentformat: "e" };
      }
    }
    return made;
  };
  const draw = (place) => {
    const { data, layout } = JSON.parse(document.getElementById(`${place.id}-data`).textContent);
    const small = innerWidth < 600;
    const margin = { l: 60, r: 16, t: 16, b: 48, ...(layout.margin || {}) };
    const legend = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 };
    const whole = { ...layout, margin, legend, autosize: true };
    const named = data.filter((trace) => trace.name && trace.showlegend !== false).length;
    // Of many, names show where the pointer is.
    if (named > (small ? 3 : 8)) whole.showlegend = false;
    // A finger on a figure moves the page.
    if (small) whole.dragmode = false;
    const config = { responsive: true, displayModeBar: false };
    Plotly.react(place, data, themed(whole), config);
    drawn.add(place);
  };
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !drawn.has(target)) draw(target);
    }
  }, { rootMargin: "300px" });
  document.querySelectorAll(".figure").forEach((place) => seen.observe(place));
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => document.querySelectorAll(".figure").forEach(draw));
})();
