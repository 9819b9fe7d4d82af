//! What an image answers and what it writes down, without any wire.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::signals::Wave;

fn image() -> Registers {
    let ramp = Signal::Ramp(Wave { low: 0.0, high: 100.0, period: Duration::from_secs(100) });
    Layout::new(1, 4)
        .with(1, Area::Input, 0, Kind::F32, Source::Serves)
        .with(1, Area::Input, 2, Kind::U16, Source::Serves)
        .with(1, Area::Input, 5, Kind::F32, Source::Signal(ramp))
        .with(1, Area::Holding, 0, Kind::U32, Source::Held(7.0))
        .with(1, Area::Coil, 3, Kind::Bool, Source::Held(0.0))
        .with(2, Area::Discrete, 0, Kind::Bool, Source::Serves)
        .build()
        .expect("fits")
}

fn ask(image: &Registers, request: &Request<'_>) -> Result<Response, ExceptionCode> {
    let answer = image.execute(1, request, false).expect("unit 1");
    image.settle(answer.receipt, Fate::Good);
    answer.response
}

#[test]
fn every_whole_read_serves_the_next_number_and_is_entered_once() {
    let image = image();
    for n in 1..=6_u16 {
        let float = f32::from(n).to_bits();
        let words = vec![(float >> 16) as u16, float as u16, n];
        assert_eq!(ask(&image, &Request::ReadInputRegisters(0, 3)), Ok(Response::ReadInputRegisters(words)));
    }
    let row = image.row(1, Area::Input, 0).expect("there");
    assert_eq!((row.good, row.forgotten, row.history.len()), (6, 2, 4));
    assert_eq!(row.last.map(|s| s.value), Some(Value::Float(6.0)));
}

#[test]
fn half_a_quantity_is_no_serve() {
    let image = image();
    assert_eq!(ask(&image, &Request::ReadInputRegisters(1, 2)), Ok(Response::ReadInputRegisters(vec![0, 1])));
    let served: Vec<_> = image.ledger().iter().map(|r| (r.area, r.address, r.good)).collect();
    assert_eq!(
        served,
        [
            (Area::Coil, 3, 0),
            (Area::Input, 0, 0),
            (Area::Input, 2, 1),
            (Area::Input, 5, 0),
            (Area::Holding, 0, 0),
            (Area::Discrete, 0, 0),
        ]
    );
    let (float, word) = (image.row(1, Area::Input, 0), image.row(1, Area::Input, 2));
    assert_eq!(float.map(|r| (r.good, r.partial)), Some((0, 1)));
    assert_eq!(word.map(|r| (r.good, r.partial)), Some((1, 0)));
}

#[test]
fn an_answer_that_never_left_is_not_in_the_ledger_and_a_spoiled_one_is_apart() {
    let image = image();
    let request = Request::ReadInputRegisters(2, 1);
    drop(image.execute(1, &request, false));
    let spoiled = image.execute(1, &request, false).expect("unit 1");
    image.settle(spoiled.receipt, Fate::Spoiled);
    let row = image.row(1, Area::Input, 2).expect("there");
    assert_eq!((row.good, row.late, row.spoiled), (0, 0, 1));
    // Both used a number up: the next good one is told apart from them.
    assert_eq!(ask(&image, &request), Ok(Response::ReadInputRegisters(vec![3])));
}

#[test]
fn holes_read_zero_or_are_refused() {
    let image = image();
    let across = Request::ReadInputRegisters(2, 3);
    assert_eq!(ask(&image, &across), Ok(Response::ReadInputRegisters(vec![1, 0, 0])));
    let refused = image.execute(1, &across, true).expect("unit 1");
    assert_eq!(refused.response, Err(ExceptionCode::IllegalDataAddress));
    image.settle(refused.receipt, Fate::Good);
    assert_eq!(image.row(1, Area::Input, 2).map(|r| r.good), Some(1));
    let nowhere = Request::ReadInputRegisters(100, 2);
    assert_eq!(ask(&image, &nowhere), Err(ExceptionCode::IllegalDataAddress));
    let beyond = Request::ReadInputRegisters(0xFFFF, 2);
    assert_eq!(ask(&image, &beyond), Err(ExceptionCode::IllegalDataAddress));
    assert!(image.execute(9, &across, false).is_none());
}

