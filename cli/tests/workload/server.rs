//! A server whose answers the test decides, and what the command did.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The command.
pub(crate) fn xfi(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xfi"));
    command.arg("workload").args(args);
    command
}

/// What it printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs it to its end.
pub(crate) fn ran(args: &[&str]) -> Ran {
    xfi(args).output().unwrap().into()
}

/// A server on 127.0.0.1 whose nth answer, from 0, is `answer(n)`. It serves
/// until the test's process ends.
pub(crate) fn serve(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (answer, asked) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            thread::spawn(move || connection(stream, &*answer, &asked));
        }
    });
    addr
}

fn connection(
    mut stream: TcpStream,
    answer: &dyn Fn(usize) -> Vec<u8>,
    asked: &AtomicUsize,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let mut part = [0; 4096];
        match stream.read(&mut part).ok()? {
            0 => return None,
            n => buffer.extend_from_slice(&part[..n]),
        }
        if buffer.ends_with(b"\r\n\r\n") {
            buffer.clear();
            let number = asked.fetch_add(1, Ordering::SeqCst);
            stream.write_all(&answer(number)).ok()?;
        }
    }
}

/// A whole answer.
pub(crate) fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}
