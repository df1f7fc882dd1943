// A connection to a machine: docs/protocol.md, "Sockets", "Requests and replies", "Published".

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Dealer, Subscriber } from "zeromq";
import { pack, unpack } from "./frame.mjs";

const VERSION = 1;
const MOST_BYTES = 1 << 20;

/** Read the keys of a role out of a folder: the machine's public one and one's own. */
export function loadKeys(folder, role) {
  const read = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));
  const own = read(`${role}.key`);
  return {
    curveServerKey: read("server.pub").public,
    curvePublicKey: own.public,
    curveSecretKey: own.secret,
  };
}

/** The machine refused; nothing of what was asked was done. */
export class Refused extends Error {
  constructor(reason, detail) {
    super(`${reason}: ${detail}`);
    this.reason = reason;
  }
}

export class Machine {
  /** Connect and say hello; a key that is not let in is an error, not silence. */
  static async connect(endpoint, folder, role, { timeoutMs = 2000, name = "node" } = {}) {
    const machine = new Machine();
    machine.keys = loadKeys(folder, role);
    machine.timeoutMs = timeoutMs;
    machine.sequence = 0;
    machine.dealer = new Dealer({ ...machine.keys, maxMessageSize: MOST_BYTES, linger: 0 });
    const refused = new Promise((_, reject) => {
      machine.dealer.events.on("handshake:error:auth", () =>
        reject(new Error(`the machine at ${endpoint} does not accept this key`)),
      );
      machine.dealer.events.on("handshake:error:protocol", () =>
        reject(new Error(`${endpoint} is no machine, or not the one of this server.pub`)),
      );
    });
    machine.dealer.connect(endpoint);
    const sent = process.hrtime.bigint();
    const hello = { type: "hello", oldest: VERSION, newest: VERSION, client: name, role };
    const { message, arrays } = await Promise.race([machine.ask(hello), refused]);
    // The machine's clock, to half a round trip.
    machine.clockOffset = message.server_clock_ns - (sent + process.hrtime.bigint()) / 2n;
    machine.welcome = message;
    machine.ctimeMs = arrays.ctime_ms?.values;
    const [, host] = endpoint.match(/^tcp:\/\/(.*):\d+$/);
    machine.subscriber = new Subscriber({ ...machine.keys, maxMessageSize: MOST_BYTES, linger: 0 });
    machine.subscriber.subscribe("reading", "status");
    machine.subscriber.connect(`tcp://${host}:${message.readings_port}`);
    return machine;
  }

  /** Send a request and return its reply; throws Refused. */
  async ask(fields, arrays = {}) {
    this.sequence += 1;
    const session = this.welcome ? { session: this.welcome.session } : {};
    await this.dealer.send(pack({ ...fields, ...session, sequence: this.sequence }, arrays));
    this.dealer.receiveTimeout = this.timeoutMs;
    for (;;) {
      const [data] = await this.dealer.receive();
      const reply = unpack(data);
      const sequence = Number(reply.message.sequence);
      if (sequence !== 0 && sequence !== this.sequence) continue;
      if (reply.message.type === "refusal") throw new Refused(reply.message.reason, reply.message.detail);
      return reply;
    }
  }

  /** Yield readings as they are published; `missed` counts holes in their numbering. */
  async *readings() {
    this.missed = 0;
    let last;
    for await (const [topic, data] of this.subscriber) {
      const { message, arrays } = unpack(data);
      if (message.type === "goodbye") throw new Error(`the machine has ended: ${message.why}`);
      if (topic.toString() !== "reading") continue;
      const stream = Number(message.stream);
      if (last !== undefined) this.missed += stream - last - 1;
      last = stream;
      yield { cycle: Number(message.cycle), arrays };
    }
  }

  /** The newest reading. */
  async snapshot() {
    const { message, arrays } = await this.ask({ type: "snapshot-request" });
    return { cycle: Number(message.cycle), arrays };
  }

  /** Take the lease; renewed by every write. */
  async takeLease() {
    const { message } = await this.ask({ type: "lease-request" });
    this.fence = message.fence;
    return message;
  }

  /** Write a whole function (rad) for a cycle: stage, test, commit, or roll back. */
  async transact(phiHwRad, cycle, { deadlineMs = 2000, key = "" } = {}) {
    const fence = this.fence;
    await this.ask({ type: "stage", fence, cycle }, { phi_hw_rad: Float64Array.from(phiHwRad) });
    try {
      await this.ask({ type: "test", fence });
    } catch (refused) {
      await this.ask({ type: "rollback", fence });
      throw refused;
    }
    const deadline = process.hrtime.bigint() + this.clockOffset + BigInt(deadlineMs) * 1_000_000n;
    const commit = { type: "commit", fence, deadline_ns: deadline, key };
    const { message, arrays } = await this.ask(commit);
    return { cycle: Number(message.cycle), appliedRad: arrays.applied_rad.values };
  }

  /** Give the lease back. */
  async release() {
    await this.ask({ type: "release", fence: this.fence });
  }

  close() {
    this.dealer.close();
    this.subscriber?.close();
  }
}
