//! Promise 7: one dead device stays one dead device. Ten of 32 that die at once take at most a twentieth of their
//! line together, in the first minute as in the tenth, and the others keep their period within a twentieth.

mod scenario;

use std::time::Duration;

use scenario::Setup;

#[tokio::test(start_paused = true)]
async fn ten_that_die_at_once_cost_the_others_less_than_a_twentieth() {
    let setup = Setup::USUAL;
    let stretches = scenario::run(setup).await;
    scenario::print(setup, &stretches);
    let of = |what: &str| stretches.iter().find(|s| s.what == what).expect("measured");
    assert_eq!(of("all alive").overruns, 0);
    let first_minute = (of("first 30 s after the deaths").dead + of("30 s to 60 s").dead) / 2.0;
    assert!(first_minute <= 0.05, "the dead took {first_minute} of the first minute");
    for stretch in &stretches[1..5] {
        assert!(stretch.worst(setup) <= 1.05, "{}: {}", stretch.what, stretch.worst(setup));
    }
    assert!(of("2nd to 10th minute").dead <= 0.05);
    let back = &of("back again").back;
    assert_eq!(back.len(), usize::from(setup.dying), "all are back");
    assert!(back.iter().max() <= Some(&Duration::from_secs(90)), "{back:?}");
}
