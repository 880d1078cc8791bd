//! The line between a client and a registry: it counts the bytes to the registry, and stops passing them on at a chosen one.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// As much as is read at once.
const BUFFER: usize = 16 * 1024;

/// A line that leads to one registry. It ends with the process.
pub struct Line {
    address: String,
    /// For connections that begin now. One that was cut stays so when the line is opened again.
    meter: Arc<Mutex<Shared>>,
}

type Shared = Arc<Mutex<Meter>>;

#[derive(Default)]
struct Meter {
    /// Bytes that were passed on.
    passed: u64,
    /// Bytes that may be, and who is told when they were.
    limit: Option<(u64, Box<dyn FnOnce() + Send>)>,
    /// Whether nothing is passed on any more.
    closed: bool,
}

impl Line {
    /// A line to this `host:port`.
    pub fn to(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let meter = Arc::<Mutex<Shared>>::default();
        let (registry, current) = (registry.to_owned(), Arc::clone(&meter));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (registry, meter) = (registry.clone(), Arc::clone(&lock(&current)));
                // Connections that break are what this is about.
                thread::spawn(move || connect(&client, &registry, &meter));
            }
        });
        Self { address, meter }
    }

    /// Where it begins, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Bytes that were passed on since it was opened.
    pub fn passed(&self) -> u64 {
        lock(&lock(&self.meter)).passed
    }

    /// Passes everything on, until there were `limit` bytes; then nothing any more, and `reached` is told.
    pub fn open<T: Send + 'static>(&self, limit: Option<u64>, reached: Sender<T>, message: T) {
        let tell = move || {
            // Nobody listens when the client has ended by itself.
            let _ = reached.send(message);
        };
        let limit = limit.map(|limit| (limit, Box::new(tell) as Box<_>));
        *lock(&self.meter) = Arc::new(Mutex::new(Meter {
            limit,
            ..Meter::default()
        }));
    }
}

impl Meter {
    /// How many of `wanted` bytes are to be passed on.
    fn grant(&mut self, wanted: usize) -> usize {
        if self.closed {
            return 0;
        }
        let left = match &self.limit {
            Some((limit, _)) => limit - self.passed,
            None => u64::MAX,
        };
        let granted = left.min(wanted as u64);
        self.passed += granted;
        if granted == left
            && let Some((_, tell)) = self.limit.take()
        {
            self.closed = true;
            tell();
        }
        usize::try_from(granted).unwrap_or(wanted)
    }
}

fn connect(client: &TcpStream, registry: &str, meter: &Mutex<Meter>) -> io::Result<()> {
    let registry = TcpStream::connect(registry)?;
    for stream in [client, &registry] {
        stream.set_nodelay(true)?;
    }
    let (mut answers, mut back) = (registry.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let result = forward(client, &registry, meter);
    registry.shutdown(Shutdown::Both)?;
    result
}

/// What may not be passed on is thrown away, so that the client hangs rather than hears of it.
fn forward(
    mut client: &TcpStream,
    mut registry: &TcpStream,
    meter: &Mutex<Meter>,
) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let granted = lock(meter).grant(length);
        registry.write_all(&buffer[..granted])?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
