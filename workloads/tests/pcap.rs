//! The reader of the NIC's packet record.

use etherparse::PacketBuilder;
use proptest::prelude::*;
use std::net::SocketAddr;
use std::path::Path;
use xfi_workloads::pcap::{PacketRecord, TcpService, parse_pcap};

const GUEST: [u8; 4] = [10, 0, 2, 21];
const SLIRP: [u8; 4] = [10, 0, 2, 2];

fn services() -> Vec<TcpService> {
    [("web1", GUEST), ("web2", [10, 0, 2, 22])]
        .map(|(guest, ip)| TcpService {
            guest: guest.into(),
            addr: SocketAddr::from((ip, 80)),
        })
        .into()
}

/// A record as QEMU's filter-dump writes it.
struct Record(Vec<u8>);

impl Record {
    fn new() -> Self {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65536, 1u32] {
            bytes.extend(word.to_le_bytes());
        }
        Record(bytes)
    }

    fn frame(&mut self, frame: &[u8]) -> &mut Self {
        let at = (self.0.len() as u32, 5);
        for word in [at.0, at.1, frame.len() as u32, frame.len() as u32] {
            self.0.extend(word.to_le_bytes());
        }
        self.0.extend(frame);
        self
    }

    fn tcp(
        &mut self,
        from_guest: bool,
        port: u16,
        seq: u32,
        flags: &str,
        data: &[u8],
    ) -> &mut Self {
        let (from, to) = if from_guest {
            (GUEST, SLIRP)
        } else {
            (SLIRP, GUEST)
        };
        let (source, destination) = if from_guest { (80, port) } else { (port, 80) };
        let mut tcp = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4(from, to, 64)
            .tcp(source, destination, seq, 65535);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                'A' => tcp.ack(1),
                _ => panic!("flag {flag}"),
            };
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, data).unwrap();
        // Ethernet pads short frames; padding is no payload.
        frame.resize(frame.len().max(60), 0);
        self.frame(&frame)
    }

    fn read(&self) -> PacketRecord {
        parse_pcap(Path::new("x"), &self.0[..], &services()).unwrap()
    }
}

/// One connection without trouble, with a sequence number that wraps.
fn good(record: &mut Record) -> &mut Record {
    let isn = u32::MAX - 3;
    record
        .tcp(false, 1000, isn, "S", b"")
        .tcp(true, 1000, 77, "SA", b"")
        .tcp(false, 1000, isn.wrapping_add(1), "A", b"")
        .tcp(false, 1000, isn.wrapping_add(1), "A", b"GET / HTTP/1.1")
        .tcp(true, 1000, 78, "A", b"")
        .tcp(true, 1000, 78, "A", b"HTTP/1.1 200 OK")
        .tcp(true, 1000, 93, "FA", b"")
        .tcp(false, 1000, isn.wrapping_add(15), "FA", b"")
        .tcp(true, 1000, 94, "A", b"")
}

#[test]
fn a_good_connection() {
    let mut record = Record::new();
    let seen = good(&mut record).read();
    let web1 = seen.services["web1"];
    assert_eq!(web1.packets, 9);
    assert_eq!(web1.fin_from_guest, 1);
    assert_eq!(web1.rst_from_guest + web1.rst_to_guest, 0);
    assert_eq!(web1.retransmitted_from_guest, 0);
    assert_eq!(web1.retransmitted_to_guest, 0);
    assert_eq!(seen.services["web2"], Default::default());
    assert_eq!(seen.connections.len(), 1);
    assert_eq!(seen.connections[0].seen, web1);
    assert_eq!(seen.connections[0].peer, SocketAddr::from((SLIRP, 1000)));
    assert!(seen.connections[0].first_us < seen.connections[0].last_us);
    assert!(!seen.cut_off);
}

#[test]
fn resets_each_way() {
    let mut record = Record::new();
    record
        .tcp(false, 1000, 5, "S", b"")
        .tcp(true, 1000, 0, "RA", b"")
        .tcp(false, 1001, 5, "S", b"")
        .tcp(false, 1001, 6, "R", b"");
    let web1 = record.read().services["web1"];
    assert_eq!((web1.rst_from_guest, web1.rst_to_guest), (1, 1));
}

#[test]
fn retransmissions_each_way() {
    let mut record = Record::new();
    record
        .tcp(false, 1000, 5, "S", b"")
        .tcp(false, 1000, 5, "S", b"") // again
        .tcp(true, 1000, 100, "SA", b"")
        .tcp(true, 1000, 111, "A", b"0123456789") // ahead of the next
        .tcp(true, 1000, 101, "A", b"0123456789") // late, but new
        .tcp(true, 1000, 106, "A", b"0123456789") // again, in two parts
        .tcp(true, 1000, 121, "FA", b"")
        .tcp(true, 1000, 121, "FA", b""); // again
    let web1 = record.read().services["web1"];
    assert_eq!(web1.retransmitted_to_guest, 1);
    assert_eq!(web1.retransmitted_from_guest, 2);
}

#[test]
fn a_pair_of_ends_used_again_is_another_connection() {
    let mut record = Record::new();
    good(&mut record);
    record
        .tcp(false, 1000, 4_000_000, "S", b"")
        .tcp(true, 1000, 77, "SA", b"");
    let seen = record.read();
    assert_eq!(seen.connections.len(), 2);
    assert_eq!(seen.services["web1"].retransmitted_from_guest, 0);
}

#[test]
fn other_traffic_is_only_counted() {
    let mut record = Record::new();
    let mut udp = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv4(GUEST, SLIRP, 64)
        .udp(80, 53)
        .write(&mut udp, b"x")
        .unwrap();
    record.frame(&udp).frame(b"").frame(&[0xff; 60]);
    let seen = record.read();
    assert_eq!(seen.packets, 3);
    assert_eq!(seen.services["web1"].packets, 0);
}

#[test]
fn cut_off_anywhere_it_is_read_to_the_last_whole_packet() {
    let mut record = Record::new();
    good(&mut record);
    let whole = record.read();
    let mut last = 0;
    for at in 24..record.0.len() {
        let seen = parse_pcap(Path::new("x"), &record.0[..at], &services()).unwrap();
        assert!(seen.packets >= last && seen.packets < whole.packets);
        last = seen.packets;
    }
    assert_eq!(last, whole.packets - 1);
    for at in 0..24 {
        let error = parse_pcap(Path::new("dump.pcap"), &record.0[..at], &services());
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("dump.pcap: not a packet record"), "{text}");
    }
}

#[test]
fn another_link_type_is_refused() {
    let mut record = Record::new();
    record.0[20] = 101;
    let error = parse_pcap(Path::new("x"), &record.0[..], &services()).unwrap_err();
    assert!(error.to_string().contains("not Ethernet"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_pcap(Path::new("x"), &bytes[..], &services());
    }

    #[test]
    fn any_bytes_after_a_header_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut record = Record::new();
        record.0.extend(&bytes);
        let _ = parse_pcap(Path::new("x"), &record.0[..], &services());
    }

    #[test]
    fn any_frame_is_counted(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut record = Record::new();
        record.frame(&bytes);
        prop_assert_eq!(record.read().packets, 1);
    }

    #[test]
    fn a_flipped_bit_never_panics(bit in 0usize..9000) {
        let mut record = Record::new();
        good(&mut record);
        let bit = bit % (record.0.len() * 8);
        record.0[bit / 8] ^= 1 << (bit % 8);
        let _ = parse_pcap(Path::new("x"), &record.0[..], &services());
    }
}
