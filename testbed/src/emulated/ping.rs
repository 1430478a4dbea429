//! One ping of dom0 from beside the emulated network.
//!
//! slirp carries no ICMP inwards, so an echo request is put on the wire by hand:
//! QEMU's hub joins a datagram socket to the emulated NIC. Recorded, not
//! trusted: a kernel that answers may be unable to start a process (thesis
//! §4.2).

use super::command::{PING, PING_PEER};
use crate::layout::{DOM0_ADDR, PINGER_ADDR};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Icmpv4Type, NetHeaders, PacketBuilder,
    PacketHeaders, TransportHeader,
};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const OUR_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x78, 0x66, 0xfe];
const BROADCAST: [u8; 6] = [0xff; 6];
/// A lost frame is sent again after this.
const AGAIN: Duration = Duration::from_millis(200);
const ID: u16 = 0x7866;
const FRAME_MAX: usize = 2048;

/// A ping under way.
#[derive(Debug)]
pub struct Ping {
    told: Receiver<bool>,
    until: Instant,
}

impl Ping {
    /// Pings dom0 of the QEMU that works in `dir`, for `patience` at most.
    pub(crate) fn start(dir: &Path, patience: Duration) -> io::Result<Ping> {
        let wire = Wire::join(dir)?;
        let until = Instant::now() + patience;
        let (tell, told) = mpsc::channel();
        std::thread::Builder::new()
            .name("ping".to_owned())
            .spawn(move || {
                let answered = wire.ping(until).unwrap_or_else(|e| {
                    tracing::debug!("ping: {e}");
                    false
                });
                drop(wire);
                let _ = tell.send(answered);
            })?;
        Ok(Ping { told, until })
    }

    /// Whether an answer came; waits for it until the patience is over.
    pub fn answered(self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        self.told.recv_timeout(left).unwrap_or(false)
    }
}

/// Our end of the datagram socket; QEMU's frames get lost while nobody has it.
struct Wire {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Wire {
    fn join(dir: &Path) -> io::Result<Wire> {
        let path = dir.join(PING_PEER);
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        let wire = Wire { socket, path };
        wire.socket.connect(dir.join(PING))?;
        Ok(wire)
    }

    fn ping(&self, until: Instant) -> io::Result<bool> {
        let mut dom0_mac = None;
        let mut frame = [0; FRAME_MAX];
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(false);
            }
            if now >= next {
                next = now + AGAIN;
                self.socket.send(&match dom0_mac {
                    None => who_has_dom0(),
                    Some(mac) => echo_request(mac),
                })?;
            }
            let wait = next.min(until).saturating_duration_since(now);
            self.socket
                .set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
            let length = match self.socket.recv(&mut frame) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e),
            };
            match answer_in(&frame[..length]) {
                Some(Answer::Mac(mac)) if dom0_mac.is_none() => {
                    dom0_mac = Some(mac);
                    next = Instant::now();
                }
                Some(Answer::Echo) => return Ok(true),
                _ => {}
            }
        }
    }
}

enum Answer {
    Mac([u8; 6]),
    Echo,
}

/// The request tells dom0 our address as well: it need not ask for it.
fn who_has_dom0() -> Vec<u8> {
    let arp = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: OUR_MAC,
        sender_ipv4: PINGER_ADDR.octets(),
        target_mac: [0; 6],
        target_ipv4: DOM0_ADDR.octets(),
    };
    let builder = PacketBuilder::ethernet2(OUR_MAC, BROADCAST).arp(arp.into());
    let mut frame = Vec::with_capacity(builder.size());
    builder
        .write(&mut frame)
        .expect("a vector takes all that is written");
    frame
}

fn echo_request(to: [u8; 6]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OUR_MAC, to)
        .ipv4(PINGER_ADDR.octets(), DOM0_ADDR.octets(), 64)
        .icmpv4_echo_request(ID, 1);
    let payload = [0x2a; 32];
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut frame, &payload)
        .expect("a vector takes all that is written");
    frame
}

