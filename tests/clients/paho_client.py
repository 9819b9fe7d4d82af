"""What a client with paho-mqtt 2.x does with a broker, from connecting to a session that outlives a connection.

Usage: paho_client.py PORT tcp|websockets 4|5. Prints a line for each thing that worked; ends with an exception at the first that
did not.
"""
import queue
import socket
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PORT, TRANSPORT, VERSION = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
FIVE = VERSION == 5
LONG = 20  # seconds; whatever takes so long has failed


class Client:
    """A connected client whose callbacks fill queues."""

    def __init__(self, name, clean=True, will=None):
        self.messages, self.connects, self.answers = queue.Queue(), queue.Queue(), queue.Queue()
        session = {} if FIVE else {"clean_session": clean}
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if FIVE else mqtt.MQTTv311,
            transport=TRANSPORT,
            **session,
        )
        self.mqtt.on_connect = lambda c, u, flags, reason, props: self.connects.put((flags.session_present, reason))
        self.mqtt.on_message = lambda c, u, message: self.messages.put(message)
        self.mqtt.on_subscribe = lambda c, u, mid, codes, props: self.answers.put(codes)
        self.mqtt.on_unsubscribe = lambda c, u, mid, codes, props: self.answers.put(codes)
        if will:
            self.mqtt.will_set(*will)
        if FIVE:
            props = Properties(PacketTypes.CONNECT)
            props.SessionExpiryInterval = 0 if clean else 600
            self.mqtt.connect("127.0.0.1", PORT, clean_start=clean, properties=props)
        else:
            self.mqtt.connect("127.0.0.1", PORT)
        self.mqtt.loop_start()
        self.present, reason = self.connects.get(timeout=LONG)
        assert not reason.is_failure, reason

    def subscribe(self, topic, qos, **options):
        if FIVE:
            self.mqtt.subscribe(topic, options=SubscribeOptions(qos=qos, **options))
        else:
            self.mqtt.subscribe(topic, qos)
        codes = self.answers.get(timeout=LONG)
        assert [c.value for c in codes] == [qos], codes

    def publish(self, topic, payload, qos, retain=False, properties=None):
        info = self.mqtt.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(LONG)
        assert info.is_published(), (topic, qos)

    def expect(self, topic, payload, qos, retain=False):
        message = self.messages.get(timeout=LONG)
        got = (message.topic, message.payload, message.qos, bool(message.retain))
        assert got == (topic, payload, qos, retain), got
        return message

    def nothing(self):
        """All that was published before has been handed out: what this client says to itself comes behind it."""
        self.subscribe("barrier", 1)
        self.publish("barrier", b"", 1)
        self.expect("barrier", b"", 1)

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def messages_of_every_quality(a, b):
    for wanted in range(3):
        topic = f"q/{wanted}"
        b.subscribe(topic, wanted)
        for sent in range(3):
            for n in range(20):
                a.publish(topic, b"%d %d" % (sent, n), sent)
            for n in range(20):
                b.expect(topic, b"%d %d" % (sent, n), min(sent, wanted))
    a.subscribe("back", 2)
    b.publish("back", b"and back", 2)
    a.expect("back", b"and back", 2)


def retained_messages(a, b):
    for n in range(300):
        a.publish(f"r/{n:03}", b"%d" % n, 1, retain=True)
    b.subscribe("r/#", 1)
    for n in range(300):
        b.expect(f"r/{n:03}", b"%d" % n, 1, retain=True)
    for n in range(300):
        a.publish(f"r/{n:03}", b"", 1, retain=True)
        b.expect(f"r/{n:03}", b"", 1)
    b.mqtt.unsubscribe("r/#")
    b.answers.get(timeout=LONG)
    b.subscribe("r/#", 1)
    b.nothing()


def a_will(b):
    b.subscribe("wills/#", 1)
    quiet = Client("quiet", will=("wills/quiet", b"never", 1))
    quiet.close()
    lost = Client("lost", will=("wills/lost", b"gone", 1, True))
    wire = lost.mqtt.socket()
    getattr(wire, "_socket", wire).shutdown(socket.SHUT_RDWR)  # under a WebSocket is another one
    b.expect("wills/lost", b"gone", 1)
    lost.close()
    b.publish("wills/lost", b"", 1, retain=True)
    b.expect("wills/lost", b"", 1)


def a_session(a):
    keeper = Client("keeper", clean=False)
    assert not keeper.present
    keeper.subscribe("s/#", 2)
    keeper.close()
    for n in range(50):
        # This client hands QoS 2 out at its PUBREL, so those of another quality would overtake.
        a.publish("s/x", b"%d" % n, 2)
    keeper = Client("keeper", clean=False)
    assert keeper.present
    for n in range(50):
        keeper.expect("s/x", b"%d" % n, 2)
    keeper.close()
    again = Client("keeper", clean=True)
    assert not again.present
    again.close()


def properties_of_version_5(a, b):
    b.subscribe("p/#", 1, noLocal=True)
    props = Properties(PacketTypes.PUBLISH)
    props.PayloadFormatIndicator = 1
    props.MessageExpiryInterval = 60
    props.ContentType = "text/plain"
    props.ResponseTopic = "p/answer"
    props.CorrelationData = b"\x00\x01"
    props.UserProperty = [("a", "1"), ("a", "2")]
    a.publish("p/x", "grüße".encode(), 1, properties=props)
    got = b.expect("p/x", "grüße".encode(), 1).properties
    assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("text/plain", "p/answer", b"\x00\x01")
    assert got.UserProperty == [("a", "1"), ("a", "2")] and 0 < got.MessageExpiryInterval <= 60
    b.publish("p/x", b"mine", 1)
    b.nothing()
    # Aliases from the client's side, and an identifier on the subscription.
    props = Properties(PacketTypes.SUBSCRIBE)
    props.SubscriptionIdentifier = 7
    b.mqtt.subscribe("alias/#", options=SubscribeOptions(qos=1), properties=props)
    b.answers.get(timeout=LONG)
    for topic in ["alias/x", "", ""]:
        props = Properties(PacketTypes.PUBLISH)
        props.TopicAlias = 3
        a.publish(topic or "alias/x", b"by alias", 1, properties=props)
        assert b.expect("alias/x", b"by alias", 1).properties.SubscriptionIdentifier == [7]


def main():
    a, b = Client("a"), Client("b")
    print("connected")
    for what, args in [(messages_of_every_quality, (a, b)), (retained_messages, (a, b)), (a_will, (b,)), (a_session, (a,))]:
        what(*args)
        print(what.__name__)
    if FIVE:
        properties_of_version_5(a, b)
        print(properties_of_version_5.__name__)
    large = bytes(range(256)) * 3000
    b.subscribe("large", 2)
    a.publish("large", large, 2)
    b.expect("large", large, 2)
    print("a message of 768,000 bytes")
    a.close()
    b.close()


main()
