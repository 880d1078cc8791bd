//! A TCP proxy that adds latency and nothing else: no limit of bandwidth, no loss, no reordering.
//!
//! Every byte arrives half a round trip after it was sent. A connection's first bytes wait one round trip longer, as
//! if the handshake of TCP had gone over the network too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Bytes under way in one direction of a connection; then the sender waits. At 100 ms this still lets 320 MiB/s
/// through a connection, which is more than the registry takes.
const WINDOW: usize = 16 << 20;
/// Bytes per read: large, so that few system calls and wake-ups are needed.
const READ: usize = 256 << 10;

/// A running proxy in front of one address. It stops, with all connections, when this is dropped.
pub struct DelayProxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// Some bytes on their way; none at all stand for the end of the stream.
struct Segment {
    arrives: Instant,
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl DelayProxy {
    /// Listens on a free loopback port and passes on to `target`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(runtime: &Handle, target: SocketAddr, round_trip: Duration) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let task = runtime.spawn(accept(listener, target, round_trip));
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        // The connections belong to the task and end with it.
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, round_trip: Duration) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error concerns the one connection that was not accepted; its client sees it.
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, target, round_trip));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An error ends the connection, which both sides see.
async fn connection(client: TcpStream, target: SocketAddr, round_trip: Duration) -> io::Result<()> {
    let established = Instant::now() + round_trip;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let one_way = round_trip / 2;
    tokio::try_join!(
        carry(from_client, to_server, one_way, established),
        carry(from_server, to_client, one_way, established),
    )?;
    Ok(())
}

/// Carries one direction of a connection to its end.
async fn carry(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    one_way: Duration,
    established: Instant,
) -> io::Result<()> {
    // What is in the channel is bounded by the window.
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::try_join!(
        depart(from, sender, one_way, established),
        arrive(to, receiver)
    )?;
    Ok(())
}

async fn depart(
    mut from: OwnedReadHalf,
    sender: mpsc::UnboundedSender<Segment>,
    one_way: Duration,
    established: Instant,
) -> io::Result<()> {
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut buffer = vec![0; READ];
    loop {
        let length = from.read(&mut buffer).await?;
        let arrives = Instant::now().max(established) + one_way;
        let room = match u32::try_from(length) {
            Ok(0) => None,
            length => {
                let wanted = length.map_err(io::Error::other)?;
                let room = Arc::clone(&window).acquire_many_owned(wanted).await;
                Some(room.map_err(io::Error::other)?)
            }
        };
        let bytes = Bytes::copy_from_slice(&buffer[..length]);
        let segment = Segment {
            arrives,
            bytes,
            _room: room,
        };
        // The other half is gone only when the connection is.
        if sender.send(segment).is_err() || length == 0 {
            return Ok(());
        }
    }
}

async fn arrive(
    mut to: OwnedWriteHalf,
    mut receiver: mpsc::UnboundedReceiver<Segment>,
) -> io::Result<()> {
    while let Some(segment) = receiver.recv().await {
        if segment.arrives > Instant::now() {
            sleep_until(segment.arrives).await;
        }
        if segment.bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&segment.bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(60);

    /// A server that sends back what it gets, behind a proxy.
    async fn echo() -> DelayProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        DelayProxy::start(&Handle::current(), target, ROUND_TRIP).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_answer_takes_two_round_trips_and_the_next_one() {
        let proxy = echo().await;
        let start = Instant::now();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert!(start.elapsed() >= 2 * ROUND_TRIP, "{:?}", start.elapsed());
        let start = Instant::now();
        stream.write_all(b"pong").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"pong");
        assert!(start.elapsed() >= ROUND_TRIP, "{:?}", start.elapsed());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_than_a_window_arrives_whole_and_in_order() {
        let proxy = echo().await;
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let sent: Vec<u8> = (0..u32::try_from(2 * WINDOW).unwrap() / 4)
            .flat_map(u32::to_le_bytes)
            .collect();
        let copy = sent.clone();
        tokio::spawn(async move {
            to.write_all(&copy).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        from.read_to_end(&mut received).await.unwrap();
        assert!(
            sent == received,
            "{} of {} bytes",
            received.len(),
            sent.len()
        );
    }
}
