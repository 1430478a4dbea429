//! A program for each client that reads requests and writes verdicts.

use super::process::{Program, Running};
use super::{ExecRequest, LineReply, LineRequest, MAX_OUTPUT};
use crate::load::Performed;
use crate::{WorkloadError, monotonic_ns};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use xfi_model::{ResetCause, Verdict};

pub(super) struct Lines {
    program: Program,
    open: Option<Open>,
}

struct Open {
    /// Held so that the program lives as long as the client speaks with it.
    _running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Lines {
    pub(super) fn new(program: Program) -> Self {
        Lines {
            program,
            open: None,
        }
    }

    pub(super) fn abandon(&mut self) {
        self.open = None;
    }

    pub(super) async fn perform(
        &mut self,
        request: &ExecRequest,
    ) -> Result<Performed, WorkloadError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.start()?,
        };
        let performed = ask(&mut open, request).await;
        // One that lost the thread is not spoken with again.
        if !matches!(
            performed.verdict,
            Verdict::ConnectionReset | Verdict::CorruptedOutput
        ) {
            self.open = Some(open);
        }
        Ok(performed)
    }

    fn start(&self) -> Result<Open, WorkloadError> {
        let mut running = self.program.start(&[], Stdio::piped())?;
        let (stdin, stdout) = (running.child.stdin.take(), running.child.stdout.take());
        match (stdin, stdout) {
            (Some(stdin), Some(stdout)) => Ok(Open {
                _running: running,
                stdin,
                stdout: BufReader::new(stdout),
            }),
            _ => Err(WorkloadError::Program {
                program: self.program.command.join(" "),
                source: std::io::Error::other("it has no stdin or stdout"),
            }),
        }
    }
}

async fn ask(open: &mut Open, request: &ExecRequest) -> Performed {
    let lost = |what: String| Performed {
        reset_cause: Some(ResetCause::EarlyClose),
        ..Performed::wrong(Verdict::ConnectionReset, what)
    };
    let asked = LineRequest {
        seq: request.seq,
        random: request.random,
    };
    let mut line = match serde_json::to_vec(&asked) {
        Ok(line) => line,
        Err(e) => return lost(e.to_string()),
    };
    line.push(b'\n');
    if let Err(e) = open.stdin.write_all(&line).await {
        return lost(format!("the program takes no request: {e}"));
    }
    line.clear();
    let most = MAX_OUTPUT as u64 + 1;
    let mut limited = (&mut open.stdout).take(most);
    if let Err(e) = limited.read_until(b'\n', &mut line).await {
        return lost(format!("the program's answer cannot be read: {e}"));
    }
    let end_ns = monotonic_ns();
    let corrupted = |what: String, line: Vec<u8>| Performed {
        answer: Some(line),
        ..Performed::wrong(Verdict::CorruptedOutput, what)
    };
    if line.len() > MAX_OUTPUT {
        return corrupted(format!("a line of more than {MAX_OUTPUT} bytes"), line);
    }
    if line.last() != Some(&b'\n') {
        return lost(format!(
            "the program ended after {} bytes of its answer",
            line.len()
        ));
    }
    match serde_json::from_slice::<LineReply>(&line) {
        Err(e) => corrupted(format!("not a reply: {e}"), line),
        Ok(reply) if reply.seq != request.seq => corrupted(
            format!("the reply to request {}, not {}", reply.seq, request.seq),
            line,
        ),
        Ok(reply) if reply.verdict == Verdict::Unfinished => corrupted(
            "unfinished is no verdict for a program to give".to_owned(),
            line,
        ),
        Ok(reply) => {
            let right = reply.verdict == Verdict::Correct;
            let said = |v: Verdict| format!("the program said {v:?}");
            Performed {
                verdict: reply.verdict,
                detail: (!right).then(|| reply.detail.unwrap_or_else(|| said(reply.verdict))),
                end_ns: Some(end_ns),
                bytes: reply.bytes,
                answer: (!right)
                    .then(|| reply.answer.map(String::into_bytes))
                    .flatten(),
                ..Performed::right(0)
            }
        }
    }
}
