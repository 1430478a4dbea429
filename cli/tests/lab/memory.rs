//! Memory read and changed, and hypercalls counted, by the command.

use crate::host::{Lab, hex, signal, text, validator};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

impl Lab {
    /// The one word there.
    fn peek(&self, place: &str) -> u64 {
        let json = self.json(&format!("peek {place}"), "peek");
        let words = json["words"].as_array().unwrap();
        assert_eq!(words.len(), 1);
        hex(&words[0]["value"])
    }
}

#[test]
fn the_code_of_a_handler_is_that_of_the_file() {
    let Some(lab) = Lab::up() else { return };
    let listed: Value = serde_json::from_str(&lab.ok("locations iret --output json")).unwrap();
    let json = lab.json("peek --xen-memory do_iret --count 64 --size 4", "peek");
    let words = json["words"].as_array().unwrap();
    assert_eq!(words[0]["symbol"], "do_iret");
    assert_eq!(words[3]["symbol"], "do_iret+0xc");
    let start = hex(&words[0]["address"]);
    let memory: Vec<u8> = words
        .iter()
        .flat_map(|w| u32::try_from(hex(&w["value"])).unwrap().to_le_bytes())
        .collect();
    let mut compared = 0;
    for i in listed["instructions"].as_array().unwrap() {
        let Some(at) = hex(&i["address"]).checked_sub(start) else {
            continue;
        };
        let digits = i["bytes"].as_str().unwrap().replace(' ', "");
        let wanted: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|n| u8::from_str_radix(&digits[n..n + 2], 16).unwrap())
            .collect();
        let at = usize::try_from(at).unwrap();
        let Some(seen) = memory.get(at..at + wanted.len()) else {
            continue;
        };
        if i["rewritten_at_boot"] == false {
            assert_eq!(seen, wanted, "{}", i["symbol"]);
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared} instructions compared");
    // Machine addresses of neighbours in one page are neighbours.
    let machine = |n: usize| hex(&words[n]["machine_address"]);
    assert_eq!(machine(1), machine(0) + 4);
}

#[test]
fn a_flip_in_xens_memory_is_seen_by_xen_and_undone_by_another() {
    let Some(lab) = Lab::up() else { return };
    let before = lab.in_dom0("xl info xen_commandline");
    let place = "--xen-memory saved_cmdline+0x1 --size 1";
    let word = lab.peek(place);
    assert_eq!(word, u64::from(before.trim().as_bytes()[1]));
    let flip = format!("inject {place} --bit 0");
    let json = lab.json(&flip, "inject-memory");
    assert_eq!(json["changed"], serde_json::json!([0]));
    assert_eq!(json["symbol"], "saved_cmdline+0x1");
    assert_eq!(
        (hex(&json["before"]), hex(&json["after"])),
        (word, word ^ 1)
    );
    assert!(json["now_ns"].as_u64().unwrap() > 0);
    assert_eq!(lab.peek(place), word ^ 1);
    let after = lab.in_dom0("xl info xen_commandline");
    let mut wanted = before.clone().into_bytes();
    wanted[1] ^= 1;
    assert_eq!(after.as_bytes(), wanted);
    let printed = lab.ok(&flip);
    assert!(printed.contains("exactly bit 0"), "{printed}");
    assert_eq!(lab.in_dom0("xl info xen_commandline"), before);
    // Setting what is set changes nothing, and is told so.
    let bit = word.trailing_zeros();
    let printed = lab.ok(&format!("inject {place} --bit {bit} --op set"));
    assert!(printed.contains("were so already"), "{printed}");
}

#[test]
fn a_flip_in_a_guests_or_dom0s_memory_is_read_back() {
    let Some(lab) = Lab::up() else { return };
    // Below 64 KiB, which Linux keeps from use, as some firmware writes there.
    for whose in ["web1", "web2", "Domain-0"] {
        let place = format!("--guest-memory {whose}:0x8008");
        let word = lab.peek(&place);
        let flip = format!("inject {place} --mask 0x8000000000000021");
        let json = lab.json(&flip, "inject-memory");
        assert_eq!(json["domain"], whose);
        assert_eq!(json["changed"], serde_json::json!([0, 5, 63]));
        assert_eq!(hex(&json["before"]), word);
        assert_eq!(lab.peek(&place), word ^ 0x8000_0000_0000_0021, "{whose}");
        // After a while, and a part of the word alone.
        let begun = Instant::now();
        lab.ok(&format!(
            "inject {place} --mask 0x8000000000000001 --after 2s"
        ));
        assert!(begun.elapsed() >= Duration::from_secs(2));
        lab.ok(&format!("inject {place} --size 1 --bit 5"));
        assert_eq!(lab.peek(&place), word, "{whose}");
    }
    let domains = lab.ok("domains");
    assert!(domains.contains("web1") && domains.contains("web2"));
}

