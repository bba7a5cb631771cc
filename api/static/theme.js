// Sets light or dark before the first paint. A plain script, because a module would run after it.
document.documentElement.dataset.theme = localStorage.getItem("omni.theme") ?? "auto";
