//! Requests that are nobody's point, carried for somebody else on the same line.

use driver_api::testing::hex;
use driver_api::{FrameError, ReadError};

use crate::MS;
use crate::script::{Rig, rtu};

const POINTS: &str = "a: register = 'input:0'";

#[tokio::test(start_paused = true)]
async fn what_is_carried_comes_back_as_it_is() {
    let pairs = [
        ("01 00 13 00 0A", "01 02 CD 01"),
        ("03 00 6B 00 02", "03 04 02 2B 00 64"),
        ("06 00 01 00 03", "06 00 01 00 03"),
        ("10 00 01 00 01 02 00 0A", "10 00 01 00 01"),
        ("17 00 03 00 01 00 0E 00 01 02 00 FF", "17 02 00 FE"),
        ("03 FF FF 00 01", "83 02"),
        // Their end is the silence behind them.
        ("11", "11 05 01 FF 46 47 31"),
        ("2B 0E 01 00", "2B 0E 01 01 00 00 01 00 02 46 47"),
    ];
    let script = pairs.iter().fold(rtu(), |script, (request, answer)| {
        script.expect(&format!("09 {request}"), &format!("09 {answer}"))
    });
    let mut rig = Rig::new("address = 1", POINTS, script).await;
    for (request, answer) in pairs {
        let carried = rig.bus.carry(9, &hex(request), 300 * MS).await.expect(request);
        assert_eq!(carried, hex(answer));
    }
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_not_carried_to_the_next_who_asks() {
    let script = rtu()
        .expect_late("09 03 00 00 00 02", &[(400 * MS, "09 03 04 00 00 03 E7")])
        .expect_late("09 03 00 10 00 01", &[(300 * MS, "09 03 02 00 00")])
        .expect("09 03 00 10 00 02", "09 03 04 00 00 00 05");
    let mut rig = Rig::new("address = 1", POINTS, script).await;
    let silent = rig.bus.carry(9, &hex("03 00 00 00 02"), 300 * MS).await;
    assert!(matches!(silent, Err(ReadError::Transient(FrameError::Timeout(_)))), "{silent:?}");
    let carried = rig.bus.carry(9, &hex("03 00 10 00 02"), 500 * MS).await.expect("its own");
    assert_eq!(carried, hex("03 04 00 00 00 05"));
    rig.done();
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_never_gets_onto_the_line() {
    let mut rig = Rig::new("address = 1", POINTS, rtu()).await;
    let long = "2B".to_owned() + &" 00".repeat(253);
    for pdu in ["", "00", "83 02", "03 00", "03 00 00 00 FF", long.as_str()] {
        let refused = rig.bus.carry(9, &hex(pdu), 300 * MS).await;
        assert!(matches!(refused, Err(ReadError::Transient(FrameError::Protocol(_)))), "{pdu}: {refused:?}");
    }
    rig.done();
}
