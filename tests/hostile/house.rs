//! A daemon with a door of each kind and devices to poll, and its memory before, during and after.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value as Json;
use support::openssl::self_signed;
use support::process::Process;
use support::{Gate, free_port, temporary, wait_for};
use tokio::time::Instant;

use crate::raw::*;

/// The daemon. Ends with the value.
pub struct House {
    pub gate: Gate,
    daemon: Process,
    /// Plain TCP.
    pub tcp: SocketAddr,
    /// TLS.
    pub tls: SocketAddr,
    /// WebSocket.
    pub websocket: SocketAddr,
    before: u64,
    _home: tempfile::TempDir,
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

impl House {
    /// Started, polling, and warm: one client of each version was served. `broker` are more lines of `[broker]`.
    pub async fn start(broker: &str) -> Self {
        let home = temporary();
        self_signed(home.path());
        let (tls, websocket) = (free_port(), free_port());
        let doors = format!(
            "[[broker.listener]]\nbind = \"127.0.0.1:{tls}\"\ntls = {{ cert = \"server.crt\", key = \"server.key\" }}\n\
             [[broker.listener]]\nbind = \"127.0.0.1:{websocket}\"\ntransport = \"websocket\"\n"
        );
        let gate = Gate::new(env!("CARGO_BIN_EXE_fieldgate"), home.path(), "box", "");
        gate.configure(
            &(gate.head("box", &format!("sys_interval = \"0s\"\n{broker}")) + &doors + &devices()),
        );
        let daemon = gate.run();
        let tcp = loopback(gate.broker);
        let (tls, websocket) = (loopback(tls), loopback(websocket));
        let mut house = Self { gate, daemon, tcp, tls, websocket, before: 0, _home: home };
        house.alive().await;
        house.before = house.daemon.memory_kib().0;
        house
    }

    /// Resident memory, KiB.
    pub fn resident(&self) -> u64 {
        self.daemon.memory_kib().0
    }

    /// A figure of the broker's status.
    pub fn figure(&self, name: &str) -> u64 {
        self.broker()[name].as_u64().unwrap_or_else(|| panic!("no `{name}` in the broker's status"))
    }

    fn broker(&self) -> Json {
        self.gate.status()["broker"].clone()
    }

    /// Serves clients of both versions, polls on, and nothing of it broke.
    pub async fn alive(&self) {
        let readings = || self.gate.status()["gateway"]["readings"].as_u64().unwrap_or(0);
        let polled = readings();
        for v in BOTH {
            let mut c = Raw::open(self.tcp, v).await;
            // A client that was refused for the rate comes again.
            while {
                let _ = c.try_send(&connect(v, "alive", true)).await;
                c.next().await.is_none_or(|answer| answer[3] != 0)
            } {
                tokio::time::sleep(Duration::from_millis(100)).await;
                c = Raw::open(self.tcp, v).await;
            }
            c.subscribed("alive", 1).await;
            c.send(&publish(v, 2, "alive", 1, &[], b"yes")).await;
            let (a, b) = (c.recv().await, c.recv().await);
            assert!(a[0] & 0xF0 == 0x30 || b[0] & 0xF0 == 0x30);
            c.bye().await;
        }
        wait_for("polls to go on", Duration::from_secs(20), || (readings() > polled).then_some(()));
        let broker = self.broker();
        assert_eq!((&broker["panics"], &broker["state"]), (&0.into(), &"ok".into()), "{broker}");
    }

    /// Prints memory before, at its highest, and now; and asserts that it was no more than so many KiB above the beginning,
    /// and comes back to within so many.
    pub async fn memory(&self, what: &str, most: u64, after: u64) {
        let highest = self.daemon.memory_kib().1;
        let began = Instant::now();
        while self.resident() > self.before + after && began.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let now = self.resident();
        println!(
            "{what}: {} KiB before, at most +{} KiB, {:+} KiB after {:.0} s",
            self.before,
            highest.saturating_sub(self.before),
            now.cast_signed() - self.before.cast_signed(),
            began.elapsed().as_secs_f64()
        );
        assert!(highest <= self.before + most, "{what}: at most {most} KiB more");
        assert!(now <= self.before + after, "{what}: {after} KiB more may stay");
    }
}

/// Ten devices of ten points, ten times a second.
fn devices() -> String {
    let mut text = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n".to_owned();
    for device in 0..10 {
        text += &format!("[[device]]\nname = \"d{device}\"\nbus = \"sim\"\ninterval = \"100ms\"\n");
        for point in 0..10 {
            text +=
                &format!("[[device.point]]\nname = \"p{point}\"\nsignal = \"counter\"\nperiod = \"100ms\"\n");
        }
    }
    text
}