#[test]
fn what_is_not_there_is_refused_with_the_address() {
    let Some(lab) = Lab::up() else { return };
    for at in ["0x1000", "0xffff82d000000000", "0xffff8000dead0000"] {
        let says = ["nothing is mapped", at.trim_start_matches("0x"), "Xen"];
        lab.refused(&format!("peek --xen-memory {at}"), 2, &says);
        lab.refused(&format!("inject --xen-memory {at} --bit 0"), 2, &says);
    }
    let beyond = "--guest-memory web1:0x100000000000";
    lab.refused(&format!("peek {beyond}"), 2, &["nothing is mapped"]);
    lab.refused(
        &format!("inject {beyond} --bit 0"),
        2,
        &["nothing is mapped"],
    );
    lab.refused(
        "peek --guest-memory nosuch:0x1000",
        5,
        &["'nosuch'", "Domain-0", "web1"],
    );
    lab.refused("profile --domain nosuch", 5, &["'nosuch'", "web1"]);
    lab.refused(
        "peek --xen-memory do_irett",
        2,
        &["'do_irett'", "near: do_iret"],
    );
    lab.refused(
        "peek --xen-memory do_iret+0x100000",
        2,
        &["outside 'do_iret'"],
    );
    lab.refused(
        "inject --xen-memory do_iret+0x1 --bit 8",
        2,
        &["--bit: 8", "0 to 7"],
    );
    // The host that does not want faults is still read.
    lab.in_dom0("mv /etc/xfi/allow-injection /etc/xfi/not-now");
    lab.refused(
        "inject --guest-memory web1:0x8008 --bit 0",
        4,
        &["opted in", "allow-injection"],
    );
    lab.ok("peek --guest-memory web1:0x8008");
    lab.in_dom0("mv /etc/xfi/not-now /etc/xfi/allow-injection");
}

#[test]
fn a_profile_of_a_guest_at_work_shows_its_hypercalls() {
    let Some(lab) = Lab::up() else { return };
    let status: Value = serde_json::from_str(&lab.ok("testbed status --output json")).unwrap();
    let endpoints = status["info"]["endpoints"].as_array().unwrap();
    let web1 = endpoints.iter().find(|e| e[0] == "web1").unwrap();
    let address = web1[1].as_str().unwrap();
    let enough = AtomicBool::new(false);
    let json = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::SeqCst) {
                let mut answer = String::new();
                if let Ok(mut s) = TcpStream::connect(address) {
                    let _ = s.set_read_timeout(Some(Duration::from_secs(60)));
                    let _ = s.write_all(b"GET /cgi-bin/sha1 HTTP/1.0\r\nHost: web1\r\n\r\n");
                    let _ = s.read_to_string(&mut answer);
                }
            }
        });
        let json = lab.json("profile --domain web1 --for 20s", "profile");
        enough.store(true, Ordering::SeqCst);
        json
    });
    assert_eq!(json["domain"], "web1");
    assert!(json["counted_ns"].as_u64().unwrap() >= 20_000_000_000);
    let calls = json["hypercalls"].as_array().unwrap();
    let one = |name: &str| {
        calls
            .iter()
            .find(|c| c["hypercall"] == name)
            .unwrap_or_else(|| panic!("no {name} in {json:#}"))
    };
    for name in ["iret", "multicall"] {
        assert!(one(name)["calls"].as_u64().unwrap() > 0, "{json:#}");
        assert!(one(name)["cycles_per_call"].as_f64().unwrap() > 0.0);
    }
    let sum = |field: &str| {
        calls
            .iter()
            .map(|c| c[field].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(sum("calls"), json["calls"].as_u64().unwrap());
    assert!(sum("in_multicalls") > 0, "{json:#}");
    println!("{}", lab.ok("profile --for 2s"));
}

#[test]
fn ctrl_c_or_a_kill_ends_a_profile_and_the_next_one_starts() {
    let Some(lab) = Lab::up() else { return };
    let child = lab.start("profile --for 10m --output json");
    signal(child.id(), "-INT");
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(validator("profile").is_valid(&json), "{json:#}");
    assert!(json["counted_ns"].as_u64().unwrap() < 600_000_000_000);
    assert!(json["calls"].as_u64().unwrap() > 0);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("interrupted after"), "{said}");

    let mut child = lab.start("profile --for 10m");
    signal(child.id(), "-KILL");
    child.wait().unwrap();
    let printed = lab.ok("profile --domain Domain-0 --for 1s");
    assert!(printed.contains("Domain-0: "), "{printed}");
}
