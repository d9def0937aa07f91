// Runs before the first paint, so that a chosen theme never flashes the other one. Without a choice the system decides.
(() => {
  try {
    const chosen = localStorage.getItem("modelfleet-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* storage is switched off: the system's theme it is */ }
})();
