// Elements, pictures and files in the browser.

export const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// A small copy, `side` high, as a blob; null if the browser can't show such files.
export async function shrunk(blob, side, type = "image/webp") {
  const bitmap = await createImageBitmap(blob, { resizeHeight: side, resizeQuality: "medium" })
    .catch(() => null);
  if (!bitmap) return null;
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, type, 0.9));
}

// The colour of a place of a picture, "#rrggbb".
export async function colourAt(source, { x, y }) {
  const bitmap = await createImageBitmap(source);
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d");
  pen.drawImage(bitmap, -Math.round(x * (bitmap.width - 1)), -Math.round(y * (bitmap.height - 1)));
  const [r, g, b] = pen.getImageData(0, 0, 1, 1).data;
  return "#" + [r, g, b].map((one) => one.toString(16).padStart(2, "0")).join("");
}

export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { download: name });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// A zip file of [name, blob], stored: pictures don't compress. Fields: APPNOTE.TXT, 4.3.7-4.3.16.
export async function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  const fields = (...list) => {  // [bytes, value], little-endian
    const view = new DataView(new ArrayBuffer(list.reduce((sum, [size]) => sum + size, 0)));
    let at = 0;
    for (const [size, value] of list) {
      size === 2 ? view.setUint16(at, value, true) : view.setUint32(at, value, true);
      at += size;
    }
    return view;
  };
  for (const [name, blob] of files) {
    const title = new TextEncoder().encode(name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    // Version 2.0, UTF-8 names, stored, no time, 1980-01-01.
    const entry = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, crc], [4, blob.size],
      [4, blob.size], [2, title.length], [2, 0]];
    parts.push(fields([4, 0x04034b50], ...entry), title, blob);
    directory.push(fields([4, 0x02014b50], [2, 20], ...entry, [2, 0], [2, 0], [2, 0], [4, 0],
      [4, offset]), title);
    offset += 30 + title.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length],
    [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
