// What the pages do in the browser beside htmx: theme, copying, relative times, honest live regions. Every page works
// without this file; nothing here talks to the server.
(() => {
  "use strict";
  const root = document.documentElement;

  // ---- theme
  const systemIsDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark());
  const describeTheme = () => {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.hidden = false;
      button.setAttribute("aria-label", isDark() ? "Use the light theme" : "Use the dark theme");
    }
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const next = isDark() ? "light" : "dark";
    root.dataset.theme = next;
    try { localStorage.setItem("modelfleet-theme", next); } catch { /* chosen for this page only */ }
    describeTheme();
  });

  // ---- copying
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy";
    }
    setTimeout(() => { button.textContent = said; }, 1600);
  });

  // ---- relative times: the server writes them; an open page keeps them true
  const words = (seconds) => {
    const past = seconds >= 0;
    const span = Math.abs(seconds);
    if (span < 5) return "now";
    const text = span < 60 ? `${Math.floor(span)} s`
      : span < 3600 ? `${Math.floor(span / 60)} min`
      : span < 86400 ? `${Math.floor(span / 3600)} h`
      : `${Math.floor(span / 86400)} d`;
    return past ? `${text} ago` : `in ${text}`;
  };
  const skew = (() => {
    const told = Date.parse(document.querySelector("meta[name=server-time]")?.content ?? "");
    return Number.isNaN(told) ? 0 : Date.now() - told;
  })();
  const refreshTimes = () => {
    for (const element of document.querySelectorAll("time[data-relative]")) {
      element.textContent = words((Date.now() - skew - Date.parse(element.dateTime)) / 1000);
    }
  };
  setInterval(refreshTimes, 5000);

  // ---- live regions: quiet while nobody looks, and honest when the server does not answer
  const lostNotice = () => document.getElementById("connection-lost");
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.detail.elt.hasAttribute("data-live")) event.preventDefault();
  });
  const lost = (event) => {
    if (!event.detail.elt.hasAttribute("data-live")) return;
    const notice = lostNotice();
    if (notice) notice.hidden = false;
    root.classList.add("is-stale");
  };
  document.addEventListener("htmx:sendError", lost);
  document.addEventListener("htmx:responseError", lost);
  document.addEventListener("htmx:timeout", lost);
  document.addEventListener("htmx:afterSwap", () => {
    const notice = lostNotice();
    if (notice) notice.hidden = true;
    root.classList.remove("is-stale");
    refreshTimes();
  });

  // ---- a form that was sent is not sent twice
  document.addEventListener("submit", (event) => {
    const button = event.target.querySelector("button[type=submit][data-once]");
    if (button) setTimeout(() => { button.disabled = true; }, 0);
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) for (const button of document.querySelectorAll("button[data-once]")) button.disabled = false;
  });

  describeTheme();
})();
