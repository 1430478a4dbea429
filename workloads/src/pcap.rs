//! The packet record of the emulated NIC: what became of each guest's TCP
//! connections.
//!
//! QEMU's `filter-dump` writes classic pcap with Ethernet frames. Between the
//! load driver and the guest stands slirp, which accepts a connection before
//! the guest does and turns the guest's RST into a FIN; the record is where the
//! RST can still be seen.
//!
//! *It gives counts, and does not correct a driver's `early_close` to `reset`
//! request by request.* slirp opens the inner connection from a port of its own
//! choice, so the driver's `local_port` does not lead to it; and the record's
//! times are the virtual machine's clock (its RTC's date at QEMU's start, in
//! whole seconds, plus virtual microseconds, which stand still while the
//! machine does), so they cannot be laid beside `CLOCK_MONOTONIC` with the
//! certainty that a verdict needs.

use crate::WorkloadError;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice};
use pcap_file::pcap::PcapReader;
use pcap_file::{DataLink, PcapError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use xfi_model::TcpObservation;

/// A service to look for in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpService {
    /// The guest's name.
    pub guest: String,
    /// Its address on the bridge and the port it serves.
    pub addr: SocketAddr,
}

/// What a packet record tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PacketRecord {
    /// Each service asked for, also those without a packet.
    pub services: BTreeMap<String, TcpObservation>,
    /// Each TCP connection of these services, in the order of its first
    /// segment.
    pub connections: Vec<TcpConnection>,
    /// Packets in the record, of any kind.
    pub packets: u64,
    /// The last packet was cut off.
    pub cut_off: bool,
}

/// One connection of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConnection {
    /// The guest.
    pub guest: String,
    /// The other end; behind slirp this is slirp's address and port, not the
    /// driver's.
    pub peer: SocketAddr,
    /// Time of its first segment, microseconds of the virtual machine's clock
    /// (see above).
    pub first_us: u64,
    /// Time of its last segment, likewise.
    pub last_us: u64,
    /// What was seen of it.
    pub seen: TcpObservation,
}

