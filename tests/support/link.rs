//! A link between an uplink and a broker that is as long, as narrow and as unreliable as a test wants it.
//!
//! Bytes under way wait in a buffer as long as the link (and at least a moment's worth of its rate), as in a modem:
//! who sends faster than the link carries is held up by TCP and not by a queue without end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// What a link is like on its best day.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// Half the round trip.
    pub one_way: Duration,
    /// Bytes a second in each direction; 0 is no limit.
    pub rate: u32,
}

impl Shape {
    /// Round trip in milliseconds and bytes a second.
    pub fn of(round_trip_ms: u64, rate: u32) -> Self {
        Self { one_way: Duration::from_millis(round_trip_ms) / 2, rate }
    }

    fn time_of(self, bytes: usize) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) * u32::try_from(bytes).expect("a chunk") / rate,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Counts what broke every connection.
    broken: u64,
    down: bool,
    swallowing: bool,
    /// Up, down: bytes wait instead of arriving.
    held: [bool; 2],
}

/// A TCP link that can be cut, held up, turned into a black hole, and healed.
pub struct Link {
    pub address: SocketAddr,
    /// Bytes that arrived at the other side: up, down.
    pub carried: Arc<[AtomicU64; 2]>,
    target: Arc<AtomicU16>,
    state: watch::Sender<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// A link as good as the loopback.
    pub async fn to(port: u16) -> Self {
        Self::shaped(port, Shape::default()).await
    }

    pub async fn shaped(port: u16, shape: Shape) -> Self {
        let listener = listener(shape);
        let address = listener.local_addr().expect("bound");
        let (state, carried) = (watch::Sender::new(State::default()), Arc::<[AtomicU64; 2]>::default());
        let target = Arc::new(AtomicU16::new(port));
        let task = tokio::spawn(accept(listener, target.clone(), shape, state.clone(), carried.clone()));
        Self { address, carried, target, state, task }
    }

    /// Breaks every connection; new ones come through at once.
    pub fn shake(&self) {
        self.state.send_modify(|state| state.broken += 1);
    }

    /// Breaks every connection; new ones lead to this port.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Relaxed);
        self.shake();
    }

    /// Breaks every connection; new ones get nowhere.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { broken: state.broken + 1, down: true, ..*state });
    }

    /// Throws every byte away and closes nothing: no end of TCP is told. New connections come into the same hole.
    pub fn swallow(&self) {
        self.state.send_modify(|state| state.swallowing = true);
    }

    /// Holds back every byte, in order, as TCP does over a link that has gone for a while.
    pub fn hold(&self) {
        self.state.send_modify(|state| state.held = [true, true]);
    }

    /// Holds back what the broker says: no acknowledgement comes, and then they all come late.
    pub fn hold_answers(&self) {
        self.state.send_modify(|state| state.held = [false, true]);
    }

    /// All is well again. What lost bytes is reset: its streams are beyond repair.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            *state = State { broken: state.broken + u64::from(state.swallowing), ..State::default() };
        });
    }
}

/// Its sockets buffer little: what the kernel takes from the sender the link has not carried yet.
fn listener(shape: Shape) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    if shape.rate > 0 {
        socket.set_recv_buffer_size(8 << 10).expect("a size");
    }
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    socket.listen(64).expect("listens")
}

async fn accept(
    listener: TcpListener,
    target: Arc<AtomicU16>,
    shape: Shape,
    state: watch::Sender<State>,
    carried: Arc<[AtomicU64; 2]>,
) {
    let mut all = tokio::task::JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (state, carried, port) = (state.subscribe(), carried.clone(), target.load(Relaxed));
        if state.borrow().down {
            continue; // Accepted and dropped: what a dead NAT looks like at its best.
        }
        all.spawn(async move {
            if let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await {
                carry(near, far, shape, state, &carried).await;
            }
        });
    }
}

async fn carry(
    near: TcpStream,
    far: TcpStream,
    shape: Shape,
    mut state: watch::Receiver<State>,
    carried: &[AtomicU64; 2],
) {
    let broken = state.borrow().broken;
    for end in [&near, &far] {
        end.set_nodelay(true).expect("TCP");
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let ends = [near_out, far_out];
    let cut = {
        let [mut near_out, mut far_out] = ends;
        let up = Pump { direction: 0, shape, state: state.clone(), carried };
        let down = Pump { direction: 1, shape, state: state.clone(), carried };
        let both = async { tokio::join!(up.run(near_in, &mut far_out), down.run(far_in, &mut near_out)) };
        tokio::select! {
            _ = both => None,
            _ = state.wait_for(|now| now.broken != broken) => Some([near_out, far_out]),
        }
    };
    for end in cut.iter().flatten() {
        // Bytes under way are lost, as on a cable that is pulled.
        let _gone = socket2::SockRef::from(end.as_ref()).set_linger(Some(Duration::ZERO));
    }
}

/// One direction of one connection.
struct Pump<'a> {
    direction: usize,
    shape: Shape,
    state: watch::Receiver<State>,
    carried: &'a [AtomicU64; 2],
}

impl Pump<'_> {
    async fn run(self, from: OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let (under_way, arriving) = mpsc::channel(4096);
        let (state, held) = (self.state.clone(), self.state.clone());
        tokio::join!(self.depart(from, state, under_way), self.arrive(to, held, arriving));
    }

    /// Takes bytes as fast as the link carries them, and says when each arrives.
    async fn depart(
        &self,
        mut from: OwnedReadHalf,
        state: watch::Receiver<State>,
        under_way: mpsc::Sender<(Instant, Vec<u8>)>,
    ) {
        let chunk = match self.shape.rate as usize {
            0 => 16 << 10,
            rate => (rate / 50).clamp(64, 16 << 10),
        };
        let mut buffer = vec![0; chunk];
        let mut sent_at = Instant::now();
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if state.borrow().swallowing {
                continue;
            }
            sent_at = sent_at.max(Instant::now()) + self.shape.time_of(count);
            if under_way.send((sent_at + self.shape.one_way, buffer[..count].to_vec())).await.is_err() {
                return;
            }
            sleep_until(sent_at - self.shape.time_of(chunk)).await;
        }
    }

    async fn arrive(
        &self,
        to: &mut OwnedWriteHalf,
        mut held: watch::Receiver<State>,
        mut arriving: mpsc::Receiver<(Instant, Vec<u8>)>,
    ) {
        while let Some((at, bytes)) = arriving.recv().await {
            sleep_until(at).await;
            let through = held.wait_for(|now| !now.held[self.direction]).await.map(|now| !now.swallowing);
            match through {
                Ok(true) if to.write_all(&bytes).await.is_ok() => {
                    self.carried[self.direction].fetch_add(bytes.len() as u64, Relaxed);
                }
                Ok(false) => {}
                _ => return,
            }
        }
        let _closed = to.shutdown().await;
    }
}
