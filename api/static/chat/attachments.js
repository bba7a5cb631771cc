// Files beside a message: images as they are or scaled, text files and PDFs as their text. What cannot be taken is said by name.

import { grouped } from "./numbers.js";

const MAX_IMAGES = 8; // of a request, as the server has it
const MAX_KEPT_BYTES = 2 ** 20; // a larger picture is saved anew; the server takes 4 MiB
const MAX_IMAGES_BYTES = 5_000_000; // of a conversation: a request of 8 MiB holds them in base64, and its text
const MAX_SIDE = 2048;
const MAX_FILE_BYTES = 20_000_000;
const MAX_CHARACTERS = 1_000_000;
const KEPT_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];

export const LIMITS =
  "Images (up to 8, scaled to 2048 pixels), text files and PDFs (as their text), up to 20 MB and 1,000,000 characters each.";
export const TEXT_LIMITS = "Text files and PDFs (as their text), up to 20 MB and 1,000,000 characters each.";

/** A message for the person whose file is refused. */
export class Refusal extends Error {}

/** The attachment of a file: {kind: "image", name, type, url, bytes} or {kind: "text", name, text}. `noImages`: why images
 * cannot be taken, or "". Throws Refusal. */
export async function readAttachment(file, noImages) {
  if (file.size > MAX_FILE_BYTES) throw new Refusal(`${file.name} has ${megabytes(file.size)}; a file may have 20 MB.`);
  if (file.size === 0) throw new Refusal(`${file.name} is empty.`);
  const isImage = file.type.startsWith("image/") && file.type !== "image/svg+xml";
  if (isImage && noImages) throw new Refusal(`${file.name} is an image. ${noImages}`);
  if (isImage) return readImage(file);
  const isPdf = file.type === "application/pdf" || /\.pdf$/i.test(file.name);
  const text = isPdf ? await readPdf(file) : await readText(file);
  if (text.length > MAX_CHARACTERS) {
    throw new Refusal(`${file.name} has ${grouped(text.length)} characters; 1,000,000 are allowed. Attach a part of it.`);
  }
  return { kind: "text", name: file.name, text };
}

/** Throws Refusal if a conversation cannot hold one more image. `held`: the attachments that it has. */
export function checkRoom(attachment, held) {
  if (attachment.kind !== "image") return;
  const images = held.filter(({ kind }) => kind === "image");
  if (images.length >= MAX_IMAGES) throw new Refusal(`A conversation may have ${MAX_IMAGES} images. Start a new chat for ${attachment.name}.`);
  const bytes = images.reduce((sum, image) => sum + image.bytes, attachment.bytes);
  if (bytes > MAX_IMAGES_BYTES) throw new Refusal(`${attachment.name} makes this conversation's images larger than 5 MB. Start a new chat, or attach a smaller one.`);
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

async function readImage(file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Refusal(`${file.name} cannot be read as an image. Use PNG, JPEG, WebP or GIF.`);
  });
  const scale = Math.min(1, MAX_SIDE / Math.max(picture.width, picture.height));
  const isKept = scale === 1 && KEPT_TYPES.includes(file.type) && file.size <= MAX_KEPT_BYTES;
  const blob = isKept ? file : await scaled(picture, scale, file.type);
  picture.close();
  return { kind: "image", name: file.name, type: blob.type, url: await dataUrl(blob), bytes: blob.size };
}

/** A PNG stays one if it is small: drawings keep their edges. */
async function scaled(picture, scale, type) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  const draw = () => context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const save = (kind) => new Promise((resolve) => canvas.toBlob(resolve, kind, 0.85));
  draw();
  const png = type === "image/jpeg" ? null : await save("image/png");
  if (png && png.size <= MAX_KEPT_BYTES) return png;
  context.fillStyle = "white"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  draw();
  return save("image/jpeg");
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

async function readText(file) {
  const bytes = await file.arrayBuffer();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // said below
  }
  throw new Refusal(`${file.name} is neither an image, a PDF nor text in UTF-8. Save it as one of these.`);
}

/** The reader of PDFs is fetched with the first PDF. */
async function readPdf(file) {
  const { textOfPdf } = await import("./pdf_text.js");
  const text = await textOfPdf(await file.arrayBuffer()).catch((error) => {
    throw new Refusal(`${file.name} cannot be read as a PDF: ${error.message}`);
  });
  if (text.trim()) return text;
  throw new Refusal(`${file.name} has no text, only pictures of its pages. Attach the pages as images.`);
}

/** A message's content in the API's form: a text, or parts if there are images and the model reads them. */
export function contentOf({ content, attachments = [] }, isTextOnly = false) {
  const images = attachments.filter(({ kind }) => kind === "image");
  const left = isTextOnly ? images.map(({ name }) => `(The image ${name} was shown to another model; you cannot see it.)`) : [];
  const texts = attachments.filter(({ kind }) => kind === "text").map(({ name, text, whole }) => {
    const end = whole ? `(${name} goes on; these are ${text.length} of its ${whole} characters)` : `(end of ${name})`;
    return `File ${name}:\n\n${text}\n\n${end}`;
  });
  const text = [...left, ...texts, content].filter(Boolean).join("\n\n");
  if (images.length === 0 || isTextOnly) return text;
  const parts = images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return text ? [...parts, { type: "text", text }] : parts;
}
