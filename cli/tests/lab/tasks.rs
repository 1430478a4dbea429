//! Faults in tasks by the command, on the layout everybody starts with.

use crate::host::{Lab, text};
use serde_json::json;

#[test]
fn a_fault_is_put_in_a_process_and_a_thread_and_shown_and_disarmed() {
    let Some(lab) = Lab::up() else { return };
    let apache = "inject --domain web1 --process apache2";
    for (register, bit) in [("xmm3", 100), ("r9", 63)] {
        let line = format!("{apache} --pick 2 --reg {register} --bit {bit}");
        let json = lab.json(&line, "inject-task");
        assert_eq!(json["changed"], json!({ register: [bit] }), "{json:#}");
        assert_eq!(json["bits"], json!([bit]));
        assert_eq!(json["task"]["comm"], "apache2");
    }
    let printed = lab.ok("inject --domain web1 --kthread kthreadd --reg r12 --bit 40");
    for word in [
        "kernel thread 2 'kthreadd' in web1",
        "__schedule",
        "rsp  0x",
        "exactly bit 40 of r12",
    ] {
        assert!(printed.contains(word), "no '{word}' in:\n{printed}");
    }
    // The record, and on stderr the reason.
    let out = lab.xfi(&format!("{apache} --reg ymm3 --bit 200"));
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    for word in ["refused: ymm3 of", "ymm3 needs AVX", "no XSAVE"] {
        assert!(text(&out).contains(word), "no '{word}' in:\n{}", text(&out));
    }
    lab.refused(
        "inject --domain web1 --process httpd --reg r9 --bit 1",
        5,
        &["no process 'httpd'", "there are:", "apache2"],
    );
    let status = lab.json("status", "status").to_string();
    for place in ["xmm3 of task", "r12 of task 2 'kthreadd' in web1"] {
        assert!(status.contains(place), "{status}");
    }

    // What another xfi waits for, in a guest's process and in memory.
    for line in [
        format!("{apache} --reg r9 --bit 5 --after 10m"),
        "inject --guest-memory web1:0x1000000 --bit 3 --after 10m".to_owned(),
    ] {
        let child = lab.start(&line);
        let status = lab.json("status", "status");
        assert_eq!(status["used_by"]["pid"], child.id(), "{status:#}");
        let printed = lab.ok("status");
        assert!(printed.contains(&line), "{printed}");
        assert_eq!(lab.ok("disarm --all").trim(), "1 injection disarmed");
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(130), "{}", text(&out));
        assert_eq!(lab.ok("disarm --all").trim(), "nothing was armed");
    }

    // What a guest still holds when the agent in dom0 was killed.
    let child = lab.start(&format!("{apache} --reg r9 --bit 5 --after 10m"));
    lab.in_dom0("/usr/lib/xfi/busybox killall -9 xfi-agent");
    signal_and_wait(child);
    let status = lab.json("status", "status");
    let held = status["faults"].as_array().unwrap();
    let held: Vec<_> = held.iter().filter(|f| f["held_in"] == "web1").collect();
    assert_eq!(held.len(), 1, "{status:#}");
    assert_eq!(
        (&held[0]["state"], &held[0]["bits"]),
        (&json!("armed"), &json!([5]))
    );
    assert_eq!(lab.ok("disarm --all").trim(), "1 injection disarmed");

    // The process goes, and its parent starts another.
    let killed = lab.json(
        &format!("{apache} --pick 2 --kill --after 1s"),
        "inject-task",
    );
    assert_eq!(
        (&killed["state"], &killed["method"]),
        (&json!("fired"), &json!("kill"))
    );
}

fn signal_and_wait(mut child: std::process::Child) {
    crate::host::signal(child.id(), "-KILL");
    child.wait().unwrap();
}
