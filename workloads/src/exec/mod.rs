//! Anyone's own program as a workload: judged by its return code and a hash of
//! its output (thesis §3.2.1), or judging by itself, in JSON lines.
//!
//! Either way it finds in its environment whom to ask and which client it is:
//! `XFI_GUEST`, `XFI_ADDR` (address and port, empty when there is none),
//! `XFI_CLIENT` and, once for each request, `XFI_SEQ` and `XFI_RANDOM`, a number
//! below 2^64 that follows from the seed.
//!
//! With [`ExecProtocol::Lines`] the program runs once for each client, reads
//! [`LineRequest`]s on stdin and answers each with a [`LineReply`] on stdout.
//! At the load's end it is killed. See `docs/workloads.md`.

mod lines;
mod once;
mod process;

use crate::WorkloadError;
use crate::load::{Abandoned, Client, ClientId, Performed, Workload};
use lines::Lines;
use once::Once;
use process::Program;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use xfi_model::{ExecLoad, ExecProtocol, Verdict};

pub use once::golden_output;

/// Longer output or a longer line is ended, bytes.
pub const MAX_OUTPUT: usize = 16 << 20;

/// A request, as a program that speaks JSON lines reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRequest {
    /// Its number within the client, from 0.
    pub seq: u32,
    /// A number that follows from the seed, the client and `seq`.
    pub random: u64,
}

/// What the program says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineReply {
    /// The request's number.
    pub seq: u32,
    /// The verdict, such as `correct` or `incorrect_content`.
    pub verdict: Verdict,
    /// What was wrong, in words.
    #[serde(default)]
    pub detail: Option<String>,
    /// The answer, when it was not right.
    #[serde(default)]
    pub answer: Option<String>,
    /// Bytes received.
    #[serde(default)]
    pub bytes: u64,
}

/// A program, and whom it asks.
pub struct ExecWorkload {
    services: Vec<(String, Option<SocketAddr>)>,
    command: Vec<String>,
    protocol: ExecProtocol,
    right: once::Right,
}

impl ExecWorkload {
    /// The workload of a load's file.
    ///
    /// # Errors
    /// [`WorkloadError::Invalid`].
    pub fn new(load: &ExecLoad) -> Result<ExecWorkload, WorkloadError> {
        let mut names = BTreeSet::new();
        for target in &load.targets {
            if !names.insert(&target.guest) {
                return Err(WorkloadError::Invalid {
                    field: "targets",
                    value: target.guest.clone(),
                    valid: "each guest may occur once",
                });
            }
        }
        let targets = load.targets.iter();
        ExecWorkload::of_command(
            targets.map(|t| (t.guest.clone(), Some(t.addr))).collect(),
            load.command.clone(),
            load.protocol,
            load.exit_code,
            load.output_sha256.clone(),
        )
    }

    /// A program that asks the services given; their addresses are told to it.
    ///
    /// # Errors
    /// [`WorkloadError::Invalid`].
    pub fn of_command(
        services: Vec<(String, Option<SocketAddr>)>,
        command: Vec<String>,
        protocol: ExecProtocol,
        exit_code: i32,
        output_sha256: Option<String>,
    ) -> Result<ExecWorkload, WorkloadError> {
        check(&command, protocol, exit_code, output_sha256.as_deref())?;
        Ok(ExecWorkload {
            services,
            command,
            protocol,
            right: once::Right {
                exit_code,
                output_sha256: output_sha256.map(|h| h.to_ascii_lowercase()),
            },
        })
    }
}

/// Checks what a program is and what is expected of it.
///
/// # Errors
/// [`WorkloadError::Invalid`].
pub fn check(
    command: &[String],
    protocol: ExecProtocol,
    exit_code: i32,
    output_sha256: Option<&str>,
) -> Result<(), WorkloadError> {
    let invalid = |field, value: String, valid| {
        Err(WorkloadError::Invalid {
            field,
            value,
            valid,
        })
    };
    if command.first().is_none_or(|program| program.is_empty()) {
        return invalid("command", format!("{command:?}"), "a program must be named");
    }
    if command.iter().any(|part| part.contains('\0')) {
        return invalid("command", format!("{command:?}"), "no NUL may be in it");
    }
    if !(0..=255).contains(&exit_code) {
        return invalid("exit_code", exit_code.to_string(), "0 to 255 are valid");
    }
    if let Some(hash) = output_sha256
        && (hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return invalid(
            "output_sha256",
            format!("'{hash}'"),
            "sixty-four hexadecimal digits are",
        );
    }
    if protocol == ExecProtocol::Lines && (exit_code != 0 || output_sha256.is_some()) {
        return invalid(
            "protocol",
            "lines".into(),
            "such a program judges by itself: neither exit_code nor output_sha256 goes with it",
        );
    }
    Ok(())
}

impl Workload for ExecWorkload {
    type Client = ExecClient;

    fn kind(&self) -> &'static str {
        "exec"
    }

    fn services(&self) -> Vec<String> {
        self.services.iter().map(|(name, _)| name.clone()).collect()
    }

    fn client(&self, id: ClientId) -> Result<ExecClient, WorkloadError> {
        let (guest, addr) = &self.services[id.service];
        let program = Program {
            command: self.command.clone(),
            environment: vec![
                ("XFI_GUEST", guest.clone()),
                ("XFI_ADDR", addr.map(|a| a.to_string()).unwrap_or_default()),
                ("XFI_CLIENT", id.number.to_string()),
            ],
        };
        Ok(ExecClient(match self.protocol {
            ExecProtocol::Once => Kind::Once(Once::new(program, self.right.clone())),
            ExecProtocol::Lines => Kind::Lines(Lines::new(program)),
        }))
    }
}

/// A client that runs the program.
pub struct ExecClient(Kind);

enum Kind {
    Once(Once),
    Lines(Lines),
}

/// A request: what the program is told of it.
#[derive(Debug, Clone, Copy)]
pub struct ExecRequest {
    seq: u32,
    random: u64,
}

impl Client for ExecClient {
    type Request = ExecRequest;

    fn next(&mut self, seq: u32, random: &mut ChaCha8Rng) -> Option<ExecRequest> {
        Some(ExecRequest {
            seq,
            random: random.next_u64(),
        })
    }

    fn bytes<'a>(&self, request: &'a ExecRequest) -> Cow<'a, [u8]> {
        Cow::Owned(format!("{} {}", request.seq, request.random).into_bytes())
    }

    fn describe(&self, request: &ExecRequest) -> Option<String> {
        Some(format!("XFI_RANDOM={}", request.random))
    }

    async fn perform(&mut self, request: &ExecRequest) -> Result<Performed, WorkloadError> {
        match &mut self.0 {
            Kind::Once(once) => once.perform(request).await,
            Kind::Lines(lines) => lines.perform(request).await,
        }
    }

    fn abandon(&mut self, why: Abandoned) -> Performed {
        match &mut self.0 {
            Kind::Once(once) => once.abandon(),
            Kind::Lines(lines) => lines.abandon(),
        }
        match why {
            Abandoned::TimedOut => Performed::wrong(
                Verdict::ClientTimeout,
                "the program did not answer within the timeout; it was killed",
            ),
            Abandoned::Stopped => {
                Performed::wrong(Verdict::Unfinished, "the driver was told to stop")
            }
        }
    }
}