#[test]
fn what_is_written_is_held_and_read_only_places_refuse() {
    let image = image();
    let held = |image: &Registers| ask(image, &Request::ReadHoldingRegisters(0, 2));
    assert_eq!(held(&image), Ok(Response::ReadHoldingRegisters(vec![0, 7])));
    for (request, holds) in [
        (Request::WriteSingleRegister(1, 9), vec![0, 9]),
        (Request::WriteMultipleRegisters(0, vec![1, 2].into()), vec![1, 2]),
        (Request::MaskWriteRegister(1, 0xFF00, 0x0005), vec![1, 5]),
    ] {
        assert!(ask(&image, &request).is_ok());
        assert_eq!(held(&image), Ok(Response::ReadHoldingRegisters(holds)));
    }
    // The second word has no place: the first stays as it was.
    let half = Request::WriteMultipleRegisters(1, vec![6, 6].into());
    assert_eq!(ask(&image, &half), Err(ExceptionCode::IllegalDataAddress));
    let both = Request::ReadWriteMultipleRegisters(0, 2, 0, vec![3, 4].into());
    assert_eq!(ask(&image, &both), Ok(Response::ReadWriteMultipleRegisters(vec![3, 4])));
    assert_eq!(image.row(1, Area::Holding, 0).map(|r| r.writes), Some(4));
    assert_eq!(ask(&image, &Request::WriteSingleCoil(3, true)), Ok(Response::WriteSingleCoil(3, true)));
    assert_eq!(ask(&image, &Request::ReadCoils(3, 2)), Ok(Response::ReadCoils(vec![true, false])));
    assert_eq!(
        ask(&image, &Request::WriteMultipleCoils(4, vec![true].into())),
        Err(ExceptionCode::IllegalDataAddress)
    );
}

#[test]
fn counts_beyond_the_specification_are_refused() {
    let image = image();
    for request in [
        Request::ReadInputRegisters(0, 0),
        Request::ReadInputRegisters(0, 126),
        Request::ReadCoils(0, 2001),
        Request::WriteMultipleRegisters(0, vec![0; 124].into()),
    ] {
        assert_eq!(ask(&image, &request), Err(ExceptionCode::IllegalDataValue), "{request:?}");
    }
    assert_eq!(ask(&image, &Request::ReportServerId), Err(ExceptionCode::IllegalFunction));
}

#[test]
fn a_layout_that_cannot_be_is_refused() {
    let held = Source::Held(0.0);
    let input = |at, kind| Layout::new(1, 0).with(1, Area::Input, at, kind, held);
    let error = |layout: Layout| layout.build().err();
    assert_eq!(
        error(input(0, Kind::F32).with(1, Area::Input, 1, Kind::U16, held)),
        Some(LayoutError::Overlap(1, Area::Input, 1))
    );
    assert_eq!(
        error(input(0, Kind::U16).with(1, Area::Input, 0, Kind::U16, held)),
        Some(LayoutError::Overlap(1, Area::Input, 0))
    );
    assert_eq!(error(input(0, Kind::Bool)), Some(LayoutError::Kind(1, Area::Input, 0)));
    assert_eq!(error(input(65_535, Kind::F32)), Some(LayoutError::Beyond(1, Area::Input, 65_535)));
    let much = Layout::new(1, bounds::HISTORY_TOTAL + 1).with(1, Area::Input, 0, Kind::U16, held);
    assert!(matches!(error(much), Some(LayoutError::TooMany { .. })));
    assert!(input(65_534, Kind::F32).with(2, Area::Input, 65_534, Kind::F32, held).build().is_ok());
}

proptest! {
    #[test]
    fn any_request_is_answered_and_the_ledger_counts_whole_reads_only(
        reads in proptest::collection::vec((0_u16..12, 0_u16..12), 1..40),
    ) {
        let image = image();
        let mut expected = 0;
        for (start, count) in reads {
            let answered = ask(&image, &Request::ReadInputRegisters(start, count)).is_ok();
            let whole = start == 0 && count >= 2;
            prop_assert!(answered || !whole);
            expected += u64::from(whole);
        }
        prop_assert_eq!(image.row(1, Area::Input, 0).map(|r| r.good), Some(expected));
    }
}
