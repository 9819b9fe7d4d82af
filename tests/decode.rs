//! Packed payloads from outside: `fieldgate decode` and the decoder in Python, written from the layout's page alone,
//! print the same readings; damaged payloads are named by both, and none makes either fall over.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use driver_api::{Quality, Reason, Value};
use fieldgate::message::{Epoch, Id, PointKey, Record, WallMs};
use fieldgate::pipeline::{compact, payload};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::Value as Json;

fn decoders(input: &Path) -> [(&'static str, Output); 2] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/compact_decode.py");
    let rust = Command::new(env!("CARGO_BIN_EXE_fieldgate")).arg("decode").arg(input).output();
    let python = Command::new("python3").arg(script).arg(input).output();
    [
        ("fieldgate decode", rust.expect("it starts")),
        ("compact_decode.py", python.expect("python3 is installed")),
    ]
}

/// Every reading that a decoder printed.
fn lines(name: &str, output: &Output) -> Vec<Json> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("Traceback"), "{name}: {output:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}")))
        .collect()
}

/// What the format `json` would have sent of them.
fn expected(gateway: &str, historical: bool, records: &[Record]) -> Vec<Json> {
    let mut writer = payload::Readings::default();
    let line =
        |r: &Record| serde_json::from_slice(&writer.write_line_of(gateway, historical, r)).expect("JSON");
    records.iter().map(line).collect()
}

fn quality() -> impl Strategy<Value = Quality> {
    let reason = prop_oneof![1u16..10, 0x100u16..0x200].prop_map(|c| Reason::from_code(c).expect("known"));
    prop_oneof![
        4 => Just(Quality::Good),
        1 => reason.clone().prop_map(Quality::Uncertain),
        1 => reason.prop_map(Quality::Bad),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Float),
        any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| Value::Float(x.into())),
        // Whole ones, which stay floats: also where they look like integers that JSON readers round.
        prop::sample::select(vec![0.0, -0.0, 21.0, 9_007_199_254_740_994.0, 1e16, 1e300])
            .prop_map(Value::Float),
        (-99_999i32..99_999, 0i32..10).prop_map(|(m, d)| Value::Float(f64::from(m) / 10f64.powi(d))),
        "[a-zé\"\\\\ 中]{0,12}".prop_map(|t| Value::Text(t.into())),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    // Times of the years 1 to 9999, which both can write in words.
    let one = (0u8..9, -62_135_596_800_000i64..253_402_300_799_000, value(), quality());
    (1u64..1 << 60, prop::collection::vec(one, 1..60)).prop_map(|(first, rows)| {
        let record = |(seq, (key, ts, value, quality)): (u64, (u8, i64, Value, Quality))| Record {
            id: Id { epoch: Epoch { start: 3, random: 0xffee_0001 }, seq },
            ts: WallMs(ts),
            point: Arc::new(PointKey {
                device: format!("meter{}", key / 3),
                point: format!("voltage_l{key}"),
                unit: if key == 0 { String::new() } else { "°C".into() },
            }),
            value: (!matches!(quality, Quality::Bad(_))).then_some(value),
            quality,
        };
        (first..).zip(rows).map(record).collect()
    })
}

fn of<T>(strategy: impl Strategy<Value = T>) -> T {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    strategy.new_tree(&mut runner).expect("a value").current()
}

#[test]
fn both_decoders_print_what_json_would_have_been() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("payloads");
    // Some hundred messages in one file, for a process each would take a minute.
    let messages = of(prop::collection::vec((records(), any::<bool>(), "[a-z0-9_-]{1,20}"), 150..200));
    let mut bytes = Vec::new();
    let mut all = Vec::new();
    for (records, historical, gateway) in &messages {
        bytes.extend(compact::encode(gateway, *historical, records).expect("a run"));
        all.extend(expected(gateway, *historical, records));
    }
    fs::write(&file, bytes).expect("written");
    for (name, output) in decoders(&file) {
        assert!(output.status.success(), "{name}: {output:?}");
        let printed = lines(name, &output);
        assert_eq!(printed.len(), all.len(), "{name}");
        for (printed, expected) in printed.iter().zip(&all) {
            assert_eq!(printed, expected, "{name}");
        }
    }
}

#[test]
fn both_decoders_read_the_golden_message_of_version_1() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = fs::read_to_string(golden.join("compact-1.jsonl")).expect("it is there");
    let expected: Vec<Json> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    for (name, output) in decoders(&golden.join("compact-1.bin")) {
        assert_eq!(lines(name, &output), expected, "{name}");
    }
}

#[test]
fn both_decoders_name_what_is_damaged_go_on_behind_it_and_exit_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("payloads");
    let [first, second, third] = of([records(), records(), records()]);
    let good = |records: &[Record]| compact::encode("box", false, records).expect("a run");
    let mut flipped = good(&second);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    let mut later = good(&second);
    later[3] = 9;
    let cut = &good(&second)[..middle];
    for (damage, words) in [
        (&flipped[..], "checksum does not fit"),
        (&later, "version 9"),
        (cut, ""),
        (b"\n", "no compact payload"),
        (b"{\"gateway\":\"box\"}", "no compact payload"),
    ] {
        fs::write(&file, [&good(&first), damage, &good(&third)].concat()).expect("written");
        let whole = [expected("box", false, &first), expected("box", false, &third)].concat();
        for (name, output) in decoders(&file) {
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
            let place = format!("at byte {}", good(&first).len());
            assert!(told.contains(words) && told.contains(&place), "{name}: {told}");
            assert_eq!(lines(name, &output), whole, "{name} after {words}: {told}");
        }
    }
}

#[test]
fn noise_makes_neither_decoder_fall_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("payloads");
    let mut bytes = Vec::new();
    for (records, at, noise) in
        of(prop::collection::vec((records(), any::<prop::sample::Index>(), any::<u8>()), 200..201))
    {
        let mut message = compact::encode("box", true, &records).expect("a run");
        let end = message.len() - 4;
        message[at.index(end)] ^= noise | 1;
        // A checksum that fits, so that the noise reaches what is behind it.
        let crc = crc32fast::hash(&message[..end]);
        message[end..].copy_from_slice(&crc.to_le_bytes());
        bytes.extend(message);
    }
    fs::write(&file, bytes).expect("written");
    for (name, output) in decoders(&file) {
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let _whole = lines(name, &output);
    }
}

#[test]
fn nothing_and_a_missing_file_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let decode = |path: &Path| Command::new(env!("CARGO_BIN_EXE_fieldgate")).arg("decode").arg(path).output();
    let missing = decode(&dir.path().join("nowhere")).expect("it starts");
    assert!(missing.status.code() == Some(1) && String::from_utf8_lossy(&missing.stderr).contains("nowhere"));
    let empty = dir.path().join("empty");
    fs::write(&empty, "").expect("written");
    let output = decode(&empty).expect("it starts");
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("nothing"));
}

#[test]
fn the_page_of_the_layout_and_the_decoder_in_python_know_every_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let page = fs::read_to_string(root.join("compact.md")).expect("the page");
    let script = fs::read_to_string(root.join("compact_decode.py")).expect("the script");
    for reason in (0..0x100).filter_map(Reason::from_code) {
        let (code, word) = (reason.code(), reason.word());
        assert!(page.contains(&format!("| {code} | `{word}` |")), "{word} is not on the page");
        assert!(script.contains(&format!("{code}: \"{word}\"")), "{word} is not in the script");
    }
}
