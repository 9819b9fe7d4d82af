//! The uplink from outside: against a broker that misbehaves on demand, against Debian's mosquitto, and
//! against noise.

mod clock;
mod faults;
mod noise;
mod real;
mod sides;
mod sparkplug;

#[path = "../support/fake_broker.rs"]
mod fake_broker;
#[path = "../support/memory_drain.rs"]
mod memory_drain;
#[path = "../support/mosquitto.rs"]
mod mosquitto;
#[path = "../support/outside.rs"]
mod outside;
#[path = "../support/uplink_bench.rs"]
mod uplink_bench;
#[path = "../support/websocket_bridge.rs"]
mod websocket_bridge;
