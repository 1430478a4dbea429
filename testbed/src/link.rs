//! The byte stream to the agent in dom0.

use std::time::{Duration, Instant};
use xfi_model::{Command, Event};

/// A connection to `xfi-agent`: requests out, events in, one JSON object a
/// line. Stray bytes before the first good line after a restore are skipped.
pub struct AgentLink {}

impl AgentLink {
    /// Sends a request and returns the sequence number its events will carry.
    ///
    /// # Errors
    /// When the stream is closed.
    pub fn send(&mut self, _command: Command) -> Result<u64, LinkError> {
        Err(LinkError::Closed)
    }

    /// The next event, or `None` when `deadline` passes first.
    ///
    /// # Errors
    /// When the stream is closed or carries something that is no event.
    pub fn next_event(&mut self, _deadline: Instant) -> Result<Option<Event>, LinkError> {
        Err(LinkError::Closed)
    }

    /// Sends a request and collects its events up to and including the first
    /// that ends it (`Done`, `Error`, or the single answer of a query).
    ///
    /// # Errors
    /// As for `send` and `next_event`, and [`LinkError::Timeout`].
    pub fn ask(&mut self, _command: Command, _timeout: Duration) -> Result<Vec<Event>, LinkError> {
        Err(LinkError::Closed)
    }
}

/// What can go wrong between the orchestrator and the agent.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream ended.
    #[error("the agent's stream is closed")]
    Closed,
    /// No answer in time.
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    /// An I/O error.
    #[error("talking to the agent: {0}")]
    Io(#[from] std::io::Error),
    /// A line that is not an event.
    #[error("the agent sent something that is no event: {0}")]
    Malformed(String),
}
