//! One run of the program for each request.

use super::process::{Program, Running};
use super::{ExecRequest, MAX_OUTPUT};
use crate::WorkloadError;
use crate::hex::hex;
use crate::load::Performed;
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use xfi_model::Verdict;

/// What is right.
#[derive(Debug, Clone)]
pub(super) struct Right {
    pub(super) exit_code: i32,
    pub(super) output_sha256: Option<String>,
}

pub(super) struct Once {
    program: Program,
    right: Right,
    running: Option<Running>,
}

impl Once {
    pub(super) fn new(program: Program, right: Right) -> Self {
        Once {
            program,
            right,
            running: None,
        }
    }

    pub(super) fn abandon(&mut self) {
        self.running = None;
    }

    pub(super) async fn perform(
        &mut self,
        request: &ExecRequest,
    ) -> Result<Performed, WorkloadError> {
        let more = [
            ("XFI_SEQ", request.seq.to_string()),
            ("XFI_RANDOM", request.random.to_string()),
        ];
        let running = self
            .running
            .insert(self.program.start(&more, Stdio::null())?);
        let ended = output(running).await;
        self.running = None;
        let (status, output) = ended.map_err(|source| WorkloadError::Program {
            program: self.program.command.join(" "),
            source,
        })?;
        Ok(judge(&self.right, status, output))
    }
}

/// Its return code and all it prints, of which more than [`MAX_OUTPUT`] is cut.
async fn output(running: &mut Running) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let mut output = Vec::new();
    if let Some(stdout) = running.child.stdout.take() {
        let most = MAX_OUTPUT as u64 + 1;
        stdout.take(most).read_to_end(&mut output).await?;
    }
    Ok((running.child.wait().await?, output))
}

fn judge(right: &Right, status: ExitStatus, output: Vec<u8>) -> Performed {
    let wrong = match (status.code(), status.signal()) {
        (Some(code), _) if code == right.exit_code => None,
        (Some(code), _) => Some(format!("return code {code}, not {}", right.exit_code)),
        (None, Some(number)) => Some(match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        }),
        (None, None) => Some("it ended in an unknown way".to_owned()),
    };
    let wrong = match (wrong, &right.output_sha256) {
        (Some(wrong), _) => Some((Verdict::ErrorReply, wrong)),
        (None, None) => None,
        (None, Some(_)) if output.len() > MAX_OUTPUT => Some((
            Verdict::CorruptedOutput,
            format!("more than {MAX_OUTPUT} bytes of output"),
        )),
        (None, Some(right)) => {
            let hash = hex(&Sha256::digest(&output));
            let bytes = output.len();
            (hash != *right).then(|| {
                let text = format!("the SHA-256 of {bytes} bytes is {hash}, not {right}");
                (Verdict::IncorrectContent, text)
            })
        }
    };
    let bytes = output.len() as u64;
    let answer = wrong.is_some().then_some(output);
    let performed = match wrong {
        None => Performed::right(bytes),
        Some((verdict, detail)) => Performed::wrong(verdict, detail),
    };
    Performed {
        bytes,
        status: status.code().and_then(|code| u16::try_from(code).ok()),
        answer,
        ..performed
    }
}

/// Runs a program twice and gives the SHA-256 of its output, which is what is
/// right from then on.
///
/// # Errors
/// [`WorkloadError::Program`], also when it fails, takes longer than `patience`
/// or the two outputs differ.
pub async fn golden_output(
    command: &[String],
    exit_code: i32,
    patience: Duration,
) -> Result<String, WorkloadError> {
    let failed = |what: String| WorkloadError::Program {
        program: command.join(" "),
        source: std::io::Error::other(what),
    };
    let program = Program {
        command: command.to_vec(),
        environment: Vec::new(),
    };
    let mut right = Right {
        exit_code,
        output_sha256: None,
    };
    for _ in 0..2 {
        let mut running = program.start(&[], Stdio::null())?;
        let (status, output) = tokio::time::timeout(patience, output(&mut running))
            .await
            .map_err(|_| failed(format!("it did not end within {patience:?}")))?
            .map_err(|e| failed(e.to_string()))?;
        let hash = hex(&Sha256::digest(&output));
        if let Some(detail) = judge(&right, status, output).detail {
            return Err(failed(detail));
        }
        right.output_sha256 = Some(hash);
    }
    right
        .output_sha256
        .ok_or_else(|| failed("it printed nothing".into()))
}
