//! Makes sessions from [`Answers`].

use std::mem;
use std::sync::{Mutex, PoisonError};

use super::{Answers, Exchange, Request, Session};

/// Answers as it was told to, and writes down what was asked.
#[derive(Default)]
pub struct Recorder(Mutex<(Answers, Session)>);

impl Recorder {
    /// Begins a session with these answers.
    pub fn start(&self, answers: Answers) {
        self.with(|state| *state = (answers, Session::default()));
    }

    /// The answer to a question of the policy.
    ///
    /// # Errors
    /// An error is an answer too.
    pub fn answer(&self, operation: &str, image: &str) -> Result<String, String> {
        let request = Request::new(operation, image)
            .ok_or_else(|| format!("a session cannot hold {operation}"))?;
        self.with(|(answers, session)| {
            let response = answers.to(&request).map_err(|error| format!("{error:#}"))?;
            session.0.push(Exchange {
                request,
                response: response.clone(),
            });
            response.into()
        })
    }

    /// Ends the session.
    pub fn stop(&self) -> Session {
        self.with(|(_, session)| mem::take(session))
    }

    fn with<T>(&self, change: impl FnOnce(&mut (Answers, Session)) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
