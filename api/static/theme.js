// Light or dark before the first paint. A plain script: modules run too late and would flash.
document.documentElement.dataset.theme = localStorage.getItem("omni.theme") ?? "auto";