/// Reads a packet record.
pub fn read_pcap(path: &Path, services: &[TcpService]) -> Result<PacketRecord, WorkloadError> {
    let file = File::open(path).map_err(|source| WorkloadError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse_pcap(path, file, services)
}

/// Reads a packet record from anything; `path` is for messages alone. A last
/// packet that was cut off is tolerated, a record without its 24 bytes of
/// header is not.
pub fn parse_pcap(
    path: &Path,
    input: impl Read,
    services: &[TcpService],
) -> Result<PacketRecord, WorkloadError> {
    let bad = |what: String| WorkloadError::Pcap {
        path: path.to_owned(),
        what,
    };
    let mut reader = PcapReader::new(input).map_err(|e| bad(explain(&e)))?;
    let link = reader.header().datalink;
    if link != DataLink::ETHERNET {
        return Err(bad(format!("link type {link:?}, not Ethernet")));
    }
    let mut tracker = Tracker::new(services);
    while let Some(packet) = reader.next_packet() {
        match packet {
            Ok(packet) => {
                let at_us = u64::try_from(packet.timestamp.as_micros()).unwrap_or(u64::MAX);
                tracker.packet(at_us, &packet.data);
            }
            Err(PcapError::IncompleteBuffer) => {
                tracker.record.cut_off = true;
                break;
            }
            Err(PcapError::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => {
                tracker.record.cut_off = true;
                break;
            }
            Err(e) => {
                let n = tracker.record.packets + 1;
                return Err(bad(format!("packet {n}: {}", explain(&e))));
            }
        }
    }
    Ok(tracker.finish())
}

fn explain(e: &PcapError) -> String {
    match e {
        PcapError::IoError(source) => source.to_string(),
        e => e.to_string(),
    }
}

struct Tracker {
    guests: BTreeMap<SocketAddr, String>,
    record: PacketRecord,
    /// The connection that a pair of ends has now.
    live: BTreeMap<(SocketAddr, SocketAddr), Live>,
}

/// A connection that may still get segments.
struct Live {
    index: usize,
    from_guest: Sequence,
    to_guest: Sequence,
}

impl Tracker {
    fn new(services: &[TcpService]) -> Self {
        Tracker {
            guests: services.iter().map(|s| (s.addr, s.guest.clone())).collect(),
            record: PacketRecord {
                services: services
                    .iter()
                    .map(|s| (s.guest.clone(), TcpObservation::default()))
                    .collect(),
                ..Default::default()
            },
            live: BTreeMap::new(),
        }
    }

    fn packet(&mut self, at_us: u64, frame: &[u8]) {
        self.record.packets += 1;
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
            return;
        };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            return;
        };
        let (source, destination): (IpAddr, IpAddr) = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            Some(LaxNetSlice::Ipv6(ip)) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            _ => return,
        };
        let source = SocketAddr::new(source, tcp.source_port());
        let destination = SocketAddr::new(destination, tcp.destination_port());
        if self.guests.contains_key(&source) {
            self.segment(at_us, source, destination, true, tcp);
        } else if self.guests.contains_key(&destination) {
            self.segment(at_us, destination, source, false, tcp);
        }
    }

    fn segment(
        &mut self,
        at_us: u64,
        service: SocketAddr,
        peer: SocketAddr,
        from_guest: bool,
        tcp: &TcpSlice<'_>,
    ) {
        let key = (service, peer);
        // The pair of ends is used again: a SYN with another initial number.
        let again = tcp.syn()
            && !tcp.ack()
            && self.live.get(&key).is_some_and(|live| {
                !from_guest
                    && live
                        .to_guest
                        .first
                        .is_some_and(|f| f != tcp.sequence_number())
            });
        if again {
            self.live.remove(&key);
        }
        let record = &mut self.record;
        let guest = &self.guests[&service];
        let live = self.live.entry(key).or_insert_with(|| {
            record.connections.push(TcpConnection {
                guest: guest.clone(),
                peer,
                first_us: at_us,
                last_us: at_us,
                seen: TcpObservation::default(),
            });
            Live {
                index: record.connections.len() - 1,
                from_guest: Sequence::default(),
                to_guest: Sequence::default(),
            }
        });
        let sequence = if from_guest {
            &mut live.from_guest
        } else {
            &mut live.to_guest
        };
        let repeated = sequence.segment(tcp);
        let connection = &mut record.connections[live.index];
        connection.last_us = at_us;
        let total = record.services.get_mut(guest);
        for seen in std::iter::once(&mut connection.seen).chain(total) {
            seen.packets += 1;
            if from_guest {
                seen.rst_from_guest += u64::from(tcp.rst());
                seen.fin_from_guest += u64::from(tcp.fin());
                seen.retransmitted_from_guest += u64::from(repeated);
            } else {
                seen.rst_to_guest += u64::from(tcp.rst());
                seen.retransmitted_to_guest += u64::from(repeated);
            }
        }
    }

    fn finish(self) -> PacketRecord {
        self.record
    }
}

/// The sequence numbers that one side of a connection has used.
#[derive(Default)]
struct Sequence {
    /// The first number seen.
    first: Option<u32>,
    /// The furthest end seen, counted on from `first` without wrapping.
    furthest: i64,
    /// Ranges seen, start to end, merged, counted likewise.
    seen: BTreeMap<i64, i64>,
}

impl Sequence {
    /// Notes a segment; whether any number in it had been seen before.
    fn segment(&mut self, tcp: &TcpSlice<'_>) -> bool {
        let number = tcp.sequence_number();
        let first = *self.first.get_or_insert(number);
        // A reset carries no data of the stream.
        if tcp.rst() {
            return false;
        }
        let length = tcp.payload().len() as i64 + i64::from(tcp.syn()) + i64::from(tcp.fin());
        if length == 0 {
            return false;
        }
        // The furthest end, as it would appear on the wire, is the nearest
        // fixed point to a number that wraps.
        let near = first.wrapping_add(self.furthest as u32);
        let start = self.furthest + i64::from(number.wrapping_sub(near).cast_signed());
        let end = start + length;
        self.furthest = self.furthest.max(end);
        self.insert(start, end)
    }

    /// Adds a range; whether it overlaps one that was there.
    fn insert(&mut self, mut start: i64, mut end: i64) -> bool {
        let mut overlaps = false;
        // Ranges that begin at or before our end, from the last one backwards.
        while let Some((&other_start, &other_end)) = self.seen.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            overlaps |= other_end > start && other_start < end;
            start = start.min(other_start);
            end = end.max(other_end);
            self.seen.remove(&other_start);
        }
        self.seen.insert(start, end);
        overlaps
    }
}
