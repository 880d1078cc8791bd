use super::super::connection::Stage;
use super::*;
use rstest::rstest;
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

/// Behind one address, a flood of connections at one stage displaces none that is at another one.
#[rstest]
#[case::silent_ones(Stage::Silent, Stage::Speaking)]
#[case::half_open_ones(Stage::Speaking, Stage::Silent)]
#[case::secure_ones(Stage::Secure, Stage::Silent)]
#[case::challenged_ones(Stage::Challenged, Stage::Secure)]
fn a_flood_displaces_itself(#[case] flooded: Stage, #[case] other: Stage) {
    let table = table(16, 8);
    let add_at = |stage| {
        let place = add(&table, 1);
        place.connection.reached(stage);
        place
    };
    let mut flood: Vec<_> = (0..8).map(|_| add_at(flooded)).collect();
    let client = add_at(other);
    flood.extend((0..100).map(|_| add_at(flooded)));
    assert!(is_open(&client));
    assert_eq!(open(&flood).iter().filter(|open| **open).count(), 7);
}

/// From as many addresses as there are places, too.
#[test]
fn a_new_connection_outlives_older_ones_of_other_addresses() {
    let table = table(8, 8);
    let secure: Vec<_> = (0..8).map(|peer| add(&table, peer)).collect();
    for place in &secure {
        place.connection.reached(Stage::Secure);
    }
    let (client, next) = (add(&table, 8), add(&table, 9));
    assert!(is_open(&client) && is_open(&next));
    assert_eq!(open(&secure)[..3], [false, false, true]);
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
    let table = table(3, 3);
    let places = [add(&table, 1), add(&table, 1), add(&table, 1)];
    let request = places[0].connection.request();
    let fourth = add(&table, 1);
    assert_eq!(open(&places), [true, false, true]);
    drop(request);
    let _fifth = add(&table, 1);
    assert_eq!(open(&places), [false, false, true]);
    assert!(is_open(&fourth));
}

#[test]
fn authenticated_connections_make_room_only_when_idle() {
    let table = table(2, 2);
    let places = [add(&table, 1), add(&table, 1)];
    for place in &places {
        place.connection.authenticated();
    }
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
    assert!(table.make_room());
    assert!(!table.make_room());
    drop(added);
    assert_eq!(table.lock().count, 0);
    assert!(table.lock().peers.is_empty());
}

/// However many come, the table keeps its size, and the newest are open.
#[test]
fn a_flood_never_grows_the_table() {
    let table = table(64, 32);
    let mut places = std::collections::VecDeque::new();
    for round in 0..10_000_u32 {
        places.push_back(add(&table, u8::try_from(round % 3).unwrap()));
        if places.len() > 100 {
            places.pop_front();
        }
        assert!(table.lock().count <= 64);
        assert!(places.iter().rev().take(16).all(is_open));
    }
}
