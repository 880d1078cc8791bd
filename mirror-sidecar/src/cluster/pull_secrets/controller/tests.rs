//! Backoff after failures in a namespace.

use super::*;

#[test]
fn pauses_grow_to_minutes_and_end_with_success() {
    let mut jobs = Jobs::default();
    let now = Instant::now();
    let shop: Arc<str> = "shop".into();
    let mut pauses = Vec::new();
    for round in 0..20 {
        assert_eq!(jobs.record_end(&shop, true, now), round + 1);
        pauses.push(jobs.backoff_until("shop", now).unwrap() - now);
    }
    assert!(pauses[0] <= Duration::from_millis(1250), "{pauses:?}");
    assert!(pauses[19] >= Duration::from_mins(5), "{pauses:?}");
    assert!(
        pauses
            .iter()
            .all(|pause| *pause <= Duration::from_secs(375))
    );
    assert_eq!(jobs.record_end(&shop, false, now), 0);
    assert_eq!(jobs.backoff_until("shop", now), None);
}
