"""A plant of Modbus devices made of pymodbus: devices that nobody of this project wrote.

    pymodbus_server.py LEDGER PLANT

PLANT is JSON: {"tcp": [{"name": "plc1", "units": [1, 2]}], "rtu": [{"name": "line", "units": [1], "link": "/path"}]}.
TCP servers take a free port of the loopback; an RTU server stands behind a pseudo-terminal with a symbolic
link to it. When all listen, one line of JSON goes to standard output: {"plc1": 40123, "line": "/dev/pts/7"}.
A unit that is not named never answers.

Holding registers 0 to 999 of a unit are 32-bit counters, high word first, each at an even address: every read
of a counter's high word is served the next number, from 1, so no two readings of a point are alike. From 1000
on they hold what is written, at first 0.

LEDGER gets one JSON object a line, flushed before the answer leaves:
    {"t": unix time, "bus": "plc1", "unit": 1, "address": 0, "values": [17, 17, …]}   counters served
    {"t": …, "bus": …, "unit": …, "address": 1000, "write": [215]}                    registers written
    {"t": …, "bus": …, "connected": true}                                             a master came or went
"""

import asyncio
import json
import os
import sys
import time
import tty

from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusServerContext
from pymodbus.datastore.context import ModbusBaseDeviceContext
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer

COUNTERS = 1000  # registers of the counter area
READ_HOLDING = 3


class Ledger:
    """Where everything is written down before it is said."""

    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8")

    def enter(self, **row):
        self.file.write(json.dumps({"t": time.time(), **row}, separators=(",", ":")) + "\n")
        self.file.flush()


class Unit(ModbusBaseDeviceContext):
    """One Modbus unit."""

    def __init__(self, ledger, bus, unit):
        self.ledger, self.bus, self.unit = ledger, bus, unit
        self.counters = {}
        self.held = {}

    def getValues(self, func_code, address, count=1):
        if func_code != READ_HOLDING and func_code < 5:
            return ExcCodes.ILLEGAL_FUNCTION
        words, served = [], []
        for register in range(address, address + count):
            if register >= COUNTERS:
                words.append(self.held.get(register, 0))
                continue
            index, low = divmod(register, 2)
            if not low:
                self.counters[index] = self.counters.get(index, 0) + 1
                served.append(self.counters[index])
            value = self.counters.get(index, 0)
            words.append(value & 0xFFFF if low else value >> 16)
        if served:
            self.ledger.enter(bus=self.bus, unit=self.unit, address=address + address % 2, values=served)
        return words

    def setValues(self, func_code, address, values):
        if address < COUNTERS:
            return ExcCodes.ILLEGAL_ADDRESS
        for offset, value in enumerate(values):
            self.held[address + offset] = value
        self.ledger.enter(bus=self.bus, unit=self.unit, address=address, write=list(values))
        return None


def copy(source, target):
    """Moves what is there from one terminal to the other; what does not fit is lost, as on a wire."""
    try:
        os.write(target, os.read(source, 4096))
    except BlockingIOError:
        pass


def null_modem(link):
    """Two pseudo-terminals crossed over; returns the path of pymodbus's end. `link` leads to the other."""
    ends = [os.openpty() for _ in range(2)]
    loop = asyncio.get_running_loop()
    for (master, slave), (other, _) in (ends, ends[::-1]):
        tty.setraw(slave)
        os.set_blocking(master, False)
        loop.add_reader(master, copy, master, other)
    # Our own handles on the slaves stay open, so that a master who leaves is no hang-up.
    near, far = (os.ttyname(slave) for _, slave in ends)
    os.symlink(near, link)
    return near, far


async def main(path, plant):
    ledger = Ledger(path)
    places = {}
    for place in plant.get("tcp", []) + plant.get("rtu", []):
        bus = place["name"]
        context = ModbusServerContext({unit: Unit(ledger, bus, unit) for unit in place["units"]}, single=False)
        common = {
            "ignore_missing_devices": True,
            "trace_connect": lambda up, bus=bus: ledger.enter(bus=bus, connected=up),
        }
        if "link" in place:
            places[bus], far = null_modem(place["link"])
            server = ModbusSerialServer(context, framer=FramerType.RTU, port=far, baudrate=115200, **common)
            await server.serve_forever(background=True)
        else:
            server = ModbusTcpServer(context, address=("127.0.0.1", place.get("port", 0)), **common)
            await server.serve_forever(background=True)
            places[bus] = server.transport.sockets[0].getsockname()[1]
    print(json.dumps(places), flush=True)
    # Ends with whoever started it: standard input is a pipe from there.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
