// node main.mjs ENDPOINT KEYS [CYCLES] [DELTA_RAD]
//
// Reads some cycles as an observer, then plays a setpoint as a controller: what is applied now, moved by
// DELTA_RAD at every point. Prints a line of JSON for each.

import { Machine } from "./machine.mjs";

const [endpoint, keys, cycles = "3", delta = "0.05"] = process.argv.slice(2);
if (!keys) {
  console.error("node main.mjs ENDPOINT KEYS [CYCLES] [DELTA_RAD]");
  process.exit(2);
}

const say = (line) => console.log(JSON.stringify(line));

async function observe() {
  const machine = await Machine.connect(endpoint, keys, "observer");
  say({ machine: machine.welcome.machine, role: machine.welcome.role, mode: machine.welcome.mode });
  let left = Number(cycles);
  for await (const { cycle, arrays } of machine.readings()) {
    const { shape, values } = arrays.profile;
    say({ cycle, shape, sum: values.reduce((a, b) => a + b, 0), missed: machine.missed });
    if (--left === 0) break;
  }
  machine.close();
}

async function play() {
  const machine = await Machine.connect(endpoint, keys, "controller");
  await machine.takeLease();
  for (;;) {
    const { cycle, arrays } = await machine.snapshot();
    const wanted = arrays.applied_rad.values.map((value) => value + Number(delta));
    try {
      const receipt = await machine.transact(wanted, cycle + 1, { key: `node-${process.pid}` });
      say({ committed: receipt.cycle, applied: [...receipt.appliedRad] });
      break;
    } catch (refused) {
      if (refused.reason !== "late") throw refused; // the next cycle has begun meanwhile
    }
  }
  // Without a period a machine plays the cycle at once, and waits for its controller again: let it go on.
  await machine.release();
  machine.close();
}

try {
  await observe();
  await play();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
