//! The scale as a program on the other end of the terminal hears it.

use std::path::Path;
use std::time::Duration;

use driver_sim::signals::Signal;
use driver_sim::slaves::{Fate, ScaleOptions, ScaleSlave, Style, Weight};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_serial::SerialStream;

const PATIENCE: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(40);

fn start(options: ScaleOptions) -> ScaleSlave {
    ScaleSlave::start(options).expect("a pseudo-terminal")
}

fn spontaneous() -> ScaleOptions {
    ScaleOptions { baud: 38_400, every: Some(EVERY), ..ScaleOptions::default() }
}

fn open(path: Option<&Path>) -> SerialStream {
    let path = path.expect("plugged").to_string_lossy();
    SerialStream::open(&tokio_serial::new(path, 9600)).expect("opens")
}

/// Bytes up to and with the `lines`th line end, and the number of reads it took.
async fn hear(port: &mut SerialStream, lines: usize) -> (Vec<u8>, usize) {
    let mut heard = Vec::new();
    let mut reads = 0;
    let all = async {
        while heard.iter().filter(|b| **b == b'\n').count() < lines {
            let mut buffer = [0; 64];
            let count = port.read(&mut buffer).await.expect("reads");
            assert_ne!(count, 0, "hung up");
            heard.extend_from_slice(&buffer[..count]);
            reads += 1;
        }
    };
    timeout(PATIENCE, all).await.expect("in time");
    (heard, reads)
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| l[..l.len() - 1].to_vec()).collect()
}

/// Waits until the ledger knows of this many telegrams: the last byte is heard before it is entered.
async fn entered(scale: &ScaleSlave, count: usize) {
    let all = async {
        while scale.ledger().said.len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("in time");
}

#[tokio::test]
async fn every_telegram_arrives_once_in_pieces_as_the_ledger_says() {
    let scale = start(spontaneous());
    let mut port = open(scale.path());
    let (heard, reads) = hear(&mut port, 20).await;
    scale.silence(true);
    entered(&scale, 20).await;
    let ledger = scale.ledger();
    let said: Vec<Vec<u8>> = ledger.said.iter().take(20).map(|t| t.text.clone().into_bytes()).collect();
    assert_eq!(lines(&heard)[..20], said);
    assert_eq!(ledger.said[19].text, "ST,GS,+   0.20kg");
    assert!(reads > 40, "in {reads} pieces");
    assert_eq!((ledger.spoiled, ledger.forgotten), (0, 0));
}

#[tokio::test]
async fn asked_it_answers_once_for_every_request() {
    let options = ScaleOptions {
        baud: 38_400,
        every: None,
        request: b"P\r\n".to_vec(),
        style: Style::Zeros,
        weight: Weight::Signal(Signal::Constant(12.344)),
        ..ScaleOptions::default()
    };
    let scale = start(options);
    let mut port = open(scale.path());
    for piece in [b"P".as_slice(), b"\r", b"\nP\r\nxxP\r\n"] {
        port.write_all(piece).await.expect("writes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (heard, _) = hear(&mut port, 3).await;
    assert_eq!(heard, b"ST,GS,+0012.34kg\r\n".repeat(3));
    entered(&scale, 3).await;
    let mut buffer = [0; 8];
    let more = timeout(Duration::from_millis(200), port.read(&mut buffer)).await;
    assert!(more.is_err(), "it talks unasked");
    assert_eq!(scale.ledger().good, 3);
}

#[tokio::test]
async fn noise_stands_before_telegrams_and_a_spoiled_one_cannot_be_taken_for_good() {
    let options = ScaleOptions { noise: 0.5, spoil: 0.3, every: Some(EVERY / 2), ..spontaneous() };
    let scale = start(options);
    let mut port = open(scale.path());
    let (heard, _) = hear(&mut port, 40).await;
    scale.silence(true);
    entered(&scale, 40).await;
    let said: Vec<_> = scale.ledger().said.into_iter().take(40).collect();
    let mut noisy = 0;
    for (line, telegram) in lines(&heard).iter().zip(&said) {
        let text = telegram.text.as_bytes();
        assert_eq!(line.ends_with(text), telegram.fate == Fate::Good, "{line:?} {telegram:?}");
        noisy += usize::from(line.len() > text.len());
    }
    let spoiled = said.iter().filter(|t| t.fate == Fate::Spoiled).count();
    assert!((8..=32).contains(&noisy) && (4..=24).contains(&spoiled), "{noisy} noisy, {spoiled} spoiled");
}

#[tokio::test]
async fn what_nobody_hears_is_not_said() {
    let scale = start(spontaneous());
    let unheard = async {
        while scale.ledger().unheard < 5 {
            tokio::time::sleep(EVERY).await;
        }
    };
    timeout(PATIENCE, unheard).await.expect("in time");
    assert!(scale.ledger().said.is_empty());
    let mut port = open(scale.path());
    let (heard, _) = hear(&mut port, 1).await;
    assert_eq!(lines(&heard)[0], b"ST,GS,+   0.01kg");
}

#[tokio::test]
async fn it_can_be_unplugged_and_goes_on_where_it_was() {
    let mut scale = start(spontaneous());
    let mut port = open(scale.path());
    hear(&mut port, 2).await;
    scale.unplug().await.expect("had no error");
    assert!(!scale.is_running() && scale.path().is_none());
    let said = scale.ledger().said.len();
    scale.plug().expect("a pseudo-terminal");
    let mut port = open(scale.path());
    let (heard, _) = hear(&mut port, 1).await;
    let next = format!("ST,GS,+   0.{:02}kg", said + 1);
    assert_eq!(String::from_utf8_lossy(&lines(&heard)[0]), next);
    scale.stop().await.expect("had no error");
}

#[tokio::test]
async fn a_telegram_leaves_at_the_pace_of_its_line() {
    let options = ScaleOptions { baud: 300, every: None, request: b"P".to_vec(), ..ScaleOptions::default() };
    let scale = start(options);
    let mut port = open(scale.path());
    let start = Instant::now();
    port.write_all(b"P").await.expect("writes");
    hear(&mut port, 1).await;
    // 1 character there, 18 back, 11 bits each.
    let copper = Duration::from_secs_f64(19.0 * 11.0 / 300.0);
    let ratio = start.elapsed().as_secs_f64() / copper.as_secs_f64();
    println!("300 baud: {ratio:.4} of the time on copper");
    assert!((0.99..1.25).contains(&ratio), "{ratio}");
}

#[test]
fn impossible_scales_are_refused() {
    for options in [
        ScaleOptions { baud: 0, ..ScaleOptions::default() },
        ScaleOptions { every: Some(Duration::ZERO), ..ScaleOptions::default() },
        ScaleOptions { request: vec![b'P'; 65], ..ScaleOptions::default() },
        // No runtime here to run it on.
        ScaleOptions::default(),
    ] {
        assert!(ScaleSlave::start(options).is_err());
    }
}
