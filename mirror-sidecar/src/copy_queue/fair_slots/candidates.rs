//! Which of the waiting images could be served next, and in which order.

use tokio::time::Instant;

use super::super::sources::Class;
use super::FairSlots;
use super::waiting::{Candidate, Job, Lane, Rank, Sort, Turn, Waiting};

impl Waiting {
    /// The first job of every queue of a lane.
    pub(super) fn candidates<'a>(
        &'a self,
        lane: Lane,
        slots: &'a FairSlots,
        now: Instant,
    ) -> impl Iterator<Item = Candidate<'a>> {
        let disfavored = slots.is_disfavored(Class::Untried, lane);
        let groups = self.lane_groups(lane).0.iter();
        groups.flat_map(move |(name, group)| {
            let turn = (slots.held_by_group(lane, name), group.turn);
            group.queues.values().filter_map(move |queue| {
                let (_, id) = queue.jobs.first_key_value()?;
                let job = self.jobs.get(id)?;
                Some(job.candidate(*id, (turn, queue.turn), disfavored, slots, now))
            })
        })
    }

    /// One job, as if it were the first of its queue.
    pub(super) fn candidate<'a>(
        &'a self,
        id: u64,
        slots: &'a FairSlots,
        now: Instant,
    ) -> Option<Candidate<'a>> {
        let job = self.jobs.get(&id)?;
        (!job.ticket.is_isolated).then(|| job.candidate(id, ((0, 0), 0), false, slots, now))
    }
}

impl Job {
    fn candidate<'a>(
        &'a self,
        id: u64,
        (group, queue_turn): (Turn, u64),
        disfavored: bool,
        slots: &FairSlots,
        now: Instant,
    ) -> Candidate<'a> {
        let ticket = &self.ticket;
        let class = slots.sources.class(&ticket.source, now);
        let backup = ticket.source.domain.backup;
        let is_in_penalty = ticket.sort == Sort::Penalized || class == Class::Penalized;
        let since = slots
            .sources
            .struck_at(&ticket.source)
            .max(Some(self.since));
        let is_aged = since.is_some_and(|since| slots.is_aged(since, now));
        let has_failed = ticket.failures > 0;
        let is_disfavored = disfavored && class == Class::Untried;
        Candidate {
            id,
            ticket,
            class,
            is_in_penalty,
            is_penalty: is_in_penalty && !is_aged,
            is_aged: is_aged && (is_in_penalty || has_failed),
            rank: Rank {
                backup: (slots.held_by_backup(backup), slots.waiting.turn_of(backup)),
                is_same_lane: slots.was_served_last(backup, ticket.lane),
                is_no_restore: !ticket.is_restore,
                group,
                has_failed: has_failed && !is_aged,
                is_disfavored,
                source: (slots.held_by_domain(&ticket.source.domain), queue_turn),
                number: self.number,
            },
        }
    }
}
