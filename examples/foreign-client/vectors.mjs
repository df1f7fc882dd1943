// node vectors.mjs FOLDER: read every test vector, and refuse those that are to be refused as frames.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { unpack } from "./frame.mjs";

const folder = process.argv[2];
const plain = (_, value) => (typeof value === "bigint" ? Number(value) : value);
const same = (a, b) => JSON.stringify(a, plain) === JSON.stringify(b, plain);
let read = 0;
let refused = 0;
let wrong = 0;
for (const file of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
  const shown = JSON.parse(readFileSync(join(folder, file), "utf8"));
  const frame = readFileSync(join(folder, file.replace(".json", ".bin")));
  try {
    const { message, arrays } = unpack(frame);
    for (const [name, array] of Object.entries(shown.arrays ?? {})) {
      if (!same([...arrays[name].values], array.values) || !same(arrays[name].shape, array.shape)) {
        throw new Error(`array ${name} differs`);
      }
    }
    if (shown.message && file !== "unknown-field.json" && !same(message, shown.message)) {
      throw new Error("message differs");
    }
    read += 1;
  } catch (error) {
    refused += 1;
    if (!shown.refused) {
      wrong += 1;
      console.error(`${file}: ${error.message}`);
    }
  }
}
console.log(JSON.stringify({ read, refused, wrong }));
process.exit(wrong ? 1 : 0);
