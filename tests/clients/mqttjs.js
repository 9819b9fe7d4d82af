// What a client with mqtt.js does with a broker, over TCP and WebSocket. Usage: node mqttjs.js mqtt://…|ws://… 4|5, with
// NODE_PATH naming the directory that has `mqtt`. Prints a line for each thing that worked; fails at the first that did not.
'use strict';
const assert = require('node:assert/strict');
const mqtt = require('mqtt');

const [url, version] = [process.argv[2], Number(process.argv[3])];
const five = version === 5;
const LONG = 20000; // milliseconds; whatever takes so long has failed
setTimeout(() => { console.error('nothing happens any more'); process.exit(1); }, 3 * LONG).unref();

class Client {
  static async connect(name, { clean = true, will } = {}) {
    const client = new Client();
    client.waiting = [];
    client.messages = [];
    const properties = five ? { sessionExpiryInterval: clean ? 0 : 600 } : undefined;
    client.mqtt = mqtt.connect(url, {
      clientId: name, protocolVersion: version, clean, will, properties, reconnectPeriod: 0, keepalive: 30,
    });
    client.mqtt.on('message', (topic, payload, packet) => {
      const message = { topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain, properties: packet.properties };
      const next = client.waiting.shift();
      if (next) next(message); else client.messages.push(message);
    });
    client.connack = await new Promise((resolve, reject) => {
      client.mqtt.once('connect', resolve);
      client.mqtt.once('error', reject);
    });
    return client;
  }
  async subscribe(topic, qos, more = {}) {
    const granted = await this.mqtt.subscribeAsync(topic, { qos, ...more });
    assert.equal(granted[0].qos, qos);
  }
  publish(topic, payload, qos, more = {}) { return this.mqtt.publishAsync(topic, payload, { qos, ...more }); }
  async expect(topic, payload, qos, retain = false) {
    const message = this.messages.shift() ?? await new Promise((resolve) => this.waiting.push(resolve));
    assert.deepEqual([message.topic, message.payload, message.qos, message.retain], [topic, payload, qos, retain]);
    return message;
  }
  close() { return this.mqtt.endAsync(); }
}

async function messagesOfEveryQuality(a, b) {
  for (const wanted of [0, 1, 2]) {
    await b.subscribe(`q/${wanted}`, wanted);
    for (const sent of [0, 1, 2]) {
      for (let n = 0; n < 20; n++) await a.publish(`q/${wanted}`, `${sent} ${n}`, sent);
      for (let n = 0; n < 20; n++) await b.expect(`q/${wanted}`, `${sent} ${n}`, Math.min(sent, wanted));
    }
  }
}

async function retainedMessages(a, b) {
  const name = (n) => `r/${String(n).padStart(3, '0')}`;
  for (let n = 0; n < 300; n++) await a.publish(name(n), `${n}`, 1, { retain: true });
  await b.subscribe('r/#', 1);
  for (let n = 0; n < 300; n++) await b.expect(name(n), `${n}`, 1, true);
  for (let n = 0; n < 300; n++) {
    await a.publish(name(n), '', 1, { retain: true });
    await b.expect(name(n), '', 1);
  }
}

async function aWill(b) {
  await b.subscribe('wills/#', 1);
  const quiet = await Client.connect('quiet', { will: { topic: 'wills/quiet', payload: 'never', qos: 1 } });
  await quiet.close();
  const lost = await Client.connect('lost', { will: { topic: 'wills/lost', payload: 'gone', qos: 1 } });
  lost.mqtt.stream.destroy();
  await b.expect('wills/lost', 'gone', 1);
  await lost.mqtt.endAsync(true);
}

async function aSession(a) {
  let keeper = await Client.connect('keeper', { clean: false });
  assert.equal(keeper.connack.sessionPresent, false);
  await keeper.subscribe('s/#', 2);
  await keeper.close();
  // This client hands QoS 2 out at its PUBREL, so those of another quality would overtake.
  for (let n = 0; n < 50; n++) await a.publish('s/x', `${n}`, 2);
  keeper = await Client.connect('keeper', { clean: false });
  assert.equal(keeper.connack.sessionPresent, true);
  for (let n = 0; n < 50; n++) await keeper.expect('s/x', `${n}`, 2);
  await keeper.close();
  const again = await Client.connect('keeper');
  assert.equal(again.connack.sessionPresent, false);
  await again.close();
}

async function propertiesOfVersion5(a, b) {
  await b.subscribe('p/#', 1, { nl: true, rap: true, properties: { subscriptionIdentifier: 7 } });
  const properties = {
    payloadFormatIndicator: true, messageExpiryInterval: 60, contentType: 'text/plain', responseTopic: 'p/answer',
    correlationData: Buffer.from([0, 1]), userProperties: { a: ['1', '2'], b: '3' },
  };
  await a.publish('p/x', 'grüße', 1, { properties });
  const got = (await b.expect('p/x', 'grüße', 1)).properties;
  assert.deepEqual([got.contentType, got.responseTopic, got.subscriptionIdentifier], ['text/plain', 'p/answer', 7]);
  assert.deepEqual([[...got.correlationData], got.userProperties.a, got.userProperties.b], [[0, 1], ['1', '2'], '3']);
  await b.publish('p/x', 'mine', 1);
  await a.publish('p/x', 'yours', 1);
  await b.expect('p/x', 'yours', 1);
}

async function main() {
  const a = await Client.connect('a');
  const b = await Client.connect('b');
  console.log('connected');
  for (const [what, args] of [[messagesOfEveryQuality, [a, b]], [retainedMessages, [a, b]], [aWill, [b]], [aSession, [a]]]) {
    await what(...args);
    console.log(what.name);
  }
  if (five) {
    await propertiesOfVersion5(a, b);
    console.log('propertiesOfVersion5');
  }
  await a.close();
  await b.close();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
