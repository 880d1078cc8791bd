//! Stopping a server.

use std::net::{TcpListener, TcpStream};

use axum::Router;

use super::Server;
use crate::tls::Tls;

#[test]
fn a_stopped_server_refuses_even_while_a_child_holds_its_socket() {
    for tls in [None, Some(Tls::generate().unwrap())] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // What a child has between its fork and its exec.
        let childs = listener.try_clone().unwrap();
        let config = tls.as_ref().map(|tls| tls.server_config().unwrap());
        let server = Server::start("test", listener, config, Router::new()).unwrap();
        TcpStream::connect(address).unwrap();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
        TcpListener::bind(address).expect("it can be started again at the same address");
        drop(childs);
    }
}
