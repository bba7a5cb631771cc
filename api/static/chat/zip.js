// Single files out of a zip archive, which is not read as a whole: an export may hold gigabytes of pictures.

const END = 0x06054b50; // of the archive: where its list of files begins
const ENTRY = 0x02014b50;
const END_LENGTH = 22;
const MAX_COMMENT = 65_535;
const BY_DEFLATE = 8;

/** The texts of the files whose names match, in the order of the list. Throws an Error if there is no such list. */
export async function textsOf(file, pattern) {
  const found = [];
  for (const { name, ...place } of await listed(file)) if (pattern.test(name)) found.push(await textAt(file, place));
  return found;
}

const view = async (part) => new DataView(await part.arrayBuffer());

async function listed(file) {
  const tail = await view(file.slice(-END_LENGTH - MAX_COMMENT));
  let at = tail.byteLength - END_LENGTH;
  while (at >= 0 && tail.getUint32(at, true) !== END) at -= 1;
  if (at < 0) throw new Error("This is not a zip archive.");
  const [length, begin] = [tail.getUint32(at + 12, true), tail.getUint32(at + 16, true)];
  const list = await view(file.slice(begin, begin + length));
  const entries = [];
  for (let from = 0; from + 46 <= list.byteLength && list.getUint32(from, true) === ENTRY; ) {
    const nameLength = list.getUint16(from + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(list.buffer, from + 46, nameLength));
    const [method, size, begin] = [list.getUint16(from + 10, true), list.getUint32(from + 20, true), list.getUint32(from + 42, true)];
    entries.push({ name, method, size, begin });
    from += 46 + nameLength + list.getUint16(from + 30, true) + list.getUint16(from + 32, true);
  }
  return entries;
}

async function textAt(file, { method, size, begin }) {
  const head = await view(file.slice(begin, begin + 30));
  const from = begin + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  const packed = file.slice(from, from + size);
  const plain = method === BY_DEFLATE ? packed.stream().pipeThrough(new DecompressionStream("deflate-raw")) : packed.stream();
  return new Response(plain).text();
}
