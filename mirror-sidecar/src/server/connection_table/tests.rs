use super::super::connection::Stage;
use super::*;
use std::net::Ipv4Addr;

fn table(connections: usize, per_peer: usize) -> Arc<ConnectionTable> {
    let mut limits = Limits::facade();
    limits.connections = connections;
    limits.unauthenticated_per_peer = per_peer;
    Arc::new(ConnectionTable::new(limits))
}

fn peer(number: u8) -> Peer {
    std::net::IpAddr::from(Ipv4Addr::new(10, 0, 0, number)).into()
}

fn add(table: &Arc<ConnectionTable>, number: u8) -> Place {
    table.add(peer(number)).unwrap().place
}

fn is_open(place: &Place) -> bool {
    use futures_util::FutureExt as _;
    place.connection.evicted().now_or_never().is_none()
}

fn open(places: &[Place]) -> Vec<bool> {
    places.iter().map(is_open).collect()
}

#[test]
fn the_oldest_of_a_peer_that_never_authenticated_is_closed() {
    let table = table(10, 2);
    let places: Vec<_> = (0..3).map(|_| add(&table, 1)).collect();
    places[1].connection.authenticated();
    // The second one authenticated in time, so three are allowed; the fourth closes the first.
    let other = add(&table, 2);
    let late = add(&table, 1);
    assert_eq!(open(&places), [false, true, true]);
    assert!(is_open(&other) && is_open(&late));
}

/// Behind one address, silent connections in any number never displace one that goes on.
#[test]
fn a_peer_that_got_further_outlives_a_flood_of_silent_ones() {
    let table = table(8, 4);
    let client = add(&table, 1);
    client.connection.reached(Stage::Speaking);
    let flood: Vec<_> = (0..100).map(|_| add(&table, 1)).collect();
    assert!(is_open(&client));
    assert_eq!(open(&flood).iter().filter(|open| **open).count(), 3);
}

#[test]
fn the_peer_with_most_connections_makes_room() {
    let table = table(4, 4);
    let quiet = add(&table, 1);
    let greedy: Vec<_> = (0..3).map(|_| add(&table, 2)).collect();
    let new: Vec<_> = (0..2).map(|_| add(&table, 3)).collect();
    assert!(is_open(&quiet));
    assert_eq!(open(&greedy), [false, false, true]);
    assert_eq!(open(&new), [true, true]);
}

#[test]
fn a_request_that_is_being_answered_is_spared() {
    let table = table(2, 2);
    let places = [add(&table, 1), add(&table, 1)];
    let request = places[0].connection.request();
    let third = add(&table, 1);
    assert_eq!(open(&places), [true, false]);
    drop(request);
    let _fourth = add(&table, 1);
    assert_eq!(open(&places), [false, false]);
    assert!(is_open(&third));
}

#[test]
fn authenticated_connections_make_room_only_when_idle() {
    let table = table(2, 2);
    let places = [add(&table, 1), add(&table, 1)];
    places
        .iter()
        .for_each(|place| place.connection.authenticated());
    let requests = places.each_ref().map(|place| place.connection.request());
    assert!(table.add(peer(2)).is_none());
    assert_eq!(open(&places), [true, true]);
    drop(requests);
    let new = add(&table, 2);
    assert_eq!(open(&places), [false, true]);
    assert!(is_open(&new));
}

#[test]
fn a_place_is_given_back() {
    let table = table(1, 1);
    drop(add(&table, 1));
    let added = table.add(peer(1)).unwrap();
    assert!(!added.evicted);
    assert!(table.evict_one());
    assert!(!table.evict_one());
    drop(added);
    assert_eq!(table.lock().count, 0);
    assert!(table.lock().peers.is_empty());
}

/// However many come, the table keeps its size, and a connection lives until as many newer ones have come.
#[test]
fn a_flood_never_grows_the_table() {
    let table = table(64, 32);
    let mut places = std::collections::VecDeque::new();
    for round in 0..10_000_u32 {
        places.push_back(add(&table, u8::try_from(round % 3).unwrap()));
        while places.len() > 64 {
            let oldest: Place = places.pop_front().unwrap();
            assert!(!is_open(&oldest));
        }
        assert!(table.lock().count <= 64);
    }
}
