//! Gateways with a simulated bus and a store of their own.

use std::fmt::Write;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::gateway::Gateway;
use crate::config::{self, Loaded};
use crate::registry::DRIVERS;

/// A configuration of which tests vary some parts.
struct Plan<'a> {
    store: &'a Path,
    bind: &'a str,
    clock: &'a str,
    points: &'a [&'a str],
    latency: &'a str,
}

impl<'a> Plan<'a> {
    fn in_dir(store: &'a Path) -> Self {
        Self { store, bind: "127.0.0.1:0", clock: "trusted", points: &["a"], latency: "1ms" }
    }

    fn loaded(&self) -> Loaded {
        let dir = tempfile::tempdir().expect("directory");
        let mut text = format!(
            "[gateway]\nid = 'g'\nclock = '{}'\n[[broker.listener]]\nbind = '{}'\n[store]\npath = '{}'\n\
             [[bus]]\nname = 'b'\ndriver = 'sim'\nlatency = '{}'\n\
             [[device]]\nname = 'd'\nbus = 'b'\ninterval = '50ms'\ntimeout = '60s'\n",
            self.clock,
            self.bind,
            self.store.display(),
            self.latency
        );
        for point in self.points {
            write!(text, "[[device.point]]\nname = '{point}'\nsignal = 'counter'\n").expect("written");
        }
        let file = dir.path().join("f.toml");
        std::fs::write(&file, text).expect("written");
        config::load_with(&file, DRIVERS, &[]).unwrap_or_else(|report| panic!("{report}"))
    }

    async fn start(&self) -> Gateway {
        Gateway::start(self.loaded()).await.expect("it starts")
    }
}

/// Waits until it is so.
async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what} does not come"));
}

#[tokio::test]
async fn the_end_of_any_part_without_which_there_is_no_gateway_is_noticed() {
    let dir = tempfile::tempdir().expect("directory");
    let gateway = Plan::in_dir(dir.path()).start().await;
    assert_eq!(gateway.broken(), None);
    gateway.helpers[0].abort();
    until("the helper's end", async || gateway.broken().is_some_and(|w| w.contains("helper"))).await;
    gateway.observer.abort();
    until("the observer's end", async || gateway.broken().is_some_and(|w| w.contains("observer"))).await;
    gateway.broker.close().await;
    assert!(gateway.broken().is_some_and(|what| what.contains("broker")));
    gateway.stop().await.expect("everything else ends in order");
}

#[tokio::test]
async fn a_stop_that_cannot_save_everything_says_so() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    // No directory can be made below a file, whoever tries.
    let gateway = Plan::in_dir(&file.join("store")).start().await;
    until("a reading", async || gateway.store.status().readings_in_ram > 0).await;
    assert_eq!(gateway.stop().await, Err(vec!["store".to_owned()]));
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_running() {
    let dir = tempfile::tempdir().expect("directory");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let bind = taken.local_addr().expect("bound").to_string();
    let failed = Gateway::start(Plan { bind: &bind, ..Plan::in_dir(dir.path()) }.loaded()).await;
    assert!(failed.is_err_and(|why| why.contains(&bind)));
    // The store is free again.
    Plan::in_dir(dir.path()).start().await.stop().await.expect("it ends in order");
}

#[tokio::test]
async fn after_a_restart_only_points_that_are_still_configured_come_back_stale() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = Plan { points: &["a", "b"], ..Plan::in_dir(dir.path()) };
    let gateway = plan.start().await;
    until("both points", async || gateway.broker.retained("gw/g/data/d/+").await.len() == 2).await;
    gateway.stop().await.expect("it ends in order");
    // Long before the bus has anything to say about `a`.
    let gateway = Plan { latency: "50s", ..Plan::in_dir(dir.path()) }.start().await;
    let back = gateway.broker.retained("gw/g/data/d/+").await;
    let told: Vec<_> = back.iter().map(|m| (&*m.topic, String::from_utf8_lossy(&m.payload))).collect();
    assert!(matches!(&told[..], [("gw/g/data/d/a", text)] if text.contains("stale")), "{told:?}");
}

#[tokio::test]
async fn a_reload_refuses_another_clock() {
    let dir = tempfile::tempdir().expect("directory");
    let mut gateway = Plan::in_dir(dir.path()).start().await;
    let refused = gateway.reload(Plan { clock: "auto", ..Plan::in_dir(dir.path()) }.loaded()).await;
    assert_eq!(refused, Err("gateway.clock changed: restart fieldgate".to_owned()));
    gateway.stop().await.expect("it ends in order");
}

#[tokio::test]
async fn a_reload_says_which_keys_wait_for_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = Plan::in_dir(dir.path());
    let mut gateway = plan.start().await;
    let mut other = plan.loaded();
    other.broker.engine = config::model::Engine::Native;
    other.broker.max_packet_size = driver_api::ByteSize::mib(2);
    let waiting =
        ["only a restart takes over broker.engine", "only a restart takes over broker.max_packet_size"];
    assert_eq!(gateway.reload(other).await, Ok(waiting.map(str::to_owned).to_vec()));
    // As it was again: nothing waits.
    assert_eq!(gateway.reload(plan.loaded()).await, Ok(Vec::new()));
    gateway.stop().await.expect("it ends in order");
}

#[tokio::test]
async fn a_dead_bus_is_down_and_starts_again_only_as_it_was() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = Plan::in_dir(dir.path());
    let mut gateway = plan.start().await;
    until("the bus", async || gateway.buses["b"].stats.state() == "up").await;
    gateway.buses["b"].kill();
    until("its end", async || gateway.dead() == ["bus b"]).await;
    gateway.show_dead();
    assert_eq!(gateway.buses["b"].stats.state(), "down");
    let edited = Plan { points: &["a", "b"], ..Plan::in_dir(dir.path()) };
    assert_eq!(gateway.revive(edited.loaded()).await, ["bus b"]);
    assert_eq!(gateway.dead(), ["bus b"]);
    assert!(gateway.revive(plan.loaded()).await.is_empty());
    assert!(gateway.dead().is_empty());
    until("the bus", async || gateway.buses["b"].stats.state() == "up").await;
    // The edited one comes with a reload.
    assert_eq!(gateway.reload(edited.loaded()).await, Ok(vec!["bus b changed".to_owned()]));
    assert_eq!(gateway.targets.borrow().len(), 2);
    gateway.stop().await.expect("it ends in order");
}
