// The text of a PDF, page by page.

import { getDocument, GlobalWorkerOptions } from "../vendor/pdf.js";

GlobalWorkerOptions.workerSrc = new URL("../vendor/pdf.worker.js", import.meta.url).href;
const CMAPS = new URL("../vendor/cmaps/", import.meta.url).href; // what the codes of Chinese, Japanese and Korean fonts stand for

/** Rejects if the bytes are no PDF, or one that needs a password. */
export async function textOfPdf(bytes) {
  const plain = { useWasm: false, isEvalSupported: false, disableFontFace: true, verbosity: 0 };
  const task = getDocument({ data: bytes, cMapUrl: CMAPS, cMapPacked: true, ...plain });
  try {
    const file = await task.promise;
    const pages = [];
    for (let number = 1; number <= file.numPages; number += 1) {
      const { items } = await (await file.getPage(number)).getTextContent();
      pages.push(items.map(({ str, hasEOL }) => str + (hasEOL ? "\n" : "")).join(""));
    }
    return pages.join("\n\n");
  } finally {
    await task.destroy();
  }
}