fn answer_in(frame: &[u8]) -> Option<Answer> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    match (headers.net?, headers.transport) {
        (NetHeaders::Arp(arp), _) if arp.proto_addr_type == EtherType::IPV4 => {
            let arp = arp.try_eth_ipv4().ok()?;
            (arp.operation == ArpOperation::REPLY
                && arp.sender_ipv4 == DOM0_ADDR.octets()
                && arp.target_ipv4 == PINGER_ADDR.octets())
            .then_some(Answer::Mac(arp.sender_mac))
        }
        (NetHeaders::Ipv4(ip, _), Some(TransportHeader::Icmpv4(icmp))) => {
            let ours = ip.source == DOM0_ADDR.octets() && ip.destination == PINGER_ADDR.octets();
            matches!(icmp.icmp_type, Icmpv4Type::EchoReply(echo) if ours && echo.id == ID)
                .then_some(Answer::Echo)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOM0_MAC: [u8; 6] = [0x52, 0x54, 0, 0x78, 0x66, 0x69];

    /// Plays dom0 on QEMU's end of the wire until the wire is gone.
    fn dom0(dir: &Path, answers_echo: bool) -> std::thread::JoinHandle<()> {
        let qemu = UnixDatagram::bind(dir.join(PING)).unwrap();
        qemu.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let peer = dir.join(PING_PEER);
        std::thread::spawn(move || {
            let mut frame = [0; FRAME_MAX];
            while let Ok(length) = qemu.recv(&mut frame) {
                let headers = PacketHeaders::from_ethernet_slice(&frame[..length]).unwrap();
                let mut answer = Vec::new();
                match headers.net.unwrap() {
                    NetHeaders::Arp(arp) => {
                        let asked = arp.try_eth_ipv4().unwrap();
                        assert_eq!(asked.target_ipv4, DOM0_ADDR.octets());
                        let arp = ArpEthIpv4Packet {
                            operation: ArpOperation::REPLY,
                            sender_mac: DOM0_MAC,
                            sender_ipv4: asked.target_ipv4,
                            target_mac: asked.sender_mac,
                            target_ipv4: asked.sender_ipv4,
                        };
                        PacketBuilder::ethernet2(DOM0_MAC, asked.sender_mac)
                            .arp(arp.into())
                            .write(&mut answer)
                            .unwrap();
                    }
                    NetHeaders::Ipv4(ip, _) if answers_echo => {
                        PacketBuilder::ethernet2(DOM0_MAC, OUR_MAC)
                            .ipv4(ip.destination, ip.source, 64)
                            .icmpv4_echo_reply(ID, 1)
                            .write(&mut answer, &[0x2a; 32])
                            .unwrap();
                    }
                    _ => {}
                }
                if !answer.is_empty() && qemu.send_to(&answer, &peer).is_err() {
                    return;
                }
                if !answers_echo && length > 60 {
                    return;
                }
            }
        })
    }

    #[test]
    fn an_echo_reply_is_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let dom0 = dom0(dir.path(), true);
        let ping = Ping::start(dir.path(), Duration::from_secs(20)).unwrap();
        assert!(ping.answered());
        assert!(!dir.path().join(PING_PEER).exists());
        drop(dom0);
    }

    #[test]
    fn an_arp_reply_alone_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let dom0 = dom0(dir.path(), false);
        let ping = Ping::start(dir.path(), Duration::from_millis(600)).unwrap();
        assert!(!ping.answered());
        dom0.join().unwrap();
    }

    #[test]
    fn without_a_machine_there_is_nothing_to_ping() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Ping::start(dir.path(), Duration::from_secs(1)).is_err());
    }

    #[test]
    fn noise_on_the_wire_is_no_answer() {
        assert!(answer_in(&[]).is_none());
        assert!(answer_in(&[0xff; 64]).is_none());
        assert!(answer_in(&echo_request(DOM0_MAC)).is_none());
        assert!(answer_in(&who_has_dom0()).is_none());
    }
}
