/* Light or dark: what the user chose here, else what the system says. Runs before anything is drawn. */
"use strict";
(function () {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  function chosen() {
    try { return localStorage.getItem("fmware-theme"); } catch (error) { return null; }
  }
  function apply() {
    document.documentElement.dataset.theme = chosen() || (system.matches ? "dark" : "light");
    document.dispatchEvent(new Event("fmware-theme"));
  }
  window.fmwareToggleTheme = function () {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("fmware-theme", next); } catch (error) { /* storage may be blocked: lasts for this page */ }
    document.documentElement.dataset.theme = next;
    document.dispatchEvent(new Event("fmware-theme"));
  };
  system.addEventListener("change", apply);
  apply();
})();
