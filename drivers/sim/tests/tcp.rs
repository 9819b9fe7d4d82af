//! The Modbus TCP device as a client sees it: values, faults, and being switched off and on.

use std::time::Duration;

use driver_sim::bounds;
use driver_sim::slaves::{Area, Kind, Layout, Source, TcpFault, TcpSlave};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_modbus::client::{Context, Reader, Writer, tcp};
use tokio_modbus::{ExceptionCode, Slave};

const PATIENCE: Duration = Duration::from_secs(10);

async fn slave() -> TcpSlave {
    let image = Layout::new(1, 100)
        .with(1, Area::Input, 0, Kind::U32, Source::Serves)
        .with(1, Area::Holding, 0, Kind::U16, Source::Held(5.0))
        .build()
        .expect("fits");
    TcpSlave::start(image, 0).await.expect("a port")
}

async fn client(slave: &TcpSlave, unit: u8) -> Context {
    tcp::connect_slave(slave.address(), Slave(unit)).await.expect("connects")
}

async fn read(client: &mut Context) -> Result<Vec<u16>, ExceptionCode> {
    let answer = timeout(PATIENCE, client.read_input_registers(0, 2)).await.expect("in time");
    answer.expect("connection")
}

#[tokio::test]
async fn a_client_reads_and_writes_and_the_ledger_counts_exactly() {
    let slave = slave().await;
    let mut client = client(&slave, 1).await;
    for n in 1..=20 {
        assert_eq!(read(&mut client).await, Ok(vec![0, n]));
    }
    timeout(PATIENCE, client.write_single_register(0, 9)).await.expect("in time").expect("line").expect("ok");
    let held = timeout(PATIENCE, client.read_holding_registers(0, 1)).await.expect("in time");
    assert_eq!(held.expect("connection"), Ok(vec![9]));
    let row = slave.registers().row(1, Area::Input, 0).expect("there");
    assert_eq!((row.good, row.late, row.spoiled, row.history.len()), (20, 0, 0, 20));
}

#[tokio::test]
async fn two_clients_never_get_the_same_number() {
    let slave = slave().await;
    let (mut a, mut b) = (client(&slave, 1).await, client(&slave, 1).await);
    let mut seen = Vec::new();
    for _ in 0..20 {
        let (first, second) = tokio::join!(read(&mut a), read(&mut b));
        seen.extend([first.expect("answer")[1], second.expect("answer")[1]]);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let slave = slave().await;
    let mut stranger = client(&slave, 8).await;
    assert_eq!(read(&mut stranger).await, Err(ExceptionCode::GatewayTargetDevice));

    let mut patient = client(&slave, 1).await;
    slave.faults().script(1, TcpFault::Exception(6), 1);
    assert_eq!(read(&mut patient).await, Err(ExceptionCode::ServerDeviceBusy));
    let late = Duration::from_millis(100);
    slave.faults().script(1, TcpFault::Late(late), 1);
    let start = Instant::now();
    assert_eq!(read(&mut patient).await, Ok(vec![0, 1]));
    assert!(start.elapsed() >= late);

    slave.faults().refuse_holes(1, true);
    let hole = timeout(PATIENCE, patient.read_input_registers(1, 3)).await.expect("in time");
    assert_eq!(hole.expect("connection"), Err(ExceptionCode::IllegalDataAddress));

    slave.faults().set(1, Some(TcpFault::Silent));
    let mut ignored = client(&slave, 1).await;
    assert!(timeout(Duration::from_millis(300), ignored.read_input_registers(0, 2)).await.is_err());
    slave.faults().clear();
    assert_eq!(read(&mut client(&slave, 1).await).await, Ok(vec![0, 2]));
    let row = slave.registers().row(1, Area::Input, 0).expect("there");
    assert_eq!((row.good, row.late, row.spoiled), (1, 1, 0));
}

#[tokio::test]
async fn switched_off_it_hangs_up_and_comes_back_on_the_same_port() {
    let mut slave = slave().await;
    let address = slave.address();
    let mut stream = TcpStream::connect(address).await.expect("connects");
    assert_eq!(read(&mut client(&slave, 1).await).await, Ok(vec![0, 1]));
    slave.pause().await.expect("had no error");
    let mut buffer = [0; 8];
    let hung = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time");
    assert!(matches!(hung, Ok(0) | Err(_)), "{hung:?}");
    assert!(TcpStream::connect(address).await.is_err() && !slave.is_running());
    slave.resume().await.expect("the port is still free");
    assert_eq!(slave.address(), address);
    assert_eq!(read(&mut client(&slave, 1).await).await, Ok(vec![0, 2]));
}

#[tokio::test]
async fn a_crowd_of_connections_is_turned_away_beyond_the_bound() {
    let slave = slave().await;
    let mut clients = Vec::new();
    for _ in 0..bounds::CONNECTIONS {
        let mut client = client(&slave, 1).await;
        assert!(read(&mut client).await.is_ok());
        clients.push(client);
    }
    let mut one_more = TcpStream::connect(slave.address()).await.expect("connects");
    let mut buffer = [0; 8];
    let hung = timeout(PATIENCE, one_more.read(&mut buffer)).await.expect("in time");
    assert!(matches!(hung, Ok(0) | Err(_)), "{hung:?}");
    drop(clients);
    let again = async {
        loop {
            let mut client = client(&slave, 1).await;
            if matches!(client.read_input_registers(0, 2).await, Ok(Ok(_))) {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("places are given back");
}
