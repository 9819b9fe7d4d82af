//! What ten dead devices of 32 take of a line: the table of `tests/dead_devices`, also for a slow line, for devices
//! with long timeouts, and for fast polls.
//!
//! `cargo bench --bench dead_devices`. Time is simulated: it takes seconds.

#[path = "../dead_devices/scenario.rs"]
mod scenario;

use std::time::Duration;

use scenario::Setup;

fn main() {
    let usual = Setup::USUAL;
    let setups = [
        usual,
        Setup { absent: true, ..usual },
        Setup { dying: 1, ..usual },
        Setup { timeout: Duration::from_secs(2), ..usual },
        Setup { baud: 9600, devices: 16, dying: 5, ..usual },
        Setup { baud: 115_200, interval: Duration::from_millis(500), ..usual },
    ];
    for setup in setups {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let stretches = runtime.block_on(scenario::run(setup));
        scenario::print(setup, &stretches);
        println!();
    }
}
