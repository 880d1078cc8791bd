//! Copies that somebody else changed, and images that appeared late.

use super::*;

/// An image whose copy somebody else changed.
fn tampered() -> Bench {
    let mut bench = Bench::mirrored(Owner::Ours);
    assert_eq!(
        bench.backup_checked(Ok(complete('c'))),
        (BackupCheck::Changed, None)
    );
    bench
}

fn unknown(lasting: bool) -> Upstream {
    Upstream::Unknown {
        reason: "403".into(),
        lasting,
    }
}

#[test]
fn a_changed_copy_is_restored_without_the_original() {
    for upstream in [Upstream::Absent, unknown(true)] {
        let mut bench = tampered();
        assert!(bench.due().upstream, "it is checked immediately");
        assert_eq!(bench.state.digest_to_restore(), None);
        bench.upstream_checked(upstream.clone());
        assert_eq!(bench.state.digest_to_restore(), Some(&digest('a')));
        assert!(bench.due().presence, "immediately");
        let back = Presence::Complete {
            digest: digest('a'),
            repaired: true,
        };
        assert_eq!(
            bench.backup_checked(Ok(back)),
            (BackupCheck::Repaired, None)
        );
        assert_eq!(bench.state.digest_to_restore(), None);
        assert_eq!(bench.state.known(), Some(&digest('a')));
        // Another change is found again.
        bench.sleep();
        assert_eq!(
            bench.backup_checked(Ok(complete('d'))),
            (BackupCheck::Changed, None)
        );
    }
}

#[test]
fn a_changed_copy_that_cannot_be_restored_stays() {
    let mut bench = tampered();
    bench.upstream_checked(Upstream::Absent);
    assert_eq!(
        bench.backup_checked(Ok(complete('c'))),
        (BackupCheck::Changed, None)
    );
    assert_eq!(bench.state.digest_to_restore(), None);
    assert_eq!(bench.state.known(), Some(&digest('c')));
    bench.sleep();
    assert_eq!(
        bench.backup_checked(Ok(complete('c'))),
        (BackupCheck::Present, None)
    );
}

#[test]
fn a_changed_copy_follows_an_existing_original() {
    for original in ['a', 'b'] {
        let mut bench = tampered();
        let asked = bench.upstream_checked(Upstream::Is(digest(original)));
        assert_eq!(asked, (UpstreamCheck::Updated, Some(Task::Update)));
        bench.follow(pending());
        // A check in between does not accept the change.
        assert_eq!(
            bench.backup_checked(Ok(complete('c'))),
            (BackupCheck::Present, None)
        );
        assert_eq!(bench.state.known(), Some(&digest('a')));
        bench.follow(None);
        let seen = bench.backup_checked(Ok(complete(original)));
        assert_eq!(seen, (BackupCheck::Present, None));
        assert_eq!(bench.state.known(), Some(&digest(original)));
    }
}

#[test]
fn a_changed_copy_is_always_restored_if_moved_tags_are_kept() {
    for (upstream, is_kept) in [
        (Upstream::Is(digest('a')), false),
        (Upstream::Is(digest('b')), true),
        (Upstream::Absent, false),
        (unknown(false), false),
    ] {
        let mut bench = tampered();
        bench.on_moved = OnMovedTag::Keep;
        let (_, task) = bench.upstream_checked(upstream);
        assert_eq!(task, None);
        assert_eq!(bench.state.digest_to_restore(), Some(&digest('a')));
        assert_eq!(bench.state.record().is_kept, is_kept);
    }
}

#[test]
fn a_change_by_another_replica_is_accepted() {
    // Another replica followed the tag.
    let mut bench = tampered();
    assert_eq!(
        bench.upstream_checked(Upstream::Is(digest('c'))),
        (UpstreamCheck::Current, None)
    );
    assert_eq!(bench.state.known(), Some(&digest('c')));
    assert_eq!(
        bench.backup_checked(Ok(complete('c'))),
        (BackupCheck::Present, None)
    );
    // The previous owner may have changed it.
    let mut bench = Bench::mirrored(Owner::Others);
    bench.set_owner(Owner::Ours);
    assert_eq!(
        bench.backup_checked(Ok(complete('c'))),
        (BackupCheck::Present, None)
    );
    assert_eq!(
        bench.backup_checked(Ok(complete('d'))),
        (BackupCheck::Changed, None)
    );
    // A replica that does not own the image accepts any change.
    let mut bench = Bench::mirrored(Owner::Others);
    bench.found(complete('a'));
    assert_eq!(
        bench.backup_checked(Ok(complete('c'))),
        (BackupCheck::Present, None)
    );
}

#[test]
fn a_changed_copy_waits_while_the_original_is_unavailable() {
    let mut bench = tampered();
    bench.upstream_checked(unknown(false));
    assert_eq!(bench.state.digest_to_restore(), None);
    assert_eq!(bench.state.known(), Some(&digest('a')));
    bench.now += Duration::from_mins(15);
    assert!(bench.due().upstream);
    bench.upstream_checked(Upstream::Absent);
    assert_eq!(bench.state.digest_to_restore(), Some(&digest('a')));
}

fn absent() -> Status {
    Status::Failed {
        reason: "the source has no such image".into(),
        outlook: Outlook::Absent,
    }
}

/// Somebody may have registered the name after a workload used it, and must not get into running workloads.
#[test]
fn an_image_that_appears_late_is_mirrored_without_readmission() {
    let copy_state = |bench: &Bench| bench.state.record().copy_state();
    let appear = |bench: &mut Bench| {
        bench.found(Presence::Missing);
        bench.follow(pending());
        bench.follow(None);
        bench.found(complete('a'));
    };
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(absent());
    assert_eq!(copy_state(&bench), CopyState::Never);
    appear(&mut bench);
    assert!(bench.state.is_mirrored() && bench.state.record().appeared_late);
    assert_eq!(copy_state(&bench), CopyState::Withheld);
    // It stays so with another owner, and when the copy is lost.
    bench.set_owner(Owner::Others);
    bench.set_owner(Owner::Ours);
    appear(&mut bench);
    assert_eq!(copy_state(&bench), CopyState::Withheld);

    // An outage of the registry is no absence.
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(failed(false));
    bench.follow(None);
    bench.found(complete('a'));
    assert_eq!(copy_state(&bench), CopyState::Mirrored);

    // An image that had a copy before keeps its trust.
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(absent());
    appear(&mut bench);
    assert_eq!(copy_state(&bench), CopyState::Mirrored);

    // A digest cannot become something else.
    let mut bench = Bench::new(Owner::Ours);
    bench.state = bench.state.named_by_digest();
    bench.found(Presence::Missing);
    bench.follow(absent());
    appear(&mut bench);
    assert_eq!(copy_state(&bench), CopyState::Mirrored);
}

#[test]
fn other_replicas_also_know_that_an_image_appeared_late() {
    let mut bench = Bench::new(Owner::Others);
    for _ in 0..3 {
        bench.sleep();
        bench.found(Presence::Missing);
    }
    assert!(bench.due().upstream);
    bench.upstream_checked(Upstream::Absent);
    bench.upstream_checked(Upstream::Is(digest('a')));
    bench.found(complete('a'));
    assert_eq!(bench.state.record().copy_state(), CopyState::Withheld);
}
