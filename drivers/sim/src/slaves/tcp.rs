//! A Modbus TCP device on loopback, over the same kind of image, served by tokio-modbus.
//!
//! A value counts as good when it is handed to the server for sending. The device can be stopped
//! and started again on the same port; its connections are closed by that.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Response, SlaveRequest};

use super::faults::{Faults, TcpFault};
use super::ledger::Fate;
use super::registers::Registers;
use super::task::Task;
use crate::bounds;

/// A running device.
#[derive(Debug)]
pub struct TcpSlave {
    image: Registers,
    address: SocketAddr,
    faults: Faults<TcpFault>,
    task: Option<Task>,
}

impl TcpSlave {
    /// Serves every unit of the image on 127.0.0.1, on this port or, for 0, any free one. A unit
    /// that the image does not have is refused with exception 0B, as a gateway would.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub async fn start(image: Registers, port: u16) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut slave = Self { image, address, faults: Faults::default(), task: None };
        slave.resume().await?;
        Ok(slave)
    }

    /// Where to connect; it stays the same over [`Self::pause`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The switchboard of its faults.
    #[must_use]
    pub fn faults(&self) -> &Faults<TcpFault> {
        &self.faults
    }

    /// What it holds, and the ledger.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.image
    }

    /// Whether it listens.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(Task::is_running)
    }

    /// Switches it off: nobody listens any more, every connection is closed.
    ///
    /// # Errors
    /// What had ended it before.
    pub async fn pause(&mut self) -> io::Result<()> {
        match self.task.take() {
            Some(task) => task.end().await,
            None => Ok(()),
        }
    }

    /// Switches it on again, on the same port. Does nothing while it is on.
    ///
    /// # Errors
    /// If somebody else has taken the port.
    pub async fn resume(&mut self) -> io::Result<()> {
        if self.task.is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        self.address = listener.local_addr()?;
        let (image, faults) = (self.image.clone(), self.faults.clone());
        self.task = Some(Task::spawn(serve(listener, image, faults))?);
        Ok(())
    }
}

async fn serve(listener: TcpListener, image: Registers, faults: Faults<TcpFault>) -> io::Result<()> {
    let free = Arc::new(Semaphore::new(bounds::CONNECTIONS));
    let connection = |_| {
        let permit = Arc::clone(&free).try_acquire_owned().ok();
        Ok(permit.map(|permit| Connection { image: image.clone(), faults: faults.clone(), _permit: permit }))
    };
    let connected = |stream: tokio::net::TcpStream, peer| {
        let served = stream.set_nodelay(true).and_then(|()| accept_tcp_connection(stream, peer, &connection));
        async move { served }
    };
    let failed = |error| tracing::debug!(%error, "a connection to the simulated device failed");
    Server::new(listener).serve(&connected, failed).await
}

struct Connection {
    image: Registers,
    faults: Faults<TcpFault>,
    /// Given back when the connection ends.
    _permit: OwnedSemaphorePermit,
}

impl Service for Connection {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Pin<Box<dyn Future<Output = Result<Option<Response>, ExceptionCode>> + Send>>;

    fn call(&self, asked: SlaveRequest<'static>) -> Self::Future {
        let (image, faults) = (self.image.clone(), self.faults.clone());
        Box::pin(async move {
            let fault = faults.take(asked.slave);
            match fault {
                Some(TcpFault::Silent) => return Ok(None),
                Some(TcpFault::Exception(code)) => return Err(ExceptionCode::new(code)),
                Some(TcpFault::Late(_)) | None => {}
            }
            let holes = faults.refuses_holes(asked.slave);
            let answer = image
                .execute(asked.slave, &asked.request, holes)
                .ok_or(ExceptionCode::GatewayTargetDevice)?;
            let mut fate = Fate::Good;
            if let Some(TcpFault::Late(by)) = fault {
                tokio::time::sleep(by).await;
                fate = Fate::Late;
            }
            image.settle(answer.receipt, fate);
            answer.response.map(Some)
        })
    }
}
