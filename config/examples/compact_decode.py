#!/usr/bin/env python3
"""Prints the readings of `format = "compact"` payloads as JSON lines, like `fieldgate decode`.

Written from compact.md, which is beside it, without a look at fieldgate's own code; needs Python 3.8 and nothing
else. As a program: `compact_decode.py [FILE|-]`, payloads one after the other; damaged ones are named on stderr and
the exit code is 1. As a module: `message, length = decode(payload)`.
"""

import datetime
import json
import struct
import sys
import zlib

MOST_READINGS = 10_000
BODY_MAX = 256 << 20
REASONS = {
    1: "timeout",
    2: "crc",
    3: "protocol",
    4: "out_of_range",
    5: "stale",
    6: "clock_unsynced",
    7: "sensor_fault",
    8: "bus_down",
    9: "parse",
}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Damage(Exception):
    """Why bytes are no payload."""


class Reader:
    """Takes values from the front of bytes."""

    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self, count):
        end = self.at + count
        if end > len(self.data):
            raise Damage("cut off")
        piece, self.at = self.data[self.at : end], end
        return piece

    def varint(self):
        number = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number >= 1 << 64:
                    break
                return number
        raise Damage("a number is too long")

    def signed(self):
        number = self.varint()
        return (number >> 1) ^ -(number & 1)

    def runs(self, count):
        column = []
        while len(column) < count:
            value, length = self.varint(), self.varint()
            if not 0 < length <= count - len(column):
                raise Damage("a run is too long")
            column += [value] * length
        return column

    def names(self, most):
        count, names, last = self.varint(), [], b""
        if count > most:
            raise Damage("too many names")
        for _ in range(count):
            shared = self.varint()
            if shared > len(last):
                raise Damage("a name shares more than there is")
            last = last[:shared] + self.take(self.varint())
            names.append(last.decode())
        return names


def wrap(number):
    """The number in 64 bits, signed."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def points_of(body, count):
    entries = body.varint()
    if entries > count:
        raise Damage("too many points")
    devices, names, units = (body.names(entries) for _ in range(3))
    device = body.runs(entries)
    name, expected = [], 0
    for _ in range(entries):
        name.append(expected + body.signed())
        expected = name[-1] + 1
    unit = body.runs(entries)
    if any(not 0 <= n < len(names) for n in name):
        raise Damage("a point has no name")
    return [(devices[d], names[n], units[u]) for d, n, u in zip(device, name, unit)]


def quality_of(code):
    severity, reason = divmod(code, 1024)
    if severity > 2:
        raise Damage("an unknown quality")
    word = REASONS.get(reason) or ("exception_%02x" % (reason & 0xFF) if 0x100 <= reason < 0x200 else "protocol")
    return ("good", "uncertain", "bad")[severity], word if severity else None


def float_of(tag, body, point, states):
    if tag == 10:
        return struct.unpack("<f", body.take(4))[0]
    if tag == 11:
        return struct.unpack("<d", body.take(8))[0]
    if tag > 9:
        raise Damage("an unknown kind of float")
    digits, mantissa = states.get(point, (0, 0))
    mantissa = wrap((mantissa if digits == tag else 0) + body.signed())
    states[point] = (tag, mantissa)
    return mantissa / 10.0**tag


def values_of(body, kinds, tags, points):
    last, states, tags = {}, {}, iter(tags)
    for kind, point in zip(kinds, points):
        if kind == 0:
            yield None
        elif kind == 1:
            yield body.take(1) != b"\0"
        elif kind in (2, 3):
            last[point] = wrap(last.get(point, 0) + body.signed())
            yield last[point] if kind == 2 else last[point] % (1 << 64)
        elif kind == 4:
            yield float_of(next(tags), body, point, states)
        elif kind == 5:
            yield body.take(body.varint()).decode()
        else:
            raise Damage("an unknown kind of value")


def readings_of(body, first, count, ts):
    table = points_of(body, count)
    points, expected = [], 0
    for _ in range(count):
        points.append(expected + body.signed())
        expected = points[-1] + 1
    if any(not 0 <= p < len(table) for p in points):
        raise Damage("a reading has no point")
    times = []
    for _ in range(count):
        ts = wrap(ts + body.signed())
        times.append(ts)
    kinds, qualities = body.runs(count), body.runs(count)
    tags = body.runs(kinds.count(4))
    readings = []
    rows = zip(points, times, values_of(body, kinds, tags, points), qualities)
    for seq, (point, ts, value, code) in enumerate(rows, first):
        quality, reason = quality_of(code)
        device, name, unit = table[point]
        if (value is None) != (quality == "bad"):
            raise Damage("a value and its quality do not fit")
        readings.append((seq, ts, device, name, unit, value, quality, reason))
    if body.at != len(body.data):
        raise Damage("bytes are left over")
    return readings


def decode(data, at=0):
    """The message at `data[at:]` and the offset behind it."""
    start, r = at, Reader(data, at)
    if data[at : at + 3] != b"FGC":
        raise Damage("no compact payload")
    r.take(3)
    version, flags = r.take(2)
    if version != 1:
        raise Damage("version %d of the layout is not known here" % version)
    gateway = r.take(r.varint())
    epoch = "%08x-%08x" % struct.unpack("<II", r.take(8))
    first, count, ts = r.varint(), r.varint(), r.signed()
    raw_length = r.varint()
    body = r.take(r.varint())
    end = r.at
    if r.take(4) != struct.pack("<I", zlib.crc32(data[start:end])):
        raise Damage("checksum does not fit")
    if flags & ~3 or not 1 <= count <= MOST_READINGS or raw_length > BODY_MAX or first + count >= 1 << 64:
        raise Damage("the header makes no sense")
    try:
        if flags & 1:
            body = zlib.decompressobj(-15).decompress(body, raw_length + 1)
        if len(body) != raw_length:
            raise Damage("the length of the body makes no sense")
        readings = readings_of(Reader(body), first, count, ts)
        gateway = gateway.decode()
    except (zlib.error, UnicodeDecodeError, IndexError, StopIteration, RuntimeError) as problem:
        raise Damage("the body makes no sense") from problem
    message = {"gateway": gateway, "epoch": epoch, "historical": bool(flags & 2), "readings": readings}
    return message, r.at


def line(message, reading):
    seq, ts, device, point, unit, value, quality, reason = reading
    try:
        when = EPOCH + datetime.timedelta(milliseconds=ts)
    except OverflowError:
        when = EPOCH
    out = {"gateway": message["gateway"], "historical": message["historical"], "device": device, "point": point}
    out["ts"] = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    out["value"] = value
    if unit:
        out["unit"] = unit
    out["quality"] = quality
    if reason:
        out["reason"] = reason
    out.update(epoch=message["epoch"], seq=seq)
    return json.dumps(out, ensure_ascii=False)


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else "-"
    with sys.stdin.buffer if name == "-" else open(name, "rb") as source:
        data = source.read()
    sys.stdout.reconfigure(encoding="utf-8")
    at, damaged = 0, not data
    while at < len(data):
        try:
            message, end = decode(data, at)
            for reading in message["readings"]:
                print(line(message, reading))
            at = end
        except Damage as problem:
            damaged = True
            print("error: at byte %d: %s" % (at, problem), file=sys.stderr)
            at = data.find(b"FGC\x01", at + 1)
            if at < 0:
                break
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
