//! The line between a client and a registry: it counts what goes to the registry, and passes nothing on from a chosen
//! point.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// As much as is read at once.
const BUFFER: usize = 16 * 1024;

/// How requests begin. A client by HTTP/1.1 begins one when the one before is answered, so it begins what is read.
const METHODS: [&[u8]; 6] = [b"DELETE ", b"GET ", b"HEAD ", b"PATCH ", b"POST ", b"PUT "];

/// Where a copy is cut off.
#[derive(Clone, Copy, Debug)]
pub enum Point {
    /// When this many bytes went to the registry.
    Byte(u64),
    /// Before this request, counted from 1.
    Before(usize),
    /// After this request, or after its head; in any case before its answer.
    After(usize),
    /// Nowhere.
    Never,
}

/// A line that leads to one registry. It ends with the process.
pub struct Line {
    address: String,
    /// For connections that begin now. One that was cut stays so when the line is opened again.
    meter: Arc<Mutex<Shared>>,
}

type Shared = Arc<Mutex<Meter>>;

struct Meter {
    /// Bytes that were passed on.
    bytes: u64,
    /// Requests that were, at least their beginning.
    requests: usize,
    point: Point,
    /// Tells that the point has come.
    tell: Box<dyn Fn() + Send>,
    /// Whether nothing is passed on any more.
    closed: bool,
}

impl Line {
    /// A line to this `host:port`.
    pub fn to(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let meter = Arc::new(Mutex::new(Meter::shared(Point::Never, || ())));
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

    /// Requests and bytes that were passed on since it was opened.
    pub fn passed(&self) -> (usize, u64) {
        let current = lock(&self.meter);
        let meter = lock(&current);
        (meter.requests, meter.bytes)
    }

    /// Passes everything on until the point comes; then nothing any more, and `tell` is called.
    pub fn open(&self, point: Point, tell: impl Fn() + Send + 'static) {
        *lock(&self.meter) = Meter::shared(point, tell);
    }
}

impl Meter {
    fn shared(point: Point, tell: impl Fn() + Send + 'static) -> Shared {
        Arc::new(Mutex::new(Self {
            bytes: 0,
            requests: 0,
            point,
            tell: Box::new(tell),
            closed: false,
        }))
    }

    /// How many of these bytes are to be passed on.
    fn grant(&mut self, piece: &[u8]) -> usize {
        if self.closed {
            return 0;
        }
        let begins = METHODS.iter().any(|method| piece.starts_with(method));
        let request = self.requests + usize::from(begins);
        let length = piece.len() as u64;
        let (granted, has_come) = match self.point {
            Point::Byte(limit) => {
                let left = limit - self.bytes;
                (left.min(length), left <= length)
            }
            Point::Before(number) if request >= number => (0, true),
            Point::After(number) => (length, request >= number),
            Point::Before(_) | Point::Never => (length, false),
        };
        self.requests = request;
        self.bytes += granted;
        if has_come {
            self.closed = true;
            (self.tell)();
        }
        usize::try_from(granted).unwrap_or(piece.len())
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
        let piece = &buffer[..length];
        let granted = lock(meter).grant(piece);
        registry.write_all(&piece[..granted])?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
