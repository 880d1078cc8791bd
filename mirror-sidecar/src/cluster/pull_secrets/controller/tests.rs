//! Backoff after failures in a namespace.

use super::*;
use crate::metrics::Metrics;

#[test]
fn failures_back_off_until_a_success() {
    let mut jobs = Jobs::new(&SecretMetrics::register(&mut Metrics::new()));
    let mut now = Instant::now();
    let shop: Arc<str> = "shop".into();
    let mut pauses = Vec::new();
    for round in 0..20 {
        assert_eq!(jobs.record_end(&shop, true, now), round + 1);
        let until = jobs.backoff_until("shop", now).unwrap();
        pauses.push(until - now);
        now = until;
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
