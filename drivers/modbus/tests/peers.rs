//! The drivers against servers nobody here wrote: tokio-modbus on a pseudo-terminal and on TCP.

mod support;

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use driver_api::decode::{Kind, WordOrder, encode};
use driver_api::{Bus, FrameError, ReadError, Reason, Sample, Value};
use support::{compile, device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_serial::{SerialPort, SerialStream};

/// A device of 200 registers: 0 to 9 are set in `memory`, 100 to 199 do not exist.
#[derive(Clone)]
struct Device {
    memory: Arc<Mutex<Vec<u16>>>,
    asked: Arc<AtomicU32>,
}

impl Device {
    fn new() -> Self {
        let mut memory = vec![0; 200];
        let float = encode(Kind::F32, WordOrder::Cdab, &Value::Float(230.1)).expect("a float");
        memory[..2].copy_from_slice(&float);
        memory[5] = 0xFFFE;
        Self { memory: Arc::new(Mutex::new(memory)), asked: Arc::default() }
    }

    fn answer(&self, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut memory = self.memory.try_lock().expect("one request at a time");
        let range = |at: u16, n: u16| {
            let (from, to) = (usize::from(at), usize::from(at) + usize::from(n));
            if to <= 100 { Ok(from..to) } else { Err(ExceptionCode::IllegalDataAddress) }
        };
        Ok(match request {
            Request::ReadHoldingRegisters(at, n) => {
                Response::ReadHoldingRegisters(memory[range(*at, *n)?].to_vec())
            }
            Request::ReadInputRegisters(at, n) => {
                Response::ReadInputRegisters(memory[range(*at, *n)?].to_vec())
            }
            Request::ReadCoils(at, n) => {
                Response::ReadCoils(memory[range(*at, *n)?].iter().map(|w| *w != 0).collect())
            }
            Request::WriteSingleRegister(at, word) => {
                memory[range(*at, 1)?][0] = *word;
                Response::WriteSingleRegister(*at, *word)
            }
            Request::WriteMultipleRegisters(at, words) => {
                let n = u16::try_from(words.len()).expect("at most 123");
                memory[range(*at, n)?].copy_from_slice(words);
                Response::WriteMultipleRegisters(*at, n)
            }
            Request::WriteSingleCoil(at, on) => {
                memory[range(*at, 1)?][0] = u16::from(*on);
                Response::WriteSingleCoil(*at, *on)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        })
    }
}

impl Service for Device {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        // Unit 9 is not there.
        if request.slave == 9 {
            return ready(Ok(None));
        }
        ready(self.answer(&request.request).map(Some))
    }
}

const POINTS: &str = "
    voltage: register = 'holding:0', type = 'f32', word_order = 'CDAB'
    offset: register = 'holding:5', type = 'i16'
    setpoint: register = 'holding:20', type = 'f64', writable = true
    count: register = 'holding:30', writable = true
    pump: register = 'coil:40', writable = true
    missing: register = 'input:99', type = 'u32'
";

async fn read(bus: &mut dyn Bus, block: usize) -> Result<Vec<Sample>, ReadError> {
    let mut samples = Vec::new();
    bus.read(block, &mut samples).await.map(|()| samples)
}

/// Reads and writes everything that [`POINTS`] has.
async fn walk(bus: &mut dyn Bus) {
    for _ in 0..20 {
        for (block, expected) in [
            (0, vec![Value::Bool(false)]),
            (2, vec![Value::Float(230.1), Value::Int(-2), Value::Int(0), Value::Int(0)]),
        ] {
            let samples = read(bus, block).await.expect("an answer");
            let values: Vec<Value> = samples.into_iter().filter_map(|s| s.value.ok()).collect();
            if block == 2 {
                assert_eq!((&values[0], &values[1]), (&expected[0], &expected[1]));
                assert_eq!(values.len(), 4);
            } else {
                assert_eq!(values, expected);
            }
        }
    }
    assert!(matches!(read(bus, 1).await, Err(ReadError::Refused(2))));
    bus.write(2, &Value::Float(-21.5)).await.expect("function 16");
    bus.write(3, &Value::Int(7)).await.expect("function 6");
    bus.write(4, &Value::Bool(true)).await.expect("function 5");
    let samples = read(bus, 2).await.expect("read back");
    assert_eq!(samples[2].value, Ok(Value::Float(-21.5)));
    assert_eq!(samples[3].value, Ok(Value::Int(7)));
    assert_eq!(read(bus, 0).await.expect("read back")[0].value, Ok(Value::Bool(true)));
}

#[tokio::test]
async fn an_rtu_server_on_a_pseudo_terminal_is_read_and_written() {
    let (master, slave) = SerialStream::pair().expect("a pseudo-terminal");
    let path = slave.name().expect("it has a path");
    let text = format!("port = '{path}'\nbaud = 115200");
    let devices =
        [device("meter", "address = 1", POINTS), device("absent", "address = 9", "x: register = 'input:0'")];
    let mut bus = compile(&driver_modbus::Rtu, &text, &devices).expect("a good configuration");
    // The pair's own end is not exclusive; it goes once ours is open, or the master would see an end.
    bus.open().await.expect("the terminal opens");
    drop(slave);
    let server = tokio::spawn(rtu::Server::new(master).serve_forever(Device::new()));
    walk(&mut *bus).await;

    let error = read(&mut *bus, 3).await.expect_err("nobody is there");
    assert!(matches!(error, ReadError::Transient(FrameError::Timeout(_))), "{error}");
    assert_eq!(read(&mut *bus, 2).await.expect("the other one is").len(), 4);

    let second = compile(&driver_modbus::Rtu, &text, &devices).expect("a good configuration").open().await;
    let error = second.expect_err("it is taken");
    assert!(error.to_string().contains("another program has it open"), "{error}");

    server.abort();
    let _ = server.await;
    let error = read(&mut *bus, 2).await.expect_err("the other end is closed");
    assert!(matches!(error, ReadError::Bus(_)), "{error}");
    assert_eq!(error.reason(), Reason::BusDown);
}

#[tokio::test]
async fn a_port_that_is_not_there_is_told_in_words() {
    let devices = [device("meter", "address = 1", "x: register = 'input:0'")];
    let mut bus = compile(&driver_modbus::Rtu, "port = '/dev/no-such-port'", &devices).expect("good");
    let error = bus.open().await.expect_err("it is not there").to_string();
    assert!(error.contains("/dev/no-such-port") && error.contains("fieldgate ports"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let text = format!("address = '127.0.0.1:{port}'");
    let mut bus = compile(&driver_modbus::Tcp, &text, &devices).expect("good");
    let error = bus.open().await.expect_err("nobody listens").to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("nothing listens"), "{error}");
}

#[tokio::test]
async fn a_tcp_server_is_read_and_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let service = Device::new();
    let asked = Arc::clone(&service.asked);
    let server = tokio::spawn(async move {
        let connected =
            |stream, peer| ready(tcp::accept_tcp_connection(stream, peer, |_| Ok(Some(service.clone()))));
        tcp::Server::new(listener).serve(&connected, |_| {}).await
    });
    let text = format!("address = '127.0.0.1:{port}'");
    let devices =
        [device("plc", "address = 255", POINTS), device("absent", "address = 9", "x: register = 'input:0'")];
    let mut bus = compile(&driver_modbus::Tcp, &text, &devices).expect("a good configuration");
    bus.open().await.expect("it listens");
    walk(&mut *bus).await;
    // 20 rounds of two blocks, a refusal, three writes, two reads: not one request more.
    assert_eq!(asked.load(Ordering::Relaxed), 46);

    let error = read(&mut *bus, 3).await.expect_err("nobody is there");
    assert!(matches!(error, ReadError::Transient(FrameError::Timeout(_))), "{error}");
    assert_eq!(read(&mut *bus, 2).await.expect("a new connection").len(), 4);
    server.abort();
}

/// A Modbus TCP server of three lines: answers each request with the next of `answers` (bytes behind
/// the transaction number, which is the request's plus `offset`), then closes.
async fn scripted(listener: TcpListener, connections: Vec<Vec<(u16, Vec<u8>)>>) {
    for answers in connections {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        for (offset, body) in answers {
            let mut request = [0; 12];
            if stream.read_exact(&mut request).await.is_err() {
                break;
            }
            let transaction = u16::from_be_bytes([request[0], request[1]]).wrapping_add(offset);
            let frame = [&transaction.to_be_bytes()[..], &body].concat();
            stream.write_all(&frame).await.expect("written");
        }
        if stream.read_exact(&mut [0; 12]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
}

fn register(value: u8) -> Vec<u8> {
    vec![0, 0, 0, 5, 1, 4, 2, 0, value]
}

async fn tcp_bus(connections: Vec<Vec<(u16, Vec<u8>)>>) -> Box<dyn Bus> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(scripted(listener, connections));
    let text = format!("address = '127.0.0.1:{port}'");
    let devices = [device("plc", "address = 1", "x: register = 'input:0'")];
    let mut bus = compile(&driver_modbus::Tcp, &text, &devices).expect("a good configuration");
    bus.open().await.expect("it listens");
    bus
}

#[tokio::test]
async fn an_answer_with_another_transaction_number_is_never_a_value() {
    let mut bus = tcp_bus(vec![vec![(7, register(99))], vec![(0, register(7))]]).await;
    assert_eq!(read(&mut *bus, 0).await.expect_err("foreign").reason(), Reason::Timeout);
    assert_eq!(read(&mut *bus, 0).await.expect("a new connection")[0].value, Ok(Value::Int(7)));
}

#[tokio::test]
async fn broken_tcp_frames_are_no_values() {
    for body in [
        vec![0, 1, 0, 5, 1, 4, 2, 0, 7],
        vec![0, 0, 0, 0, 1, 4, 2, 0, 7],
        vec![0, 0, 1, 5, 1, 4, 2, 0, 7],
        vec![0, 0, 0, 5, 2, 4, 2, 0, 7],
        vec![0, 0, 0, 5, 1, 3, 2, 0, 7],
        vec![0, 0, 0, 4, 1, 4, 2, 0],
        vec![0, 0, 0, 7, 1, 4, 4, 0, 7, 0, 8],
    ] {
        let mut bus = tcp_bus(vec![vec![(0, body.clone())], vec![(0, register(7))]]).await;
        let error = read(&mut *bus, 0).await.expect_err("broken");
        assert_eq!(error.reason(), Reason::Protocol, "{body:02X?}: {error}");
        assert_eq!(read(&mut *bus, 0).await.expect("a new connection")[0].value, Ok(Value::Int(7)));
    }
}

#[tokio::test]
async fn a_connection_that_the_device_closed_is_replaced_without_a_word() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let text = format!("address = '127.0.0.1:{port}'");
    let devices = [device("plc", "address = 1", "x: register = 'input:0'")];
    let mut bus = compile(&driver_modbus::Tcp, &text, &devices).expect("a good configuration");
    bus.open().await.expect("it listens");
    drop(listener.accept().await.expect("the first connection"));
    tokio::spawn(scripted(listener, vec![vec![(0, register(7))]]));
    assert_eq!(read(&mut *bus, 0).await.expect("a new connection")[0].value, Ok(Value::Int(7)));
}

#[tokio::test]
async fn rtu_frames_come_through_a_converter_and_silence_renews_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let converter = tokio::spawn(async move {
        let mut connections = 0;
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            connections += 1;
            let mut request = [0; 8];
            while stream.read_exact(&mut request).await.is_ok() {
                let answer = match request[..6] {
                    [1, 4, 0, 0, 0, 2] if connections > 1 => vec![1, 4, 4, 0, 1, 0, 2],
                    [1, 4, 0, 0, 0, 1] if connections > 1 => vec![1, 4, 2, 0, 1],
                    _ => continue,
                };
                let mut frame = answer;
                driver_modbus::frame::seal(&mut frame);
                stream.write_all(&frame).await.expect("written");
            }
        }
    });
    let text = format!("address = '127.0.0.1:{port}'");
    let devices = [device("meter", "address = 1", "x: register = 'input:0', type = 'u32'")];
    let mut bus = compile(&driver_modbus::RtuOverTcp, &text, &devices).expect("a good configuration");
    bus.open().await.expect("it listens");
    assert_eq!(read(&mut *bus, 0).await.expect_err("silence").reason(), Reason::Timeout);
    for _ in 0..3 {
        assert_eq!(read(&mut *bus, 0).await.expect("a new connection")[0].value, Ok(Value::Int(0x1_0002)));
    }
    converter.abort();
}

