//! Answers from a session, strictly in its order.
//!
//! kwctl takes the next exchange for each question. When that was another question, the policy gets an error; what is
//! left at the end is only logged. Both mean that the session does not fit, so the player remembers them.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, PoisonError};

use anyhow::bail;

use super::{Exchange, Request, Session};

/// Plays one session after another.
#[derive(Default)]
pub struct Player(Mutex<Playback>);

#[derive(Default)]
struct Playback {
    rest: VecDeque<Exchange>,
    deviations: Vec<String>,
}

impl Player {
    /// Starts a session from its beginning.
    pub fn insert(&self, session: Session) {
        self.with(|playback| {
            *playback = Playback {
                rest: session.0.into(),
                deviations: Vec::new(),
            }
        });
    }

    /// The next answer, if it is one to this question; else the error that kwctl gives, in its words.
    ///
    /// # Errors
    /// An error is an answer too.
    pub fn answer(&self, operation: &str, image: &str) -> Result<String, String> {
        self.with(|playback| playback.answer(operation, image))
    }

    /// Ends the session.
    ///
    /// # Errors
    /// When something else was asked than the session has, or not all of it.
    pub fn eject(&self) -> anyhow::Result<()> {
        let Playback { rest, deviations } = self.with(mem::take);
        if let Some(deviation) = deviations.first() {
            bail!("{deviation}");
        }
        if let Some(exchange) = rest.front() {
            let asked = &exchange.request;
            bail!(
                "{} exchanges were not replayed, first {asked:?}",
                rest.len()
            );
        }
        Ok(())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Playback) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Playback {
    fn answer(&mut self, operation: &str, image: &str) -> Result<String, String> {
        let Some(asked) = Request::new(operation, image) else {
            return self.deviate(format!("a session cannot hold {operation}"));
        };
        let Some(exchange) = self.rest.pop_front() else {
            return self.deviate("the list of recorded responses is empty".to_owned());
        };
        if exchange.request == asked {
            exchange.response.into()
        } else {
            let expected = exchange.request;
            self.deviate(format!(
                "Replay error: unexpected request. Was expecting {expected:?}, got {asked:?} instead"
            ))
        }
    }

    fn deviate(&mut self, deviation: String) -> Result<String, String> {
        self.deviations.push(deviation.clone());
        Err(deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Response;

    fn player(images: &[&str]) -> Player {
        let exchange = |image: &&str| Exchange {
            request: Request::new("v1/oci_manifest", image).unwrap(),
            response: Response::Success {
                payload: format!("about {image}"),
            },
        };
        let player = Player::default();
        player.insert(Session(images.iter().map(exchange).collect()));
        player
    }

    #[test]
    fn a_session_is_played_in_its_order() {
        let player = player(&["a:1", "b:1"]);
        assert_eq!(
            player.answer("v1/oci_manifest", "a:1").unwrap(),
            "about a:1"
        );
        assert_eq!(
            player.answer("v1/oci_manifest", "b:1").unwrap(),
            "about b:1"
        );
        player.eject().unwrap();
    }

    #[test]
    fn another_question_takes_an_exchange_and_gets_an_error() {
        let player = player(&["a:1", "b:1"]);
        let error = player.answer("v1/oci_manifest", "b:1").unwrap_err();
        assert_eq!(
            error,
            "Replay error: unexpected request. Was expecting OciManifest { image: \"a:1\" }, \
             got OciManifest { image: \"b:1\" } instead"
        );
        assert!(player.answer("v1/oci_manifest", "b:1").is_ok());
        let error = player.answer("v1/oci_manifest", "a:1").unwrap_err();
        assert_eq!(error, "the list of recorded responses is empty");
        assert!(player.eject().is_err());
    }

    #[test]
    fn another_operation_is_another_question() {
        let player = player(&["a:1"]);
        assert!(player.answer("v1/manifest_digest", "a:1").is_err());
        assert!(player.answer("v1/verify", "a:1").is_err());
    }

    #[test]
    fn what_was_not_asked_for_is_a_deviation() {
        let player = player(&["a:1"]);
        let error = player.eject().unwrap_err().to_string();
        assert!(error.contains("1 exchanges were not replayed"), "{error}");
        player.eject().unwrap();
    }
}
