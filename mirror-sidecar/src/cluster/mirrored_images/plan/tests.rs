use rstest::rstest;

use super::super::resource::tests::{mirrored, object, status, time};
use super::*;
use crate::status::model::{ImageStatus, Users};

const DAY: i64 = 24 * 60 * 60;

/// Plans a write a minute after the stored object was written.
fn planned(desired: ImageStatus, stored: &MirroredImage) -> Option<(MirroredImage, Urgency)> {
    let now = time(60);
    plan(desired_at(desired, now), Some(stored), now)
}

fn desired_at(status: ImageStatus, now: Timestamp) -> MirroredImage {
    let mut desired = object(status);
    for condition in &mut desired.status.conditions {
        condition.last_transition_time = Time(now);
    }
    desired
}

#[rstest]
#[case::copied_soon(status(State::Missing), Urgency::Patient)]
#[case::size_is_known_soon(ImageStatus { bytes: None, ..mirrored() }, Urgency::Patient)]
#[case(mirrored(), Urgency::Urgent)]
#[case(status(State::Failed), Urgency::Urgent)]
fn an_object_that_is_not_there_is_created(#[case] status: ImageStatus, #[case] expected: Urgency) {
    let (created, urgency) = plan(object(status.clone()), None, time(0)).unwrap();
    assert_eq!((created, urgency), (object(status), expected));
}

#[rstest]
#[case::again(mirrored())]
#[case::checked_again(ImageStatus { last_check: Some(Time(time(DAY))), ..mirrored() })]
#[case::started_again(ImageStatus {
    bytes: None, platforms: Vec::new(), last_copy: None, last_check: None, upstream: Upstream::Unknown, ..mirrored()
})]
fn an_object_that_is_still_right_needs_no_write(#[case] status: ImageStatus) {
    assert_eq!(planned(status, &object(mirrored())), None);
}

#[rstest]
#[case::users(ImageStatus { users: Users::default(), ..mirrored() }, Urgency::Patient)]
#[case::reason(ImageStatus { reason: "the backup has the last copy".to_owned(), ..mirrored() }, Urgency::Patient)]
#[case::check(ImageStatus { last_check: Some(Time(time(DAY + 1))), ..mirrored() }, Urgency::Patient)]
#[case::digest(ImageStatus { digest: Some("sha256:1".to_owned()), ..mirrored() }, Urgency::Urgent)]
#[case::backup(ImageStatus { backup: None, ..mirrored() }, Urgency::Urgent)]
#[case::state(status(State::Failed), Urgency::Urgent)]
fn a_change_is_written(#[case] status: ImageStatus, #[case] expected: Urgency) {
    let (written, urgency) = planned(status.clone(), &object(mirrored())).unwrap();
    assert_eq!(urgency, expected);
    assert_eq!(
        plan(desired_at(status, time(90)), Some(&written), time(90)),
        None
    );
}

#[test]
fn attempts_to_copy_a_failed_image_again_are_not_urgent() {
    for state in [State::Missing, State::Copying] {
        let (_, urgency) = planned(status(state), &object(status(State::Failed))).unwrap();
        assert_eq!(urgency, Urgency::Patient);
    }
}

#[test]
fn the_progress_of_a_copy_is_no_change() {
    let copying = |reason: &str| ImageStatus {
        reason: reason.to_owned(),
        ..status(State::Copying)
    };
    assert_eq!(planned(copying("2 of 3"), &object(copying("1 of 3"))), None);
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let (written, _) = planned(status(State::Excluded), &object(mirrored())).unwrap();
    let times = written.status.conditions.iter();
    let times: Vec<_> = times
        .map(|condition| condition.last_transition_time.0)
        .collect();
    assert_eq!(times, [time(60), time(0)], "Mirrored and Ready");
}

#[test]
fn what_somebody_edited_is_restored() {
    let edits: [fn(&mut MirroredImage); 6] = [
        |object| object.labels.clear(),
        |object| object.spec.image.push('x'),
        |object| object.status.reason.clear(),
        |object| object.status.conditions.truncate(1),
        |object| object.status.bytes = Some(1),
        |object| object.status.last_check_time = Some(Time(time(30 * DAY))),
    ];
    for edit in edits {
        let mut stored = object(mirrored());
        edit(&mut stored);
        let (written, _) = planned(mirrored(), &stored).unwrap();
        let kept = written.status.conditions.first().unwrap();
        assert!(kept.last_transition_time.0 <= time(60));
        assert_eq!(written.spec, object(mirrored()).spec);
        assert_eq!(plan(object(mirrored()), Some(&written), time(90)), None);
    }
}
