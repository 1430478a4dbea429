//! The HTTP workload, and the driver that applies it.

use super::config::validate;
use super::exchange::{HttpClient, Question};
use super::oracle::{Expected, Oracle};
use crate::WorkloadError;
use crate::load::{ClientId, LoadSummary, Workload, run};
use std::path::Path;
use std::sync::Arc;
use xfi_model::HttpLoad;

/// Web servers that are asked for a page and must give the right one.
pub struct HttpWorkload {
    guests: Vec<String>,
    questions: Vec<Arc<Question>>,
    keep_alive: bool,
}

impl HttpWorkload {
    /// The workload of thesis §4.1.2.1.
    ///
    /// # Errors
    /// [`WorkloadError::Invalid`].
    pub fn new(load: &HttpLoad) -> Result<HttpWorkload, WorkloadError> {
        validate(load)?;
        let oracle = Arc::new(Oracle::Page(Expected::for_bytes(load.hash_bytes)));
        let question = |addr: std::net::SocketAddr| {
            let oracle = Arc::clone(&oracle);
            Question::new(addr, &addr.to_string(), &load.path, oracle).map(Arc::new)
        };
        Ok(HttpWorkload {
            guests: load.targets.iter().map(|t| t.guest.clone()).collect(),
            questions: load
                .targets
                .iter()
                .map(|t| question(t.addr))
                .collect::<Result<_, _>>()?,
            keep_alive: load.keep_alive,
        })
    }

    /// One server.
    pub(super) fn one(name: String, question: Arc<Question>, keep_alive: bool) -> HttpWorkload {
        HttpWorkload {
            guests: vec![name],
            questions: vec![question],
            keep_alive,
        }
    }
}

impl Workload for HttpWorkload {
    type Client = HttpClient;

    fn kind(&self) -> &'static str {
        "http"
    }

    fn services(&self) -> Vec<String> {
        self.guests.clone()
    }

    fn client(&self, id: ClientId) -> Result<HttpClient, WorkloadError> {
        let question = Arc::clone(&self.questions[id.service]);
        Ok(HttpClient::new(question, self.keep_alive && !id.probe))
    }
}

/// Applies an HTTP load, on the current tokio runtime, until it is over or
/// `stop` resolves.
///
/// # Errors
/// As [`run`].
pub async fn run_driver(
    load: &HttpLoad,
    log: &Path,
    stop: impl Future<Output = ()>,
) -> Result<LoadSummary, WorkloadError> {
    let workload = HttpWorkload::new(load)?;
    run(&workload, &load.load, Some(log), stop, |_| {}).await
}
