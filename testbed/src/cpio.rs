//! Writing a newc cpio archive: the second initramfs, which carries the agent.

use std::io::{self, Write};

/// One file or directory.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    /// Its path, without a leading slash.
    pub(crate) name: &'a str,
    /// Type and permission bits (`0o100755` a program, `0o040755` a directory).
    pub(crate) mode: u32,
    /// Content; empty for a directory.
    pub(crate) data: &'a [u8],
}

/// Writes the archive with its trailer. Owner root, all times zero, so that
/// the same content gives the same bytes.
pub(crate) fn write(out: &mut impl Write, members: &[Member<'_>]) -> io::Result<()> {
    for (i, member) in members.iter().enumerate() {
        entry(out, i as u32 + 1, member)?;
    }
    entry(
        out,
        0,
        &Member {
            name: "TRAILER!!!",
            mode: 0,
            data: &[],
        },
    )
}

fn entry(out: &mut impl Write, inode: u32, member: &Member<'_>) -> io::Result<()> {
    let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "file too large for cpio");
    let size = u32::try_from(member.data.len()).map_err(too_large)?;
    let name_size = member.name.len() as u32 + 1;
    let links = if member.mode & 0o170_000 == 0o040_000 {
        2
    } else {
        1
    };
    let fields = [
        inode,
        member.mode,
        0,
        0,
        links,
        0,
        size,
        0,
        0,
        0,
        0,
        name_size,
        0,
    ];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    out.write_all(member.name.as_bytes())?;
    out.write_all(b"\0")?;
    // Header and name together, and the data, end on a multiple of four.
    pad(out, 110 + member.name.len() + 1, 4)?;
    out.write_all(member.data)?;
    pad(out, member.data.len(), 4)
}

/// Zeros up to the next multiple of `to`.
pub(crate) fn pad(out: &mut impl Write, written: usize, to: usize) -> io::Result<()> {
    out.write_all(&[0; 512][..written.wrapping_neg() % to])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn archive() -> Vec<u8> {
        let mut out = Vec::new();
        write(
            &mut out,
            &[
                Member {
                    name: "xfi",
                    mode: 0o040_755,
                    data: &[],
                },
                Member {
                    name: "xfi/xfi-agent",
                    mode: 0o100_755,
                    data: b"#!/bin/sh\necho\n",
                },
            ],
        )
        .unwrap();
        out
    }

    #[test]
    fn headers_and_data_are_aligned() {
        let a = archive();
        assert_eq!(a.len() % 4, 0);
        // The first entry: 110 bytes of header, "xfi\0", padded to 116.
        assert_eq!(&a[..6], b"070701");
        assert_eq!(&a[110..114], b"xfi\0");
        assert_eq!(&a[116..122], b"070701");
        assert!(a.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn cpio_itself_reads_it() {
        let child = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("skipped: no cpio program here");
            return;
        };
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("drwxr-xr-x"), "{text}");
        assert!(lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with("xfi/xfi-agent"));
    }

    #[test]
    fn padding_reaches_the_next_multiple() {
        for (written, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            let mut out = Vec::new();
            pad(&mut out, written, 512).unwrap();
            assert_eq!(out.len(), expected);
        }
    }
}
