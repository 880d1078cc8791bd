use super::*;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener as Listener, TcpStream as Stream};
use std::time::Duration;

/// Long enough for a loopback connection on a busy machine, when something shall arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long something is watched that shall not arrive.
const MOMENT: Duration = Duration::from_millis(100);

/// A server that greets with a letter and sends back what it gets.
fn echo(greeting: u8) -> SocketAddr {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(&[greeting]);
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> Stream {
    let stream = Stream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The next byte; `None` at the end or after an error.
fn next(stream: &mut Stream) -> Option<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok().map(|()| byte[0])
}

#[test]
fn bytes_pass_both_ways_and_connections_take_turns() {
    let proxy = Proxy::start([echo(b'a'), echo(b'b')]).unwrap();
    let mut greetings = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&proxy);
        greetings.push(next(&mut stream).unwrap());
        stream.write_all(b"x").unwrap();
        assert_eq!(next(&mut stream), Some(b'x'));
    }
    assert_eq!(greetings, b"abab");
}

#[test]
fn a_target_that_is_gone_is_passed_over() {
    let gone = Listener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let proxy = Proxy::start([address, echo(b'b')]).unwrap();
    for _ in 0..3 {
        assert_eq!(next(&mut connect(&proxy)), Some(b'b'));
    }
    proxy.set_targets([]);
    assert_eq!(next(&mut connect(&proxy)), None);
}

#[test]
fn a_cut_ends_what_is_open_and_what_comes_until_it_heals() {
    let proxy = Proxy::start([echo(b'a')]).unwrap();
    let mut before = connect(&proxy);
    assert_eq!(next(&mut before), Some(b'a'));
    proxy.cut();
    assert_eq!(next(&mut before), None);
    assert_eq!(next(&mut connect(&proxy)), None);
    proxy.heal();
    let mut after = connect(&proxy);
    assert_eq!(next(&mut after), Some(b'a'));
    proxy.reset();
    assert_eq!(next(&mut after), None);
    assert_eq!(next(&mut connect(&proxy)), Some(b'a'));
}

#[test]
fn what_is_frozen_arrives_when_it_heals() {
    let proxy = Proxy::start([echo(b'a')]).unwrap();
    let mut before = connect(&proxy);
    assert_eq!(next(&mut before), Some(b'a'));
    proxy.freeze();
    let mut during = connect(&proxy);
    for stream in [&mut before, &mut during] {
        stream.write_all(b"x").unwrap();
        stream.set_read_timeout(Some(MOMENT)).unwrap();
        let error = stream.read_exact(&mut [0]).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    proxy.heal();
    assert_eq!(next(&mut before), Some(b'x'));
    assert_eq!(next(&mut during), Some(b'a'));
    assert_eq!(next(&mut during), Some(b'x'));
}