/// A device that answers only when so many requests have come, the last one first, and unit 9 never.
async fn backwards(listener: TcpListener, at_once: usize) {
    let (mut stream, _) = listener.accept().await.expect("a client");
    loop {
        let mut asked = Vec::new();
        for _ in 0..at_once {
            let mut frame = [0; 12];
            if stream.read_exact(&mut frame).await.is_err() {
                return;
            }
            asked.push(frame);
        }
        for frame in asked.iter().rev().filter(|frame| frame[6] != 9) {
            let [t0, t1, .., a0, a1, _, _] = *frame;
            let answer = if a1 == 99 {
                vec![t0, t1, 0, 0, 0, 3, frame[6], frame[7] | 0x80, 4]
            } else {
                vec![t0, t1, 0, 0, 0, 5, frame[6], frame[7], 2, a0, a1]
            };
            stream.write_all(&answer).await.expect("the client listens");
        }
    }
}

#[tokio::test]
async fn several_requests_are_under_way_at_once_and_answered_in_any_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let text = format!("address = '{}'\npipeline = 3", listener.local_addr().expect("bound"));
    let server = tokio::spawn(backwards(listener, 3));
    let points = "a: register = 'holding:7'
         b: register = 'holding:1000'
         c: register = 'holding:40000'";
    let devices = [device("plc", "address = 1\nmax_gap = 0", points)];
    let mut bus = compile(&driver_modbus::Tcp, &text, &devices).expect("a good configuration");
    assert_eq!(bus.plan().together, 3);
    bus.open().await.expect("it listens");
    // Each register holds its own address.
    for _ in 0..3 {
        let values: Vec<Value> = bus
            .read_together(&[0, 1, 2])
            .await
            .into_iter()
            .map(|samples| samples.expect("answered")[0].value.clone().expect("a value"))
            .collect();
        assert_eq!(values, [Value::Int(7), Value::Int(1000), Value::Int(40_000)]);
    }
    server.abort();
}

#[tokio::test]
async fn of_several_requests_each_ends_in_its_own_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let text = format!("address = '{}'\npipeline = 4", listener.local_addr().expect("bound"));
    let server = tokio::spawn(backwards(listener, 2));
    let devices = [
        device("absent", "address = 9", "x: register = 'holding:5'"),
        device("plc", "address = 1", "a: register = 'holding:7'"),
    ];
    let mut bus = compile(&driver_modbus::Tcp, &text, &devices).expect("a good configuration");
    bus.open().await.expect("it listens");
    let results = bus.read_together(&[0, 1]).await;
    let [Err(ReadError::Transient(FrameError::Timeout(_))), Ok(samples)] = results.as_slice() else {
        panic!("{results:?}")
    };
    assert_eq!(samples[0].value, Ok(Value::Int(7)), "the silence of one takes nothing from the other");
    assert!(bus.read_together(&[]).await.is_empty());
    server.abort();
}
