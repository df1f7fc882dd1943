// Frames: docs/protocol.md, "Frames". Integers of 64 bits are BigInt on this side.

import { decode, encode } from "@msgpack/msgpack";

const MAGIC = "MRLC";
const MAJOR = 1;
const PREFIX = 16;
const MOST_BYTES = 1 << 20;

const ARRAYS = {
  "<f4": Float32Array,
  "<f8": Float64Array,
  "<i4": Int32Array,
  "<i8": BigInt64Array,
  "<u2": Uint16Array,
  "<u4": Uint32Array,
  "<u8": BigUint64Array,
  "|u1": Uint8Array,
  "|i1": Int8Array,
  "|b1": Uint8Array,
};

const TABLE = new Uint32Array(256).map((_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC32C (Castagnoli) of bytes. */
export function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const padded = (size) => (size + 7) & ~7;

/** Make a frame of a message and float64 arrays of one dimension ({name: Float64Array}). */
export function pack(message, arrays = {}) {
  const specs = Object.entries(arrays).map(([name, array]) => [name, "<f8", [array.length]]);
  const header = encode({ message, arrays: specs }, { useBigInt64: true });
  const body = Object.values(arrays).reduce((sum, array) => sum + padded(array.byteLength), 0);
  const frame = Buffer.alloc(padded(PREFIX + header.length) + body);
  frame.write(MAGIC, 0, "latin1");
  frame.writeUInt16LE(MAJOR, 4);
  frame.writeUInt32LE(header.length, 8);
  frame.set(header, PREFIX);
  let place = padded(PREFIX + header.length);
  for (const array of Object.values(arrays)) {
    array.forEach((value, index) => frame.writeDoubleLE(value, place + 8 * index));
    place += padded(array.byteLength);
  }
  frame.writeUInt32LE(crc32c(frame.subarray(PREFIX)), 12);
  return frame;
}

/** Read a frame: {message, arrays: {name: {shape, values}}}; throws where it is none. */
export function unpack(frame) {
  if (frame.length < PREFIX || frame.length > MOST_BYTES) throw new Error("no frame: its size");
  if (frame.toString("latin1", 0, 4) !== MAGIC) throw new Error("no frame: its magic");
  if (frame.readUInt16LE(4) !== MAJOR) throw new Error("another version of the frames");
  if (crc32c(frame.subarray(PREFIX)) !== frame.readUInt32LE(12)) throw new Error("damaged frame");
  const size = frame.readUInt32LE(8);
  if (PREFIX + size > frame.length) throw new Error("the header reaches past the end");
  const header = decode(frame.subarray(PREFIX, PREFIX + size), { useBigInt64: true });
  if (header.critical?.length) throw new Error(`fields that are not known: ${header.critical}`);
  const arrays = {};
  let place = padded(PREFIX + size);
  for (const [name, type, shape] of header.arrays) {
    const Kind = ARRAYS[type];
    if (!Kind) throw new Error(`array ${name} has type ${type}`);
    const count = shape.reduce((product, length) => product * Number(length), 1);
    const end = place + count * Kind.BYTES_PER_ELEMENT;
    if (end > frame.length) throw new Error(`array ${name} reaches past the end`);
    // A copy, so that it begins where its type wants it to.
    const bytes = new Uint8Array(frame.subarray(place, end));
    arrays[name] = { shape: shape.map(Number), values: new Kind(bytes.buffer) };
    place += padded(end - place);
  }
  if (place !== frame.length) throw new Error("bytes follow the last array");
  return { message: header.message, arrays };
}
