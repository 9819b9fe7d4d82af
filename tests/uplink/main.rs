//! The uplink from outside: against a broker that misbehaves on demand, against Debian's mosquitto, and
//! against noise.

mod causes;
mod clock;
mod exactly;
mod faults;
mod fleets;
mod forwarding;
mod held;
mod manners;
mod metered;
mod noise;
mod poison;
mod real;
mod refused;
mod routes;
mod sides;
mod sparkplug;
mod surroundings;
mod table;
mod unacknowledged;
mod ways;

#[path = "../support/fake_broker.rs"]
mod fake_broker;
#[path = "../support/fleet.rs"]
mod fleet;
#[path = "../support/link.rs"]
mod link;
#[path = "../support/memory_drain.rs"]
mod memory_drain;
#[path = "../support/mosquitto.rs"]
mod mosquitto;
#[path = "../support/outside.rs"]
mod outside;
#[path = "../support/proxies.rs"]
mod proxies;
#[path = "../support/tls_front.rs"]
mod tls_front;
#[path = "../support/uplink_bench.rs"]
mod uplink_bench;
#[path = "../support/websocket_bridge.rs"]
mod websocket_bridge;
