//! The protocol over pipes, on a machine that need not have Xen: every answer
//! is an event, nothing panics, nothing hangs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use xfi_model::{AgentErrorCode, Event, EventBody, PROTOCOL_VERSION};

const PATIENCE: Duration = Duration::from_secs(30);

struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<Event>,
}

impl Agent {
    fn start() -> Agent {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xfi-agent"))
            .arg("--stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, events) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event =
                    serde_json::from_str(&line).unwrap_or_else(|e| panic!("no event: {e}: {line}"));
                if tell.send(event).is_err() {
                    break;
                }
            }
        });
        Agent {
            input: child.stdin.take(),
            child,
            events,
        }
    }

    fn send(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
    }

    fn next(&mut self) -> Event {
        self.events
            .recv_timeout(PATIENCE)
            .expect("an event in time")
    }

    fn ask(&mut self, line: &str) -> EventBody {
        self.send(line);
        self.next().body
    }

    fn error(&mut self, line: &str) -> (AgentErrorCode, String) {
        match self.ask(line) {
            EventBody::Error { code, message } => (code, message),
            other => panic!("{line} was answered with {other:?}"),
        }
    }

    fn end(mut self) -> ExitStatus {
        self.input = None;
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the agent does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_xen() -> bool {
    std::path::Path::new("/dev/xen/privcmd").exists()
}

const FAULT: &str = r#"{"location":{"kind":"vcpu_register","domain":"nosuch","vcpu":0,"register":"rbx"},"mask":"0x200000","trigger":{"kind":"kick","after_ns":0}}"#;

#[test]
fn hello_tells_what_this_host_is_and_the_end_of_input_ends_the_agent() {
    let mut agent = Agent::start();
    let EventBody::Hello(hello) = agent.ask(r#"{"seq":1,"command":"hello"}"#) else {
        panic!("no hello");
    };
    assert_eq!(hello.protocol, PROTOCOL_VERSION);
    assert!(!hello.kernel.is_empty());
    if !on_xen() {
        assert_eq!(hello.capabilities, None);
        assert!(hello.domains.is_empty());
    }
    assert!(agent.end().success());
}

#[test]
fn without_xen_each_request_is_answered_with_what_is_missing() {
    if on_xen() {
        return;
    }
    let mut agent = Agent::start();
    let run = format!(
        r#"{{"seq":5,"command":"run","fault":{FAULT},"poll_ms":5,"observe_ms":null,"final_checks":false}}"#
    );
    for request in [
        r#"{"seq":1,"command":"domains"}"#,
        r#"{"seq":3,"command":"disarm","id":1}"#,
        r#"{"seq":4,"command":"xen_console"}"#,
        r#"{"seq":5,"command":"peek","location":{"kind":"xen_memory","address":"0x1000","size":8},"count":1}"#,
        r#"{"seq":6,"command":"profile","domain":null,"for_ms":1000}"#,
        &run,
    ] {
        let (code, message) = agent.error(request);
        assert_eq!(code, AgentErrorCode::NotAvailable, "{request}");
        assert!(message.contains("/dev/xen/privcmd"), "{message}");
    }
    // Faults in tasks need no Xen: a guest's agent is asked for them, too.
    let status = agent.ask(r#"{"seq":2,"command":"status"}"#);
    assert!(
        matches!(&status, EventBody::Injections { records, .. } if records.is_empty()),
        "{status:?}"
    );
    let disarmed = agent.ask(r#"{"seq":3,"command":"disarm","id":null}"#);
    assert_eq!(disarmed, EventBody::Disarmed { count: 0 });
    let (code, message) = agent.error(r#"{"seq":6,"command":"destroy_domain","domain":"x"}"#);
    assert_eq!(code, AgentErrorCode::NotAllowed);
    assert!(message.contains("/etc/xfi/allow-injection"), "{message}");
    assert!(agent.end().success());
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_served() {
    let mut agent = Agent::start();
    for line in [
        "rubbish",
        "{",
        "[]",
        "{\"seq\":1}",
        "{\"seq\":-1,\"command\":\"hello\"}",
        "{\"seq\":1,\"command\":\"nosuch\"}",
        "{\"seq\":1,\"command\":\"run\",\"fault\":{}}",
        "{\"seq\":1,\"command\":\"peek\",\"count\":1}",
        "{\"seq\":1,\"command\":\"profile\",\"for_ms\":-1}",
        "\u{0}\u{1}\u{fffd}",
    ] {
        assert_eq!(agent.error(line).0, AgentErrorCode::BadRequest, "{line:?}");
    }
    // The number is given back where one can be read.
    agent.send("{\"seq\":77,\"command\":\"nosuch\"}");
    assert_eq!(agent.next().seq, 77);
    // Empty lines are nothing.
    agent.send("\n \n");
    assert!(matches!(
        agent.ask(r#"{"seq":2,"command":"hello"}"#),
        EventBody::Hello(_)
    ));
}

#[test]
fn an_endless_line_is_refused_once_and_the_next_one_served() {
    let mut agent = Agent::start();
    agent.send(&"x".repeat(3 * 1024 * 1024));
    let Event {
        body: EventBody::Error { code, message },
        ..
    } = agent.next()
    else {
        panic!("no error");
    };
    assert_eq!(code, AgentErrorCode::BadRequest);
    assert!(message.contains("1048576"), "{message}");
    assert!(matches!(
        agent.ask(r#"{"seq":2,"command":"hello"}"#),
        EventBody::Hello(_)
    ));
}

#[test]
fn requests_are_read_while_a_run_is_under_way_and_cancel_ends_it() {
    let mut agent = Agent::start();
    agent.send(
        r#"{"seq":1,"command":"run","fault":null,"poll_ms":5,"observe_ms":600000,"final_checks":false}"#,
    );
    let (code, message) = agent.error(
        r#"{"seq":2,"command":"run","fault":null,"poll_ms":5,"observe_ms":1,"final_checks":false}"#,
    );
    assert_eq!(code, AgentErrorCode::Busy);
    assert!(message.contains("run 1"), "{message}");
    agent.send(r#"{"seq":3,"command":"cancel"}"#);
    let (first, second) = (agent.next(), agent.next());
    assert_eq!((first.seq, first.body), (1, EventBody::Done));
    assert_eq!((second.seq, second.body), (3, EventBody::Done));
    // Nothing is under way: done at once.
    assert_eq!(
        agent.ask(r#"{"seq":4,"command":"cancel"}"#),
        EventBody::Done
    );
}

#[test]
fn a_run_without_a_fault_observes_then_checks_then_is_done() {
    let mut agent = Agent::start();
    let start = Instant::now();
    agent.send(
        r#"{"seq":9,"command":"run","fault":null,"poll_ms":5,"observe_ms":100,"final_checks":true}"#,
    );
    let mut integrity = None;
    loop {
        let event = agent.next();
        assert_eq!(event.seq, 9);
        match event.body {
            EventBody::Done => break,
            EventBody::Integrity(result) => integrity = Some(result),
            _ => {}
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(integrity.unwrap().passed());
}

#[test]
fn the_end_of_input_ends_a_run_under_way() {
    let mut agent = Agent::start();
    agent.send(
        r#"{"seq":1,"command":"run","fault":null,"poll_ms":5,"observe_ms":600000,"final_checks":false}"#,
    );
    assert!(matches!(
        agent.ask(r#"{"seq":2,"command":"hello"}"#),
        EventBody::Hello(_)
    ));
    assert!(agent.end().success());
}

#[test]
fn a_signal_ends_the_agent_in_order() {
    let mut agent = Agent::start();
    assert!(matches!(
        agent.ask(r#"{"seq":2,"command":"hello"}"#),
        EventBody::Hello(_)
    ));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(agent.wait().success());
}

#[test]
fn bad_arguments_are_named() {
    for args in [&[][..], &["--device"], &["--nosuch"], &["--stdio", "more"]] {
        let out = Command::new(env!("CARGO_BIN_EXE_xfi-agent"))
            .args(args)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(text.contains("usage"), "{text}");
    }
}

#[test]
fn what_is_no_memory_and_no_time_is_refused_with_the_value() {
    let mut agent = Agent::start();
    let vcpu = r#"{"kind":"vcpu_register","domain":"web1","vcpu":0,"register":"rbx"}"#;
    let peek = format!(r#"{{"seq":1,"command":"peek","location":{vcpu},"count":1}}"#);
    let (code, message) = agent.error(&peek);
    assert_eq!(code, AgentErrorCode::Invalid);
    assert!(message.contains("web1 rbx"), "{message}");
    let (code, message) = agent.error(r#"{"seq":2,"command":"profile","domain":null,"for_ms":0}"#);
    assert_eq!(code, AgentErrorCode::Invalid);
    assert!(message.contains("0 ms"), "{message}");
}

#[test]
fn a_device_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("port");
    let mut child = Command::new(env!("CARGO_BIN_EXE_xfi-agent"))
        .arg("--device")
        .arg(&path)
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let still_there = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    let _ = child.wait();
    assert!(still_there);
}
