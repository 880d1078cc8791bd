//! A TCP proxy on loopback: the network between two processes, which can be cut, or a Service in front of replicas.

#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::blocking;

/// Bytes per read.
const READ: usize = 64 << 10;

/// A running proxy. It stops, with all its connections, when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    targets: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    line: watch::Sender<Line>,
}

/// What the network is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing passes and nobody is told, as when a cable is pulled.
    Frozen,
    /// Everybody is told at once, as when a process is gone.
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    state: State,
    /// Connections of an older one are closed.
    epoch: u64,
}

impl Proxy {
    /// Listens on a free loopback port and passes each connection on to one of `targets`: to the next that takes it.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(targets: impl IntoIterator<Item = SocketAddr>) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            targets: Mutex::new(targets.into_iter().collect()),
            turn: AtomicUsize::new(0),
            line: watch::Sender::new(Line {
                state: State::Open,
                epoch: 0,
            }),
        });
        Ok(Self {
            address: listener.local_addr()?,
            task: blocking::spawn(accept(listener, Arc::clone(&shared))),
            shared,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go from now on. With no target they are closed at once.
    pub fn set_targets(&self, targets: impl IntoIterator<Item = SocketAddr>) {
        *self.shared.targets() = targets.into_iter().collect();
    }

    /// Lets nothing through any more. Connections stay open, so that nobody notices but by waiting.
    pub fn freeze(&self) {
        self.shared
            .line
            .send_modify(|line| line.state = State::Frozen);
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        self.shared.line.send_modify(|line| {
            line.state = State::Cut;
            line.epoch += 1;
        });
    }

    /// Closes all connections. New ones are welcome.
    pub fn reset(&self) {
        self.shared.line.send_modify(|line| line.epoch += 1);
    }

    /// Lets everything through again; also what waited while it was frozen.
    pub fn heal(&self) {
        self.shared
            .line
            .send_modify(|line| line.state = State::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn targets(&self) -> std::sync::MutexGuard<'_, Vec<SocketAddr>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each target once, another one first each time.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut targets = self.targets().clone();
        if !targets.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len();
            targets.rotate_left(turn);
        }
        targets
    }
}

/// The tasks of the connections are dropped with this one.
async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let mut line = shared.line.subscribe();
    let Line { state, epoch } = *line.borrow_and_update();
    if state == State::Cut {
        return;
    }
    tokio::select! {
        _ = line.wait_for(|line| line.epoch != epoch) => {}
        _ = pass(client, &shared) => {}
    }
}

/// Passes bytes both ways until both sides are done.
async fn pass(client: TcpStream, shared: &Shared) -> io::Result<()> {
    until_open(&mut shared.line.subscribe()).await;
    let Some(server) = connect(shared).await else {
        return Ok(());
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        pump(from_client, to_server, shared.line.subscribe()),
        pump(from_server, to_client, shared.line.subscribe()),
    )?;
    Ok(())
}

async fn connect(shared: &Shared) -> Option<TcpStream> {
    for target in shared.in_turn() {
        if let Ok(stream) = TcpStream::connect(target).await {
            return Some(stream);
        }
    }
    None
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ];
    loop {
        let read = from.read(&mut buffer).await?;
        until_open(&mut line).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// A line that is gone closes the connection elsewhere.
async fn until_open(line: &mut watch::Receiver<Line>) {
    let _ = line.wait_for(|line| line.state == State::Open).await;
}
